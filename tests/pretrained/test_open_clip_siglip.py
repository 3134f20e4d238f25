"""A SigLIP as open_clip saves it: the same embeddings and ids, every weight used once or named."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

import jax_itm
from jax_itm.cli.main import main
from jax_itm.data.tokenizer import Tokenizer
from jax_itm.errors import UserError
from jax_itm.pretrained import hf, open_clip_siglip
from jax_itm.pretrained.directory import read_description
from jax_itm.pretrained.open_clip import CONFIG, FILES
from tests.helpers.golden_encoders import golden


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """The golden as open_clip saved it, whose image encoder is smaller than any of timm's."""
    actual = golden("open_clip_siglip")
    arrays = {k.removeprefix("weight/"): x for k, x in actual.items() if k.startswith("weight/")}
    save_file({k: x.astype(np.float32) for k, x in arrays.items()}, tmp_path / FILES[0])
    (tmp_path / CONFIG).write_text(str(actual["config"]))
    (tmp_path / "tokenizer.json").write_text(str(actual["tokenizer.json"]), encoding="utf-8")
    monkeypatch.setitem(open_clip_siglip.SIZES, "tiny", (40, 2, 4, 56))
    return tmp_path


def test_an_untrained_run_is_open_clips_siglip(folder, capsys):
    run, actual = str(folder / "run"), golden("open_clip_siglip")
    assert main(["convert", "siglip", str(folder), run]) == 0
    said = capsys.readouterr().out
    assert "its own scale" in said and "its own bias" in said and "not used" not in said
    matcher = jax_itm.load(run)
    captions = json.loads(str(actual["captions"]))
    ids, _ = matcher.tokenizer.encode(captions, 24)
    np.testing.assert_array_equal(ids, actual["ids"])
    np.testing.assert_allclose(matcher.encode_texts(captions), actual["text"], atol=1e-4)
    for k in range(2):
        image = matcher.encode_images(actual[f"pixels_{k}"][None])
        np.testing.assert_allclose(image, actual[f"image_{k}"], atol=1e-4)


def test_punctuation_stays_where_open_clip_does_not_say_so(folder):
    texts = ["a dog, over-all!"]
    bare, plain = (Tokenizer.from_folder(folder, bare).encode(texts, 24)[1].sum() for bare in (True, False))
    assert bare < plain


@pytest.mark.parametrize(
    ("section", "fields", "message"),
    [
        ("vision_cfg", {"timm_model_name": "vit_vast_patch8_siglip_32"}, "known sizes are base, large"),
        ("vision_cfg", {"timm_pool": "avg"}, "timm_pool 'avg', SigLIP's encoder needs 'map'"),
        ("text_cfg", {"pool_type": "argmax"}, "pool_type 'argmax', SigLIP's encoder needs 'last'"),
        ("text_cfg", {"hf_model_name": "x"}, "text_cfg has hf_model_name 'x', and SigLIP's encoders have no"),
        ("text_cfg", {"act_kwargs": {"approximate": "none"}}, "text_cfg has act_kwargs"),
    ],
)
def test_what_the_encoders_have_not_is_refused(folder, section, fields, message):
    description = json.loads((folder / CONFIG).read_text())
    description["model_cfg"][section].update(fields)
    (folder / CONFIG).write_text(json.dumps(description))
    with pytest.raises(UserError, match=message) as error:
        read_description(folder)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "pixels", "width", "act"),
    [
        ("vit_base_patch16_siglip_224", 224, 768, "gelu"),
        ("vit_base_patch32_siglip_256", 256, 768, "gelu_tanh"),
        ("vit_large_patch16_siglip_384", 384, 1024, "gelu"),
        ("vit_so400m_patch14_siglip_378", 378, 1152, "gelu"),
        ("vit_so400m_patch16_siglip_512", 512, 1152, "gelu_tanh"),
        ("vit_giantopt_patch16_siglip_256", 256, 1536, "gelu_tanh"),
    ],
)
def test_timms_names_are_its_sizes(folder, name, pixels, width, act):
    """As timm 1.0.31 builds them, which was read off by hand."""
    description = json.loads((folder / CONFIG).read_text())
    vision = description["model_cfg"]["vision_cfg"]
    del vision["image_size"]
    vision["timm_model_name"] = name
    (folder / CONFIG).write_text(json.dumps(description))
    arch = hf.read_architecture("image", read_description(folder), "FILE")
    assert (arch["image_size"], arch["width"], arch["act"]) == (pixels, width, act)
