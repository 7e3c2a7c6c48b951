"""teeth, the host side: build the ramdisk, serve it, talk to its agents, and the lab."""

__version__ = "0.1.0"
