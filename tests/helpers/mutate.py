"""Mutations of files for the fuzz tests: flipped, cut and swapped bytes, hostile pieces, other values."""

import copy
import json
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

from jax_itm.errors import UserError

PIECES = (
    *(b"\0", b"\xff", b"\xed\xa0\x80", b"\\ud800", b"\\u0000", "\u202e\u200b".encode()),
    *(b"../", b"/", b"\n", b"\r", b"\t", b",", b'"', b"#", b"| 1|", b"<!", b"[/EN#1/"),
    *(b"-1", b"1e999", b"NaN", b"null"),
    *(b"[" * 5000, b'{"a":' * 5000, b"9" * 5000, b" " * 3000, b"A" * 70_000),
)
VALUES = (None, True, -1, 0, 10**30, 1e999, float("nan"), "", "../../etc", "\ud800", "\0", [], {}, [[]])
MUTATION = st.tuples(
    st.sampled_from(("flip", "cut", "insert", "delete", "swap", "value")),
    st.integers(0, 2**20),
    st.integers(0, 2**20),
    st.sampled_from(PIECES),
    st.sampled_from(VALUES),
)
MUTATIONS = st.lists(MUTATION, min_size=1, max_size=3)


def mutated(data: bytes, mutations: list[tuple]) -> bytes:
    """The data after all mutations, each drawn from `MUTATION`."""
    for kind, at, other, piece, value in mutations:
        at, other = at % (len(data) + 1), other % (len(data) + 1)
        first, last = sorted((at, other))
        if kind == "value":
            data = with_value(data, other, value)
        elif kind == "cut":
            data = data[:at]
        elif kind == "insert":
            data = data[:at] + piece + data[at:]
        elif kind == "delete":
            data = data[:at] + data[at + 1 + other % 40 :]
        elif kind == "swap":
            data = data[first:last] + data[:first] + data[last:]
        elif at < len(data):
            data = data[:at] + bytes([data[at] ^ 1 << other % 8]) + data[at + 1 :]
    return data


def with_value(data: bytes, number: int, value: Any) -> bytes:
    """JSON with another value at one place; data that are not JSON are returned unchanged."""
    try:
        root = [json.loads(data)]
    except (ValueError, RecursionError):
        return data
    leaves, stack = [], [root]
    while stack:
        node = stack.pop()
        items = list(node.items() if isinstance(node, dict) else enumerate(node))
        leaves += [(node, key) for key, _ in items]
        stack += [child for _, child in items if isinstance(child, dict | list)]
    node, key = leaves[number % len(leaves)]
    node[key] = copy.deepcopy(value)
    return json.dumps(root[0]).encode()


def allow_user_error(call: Callable[[], object]) -> None:
    """Calls a function that may raise a UserError of one line, and nothing else."""
    try:
        call()
    except UserError as error:
        assert str(error).isprintable() and len(str(error)) < 1100
