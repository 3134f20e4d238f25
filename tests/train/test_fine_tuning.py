"""LoRA, locked layers, layer-wise rates, word vectors: what must not change is bit-equal after training."""

import json
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

import jax_itm
from jax_itm.cli.main import main
from jax_itm.config import Facts
from jax_itm.config.load import check, default
from jax_itm.errors import UserError
from jax_itm.methods import build, example_batch, merge_adapters
from jax_itm.models import Vit
from jax_itm.models.lora import Lora, apply_adapters, init_adapters
from jax_itm.train.init_from import read_source
from jax_itm.train.layer_groups import layer_factors, layer_groups, locked_paths
from jax_itm.train.optimizer import build as build_optimizer
from jax_itm.train.start_rules import start_from
from jax_itm.train.word_vectors import read_vectors
from tests.helpers.golden_encoders import RUN, written
from tests.helpers.tiny_run import params, write_precomp

ADAPTED = "text/backbone/layer_1/attention/query/kernel"


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """Prepared data, a config, and BERT's directory."""
    folder = tmp_path_factory.mktemp("tuning")
    source = write_precomp(folder / "raw", {"train": 12, "dev": 6})
    assert main(["prepare", "precomp", "--source", str(source), "--data_dir", str(folder / "data")]) == 0
    written("bert", folder / "bert")
    (folder / "tiny.py").write_text(RUN)
    return folder


def train(place: Path, run: str, *fields: str) -> dict[str, np.ndarray]:
    """The parameters of a run's last checkpoint, by path."""
    own = [f"data.data_dir={place}/data", f"text.path={place}/bert", "text.frozen=False", *fields]
    command = ["train", "--config", f"{place}/tiny.py", "--workdir", str(place / run)]
    assert main([*command, *(f"--config.{field}" for field in own)]) == 0
    return flatten_dict(params(place / run), sep="/")


def published(place: Path) -> dict[str, np.ndarray]:
    config = default("vsepp")
    config.text.update({"name": "pretrained", "path": str(place / "bert")})
    config.dim, config.data.max_words, config.data.max_regions = 8, 8, 3
    return dict(read_source(config, Facts(region_dim=12)).params)


def changed(before, after) -> set[str]:
    return {path for path, x in before.items() if not np.array_equal(x, after[path])}


def test_lora_trains_adapters_and_head_and_nothing_else(place):
    lora = ("text.lora.rank=2", "optimizer.lr=0.01")
    after = train(place, "lora", *lora)
    assert changed(published(place), after) == set()  # the backbone, bit for bit
    adapters = {path: x for path, x in after.items() if path.startswith("text/lora/")}
    assert len(adapters) == 2 * 2 * 2  # two layers, query and value, down and up
    assert all(np.any(x) for x in adapters.values())  # up, too, which starts as zeros
    matcher = jax_itm.load(str(place / "lora"))
    merged = merge_adapters(matcher.params, matcher.config)
    flat = flatten_dict(merged, sep="/")
    down, up = (adapters[f"text/lora/backbone/layer_1/attention/query/{x}"] for x in ("down", "up"))
    wanted = published(place)[ADAPTED] + 8 * np.tensordot(down, up, 1)
    np.testing.assert_allclose(flat[ADAPTED], wanted, rtol=1e-5, atol=1e-6)
    # A run without LoRA that starts from this one has the merged kernels, and the same embeddings.
    train(place, "merged", f"start={place}/lora", "optimizer.lr=0.0", "optimizer.weight_decay=0.0")
    other = jax_itm.load(str(place / "merged"))
    texts = ["word1 word2", "word3"]
    np.testing.assert_allclose(other.encode_texts(texts), matcher.encode_texts(texts), atol=1e-6)
    # So has one with new adapters, which start by adding nothing.
    train(place, "again", f"start={place}/lora", "optimizer.lr=0.0", "optimizer.weight_decay=0.0", lora[0])
    again = jax_itm.load(str(place / "again"))
    np.testing.assert_allclose(again.encode_texts(texts), matcher.encode_texts(texts), atol=1e-6)
    # It resumes: the same command does nothing more.
    assert changed(after, train(place, "lora", *lora)) == set()


def test_a_locked_run_trains_its_last_layers_alone(place):
    after = train(place, "locked", "text.tune_last=1", "optimizer.lr=0.01")
    before = published(place)
    moved = changed(before, after)
    assert moved and all(path.startswith("text/backbone/layer_1/") for path in moved)
    assert {path for path in before if "layer_1/" in path} - moved == set()  # and all of that layer
    with pytest.raises(UserError, match=r"config\.text\.tune_last=2: the backbone has 2 layers"):
        config = default("vsepp")
        config.text.tune_last = 2
        locked_paths(config, after)


def test_a_frozen_run_keeps_its_backbone_bit_for_bit(place):
    after = train(place, "frozen", "text.frozen=True", "optimizer.lr=0.01")
    assert changed(published(place), after) == set()


def test_adapters_change_what_they_are_on_as_the_formula_says():
    rng = np.random.default_rng(0)
    shapes = {"query": (6, 2, 3), "out": (2, 3, 6), "hidden": (6, 5)}
    params = {"backbone": {name: {"kernel": jnp.asarray(rng.normal(size=s))} for name, s in shapes.items()}}
    lora = Lora(("kernel",), 2, 4.0)
    on_top = {**params, "attention_pool": {"kernel": jnp.ones((3, 3))}}  # learns by itself
    assert init_adapters(jax.random.key(0), on_top, lora).keys() == {"backbone"}
    adapters = init_adapters(jax.random.key(0), params, lora)
    start = apply_adapters({**params, "lora": adapters}, lora)
    jax.tree.map(np.testing.assert_array_equal, start, params)  # up is zero: exactly the same
    adapters = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape)), adapters)
    merged = apply_adapters({**params, "lora": adapters}, lora)
    for name, shape in shapes.items():
        inputs = shape[:2] if name == "out" else shape[:1]
        down, up = (np.asarray(adapters["backbone"][name][x]) for x in ("down", "up"))
        product = down.reshape(np.prod(inputs), 2) @ up.reshape(2, -1)
        wanted = np.asarray(params["backbone"][name]["kernel"]) + 2 * product.reshape(shape)
        np.testing.assert_allclose(merged["backbone"][name]["kernel"], wanted, rtol=1e-5)
    with pytest.raises(
        UserError, match=r"lora\.on: 'kernle' matches no kernel of the backbone, such as 'backbone/h"
    ):
        init_adapters(jax.random.key(0), params, Lora(("kernle",), 2, 4.0))


def test_rates_fall_from_layer_to_layer(tmp_path):
    written("bert", tmp_path)
    config = default("vsepp")
    config.text.update({"name": "pretrained", "path": str(tmp_path), "pooling": "mean"})
    config.dim, config.data.max_words, config.data.max_regions, config.image.pooling = 8, 9, 3, "mean"
    config.optimizer.update({"layer_decay": 0.5, "weight_decay": 0.0, "schedule": "constant", "clip": 0.0})
    start = read_source(config, Facts(region_dim=6))
    method = build(config, start.facts)
    params = start_from(method.init(jax.random.key(0), example_batch(config, start.facts)), start)
    optimizer, _ = build_optimizer(config, params, 10, 10)
    ones = jax.tree.map(jnp.ones_like, params)
    updates, _ = optimizer.update(ones, optimizer.init(params), params)
    factor = {path: -float(np.mean(x)) / 5e-4 for path, x in flatten_dict(updates, sep="/").items()}
    for part, wanted in (
        ("text/backbone/embeddings/words/embedding", 0.125),
        ("text/backbone/layer_0/mlp/hidden/kernel", 0.25),
        ("text/backbone/layer_1/mlp/hidden/kernel", 0.5),
        ("text/projection/linear/kernel", 1),
        ("image/projection/linear/kernel", 1),
    ):
        assert factor[part] == pytest.approx(wanted, rel=1e-3), part


def test_the_groups_of_swin_and_of_a_vit():
    names = ["patches/kernel", "norm_first/scale", "layer_0_0/a", "merge_1/linear", "layer_1_0/a"]
    names += ["layer_1_1/a", "layer_10_0/a", "norm/scale"]
    groups, layers = layer_groups([f"image/backbone/{name}" for name in names], "image")
    assert layers == 4
    assert list(groups.values()) == [0, 0, 1, 2, 2, 3, 4, 5]
    config = default("vsepp")
    config.optimizer.layer_decay = 0.5
    factors = layer_factors(config, groups)
    assert factors["image/backbone/norm/scale"] == 1 and factors["image/backbone/patches/kernel"] == 1 / 32
    assert layer_factors(default("vsepp"), groups)["image/backbone/patches/kernel"] == 1


def test_left_out_patches_are_not_computed():
    image = {"pixels": jnp.asarray(np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3)), jnp.uint8)}
    plain = Vit(layers=1, heads=2, width=8, patch=8, image_size=32, class_token=True)
    vit = plain.clone(patch_dropout=0.75)
    params = vit.init(jax.random.key(0), image)
    key = {"dropout": jax.random.key(1)}
    tokens = vit.apply(params, image, train=True, rngs=key)
    assert tokens.features.shape == (3, 1 + 4, 8) and tokens.mask.shape == (3, 5)
    other = vit.apply(params, image, train=True, rngs={"dropout": jax.random.key(2)})
    assert not np.allclose(tokens.features, other.features)
    np.testing.assert_array_equal(vit.apply(params, image).features, plain.apply(params, image).features)
    # Without layers, tokens are embedded patches, and those that are kept are some of them, in order.
    none = plain.clone(layers=0)
    entire = np.asarray(none.apply(params, image).features)
    kept = none.clone(patch_dropout=0.75).apply(params, image, train=True, rngs=key)
    for row, features in enumerate(np.asarray(kept.features)):
        places = [int(np.flatnonzero((entire[row] == token).all(1))[0]) for token in features]
        assert places[0] == 0 and places == sorted(set(places))


def test_a_word_table_starts_from_vectors(place, capsys):
    vectors = {f"word{k}": [k + 0.5] * 8 for k in range(5)} | {"elsewhere": [9.0] * 8}
    lines = [f"{len(vectors)} 8", *(f"{word} {' '.join(map(str, v))}" for word, v in vectors.items())]
    (place / "glove.txt").write_text("\n".join(lines) + "\n")
    fields = ("text.name=bow", "text.path=", "optimizer.lr=0.0", "optimizer.weight_decay=0.0")
    after = train(place, "glove", *fields, f"text.vectors={place}/glove.txt")
    note = re.search(r"glove.txt: (\d+) of \d+ words start from it", capsys.readouterr().out)
    matcher = jax_itm.load(str(place / "glove"))
    ids = matcher.tokenizer.vocabulary()
    known = vectors.keys() & ids.keys()
    assert note and int(note[1]) == len(known) >= 2
    for word in known:
        np.testing.assert_array_equal(after["text/words/embedding"][ids[word]], np.float32(vectors[word]))
    others = [number for word, number in ids.items() if word not in vectors]
    assert np.abs(after["text/words/embedding"][others]).max() <= 0.1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dog 1 2\n", "line 1: 2 numbers, but config.text's word vectors have 3"),
        ("cat 1 2 3\ndog 1 x 3\n", "line 2: holds what is no number"),
        ("dog 1 nan 3\n", "line 1: holds a number that is not finite"),
        ("cat 1 2 3\n", "has no word of the training captions"),
    ],
)
def test_wrong_vectors_are_named(tmp_path, text, message):
    (tmp_path / "v.txt").write_text(text)
    with pytest.raises(UserError, match=message):
        read_vectors(str(tmp_path / "v.txt"), {"dog": 4}, 3)
    with pytest.raises(UserError, match=r"config\.text\.vectors=.*none: cannot be read"):
        read_vectors(str(tmp_path / "none"), {"dog": 4}, 3)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"text.frozen": True, "text.lora.rank": 2}, r"config\.text\.frozen and config\.text\.lora\.rank"),
        ({"image.tune_last": 1}, r"config\.image\.tune_last: needs a transformer"),
        ({"text.vectors": "x"}, r"config\.text\.vectors: needs config\.text\.name='bigru' or 'bow'"),
        ({"image.patch_dropout": 0.5}, r"config\.image\.patch_dropout: needs a ViT"),
        ({"text.lora.on": ("(",)}, r"config\.text\.lora\.on: '\(' is no regular expression"),
    ],
)
def test_configs_that_do_not_fit(fields, message):
    config = default("vsepp")
    config.text.update({"name": "pretrained", "path": "x"})
    config.update_from_flattened_dict(fields)
    with pytest.raises(UserError, match=message):
        check(config)


def test_a_swin_cannot_leave_patches_out(tmp_path):
    written("swin", tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"size": 48}))
    config = default("vsepp")
    config.image.update({"name": "pretrained", "path": str(tmp_path), "patch_dropout": 0.5})
    config.data.modality = "pixels"
    with pytest.raises(UserError, match="patch_dropout: a swin cannot leave patches out"):
        read_source(config, Facts())
