"""Chooses the negatives of a cross-encoder's anchors: random ones first, then the hardest.

docs/methods/iais.md, equation (15); the search itself is `jax_itm.losses.mining`.
"""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from jax_itm.losses.mining import Negatives, draw_random, mine_hardest
from jax_itm.models.uniter import Embedded
from jax_itm.types import Array, Config, Float, Int, Params, PRNGKeyArray

BY_IMAGE = np.array([True, False])  # the two ways: anchors are images, then captions


@dataclass(frozen=True)
class Miner:
    """The negatives of every anchor of every pool.

    Attributes:
        match: (params, texts, images) -> (k,) the scores of embedded rows, without dropout.
        options: `config.mining`.
        random_steps: steps in which negatives are random instead of mined.
    """

    match: Callable[[Params, Embedded, Embedded], Float[Array, "k"]]
    options: Config
    random_steps: int

    def hardest(
        self, params: Params, texts: Embedded, images: Embedded, image_id: Int[Array, "m"]
    ) -> Negatives:
        """The hardest candidates of each anchor in one pool: of its first images, then of its first captions.

        Candidates are the other side's rows. The ways are a loop, so that the model is compiled once.
        """
        row = lambda tree, k: jax.tree.map(lambda x: x[k][None], tree)
        options = self.options

        def of_way(by_image: Array) -> Negatives:
            def score(pair: tuple[Array, Array]) -> Array:
                anchor, other = pair
                text, image = jnp.where(by_image, other, anchor), jnp.where(by_image, anchor, other)
                return self.match(params, row(texts, text), row(images, image))[0]

            return mine_hardest(score, image_id, options.anchors, options.hardest, options.tile)

        return jax.lax.map(of_way, BY_IMAGE)

    def negatives(
        self,
        params: Params,
        texts: Embedded,
        images: Embedded,
        image_id: Int[Array, "p m"],
        rng: PRNGKeyArray,
        step: Array,
    ) -> Negatives:
        """Of all pools: leaves have the pools on axis 0, and on axis 1 the ways, by image and by caption."""
        options = self.options
        params, texts, images = jax.lax.stop_gradient((params, texts, images))

        def at_random() -> Negatives:
            draw = lambda key, ids: draw_random(key, ids, options.anchors, options.hardest)
            both_ways = jax.vmap(draw, in_axes=(0, None))
            return jax.vmap(both_ways)(jax.random.split(rng, (2, len(image_id))).T, image_id)

        def mined() -> Negatives:
            return jax.vmap(self.hardest, in_axes=(None, 0, 0, 0))(params, texts, images, image_id)

        if not self.random_steps:
            return mined()
        return jax.lax.cond(step < self.random_steps, at_random, mined)
