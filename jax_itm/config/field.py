"""What a field of a configuration is, and fields of the common kinds."""

from collections.abc import Mapping
from typing import Any, NamedTuple

FLOAT32_MAX = 3.4e38


class Field(NamedTuple):
    """One field.

    Attributes:
        default: its default; a value of another type is an error.
        help: what it means, for `python -m jax_itm config` and docs/configuration.md.
        choices: the values of a string; empty allows any.
        at_least: the smallest number.
        above: numbers must be larger than this.
        at_most: the largest number.
        below: numbers must be smaller than this.
        duration: whether it is a duration such as "1000 steps" (a tuple: of durations).
        resume: whether it may change when a run resumes: it says where things lie or how they are computed,
            never what is computed.
        per_host: whether it may differ between the hosts of one run.
    """

    default: Any
    help: str
    choices: tuple[str, ...] = ()
    at_least: int | float | None = None
    above: int | float | None = None
    at_most: int | float | None = None
    below: int | float | None = None
    duration: bool = False
    resume: bool = False
    per_host: bool = False


Section = Mapping[str, Any]  # of a Field or a Section each; a recursive alias cannot be checked


def count(default: int, text: str, **options: Any) -> Field:
    """A number of things: 1 or more."""
    return Field(default, text, **{"at_least": 1, "at_most": 2**31 - 1, **options})


def size(default: int, text: str, **options: Any) -> Field:
    """A width, or what divides one: 1 to 65,536, beyond which no array of parameters could be made."""
    return count(default, text, **{"at_most": 65536, **options})


def layers(default: int, text: str) -> Field:
    """A number of layers: 1 to 1,000, as each is traced and compiled."""
    return count(default, text, at_most=1000)


def optional_count(default: int, text: str, **options: Any) -> Field:
    """A number of things, where 0 has a meaning of its own."""
    return Field(default, text, **{"at_least": 0, "at_most": 2**31 - 1, **options})


def rate(default: float, text: str) -> Field:
    """A probability that must leave something: 0 or more, below 1."""
    return Field(default, text, at_least=0, below=1)


def weight(default: float, text: str) -> Field:
    """A finite weight of 0 or more."""
    return Field(default, text, at_least=0, at_most=1e6)


def positive(default: float, text: str) -> Field:
    """A finite number above 0."""
    return Field(default, text, above=0, at_most=FLOAT32_MAX)


def duration(default: str | tuple[str, ...], text: str) -> Field:
    """A duration: "1000 steps", "30 epochs" or "1e6 examples"."""
    return Field(default, text, duration=True)
