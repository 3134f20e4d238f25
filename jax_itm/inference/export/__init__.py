"""A restored run as files that need no jax_itm."""
