"""CDDS as a user has it: trained, evaluated by each score, first passes, search, the figures of a run."""

import json

import numpy as np
import pytest

import jax_itm
from jax_itm.cli.main import main
from jax_itm.data.images import read_picture
from jax_itm.data.prepared import open_split
from jax_itm.plots.cdds import ratio, semantics
from tests.helpers.errors import says
from tests.helpers.tiny_run import CONFIG, QUICK, write_precomp

CDDS = (
    CONFIG.replace('method="dias"', 'method="cdds"')
    + """
def small(arg=""):
    config = dias(arg)
    config.image.pooling = config.text.pooling = "mean"
    config.duration = config.evaluate.every = "40 steps"
    config.head.update({"layers": 1, "heads": 2, "mlp": 2, "noises": 1})
    return config

dias, get_config = get_config, small
"""
)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("cdds")
    source, data = write_precomp(place / "raw", {"train": 60, "dev": 20}), str(place / "data")
    assert main(["prepare", "precomp", "--source", str(source), "--data_dir", data]) == 0
    (place / "cdds.py").write_text(CDDS)
    command = ["train", "--config", f"{place}/cdds.py", "--workdir", str(place / "run")]
    assert main([*command, f"--config.data.data_dir={data}"]) == 0
    return place


def evaluate(place, *options):
    out = place / "result.json"
    command = ["evaluate", "--workdir", str(place / "run"), "--split", "dev", "--out", str(out), *options]
    assert main(command) == 0
    return json.loads(out.read_text())


def test_each_score_and_the_first_pass(place):
    actual = {score: evaluate(place, "--score", score) for score in ("maxmean", "cosine", "mapped")}
    assert [actual[s]["protocol"]["score"] for s in actual] == list(actual)
    assert actual["maxmean"]["protocol"]["preset"] == "cdds practical"
    assert actual["cosine"]["rsum"] > 220  # chance is 140
    itself = ("--mode", "rerank", "--rerank_from", str(place / "run"), "--top_k")
    every, none = evaluate(place, *itself, "100"), evaluate(place, *itself, "1")
    assert (every["i2t"], every["t2i"]) == (actual["maxmean"]["i2t"], actual["maxmean"]["t2i"])
    assert none["t2i"]["r1"] == actual["cosine"]["t2i"]["r1"]  # the pooled ranking's first place stays


def test_ranking_after_a_first_pass(place):
    matcher = jax_itm.load(str(place / "run"))
    split = open_split("precomp", str(place / "data"), "dev", "regions")
    images = matcher.encode_records(split.image(k) for k in range(20))
    texts = matcher.encode_texts(split.captions()[:6])
    full, first = matcher.rank(texts, images, 5), matcher.rank(texts, images, 5, first=20)
    np.testing.assert_array_equal(full[0], first[0])
    np.testing.assert_allclose(full[1], first[1], rtol=1e-5)
    order, scores = matcher.rank(texts, images, 2, first=3)
    fast = np.asarray(matcher.first_score_block(images, texts)).T
    for row in range(6):
        assert set(order[row]) <= set(np.argsort(-fast[row])[:3])
        every = matcher.score(images, texts)[order[row], row]
        np.testing.assert_allclose(scores[row], every, rtol=1e-5)


def test_the_figures_and_their_numbers(place, tmp_path, capsys):
    out = tmp_path / "semantics.png"
    command = ["semantics", str(place / "run"), "--split", "dev", "--out", str(out)]
    assert main(command) == 0
    assert read_picture(out).std() > 10
    printed = capsys.readouterr().out
    actual = semantics(
        jax_itm.load(str(place / "run")), open_split("precomp", str(place / "data"), "dev", "regions")
    )
    values = " | ".join(f"{value:.3f}" for value in actual.numbers().values())
    assert f"| tiny | {values} |" in printed and f"| run | {' | '.join(actual.numbers())} |" in printed
    assert actual.s.shape == (16, 16) and 0 < actual.numbers()["kept"] < 0.6
    assert len(actual.values[0]) == 20 * 3  # every region once
    i, j = actual.columns
    assert i != j


def test_the_page_of_a_run_shows_s_and_its_masks(place, tmp_path):
    run = str(place / "run")
    assert main(["evaluate", "--workdir", run, "--split", "dev", "--out", f"{run}/result.json"]) == 0
    out = tmp_path / "report.html"
    assert main(["report", run, "--out", str(out)]) == 0
    text = out.read_text()
    assert "What the method has learnt" in text and "S between image and text columns" in text
    assert "The data set has no pictures." in text and "image 3, with the caption" in text


def test_ratio_is_within_over_between():
    x = np.array([[1, 0], [1, 0], [0, 1], [0, 1], [0.6, 0.8]])
    caption_image = np.array([0, 0, 1, 1, 1])
    distance = lambda a, b: np.linalg.norm(x[a] - x[b])
    pairs = [(a, b) for a in range(5) for b in range(5) if a != b]
    within = [distance(a, b) for a, b in pairs if caption_image[a] == caption_image[b]]
    between = [distance(a, b) for a, b in pairs if caption_image[a] != caption_image[b]]
    assert ratio(x, caption_image) == pytest.approx(np.mean(within) / np.mean(between))


def test_refuses(place, tmp_path, capsys):
    run = str(place / "run")
    says(capsys, main(["semantics", run, "--out", str(tmp_path / "x.pdf")]), "x.pdf: the figure is a .png")
    status = main(["evaluate", "--workdir", run, "--split", "dev", "--score", "euclid"])
    says(capsys, status, "--score euclid: cdds has no such score")
    np.save(tmp_path / "images.npy", np.zeros((3, 3, 12), np.float16))
    search = ["search", "--workdir", run, "--images", str(tmp_path / "images.npy"), "a dog", "--first", "-1"]
    says(capsys, main(search), "first=-1: must be 0 or more")
    command = ["train", "--config", f"{place}/cdds.py:method=cdds", "--workdir", str(tmp_path / "run")]
    pooling = ["--config.image.pooling=gpo", f"--config.data.data_dir={place / 'data'}"]
    says(capsys, main([*command, *pooling]), "config.image.pooling='gpo'")


def test_another_method_has_no_semantic_components(place, tmp_path, capsys):
    (tmp_path / "tiny.py").write_text(CONFIG)
    data = f"--config.data.data_dir={place / 'data'}"
    short = ["--config.duration=2 steps", "--config.evaluate.every=2 steps", data, *QUICK]
    command = ["train", "--config", f"{tmp_path}/tiny.py:method=info_nce", "--workdir", str(tmp_path / "run")]
    assert main([*command, *short]) == 0
    np.save(tmp_path / "images.npy", np.zeros((3, 3, 12), np.float16))
    search = ["search", "--workdir", str(tmp_path / "run"), "--images", str(tmp_path / "images.npy")]
    says(capsys, main([*search, "a dog", "--first", "2"]), "first=2: info_nce has no faster score")
    status = main(["semantics", str(tmp_path / "run"), "--split", "dev", "--out", str(tmp_path / "a.png")])
    says(capsys, status, "semantics: info_nce has no semantic components")
    status = main(["evaluate", "--workdir", str(tmp_path / "run"), "--split", "dev", "--score", "euclid"])
    says(capsys, status, "--score euclid: info_nce has no such score")
