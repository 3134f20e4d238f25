"""Times of calls that take turns, for the benchmarks beside this file."""

import statistics
import time

import jax


def medians(calls, turns) -> dict[str, float]:
    """Median seconds of each call by name, after a turn that compiles."""
    seconds = {name: [] for name in calls}
    for turn in range(turns + 1):
        for name, call in calls.items():
            start = time.perf_counter()
            jax.block_until_ready(call())
            if turn:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(each) for name, each in seconds.items()}
