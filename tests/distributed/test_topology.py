"""The order of the devices of a slice, and what is said of slices that cannot be had."""

from types import SimpleNamespace

import numpy as np
import pytest

from jax_itm.distributed.topology import offline_devices, ring_order, snake
from jax_itm.errors import UserError


def links(cells):
    """How many links apart each cell is from the next one, and the last from the first."""
    return [np.abs(np.subtract(a, b)).sum() for a, b in zip(cells, cells[1:] + cells[:1], strict=True)]


@pytest.mark.parametrize(
    "shape", [(2, 2), (4, 8), (3, 4), (16, 16), (2, 2, 4), (4, 4, 4), (3, 3), (1, 5), (7,)]
)
def test_neighbours_in_a_snake_are_one_link_apart(shape):
    cells = snake(shape)
    assert sorted(cells) == sorted(np.ndindex(*shape))
    *there, home = links(cells)
    assert set(there) <= {1}
    if shape[0] % 2 == 0:
        assert home == shape[0] - 1


def test_groups_of_whole_rows_are_rectangles():
    cells = snake((4, 8))
    for group in (2, 4, 8, 16):
        for start in range(0, 32, group):
            part = np.asarray(cells[start : start + group])
            assert np.prod(np.ptp(part, axis=0) + 1) == group


def test_devices_are_ordered_by_their_coordinates():
    devices = [SimpleNamespace(id=x + 4 * y, coords=(x, y, 0)) for y in range(2) for x in range(4)]
    order = ring_order(devices)
    assert sorted(device.id for device in order) == list(range(8))
    assert set(links([device.coords for device in order])) == {1}
    assert ring_order(devices[:-1]) == devices[:-1]  # a hole
    plain = [SimpleNamespace(id=0), SimpleNamespace(id=1)]
    assert ring_order(plain) == plain


@pytest.mark.parametrize("name", ["v5e", "v9:2x2", "h100:8:8"])
def test_an_unknown_slice_is_refused(name):
    with pytest.raises(UserError, match=r"--topology .*: must be a generation \(v4, v5e"):
        offline_devices(name)
