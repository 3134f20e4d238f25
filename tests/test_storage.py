"""A run's files in a bucket: a stand-in for Google's, which like it takes whole files only."""

import importlib.util
import json

import fsspec
import pytest
from fsspec.implementations.local import LocalFileSystem

from jax_itm.data.prepared import open_split
from jax_itm.errors import UserError
from jax_itm.storage import AppendableFolder, as_path, local_path, replacing
from jax_itm.train.logger import Logger


class Bucket(LocalFileSystem):
    """gs://NAME/.. as the folder ROOT/NAME/..; there is no appending."""

    root = ""

    def __init__(self, finalize_on_close: bool = False, **options):
        super().__init__(**{"auto_mkdir": True, **options})

    @classmethod
    def _strip_protocol(cls, path):
        path = str(path).removeprefix("gs://").rstrip("/")
        return path if path.startswith(cls.root) else f"{cls.root}/{path}"

    def _open(self, path, mode="rb", **options):
        assert "a" not in mode, "a bucket's files cannot be appended to"
        return super()._open(path, mode, **options)


@pytest.fixture
def buckets(tmp_path, monkeypatch):
    """The folder of the stand-in's buckets."""
    (tmp_path / "gcsfs.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(Bucket, "root", str(tmp_path / "buckets"))
    fsspec.register_implementation("gcs", Bucket, clobber=True)
    return tmp_path / "buckets"


def scalars(loss: float) -> dict[str, float]:
    return {"loss": loss, "step_seconds": 0.1}


def test_logs_in_a_bucket_hold_every_step_once(buckets):
    where, result = "gs://mine/runs/a", {"rsum": 300.0, "i2t/r1": 40.0, "t2i/r1": 30.0}
    log = Logger(where, 6).__enter__()
    log.train(1, scalars(1.0))
    log.evaluation(2, result)
    log.train(3, scalars(1.0))  # preempted here: the log is never closed
    assert len((buckets / "mine/runs/a/metrics.jsonl").read_text().splitlines()) == 2
    with Logger(where, 6, first_step=2) as log:
        log.train(4, scalars(2.0))
    lines = [json.loads(line) for line in (as_path(where) / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 4] and lines[1]["val/rsum"] == 300
    assert len(list((buckets / "mine/runs/a/tensorboard").glob("events*"))) >= 1


def test_a_file_in_a_bucket_is_replaced_whole(buckets):
    out = as_path("gs://mine/result.json")
    for text in ("first", "second"):
        with replacing(out) as partial:
            partial.write_text(text)
    assert out.read_text() == "second" and [p.name for p in (buckets / "mine").iterdir()] == ["result.json"]


def test_what_fails_while_it_is_written_leaves_the_old_file(tmp_path):
    out = tmp_path / "result.json"
    out.write_text("old")
    with pytest.raises(RuntimeError), replacing(out) as partial:
        partial.write_text("ne")
        raise RuntimeError
    assert out.read_text() == "old" and list(tmp_path.iterdir()) == [out]


def test_a_folder_is_written_in_place(tmp_path):
    folder = AppendableFolder(str(tmp_path))
    assert folder.path == tmp_path and folder.fetch("metrics.jsonl") == tmp_path / "metrics.jsonl"
    folder.sync()
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_read_is_refused():
    with pytest.raises(
        UserError, match="s3://b/run: the only buckets that can be read and written are gs://"
    ):
        as_path("s3://b/run")
    with pytest.raises(UserError, match=r"--data_dir gs://b/data: data are written to a local disk"):
        local_path("gs://b/data", "--data_dir")
    if not importlib.util.find_spec("gcsfs"):
        with pytest.raises(UserError, match="gs://b/run: needs the package gcsfs"):
            as_path("gs://b/run")
        with pytest.raises(UserError, match=r"--data_dir gs://b/data/scenes/.*: cannot be read .*gcsfs"):
            open_split("scenes", "gs://b/data", "test", "regions")
