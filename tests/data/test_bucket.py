"""A prepared set at a URL: its shards are copied when they are first read, once."""

import itertools
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import fsspec
import pytest

from jax_itm.data.batches import BatchOptions, train_batches
from jax_itm.data.bucket import cached_folder
from jax_itm.data.image_transforms import ImageTransform
from jax_itm.data.preparation import prepare
from jax_itm.data.prepared import VERSION, describe, open_split, splits_of
from jax_itm.data.tokenizer import Tokenizer
from jax_itm.errors import UserError
from tests.data.test_shards import equal
from tests.helpers.shards import flickr_rows, write_parquet

OPTIONS = BatchOptions(4, seed=0, max_words=6, max_regions=1, transform=ImageTransform((8, 8)))


@pytest.fixture
def bucket(tmp_path, monkeypatch):
    """The URL of a set in fsspec's file system in memory, and the folder that it was copied from."""
    monkeypatch.setenv("JAX_ITM_CACHE", str(tmp_path / "cache"))
    raw = write_parquet(tmp_path / "raw", flickr_rows(12, ("train", "val")), shards=3)
    prepare("huggingface", tmp_path / "data", raw)
    memory = fsspec.filesystem("memory")
    memory.put(str(tmp_path / "data"), "/bucket/data", recursive=True)
    yield "memory://bucket/data"
    memory.rm("/bucket", recursive=True)


def take(count, data_dir, **how):
    split = open_split("huggingface", data_dir, "train", "pixels")
    # Closed, or what is read ahead is read from a bucket that has changed, and copied while one looks.
    with closing(train_batches(split, Tokenizer.fit(["red green picture"]), OPTIONS, **how)) as batches:
        return list(itertools.islice(batches, count))


def test_the_same_batches_as_from_a_disk(bucket, tmp_path):
    equal(take(5, bucket), take(5, tmp_path / "data"))
    assert splits_of("huggingface", bucket) == ["train", "val"]
    facts = describe("huggingface", bucket)
    assert facts["path"] == "memory://bucket/data/huggingface/1.0.0"
    assert facts["splits"] == describe("huggingface", tmp_path / "data")["splits"]


def test_what_was_read_is_not_copied_again(bucket, tmp_path):
    expected = take(8, bucket)
    copied = {file.name for file in (tmp_path / "cache").rglob("*.array_record")}
    assert copied == {f"train-{part:06d}-000.array_record" for part in range(3)}  # nothing of val
    fsspec.filesystem("memory").rm("/bucket/data/huggingface/1.0.0/train-000000-000.array_record")
    equal(take(8, bucket), expected)
    shutil.rmtree(tmp_path / "cache")
    with pytest.raises(UserError, match=r"train-000000-000\.array_record: cannot be copied to .*Fil"):
        take(8, bucket)
    whole = lambda: {file.suffix for file in (tmp_path / "cache").rglob("*") if file.is_file()}
    end = time.monotonic() + 30
    while not whole() <= {".json", ".array_record"} and time.monotonic() < end:
        time.sleep(0.1)  # another thread is still copying the next shard
    assert whole() <= {".json", ".array_record"}  # nothing half-copied


def test_threads_that_need_one_file_copy_it_once(bucket, monkeypatch):
    memory = type(fsspec.filesystem("memory"))
    copy, copied = memory.get_file, []

    def slow(self, source, *rest, **how):
        copied.append(source)
        time.sleep(0.1)
        return copy(self, source, *rest, **how)

    monkeypatch.setattr(memory, "get_file", slow)
    folder = cached_folder(bucket, "huggingface", VERSION)
    names = ["train-000000-000.array_record", "train-000001-000.array_record"] * 4
    with ThreadPoolExecutor(8) as pool:
        files = set(pool.map(folder.file, names))
    assert sorted(file.name for file in files) == names[:2] and len(copied) == 2


def test_a_set_that_was_prepared_anew_is_read_anew(bucket, tmp_path):
    first = take(1, bucket)
    raw = write_parquet(tmp_path / "raw2", flickr_rows(20, ("train", "val")), shards=3)
    prepare("huggingface", tmp_path / "data2", raw)
    memory = fsspec.filesystem("memory")
    memory.rm("/bucket/data", recursive=True)
    memory.put(str(tmp_path / "data2"), "/bucket/data", recursive=True)
    assert len(open_split("huggingface", bucket, "train", "pixels")) == 10
    assert len(first) == 1


def test_what_is_refused(bucket):
    with pytest.raises(UserError, match=r"no folder/1\.0\.0/shards\.json there; .*only sets in"):
        open_split("folder", bucket, "train", "pixels")
    with pytest.raises(UserError, match=r"nosuch://b/huggingface.*: cannot be read"):
        open_split("huggingface", "nosuch://b", "train", "pixels")
    with pytest.raises(UserError, match="data are written to a local disk"):
        prepare("huggingface", "gs://b/data", "DIR")
