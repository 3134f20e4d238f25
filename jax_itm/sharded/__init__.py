"""The similarity matrix of a batch, never all in memory: collectives, tiles, schedules, reductions."""
