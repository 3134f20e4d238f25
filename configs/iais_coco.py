"""IAIS on COCO, from UNITER's features and weights; see `iais_f30k.py`. `size=large` takes a lower rate."""

from configs.iais_f30k import setting


def get_config(arg: str = ""):
    config, size = setting("coco", arg)
    if size == "large":
        config.optimizer.lr = 3e-5
    return config
