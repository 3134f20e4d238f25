"""Exported directories hold what was published: the recorded weights, bit for bit, their fields and ids."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

import jax_itm
from jax_itm.cli.main import main
from jax_itm.config import Facts
from jax_itm.config.load import default
from jax_itm.data.tokenizer import Tokenizer
from jax_itm.errors import UserError
from jax_itm.methods import build, example_batch
from jax_itm.pretrained.export_hf import TrainedRun, export_huggingface
from jax_itm.pretrained.preprocessor import read_preprocessor
from jax_itm.train.convert import convert_pair
from jax_itm.train.init_from import read_source
from jax_itm.train.start_rules import start_from
from tests.helpers.errors import says
from tests.helpers.golden_encoders import clip_files, golden, written

LOOK = {"image_mean": [0.5] * 3, "image_std": [0.25] * 3, "size": {"height": 32, "width": 32}}


def look_at(folder: Path, kind: str, **fields) -> None:
    said = {"image_processor_type": f"{kind}ImageProcessor", **LOOK, **fields}
    (folder / "preprocessor_config.json").write_text(json.dumps(said))


def trained(matcher) -> TrainedRun:
    return TrainedRun(matcher.config, matcher.facts, matcher.params, matcher.tokenizer)


def recorded(name: str) -> dict[str, np.ndarray]:
    """The weights of a golden, by their published names."""
    arrays = golden(name).items()
    return {k.removeprefix("weight/"): x.astype(np.float32) for k, x in arrays if k.startswith("weight/")}


def same_weights(folder: Path, wanted: dict[str, np.ndarray]) -> None:
    actual = load_file(folder / "model.safetensors")
    assert actual.keys() == wanted.keys()
    for name, value in wanted.items():
        assert actual[name].shape == value.shape, name
        np.testing.assert_array_equal(actual[name], value, err_msg=name)


@pytest.mark.parametrize("name", ["clip", "siglip", "siglip2"])
def test_a_pair_comes_back_as_it_was(tmp_path, name):
    kind = name.removesuffix("2")
    actual = written(name, tmp_path / "published")
    clip_files(actual, tmp_path / "published", "tokenizer.json")
    look_at(tmp_path / "published", "Siglip")
    convert_pair(kind, str(tmp_path / "published"), str(tmp_path / "run"))
    matcher = jax_itm.load(str(tmp_path / "run"))
    out = tmp_path / "out"
    [said] = export_huggingface(trained(matcher), str(out))
    assert said.startswith(f"{out}: a {kind} for transformers.")
    same_weights(out, recorded(name))
    description = json.loads((out / "config.json").read_text())
    first = json.loads(str(golden(name)["config"]))
    for section in ("text_config", "vision_config"):
        for field, value in description[section].items():
            if not field.endswith("_id") and field != "projection_dim":  # the whole model's counts
                assert first[section].get(field, value) == value, field
    # Read again it is the same run, to the ids.
    convert_pair(kind, str(out), str(tmp_path / "again"))
    again = jax_itm.load(str(tmp_path / "again"))
    captions = json.loads(str(actual["captions"]))
    np.testing.assert_array_equal(again.encode_texts(captions), matcher.encode_texts(captions))
    np.testing.assert_allclose(again.encode_images(actual["pixels_0"]), actual["image_0"], atol=1e-4)
    with pytest.raises(UserError, match="is not an empty directory; name a new one"):
        export_huggingface(trained(matcher), str(out))


def test_as_a_user_types_it(tmp_path, capsys):
    actual = written("clip", tmp_path / "published")
    clip_files(actual, tmp_path / "published", "tokenizer.json")
    look_at(tmp_path / "published", "Siglip")
    convert_pair("clip", str(tmp_path / "published"), str(tmp_path / "run"))
    command = ["export", "--workdir", str(tmp_path / "run"), "--format", "huggingface", "--out"]
    assert main([*command, str(tmp_path / "out")]) == 0
    shown = capsys.readouterr().out
    assert f"{tmp_path / 'out'}: a clip for transformers.CLIPModel" in shown and ".partial" not in shown
    assert f"{tmp_path / 'out'}/model.safetensors" in shown
    same_weights(tmp_path / "out", recorded("clip"))
    says(capsys, main([*command, str(tmp_path / "out")]), "exists already; name a new folder")


def started(config) -> TrainedRun:
    """A run at its start."""
    start = read_source(config, Facts(region_dim=6))
    method = build(config, start.facts)
    params = start_from(method.init(jax.random.key(0), example_batch(config, start.facts)), start)
    return TrainedRun(config, start.facts, params, start.tokenizer)


@pytest.mark.parametrize("name", ["vit", "dinov2", "dinov2_with_registers", "swin"])
def test_backbones_of_images_come_back(tmp_path, name):
    written(name, tmp_path / "image")
    size = {"vit": 32, "swin": 48}.get(name, 42)
    look_at(tmp_path / "image", "ViT", size=size)
    written("bert", tmp_path / "text")
    config = default("vsepp")
    for side in ("image", "text"):
        config[side].update({"name": "pretrained", "path": str(tmp_path / side), "pooling": "mean"})
    config.dim, config.data.max_words, config.data.modality = 8, 9, "pixels"
    run = started(config)
    notes = export_huggingface(run, str(tmp_path / "out"))
    assert notes[0].endswith(f"image: the backbone, a {name}, for transformers.AutoModel")
    assert "image: not written: its projection and pooling (mean)" in notes
    heads = ("classifier.", "pooler.", "cls.", "bert.pooler.", "embeddings.mask_token")
    for side, golden_name in (("image", name), ("text", "bert")):
        prefix = {"bert": "bert.", "vit": "vit.", "swin": "swin."}.get(golden_name, "")
        wanted = {k.removeprefix(prefix): x for k, x in recorded(golden_name).items()}
        wanted = {k: x for k, x in wanted.items() if not k.startswith(heads)}
        same_weights(tmp_path / "out" / side, wanted)
    looks = [read_preprocessor(tmp_path / place) for place in ("image", "out/image")]
    assert looks[0] == looks[1]
    config = config.copy_and_resolve_references()
    for side in ("image", "text"):
        config[side].path = str(tmp_path / "out" / side)
    again = started(config)  # our own reader finds every field and weight
    assert again.facts.image_architecture == run.facts.image_architecture
    assert again.facts.text_architecture == run.facts.text_architecture


def test_ids_have_their_marks(tmp_path):
    """Another program encodes a text without knowing of CLIP, BERT or SigLIP."""
    import tokenizers

    for name, length in (("clip", 40), ("siglip", 24), ("siglip2", 24)):
        clip_files(golden(name), tmp_path, "tokenizer.json")
        tokenizer = Tokenizer.from_folder(tmp_path)
        captions = json.loads(str(golden(name)["captions"]))
        ids, mask = tokenizer.encode(captions, length)
        other = tokenizers.Tokenizer.from_str(tokenizer.to_published_json())
        for caption, row, true in zip(captions, ids, mask, strict=True):
            if not true.all():  # not cut
                assert other.encode(caption).ids == row[true].tolist()


def test_what_has_no_counterpart_is_said(tmp_path):
    config = default("vsepp")
    run = TrainedRun(config, Facts(), {}, Tokenizer.fit(["a dog"]))
    with pytest.raises(
        UserError, match=r"config\.image\.name='regions', config\.text\.name='bigru': the tran"
    ):
        export_huggingface(run, str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()
    written("bert", tmp_path / "bert")
    config.text.update({"name": "pretrained", "path": str(tmp_path / "bert"), "pooling": "mean"})
    config.dim, config.data.max_words, config.data.max_regions, config.image.pooling = 8, 9, 3, "mean"
    notes = export_huggingface(started(config), str(tmp_path / "out"))
    assert notes[0] == "image: not written: 'regions' has no counterpart there"
    assert not (tmp_path / "out" / "image").exists() and (tmp_path / "out" / "text").is_dir()
