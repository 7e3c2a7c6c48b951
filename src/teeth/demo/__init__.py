"""The whole path on one computer: from a dirty machine to a landed one, with the proof."""
