"""Doors kept at the paths that older code and the documentation import from."""
