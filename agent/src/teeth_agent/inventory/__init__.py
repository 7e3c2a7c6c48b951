"""Typed facts about the machine."""
