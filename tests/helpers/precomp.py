"""Region features in SCAN's layout."""

import numpy as np

BOXES = np.array([[0, 0, 0.5, 1], [0.5, 0, 1, 1], [0, 0, 1, 1]], np.float32)


def write_precomp(folder, splits=("train", "dev"), images=4, each=5, repeat=1, ids=True):
    """SCAN's layout; returns the regions of each split, one row an image."""
    folder.mkdir(exist_ok=True)
    regions_of = {}
    for k, split in enumerate(splits):
        regions = np.random.default_rng(k).normal(size=(images, 3, 8)).astype(np.float32)
        regions_of[split] = regions.astype(np.float16)
        np.save(folder / f"{split}_ims.npy", np.repeat(regions, repeat, axis=0))
        lines = [f"{split} image {i} caption {c}\n" for i in range(images) for c in range(each)]
        (folder / f"{split}_caps.txt").write_text("".join(lines))
        if ids:
            names = "".join(f"{split}{i}.jpg\n" for i in range(images))
            (folder / f"{split}_ids.txt").write_text(names)
    np.save(folder / "boxes.npy", BOXES)
    return regions_of
