"""Evaluates a restored run on a split."""
