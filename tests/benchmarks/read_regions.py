"""How fast region features are read: this pipeline, TFDS's own reader, and plain files.

Run by hand: `python tests/benchmarks/read_regions.py [images]`. It writes that many images of
36 x 2048 float16 regions (147 KB each) to a temporary folder and reads all of them, in each way,
several times in turns, so that another load on the machine meets every way alike. It prints the
median rate of each as a Markdown table. The files are in the page cache: this is what reading
costs the processor.
"""

import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).parents[2]))

import numpy as np
import tensorflow_datasets as tfds

from jax_itm.data.batches import BatchOptions, train_batches
from jax_itm.data.image_transforms import ImageTransform
from jax_itm.data.preparation import prepare
from jax_itm.data.prepared import open_split
from jax_itm.data.tokenizer import Tokenizer

REGIONS, DIM, BATCH, TURNS = 36, 2048, 128, 7


def write_raw(folder: Path, images: int) -> None:
    """SCAN's layout; half of the values are 0, as after the ReLU of a Faster R-CNN."""
    folder.mkdir()
    random = np.random.default_rng(0)
    shape = (images, REGIONS, DIM)
    regions = np.lib.format.open_memmap(folder / "train_ims.npy", "w+", np.float16, shape)
    for i in range(images):
        regions[i] = np.maximum(random.standard_normal(shape[1:], np.float32), 0)
    regions.flush()
    captions = "A man in a red coat walks a small dog across the road .\n" * (5 * images)
    (folder / "train_caps.txt").write_text(captions)
    np.save(folder / "boxes.npy", np.tile(np.float32([0, 0, 1, 1]), (REGIONS, 1)))


class TFRecord(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """The same records in TFDS's usual format, with its usual features."""

    VERSION = tfds.core.Version("1.0.0")
    url_infos = None

    def __init__(self, split, data_dir):
        self._split = split
        super().__init__(data_dir=data_dir, file_format="tfrecord")

    def _info(self):
        features = {
            "captions": tfds.features.Sequence(tfds.features.Text()),
            "regions": tfds.features.Tensor(shape=(None, DIM), dtype=np.float16, encoding="bytes"),
            "boxes": tfds.features.Tensor(shape=(None, 4), dtype=np.float32, encoding="bytes"),
        }
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict(features), disable_shuffling=True
        )

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        for i in range(len(self._split)):
            yield i, self._split.record(i)


def main(images: int) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_raw(folder / "raw", images)
        prepare("precomp", folder / "data", folder / "raw")
        split = open_split("precomp", folder / "data", "train", "regions")
        tfrecord = TFRecord(split, folder / "tfds")
        tfds.disable_progress_bar()
        tfrecord.download_and_prepare(download_dir=folder / "downloads")
        memmap = np.load(folder / "raw" / "train_ims.npy", mmap_mode="r")
        order = np.random.default_rng(1).permutation(images)
        tokenizer = Tokenizer.fit(split.captions())
        options = BatchOptions(BATCH, 0, max_words=32, max_regions=REGIONS, transform=ImageTransform(()))
        batches = train_batches(split, tokenizer, options)

        def train():
            steps = 4 * images // BATCH
            return sum(len(next(batches)["image_id"]) for _ in range(steps))

        def records():
            return sum(len(split.record(int(i))["regions"]) > 0 for i in order)

        def as_numpy():
            return sum(1 for _ in tfds.as_numpy(tfrecord.as_dataset(split="train")))

        def plain():
            return sum(len(np.array(memmap[i])) > 0 for i in order)

        ways = {
            f"`train_batches`, batches of {BATCH}, random order, with captions": train,
            "`Split.record`, one by one, random order": records,
            "`tfds.as_numpy(builder.as_dataset())`, TFRecord, one by one, in order": as_numpy,
            "`numpy.memmap`, one by one, random order": plain,
        }
        list(tfds.as_numpy(tfrecord.as_dataset(split="train").take(1)))  # TensorFlow starts
        rates: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(TURNS):
            for name, read in ways.items():
                if read is train:
                    for _ in range(8):  # spend what was read ahead meanwhile
                        next(batches)
                start = time.perf_counter()
                count = read()
                rates[name].append(count / (time.perf_counter() - start))
                time.sleep(0.2)  # reading ahead ends, so that it slows no other way
    medians = {name: statistics.median(actual) for name, actual in rates.items()}
    base = next(rate for name, rate in medians.items() if "as_numpy" in name)
    print(f"{images} images of {REGIONS} x {DIM} float16, {os.cpu_count()} processors\n")
    print("| reader | images/s | MB/s | times `as_numpy` |\n| --- | ---: | ---: | ---: |")
    for name, rate in medians.items():
        megabytes = rate * REGIONS * DIM * 2 / 1e6
        print(f"| {name} | {rate:,.0f} | {megabytes:,.0f} | {rate / base:.1f} |")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000)
