"""The matcher on a dual encoder's tokens: its score, its maps, what has a gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_itm.models import BagOfWords, RegionEncoder, TokenMatcher, late_interaction
from tests.helpers.iais import VOCABULARY, batch


def matcher(**fields) -> TokenMatcher:
    encoders = {"image": RegionEncoder(8, drop=0.0), "text": BagOfWords(8, vocab=VOCABULARY, drop=0.0)}
    return TokenMatcher(**encoders, hidden=16, heads=2, dropout=0.0, **fields)


@pytest.fixture(scope="module")
def built():
    inputs = batch(4)
    module = matcher()
    params = jax.jit(module.init)(jax.random.key(0), inputs)["params"]
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    stirred = [x + 0.3 * jax.random.normal(key, x.shape) for x, key in zip(leaves, keys, strict=True)]
    return module, {"params": jax.tree.unflatten(tree, stirred)}, inputs


def test_late_interaction_is_a_loop():
    rng = np.random.default_rng(0)
    words, regions = rng.normal(size=(3, 5, 4)), rng.normal(size=(3, 6, 4))
    is_word, is_region = np.arange(5) < np.array([[5], [2], [1]]), np.arange(6) < np.array([[1], [6], [4]])
    expected = []
    for row in range(3):
        w, r = words[row][is_word[row]], regions[row][is_region[row]]
        cosine = np.array([[a @ b / np.linalg.norm(a) / np.linalg.norm(b) for b in r] for a in w])
        expected.append(2 * np.mean(cosine.max(1)) + 3 * np.mean(cosine.max(0)))
    sides = [
        (jnp.asarray(x, jnp.float32), jnp.asarray(mask))
        for x, mask in ((words, is_word), (regions, is_region))
    ]
    np.testing.assert_allclose(late_interaction(*sides, jnp.array([2.0, 3.0])), expected, rtol=1e-5)


def test_padding_changes_no_score(built):
    module, variables, inputs = built
    score = lambda inputs: module.apply(variables, inputs)
    plain = score(inputs)
    wide = jax.tree.map(lambda x: x, inputs)
    pad = lambda x, value: jnp.pad(x, [(0, 0), (0, 2)] + [(0, 0)] * (x.ndim - 2), constant_values=value)
    wide["text"] = {"ids": pad(inputs["text"]["ids"], 7), "mask": pad(inputs["text"]["mask"], False)}
    wide["image"] = {name: pad(x, 0) for name, x in inputs["image"].items()}
    np.testing.assert_allclose(score(wide), plain, atol=2e-5)


def test_maps_are_of_the_last_layers_normalised_input(built):
    module, variables, inputs = built

    def run(module, inputs):
        text, image = module.embed_text(inputs["text"]), module.embed_image(inputs["image"])
        last = module.match(text, image).last
        return last, module.maps(last, text.mask, image.mask)

    last, maps = module.apply(variables, inputs, method=run)
    params = variables["params"]["layer_1"]
    normed = last - jnp.mean(last, -1, keepdims=True)
    normed = normed / jnp.sqrt(jnp.mean(normed**2, -1, keepdims=True) + 1e-6)
    normed = normed * params["norm_attention"]["scale"] + params["norm_attention"]["bias"]
    project = lambda part: jnp.einsum("bnd,dhs->bnhs", normed, part["kernel"]) + part["bias"]
    q, k = (np.asarray(project(params["attention"][name]), np.float64) for name in ("query", "key"))
    row = 1
    words = 1 + np.flatnonzero(inputs["text"]["mask"][row])[1:-1]  # after the summary token
    regions = 1 + inputs["text"]["mask"].shape[1] + np.flatnonzero(inputs["image"]["mask"][row])
    heads = []
    for h in range(2):
        z = q[row, words, h] @ k[row, regions, h].T / np.sqrt(8)
        e = np.exp(z - z.max(1, keepdims=True))
        heads.append(e / e.sum(1, keepdims=True))
    actual = maps.out[row][np.ix_(words - 1, np.flatnonzero(inputs["image"]["mask"][row]))]
    np.testing.assert_allclose(actual, np.mean(heads, axis=0), atol=2e-5)


@pytest.mark.parametrize("frozen", [True, False])
def test_frozen_encoders_have_no_gradient(built, frozen):
    _, variables, inputs = built
    module = matcher(frozen=frozen)
    grads = jax.grad(lambda v: jnp.sum(module.apply(v, inputs) ** 2))(variables)["params"]
    largest = {name: max(float(jnp.max(jnp.abs(x))) for x in jax.tree.leaves(grads[name])) for name in grads}
    assert (largest["image"] == largest["text"] == 0) == frozen
    assert min(value for name, value in largest.items() if name not in ("image", "text")) > 0


def test_the_encoders_cosine_is_part_of_the_score(built):
    module, variables, inputs = built
    pooled = matcher(pooled=True)
    params = variables["params"] | {"pooled_weight": jnp.float32(3)}
    embed = lambda side: pooled.apply({"params": params}, inputs[side], method=f"embed_{side}").pooled
    cosine = jnp.sum(embed("text") * embed("image"), axis=1)
    with_it, without = pooled.apply({"params": params}, inputs), module.apply(variables, inputs)
    np.testing.assert_allclose(with_it - without, 3 * cosine, atol=1e-5)


def test_training_hides_what_its_encoders_hide(built):
    _, variables, inputs = built
    module = matcher().clone(image=RegionEncoder(8, drop=0.5))
    embed = lambda *args, **rngs: module.apply(
        variables, inputs["image"], *args, method="embed_image", **rngs
    )
    seen, hidden = embed().mask, embed(True, rngs={"dropout": jax.random.key(0)}).mask
    assert jnp.sum(hidden) < jnp.sum(seen)
    assert not jnp.any(hidden & ~seen)
