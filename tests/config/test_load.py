"""What a person may type wrongly, and durations."""

import shutil

import pytest

from jax_itm.config import (
    PRESETS,
    check,
    default,
    explain,
    flatten,
    from_dict,
    from_json,
    options,
    read,
    to_json,
)
from jax_itm.config.loss_fields import LOSSES
from jax_itm.config.reference import reference
from jax_itm.data.tokenizer import Tokenizer
from jax_itm.durations import steps_of
from jax_itm.errors import UserError
from jax_itm.losses import components, dimension, sampling, spatial, triplets
from tests.helpers.paths import ROOT

CONFIG = "configs/dias_scenes.py"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("batch_sise=4", "batch_sise: no such field; did you mean 'batch_size'"),
        ("optimizer.lrr=1", "did you mean 'optimizer.lr'"),
        ("batch_size=abc", "batch_size=abc: must be of type int"),
        ("dim=1.5", "dim=1.5: must be of type int"),
        ("image.boxes=3", "image.boxes=3: must be True or False"),
        ("losses.triplet.negatives=nearest", "losses.triplet.negatives='nearest': must be one of"),
        ("duration=30", 'write "1000 steps"'),
        ("micro_batches=3", "does not divide config.batch_size=128"),
        ("evaluate.every=0 epochs", "evaluate.every='0 epochs': must be at least one step"),
        ("similarity.schedule=rings", "similarity.schedule='rings': must be one of"),
        ("similarity.tile=-1", "similarity.tile=-1: must be at least 0"),
        ("evaluate.images=-1", "evaluate.images=-1: must be at least 0"),
        ("batch_size=0", "batch_size=0: must be at least 1"),
        ("data.max_words=2", "max_words=2: must be at least 3"),
        ("data.modality=pixels", "reads config.data.modality='regions'"),
        ("losses.spatial.learn_alpha=True", "needs config.losses.spatial.mask='soft'"),
        ("losses.dimension.weight=-1", "weight=-1.0: must be at least 0"),
        ("losses.info_nse.weight=1", "did you mean 'losses.info_nce.weight'"),
        ("losses.decoupling.weight=1", "needs config.head.name='unet', not 'none'"),
        ("losses.triplet.cutoff=nan", "cutoff=nan: must be"),
        ("optimizer.betas=(0.9,)", "must be two numbers from 0 to below 1"),
        ("optimizer.freeze=('(',)", "is no regular expression"),
        ("image.drop=1", "image.drop=1.0: must be below 1"),
        ("image.drop={[]:1}", "must be of type float"),
        ("image.width=70000", "image.width=70000: must be at most 65536"),
        ("optimizer.lr=True", "optimizer.lr=True: must be of type float"),
        ("optimizer.lr=" + "9" * 400, "must be of type float"),
        ("seed=" + "9" * 400, "must be at most"),
        ("batch_size=" + "-" * 100_000 + "1", "must be of type int"),
        ("duration=1.2.3 steps", 'write "1000 steps"'),
        ("duration=1e400 steps", "more than 2,147,483,647 steps"),
        ("start=" + "x" * 300, "no file can be called so"),
        ("imports=('.x',)", "must be a tuple of names of modules"),
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
        (f"{CONFIG}:modalty=pixels", "did you mean 'modality'"),
        ("configs/contrastive_scenes.py:method=infonce", "did you mean 'info_nce'"),
        ("configs/cdds_scenes.py:preset=best", "preset=best: paper, practical or light"),
        ("configs/cdds_f8k.py:preset=light,without=noise", "without=noise: not with preset=light"),
        ("configs/cdds_coco.py:without=nose", "without=nose: one of decoupling, modality, fit"),
    ],
)
def test_a_wrong_file_or_argument(path, message):
    with pytest.raises(UserError, match=message):
        read(path, [])


def test_the_light_preset_of_cdds_is_infonce_with_sampling():
    light = flatten(read("configs/cdds_f8k.py:preset=light", []))
    plain = flatten(read("configs/cdds_f8k.py:method=info_nce", ["--config.losses.sampling.weight=0.1"]))
    assert light | {"name": ""} == plain | {"name": ""}


def test_a_typo_inside_a_config_file(tmp_path):
    (tmp_path / "mine.py").write_text(
        "from jax_itm.config import default\ndef get_config():\n"
        "    c = default('dias')\n    c.optimizer.learning_rate = 1\n    return c\n"
    )
    with pytest.raises(UserError, match="learning_rate"):
        read(str(tmp_path / "mine.py"), [])


def test_overrides_keep_their_types():
    actual = read(
        CONFIG,
        [
            "--config.optimizer.lr=1",
            "--config.losses.dimension.weight=0",
            "--config.optimizer.step_at=('1 epochs','2 epochs')",
            "--config.name=007",
            "--config.image.boxes=False",
        ],
    )
    assert actual.optimizer.lr == 1.0 and isinstance(actual.optimizer.lr, float)
    assert actual.optimizer.step_at == ("1 epochs", "2 epochs")
    assert actual.name == "007" and actual.image.boxes is False and actual.losses.dimension.weight == 0


def test_every_config_file_reads_and_survives_json():
    from pathlib import Path

    files = [p for p in sorted(Path("configs").glob("*.py")) if "def get_config" in p.read_text()]
    assert len(files) >= 14
    for file in files:
        config = read(str(file), [])
        assert from_json(to_json(config)) == config
        assert config.name == file.stem


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda saved: saved["image"].pop("drop"), "it lacks config.image.drop"),
        (lambda saved: saved.update(speed=1), "it has config.speed"),
        (lambda saved: saved.pop("preset"), "it has no field config.preset"),
    ],
)
def test_a_config_of_another_version_is_refused(change, message):
    saved = default("dias").to_dict()
    change(saved)
    with pytest.raises(UserError, match=message):
        from_dict(saved)


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


@pytest.mark.parametrize("preset", PRESETS)
def test_every_default_is_a_value_that_its_field_allows(preset):
    check(default(preset))


def test_the_choices_of_a_loss_are_those_of_its_field():
    """They are listed twice, because a config is read without importing JAX."""
    assert LOSSES["triplet"]["negatives"].choices == triplets.NEGATIVES
    assert LOSSES["spatial"]["select_on"].choices == spatial.SELECT_ON
    assert LOSSES["dimension"]["form"].choices == dimension.FORMS
    assert LOSSES["dimension"]["phi"].choices == tuple(dimension.PHI)
    assert LOSSES["decoupling"]["modality_form"].choices == components.MODALITY_FORMS
    for name, choices in sampling.CHOICES.items():
        assert LOSSES["sampling"][name].choices == tuple(choices)


@pytest.mark.parametrize("name", ["data.max_words", "data.min_count", "data.vocab_size", "data.tokenizer"])
@pytest.mark.parametrize("value", [None, -1, 0, 1, 2, 3, 10**9, 1e9, "", "wordpiece", []])
def test_what_a_tokenizer_is_told_is_refused_or_works(name, value):
    """The check is not all: what it accepts must also run."""
    config = default("info_nce").unlock()
    with config.data.ignore_type():
        config.data[name.removeprefix("data.")] = value
    try:
        check(config)
        data = config.data
        fitted = Tokenizer.fit(["a dog", "a cat"], data.tokenizer, data.min_count, data.vocab_size)
    except UserError as error:
        assert "\n" not in str(error) and f"config.{name}" in str(error)
        return
    ids, mask = fitted.encode(["a dog runs far", ""], min(data.max_words, 100))
    assert mask.any(axis=1).all() and ids.max() < len(fitted)


def test_explain_says_where_each_value_comes_from():
    rows = {row.name: row for row in explain(CONFIG, ["--config.seed=3"])}
    assert rows["seed"].source == "override" and rows["seed"].value == 3
    assert rows["duration"].source == "file"
    assert rows["losses.triplet.negatives"].source == "preset"
    assert rows["optimizer.eps"].source == "default"
    assert all(row.help for row in rows.values())


def test_the_documentation_is_what_the_fields_say():
    text = (ROOT / "docs" / "configuration.md").read_text()
    assert text == reference(), "python -m jax_itm.config.reference > docs/configuration.md"


def test_a_config_from_another_folder(tmp_path, monkeypatch):
    shutil.copytree("configs", tmp_path / "configs")
    monkeypatch.chdir(tmp_path)
    assert read("configs/contrastive_scenes.py", []).preset == "info_nce"
