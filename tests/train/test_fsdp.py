"""Large arrays split over the devices, and layers computed again: the same numbers in less memory."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jax_itm.checkpoint.checkpoints import Checkpoints
from jax_itm.checkpoint.state import init_state
from jax_itm.distributed.mesh import make_mesh, placed, shard_rows
from jax_itm.methods import build
from jax_itm.models.unet import Unet
from jax_itm.models.uniter import Uniter
from jax_itm.train import step
from tests.helpers.methods import VOCAB, batch, one_sgd_step, small

TOWERS = {
    "image.name": "vit",
    "data.view": "pixels",
    "image.width": 64,
    "image.heads": 4,
    "text.name": "bert",
    "text.width": 64,
}


def made(config, devices=8):
    """A state with AdamW's moments, its update, and a batch on the mesh."""
    mesh, method, data = make_mesh(devices), build(config, VOCAB, 100), batch(config.data.view)
    params, optimizer = jax.jit(method.init)(jax.random.key(0), data), optax.adamw(1e-3)
    state = init_state(params, optimizer, True, mesh, config.fsdp)
    return state, step.train_step(method, optimizer, mesh, 0, 0.9, state), shard_rows(mesh, data), mesh


def held(state) -> int:
    """Bytes of the state on the first device."""
    return sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(state))


def near(a, b):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=2e-5), a, b)


def test_split_states_and_recomputed_layers_change_no_update():
    data = batch("pixels")
    plain = one_sgd_step(small("info_nce", **TOWERS), 1, data)
    split = one_sgd_step(small("info_nce", **TOWERS, fsdp=True, remat=True), 8, data)
    near(plain, split)
    np.testing.assert_allclose(split[1]["loss"], plain[1]["loss"], rtol=1e-5)


@pytest.mark.parametrize(
    "make",
    [
        lambda remat: Unet(layers=1, heads=2, mlp=2, remat=remat),
        lambda remat: Uniter(10, hidden=16, layers=2, heads=2, positions=8, remat=remat),
    ],
    ids=["unet", "uniter"],
)
def test_networks_of_the_methods_may_be_recomputed_too(make):
    text = {"ids": jnp.ones((3, 5), int), "mask": jnp.ones((3, 5), bool)}
    image = {"regions": jnp.ones((3, 4, 7)), "boxes": jnp.ones((3, 4, 4)) / 2, "mask": jnp.ones((3, 4), bool)}
    mask = jnp.ones((3, 5), bool)
    tokens = jax.random.normal(jax.random.key(1), (3, 5, 8))
    given = (tokens, mask, None) if isinstance(make(False), Unet) else ({"text": text, "image": image},)

    def gradient(remat):
        net = make(remat)
        params = net.init(jax.random.key(0), *given)
        total = lambda p: sum(jnp.sum(jnp.sin(x)) for x in jax.tree.leaves(net.apply(p, *given)))
        return jax.jit(jax.value_and_grad(total))(params)

    near(gradient(False), gradient(True))


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
    assert held(split) < 0.35 * held(whole)  # of 8 devices: small arrays are not split
    with jax.set_mesh(mesh):
        split = update(split, data)[0]
    assert held(split) < 0.35 * held(whole)
    for name, state, like in (("split", split, whole), ("whole", whole, split)):
        saving = Checkpoints(str(tmp_path / name), create=True)
        saving.save(state, {}, {}, None)
        saving.close()
        found = Checkpoints(str(tmp_path / name)).state(int(state.step), like)
        same = lambda a, b: np.testing.assert_array_equal(np.asarray(a), np.asarray(b))
        jax.tree.map(same, found, state)
        assert held(found) == held(like)


def test_recomputed_layers_keep_less():
    """What the backward pass is given; XLA on CPUs may undo the rest, so compiled bytes would not tell."""
    kept = {}
    for remat in (False, True):
        config = small("info_nce", **TOWERS, remat=remat)
        with config.unlocked():
            config.image.layers, config.image.patch = 6, 2  # 64 patches
        method, data = build(config, VOCAB, 100), batch("pixels")
        params = jax.eval_shape(method.init, jax.random.key(0), data)
        loss = lambda p, method=method, data=data: method.loss(p, data, jax.random.key(1), jnp.int32(0))[0]
        backward = jax.eval_shape(lambda p, loss=loss: jax.vjp(loss, p)[1], params)
        kept[remat] = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(backward))
    assert kept[True] < 0.5 * kept[False], kept
