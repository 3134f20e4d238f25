"""Numbers beside recall: what each takes of the scores, and the command that prints them."""

import json

import numpy as np
import pytest
from scipy import special

import jax_itm
from jax_itm import metrics
from jax_itm.cli.main import main
from jax_itm.data.prepared import open_split
from jax_itm.data.scenes.render import has_distractors
from jax_itm.data.split import Split
from jax_itm.errors import UserError
from jax_itm.evaluation import eccv
from jax_itm.evaluation.eccv import EccvCaption
from jax_itm.evaluation.evaluate import encode_split
from jax_itm.evaluation.measures import make_measures
from jax_itm.evaluation.normalised import evaluate_normalised
from jax_itm.metrics import RetrievalCounter
from tests.helpers.eccv import eccv_metrics
from tests.helpers.errors import says
from tests.helpers.tiny_run import QUICK, prepared, train


class Named(Split):
    """A split that has names and captions alone."""

    def __init__(self, name: str, images: int, each: int = 5, source_ids: list[int] | None = None):
        self.name, self.split, self.images = name, "test", images
        self.caption_image = np.repeat(np.arange(images, dtype=np.int32), each)
        self.source_ids = source_ids or []

    def __len__(self):
        return self.images

    def captions(self):
        return [" ".join(["word"] * (1 + k % 25)) for k in range(len(self.caption_image))]

    def image_name(self, image):
        return f"{'ab'[image % 2]}/{image}.jpg"


def result_of(names, split, scores, size):
    """The results of measures that were fed blocks of so many images."""
    measures = make_measures(names, split)
    counter = RetrievalCounter(split.caption_image)
    for rows, columns in counter.blocks(size):
        counter.add(rows, columns, scores[rows, columns])
        for measure in measures:
            measure.add(rows, columns, scores[rows, columns])
    return {measure.name: measure.result(counter.ranks()) for measure in measures}


def test_parts_of_a_result():
    split = Named("mine", 30)
    scores = np.random.default_rng(0).normal(size=(30, 150)).astype(np.float32)
    names = ["all_relevant", "hubness", "breakdown"]
    actual = result_of(names, split, scores, 30)
    assert actual == result_of([*names, "hubness"], split, scores, 7)
    order = np.argsort(-scores, axis=1)
    own = split.caption_image[order] == np.arange(30)[:, None]
    assert actual["all_relevant"]["i2t"]["all_relevant_r10"] == pytest.approx(20 * own[:, :10].sum(1).mean())
    usual = metrics.recall(scores, split.caption_image)
    assert actual["all_relevant"]["t2i"]["all_relevant_r5"] == pytest.approx(usual["t2i"]["r5"])
    assert actual["hubness"]["i2t"] == metrics.hubness(order[:, :10], 150)
    ranks = metrics.ranks(scores, split.caption_image)
    parts = actual["breakdown"]
    assert parts["i2t_by_set"]["b"]["r10"] == pytest.approx(100 * np.mean(ranks.i2t[1::2] <= 10))
    assert sum(part["queries"] for part in parts["t2i_by_length"].values()) == 150
    worst = parts["t2i_worst"][0]
    assert worst["rank"] == ranks.t2i.max() == ranks.t2i[worst["caption"]]
    assert worst["image"] == worst["caption"] // 5 and parts["i2t_worst"][0]["rank"] == ranks.i2t.max()


@pytest.mark.parametrize("size", [3, 18, 100])
def test_distractors_are_scored_among_themselves(size):
    split = Named("scenes", 18)  # groups 0:4 and 8:12; 4:8 and 12:16 have none, 16:20 is cut
    scores = np.random.default_rng(1).normal(size=(18, 90)).astype(np.float32)
    scores[np.arange(18).repeat(5), np.arange(90)] += 1
    right_text, right_image, group = [], [], []
    for first in (0, 8):
        assert has_distractors(first)
        for k in range(5):
            part = scores[first : first + 4, [5 * (first + member) + k for member in range(4)]]
            right_text.append([part[i].argmax() == i for i in range(4)])
            right_image.append([part[:, i].argmax() == i for i in range(4)])
            group.append(all(right_text[-1]) and all(right_image[-1]))
    actual = result_of(["distractors"], split, scores, size)["distractors"]
    assert actual["groups"] == 10
    assert actual["text_choice"] == pytest.approx(100 * np.mean(right_text))
    assert actual["image_choice"] == pytest.approx(100 * np.mean(right_image))
    assert actual["group"] == pytest.approx(100 * np.mean(group))


def test_only_scenes_has_distractors():
    for split in (Named("folder", 18), Named("scenes", 3)):
        with pytest.raises(UserError, match=f"distractors: {split.name}/test has no groups"):
            make_measures(["distractors"], split)


@pytest.fixture(scope="module")
def oracle():
    return eccv_metrics()


def test_eccv_caption_is_its_package(oracle):
    """On made embeddings of all of COCO's test split; the blocks are not those of the folds."""
    ids = oracle.coco_ids.tolist()
    split = Named("coco", 5000, source_ids=ids)
    images = [oracle.coco_gts["t2i"][caption][0] for caption in ids[::5]]
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(5000, 8)).astype(np.float32)
    texts = np.repeat(vectors, 5, axis=0) + rng.normal(size=(25000, 8)).astype(np.float32)
    measure = EccvCaption(split)
    counter, folds = RetrievalCounter(split.caption_image), RetrievalCounter(split.caption_image, 5)
    for rows, columns in counter.blocks(1800):
        scores = vectors[rows] @ texts[columns].T
        counter.add(rows, columns, scores)
        measure.add(rows, columns, scores)
    for rows, columns in folds.blocks():
        folds.add(rows, columns, vectors[rows] @ texts[columns].T)
    actual = measure.result(counter.ranks())
    judged = np.isin(ids, list(oracle.eccv_gts["t2i"]))  # ECCV Caption has 1,332 captions as queries
    ranking = {
        "i2t": _first(vectors, texts, images, ids),
        "t2i": _first(texts[judged], vectors, np.array(ids)[judged].tolist(), images),
    }
    expected = oracle.eccv_metrics(ranking, "all")
    for direction in ("i2t", "t2i"):
        found = actual["eccv"][direction]
        assert found["map_at_r"] == pytest.approx(100 * expected["eccv_map_at_r"][direction])
        assert found["r_precision"] == pytest.approx(100 * expected["eccv_rprecision"][direction])
        assert found["r1"] == pytest.approx(100 * expected["eccv_r1"][direction])
    for k in (1, 5):
        cxc = oracle.cxc_recalls(ranking, "i2t", k)["i2t"]
        assert actual["cxc"]["i2t"][f"r{k}"] == pytest.approx(100 * cxc)
        coco = oracle.coco_5k_recalls(ranking, "i2t", k)["i2t"]
        assert actual["coco_5k"]["i2t"][f"r{k}"] == pytest.approx(100 * coco)
    assert actual["coco_1k"] == folds.result()


def _first(queries, items, query_ids, item_ids, k=50, part=500):
    """The ids of the first `k` items of each query, as the package takes them."""
    first = {}
    for start in range(0, len(queries), part):
        scores = queries[start : start + part] @ items.T
        some = np.argpartition(-scores, k, axis=1)[:, :k]
        best = np.take_along_axis(some, np.argsort(-np.take_along_axis(scores, some, 1), axis=1), axis=1)
        first |= {query_ids[start + row]: [item_ids[j] for j in found] for row, found in enumerate(best)}
    return first


def test_eccv_caption_takes_cocos_test_split_alone(oracle):
    with pytest.raises(UserError, match="coco/test has no ids of COCO's captions: remove it, and prepare"):
        EccvCaption(Named("coco", 5000))
    with pytest.raises(UserError, match="f30k/test has 10 captions, which are not those 25,000 of COCO"):
        EccvCaption(Named("f30k", 2, source_ids=list(range(10))))


def test_eccv_caption_needs_its_package(monkeypatch):
    monkeypatch.setattr(eccv, "PACKAGE", "no_such_package")
    with pytest.raises(UserError, match=r"needs the package eccv-caption: pip install -e \.\[eccv\]"):
        EccvCaption(Named("coco", 5000))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    place = prepared(tmp_path_factory.mktemp("measures"), train=32, dev=20)
    assert train(place, "run", *QUICK, "--config.duration=8 steps", "--config.evaluate.every=8 steps") == 0
    return place


def evaluate(run, *options):
    out = run / "result.json"
    command = ["evaluate", "--workdir", str(run / "run"), "--split", "dev", "--out", str(out)]
    assert main([*command, *options]) == 0
    return json.loads(out.read_text())


def test_the_command_prints_and_keeps_them(run, capsys):
    plain = evaluate(run)
    capsys.readouterr()
    result = evaluate(run, "--measures", "all_relevant", "hubness", "breakdown")
    recalls = ("i2t", "t2i", "rsum", "protocol")
    assert [result[key] for key in recalls] == [plain[key] for key in recalls]
    assert result["hubness"]["k"] == 10 and len(result["breakdown"]["t2i_worst"]) == 20
    printed = capsys.readouterr().out
    assert "| all_relevant | all_relevant_r1 |" in printed and "| hubness, k 10 |" in printed
    assert "| breakdown: t2i_by_length |" in printed


def test_normalised_scores_are_another_protocol(run):
    plain = evaluate(run)
    for method, score in (("csls", "CSLS (10 neighbours, "), ("inverted_softmax", "(temperature 1/30, ")):
        result = evaluate(run, "--normalise", method)
        assert score in result["protocol"]["score"] and result["protocol"]["normalised"] == method
        assert "normalised" not in plain["protocol"]
        recalls = [result[d][f"r{k}"] for d in ("i2t", "t2i") for k in (1, 5, 10)]
        assert 0 < result["rsum"] == pytest.approx(sum(recalls))
        folds = evaluate(run, "--normalise", method, "--protocol", "folds")
        assert folds["protocol"]["folds"] == 5 and folds["rsum"] > result["rsum"]  # fewer rivals


def test_normalised_ranks_are_those_of_the_definitions(run):
    matcher = jax_itm.load(str(run / "run"))
    split = open_split("precomp", run / "data", "dev", "regions")
    encoded = encode_split(matcher, split)
    scores = matcher.score(encoded.images, encoded.captions).astype(np.float64)
    recall = lambda normalised: metrics.recall(normalised.astype(np.float32), split.caption_image)
    softmax = evaluate_normalised(matcher, split, "inverted_softmax")
    assert softmax["i2t"] == recall(special.log_softmax(30 * scores, axis=0))["i2t"]
    assert softmax["t2i"] == recall(special.log_softmax(30 * scores, axis=1))["t2i"]
    assert metrics.summary(softmax["queries"].ranks)["rsum"] == pytest.approx(softmax["rsum"])
    image_mean, caption_mean = (np.sort(scores, axis=axis) for axis in (1, 0))
    means = image_mean[:, -10:].mean(1, keepdims=True) + caption_mean[-10:].mean(0, keepdims=True)
    csls, expected = evaluate_normalised(matcher, split, "csls"), recall(2 * scores - means)
    assert (csls["i2t"], csls["t2i"]) == (expected["i2t"], expected["t2i"])
    assert csls["i2t"] != recall(scores)["i2t"]


def test_options_that_do_not_go_together(run, capsys):
    command = ["evaluate", "--workdir", str(run / "run"), "--split", "dev"]
    status = main([*command, "--measures", "hubness", "--protocol", "folds"])
    says(capsys, status, "--measures: only with --protocol full or coco_5k, not folds")
    status = main([*command, "--measures", "eccv_caption"])
    says(capsys, status, "precomp/dev has no ids of COCO's captions")
    for option in ("compositional", "classes"):
        status = main([*command, f"--{option}", str(run)])
        says(capsys, status, f"--{option}: needs pictures, but this run was trained on region features")
    status = main([*command, "--normalise", "csls", "--measures", "hubness"])
    says(capsys, status, "--measures: only without --mode rerank and --normalise")
