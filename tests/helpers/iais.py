"""A small cross-encoder's config, and a batch for it."""

import jax
import jax.numpy as jnp
import numpy as np

from jax_itm.config import Facts, default

POOL, ROWS, WORDS, REGIONS, DIM, VOCABULARY = 4, 32, 7, 3, 6, 20
FACTS = Facts(region_dim=DIM, vocab=VOCABULARY)


def settings(**fields):
    """The config; `fields` by their dotted names with "__" for the dot."""
    config = default("iais")
    config.uniter.update({"hidden": 16, "layers": 2, "heads": 2, "dropout": 0.0})
    config.mining.update({"pool": POOL, "anchors": 3, "hardest": 2, "tile": 5})
    config.update_from_flattened_dict({name.replace("__", "."): value for name, value in fields.items()})
    config.batch_size, config.data.max_words, config.data.max_regions = ROWS, WORDS, REGIONS
    return config


def batch(rows=ROWS, seed=0):
    rng = np.random.default_rng(seed)
    long, many = rng.integers(4, WORDS + 1, rows), rng.integers(2, REGIONS + 1, rows)
    corner = rng.uniform(0, 0.5, (rows, REGIONS, 2))
    ids = np.arange(rows)
    ids[2] = 0  # two captions of one image
    regions = rng.normal(size=(rows, REGIONS, DIM)).astype(np.float16)
    regions[2] = regions[0]
    arrays = {
        "image": {
            "regions": regions,
            "boxes": np.concatenate([corner, corner + 0.4], axis=2).astype(np.float32),
            "mask": np.arange(REGIONS)[None] < many[:, None],
        },
        "text": {
            "ids": rng.integers(4, VOCABULARY, (rows, WORDS)).astype(np.int32),
            "mask": np.arange(WORDS)[None] < long[:, None],
        },
        "image_id": ids.astype(np.int32),
    }
    return jax.tree.map(jnp.asarray, arrays)
