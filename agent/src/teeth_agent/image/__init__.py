"""Putting an operating system image on a disk, giving it its config drive, and starting it."""
