"""Sharded states and recomputed layers: the same numbers in less memory."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jax_itm.checkpoint.checkpoints import Checkpoints, Description
from jax_itm.checkpoint.state import init_state
from jax_itm.data.tokenizer import Tokenizer
from jax_itm.distributed.mesh import make_mesh, per_device, shard_local_batch, state_sharding
from jax_itm.methods import build
from jax_itm.models.unet import Unet
from jax_itm.models.uniter import Uniter
from jax_itm.train import step
from tests.helpers.methods import FACTS, batch, one_sgd_step, small

TRANSFORMERS = {
    "image.name": "vit",
    "data.modality": "pixels",
    "image.width": 64,
    "image.heads": 4,
    "text.name": "bert",
    "text.width": 64,
}


def training(config, devices=8):
    """A state with AdamW's moments, its update, and a batch on the mesh."""
    mesh = make_mesh(devices)
    method = build(config, FACTS, 100)
    data = batch(config.data.modality)
    params = jax.jit(method.init)(jax.random.key(0), data)
    optimizer = optax.adamw(1e-3)
    state = init_state(params, optimizer, True, mesh, config.fsdp)
    return state, step.train_step(method, optimizer, mesh, 0, 0.9, state), shard_local_batch(mesh, data), mesh


def bytes_per_device(state) -> int:
    """Bytes of the state on the first device."""
    return sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(state))


def assert_close(a, b):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=2e-5), a, b)


def test_sharded_states_and_recomputed_layers_change_no_update():
    data = batch("pixels")
    plain = one_sgd_step(small("info_nce", **TRANSFORMERS), 1, data)
    sharded = one_sgd_step(small("info_nce", **TRANSFORMERS, fsdp=True, remat=True), 8, data)
    assert_close(plain, sharded)
    np.testing.assert_allclose(sharded[1]["loss"], plain[1]["loss"], rtol=1e-5)


@pytest.mark.parametrize(
    "make",
    [
        lambda remat: Unet(layers=1, heads=2, mlp=2, remat=remat),
        lambda remat: Uniter(10, hidden=16, layers=2, heads=2, positions=8, remat=remat),
    ],
    ids=["unet", "uniter"],
)
def test_networks_of_the_methods_may_be_recomputed_as_well(make):
    text = {"ids": jnp.ones((3, 5), int), "mask": jnp.ones((3, 5), bool)}
    image = {"regions": jnp.ones((3, 4, 7)), "boxes": jnp.ones((3, 4, 4)) / 2, "mask": jnp.ones((3, 4), bool)}
    mask = jnp.ones((3, 5), bool)
    tokens = jax.random.normal(jax.random.key(1), (3, 5, 8))
    inputs = (tokens, mask, None) if isinstance(make(False), Unet) else ({"text": text, "image": image},)

    def gradient(remat):
        net = make(remat)
        params = net.init(jax.random.key(0), *inputs)
        total = lambda p: sum(jnp.sum(jnp.sin(x)) for x in jax.tree.leaves(net.apply(p, *inputs)))
        return jax.jit(jax.value_and_grad(total))(params)

    assert_close(gradient(False), gradient(True))


def test_which_arrays_are_sharded():
    shapes = {"wide": (48, 320), "long": (8200, 3), "odd": (101, 99), "small": (8, 8), "scalar": ()}
    mesh = make_mesh(8)
    tree = {name: jax.ShapeDtypeStruct(shape, np.float32) for name, shape in shapes.items()}
    specs = {name: tuple(sharding.spec) for name, sharding in state_sharding(mesh, tree, True).items()}
    assert specs == {"wide": (None, "data"), "long": ("data",), "odd": (), "small": (), "scalar": ()}
    assert all(sharding.is_fully_replicated for sharding in state_sharding(mesh, tree, False).values())


def test_a_sharded_state_stays_so_takes_less_and_is_restored_either_way(tmp_path):
    config = small("info_nce", **TRANSFORMERS)
    sharded, update, data, mesh = training(small("info_nce", **TRANSFORMERS, fsdp=True))
    replicated = training(config)[0]
    # Of 8 devices: small arrays are not split.
    assert bytes_per_device(sharded) < 0.35 * bytes_per_device(replicated)
    with jax.set_mesh(mesh):
        sharded = update(sharded, data, per_device(mesh, 0))[0]
    assert bytes_per_device(sharded) < 0.35 * bytes_per_device(replicated)
    for name, state, like in (("sharded", sharded, replicated), ("replicated", replicated, sharded)):
        checkpoints = Checkpoints(str(tmp_path / name), create=True)
        checkpoints.save(state, Description(config, FACTS, Tokenizer.fit(["a dog"])), None)
        checkpoints.close()
        restored = Checkpoints(str(tmp_path / name)).restore_state(int(state.step), like)
        same = lambda a, b: np.testing.assert_array_equal(np.asarray(a), np.asarray(b))
        jax.tree.map(same, restored, state)
        assert bytes_per_device(restored) == bytes_per_device(like)


def test_recomputed_layers_keep_less():
    """What the backward pass is given; XLA on CPUs may undo the rest, so compiled bytes would not tell."""
    kept = {}
    for remat in (False, True):
        config = small("info_nce", **TRANSFORMERS, remat=remat)
        with config.unlocked():
            config.image.layers, config.image.patch = 6, 2  # 64 patches
        method, data = build(config, FACTS, 100), batch("pixels")
        params = jax.eval_shape(method.init, jax.random.key(0), data)
        loss = lambda p, method=method, data=data: method.loss(p, data, jax.random.key(1), jnp.int32(0))[0]
        backward = jax.eval_shape(lambda p, loss=loss: jax.vjp(loss, p)[1], params)
        kept[remat] = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(backward))
    assert kept[True] < 0.5 * kept[False], kept
