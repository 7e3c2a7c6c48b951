"""The agent that boots in the ramdisk."""

__version__ = "0.1.0"
