"""The configuration of a run: its fields, presets, reading, checking and writing."""

from jax_itm.config.facts import Facts, facts_from_dict
from jax_itm.config.load import (
    call,
    check,
    default,
    explain,
    fields,
    flatten,
    from_dict,
    from_json,
    host_fields,
    options,
    read,
    resumable_fields,
    to_json,
)
from jax_itm.config.presets import PRESETS

__all__ = [
    "PRESETS",
    "Facts",
    "call",
    "check",
    "default",
    "explain",
    "facts_from_dict",
    "fields",
    "flatten",
    "from_dict",
    "from_json",
    "host_fields",
    "options",
    "read",
    "resumable_fields",
    "to_json",
]
