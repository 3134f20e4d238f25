"""Published weights and their configs."""
