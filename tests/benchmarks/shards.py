"""Sets in shards: how fast they are prepared, and what ten million rows cost a process that trains.

    python tests/benchmarks/shards.py prepare [IMAGES]
    python tests/benchmarks/shards.py train [ROWS]

`prepare` makes tar and parquet files of IMAGES (4,000) pictures of 500 x 375, and prepares each with one
process, of which it counts the CPU seconds: the machine may do other things. `train` makes a set of ROWS
(10,000,000) rows, in shards that are hard links to one, whose captions and pictures are therefore those of
4,096 images; order, index and open files are those of the whole.
"""

import io
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import numpy as np
import webdataset
from PIL import Image

from jax_itm.data.batches import BatchOptions, train_batches
from jax_itm.data.image_transforms import ImageTransform
from jax_itm.data.preparation import prepare
from jax_itm.data.prepared import VERSION, open_split
from jax_itm.data.shard_preparation import ShardOptions
from jax_itm.data.shard_writer import IMAGES_A_SHARD
from jax_itm.data.shards import CAPTIONS, INDEX, RECORDS
from jax_itm.data.tokenizer import Tokenizer
from tests.helpers.shards import FLICKR, jpeg, write_parquet

DISTINCT = 50  # pictures that are made; the others are these with other captions


def main() -> None:
    command, *rest = sys.argv[1:]
    if command == "one":
        prepare_one(*rest)
        return
    number = int(rest[0]) if rest else {"prepare": 4000, "train": 10_000_000}[command]
    with tempfile.TemporaryDirectory() as folder:
        {"prepare": measure_preparation, "train": measure_training}[command](Path(folder), number)


def pictures() -> list[bytes]:
    """JPEGs of 500 x 375 with the size of photographs: noise of a few sizes."""
    made = []
    for k in range(DISTINCT):
        pixels = np.zeros((375, 500, 3))
        for scale in (4, 16, 64):
            picture = Image.fromarray(
                np.random.default_rng((k, scale)).integers(0, 255, (scale, scale, 3), np.uint8)
            )
            pixels += np.asarray(picture.resize((500, 375), Image.Resampling.BICUBIC), float)
        noise = np.random.default_rng(k).normal(0, 12, pixels.shape)
        file = io.BytesIO()
        Image.fromarray(np.clip(pixels / 3 + noise, 0, 255).astype(np.uint8)).save(file, "JPEG", quality=85)
        made.append(file.getvalue())
    return made


def resident() -> float:
    """MiB of this process that are in memory now and in no file."""
    text = Path("/proc/self/status").read_text()
    return int(text.split("RssAnon:")[1].split()[0]) / 1024


def measure_preparation(folder: Path, images: int) -> None:
    """Prints, for each layout and grouping, pictures and megabytes a second, and the peak of memory."""
    made = pictures()
    size = sum(map(len, made)) / len(made)
    write_tars(folder / "webdataset", made, images)
    rows = [
        {"image": {"bytes": made[k % DISTINCT], "path": f"{k}.jpg"}, "caption": [f"picture {k}"] * 5,
         "sentids": [], "split": "train", "img_id": str(k), "filename": f"{k}.jpg"}
        for k in range(images)
    ]  # fmt: skip
    write_parquet(folder / "huggingface", (FLICKR, rows), shards=4)
    del rows
    print(f"{images:,} pictures of {size / 1024:.0f} KiB\n")
    print("| layout, options | pictures a CPU second | MB | peak MiB |\n| --- | ---: | ---: | ---: |")
    cases = [("webdataset", {}), ("huggingface", {"group": "none"}), ("huggingface", {"group": "key"}),
             ("webdataset", {"decode": True})]  # fmt: skip
    for number, (name, options) in enumerate(cases):
        arguments = [name, str(folder / str(number)), str(folder / name), json.dumps(options)]
        done = subprocess.run([sys.executable, __file__, "one", *arguments], capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(done.stderr)
        seconds, peak = map(float, done.stdout.split())
        said = ", ".join([name, *(f"{k}={v}" for k, v in options.items())])
        print(f"| {said} | {images / seconds:,.0f} | {images * size / seconds / 1e6:.0f} | {peak:.0f} |")


def prepare_one(name: str, data_dir: str, source: str, options: str) -> None:
    """Prints the CPU seconds of a preparation, and the peak of memory in MiB."""
    start = time.process_time()
    prepare(name, data_dir, source, shards=ShardOptions(**json.loads(options)))
    peak = Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]
    print(time.process_time() - start, int(peak) / 1024)


def write_tars(folder: Path, made: list[bytes], images: int) -> None:
    """Four tar files in img2dataset's layout."""
    folder.mkdir()
    captions = [f"picture {k}" for k in range(images)]
    for shard in range(4):
        write_tar(folder / f"{shard:05d}.tar", made, range(shard, images, 4), captions)


def write_tar(file: Path, made: list[bytes], images: range, captions: list[str]) -> None:
    with webdataset.TarWriter(str(file)) as tar:
        for k in images:
            sample = {"__key__": f"{k:09d}", "jpg": made[k % DISTINCT], "txt": captions[k]}
            tar.write(sample | {"json": {"caption": captions[k], "key": f"{k:09d}"}})


def measure_training(folder: Path, rows: int) -> None:
    """Prints start time, resident memory and batches a second of a set of `rows` rows."""
    make_set(folder, rows)
    options = BatchOptions(256, seed=0, max_words=32, max_regions=1, transform=ImageTransform((32, 32)))
    before = resident()
    start = time.perf_counter()
    split = open_split("webdataset", folder / "data", "train", "pixels")
    opened = time.perf_counter() - start
    tokenizer = Tokenizer.fit(split.first_captions(10_000))
    print(f"{len(split):,} rows in {len(split.shards.shards):,} shards: opened in {opened:.2f} s")
    epoch = rows // options.batch_size
    for step in (0, epoch // 2, 3 * epoch + 1):
        start = time.perf_counter()
        batches = train_batches(split, tokenizer, options, first_step=step)
        next(batches)
        first = time.perf_counter() - start
        for _ in range(150):
            next(batches)
        rate = 150 / (time.perf_counter() - start - first)
        batches.close()
        grown = resident() - before
        pairs = rate * options.batch_size
        print(
            f"from step {step:,}: first batch after {first:.2f} s, {pairs:,.0f} pairs/s, {grown:.0f} MiB more"
        )
    print(f"peak of the process {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")


def make_set(folder: Path, rows: int) -> None:
    """A prepared set of one shard, then as many hard links to it as `rows` need."""
    words = np.random.default_rng(0).integers(0, 5000, (IMAGES_A_SHARD, 8))
    captions = [" ".join(f"w{word}" for word in row) for row in words]
    (folder / "raw" / "train").mkdir(parents=True)
    (folder / "raw" / "val").mkdir()
    made = [jpeg(k, (64, 48)) for k in range(DISTINCT)]
    write_tar(folder / "raw" / "train" / "0.tar", made, range(IMAGES_A_SHARD), captions)
    write_tar(folder / "raw" / "val" / "0.tar", made, range(1), captions)
    prepare("webdataset", folder / "data", folder / "raw", shards=ShardOptions(group="none"))
    path = folder / "data" / "webdataset" / VERSION
    index = json.loads((path / INDEX).read_text())
    (name, *facts) = index["splits"]["train"]["shards"][0]
    shards = []
    for k in range(-(-rows // facts[0])):
        for suffix in (RECORDS, CAPTIONS):
            os.link(path / (name + suffix), path / f"made-{k:06d}{suffix}")
        shards.append([f"made-{k:06d}", *facts])
    index["splits"]["train"]["shards"] = shards
    (path / INDEX).write_text(json.dumps(index))


if __name__ == "__main__":
    main()
