"""The examples of docs/extending: as the pages show them, right, and trained by the command."""

import importlib
import json
import os
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_itm.config import PRESETS
from jax_itm.config.fields import IMAGE, TEXT
from jax_itm.config.loss_fields import LOSSES
from jax_itm.data.sources.registry import DATA_SETS
from jax_itm.distributed.mesh import batch_sharded, make_mesh
from jax_itm.errors import UserError
from jax_itm.losses import l2_normalise
from jax_itm.methods.terms import TERMS
from jax_itm.models.build import REGISTERED
from tests.helpers.paths import ROOT
from tests.helpers.tiny_run import CONFIG, QUICK, write_precomp

EXAMPLES = ROOT / "docs" / "examples"
PAGES = {"loss": "uniformity", "method": "cyclip", "encoder": "conv_text", "dataset": "npz_regions"}


@pytest.mark.parametrize("page", PAGES)
def test_the_page_shows_the_file(page):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs/extending" / f"{page}.md").read_text(), re.S)
    code = (EXAMPLES / f"{PAGES[page]}.py").read_text()
    assert blocks[0] == code
    assert code.count("\n") < 60


def jax_itm(place, *command, path=EXAMPLES):
    """Runs a command in a process of its own: what it registers ends with it."""
    environment = os.environ | {"XLA_FLAGS": "", "PYTHONPATH": f"{ROOT}:{path}"}
    line = [sys.executable, "-m", "jax_itm", *command]
    return subprocess.run(line, cwd=place, env=environment, capture_output=True, text=True, timeout=600)


def train(place, run, modules, *fields, method="info_nce"):
    """The logged steps of a run on the prepared set."""
    own = ["data.name=npz", "data.validation=val", "data.data_dir=data", "duration=20 steps", *fields]
    options = [*QUICK, f"--config.imports={('npz_regions', *modules)}", *(f"--config.{each}" for each in own)]
    ended = jax_itm(place, "train", "--config", f"tiny.py:method={method}", "--workdir", run, *options)
    assert ended.returncode == 0, ended.stderr[-3000:]
    lines = map(json.loads, (place / run / "metrics.jsonl").read_text().splitlines())
    return [line for line in lines if "train/loss" in line]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A config, and a set that the example of the page on data sets has prepared."""
    folder = tmp_path_factory.mktemp("extending")
    raw = write_precomp(folder / "raw", {"train": 32, "dev": 16})
    (folder / "npz").mkdir()
    for split, published in (("train", "train"), ("val", "dev")):
        regions = np.load(raw / f"{published}_ims.npy")
        captions = np.array((raw / f"{published}_caps.txt").read_text().splitlines()).reshape(len(regions), 5)
        np.savez(folder / "npz" / f"{split}.npz", regions=regions, captions=captions)
    (folder / "tiny.py").write_text(CONFIG)
    own = ["--config.imports=('npz_regions',)", "--config.data.source=npz", "--config.data.data_dir=data"]
    ended = jax_itm(folder, "prepare", "npz", "--config", "tiny.py", *own)
    assert ended.returncode == 0, ended.stderr[-3000:]
    assert re.search(r"train +32 +160 .*\n *val +16 +80 ", ended.stdout)
    return folder


def test_a_run_with_the_term(place):
    first, *_, last = train(place, "term", ["uniformity"], "losses.uniformity.weight=0.5")
    assert last["train/loss"] < first["train/loss"] - 0.5
    halves = [last["train/uniformity/images"], last["train/uniformity/texts"]]
    assert last["train/weighted/uniformity"] == pytest.approx(0.5 * np.mean(halves), rel=1e-5)


def test_a_run_with_the_method(place):
    first, *_, last = train(place, "method", ["cyclip"], method="cyclip")
    assert last["train/loss"] < first["train/loss"] - 0.5
    assert last["train/weighted/cyclic"] == pytest.approx(0.25 * last["train/cyclic"], rel=1e-5)
    assert json.loads((place / "method" / "config.json").read_text())["preset"] == "cyclip"


def test_a_run_with_the_encoder_is_restored_where_its_module_is_found(place):
    fields = ["text.name=conv", "text.width=16", "text.layers=1"]
    first, *_, last = train(place, "encoder", ["conv_text"], *fields)
    assert last["train/loss"] < first["train/loss"] - 0.5
    found = jax_itm(place, "evaluate", "--workdir", "encoder", "--split", "val")
    assert found.returncode == 0 and "npz val, 16 images, 80 captions" in found.stdout, found.stderr
    lost = jax_itm(place, "evaluate", "--workdir", "encoder", "--split", "val", path="")
    assert lost.returncode == 2 and lost.stderr.count("\n") == 1
    assert "config.imports: 'npz_regions' cannot be imported" in lost.stderr


@pytest.fixture
def example(monkeypatch):
    """Imports an example; what it registers is forgotten after the test."""
    tables = [LOSSES, TERMS, PRESETS, DATA_SETS, REGISTERED, TEXT, IMAGE]
    before = [dict(table) for table in tables]
    monkeypatch.syspath_prepend(EXAMPLES)
    yield importlib.import_module
    for table, kept in zip(tables, before, strict=True):
        table.clear()
        table.update(kept)
    for name in PAGES.values():
        sys.modules.pop(name, None)


class Inputs:
    """What these terms read of `TermInputs`."""

    def __init__(self, images, texts, image_ids=None, **options):
        self.image, self.text, self.options = Inputs.Side(images), Inputs.Side(texts), Inputs.Options(options)
        self.image_ids = image_ids

    class Side:
        def __init__(self, embedding):
            self.embedding = embedding

    class Options(dict):
        __getattr__ = dict.__getitem__


def embeddings(devices):
    """Images and texts of length one, split over the devices."""
    x = jax.random.normal(jax.random.key(0), (2, 16, 6))
    return [jax.device_put(l2_normalise(side), batch_sharded(make_mesh(devices))) for side in x]


def loop_uniformity(v, t, ids=range(16)):
    pairs = [(i, j) for i in range(len(v)) for j in range(len(v)) if ids[i] != ids[j]]
    potentials = [[np.exp(-2 * np.sum((x[i] - x[j]) ** 2)) for i, j in pairs] for x in (v, t)]
    return sum(np.log(np.mean(potential)) for potential in potentials) / 2


def loop_cyclic(v, t):
    total = 0.0
    for i in range(len(v)):
        for j in range(len(v)):
            total += (v[i] @ v[j] - t[i] @ t[j]) ** 2 + (v[i] @ t[j] - v[j] @ t[i]) ** 2
    return total / len(v)


@pytest.mark.parametrize(
    ("module", "term", "loop"),
    [("uniformity", "uniformity", loop_uniformity), ("cyclip", "cyclic", loop_cyclic)],
)
def test_a_term_is_that_of_a_loop_and_equal_on_eight_devices(example, module, term, loop):
    function = getattr(example(module), term)
    value = jax.jit(jax.value_and_grad(lambda v, t: function(Inputs(v, t, t=2.0)).value, (0, 1)))
    alone, spread = (jax.device_get(value(*embeddings(devices))) for devices in (1, 8))
    expected = loop(*(np.asarray(side, np.float64) for side in embeddings(1)))
    np.testing.assert_allclose(alone[0], expected, rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), alone, spread)
    assert all(np.abs(grad).max() > 1e-3 for grad in alone[1])


def test_captions_of_one_image_do_not_repel(example):
    ids = np.arange(16) // 3
    v, t = embeddings(1)
    value = example("uniformity").uniformity(Inputs(v, t, jnp.asarray(ids), t=2.0)).value
    np.testing.assert_allclose(value, loop_uniformity(np.asarray(v), np.asarray(t), ids), rtol=1e-5)


def test_the_encoder_sees_no_padding(example):
    encoder = example("conv_text").ConvText(dim=8, vocab=20, width=6, layers=2)
    ids = jnp.array([[3, 7, 4, 0, 0], [5, 6, 2, 9, 8]])
    text = {"ids": ids, "mask": jnp.arange(5) < jnp.array([[3], [5]])}
    params = encoder.init(jax.random.key(0), text)
    short = {"ids": ids[:1, :3], "mask": jnp.ones((1, 3), bool)}
    encode = lambda text: encoder.apply(params, text).embedding
    np.testing.assert_allclose(encode(text)[0], encode(short)[0], rtol=1e-5, atol=1e-6)
    swapped = {**short, "ids": short["ids"][:, ::-1]}
    assert np.abs(encode(swapped) - encode(short)).max() > 1e-3  # unlike a bag of words


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (None, "none of train.npz"),
        ({"regions": np.ones((2, 3, 4))}, "train.npz: cannot be read"),
        ({"regions": np.ones((2, 3, 4)), "captions": np.array([["a", {}]] * 2)}, "train.npz: cannot be read"),
        ({"regions": np.ones((2, 3, 4)), "captions": np.array([["a"]])}, r"\(2, 3, 4\) and \(1, 1\)"),
        ({"regions": np.full((1, 3, 4), 1e6), "captions": np.array([["a"]])}, "not finite in float16"),
        ({"regions": np.ones((1, 3, 4)), "captions": np.array([["a", " "]])}, "row 0: empty caption"),
    ],
)
@pytest.mark.filterwarnings("ignore:overflow")
def test_what_is_wrong_with_a_file_is_one_line(example, tmp_path, arrays, message):
    if arrays:
        np.savez(tmp_path / "train.npz", **arrays)
    with pytest.raises(UserError, match=message):
        example("npz_regions").read_npz(tmp_path)
