"""Region features in tab-separated base64, as bottom-up attention and LXMERT write them."""

import base64
import json

import numpy as np

NAMES = ("COCO_train2014_000000000009.jpg", "COCO_val2014_000000000042.jpg")

SIX = ("image_id", "image_w", "image_h", "num_boxes", "boxes", "features")

TEN = ("img_id", "img_h", "img_w", "objects_id", "objects_conf", "attrs_id", "attrs_conf", *SIX[3:])

BOXES = np.array([[0, 0, 200, 100], [50, 20, 150.5, 80], [0, 50, 200, 100.5]], np.float32)


def text(array) -> str:
    return base64.b64encode(array.tobytes()).decode()


def tsv_row(image_id, fields, **changes) -> list[str]:
    """A line's cells, of a picture 200 wide and 100 high."""
    features = np.full((3, 5), int(image_id[-2:]), np.float32)
    cells = {"id": image_id, "w": "200", "h": "100", "num_boxes": "3", "boxes": text(BOXES)}
    cells |= {"features": text(features)} | changes
    return [cells.get(field.removeprefix("image_").removeprefix("img_"), "AAAA") for field in fields]


def write_tsv(folder, rows, captions=NAMES, name="features.tsv"):
    folder.mkdir(exist_ok=True)
    (folder / name).write_text("".join("\t".join(cells) + "\n" for cells in rows))
    images = [
        {"filename": image, "filepath": "val2014", "split": split, "sentences": [{"raw": f"Of {image}"}] * 5}
        for image, split in zip(captions, ("train", "test", "test"), strict=False)
    ]
    (folder / "dataset_coco.json").write_text(json.dumps({"images": images}))
    return folder
