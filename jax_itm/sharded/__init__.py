"""The similarity matrix of a global batch, which is never held: collectives, tiles, schedules, reductions."""
