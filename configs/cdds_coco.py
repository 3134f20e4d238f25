"""CDDS as published, on COCO: as Flickr30k's (`configs/cdds_f30k.py`), other data:

    python -m jax_itm prepare coco --data_dir data/coco [--source DIR]

Published rSum, 1K / 5K (ViT-224, ViT-384, Swin-224, Swin-384; the paper's numbers, not ours):

    VSE++   514.6 / 413.4   523.0 / 425.8   540.9 / 460.9   542.1 / 462.2
    LAPS    526.3 / 434.4   531.0 / 442.2   541.1 / 465.8   544.1 / 470.1
    CDDS    528.7 / 437.8   532.6 / 444.4   545.1 / 467.7   548.6 / 472.1
"""

from configs.cdds_f30k import get_config as f30k


def get_config(arg: str = ""):
    config = f30k(arg)
    config.name = config.name.replace("f30k", "coco")
    config.data.name, config.data.data_dir = "coco", "data/coco"
    config.evaluate.protocol = "folds"
    return config
