"""A small config of any method, a batch for it, and one update."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jax_itm.checkpoint.state import init_state
from jax_itm.config import Facts, default
from jax_itm.distributed.mesh import make_mesh, per_device, shard_local_batch
from jax_itm.methods import build
from jax_itm.train import step

VOCAB, B = 30, 16
FACTS = Facts(region_dim=12, vocab=VOCAB)  # of `small` and `batch`


def small(preset="info_nce", **fields):
    config = default(preset)
    with config.unlocked():
        config.dim, config.batch_size = 16, B
        config.data.max_words, config.data.max_regions = 6, 5
        config.image.boxes = True
        config.text.word_dim, config.text.width, config.text.layers = 8, 16, 1
        config.image.width, config.image.layers, config.image.heads = 12, 1, 2
        config.data.image_size, config.image.patch = 16, 8
        if preset == "iais":
            config.uniter.update({"hidden": 16, "layers": 2, "heads": 2, "dropout": 0.0})
            config.mining.update({"pool": 4, "anchors": 4, "hardest": 2, "tile": 8})
        if preset == "cdds":
            config.text.name = "bow"
            config.head.update({"layers": 1, "heads": 2, "mlp": 2, "noises": 2})
        config.update_from_flattened_dict(fields)
    return config


def batch(modality="regions", seed=0):
    rng = np.random.default_rng(seed)
    if modality == "pixels":
        image = {"pixels": rng.integers(0, 256, (B, 16, 16, 3), np.uint8)}
    else:
        corners = np.sort(rng.random((B, 5, 2, 2)), axis=2)
        image = {
            "regions": rng.normal(size=(B, 5, 12)).astype(np.float16),
            "boxes": corners.reshape(B, 5, 4).astype(np.float32),
            "mask": np.arange(5) < rng.integers(2, 6, (B, 1)),
        }
    text = {
        "ids": rng.integers(1, VOCAB, (B, 6)).astype(np.int32),
        "mask": np.arange(6) < rng.integers(2, 7, (B, 1)),
    }
    arrays = {"image": image, "text": text, "image_id": np.repeat(np.arange(B // 2), 2)}
    return jax.tree.map(jnp.asarray, arrays)


def awake(params):
    """With a little noise on each: what starts at zero passes no gradient on to what is before it."""
    leaves, tree = jax.tree.flatten(params)
    rng = np.random.default_rng(0)
    return tree.unflatten([x + jnp.asarray(0.02 * rng.normal(size=x.shape), x.dtype) for x in leaves])


def one_sgd_step(config, devices, data):
    mesh, method = make_mesh(devices), build(config, FACTS, 100)
    with jax.set_mesh(mesh):
        params = awake(jax.jit(method.init)(jax.random.key(0), data))
        optimizer = optax.sgd(0.1)  # Adam would hide a wrong scale
        state = init_state(params, optimizer, False, mesh, config.fsdp)
        update = step.train_step(method, optimizer, mesh, 0, 0.0, state)
        state, terms, status = update(state, shard_local_batch(mesh, data), per_device(mesh, 0))
    assert status.first_nonfinite_row == -1
    return jax.device_get((state.params, terms))


# Encoders that are quick to compile: of them a loss sees embeddings and tokens alone.
QUICK = {"text.name": "bow", "text.pooling": "mean", "image.pooling": "mean"}
