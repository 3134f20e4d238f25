"""Large arrays split over the devices, and layers computed again: the same numbers in less memory."""

import jax
import numpy as np
import optax
import pytest
from test_methods import VOCAB, B, batch, one_sgd_step, small

from jax_itm import step
from jax_itm.checkpoint import Checkpoints
from jax_itm.methods import build
from jax_itm.parallel import make_mesh, placed, shard_rows

TOWERS = {
    "image.name": "vit",
    "data.view": "pixels",
    "image.width": 64,
    "image.heads": 4,
    "text.name": "bert",
    "text.width": 64,
}
VARIANTS = [
    ("info_nce", TOWERS),
    ("dias", {"image.hidden": 512, "dim": 64}),
    ("cdds", {"dim": 64}),
    ("iais", {"method.hidden": 64, "batch_size": 16}),
]


def made(config, devices=8):
    """A state with AdamW's moments, its update, and a batch on the mesh."""
    mesh, method, data = make_mesh(devices), build(config, VOCAB, 100), batch(config.data.view)
    params, optimizer = jax.jit(method.init)(jax.random.key(0), data), optax.adamw(1e-3)
    state = step.init_state(params, optimizer, True, mesh, config.fsdp)
    return state, step.train_step(method, optimizer, mesh, 0, 0.9, state), shard_rows(mesh, data), mesh


def held(state) -> int:
    """Bytes of the state on the first device."""
    return sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(state))


@pytest.mark.parametrize(("name", "fields"), VARIANTS, ids=lambda x: str(x)[:10])
def test_split_states_and_recomputed_layers_change_no_update(name, fields):
    data = batch(fields.get("data.view", "regions"))
    plain = one_sgd_step(small(name, **fields), 1, data)
    split = one_sgd_step(small(name, **fields, fsdp=True, remat=True), 8, data)
    again = one_sgd_step(small(name, **fields, remat=True), 1, data)
    near = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=2e-5)
    jax.tree.map(near, plain, split)
    jax.tree.map(near, plain, again)
    np.testing.assert_allclose(split[1]["loss"], plain[1]["loss"], rtol=1e-5)
    np.testing.assert_allclose(again[1]["loss"], plain[1]["loss"], rtol=1e-6)


def test_which_arrays_are_split():
    shapes = {"wide": (48, 320), "long": (8200, 3), "odd": (101, 99), "small": (8, 8), "scalar": ()}
    mesh = make_mesh(8)
    tree = {name: jax.ShapeDtypeStruct(shape, np.float32) for name, shape in shapes.items()}
    found = {name: tuple(sharding.spec) for name, sharding in placed(mesh, tree, True).items()}
    assert found == {"wide": (None, "data"), "long": ("data",), "odd": (), "small": (), "scalar": ()}
    assert all(sharding.is_fully_replicated for sharding in placed(mesh, tree, False).values())


def test_a_split_state_stays_split_takes_less_and_is_restored_either_way(tmp_path):
    config = small("info_nce", **TOWERS)
    split, update, data, mesh = made(small("info_nce", **TOWERS, fsdp=True))
    whole = made(config)[0]
    assert held(split) < 0.3 * held(whole)  # small arrays are not split
    with jax.set_mesh(mesh):
        split = update(split, data)[0]
    assert held(split) < 0.3 * held(whole)
    for name, state, like in (("split", split, whole), ("whole", whole, split)):
        saving = Checkpoints(str(tmp_path / name), create=True)
        saving.save(state, {}, {}, None)
        saving.close()
        found = Checkpoints(str(tmp_path / name)).state(int(state.step), like)
        same = lambda a, b: np.testing.assert_array_equal(np.asarray(a), np.asarray(b))
        jax.tree.map(same, found, state)
        assert held(found) == held(like)


@pytest.mark.parametrize("fsdp", [False, True])
def test_recomputed_layers_keep_less(fsdp):
    """Read from the compiled update: what is kept for the backward pass is most of its memory."""
    needed = {}
    for remat in (False, True):
        config = small(**TOWERS, fsdp=fsdp, remat=remat)
        with config.unlocked():
            config.image.layers, config.image.patch = 6, 2  # 64 patches
        state, update, data, mesh = made(config, 4)
        with jax.set_mesh(mesh):
            needed[remat] = update.lower(state, data).compile().memory_analysis().temp_size_in_bytes
    assert needed[True] < 0.8 * needed[False], (B, needed)
