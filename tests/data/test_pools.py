"""Pools of near pairs: which captions a batch has is a pure function of (seed, step)."""

import numpy as np
import pytest

from jax_itm.data.pools import Neighbours, Pools, pool_captions, read_neighbours, write_neighbours
from jax_itm.errors import UserError

CAPTION_IMAGE = np.repeat(np.arange(30), [1, 2, 3] * 10)
RNG = np.random.default_rng(0)
NEAR = Neighbours(RNG.integers(0, 60, (30, 4)), RNG.integers(0, 30, (60, 4)))
ANCHORS = np.array([0, 7, 59, 30])


def captions(step: int, seed: int = 3, near: float = 1.0, ramp: int = 0, anchors=ANCHORS) -> np.ndarray:
    pools = Pools(5, NEAR, near, start=10, ramp=ramp)
    return pool_captions(anchors, CAPTION_IMAGE, pools, seed, step).reshape(-1, 5)


def is_near(anchor: int, other: int) -> bool:
    by_image = other in NEAR.captions[CAPTION_IMAGE[anchor]]
    return bool(by_image or CAPTION_IMAGE[other] in NEAR.images[anchor])


def test_a_pool_is_an_anchor_and_its_neighbours():
    both = np.zeros(2)
    for step in range(10, 60):
        for pool in captions(step):
            assert all(is_near(pool[0], other) for other in pool[1:])
            both += np.mean(np.isin(pool[1:], NEAR.captions[CAPTION_IMAGE[pool[0]]])), 1
        np.testing.assert_array_equal(captions(step)[:, 0], ANCHORS)
    assert 0.4 < both[0] / both[1] < 0.75  # by image half of the time, or by both
    seen = np.unique([captions(step)[1, 1:] for step in range(10, 400)])
    wanted = [k for k in range(60) if is_near(7, k)]
    np.testing.assert_array_equal(seen, wanted)  # every caption of a near image


def test_seed_and_step_decide():
    np.testing.assert_array_equal(captions(20), captions(20))
    assert np.any(captions(20) != captions(21)) and np.any(captions(20) != captions(20, seed=4))


def test_the_near_fraction_rises():
    def share(step: int) -> float:
        anchors = RNG.integers(0, 60, 500)
        pools = captions(step, near=0.5, ramp=100, anchors=anchors)
        return float(np.mean([[is_near(pool[0], other) for other in pool[1:]] for pool in pools]))

    by_chance = share(0)
    assert Pools(5, NEAR, 0.5, 10, 100).share(60) == 0.25
    assert abs(share(60) - (by_chance + 0.25 * (1 - by_chance))) < 0.04
    assert abs(share(500) - (by_chance + 0.5 * (1 - by_chance))) < 0.04


def test_the_file(tmp_path):
    path = tmp_path / "near.npz"
    write_neighbours(NEAR, "precomp/train", path)
    for one, other in zip(read_neighbours(str(path), "precomp/train"), NEAR, strict=True):
        np.testing.assert_array_equal(one, other)
    with pytest.raises(UserError, match="is of precomp/train, not of precomp/dev"):
        read_neighbours(str(path), "precomp/dev")
    with pytest.raises(UserError, match="no such file; python -m jax_itm neighbours --workdir RUN --out"):
        read_neighbours(str(tmp_path / "none.npz"), "")
    path.write_bytes(b"PK")
    with pytest.raises(UserError, match="damaged"):
        read_neighbours(str(path), "")
