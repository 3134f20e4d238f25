"""Ahead-of-time compilation: what a run needs on TPUs and GPUs that this machine lacks."""
