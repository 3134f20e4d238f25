"""An example batch with the shapes of a run, to initialise parameters."""

import jax.numpy as jnp

from jax_itm.config import Facts
from jax_itm.data.image_transforms import image_transform_of
from jax_itm.types import Batch, Config


def example_batch(config: Config, facts: Facts, rows: int = 1) -> Batch:
    """A batch of zeros in the shapes that the config and the facts of a run determine."""
    if config.data.modality == "pixels":
        image = {"pixels": jnp.zeros((rows, *image_transform_of(config, facts).shape, 3), jnp.uint8)}
    else:
        regions = config.data.max_regions
        image = {
            "regions": jnp.zeros((rows, regions, facts.region_dim), jnp.float16),
            "boxes": jnp.zeros((rows, regions, 4), jnp.float32),
            "mask": jnp.ones((rows, regions), bool),
        }
    words = (rows, config.data.max_words)
    text = {"ids": jnp.zeros(words, jnp.int32), "mask": jnp.ones(words, bool)}
    return {"image": image, "text": text, "image_id": jnp.arange(rows)}
