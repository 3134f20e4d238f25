"""IAIS on COCO, from UNITER's features and weights; see `iais_f30k.py`. `size=large` takes a lower rate."""

from configs.iais_f30k import setting
from jax_itm.config import default, options


def get_config(arg: str = ""):
    given = options(arg, size="base", start="", alignment="singular")
    config = setting(default("iais"), given["size"])
    config.name, config.start = "iais_coco", given["start"]
    config.method.alignment = given["alignment"]
    config.data.data_dir = "data/coco"
    if given["size"] == "large":
        config.optimizer.lr = 3e-5
    return config
