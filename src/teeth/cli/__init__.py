"""Command line of teeth: the only click."""
