"""Exports a restored run as files that work without jax_itm."""
