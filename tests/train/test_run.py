"""What ties a run to its data, and what is found before its first step."""

import json
import shutil

import pytest

from jax_itm.checkpoint.checkpoints import Checkpoints
from jax_itm.cli.main import main
from jax_itm.errors import UserError
from jax_itm.train import loop
from tests.helpers.errors import says
from tests.helpers.tiny_run import QUICK, prepared, train, write_precomp

SHORT = (*QUICK, "--config.duration=4 steps", "--config.evaluate.every=4 steps")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A config, prepared data, and a run that has two of four steps."""
    place = prepared(tmp_path_factory.mktemp("place"), train=20, dev=8)
    assert train(place, "run", *QUICK, "--config.duration=4 steps", "--config.evaluate.every=2 steps") == 0
    return place


@pytest.fixture
def half(place):
    """The run after its second step."""
    checkpoints = Checkpoints(str(place / "run"), create=True)
    checkpoints.delete_after(2)
    checkpoints.close()
    return (*QUICK, "--config.duration=4 steps", "--config.evaluate.every=2 steps")


def other_data(place, name, **images):
    if not (place / name).exists():
        source = write_precomp(place / f"{name}_raw", images, size=12)
        assert main(["prepare", "precomp", "--source", str(source), "--data_dir", str(place / name)]) == 0
    return f"--config.data.data_dir={place / name}"


def test_a_run_resumes_on_equal_data_elsewhere_and_says_from_where(place, half, capsys):
    elsewhere = other_data(place, "copy", train=20, dev=8)
    assert train(place, "run", *half, elsewhere) == 0
    assert "resuming from step 2 of" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("images", "split", "now"),
    [
        ({"train": 30, "dev": 8}, "train", "precomp/train, 30 images, 150 captions"),
        ({"train": 20, "dev": 9}, "validation", "precomp/dev, 9 images"),
    ],
)
def test_other_data_are_refused_unless_accepted(place, half, capsys, images, split, now):
    other = other_data(place, f"other_{split}", **images)
    capsys.readouterr()
    parts = (f"config.data.{split}: is {now}", f"with which the run in {place}/run was started", "--accept_")
    says(capsys, train(place, "run", *half, other), *parts)
    assert Checkpoints(str(place / "run")).latest == 2
    assert train(place, "run", *half, other, "--accept_new_data") == 0
    said = capsys.readouterr().out
    assert "warning: config.data." in said and f"config.data.{split}: is {now}" in said
    assert "resuming from step 2" in said
    assert Checkpoints(str(place / "run")).latest == 4
    assert train(place, "run", *half, other) == 0  # from here on these are its data


def test_features_that_were_extracted_anew_are_other_data(place, half, capsys):
    """As many images, captions and bytes, and other numbers."""
    import numpy as np

    source = write_precomp(place / "anew_raw", {"train": 20, "dev": 8})
    np.save(source / "train_ims.npy", np.load(source / "train_ims.npy") + np.float16(1))
    assert main(["prepare", "precomp", "--source", str(source), "--data_dir", str(place / "anew")]) == 0
    capsys.readouterr()
    says(capsys, train(place, "run", *half, f"--config.data.data_dir={place}/anew"), "checksums")


def test_a_validation_that_cannot_be_done_is_found_before_the_first_step(place, capsys):
    for protocol, message in (("folds", "divided into 5 equal folds"), ("coco_1k", "5,000 images")):
        says(capsys, train(place, "folds", *SHORT, f"--config.evaluate.protocol={protocol}"), message)
    assert not (place / "folds").exists()


def test_a_validation_that_fails_loses_no_step(place, monkeypatch, capsys):
    def fail(run):
        raise UserError("scores are not finite")

    with monkeypatch.context() as patch:
        patch.setattr(loop, "validate", fail)
        says(capsys, train(place, "failed", *SHORT), "scores are not finite")
    assert Checkpoints(str(place / "failed")).latest == 4
    assert train(place, "failed", *SHORT) == 0


@pytest.mark.parametrize(
    ("out", "message"), [("none/r.json", "there is no folder"), ("", "cannot be written")]
)
def test_evaluate_finds_at_once_that_it_cannot_write(place, tmp_path, monkeypatch, capsys, out, message):
    monkeypatch.setattr("jax_itm.load", lambda *_, **__: pytest.fail("loaded before the check"))
    command = ["evaluate", "--workdir", str(place / "run"), "--split", "dev", "--out", str(tmp_path / out)]
    says(capsys, main(command), "--out", message)


def test_evaluate_keeps_its_result_and_takes_val_where_there_is_no_test(place, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(place / "run", run)
    assert main(["evaluate", "--workdir", str(run)]) == 0
    said = capsys.readouterr().out
    assert "precomp dev, 8 images" in said and f"Written to {run}/result-dev.json" in said
    result = json.loads((run / "result-dev.json").read_text())
    assert result["protocol"]["split"] == "dev" and 0 <= result["rsum"] <= 600
    assert main(["report", str(run), "--out", str(tmp_path / "report.png")]) == 0  # finds it
    other = other_data(place, "with_test", train=20, dev=8, test=4).partition("=")[2]
    named = ["--data", "precomp", "--data_dir", other]
    assert main(["evaluate", "--workdir", str(run), *named]) == 0
    assert f"{run}/result-precomp-test.json" in capsys.readouterr().out


def test_the_data_of_a_run_are_in_its_checkpoint(place):
    checkpoints = Checkpoints(str(place / "run"))
    facts = checkpoints.read_description(checkpoints.latest).facts
    assert set(facts.data) == {"train", "validation"}
    assert json.loads(json.dumps(facts.to_dict()))["data"] == dict(facts.data)
