"""A matcher on a dual encoder's tokens as a user has it: neighbours, training, a resume, re-ranking."""

import json
import shutil

import numpy as np
import pytest
from flax.traverse_util import flatten_dict

import jax_itm
from jax_itm.checkpoint.checkpoints import Checkpoints
from jax_itm.cli.main import main
from jax_itm.data.pools import read_neighbours
from jax_itm.data.prepared import open_split
from jax_itm.evaluation.evaluate import encode_split
from tests.helpers.errors import says
from tests.helpers.tiny_run import CONFIG, QUICK, same, write_precomp

MATCHER = """
from jax_itm.config import default

def get_config():
    config = default("matcher")
    config.name, config.batch_size, config.duration, config.dim = "matcher", 16, "20 steps", 16
    config.text.name, config.text.pooling, config.image.pooling = "bow", "mean", "mean"
    config.matcher.update({"hidden": 16, "heads": 2, "pooled": True})
    config.mining.update({"random_for": "5 steps", "ramp": "10 steps"})
    config.data.name, config.data.validation = "precomp", "dev"
    config.optimizer.lr, config.evaluate.every, config.evaluate.batch_size = 1e-3, "10 steps", 8
    config.data.max_regions, config.data.max_words, config.data.min_count = 3, 8, 1
    return config
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("tokens")
    source, data = write_precomp(place / "raw", {"train": 40, "dev": 12}), str(place / "data")
    assert main(["prepare", "precomp", "--source", str(source), "--data_dir", data]) == 0
    for name, text in (("dual", CONFIG.replace("60 steps", "30 steps")), ("matcher", MATCHER)):
        (place / f"{name}.py").write_text(text)
    assert train(place, "dual", *QUICK) == 0
    return place


def train(place, name, *fields, workdir=""):
    command = ["train", "--config", f"{place}/{name}.py", "--workdir", str(place / (workdir or name))]
    return main([*command, f"--config.data.data_dir={place}/data", *fields])


def test_neighbours_are_the_nearest_of_other_images(place, capsys):
    assert main(["neighbours", "--workdir", str(place / "dual"), "--top", "7"]) == 0
    split = open_split("precomp", str(place / "data"), "train", "regions")
    found = read_neighbours(str(place / "dual/neighbours.npz"), split.identity())
    matcher = jax_itm.load(str(place / "dual"))
    encoded = encode_split(matcher, split)
    scores = matcher.score(encoded.images, encoded.captions)
    own = np.arange(40)[:, None] == split.caption_image[None]
    by_image = np.argsort(-np.where(own, -np.inf, scores), axis=1, kind="stable")[:, :7]
    by_caption = np.argsort(-np.where(own, -np.inf, scores).T, axis=1, kind="stable")[:, :7]
    for actual, expected, table in ((found.captions, by_image, scores), (found.images, by_caption, scores.T)):
        assert actual.shape == expected.shape
        pick = lambda items, table=table: np.take_along_axis(table, items, axis=1)
        np.testing.assert_allclose(pick(actual), pick(expected), atol=1e-6)  # equal scores in any order
    assert not np.any(np.take_along_axis(own, found.captions, axis=1))
    says(capsys, main(["neighbours", "--workdir", str(place / "dual"), "--top", "99"]), "--top 99: must be")


def test_trained_resumed_and_re_ranking(place, capsys):
    near = f"--config.mining.neighbours={place}/dual/neighbours.npz"
    start = f"--config.start={place}/dual"
    assert main(["neighbours", "--workdir", str(place / "dual"), "--top", "7"]) == 0
    assert train(place, "matcher", near, start) == 0
    shutil.copytree(place / "matcher", place / "parts")
    Checkpoints(str(place / "parts")).delete_after(10)
    assert train(place, "matcher", near, start, workdir="parts") == 0
    whole, parts = (jax_itm.load(str(place / name), step=20) for name in ("matcher", "parts"))
    same(whole.params, parts.params)
    dual = flatten_dict(jax_itm.load(str(place / "dual")).params, sep="/")
    after = flatten_dict(whole.params, sep="/")
    encoders = [path for path in dual if path.startswith(("image/", "text/"))]
    assert encoders
    for path in encoders:  # frozen: bit for bit those of the dual encoder
        np.testing.assert_array_equal(after[path], dual[path])
    lines = [json.loads(line) for line in (place / "matcher/metrics.jsonl").read_text().splitlines()]
    assert all(np.isfinite(line["train/pool_softmax"]) for line in lines if "train/pool_softmax" in line)
    out = place / "result.json"
    command = ["evaluate", "--workdir", str(place / "matcher"), "--split", "dev", "--out", str(out), "--isd"]
    assert main([*command, "--mode", "rerank", "--rerank_from", str(place / "dual"), "--top_k", "5"]) == 0
    result = json.loads(out.read_text())
    assert result["protocol"]["preset"] == "matcher" and "isd" in result


def test_what_does_not_fit(place, capsys):
    start = f"--config.start={place}/dual"
    status = train(place, "matcher", start, "--config.dim=8", workdir="none")
    says(capsys, status, "config.dim=8: config.start=", "has 16")
    status = train(place, "matcher", start, "--config.text.name=bigru", workdir="none")
    says(capsys, status, "config.text.name='bigru': config.start=", "has 'bow'")
    says(capsys, train(place, "matcher", workdir="none"), "config.start: name the dual encoder's run")
    status = train(place, "matcher", start, "--config.mining.neighbours=none.npz", workdir="none")
    says(capsys, status, "config.mining.neighbours=none.npz: no such file")
