"""Erasing disks, and proving it: a pure plan, a thin execution, six proofs."""
