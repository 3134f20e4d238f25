"""The sharded similarity matrix."""
