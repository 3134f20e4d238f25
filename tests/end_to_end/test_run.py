"""The whole path as a user goes it: prepare, train, stop, resume, evaluate, restore."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jax_itm
from jax_itm.checkpoint.checkpoints import Checkpoints
from jax_itm.cli.main import main
from jax_itm.config.loss_fields import LOGGED, LOSSES
from jax_itm.distributed.mesh import make_mesh
from jax_itm.methods.terms import TERMS
from jax_itm.train import loop
from jax_itm.train.logger import Logger
from tests.helpers.errors import says
from tests.helpers.tiny_run import QUICK, params, params_of_best, prepared, same, train, write_precomp


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with a config, prepared data, and a trained run of 60 steps on 8 devices."""
    place = prepared(tmp_path_factory.mktemp("place"), train=60, dev=20)
    assert train(place, "run") == 0
    return place


def test_training_learns_and_logs(place):
    lines = [json.loads(x) for x in (place / "run/metrics.jsonl").read_text().splitlines()]
    losses = [x["train/triplet"] for x in lines if "train/triplet" in x]
    rsum = [x["val/rsum"] for x in lines if "val/rsum" in x]
    assert len(losses) == 12 and np.all(np.isfinite(losses))  # harder negatives are drawn as it learns
    assert len(rsum) == 2 and 250 < rsum[0] < rsum[1]
    logged = {key.split("/")[1] for line in lines for key in line if key.startswith("train/")}
    assert logged - set(LOSSES) <= set(LOGGED)  # names that no term may take
    last = lines[-2]
    assert {"train/weighted/dimension", "train/weighted/spatial", "train/learning_rate"} <= set(last)
    assert last["train/weighted/dimension"] == pytest.approx(10 * last["train/dimension"])


def test_evaluate_a_split_that_the_run_has_never_seen(place, tmp_path, capsys):
    source = write_precomp(tmp_path / "other", {"test": 30})
    data = str(tmp_path / "data")
    assert main(["prepare", "precomp", "--source", str(source), "--data_dir", data]) == 0
    out = tmp_path / "r.json"
    arguments = ["--data", "precomp", "--data_dir", data, "--split", "test", "--out", str(out)]
    assert main(["evaluate", "--workdir", str(place / "run"), *arguments]) == 0
    result = json.loads(out.read_text())
    assert result["protocol"]["images"] == 30 and result["protocol"]["captions"] == 150
    assert result["rsum"] == pytest.approx(
        sum(result[way][f"r{k}"] for way in ("i2t", "t2i") for k in (1, 5, 10))
    )
    assert result["rsum"] > 200  # chance is about 120
    table = capsys.readouterr().out
    assert f"{result['rsum']:.1f}" in table and "precomp test, 30 images" in table


def test_the_numbers_are_those_of_validation(place, tmp_path):
    out = tmp_path / "r.json"
    run = str(place / "run")
    assert main(["evaluate", "--workdir", run, "--split", "dev", "--bag_of_words", "--out", str(out)]) == 0
    result = json.loads(out.read_text())
    lines = [json.loads(x) for x in (place / "run/metrics.jsonl").read_text().splitlines()]
    best = max(x["val/rsum"] for x in lines if "val/rsum" in x)
    assert result["rsum"] == pytest.approx(best)
    assert 100 < result["baselines"][0]["rsum"] <= 600


def test_stopping_and_resuming_changes_nothing_on_one_device(place, monkeypatch):
    monkeypatch.setattr(loop, "start", lambda *_: make_mesh(1))
    fields = ("--config.ema=0.9", "--config.evaluate.every=4 steps", "--config.duration=20 steps")
    assert train(place, "whole", *fields) == 0
    log = Logger.train

    def stop_at_ten(self, step, scalars):
        log(self, step, scalars)
        if step == 10:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(Logger, "train", stop_at_ten)
        assert train(place, "parts", *fields) == 128 + signal.SIGTERM
    assert Checkpoints(str(place / "parts")).latest == 12
    assert train(place, "parts", *fields) == 0
    same(params(place / "whole"), params(place / "parts"))
    lines = [json.loads(x) for x in (place / "parts/metrics.jsonl").read_text().splitlines()]
    assert [x["step"] for x in lines if "train/loss" in x] == [5, 10, 15, 20]


def test_a_run_starts_from_another(place, capsys):
    """With a rate of 0 its parameters are the other's, and so is its tokenizer; a misfit is one line."""
    start = f"--config.start={place}/run"
    unchanged = ("--config.duration=1 steps", "--config.optimizer.lr=0.0", "--config.evaluate.images=2")
    assert train(place, "tuned", start, *unchanged, "--config.seed=3", "--config.data.min_count=9") == 0
    jax.tree.map(np.testing.assert_array_equal, params(place / "tuned"), params_of_best(place / "run"))
    lines = [json.loads(x) for x in (place / "tuned/metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["val/i2t/meanr"] <= 6  # of two images with ten captions, not of all
    assert train(place, "other", start, "--config.text.word_dim=7") == 2
    assert f"config.start={place}/run: text/" in capsys.readouterr().err
    assert not (place / "other").exists()
    assert train(place, "other", "--config.start=nowhere") == 2
    assert "config.start=nowhere: no run, and no BERT directory either" in capsys.readouterr().err


def test_sigterm_saves_and_exits(place, capsys):
    """A real process and a real signal; then the run may not resume with another schedule."""
    command = [sys.executable, "-m", "jax_itm", "train", "--config", f"{place}/tiny.py"]
    command += ["--workdir", str(place / "killed"), f"--config.data.data_dir={place}/data"]
    command += ["--config.duration=100000 steps", "--config.evaluate.every=100000 steps", *QUICK]
    root = Path(jax_itm.__file__).parents[1]
    environment = os.environ | {"XLA_FLAGS": "", "PYTHONPATH": str(root)}
    process = subprocess.Popen(
        command, cwd=root, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    log = place / "killed" / "metrics.jsonl"
    until = time.monotonic() + 120
    while not (log.exists() and log.stat().st_size) and time.monotonic() < until:
        assert process.poll() is None, process.stdout and process.stdout.read()
        time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM and "Traceback" not in output
    stopped = Checkpoints(str(place / "killed")).latest
    assert 5 <= stopped < 100_000
    assert train(place, "killed", f"--config.duration={stopped + 5} steps", *QUICK) == 2
    assert "was started with '100000 steps'" in capsys.readouterr().err


def test_matcher_restores_on_other_devices(place):
    texts = ["word1 word2 word3", "word4 word5 word6"]
    regions = np.random.default_rng(0).normal(size=(5, 3, 12)).astype(np.float16)
    here = [jax_itm.load(str(place / "run"), devices=n) for n in (8, 1)]
    images = [matcher.encode_images(regions) for matcher in here]
    captions = [matcher.encode_texts(texts) for matcher in here]
    np.testing.assert_allclose(images[0], images[1], atol=1e-5)
    np.testing.assert_allclose(captions[0], captions[1], atol=1e-5)
    scores = here[0].score(images[0], captions[0])
    np.testing.assert_allclose(scores, np.asarray(images[0]) @ np.asarray(captions[0]).T, atol=1e-6)
    order, best = here[0].rank(captions[0], images[0], k=2)
    assert order.tolist() == np.argsort(-scores.T, axis=1)[:, :2].tolist()
    np.testing.assert_array_equal(best, np.sort(scores.T, axis=1)[:, ::-1][:, :2])
    alone = here[1].encode_images(list(regions[2:3]))
    np.testing.assert_allclose(alone[0], images[0][2], atol=1e-5)


def test_inference_needs_no_tensorflow(place):
    code = (
        "import sys, numpy as np\n"
        "sys.modules.update(dict.fromkeys(('tensorflow', 'tensorflow_datasets', 'grain')))\n"
        "import jax_itm\n"
        f"m = jax_itm.load({str(place / 'run')!r})\n"
        "print(m.score(m.encode_images(np.zeros((2, 3, 12))), m.encode_texts(['word1'])).shape)\n"
    )
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=3"}
    actual = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert actual.stdout.strip() == "(2, 1)", actual.stderr


def test_search_ranks_regions(place, tmp_path, capsys):
    regions = np.load(place / "raw/dev_ims.npy")
    np.save(tmp_path / "gallery.npy", regions)
    arguments = ["search", "--workdir", str(place / "run"), "--top", "3"]
    capsys.readouterr()
    assert main([*arguments, "--images", str(tmp_path / "gallery.npy"), "word1 word2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    scores = [float(line.split()[0]) for line in lines]
    assert len(lines) == 3 and "gallery.npy[" in lines[0] and scores == sorted(scores, reverse=True)
    says(capsys, main([*arguments, "--images", str(tmp_path / "nope"), "a"]), "neither a directory")


def test_search_refuses(place, tmp_path, capsys):
    regions = np.load(place / "raw/dev_ims.npy").astype(np.float32)
    regions[2, 1, 3] = np.nan
    galleries = {"nan": regions, "flat": regions[0], "pickled": np.array([None], object)}
    for name, array in galleries.items():
        np.save(tmp_path / f"{name}.npy", array)
    np.save(tmp_path / "good.npy", regions[:2])
    search = lambda name, text: main(
        ["search", "--workdir", str(place / "run"), "--images", str(tmp_path / f"{name}.npy"), text]
    )
    capsys.readouterr()
    says(capsys, search("nan", "a"), "image 2: a region is not finite in float16")
    says(capsys, search("flat", "a"), "flat.npy: shape (3, 12), must be (images, regions, features)")
    says(capsys, search("pickled", "a"), "pickled.npy: not a readable .npy array")
    says(capsys, search("good", " \t"), "caption: empty caption")
    says(capsys, search("good", "dog\udcff"), "caption: a caption has half of a surrogate pair")
    np.save(tmp_path / "boxes.npy", np.zeros((2, 4)))
    says(capsys, search("good", "a"), "boxes of image 0: 2, but it has 3 regions")


def test_wrong_inputs_are_one_line(place, tmp_path, capsys):
    capsys.readouterr()
    run = str(place / "run")
    says(capsys, main(["evaluate", "--workdir", str(tmp_path / "none")]), "none: no checkpoint there")
    assert not (tmp_path / "none").exists()
    says(capsys, main(["evaluate", "--workdir", run, "--split", "test"]), "no split 'test'", "dev")
    says(capsys, train(place, "no", "--config.batch_size=12"), "batch_size=12: not divisible by 8 devices")
    says(capsys, train(place, "no", "--config.batch_sise=16"), "did you mean 'batch_size'")
    says(
        capsys,
        train(place, "no", "--config.data.max_regions=2"),
        "max_regions=2: an image of precomp/train has 3",
    )
    says(capsys, train(place, "run", "--config.dim=32"), "config.dim=32", "was started with 16")
    says(capsys, main(["train", "--config", f"{place}/tiny.py", "--workdir", f"{tmp_path}/x"]), "prepare")
    assert not (place / "no" / "checkpoints").exists() and not (tmp_path / "x").exists()


def test_a_wrong_region_size_for_a_checkpoint(place, tmp_path, capsys):
    source = write_precomp(tmp_path / "other", {"test": 10}, size=7)
    data = str(tmp_path / "data")
    assert main(["prepare", "precomp", "--source", str(source), "--data_dir", data]) == 0
    capsys.readouterr()
    out = tmp_path / "r.json"
    arguments = ["evaluate", "--workdir", str(place / "run"), "--data_dir", data, "--out", str(out)]
    says(capsys, main(arguments), "regions of size 7", "trained on size 12")
    assert not out.exists()


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_good(place, capsys, monkeypatch):
    healthy = TERMS["triplet"]

    def sick(inputs):
        output = healthy.function(inputs)
        return output._replace(value=output.value * jnp.where(inputs.step < 12, 1, jnp.nan))

    monkeypatch.setitem(TERMS, "triplet", healthy._replace(function=sick))
    capsys.readouterr()
    says(
        capsys,
        train(place, "sick", "--config.evaluate.every=10 steps", *QUICK),
        "step 13: ",
        "triplet is nan",
        "checkpoint 10 is kept",
    )
    assert Checkpoints(str(place / "sick")).latest == 10
    assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(params(place / "sick")))


def test_a_damaged_checkpoint_is_one_line(place, capsys):
    shutil.copytree(place / "run", place / "hurt")
    for file in (place / "hurt/checkpoints").glob("*/params/**/*"):
        if file.is_file() and file.stat().st_size > 100:
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    capsys.readouterr()
    says(capsys, main(["evaluate", "--workdir", str(place / "hurt"), "--split", "dev"]), "damaged")


def test_every_baseline_trains(place):
    for method in ("vsepp", "info_nce", "sigmoid"):
        assert train(place, method, "--config.duration=5 steps", *QUICK, arg=f":method={method}") == 0
