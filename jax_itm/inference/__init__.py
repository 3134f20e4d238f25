"""A restored run: encode, score, rank."""
