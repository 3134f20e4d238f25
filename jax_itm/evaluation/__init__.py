"""From a restored run and a split to numbers."""
