"""The endpoint's images: looked at, compressed, digested, signed and kept by their content."""
