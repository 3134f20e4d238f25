"""The configuration of a run: fields with defaults, and reading a file."""

from jax_itm.config.fields import CHOICES
from jax_itm.config.load import (
    call,
    check,
    default,
    explain,
    flatten,
    from_dict,
    from_json,
    host_fields,
    options,
    read,
    resumable_fields,
    to_json,
)

__all__ = [
    "CHOICES",
    "call",
    "check",
    "default",
    "explain",
    "flatten",
    "from_dict",
    "from_json",
    "host_fields",
    "options",
    "read",
    "resumable_fields",
    "to_json",
]
