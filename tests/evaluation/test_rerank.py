"""A cross-encoder as a user has it: trained, evaluated on all pairs, re-ranking, and its ISD."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_itm.checkpoint.checkpoints import Description
from jax_itm.cli.main import main
from jax_itm.config import Facts
from jax_itm.data.image_transforms import ImageTransform
from jax_itm.data.images import collate_images, read_picture
from jax_itm.data.split import Split
from jax_itm.data.tokenizer import Tokenizer
from jax_itm.distributed.mesh import make_mesh
from jax_itm.evaluation.isd import isd
from jax_itm.inference.matcher import Matcher
from jax_itm.losses import alignment
from jax_itm.methods import build, example_batch
from jax_itm.plots.attention import attention
from tests.helpers.errors import says
from tests.helpers.iais import POOL, settings
from tests.helpers.searching import write_pictures
from tests.helpers.tiny_run import CONFIG, QUICK, write_precomp

CROSS = """
from jax_itm.config import default

def get_config():
    config = default("iais")
    config.name, config.batch_size, config.duration = "cross", 16, "20 steps"
    config.uniter.update({"hidden": 16, "layers": 2, "heads": 2, "dropout": 0.1})
    config.mining.update({"pool": 8, "anchors": 4, "hardest": 3})
    config.data.name, config.data.validation = "precomp", "dev"
    config.optimizer.lr, config.evaluate.every, config.evaluate.batch_size = 1e-3, "20 steps", 8
    config.data.max_regions, config.data.max_words, config.data.min_count = 3, 8, 1
    return config
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A dual encoder and a cross-encoder, trained a little on the same small data set."""
    place = tmp_path_factory.mktemp("cross")
    source, data = write_precomp(place / "raw", {"train": 40, "dev": 12}), str(place / "data")
    assert main(["prepare", "precomp", "--source", str(source), "--data_dir", data]) == 0
    dual = CONFIG.replace("60 steps", "30 steps")
    for name, text, fields in (("dual", dual, QUICK), ("cross", CROSS, ())):
        (place / f"{name}.py").write_text(text)
        command = ["train", "--config", f"{place}/{name}.py", "--workdir", str(place / name)]
        assert main([*command, f"--config.data.data_dir={data}", *fields]) == 0
    return place


def evaluate(runs, name, *options):
    out = runs / "result.json"
    command = ["evaluate", "--workdir", str(runs / name), "--split", "dev", "--out", str(out), *options]
    assert main(command) == 0
    return json.loads(out.read_text())


def test_reranking_everything_is_the_exhaustive_evaluation(runs, capsys):
    every = evaluate(runs, "cross")
    assert every["cost"]["pairs"] == 12 * 60
    assert every["protocol"]["score"] == "cross-encoder"
    source = ("--mode", "rerank", "--rerank_from", str(runs / "dual"))
    again = evaluate(runs, "cross", *source, "--top_k", "60")
    assert again["cost"]["pairs"] == 12 * 60
    assert (again["i2t"], again["t2i"]) == (every["i2t"], every["t2i"])
    few = evaluate(runs, "cross", *source, "--top_k", "2")
    assert few["cost"]["pairs"] <= 2 * 12 + 2 * 60
    dual = evaluate(runs, "dual")
    assert few["t2i"]["r10"] == dual["t2i"]["r10"]  # the first two change places, no others do
    assert "of the first 2 by tiny" in capsys.readouterr().out
    led = evaluate(runs, "cross", *source, "--top_k", "5", "--first_weight", "1e9")  # by the first alone
    assert (led["i2t"], led["t2i"]) == (dual["i2t"], dual["t2i"])
    assert led["protocol"]["score"] == "cross-encoder + 1e+09 x the first (of the first 5 by tiny)"


def test_training_logs_the_terms(runs):
    lines = [json.loads(line) for line in (runs / "cross/metrics.jsonl").read_text().splitlines()]
    name = "train/attention_alignment"
    terms = next(line for line in lines if name in line)
    assert terms["train/loss"] == pytest.approx(terms["train/rank"] + terms[name], rel=1e-5)
    sides = 4 * (terms[f"{name}/language"] + terms[f"{name}/vision"])
    assert terms[name] == pytest.approx(terms[f"{name}/schedule"] * sides, rel=1e-5)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("cross", ("--mode", "rerank"), "--mode rerank and --rerank_from RUN: each needs the other"),
        (
            "cross",
            ("--mode", "rerank", "--rerank_from", "dual", "--top_k", "0"),
            "--top_k 0: must be at least 1",
        ),
        (
            "cross",
            ("--mode", "rerank", "--rerank_from", "dual", "--first_weight", "-1"),
            "--first_weight -1.0: must be a finite number, 0 or more",
        ),
        ("cross", ("--first_weight", "1"), "--first_weight: only with --mode rerank"),
        ("cross", ("--bag_of_words",), "--bag_of_words: iais has no embedding of a whole image"),
        ("dual", ("--isd",), "--isd: dias has no attention among words and regions"),
    ],
)
def test_refuses(runs, capsys, name, options, message):
    options = [str(runs / x) if x in ("dual", "cross") else x for x in options]
    status = main(["evaluate", "--workdir", str(runs / name), "--split", "dev", *options])
    says(capsys, status, message)


def test_attention_draws_a_pair_run_by_run(runs, tmp_path, capsys):
    out = tmp_path / "maps.png"
    cross, dual = str(runs / "cross"), str(runs / "dual")
    command = ["attention", cross, "--split", "dev", "--out", str(out), "--caption"]
    assert main([*command[:2], cross, *command[2:], "7"]) == 0
    pixels = read_picture(out)
    assert pixels.std() > 10 and pixels.shape[0] > 900  # a row for each run
    assert str(out) in capsys.readouterr().out
    says(capsys, main([*command, "99"]), "--caption 99: precomp dev has 0 to 59")
    says(capsys, main([*command[:2], dual, *command[2:], "7"]), "attention: dias has no attention")


def test_the_page_of_a_cross_encoder_has_its_attention_maps_and_no_embeddings(runs, tmp_path):
    cross, dual = (str(runs / name) for name in ("cross", "dual"))
    for workdir in (cross, dual):
        assert (
            main(["evaluate", "--workdir", workdir, "--split", "dev", "--out", f"{workdir}/result.json"]) == 0
        )
    out = tmp_path / "report.html"
    assert main(["report", cross, dual, "--out", str(out)]) == 0
    text = out.read_text()
    assert "Attention among the words and among the regions" in text
    assert text.count("on the first two principal axes") == 2  # of the dual encoder: caption and alt text
    assert "cross (iais): rank" in text and "tiny (dias): rank" in text and "Left out" not in text


class Phrased(Split):
    """Three images of two captions, whose first and last word name the first and second region."""

    name, split, modality, region_dim, max_regions, has_boxes = "made", "test", "regions", 6, 3, True
    features = ("regions", "boxes", "phrases")
    caption_image = np.repeat(np.arange(3), 2)

    def __init__(self):
        """It is all in memory."""

    def __len__(self):
        return 3

    def captions(self):
        return ["a dog sees the cat", "a cat sees the dog", "dog", "cat and dog", "the dog a cat", "cat dog"]

    def image(self, k):
        rng = np.random.default_rng(k)
        corner = rng.uniform(0, 0.5, (3, 2)).astype(np.float32)
        regions = rng.normal(size=(3, 6)).astype(np.float16)
        return {"regions": regions, "boxes": np.concatenate([corner, corner + 0.3], axis=1)}

    def phrases(self, image):
        actual = []
        for number, text in enumerate(self.captions()[2 * image : 2 * image + 2]):
            if " " in text:
                spans = (0, text.index(" ")), (text.rindex(" ") + 1, len(text))
                actual += [
                    {"caption": number, "start": a, "end": b, "box": box} for box, (a, b) in enumerate(spans)
                ]
        return actual


def test_attention_has_the_words_and_true_regions_of_its_pair():
    config, split = settings(), Phrased()
    tokenizer = Tokenizer.fit(split.captions())
    facts = Facts(region_dim=6, vocab=len(tokenizer))
    method = build(config, facts)
    start = jax.jit(method.init)(jax.random.key(0), example_batch(config, facts))
    params = jax.tree.map(lambda x: 8 * x, start)
    actual = attention(
        Matcher(Description(config, facts, tokenizer), method, make_mesh(1), params), split, 3, "run"
    )
    assert actual.words == ["cat", "and", "dog"]
    np.testing.assert_allclose(actual.among_words.sum(1), np.ones(3), rtol=1e-5)
    np.testing.assert_allclose(actual.among_regions.sum(1), np.ones(3), rtol=1e-5)
    ids, mask = tokenizer.encode(["cat and dog"], 5)
    batch = {
        "image": collate_images([split.image(1)], 3, ImageTransform(())),
        "text": {"ids": ids, "mask": mask},
    }
    maps = jax.jit(method.maps)(params, jax.tree.map(jnp.asarray, batch))
    np.testing.assert_allclose(actual.among_words, maps.own[0, 1:4, 1:4], rtol=1e-4)
    assert list(actual.nearest_region) == list(np.argmax(maps.out[0, 1:4], axis=1))


def test_isd_of_a_split_is_that_of_its_pairs():
    """One by one, unpadded, against batches; the caption of one word has no relation to measure."""
    config, split = settings(), Phrased()
    config.evaluate.batch_size = POOL
    tokenizer = Tokenizer.fit(split.captions())
    facts = Facts(region_dim=6, vocab=len(tokenizer))
    method, mesh = build(config, facts), make_mesh(1)
    start = jax.jit(method.init)(jax.random.key(0), example_batch(config, facts))
    params = jax.tree.map(lambda x: 8 * x, start)
    actual = isd(Matcher(Description(config, facts, tokenizer), method, mesh, params), split)
    isda, language = [], []
    for k, caption in enumerate(split.captions()):
        words = len(caption.split()) + 2
        ids, mask = tokenizer.encode([caption], words)
        image = collate_images([split.image(k // 2)], 3, ImageTransform(()))
        batch = jax.tree.map(jnp.asarray, {"image": image, "text": {"ids": ids, "mask": mask}})
        maps = jax.jit(method.maps)(params, batch)
        language.append(float(alignment.singular(maps)[0]))
        if words > 3:
            phrase, box = np.zeros((1, 2, words), bool), np.zeros((1, 2, 3), bool)
            phrase[0, 0, 1] = phrase[0, 1, -2] = box[0, 0, 0] = box[0, 1, 1] = True
            inputs = jnp.asarray(phrase), jnp.asarray(box)
            isda.append(float(alignment.annotated_isd(maps, *inputs)[0][0]))
    assert actual["pairs"] == 6 and actual["isda_pairs"] == len(isda) == 5
    np.testing.assert_allclose(actual["isda"], np.mean(isda), rtol=1e-4)
    np.testing.assert_allclose(actual["language"], np.mean(language), rtol=1e-4)
    assert actual["singular"] == pytest.approx((actual["language"] + actual["vision"]) / 2)


def test_the_ranks_of_queries_are_kept_and_compared(runs, capsys):
    first = evaluate(runs, "dual")
    (runs / "result.json").rename(runs / "first.json")
    assert (runs / "result.npz").exists() and first["queries"] == "result.npz"
    (runs / "result.npz").rename(runs / "first.npz")
    text = (runs / "first.json").read_text()
    (runs / "first.json").write_text(text.replace("result.npz", "first.npz"))
    low, high = first["intervals"]["rSum"]
    assert low <= first["rsum"] <= high
    again = evaluate(runs, "cross", "--mode", "rerank", "--rerank_from", str(runs / "dual"), "--top_k", "5")
    assert main(["compare", str(runs / "first.json"), str(runs / "result.json")]) == 0
    row = f"| rSum | {first['rsum']:.1f} | {again['rsum']:.1f} |"
    assert row in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cross", "scores every pair anew and has no embeddings to index"),
        ("dual", "trained on region features"),
    ],
)
def test_runs_that_cannot_search_in_pictures_have_no_index(runs, name, message, tmp_path, capsys):
    write_pictures(tmp_path / "pictures", 2)
    command = ["index", "--workdir", str(runs / name), "--images", str(tmp_path / "pictures")]
    says(capsys, main([*command, "--out", str(tmp_path / "index")]), f"--workdir {runs / name}", message)
    assert not (tmp_path / "index").exists()
