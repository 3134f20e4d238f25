"""An exported run has the Matcher's scores bit for bit where there is no jax_itm."""

import json
import subprocess
import sys

import jax
import jax.export
import numpy as np
import pytest
from PIL import Image

import jax_itm
from jax_itm.checkpoint.checkpoints import Description
from jax_itm.cli.main import main
from jax_itm.config import Facts
from jax_itm.data.tokenizer import Tokenizer
from jax_itm.distributed.mesh import make_mesh
from jax_itm.inference.export.files.exported import Exported
from jax_itm.inference.export.folder import write_stablehlo
from jax_itm.inference.export.programs import programs
from jax_itm.inference.matcher import Matcher
from jax_itm.methods import build, example_batch
from tests.helpers.errors import says
from tests.helpers.golden_encoders import clip_with, written
from tests.helpers.methods import QUICK as QUICK_FIELDS
from tests.helpers.methods import awake, small
from tests.helpers.tiny_run import QUICK, prepared, train
from tests.pretrained.test_encoders import loaded

CAPTIONS = ["a red ring", "a blue star is left of a ring", "Stars", "a red star and a blue ring", "ring"]
TOKENIZER = Tokenizer.fit([*CAPTIONS, "of is and left"])
PIXELS = {"data.modality": "pixels", "image.name": "vit", "text.name": "bert"}
RUNS = {
    "cosine": ("info_nce", {}),
    "maxmean": ("cdds", {}),
    "mapped": ("cdds", {"score": "mapped"}),
    "pairs": ("iais", {}),
    "pixels": ("info_nce", PIXELS | QUICK_FIELDS),
}
# Run in the folder of all exports: scores each, where jax_itm cannot be imported.
SCRIPT = """
import sys
sys.modules["jax_itm"] = None
import numpy as np
inputs = dict(np.load("inputs.npz"))
for name in sys.argv[1:]:
    sys.path.insert(0, name)
    sys.modules.pop("exported", None)
    from exported import Exported
    run = Exported(name)
    texts = run.texts(list(inputs["captions"]))
    if run.about["modality"] == "pixels":
        images = run.pictures(list(inputs["pictures"]))
    else:
        images = run.regions(inputs["regions"], inputs["boxes"])
    np.save(f"{name}.npy", run.score_all(images, texts))
missing = {"flax", "optax", "orbax", "tensorflow", "ml_collections"} & set(sys.modules)
assert not missing, missing
"""


def matcher_of(preset, fields):
    config = small(preset, **fields)
    config.evaluate.batch_size = 4
    facts = Facts(region_dim=12 if config.data.modality == "regions" else 0, vocab=len(TOKENIZER))
    method = build(config, facts, 100)
    params = awake(jax.jit(method.init)(jax.random.key(0), example_batch(config, facts)))
    return Matcher(Description(config, facts, TOKENIZER), method, make_mesh(1), params)


def matcher_scores(matcher, inputs):
    if matcher.config.data.modality == "pixels":
        images = matcher.encode_images(list(inputs["pictures"]))
    else:
        images = matcher.encode_images(inputs["regions"], list(inputs["boxes"]))
    texts = matcher.encode_texts(list(inputs["captions"]))
    if matcher.method.score_name == "cross-encoder":
        image, text = (index.ravel() for index in np.mgrid[:6, : len(CAPTIONS)])
        return matcher.score_pairs(images, texts, image, text).reshape(6, -1)
    return matcher.score(images, texts)


def write_inputs(folder):
    rng = np.random.default_rng(0)
    pictures = []
    for k, mode in enumerate(("RGB", "L", "RGBA", "RGB", "RGB", "RGB")):
        channels = {"L": (), "RGB": (3,), "RGBA": (4,)}[mode]
        picture = Image.fromarray(rng.integers(0, 256, (20 + k, 31 - k, *channels), np.uint8), mode)
        exif = picture.getexif()
        exif[0x0112] = 6 if k == 3 else 1  # lies on its side
        pictures.append(str(folder / f"{k}.png"))
        picture.save(pictures[-1], exif=exif)
    inputs = {
        "regions": rng.normal(size=(6, 3, 12)).astype(np.float16),
        "boxes": np.sort(rng.random((6, 3, 2, 2)), axis=2).reshape(6, 3, 4).astype(np.float32),
        "captions": np.array(CAPTIONS),
        "pictures": np.array(pictures),
    }
    np.savez(folder / "inputs.npz", **inputs)
    return inputs


def python(folder, *command):
    run = subprocess.run([sys.executable, *command], cwd=folder, capture_output=True, text=True, timeout=240)
    assert run.returncode == 0, run.stderr
    return run.stdout


@pytest.fixture(scope="module")
def exports(tmp_path_factory):
    """All runs, exported and scored elsewhere; their inputs and their Matchers."""
    folder = tmp_path_factory.mktemp("exports")
    inputs = write_inputs(folder)
    matchers = {name: matcher_of(*run) for name, run in RUNS.items()}
    for name, matcher in matchers.items():
        (folder / name).mkdir()
        write_stablehlo(matcher, folder / name)
    (folder / "script.py").write_text(SCRIPT)
    python(folder, "script.py", *RUNS)
    return folder, inputs, matchers


@pytest.mark.parametrize("name", RUNS)
def test_scores_are_bit_equal(exports, name):
    folder, inputs, matchers = exports
    actual = np.load(folder / f"{name}.npy")
    expected = matcher_scores(matchers[name], inputs)
    assert len(np.unique(actual)) > actual.size / 2
    np.testing.assert_array_equal(actual, expected)


def test_programs_are_for_every_platform_and_any_number_of_items(exports):
    folder, _, matchers = exports
    for name, parts in (("maxmean", ("image", "text", "score")), ("pairs", ("pairs",))):
        for program in parts:
            exported = jax.export.deserialize(
                bytearray((folder / name / f"{program}.stablehlo").read_bytes())
            )
            assert exported.platforms == ("cpu", "cuda", "tpu")
            assert not isinstance(exported.out_avals[0].shape[0], int)
    about = json.loads((folder / "pixels/export.json").read_text())
    assert (about["resize"], about["crop"], about["max_words"]) == ([16, 16], [], 6)
    assert about["step"] == matchers["pixels"].step


def test_boxes_that_a_run_needs_are_asked_for(exports):
    folder, inputs, _ = exports
    with pytest.raises(ValueError, match="boxes: this run was trained on the boxes"):
        Exported(folder / "pairs").regions(list(inputs["regions"]))


def test_a_wide_bigru_exports_in_the_form_of_many_devices():
    matcher = matcher_of("info_nce", {"dim": 128, "image.pooling": "mean", "text.pooling": "mean"})
    text = programs(matcher).exported["text"]
    assert text.out_avals[0].shape[1:] == (128,)


def test_the_command(tmp_path, capsys):
    place = prepared(tmp_path, train=30, dev=10)
    short = ["--config.duration=2 steps", "--config.evaluate.every=2 steps", *QUICK]
    assert train(place, "run", *short, arg=":method=info_nce") == 0
    out = tmp_path / "out"
    export = ["export", "--workdir", str(place / "run"), "--out", str(out)]
    assert main(export) == 0
    files = ["export.json", "exported.py", "image.stablehlo", "score.stablehlo", "text.stablehlo"]
    files += ["tokenizer.json", "use.py", "weights.safetensors"]
    assert sorted(file.name for file in out.iterdir()) == files
    printed = capsys.readouterr().out
    assert all(str(out / name) in printed for name in files)
    regions = np.random.default_rng(1).normal(size=(3, 2, 12)).astype(np.float16)
    for k, one in enumerate(regions):
        np.save(tmp_path / f"{k}.npy", one)
    printed = python(tmp_path, "out/use.py", "word1 word2", "0.npy", "1.npy", "2.npy").splitlines()
    matcher = jax_itm.load(str(place / "run"), devices=1)
    scores = matcher.score(matcher.encode_images(regions), matcher.encode_texts(["word1 word2"]))[:, 0]
    order = np.argsort(-scores)
    assert [line.split() for line in printed] == [[f"{scores[k]:.9g}", f"{k}.npy"] for k in order]
    says(capsys, main(export), f"--out {out}: exists already")
    nowhere = str(tmp_path / "no" / "out")
    says(capsys, main([*export[:-1], nowhere]), f"--out {nowhere}: there is no folder")
    with pytest.raises(SystemExit):
        main([*export, "--format", "pickle"])
    assert not (tmp_path / "out.partial").exists()


def test_clip_with_its_own_preprocessor_and_tokenizer(tmp_path):
    clip_with(tmp_path)
    said = {"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 41}, "crop_size": 32}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(said))
    run, out = str(tmp_path / "run"), tmp_path / "out"
    assert main(["convert", "clip", str(tmp_path), run]) == 0
    assert main(["export", "--workdir", run, "--out", str(out)]) == 0
    pictures = list(write_inputs(tmp_path)["pictures"])
    matcher, exported = jax_itm.load(run, devices=1), Exported(out)
    texts, images = exported.texts(CAPTIONS), exported.pictures(pictures)
    np.testing.assert_array_equal(exported.encode_texts(texts), matcher.encode_texts(CAPTIONS))
    np.testing.assert_array_equal(exported.encode_images(images), matcher.encode_images(pictures))


@pytest.mark.parametrize("name", ["swin", "dinov2_with_registers"])
def test_pretrained_backbones_take_any_number_of_pictures(tmp_path, name):
    pixels = jax.numpy.asarray(written(name, tmp_path)["pixels_0"])
    module, params = loaded("image", tmp_path, {"pixels": pixels})
    apply = jax.jit(lambda pixels: module.apply(params, {"pixels": pixels}).features)
    (rows,) = jax.export.symbolic_shape("b")
    exported = jax.export.export(apply)(jax.ShapeDtypeStruct((rows, *pixels.shape[1:]), pixels.dtype))
    three = jax.numpy.concatenate([pixels[:1], 255 - pixels[:1], pixels[:1] // 2])
    np.testing.assert_allclose(exported.call(three), apply(three), atol=1e-6)
