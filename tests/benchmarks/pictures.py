"""Decoding pictures: samples a second of training batches from raw images, by threads and by processes.

    python tests/benchmarks/pictures.py --data flickr8k --data_dir data/f8k [--size 224] [--batches 12]

Batches are those that training takes (`train_batches`): decoded, resized and stacked, without augmentation
and with that of VSE++. The peer is the same pictures decoded and resized one after another in this process.
"""

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from jax_itm.data.augment import Augmentation
from jax_itm.data.batches import BatchOptions, train_batches
from jax_itm.data.image_transforms import ImageTransform
from jax_itm.data.images import collate_images
from jax_itm.data.prepared import open_split
from jax_itm.data.tokenizer import Tokenizer

ROWS = 64
AUGMENTED = Augmentation((0.08, 1.0), 0.5)


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True)
    parser.add_argument("--data_dir", required=True)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batches", type=int, default=12, help="that are timed, of each row")
    args = parser.parse_args()
    transform, count = ImageTransform((args.size, args.size)), args.batches
    split = open_split(args.data, args.data_dir, "train", "pixels")
    tokenizer = Tokenizer.fit(split.captions(), "words", 1, 30000)
    print(f"| {args.size} x {args.size} pixels | samples a second |\n| --- | ---: |")
    start = time.perf_counter()
    for k in range(count):
        collate_images([split.image((k * ROWS + i) % len(split)) for i in range(ROWS)], 0, transform)
    print(f"| one after another | {count * ROWS / (time.perf_counter() - start):,.0f} |")
    for workers, augment in ((w, a) for w in (0, 1, 2) for a in (None, AUGMENTED)):
        options = BatchOptions(ROWS, 0, 32, 0, transform, augment)
        batches = train_batches(split, tokenizer, options, workers=workers)
        for _ in range(4):  # the start of processes, and what is read ahead
            next(batches)
        start = time.perf_counter()
        for _ in range(count):
            next(batches)
        name = (f"{workers} processes" if workers else "threads") + (", augmented" if augment else "")
        print(f"| {name} | {count * ROWS / (time.perf_counter() - start):,.0f} |")


if __name__ == "__main__":
    main()
