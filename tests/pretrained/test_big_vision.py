"""SigLIP's .npz files of big_vision: the same embeddings, every parameter used once or named."""

import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

import jax_itm
from jax_itm.cli.main import main
from jax_itm.data.tokenizer import Tokenizer
from jax_itm.errors import UserError
from jax_itm.pretrained.big_vision import big_vision_arrays
from jax_itm.pretrained.directory import read_description, read_encoder_weights
from jax_itm.pretrained.files import find_directory
from jax_itm.pretrained.preprocessor import read_preprocessor
from jax_itm.train.convert import convert_pair
from tests.helpers.big_vision import linen_outputs, linen_siglip, stacked
from tests.helpers.golden_encoders import clip_files, golden, written


def save(folder: Path, arrays: dict[str, np.ndarray], prefix: str = "params/", **others) -> Path:
    np.savez(folder / "siglip.npz", **{f"{prefix}{name}": x for name, x in arrays.items()}, **others)
    return folder


@pytest.mark.parametrize(("name", "layout"), [("siglip", dict), ("siglip2", stacked)])
def test_an_untrained_run_is_siglip(tmp_path, capsys, name, layout):
    """Of the golden file, and of plain Flax modules whose names and shapes Flax gives."""
    actual = golden(name)
    params = linen_siglip(name)
    pixels = (actual["pixels_0"] / 255 - 0.5) / 0.25
    images, texts = linen_outputs(params, pixels, actual["ids"])
    np.testing.assert_allclose(images, actual["image_0"], atol=1e-4)
    np.testing.assert_allclose(texts, actual["text"], atol=1e-4)
    save(tmp_path, layout(params), **{"opt/count": np.zeros(1)})  # a training keeps its state beside
    clip_files(actual, tmp_path, "tokenizer.json")
    means = {"image_mean": [0.5] * 3, "image_std": [0.25] * 3, "size": {"height": 32, "width": 32}}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(means))
    assert main(["convert", "siglip", str(tmp_path), str(tmp_path / "run")]) == 0
    said = capsys.readouterr().out
    assert "2 layers of 40 over patches of 8, 2 of 32 over" in said and "embeddings of 40" in said
    assert "its own scale, x115.6" in said and "its own bias, -12.5" in said and "not used" not in said
    matcher = jax_itm.load(str(tmp_path / "run"))
    images = matcher.encode_images(actual["pixels_0"])
    texts = matcher.encode_texts(json.loads(str(actual["captions"])))
    np.testing.assert_allclose(images, actual["image_0"], atol=1e-4)
    np.testing.assert_allclose(texts, actual["text"], atol=1e-4)


def test_arrays_are_those_of_the_hugging_face_directory(tmp_path):
    (tmp_path / "hf").mkdir()
    written("siglip", tmp_path / "hf")
    expected = read_encoder_weights(tmp_path / "hf")
    params = linen_siglip("siglip")
    for layout in (params, stacked(params)):
        arrays = big_vision_arrays(save(tmp_path, layout, prefix=""))
        assert arrays.keys() == expected.keys()
        for name, x in expected.items():
            np.testing.assert_array_equal(arrays[name].reshape(x.shape), x, err_msg=name)
    description = read_description(tmp_path)
    published = json.loads(str(golden("siglip")["config"]))
    for section in ("vision_config", "text_config"):
        for field, value in description[section].items():
            assert published[section][field] == value, field


def test_bfloat16_is_read(tmp_path):
    arrays = {name: np.asarray(jnp.bfloat16(x)) for name, x in linen_siglip("siglip").items()}
    read = big_vision_arrays(save(tmp_path, arrays))
    np.testing.assert_array_equal(read["text_model.head.weight"], arrays["txt/head/kernel"].T)
    assert read["text_model.head.weight"].dtype == jnp.bfloat16


def test_pictures_are_as_in_its_training_where_no_file_says_so(tmp_path):
    fields = read_preprocessor(save(tmp_path, linen_siglip("siglip")))
    assert fields["mean"] == fields["std"] == (0.5,) * 3 and fields["scale"] == 1 / 255
    assert fields["image_transform"]["resize"] == (32, 32) and fields["image_transform"]["resample"] == 2


def without(name: str):
    return lambda arrays: arrays.pop(name)


def with_array(name: str, *shape: int):
    return lambda arrays: arrays.update({name: np.ones(shape, np.float32)})


QUERY = "img/Transformer/encoderblock_1/MultiHeadDotProductAttention_0/query/kernel"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (with_array("img/embedding/kernel", 768, 40), r"embedding/kernel is \(768, 40\): SigLIP 2 NaFlex"),
        (with_array("img/embedding/kernel", 8, 4, 3, 40), "not of square patches of three channels"),
        (
            with_array("img/pos_embedding", 1, 15, 40),
            "img/pos_embedding is of 15 patches, which are no square",
        ),
        (with_array(QUERY, 40, 2, 20), "img/Transformer has layers of different numbers of heads"),
        (without("txt/head/kernel"), "has no params/txt/head/kernel; big_vision's SigLIP"),
        (without("img/MAPHead_0/probe"), "lacks head.probe"),
        (with_array("img/head/kernel", 40, 40), "has img/head/kernel, which the model here has not"),
        (with_array("txt/head/bias", 41), r"head\.bias is \(41,\), not \(40,\)"),
        (
            with_array("txt/Encoder_0/encoderblock/LayerNorm_0/scale", 2, 32),
            r"has no params/txt/Encoder_0/encoderblock/Mul",
        ),
    ],
)
def test_what_is_no_siglip_is_refused(tmp_path, change, message):
    arrays = linen_siglip("siglip")
    change(arrays)
    save(tmp_path, arrays)
    clip_files(golden("siglip"), tmp_path, "tokenizer.json")
    run = tmp_path / "run"
    with pytest.raises(UserError, match=message) as error:
        convert_pair("siglip", str(tmp_path), str(run))
    assert "\n" not in str(error.value) and not run.exists()


def test_a_layer_that_is_there_twice_is_refused(tmp_path):
    params = linen_siglip("siglip")
    with pytest.raises(UserError, match=r"has params/.* twice, alone and among stacked layers"):
        big_vision_arrays(save(tmp_path, params | stacked(params)))


def test_files_that_cannot_be_meant_are_refused(tmp_path):
    (tmp_path / "siglip.npz").write_bytes(b"no archive")
    for read in (read_description, big_vision_arrays):
        with pytest.raises(UserError, match=r"siglip\.npz: not an \.npz file of arrays"):
            read(tmp_path)
    with pytest.raises(UserError, match="is a file; name the directory that it is in"):
        find_directory(str(tmp_path / "siglip.npz"), "source")
    (tmp_path / "other.npz").touch()
    with pytest.raises(UserError, match=r"has other\.npz, siglip\.npz; give each model a directory"):
        read_description(tmp_path)
    (tmp_path / "sentencepiece.model").touch()
    with pytest.raises(UserError, match=r"sentencepiece\.model is not read here; put its tokenizer\.json"):
        Tokenizer.from_folder(tmp_path)
