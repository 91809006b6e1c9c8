"""Frozen teachers and the files they come from."""
