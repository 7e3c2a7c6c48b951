"""From recipes to boot files: drives diskimage-builder, packs the ramdisk, assembles the guest disk."""
