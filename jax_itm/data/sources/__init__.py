"""Readers: one file a raw layout."""
