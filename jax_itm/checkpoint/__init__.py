"""Checkpoints: the only package that imports Orbax."""

# Before Orbax: it asks etils how buckets are read, and storage.py decides that.
from jax_itm import storage as storage
