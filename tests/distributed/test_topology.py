"""The order of the devices of a slice, and what is said of slices that cannot be had."""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest

from jax_itm.distributed.topology import grid_ring, offline_devices, ring_order
from jax_itm.errors import UserError


@pytest.mark.parametrize("shape", [(2, 2), (4, 8), (8, 4), (3, 4), (16, 16), (2, 2, 4), (4, 4, 4), (3, 3, 2)])
def test_neighbours_in_the_ring_are_one_link_apart(shape):
    cells = grid_ring(shape)
    assert sorted(cells) == sorted(np.ndindex(*shape))
    hops = [np.abs(np.subtract(a, b)).sum() for a, b in zip(cells, cells[1:] + cells[:1], strict=True)]
    assert set(hops) == {1}


@pytest.mark.parametrize("shape", [(3, 3), (1, 5), (5, 1), (1, 1), (7,)])
def test_where_there_is_no_ring_there_is_a_path(shape):
    cells = grid_ring(shape)
    assert sorted(cells) == sorted(np.ndindex(*shape))
    hops = [np.abs(np.subtract(a, b)).sum() for a, b in itertools.pairwise(cells)]
    assert set(hops) <= {1}


def test_devices_are_ordered_by_their_coordinates():
    devices = [SimpleNamespace(id=x + 4 * y, coords=(x, y, 0)) for y in range(2) for x in range(4)]
    order = ring_order(devices)
    assert sorted(device.id for device in order) == list(range(8))
    cells = [device.coords for device in order]
    hops = [np.abs(np.subtract(a, b)).sum() for a, b in zip(cells, cells[1:] + cells[:1], strict=True)]
    assert set(hops) == {1}
    assert ring_order(devices[:-1]) == devices[:-1]  # a hole
    plain = [SimpleNamespace(id=0), SimpleNamespace(id=1)]
    assert ring_order(plain) == plain


@pytest.mark.parametrize("name", ["v5e", "v9:2x2", "h100:8:8"])
def test_an_unknown_slice_is_refused(name):
    with pytest.raises(UserError, match=r"--topology .*: must be a generation \(v4, v5e"):
        offline_devices(name)
