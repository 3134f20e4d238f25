"""Chooses the negatives of a cross-encoder's anchors: random ones first, then the hardest.

docs/methods/iais.md, equation (15); the search itself is `jax_itm.losses.mining`.
"""

from collections.abc import Callable
from dataclasses import dataclass

import jax

from jax_itm.losses.mining import Negatives, draw_random, mine_hardest
from jax_itm.models.uniter import Embedded
from jax_itm.types import Array, Config, Float, Int, Params, PRNGKeyArray


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
        self, params: Params, texts: Embedded, images: Embedded, image_id: Int[Array, "m"], by_image: bool
    ) -> Negatives:
        """The hardest candidates of each anchor in one pool.

        Anchors are the first images (`by_image`) or captions; candidates are the other side's rows.
        """
        row = lambda tree, k: jax.tree.map(lambda x: x[k][None], tree)

        def score(pair: tuple[Array, Array]) -> Array:
            text, image = pair[::-1] if by_image else pair
            return self.match(params, row(texts, text), row(images, image))[0]

        options = self.options
        return mine_hardest(score, image_id, options.anchors, options.hardest, options.tile)

    def negatives(
        self,
        params: Params,
        texts: Embedded,
        images: Embedded,
        image_id: Int[Array, "p m"],
        rng: PRNGKeyArray,
        step: Array,
    ) -> tuple[Negatives, Negatives]:
        """By image and by caption, of all pools: leaves have the pools on axis 0."""
        options = self.options
        params, texts, images = jax.lax.stop_gradient((params, texts, images))

        def at_random() -> tuple[Negatives, Negatives]:
            draw = lambda key, ids: draw_random(key, ids, options.anchors, options.hardest)
            keys = jax.random.split(rng, (2, len(image_id)))
            return jax.vmap(draw)(keys[0], image_id), jax.vmap(draw)(keys[1], image_id)

        def mined() -> tuple[Negatives, Negatives]:
            way = lambda by_image: jax.vmap(lambda t, v, k: self.hardest(params, t, v, k, by_image))
            return way(True)(texts, images, image_id), way(False)(texts, images, image_id)

        if not self.random_steps:
            return mined()
        return jax.lax.cond(step < self.random_steps, at_random, mined)
