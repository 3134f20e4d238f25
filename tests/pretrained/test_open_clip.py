"""A directory as open_clip saves one is CLIP: the same scores, every weight used once or named."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import jax_itm
from jax_itm.cli.main import main
from jax_itm.config.load import default
from jax_itm.data.image_transforms import ImageTransform
from jax_itm.errors import UserError
from jax_itm.pretrained import hf
from jax_itm.pretrained.directory import read_description, read_encoder_weights
from jax_itm.pretrained.open_clip import CONFIG, FILES
from jax_itm.pretrained.preprocessor import read_preprocessor
from jax_itm.train.init_from import read_source

GOLDEN = Path(__file__).parents[1] / "goldens" / "encoder_open_clip.npz"  # made by goldens/make_encoders.py


@pytest.fixture
def folder(tmp_path) -> Path:
    """The golden as open_clip saved it."""
    actual = golden()
    arrays = {k.removeprefix("weight/"): x for k, x in actual.items() if k.startswith("weight/")}
    save_file({k: x.astype(np.float32) for k, x in arrays.items()}, tmp_path / FILES[0])
    (tmp_path / CONFIG).write_text(str(actual["config"]))
    (tmp_path / "tokenizer.json").write_text(str(actual["tokenizer.json"]), encoding="utf-8")
    return tmp_path


def golden() -> dict[str, np.ndarray]:
    with np.load(GOLDEN) as file:
        return dict(file)


def said(folder: Path, section: str, **fields) -> Path:
    """Changes fields of open_clip_config.json: of model_cfg, one of its sections, or preprocess_cfg."""
    full = json.loads((folder / CONFIG).read_text())
    (full["model_cfg"][section] if section.endswith(("vision_cfg", "text_cfg")) else full[section]).update(
        fields
    )
    (folder / CONFIG).write_text(json.dumps(full))
    return folder


def settings(folder: Path):
    config = default("info_nce")
    for side in ("image", "text"):
        config[side].update({"name": "pretrained", "path": str(folder), "pooling": "clip"})
    config.dim, config.data.modality = 24, "pixels"
    return config


def test_an_untrained_run_has_open_clips_own_scores(folder):
    run, actual = str(folder / "run"), golden()
    assert main(["convert", "clip", str(folder), run]) == 0
    matcher = jax_itm.load(run)
    images = matcher.encode_images([actual["pixels_0"], actual["pixels_1"]])
    texts = matcher.encode_texts(json.loads(str(actual["captions"])))
    wanted = np.concatenate([actual["image_0"], actual["image_1"]])
    np.testing.assert_allclose(images, wanted, atol=1e-4)
    np.testing.assert_allclose(texts, actual["text"], atol=1e-4)
    np.testing.assert_allclose(matcher.score(images, texts), wanted @ actual["text"].T, atol=1e-4)


def test_config_tells_the_activation_and_the_image_transform(folder):
    acts = lambda: {
        hf.read_architecture(side, read_description(folder), "FILE")["act"] for side in ("image", "text")
    }
    transform = ImageTransform(**read_preprocessor(folder)["image_transform"])
    assert acts() == {"gelu"}
    assert transform == ImageTransform((32,), (32, 32), 3, True)
    full = json.loads((folder / CONFIG).read_text())
    full["model_cfg"]["quick_gelu"] = True
    (folder / CONFIG).write_text(json.dumps(full))
    said(folder, "preprocess_cfg", resize_mode="squash", interpolation="bilinear", size=[24, 24], mean=0.5)
    fields = read_preprocessor(folder)
    assert acts() == {"quick_gelu"}
    assert fields["mean"] == (0.5,) * 3 and fields["std"] == (0.25, 0.2, 0.3)
    transform = ImageTransform(**fields["image_transform"])
    assert transform.resize == (24, 24) and transform.resample == 2


def test_hugging_faces_files_go_first(folder):
    (folder / "config.json").write_text('{"model_type": "vit"}')
    assert read_description(folder)["model_type"] == "clip"
    save_file({"a": np.ones(1)}, folder / "model.safetensors")
    assert read_description(folder)["model_type"] == "vit" and read_encoder_weights(folder).keys() == {"a"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ln_final.bias": None}, "lacks final_layer_norm.bias"),
        (
            {"visual.transformer.resblocks.1.attn.in_proj_bias": None},
            "lacks encoder.layers.1.self_attn.k_proj.bias",
        ),
        ({"visual.extra": np.ones(3)}, "has visual.extra, which the model here has not"),
        (
            {"visual.transformer.resblocks.0.attn.in_proj_bias": np.ones(95)},
            "has encoder.layers.0.attn.in_proj_bias",
        ),
        ({"visual.proj": np.ones((32, 8))}, "visual_projection.weight is (8, 32), not (24, 32)"),
        ({"visual_projection.weight": np.ones((24, 32))}, "has visual_projection.weight twice"),
    ],
)
def test_wrong_weights_are_named(folder, changes, message):
    state = load_file(folder / FILES[0]) | changes
    save_file({k: np.ascontiguousarray(x) for k, x in state.items() if x is not None}, folder / FILES[0])
    with pytest.raises(UserError, match=re.escape(message)) as error:
        read_source(settings(folder))
    assert str(folder) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("section", "fields", "message"),
    [
        ("vision_cfg", {"timm_model_name": "vit_base"}, "vision_cfg has timm_model_name 'vit_base'"),
        ("text_cfg", {"no_causal_mask": True}, "text_cfg has no_causal_mask True"),
        ("vision_cfg", {"head_width": 0}, r"open_clip_config\.json: not understood here"),
        ("vision_cfg", {"width": "wide"}, r"open_clip_config\.json: "),
        ("text_cfg", {"heads": 5}, r"open_clip_config\.json: hidden_size 32 is not whole heads"),
        ("model_cfg", {"text_cfg": 3}, "text_cfg is 3, not a table"),
        ("preprocess_cfg", {"resize_mode": "longest"}, "resize_mode 'longest'"),
        ("preprocess_cfg", {"size": [24, 32]}, r"to \[24, 32\]"),
        ("preprocess_cfg", {"interpolation": ["bicubic"]}, r"'shortest', \['bicubic'\]"),
        ("text_cfg", {"width": "wide", "mlp_ratio": 10**12}, "not understood here"),  # 4 TB of text
        ("preprocess_cfg", {"mean": [0.5]}, r"\[0\.5\], not three numbers"),
    ],
)
def test_what_the_encoders_have_not_is_refused(folder, section, fields, message):
    with pytest.raises(UserError, match=message) as error:
        read_source(settings(said(folder, section, **fields)))
    assert "\n" not in str(error.value)


def test_missing_files_are_named(folder):
    (folder / FILES[0]).unlink()
    with pytest.raises(UserError, match=r"neither model\.safetensors nor open_clip_model\.safetensors nor"):
        read_source(settings(folder))
    (folder / CONFIG).write_text("{}")
    with pytest.raises(UserError, match=r"open_clip_config\.json: has no model_cfg"):
        read_source(settings(folder))
