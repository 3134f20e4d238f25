"""Written into every exported folder as they stand: they use nothing of jax_itm."""
