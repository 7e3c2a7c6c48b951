"""Drives that lie, the product's erase on them, and the truth from their media. See docs/lies.md."""
