"""CDDS on Flickr8k grid features in SCAN's layout: minutes on two cores. Arguments as `cdds_scenes.py`."""

from configs.cdds_f30k import ablated
from configs.dias_f8k import setting
from jax_itm.config import default, options


def get_config(arg: str = ""):
    given = options(arg, preset="practical", without="", method="cdds")
    config = setting(default(given["method"]))
    config.name, config.batch_size, config.dim = "cdds_f8k", 64, 128
    config.image.pooling = config.text.pooling = "mean"
    if given["method"] != "cdds":  # the same encoders with a plain contrast
        config.name = "cdds_f8k-baseline"
        return config
    method = config.method
    method.layers, method.heads, method.mlp, method.noises = 1, 4, 2, 1
    return ablated(config, given["preset"], given["without"])
