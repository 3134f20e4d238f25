"""The Matcher: a trained run, restored on whatever devices there are, without TensorFlow."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jax_itm import config as config_lib
from jax_itm.checkpoint.checkpoints import Checkpoints
from jax_itm.data.image_transforms import MAX_PIXELS, image_transform_of
from jax_itm.data.images import collate_images, read_picture
from jax_itm.data.sources.precomp import as_boxes, to_float16
from jax_itm.data.sources.raw import plain
from jax_itm.data.token_cache import Tokens, padded
from jax_itm.data.tokenizer import Tokenizer
from jax_itm.distributed.mesh import make_mesh, replicated, shard_global_batch
from jax_itm.distributed.watchdog import heartbeat
from jax_itm.errors import UserError
from jax_itm.inference.steps import embed_steps, pair_step, score_step
from jax_itm.methods import Method, build, example_batch
from jax_itm.types import Params, PyTree


class Matcher:
    """A method with its parameters and tokenizer: encodes, scores and ranks.

    Encodings are what the method's `score` takes: one L2-normalised row an item for dual encoders.
    Every caption or image is encoded alone: its place in a batch changes nothing.
    """

    def __init__(
        self,
        config,
        method: Method,
        tokenizer: Tokenizer,
        mesh: Mesh,
        params: Params = None,
        step: int = 0,
    ):
        self.config, self.method, self.tokenizer, self.mesh = config, method, tokenizer, mesh
        self.params, self.step = params, step  # the trainer sets them anew before each evaluation
        self._encode_image, self._encode_text = embed_steps(method, mesh)
        self._score = score_step(method.score, mesh)
        self._first = score_step(getattr(method, "first_score", method.score), mesh)
        self._score_pairs = pair_step(method, mesh)
        self.batch_rows = -(-config.evaluate.batch_size // mesh.size) * mesh.size

    def encode_images(
        self, images: Sequence[Any] | np.ndarray, boxes: Sequence[np.ndarray] | None = None
    ) -> PyTree:
        """Encodes images in the form that the run was trained on.

        Args:
            images: for a run on pixels, paths or uint8 arrays (h, v, 3); for a run on regions,
                feature arrays (r, f), or one array (i, r, f).
            boxes: for a run on regions, an array (r, 4) an image, x1 y1 x2 y2 in [0, 1]; zeros
                where absent, which a run with `config.image.boxes` refuses.

        Raises:
            UserError: an unreadable file, another form, another size of features, or one that is not finite.
        """
        return self.encode_records([self._record(k, images, boxes) for k in range(len(images))])

    def _record(self, k: int, images: Sequence[Any] | np.ndarray, boxes) -> dict[str, np.ndarray]:
        image, data = images[k], self.config.data
        if data.view == "pixels":
            limit = data.get("max_pixels", MAX_PIXELS)  # runs of old have no such field
            named = isinstance(image, str | Path)
            pixels = read_picture(image, max_pixels=limit) if named else np.asarray(image)
            if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8:
                raise UserError(
                    f"image {k}: this run reads pixels, uint8 (h, v, 3), not {pixels.dtype} {pixels.shape}"
                )
            return {"pixels": pixels}
        if isinstance(image, str | Path):
            raise UserError(f"{image}: this run reads region features, not picture files")
        regions = np.asarray(image)
        if regions.ndim != 2 or regions.shape[1] != data.region_dim:
            raise UserError(f"image {k}: this run reads regions (r, {data.region_dim}), not {regions.shape}")
        if not len(regions) or not jnp.issubdtype(regions.dtype, jnp.number):
            raise UserError(f"image {k}: {len(regions)} regions of {regions.dtype}, must be some, of numbers")
        if boxes is None and self.config.image.boxes:
            raise UserError("boxes: this run reads the regions' boxes too")
        box = np.zeros((len(regions), 4), np.float32)
        if boxes is not None:
            box = as_boxes(boxes[k], f"boxes of image {k}")
        if len(box) != len(regions):
            raise UserError(f"boxes of image {k}: {len(box)}, but it has {len(regions)} regions")
        return {"regions": to_float16(regions, f"image {k}"), "boxes": box}

    def encode_records(self, records: Iterable[Mapping[str, Any]]) -> PyTree:
        """Encodes image records (`regions` and `boxes`, or `pixels`) in padded batches."""
        data, transform = self.config.data, image_transform_of(self.config)

        def batches() -> Iterator[tuple[dict[str, np.ndarray], int]]:
            rows = []
            for record in records:
                rows.append(record)
                if len(rows) == self.batch_rows:
                    yield collate_images(rows, data.max_regions, transform), len(rows)
                    rows = []
            if rows:
                padded = rows + [rows[-1]] * (self.batch_rows - len(rows))
                yield collate_images(padded, data.max_regions, transform), len(rows)

        return self._run(self._encode_image, batches())

    def encode_texts(self, texts: Sequence[str], tokens: Tokens | None = None) -> PyTree:
        """Encodes captions; `tokens` are those of the frozen tower for each, where they were made before.

        Raises:
            UserError: a caption is no text (`readers.plain`).
        """

        texts = [plain(text, f"caption {k}") for k, text in enumerate(texts)]

        def batches() -> Iterator[tuple[dict[str, np.ndarray], int]]:
            for start in range(0, len(texts), self.batch_rows):
                rows = [min(start + k, len(texts) - 1) for k in range(self.batch_rows)]
                words = self.config.data.max_words
                ids, mask = self.tokenizer.encode([texts[k] for k in rows], words)
                made = {"features": padded([tokens[k] for k in rows], words)} if tokens else {}
                yield {"ids": ids, "mask": mask, **made}, min(len(texts) - start, self.batch_rows)

        return self._run(self._encode_text, batches())

    def _run(self, encode, batches: Iterable[tuple[dict[str, np.ndarray], int]]) -> PyTree:
        parts = []
        for batch, real in batches:
            heartbeat()
            encoded = encode(self.params, shard_global_batch(self.mesh, batch))
            parts.append(jax.tree.map(lambda x, n=real: x[:n], encoded))
        if not parts:
            raise UserError("nothing to encode: the list is empty")
        return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts)

    def score(self, images: PyTree, texts: PyTree) -> np.ndarray:
        """The scores (i, t) of encoded images with encoded texts: higher is better."""
        return np.asarray(self.score_block(images, texts))

    def score_block(self, images: PyTree, texts: PyTree, first: bool = False) -> jax.Array:
        """The same, left on the devices, which share the images; `first`: the method's fast score."""
        heartbeat()
        rows = jax.tree.leaves(images)[0].shape[0]
        missing = -rows % self.mesh.size
        pad = lambda x: jnp.pad(x, [(0, missing)] + [(0, 0)] * (x.ndim - 1))
        padded = jax.tree.map(pad, images) if missing else images
        return (self._first if first else self._score)(self.params, padded, texts)[:rows]

    def score_pairs(self, images: PyTree, texts: PyTree, image: np.ndarray, text: np.ndarray) -> np.ndarray:
        """The scores (k,) of pairs: encoded images[image[k]] with texts[text[k]], where the method can."""
        if self._score_pairs is None:
            raise UserError(f"{self.config.method.name} is no cross-encoder: it scores no single pairs")
        found = []
        for start in range(0, len(image), self.batch_rows):
            heartbeat()
            part = slice(start, start + self.batch_rows)
            take = lambda tree, at: jax.tree.map(lambda x: x[np.resize(at, self.batch_rows)], tree)
            chosen = take(images, image[part]), take(texts, text[part])
            found.append(np.asarray(self._score_pairs(self.params, *chosen))[: len(image[part])])
        return np.concatenate(found)

    def rank(
        self, texts: PyTree, images: PyTree, k: int = 10, first: int = 0
    ) -> tuple[np.ndarray, np.ndarray]:
        """For every encoded text, the `k` best images: indices and scores, each (t, k), best first.

        Equal scores keep the gallery's order. With `first`, only so many images a text are scored in full:
        the best by the method's fast score (CDDS's `pooled`), for a large gallery.
        """
        if first and not hasattr(self.method, "first_score"):
            raise UserError(
                f"--first {first}: {self.config.method.name} has no faster score for a first pass"
            )
        if first < 0:
            raise UserError(f"--first {first}: must be positive")
        if not first:
            scores = self.score(images, texts).T
            order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
            return order, np.take_along_axis(scores, order, axis=1)
        fast = np.asarray(self.score_block(images, texts, first=True)).T
        near = np.sort(np.argsort(-fast, axis=1, kind="stable")[:, : max(first, k)], axis=1)
        text = np.broadcast_to(np.arange(len(near))[:, None], near.shape)
        scores = self.score_pairs(images, texts, near.ravel(), text.ravel()).reshape(near.shape)
        order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        return np.take_along_axis(near, order, axis=1), np.take_along_axis(scores, order, axis=1)


def load(workdir: str, step: int | None = None, devices: int | None = None, score: str = "") -> Matcher:
    """Restores a trained run for inference, on this machine's devices, whatever it was trained on.

    Args:
        workdir: the run's directory.
        step: a saved step; by default the best by validation rSum.
        devices: how many of the local devices to use; all by default.
        score: CDDS: another score than the run's (config.method.score).

    Raises:
        UserError: there is no checkpoint, it is damaged, or the method has no such score.
    """
    checkpoints = Checkpoints(workdir)
    chosen = checkpoints.best if step is None else step
    config, tokenizer = checkpoints.read_description(chosen)
    if score:
        config = _with_score(config, score)
    method, mesh = build(config, len(tokenizer)), make_mesh(devices)
    shapes = jax.eval_shape(method.init, jax.random.key(0), example_batch(config))
    abstract = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=replicated(mesh)), shapes
    )
    params = checkpoints.restore_params(chosen, abstract, averaged=config.ema > 0)
    checkpoints.close()
    return Matcher(config, method, tokenizer, mesh, params, chosen)


def _with_score(config, score: str):
    if "score" not in config.method or score not in config_lib.CHOICES["method.score"]:
        raise UserError(f"--score {score}: {config.method.name} has no such score")
    config.method.score = score
    return config
