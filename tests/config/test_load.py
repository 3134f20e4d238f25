"""What a person may type wrongly, and durations."""

import json
import shutil

import pytest

from jax_itm import config as config_lib
from jax_itm.config.load import default, from_json, options, read, to_json
from jax_itm.durations import steps_of
from jax_itm.errors import UserError

CONFIG = "configs/dias_scenes.py"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("batch_sise=4", "batch_sise: no such field; did you mean 'batch_size'"),
        ("optimizer.lrr=1", "did you mean 'optimizer.lr'"),
        ("batch_size=abc", "batch_size=abc: must be of type int"),
        ("dim=1.5", "dim=1.5: must be of type int"),
        ("image.boxes=3", "image.boxes=3: must be True or False"),
        ("method.negatives=nearest", "method.negatives='nearest': must be one of"),
        ("duration=30", 'write "1000 steps"'),
        ("micro_batches=3", "does not divide config.batch_size=128"),
        ("evaluate.every=0 epochs", "evaluate.every='0 epochs': must be at least one step"),
        ("similarity.form=rings", "similarity.form='rings': must be one of"),
        ("similarity.tile=-1", "similarity.tile=-1: must be 0"),
        ("evaluate.images=-1", "evaluate.images=-1: must be 0"),
        ("batch_size=0", "batch_size=0: must be at least 1"),
        ("data.view=pixels", "reads config.data.view='regions'"),
        ("method.learn_alpha=True", "needs config.method.mask='soft'"),
    ],
)
def test_a_wrong_override_is_one_line_that_says_what_is_right(override, message):
    with pytest.raises(UserError, match=message) as error:
        read(CONFIG, [f"--config.{override}"])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("configs/nope.py", "nope.py: no such file"),
        (f"{CONFIG}:vew=pixels", "did you mean 'view'"),
        ("configs/contrastive_scenes.py:method=infonce", "did you mean 'info_nce'"),
        ("configs/cdds_scenes.py:preset=best", "preset=best: paper or practical"),
        ("configs/cdds_coco.py:without=nose", "without=nose: one of decoupling, modal, fit"),
    ],
)
def test_a_wrong_file_or_argument(path, message):
    with pytest.raises(UserError, match=message):
        read(path, [])


def test_a_typo_inside_a_config_file(tmp_path):
    (tmp_path / "mine.py").write_text(
        "from jax_itm.config import default\ndef get_config():\n"
        "    c = default('dias')\n    c.optimizer.learning_rate = 1\n    return c\n"
    )
    with pytest.raises(UserError, match="learning_rate"):
        read(str(tmp_path / "mine.py"), [])


def test_overrides_keep_their_types():
    found = read(
        CONFIG,
        [
            "--config.optimizer.lr=1",
            "--config.method.weights.dim=0",
            "--config.optimizer.step_at=('1 epochs','2 epochs')",
            "--config.name=007",
            "--config.image.boxes=False",
        ],
    )
    assert found.optimizer.lr == 1.0 and isinstance(found.optimizer.lr, float)
    assert found.optimizer.step_at == ("1 epochs", "2 epochs")
    assert found.name == "007" and found.image.boxes is False and found.method.weights.dim == 0


def test_every_config_file_reads_and_survives_json():
    from pathlib import Path

    files = [p for p in sorted(Path("configs").glob("*.py")) if p.name != "__init__.py"]
    assert len(files) >= 6
    for file in files:
        config = read(str(file), [])
        assert from_json(to_json(config)) == config
        assert config.name == file.stem


def test_a_saved_config_that_is_too_old_for_a_field_gets_its_default():
    config = default("dias")
    with config.unlocked():
        config.text.arch = {"kind": "bert"}  # what a start adds stays
    saved = json.loads(to_json(config))
    del saved["image"]["feature_dropout"], saved["sampling"], saved["method"]["weights"]["sampling"]
    saved["dim"] = 7
    config.dim = 7
    assert from_json(json.dumps(saved)) == config


@pytest.mark.parametrize(
    ("duration", "steps"),
    [
        ("7 steps", 7),
        ("2 epochs", 50),
        ("0.1 epochs", 3),
        ("1e2 examples", 25),
        ("1 step", 1),
        ("0 epochs", 0),
    ],
)
def test_durations(duration, steps):
    assert steps_of(duration, 4, 100) == steps


def test_options_of_a_config_file():
    assert options("a=1", a="0", b="2") == {"a": "1", "b": "2"}


def test_every_choice_is_a_field_and_holds_the_defaults():
    fields = {k for name in ("dias", "vsepp", "iais", "cdds") for k in config_lib.flatten(default(name))}
    assert set(config_lib.CHOICES) <= fields


def test_a_config_from_another_folder(tmp_path, monkeypatch):
    shutil.copytree("configs", tmp_path / "configs")
    monkeypatch.chdir(tmp_path)
    assert read("configs/contrastive_scenes.py", []).method.name == "info_nce"
