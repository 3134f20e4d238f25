"""Ranks and recalls, in numpy."""
