"""The functions of a method that scoring needs, as StableHLO for CPUs, CUDA and TPUs.

Every function takes any number of items: the leading dimensions are symbolic. Weights are an argument.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
from jax import export

from jax_itm.inference.matcher import Matcher
from jax_itm.losses.token_similarity import TokenSet, token_set_score
from jax_itm.methods import DualEncoder, Method, example_batch
from jax_itm.methods.base import PairScorer
from jax_itm.types import Array, Float, Inputs, PyTree

PLATFORMS = ("cpu", "cuda", "tpu")

Weights = Mapping[str, Array]  # the parameters by their paths, "image/projection/kernel"
Arrays = dict[str, Array]


class Programs(NamedTuple):
    """What is taken away of a run.

    Attributes:
        weights: the parameters by their paths.
        exported: by name: "image", "text" and "score" of a dual encoder, "pairs" of a cross-encoder.
    """

    weights: Weights
    exported: Mapping[str, export.Exported]


def programs(matcher: Matcher) -> Programs:
    """The programs of a run.

        dual encoder    image(weights, inputs (b, ..)) -> encoding
                        text(weights, inputs (b, ..)) -> encoding
                        score(encoded images (i, ..), encoded texts (t, ..)) -> (i, t)
        cross-encoder   pairs(weights, images (b, ..), texts (b, ..)) -> (b,)

    An encoding is an L2-normalised embedding (b, d), or with the score "maxmean" the arrays of a `TokenSet`
    by name.
    """
    method = matcher.method
    weights, params_of = _named(matcher.params)
    batch = example_batch(matcher.config, matcher.facts)
    image = _with_rows(batch["image"], "b")
    text = _with_rows(batch["text"], "b")
    like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), dict(weights))
    if not isinstance(method, DualEncoder):
        pairs = _pair_function(method, params_of)
        return Programs(weights, {"pairs": _export(pairs, like, *_same_rows(batch))})
    encoders = {
        "image": lambda weights, inputs: _plain(method.encode_image(params_of(weights), inputs)),
        "text": lambda weights, inputs: _plain(method.encode_text(params_of(weights), inputs)),
    }
    exported = {
        name: _export(encoders[name], like, inputs) for name, inputs in (("image", image), ("text", text))
    }
    encoded = _encoded_rows(encoders, like, batch)
    exported["score"] = _export(_score_function(method), *encoded)
    return Programs(weights, exported)


def _named(params: PyTree) -> tuple[Weights, Callable[[Weights], PyTree]]:
    """The parameters by their paths, and the function that makes them a tree again."""
    leaves, structure = jax.tree.flatten_with_path(params)
    names = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in leaves]
    weights = dict(zip(names, (leaf for _, leaf in leaves), strict=True))
    return weights, lambda named: structure.unflatten([named[name] for name in names])


def _pair_function(method: Method, params_of: Callable[[Weights], PyTree]) -> Callable[..., Array]:
    assert isinstance(method, PairScorer)  # both kinds of method are

    def pairs(weights: Weights, images: Inputs, texts: Inputs) -> Float[Array, "b"]:
        params = params_of(weights)
        encoded = method.encode_image(params, images), method.encode_text(params, texts)
        return method.score_pairs(params, *encoded)

    return pairs


def _score_function(method: DualEncoder) -> Callable[[Any, Any], Array]:
    """The score of encodings as the programs return them; it needs no parameters.

    The sizes of `maxmean`'s tiles depend on the numbers of items, which are symbolic here: one call is one
    tile, and the caller divides the items (`files/exported.py`).
    """

    def tile(images: Arrays, texts: Arrays) -> Float[Array, "i t"]:
        of_text = jax.vmap(token_set_score, in_axes=(0, None))
        return jax.vmap(of_text, in_axes=(None, 0))(TokenSet(**images), TokenSet(**texts)).T

    if method.score_name == "maxmean":
        return tile
    return lambda images, texts: method.score({}, images, texts)


def _plain(encoded: PyTree) -> PyTree:
    """An encoding of arrays and dicts alone: a program on disk knows no class of ours."""
    return encoded._asdict() if isinstance(encoded, TokenSet) else encoded


def _with_rows(tree: PyTree, rows: str, scope: export.SymbolicScope | None = None) -> PyTree:
    """The shapes of a tree of arrays with a symbolic number of rows."""
    scope = scope or export.SymbolicScope()
    (size,) = export.symbolic_shape(rows, scope=scope)
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct((size, *x.shape[1:]), x.dtype), tree)


def _same_rows(batch: PyTree) -> tuple[PyTree, PyTree]:
    scope = export.SymbolicScope()
    return _with_rows(batch["image"], "b", scope), _with_rows(batch["text"], "b", scope)


def _encoded_rows(
    encoders: Mapping[str, Callable[..., PyTree]], weights: PyTree, batch: PyTree
) -> Sequence[PyTree]:
    """The shapes of i encoded images and t encoded texts."""
    scope = export.SymbolicScope()
    encoded = {side: jax.eval_shape(encoders[side], weights, batch[side]) for side in ("image", "text")}
    return _with_rows(encoded["image"], "i", scope), _with_rows(encoded["text"], "t", scope)


def _export(function: Callable[..., PyTree], *shapes: PyTree) -> export.Exported:
    return export.export(jax.jit(function), platforms=PLATFORMS)(*shapes)
