"""Tokens of frozen backbones, computed once: what they save changes no number beyond their 16 bits."""

import json
import pickle
import shutil

import numpy as np
import pytest

import jax_itm
from jax_itm.cli.main import main
from jax_itm.data import token_cache
from jax_itm.data.prepared import open_split
from jax_itm.evaluation import evaluate
from jax_itm.inference.token_cache import attach_tokens
from jax_itm.models import Bert
from tests.helpers.cluster import run
from tests.helpers.golden_encoders import RUN, written
from tests.helpers.tiny_run import write_precomp


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Prepared data, a tiny BERT, and a config that wants its tokens cached."""
    place = tmp_path_factory.mktemp("encode")
    source = write_precomp(place / "raw", {"train": 12, "dev": 6})
    words = iter("abcdefghijklmnop" * 100)
    for split in ("train", "dev"):
        file = source / f"{split}_caps.txt"
        lines = [" ".join(next(words) for _ in line.split()) for line in file.read_text().splitlines()]
        file.write_text("\n".join(lines) + "\n")
    written("bert", place / "bert")
    (place / "tiny.py").write_text(
        RUN.replace("return config", f"config.data.data_dir = '{place}/data'\n    return config").replace(
            "return config", f"config.text.path = '{place}/bert'\n    return config"
        )
    )
    assert main(["prepare", "precomp", "--source", str(source), "--data_dir", str(place / "data")]) == 0
    return place


def call(place, *command, cached=True):
    return main([*command, "--config", f"{place}/tiny.py", f"--config.text.cached={cached}"])


def test_a_run_on_cached_tokens_is_the_run_on_the_backbone(place, capsys, monkeypatch):
    assert call(place, "train", "--workdir", f"{place}/early") == 2
    assert (
        "precomp/train was not encoded by this backbone: python -m jax_itm prepare --encode"
        in capsys.readouterr().err
    )
    assert call(place, "prepare", "--encode") == 0
    assert "train, text: 60 items" in capsys.readouterr().out
    files = sorted(p.name for p in (place / "data").rglob("tokens/*/*"))
    assert len(files) == 4 and not any("partial" in name for name in files)
    assert call(place, "train", "--workdir", f"{place}/plain", cached=False) == 0

    seen = []
    full = Bert.__call__
    monkeypatch.setattr(
        Bert, "__call__", lambda self, text, train=False: seen.append(0) or full(self, text, train)
    )
    assert call(place, "train", "--workdir", f"{place}/cached") == 0
    traced = len(seen)  # to make parameters; no step and no validation runs it
    shutil.move(place / "bert", place / "away")  # the run has what it needs of it
    for name in ("plain", "cached"):
        out = f"{place}/{name}.json"
        assert main(["evaluate", "--workdir", f"{place}/{name}", "--split", "dev", "--out", out]) == 0
    shutil.move(place / "away", place / "bert")
    assert len(seen) > traced  # the plain run's evaluation does
    plain, cached = (json.loads((place / f"{name}.json").read_text()) for name in ("plain", "cached"))
    lines = [
        [json.loads(line) for line in (place / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("plain", "cached")
    ]
    np.testing.assert_allclose(
        *[[x["train/loss"] for x in of if "train/loss" in x] for of in lines], rtol=1e-3
    )
    assert plain["protocol"] | {"step": 0} == cached["protocol"] | {"step": 0}

    matcher = jax_itm.load(f"{place}/cached")
    split = open_split("precomp", f"{place}/data", "dev", "regions")
    by_backbone = np.asarray(matcher.encode_texts(split.captions()))
    [copy] = attach_tokens(matcher.description, matcher.params, (split,), required=True)
    by_cache = np.asarray(matcher.encode_texts(split.captions(), copy.tokens["text"]))
    np.testing.assert_allclose(by_cache, by_backbone, atol=2e-3)
    evaluate.encode_split(matcher, split)
    assert not split.tokens  # another run, with another backbone, may read it next


def test_several_processes_find_the_tokens_of_a_backbone_that_is_split(place):
    """Of which with `config.fsdp` each holds a part."""
    assert call(place, "prepare", "--encode") == 0
    small = "from jax_itm.distributed import mesh\n\nmesh.MIN_SHARDED_SIZE = 1000\n"
    (place / "split.py").write_text(small + (place / "tiny.py").read_text())
    fields = "--config.text.cached=True", "--config.fsdp=True"
    status, said = run(["train", "--config", f"{place}/split.py", *fields, "--workdir", f"{place}/split"])
    assert status == [0, 0], said


def test_encoding_again_computes_nothing_and_other_settings_their_own(place, capsys):
    assert call(place, "prepare", "--encode") == 0
    before = sorted((place / "data").rglob("tokens/*/*"))
    times = [file.stat().st_mtime_ns for file in before]
    assert call(place, "prepare", "--encode") == 0
    assert [file.stat().st_mtime_ns for file in before] == times
    assert (
        main(
            [
                "prepare",
                "--encode",
                "--config",
                f"{place}/tiny.py",
                "--config.text.cached=True",
                "--config.data.max_words=6",
            ]
        )
        == 0
    )
    assert len(sorted((place / "data").rglob("tokens/*/*"))) == 2 * len(before)
    assert call(place, "prepare", "--encode", cached=False) == 2
    assert "config.text.cached and config.image.cached are both False" in capsys.readouterr().err
    assert main(["prepare", "precomp", "--encode"]) == 2
    assert "--encode: needs --config" in capsys.readouterr().err


def test_tokens_are_all_or_none(tmp_path):
    place, rng = str(tmp_path / "a" / "train-text"), np.random.default_rng(0)
    items = [rng.normal(size=(n, 3)).astype(np.float16) for n in (2, 1, 4)]
    with pytest.raises(KeyboardInterrupt), token_cache.token_writer(place) as add:
        add(items[0], np.array([2]))
        raise KeyboardInterrupt
    assert token_cache.open_tokens(place) is None
    with token_cache.token_writer(place) as add:
        add(np.concatenate(items[:2]), np.array([2, 1]))
        add(items[2], np.array([4]))
    tokens = pickle.loads(pickle.dumps(token_cache.open_tokens(place)))  # Grain's workers get it so
    assert len(tokens) == 3
    for k, item in enumerate(items):
        np.testing.assert_array_equal(item, tokens[k])
    padded = token_cache.pad_tokens([tokens[1], tokens[0]], 2)
    np.testing.assert_array_equal(padded[0], [items[1][0], np.zeros(3)])
    with open(f"{place}.tokens", "ab") as file:
        file.write(b"\0\0")
    with pytest.raises(token_cache.UserError, match="damaged; remove it and encode again"):
        token_cache.open_tokens(place)
