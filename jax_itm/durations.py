"""Durations: "1000 steps", "30 epochs" (an epoch is one pass over the captions) or "1e6 examples"."""

import math
import re

from jax_itm.errors import UserError

MOST_STEPS = 2**31 - 1  # a step is an int32 on the devices
NUMBER = r"[0-9]+\.?[0-9]*|\.[0-9]+"


def steps_of(duration: str, batch_size: int, epoch_examples: int, field: str = "config.duration") -> int:
    """Steps in a duration, rounded up; see the module's docstring for the form."""
    match = re.fullmatch(rf"\s*((?:{NUMBER})(?:e[0-9]+)?)\s*(step|epoch|example)s?\s*", str(duration))
    if not match:
        raise UserError(f'{field}={duration!r}: write "1000 steps", "30 epochs" or "1e6 examples"')
    unit = {"step": batch_size, "epoch": epoch_examples, "example": 1}[match[2]]
    steps = float(match[1]) * unit / batch_size
    if steps > MOST_STEPS:
        raise UserError(f"{field}={duration!r}: more than {MOST_STEPS:,} steps")
    return math.ceil(round(steps, 6))


def steps_only(duration: str) -> int:
    """Steps in a duration given in steps (or of length 0), where neither batch size nor epoch is known.

    Raises:
        UserError: it is in epochs or examples.
    """
    steps = steps_of(duration, 1, 1)
    if steps and "step" not in duration:
        raise UserError(f"duration {duration!r}: only steps are known here; write it as '1000 steps'")
    return steps
