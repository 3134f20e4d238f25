"""Checkpoints: the only package that imports Orbax."""
