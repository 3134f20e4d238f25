"""SigLIP and SigLIP 2 of a fixed resolution: ids, tokens, summaries and scores are the reference's."""

import json
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors.numpy import load_file, save_file

import jax_itm
from jax_itm.cli.main import main
from jax_itm.config.load import check, default
from jax_itm.data.tokenizer import Tokenizer
from jax_itm.errors import UserError
from jax_itm.models import AttentionPooling, BackboneEncoder, ClipText, build
from jax_itm.train.init_from import read_source
from tests.helpers.golden_encoders import clip_files, golden, written

NAMES = ("siglip", "siglip2")
LOOK = {"image_processor_type": "SiglipImageProcessor", "size": {"height": 32, "width": 32}}


@pytest.fixture(params=NAMES)
def name(request) -> str:
    return request.param


def directory(name: str, folder: Path) -> dict[str, np.ndarray]:
    """Writes a golden as a directory with its tokenizer and a preprocessor of its means."""
    actual = written(name, folder)
    clip_files(actual, folder, "tokenizer.json")
    look = LOOK | {"image_mean": [0.5] * 3, "image_std": [0.25] * 3}
    (folder / "preprocessor_config.json").write_text(json.dumps(look))
    return actual


def settings(folder: Path, **fields):
    config = default("sigmoid")
    for side in ("image", "text"):
        config[side].update({"name": "pretrained", "path": str(folder), "pooling": "siglip"})
    config.dim, config.data.max_words, config.data.modality = 40, 24, "pixels"
    config.update_from_flattened_dict(fields)
    check(config)
    return config


def test_ids_are_the_reference(tmp_path, name):
    actual = directory(name, tmp_path)
    tokenizer = Tokenizer.from_folder(tmp_path)
    captions = json.loads(str(actual["captions"]))
    ids, mask = tokenizer.encode(captions, 24)
    np.testing.assert_array_equal(ids, actual["ids"])
    end = 1  # of both; SigLIP pads with it, SigLIP 2 with 0
    np.testing.assert_array_equal(ids[np.arange(len(ids)), mask.sum(1) - 1], end)
    assert set(ids[~mask].tolist()) == {1 if name == "siglip" else 0}
    again = Tokenizer.from_json(tokenizer.to_json())
    np.testing.assert_array_equal(again.encode(captions, 24)[0], ids)
    spans = tokenizer.spans(["a dog"], 24)[0]
    assert tuple(spans[0]) == (0, 1) and not spans[mask[1].sum() :].any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"add_bos_token": True}, "add_bos_token is True, the tokenizers here need False"),
        ({"padding_side": "left"}, "padding_side is 'left', the tokenizers here need 'right'"),
    ],
)
def test_options_that_ask_for_other_ids_are_refused(tmp_path, options, message):
    directory("siglip2", tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<eos>"}))
    Tokenizer.from_folder(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(options))
    with pytest.raises(UserError, match=message):
        Tokenizer.from_folder(tmp_path)


def test_an_untrained_siglip_is_siglip(tmp_path, capsys, name):
    actual = directory(name, tmp_path)
    run = str(tmp_path / "run")
    assert main(["convert", "siglip", str(tmp_path), run]) == 0
    said = capsys.readouterr().out
    assert "2 layers of 40 over patches of 8, 2 of 32 over" in said and "embeddings of 40" in said
    assert "its own scale, x115.6, not at" in said and "its own bias, -12.5, not at" in said
    assert "not used" not in said
    matcher = jax_itm.load(run)
    assert matcher.config.preset == "sigmoid"
    texts = matcher.encode_texts(json.loads(str(actual["captions"])))
    images = matcher.encode_images(actual["pixels_0"])
    np.testing.assert_allclose(texts, actual["text"], atol=1e-4)
    np.testing.assert_allclose(images, actual["image_0"], atol=1e-4)
    learnt = matcher.params["loss"]["sigmoid"]
    logits = np.exp(learnt["log_scale"]) * matcher.score(images, texts) + learnt["bias"]
    np.testing.assert_allclose(logits, actual["logits_0"], rtol=1e-4, atol=1e-3)


def test_pictures_of_another_size_are_the_reference(tmp_path, name):
    actual = directory(name, tmp_path)
    config = settings(tmp_path)
    start = read_source(config)
    encoder = build.encoder(config, start.facts, "image")
    image = {"pixels": jnp.asarray(actual["pixels_1"])}
    params = {path.removeprefix("image/"): x for path, x in start.params.items() if path.startswith("image/")}
    shapes = jax.eval_shape(encoder.init, jax.random.key(0), image)["params"]
    assert params.keys() == flatten_dict(shapes, sep="/").keys()  # every parameter has a published value
    variables = {"params": unflatten_dict(params, sep="/")}
    encoded = jax.jit(encoder.apply)(variables, image)
    np.testing.assert_allclose(encoded.tokens, actual["tokens_1"], atol=1e-4)
    np.testing.assert_allclose(encoded.embedding, actual["image_1"], atol=1e-4)


def test_other_poolings_take_the_backbones_alone(tmp_path):
    directory("siglip", tmp_path)
    fields = {"image.pooling": "mean", "text.pooling": "mean", "data.max_words": 9, "dim": 8}
    start = read_source(settings(tmp_path, **fields))
    assert not any("attention_pool" in path or "projection" in path for path in start.params)
    [note] = start.notes
    for unused in ("head.bias", "logit_scale", "vision_model.head.probe"):
        assert unused in note or "more" in note


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"data.max_words": 9}, "config.data.max_words=9: this SigLIP pads every text to 24"),
        ({"dim": 8}, r"config\.dim=8: SigLIP's own summary of these images is of 40"),
        ({"image.pooling": "clip"}, r"config\.image\.pooling='clip': .* is a siglip; its own is 'siglip'"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, fields, message):
    directory("siglip", tmp_path)
    with pytest.raises(UserError, match=message) as error:
        read_source(settings(tmp_path, **fields))
    assert "\n" not in str(error.value)


def test_wrong_weights_are_named(tmp_path):
    directory("siglip", tmp_path)
    file = tmp_path / "model.safetensors"
    state = load_file(file)
    for name, message in (
        ("vision_model.head.probe", "lacks head.probe"),
        ("text_model.head.bias", "lacks head.bias"),
        ("vision_model.head.attention.in_proj_bias", "lacks head.attention.k_proj.bias"),
    ):
        save_file({k: x for k, x in state.items() if k != name}, file)
        with pytest.raises(UserError, match=re.escape(message)):
            read_source(settings(tmp_path))
    save_file(state | {"logit_bias": np.full(1, np.nan, np.float32)}, file)
    with pytest.raises(UserError, match="logit_bias is not one finite number"):
        read_source(settings(tmp_path))


def test_a_model_of_the_other_kind_or_of_many_sizes_is_refused(tmp_path):
    directory("siglip", tmp_path)
    run = str(tmp_path / "run")
    assert main(["convert", "clip", str(tmp_path), run]) == 2
    description = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(description | {"model_type": "siglip2"}))
    with pytest.raises(UserError, match="model_type 'siglip2' is no image encoder here; there are vit"):
        read_source(settings(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps(description))
    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / "vocab.txt").unlink()
    (tmp_path / "spiece.model").touch()
    with pytest.raises(UserError, match=r"spiece\.model is not read here; put its tokenizer\.json beside it"):
        read_source(settings(tmp_path))
    assert not Path(run).exists()


def test_attention_pooling_is_attention_of_one_query():
    """Against a plain loop over items and heads."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(2, 5, 8)), jnp.float32)
    mask = jnp.asarray([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]], bool)
    module = AttentionPooling(heads=2, mlp=6, act="relu")
    params = module.init(jax.random.key(0), x, mask)["params"]
    params = jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape), jnp.float32), params)
    actual = module.apply({"params": params}, x, mask)
    p = jax.tree.map(np.asarray, params)
    for item in range(2):
        tokens, total = np.asarray(x[item])[np.asarray(mask[item])], p["attention"]["out"]["bias"].copy()
        for head in range(2):
            part = lambda name, v, head=head: (
                v @ p["attention"][name]["kernel"][:, head] + p["attention"][name]["bias"][head]
            )
            scores = part("query", p["query"][0, 0]) @ part("key", tokens).T / 2
            weights = np.exp(scores - scores.max())
            total += (weights / weights.sum()) @ part("value", tokens) @ p["attention"]["out"]["kernel"][head]
        normed = (total - total.mean()) / np.sqrt(total.var() + 1e-6)
        normed = normed * p["norm"]["scale"] + p["norm"]["bias"]
        hidden = np.maximum(normed @ p["mlp"]["hidden"]["kernel"] + p["mlp"]["hidden"]["bias"], 0)
        total = total + hidden @ p["mlp"]["out"]["kernel"] + p["mlp"]["out"]["bias"]
        np.testing.assert_allclose(actual[item], total, rtol=1e-4, atol=1e-4)


def test_cached_tokens_of_padding_are_tokens():
    """SigLIP's summary is the last position, which in a short text is padding."""
    actual = golden("siglip")
    text = ClipText(vocab=60, width=32, layers=2, heads=4, positions=24, mlp=48, causal=False)
    encoder = BackboneEncoder(text, 40, "siglip", summary_last=True, pads_with_tokens=True)
    inputs = {"ids": jnp.asarray(actual["ids"]), "mask": jnp.asarray(actual["ids"] != 1)}
    params = encoder.init(jax.random.key(0), inputs)
    features = text.apply({"params": params["params"]["backbone"]}, inputs).features
    own = encoder.apply(params, inputs)
    cached = encoder.apply(params, {"features": features, "mask": inputs["mask"]})
    np.testing.assert_allclose(own.embedding, cached.embedding, atol=1e-6)
    assert own.mask.all() and cached.mask.all()
