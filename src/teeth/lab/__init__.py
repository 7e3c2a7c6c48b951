"""QEMU machines, virtual disks and the probe for an accelerator that truly works."""
