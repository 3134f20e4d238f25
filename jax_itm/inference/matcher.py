"""The Matcher: a trained run, restored on any devices, without TensorFlow."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeGuard

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jax_itm.checkpoint.checkpoints import Checkpoints, Description
from jax_itm.config import Facts
from jax_itm.data.sources.raw import plain
from jax_itm.data.token_cache import Tokens
from jax_itm.data.tokenizer import Tokenizer
from jax_itm.distributed.mesh import make_mesh, replicated, shard_global_batch
from jax_itm.distributed.watchdog import heartbeat
from jax_itm.errors import UserError
from jax_itm.inference.inputs import PaddedBatch, image_batches, image_records, pixel_batches, text_batches
from jax_itm.inference.steps import Encode, Score, encode_step, pair_step, score_step
from jax_itm.methods import Method, build, example_batch
from jax_itm.methods.base import FirstScorer, PairScorer
from jax_itm.progress import track
from jax_itm.protocols import SCORES
from jax_itm.types import Array, Config, Params, PyTree


class Ranking(NamedTuple):
    """The best images of every text, best first.

    Attributes:
        indices: int (t, k), into the encoded images.
        scores: float (t, k), of these.
    """

    indices: np.ndarray
    scores: np.ndarray


class Matcher:
    """A method with its parameters and tokenizer: encodes images and texts, scores and ranks them.

        matcher = jax_itm.load("runs/dias_scenes")
        images = matcher.encode_images(["a.jpg", "b.jpg"])
        texts = matcher.encode_texts(["a dog", "two cats"])
        matcher.score(images, texts)         # (2, 2)
        matcher.rank(texts, images, k=1)     # the best image of each text

    An encoding is what the method's score needs, one row an item: for a dual encoder with cosine scores an
    L2-normalised embedding. Every item is encoded by itself, so its place in a batch changes nothing.

    Attributes:
        description: its config, facts and tokenizer.
        method: the model.
        mesh: the devices.
        params: the parameters; the trainer sets them before each evaluation.
        step: how many updates they have had.
        batch_size: items that are encoded at once: `config.evaluate.batch_size`, a multiple of the devices.
    """

    def __init__(
        self,
        description: Description,
        method: Method,
        mesh: Mesh,
        params: Params = None,
        step: int = 0,
    ):
        self.description = description
        self.method = method
        self.mesh = mesh
        self.params = params
        self.step = step
        self.batch_size = -(-description.config.evaluate.batch_size // mesh.size) * mesh.size
        self._encode_image = encode_step(method.encode_image, mesh)
        self._encode_text = encode_step(method.encode_text, mesh)
        self._score = score_step(method.score, mesh)
        self._first_score = score_step(method.first_score, mesh) if has_first_score(method) else None
        self._score_pairs = pair_step(method.score_pairs, mesh) if isinstance(method, PairScorer) else None

    @property
    def config(self) -> Config:
        """The configuration of the run."""
        return self.description.config

    @property
    def facts(self) -> Facts:
        """The facts of the run: what it read of its data and its pretrained encoders."""
        return self.description.facts

    @property
    def tokenizer(self) -> Tokenizer:
        """Of the captions."""
        return self.description.tokenizer

    def encode_images(
        self, images: Sequence[Any] | np.ndarray, boxes: Sequence[np.ndarray] | None = None
    ) -> PyTree:
        """Encodes images in the form that the run was trained on.

        Args:
            images: for a run on pixels, paths or uint8 arrays (h, v, 3); for a run on regions, feature arrays
                (r, f), or one array (i, r, f).
            boxes: for a run on regions, an array (r, 4) for each image: x1 y1 x2 y2 in [0, 1]. May be left
                out unless `config.image.boxes`.

        Returns:
            Encodings with the images on axis 0.

        Raises:
            UserError: a file cannot be read, or an image is not what the run was trained on.
        """
        return self.encode_records(image_records(self.config, self.facts, images, boxes))

    def encode_records(self, records: Iterable[Mapping[str, Any]]) -> PyTree:
        """Encodes image records, {"regions", "boxes"} or {"pixels"}, as a `Split` gives them."""
        batches = image_batches(self.config, self.facts, records, self.batch_size)
        return self._encode(self._encode_image, batches)

    def encode_pixels(self, pixels: np.ndarray) -> PyTree:
        """Encodes pictures, uint8 (n, h, v, 3), that `transform_image` has brought to the run's size."""
        return self._encode(self._encode_image, pixel_batches(pixels, self.batch_size))

    def encode_texts(self, texts: Sequence[str], tokens: Tokens | None = None) -> PyTree:
        """Encodes texts.

        Args:
            texts: captions.
            tokens: those of a frozen text encoder for each text, if they were computed before.

        Returns:
            Encodings with the texts on axis 0.

        Raises:
            UserError: a caption is not text.
        """
        captions = [plain(text, f"caption {k}") for k, text in enumerate(texts)]
        batches = text_batches(self.tokenizer, captions, tokens, self.config.data.max_words, self.batch_size)
        count = -(-len(captions) // self.batch_size)
        return self._encode(self._encode_text, track(batches, count, "encoding batches of texts"))

    def score(self, images: PyTree, texts: PyTree) -> np.ndarray:
        """The scores (i, t) of encoded images with encoded texts. Higher is better."""
        return np.asarray(self.score_block(images, texts))

    def score_block(self, images: PyTree, texts: PyTree) -> Array:
        """The scores (i, t) on the devices, which share the images."""
        return self._on_devices(self._score, images, texts)

    def first_score_block(self, images: PyTree, texts: PyTree) -> Array:
        """The fast scores (i, t) for a first pass, on the devices; those of `score` if there are none."""
        return self._on_devices(self._first_score or self._score, images, texts)

    def score_pairs(
        self, images: PyTree, texts: PyTree, image_index: np.ndarray, text_index: np.ndarray
    ) -> np.ndarray:
        """The scores of single pairs.

        Args:
            images: encoded images.
            texts: encoded texts.
            image_index: int (k,), the image of each pair.
            text_index: int (k,), its text.

        Returns:
            float (k,).

        Raises:
            UserError: the method cannot score single pairs.
        """
        if self._score_pairs is None:
            raise UserError(f"{self.method.label} is no cross-encoder: it scores no single pairs")
        parts = []
        starts = range(0, len(image_index), self.batch_size)
        for start in track(starts, len(starts), "scoring batches of pairs"):
            heartbeat()
            batch = slice(start, start + self.batch_size)
            batch_images = _rows(images, np.resize(image_index[batch], self.batch_size))
            batch_texts = _rows(texts, np.resize(text_index[batch], self.batch_size))
            scores = self._score_pairs(self.params, batch_images, batch_texts)
            parts.append(np.asarray(scores)[: len(image_index[batch])])
        return np.concatenate(parts)

    def rank(self, texts: PyTree, images: PyTree, k: int = 10, first: int = 0) -> Ranking:
        """The `k` best images of every text; equal scores keep the order of the images.

        Args:
            texts: encoded texts.
            images: encoded images, the gallery.
            k: how many images for each text.
            first: for a large gallery, how many images of each text are scored in full: the best by the
                method's fast score. 0: all.

        Returns:
            (indices, scores), each (t, k), best first.

        Raises:
            UserError: `first` is negative, or the method has no fast score.
        """
        if first < 0:
            raise UserError(f"first={first}: must be 0 or more")
        if first and self._first_score is None:
            raise UserError(f"first={first}: {self.method.label} has no faster score for a first pass")
        if first:
            return self._rank_after_first_pass(texts, images, k, max(first, k))
        scores = self.score(images, texts).T
        indices = _best(scores, k)
        return Ranking(indices, np.take_along_axis(scores, indices, axis=1))

    def _rank_after_first_pass(self, texts: PyTree, images: PyTree, k: int, first: int) -> Ranking:
        first_scores = np.asarray(self.first_score_block(images, texts)).T
        candidates = np.sort(_best(first_scores, first), axis=1)  # in the order of the images again
        text_index = np.broadcast_to(np.arange(len(candidates))[:, None], candidates.shape)
        scores = self.score_pairs(images, texts, candidates.ravel(), text_index.ravel())
        scores = scores.reshape(candidates.shape)
        order = _best(scores, k)
        indices = np.take_along_axis(candidates, order, axis=1)
        return Ranking(indices, np.take_along_axis(scores, order, axis=1))

    def _encode(self, encode: Encode, batches: Iterable[PaddedBatch]) -> PyTree:
        parts = []
        for batch in batches:
            heartbeat()
            encoded = encode(self.params, shard_global_batch(self.mesh, batch.inputs))
            parts.append(_rows(encoded, slice(batch.count)))
        if not parts:
            raise UserError("nothing to encode: the list is empty")
        return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts)

    def _on_devices(self, score: Score, images: PyTree, texts: PyTree) -> Array:
        """The scores of one block; its images are padded to a multiple of the devices."""
        heartbeat()
        count = jax.tree.leaves(images)[0].shape[0]
        missing = -count % self.mesh.size
        if missing:
            pad = lambda array: jnp.pad(array, [(0, missing)] + [(0, 0)] * (array.ndim - 1))
            images = jax.tree.map(pad, images)
        return score(self.params, images, texts)[:count]


def has_first_score(method: Method) -> TypeGuard[FirstScorer]:
    """Whether a method has a fast score for a first pass, other than its score."""
    return isinstance(method, FirstScorer) and method.first_name != method.score_name


def load(workdir: str, step: int | None = None, devices: int | None = None, score: str = "") -> Matcher:
    """Restores a trained run for inference on this machine's devices, whatever it was trained on.

    Args:
        workdir: the run's directory.
        step: a saved step; by default the best by validation rSum.
        devices: how many of the local devices to use; all by default.
        score: of a dual encoder: another score than the run's (config.score).

    Raises:
        UserError: there is no checkpoint, it is damaged, or the method has no such score.
    """
    checkpoints = Checkpoints(workdir)
    step = checkpoints.best if step is None else step
    description = checkpoints.read_description(step)
    config, facts, _ = description
    if score:
        config = _with_score(config, score)
        description = description._replace(config=config)
    method = build(config, facts)
    mesh = make_mesh(devices)
    shapes = jax.eval_shape(method.init, jax.random.key(0), example_batch(config, facts))
    on_every_device = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=replicated(mesh))
    abstract = jax.tree.map(on_every_device, shapes)
    params = checkpoints.restore_params(step, abstract, averaged=config.ema > 0)
    checkpoints.close()
    return Matcher(description, method, mesh, params, step)


def _with_score(config: Config, score: str) -> Config:
    if "score" not in config or score not in SCORES:
        raise UserError(f"--score {score}: {config.preset} has no such score")
    config.score = score
    return config


def _rows(tree: PyTree, index: np.ndarray | slice) -> PyTree:
    return jax.tree.map(lambda array: array[index], tree)


def _best(scores: np.ndarray, k: int) -> np.ndarray:
    """The columns of the `k` highest scores of each row; of equal ones the first."""
    return np.argsort(-scores, axis=1, kind="stable")[:, :k]
