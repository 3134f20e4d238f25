"""A GRU over packed sequences, for a single CPU: only the true positions cost time.

Rows are sorted by length, and the rows that are still running at step t stand in consecutive slots of packed
arrays, as in PyTorch's `pack_padded_sequence`. Shapes are static under `jit`, so that the number of running
rows is rounded up to one of a few sizes, each with a loop of its own; a loop's number of steps is not static.
The weights' gradients are a few large products after the last step instead of a small one at every step,
each of which would add to the whole gradient.

Accelerators run `recurrent.run_cells`, where every row takes every step: they have room for that, and the
order by length would move rows between devices.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jax_itm.types import Array, Bool, Float, Int

EIGHTHS = (8, 6, 4, 3, 2, 1)  # of the rows: the sizes that the number of running rows is rounded up to
CHUNK = 512  # slots of a product for the weights' gradients


class Weights(NamedTuple):
    """Of one direction; the gates are reset, update and candidate."""

    kernel: Float[Array, "f 3*h"]
    bias: Float[Array, "3*h"]
    recurrent: Float[Array, "h 3*h"]
    recurrent_bias: Float[Array, "3*h"]


class Packing(NamedTuple):
    """Where each row stands at each step. Step 0 is the state before the first token, which is zero.

    Attributes:
        mask: the true positions.
        running: the number of rows that take a step, one entry for each of the n steps.
        starts: the first slot of steps 0 to n.
        slot: of the state after each position.
        source: the position in (b n) whose token a slot has; any, if it has none.
        previous: the slot of the step before, of the same row.
    """

    mask: Bool[Array, "b n"]
    running: Int[Array, "n"]
    starts: Int[Array, "n+1"]
    slot: Int[Array, "b n"]
    source: Int[Array, "slots"]
    previous: Int[Array, "slots"]


def stage_sizes(rows: int) -> list[int]:
    """The numbers of rows that have a loop of their own, descending."""
    return sorted({-(-rows * k // 8) for k in EIGHTHS}, reverse=True)


def pack(mask: Bool[Array, "b n"], reverse: bool) -> Packing:
    """The order in which a GRU traverses the true positions, from the last one if `reverse`."""
    rows, steps = mask.shape
    lengths = jnp.sum(mask, axis=1)
    by_length = jnp.argsort(-lengths)
    running = jnp.sum(lengths > jnp.arange(steps)[:, None], axis=1)
    sizes = jnp.asarray(stage_sizes(rows))
    rounded = jnp.min(jnp.where(sizes >= running[:, None], sizes, rows), axis=1)
    counts = jnp.where(running > 0, rounded, 0)
    starts = jnp.concatenate([jnp.zeros(1, int), rows + jnp.cumsum(jnp.append(0, counts[:-1]))])
    passed = lax.cumsum(mask.astype(int), axis=1, reverse=reverse)  # true positions up to each
    slot = starts[passed] + jnp.argsort(by_length)[:, None]

    slots = jnp.arange(-(-rows * (steps + 1) // CHUNK) * CHUNK)
    step = jnp.maximum(jnp.sum(starts <= slots[:, None], axis=1) - 1, 1)
    row = jnp.clip(slots - starts[step], 0, rows - 1)
    ordered = jnp.argsort(~(jnp.flip(mask, 1) if reverse else mask), axis=1, stable=True)
    tokens = steps - 1 - ordered if reverse else ordered
    source = by_length[row] * steps + tokens[by_length[row], step - 1]
    return Packing(mask, running, starts, slot, source, starts[step - 1] + row)


def _stages(packing: Packing, rows: int) -> list[tuple[int, Array, Array]]:
    """(rows, first step, step after the last) of each loop."""
    until = lambda size: jnp.sum(packing.running > size)
    return [(size, until(size), until(smaller)) for size, smaller in pairwise([*stage_sizes(rows), 0])]


def _rows(x: Array, start: Array, size: int) -> Array:
    return lax.dynamic_slice_in_dim(x, start, size)


def _with_rows(x: Array, rows: Array, start: Array) -> Array:
    return lax.dynamic_update_slice_in_dim(x, rows, start, 0)


@jax.custom_vjp
def packed_gru(x: Float[Array, "b n f"], weights: Weights, packing: Packing) -> Float[Array, "b n h"]:
    """The state after each position; equal to `recurrent.run_cells`."""
    return _forward(x, weights, packing)[0]


def _forward(x: Array, weights: Weights, packing: Packing) -> tuple[Array, tuple[Any, ...]]:
    tokens = x.reshape(-1, x.shape[2])[packing.source]
    size = len(weights.recurrent)

    def step(rows: int) -> Callable[[Array, tuple[Array, Array]], tuple[Array, Array]]:
        def body(t: Array, arrays: tuple[Array, Array]) -> tuple[Array, Array]:
            gates, states = arrays
            start = packing.starts[t + 1]
            state = _rows(states, packing.starts[t], rows)
            own = state @ weights.recurrent + weights.recurrent_bias
            gate = _rows(tokens, start, rows) @ weights.kernel + weights.bias
            reset, update = jnp.split(jax.nn.sigmoid((gate + own)[:, : 2 * size]), 2, axis=1)
            candidate = jnp.tanh(gate[:, 2 * size :] + reset * own[:, 2 * size :])
            saved = jnp.concatenate([own[:, 2 * size :], reset, update, candidate], axis=1)
            new = candidate + update * (state - candidate)
            return _with_rows(gates, saved, start), _with_rows(states, new, start)

        return body

    slots = len(packing.source)
    arrays = jnp.zeros((slots, 4 * size), x.dtype), jnp.zeros((slots, size), x.dtype)
    for rows, first, last in _stages(packing, len(x)):
        arrays = lax.fori_loop(first, last, step(rows), arrays)
    gates, states = arrays
    return states[packing.slot], (tokens, weights, packing, gates, states)


def _backward(saved: tuple[Any, ...], cotangent: Array) -> tuple[Array, Weights, None]:
    tokens, weights, packing, gates, states = saved
    size = states.shape[1]
    # In the order of `gates`: candidate, reset, update.
    recurrent = jnp.roll(weights.recurrent, size, axis=1)

    def step(rows: int, last: Array) -> Callable[[Array, tuple[Array, Array]], tuple[Array, Array]]:
        def body(k: Array, arrays: tuple[Array, Array]) -> tuple[Array, Array]:
            d_gates, d_states = arrays
            t = last - 1 - k
            start, before = packing.starts[t + 1], packing.starts[t]
            state = _rows(states, before, rows)
            own, reset, update, candidate = jnp.split(_rows(gates, start, rows), 4, axis=1)
            runs = jnp.arange(rows)[:, None] < packing.running[t]
            d_state = jnp.where(runs, _rows(d_states, start, rows), 0)
            d_candidate = d_state * (1 - update) * (1 - candidate * candidate)
            d_update = d_state * (state - candidate) * update * (1 - update)
            d_reset = d_candidate * own * reset * (1 - reset)
            of_own = jnp.concatenate([d_candidate * reset, d_reset, d_update], axis=1)
            d_before = _rows(d_states, before, rows) + d_state * update + of_own @ recurrent.T
            d_gates = _with_rows(d_gates, jnp.concatenate([of_own, d_candidate], axis=1), start)
            return d_gates, _with_rows(d_states, d_before, before)

        return body

    flat = cotangent.reshape(-1, size)
    arrays = jnp.zeros_like(gates), jnp.zeros_like(states).at[packing.slot.ravel()].add(flat)
    for rows, first, last in reversed(_stages(packing, len(cotangent))):
        arrays = lax.fori_loop(0, last - first, step(rows, last), arrays)
    d_gates, _ = arrays

    def chunk(k: Array, sums: tuple[Array, Weights]) -> tuple[Array, Weights]:
        d_tokens, total = sums
        start = k * CHUNK
        here = _rows(d_gates, start, CHUNK)
        of_own, of_input = here[:, : 3 * size], here[:, size:]
        before = states[_rows(packing.previous, start, CHUNK)]
        products = Weights(
            _rows(tokens, start, CHUNK).T @ of_input,
            jnp.sum(of_input, axis=0),
            before.T @ of_own,
            jnp.sum(of_own, axis=0),
        )
        total = jax.tree.map(jnp.add, total, products)
        return _with_rows(d_tokens, of_input @ weights.kernel.T, start), total

    used = packing.starts[-1] + packing.running[-1]
    sums = jnp.zeros_like(tokens), jax.tree.map(jnp.zeros_like, weights)
    d_tokens, total = lax.fori_loop(0, -(-used // CHUNK), chunk, sums)
    total = total._replace(
        recurrent=jnp.roll(total.recurrent, -size, axis=1),
        recurrent_bias=jnp.roll(total.recurrent_bias, -size),
    )
    return jnp.where(packing.mask[..., None], d_tokens[packing.slot], 0), total, None


packed_gru.defvjp(_forward, _backward)
