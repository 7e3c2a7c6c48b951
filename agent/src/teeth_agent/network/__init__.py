"""Bring one interface up: pick it, wait for its link, get an address."""
