"""Ahead-of-time compilation: what a run will need on machines that one does not have."""
