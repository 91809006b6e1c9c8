"""Rooms drawn by rule, with exact ground truth: the images that need no download."""
