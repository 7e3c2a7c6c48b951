"""Certificates of erasure: what an endpoint says of a drive, signed and chained, for anyone to verify."""
