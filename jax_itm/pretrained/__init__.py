"""Published weights and their descriptions."""
