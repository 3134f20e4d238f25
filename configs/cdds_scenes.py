"""CDDS on the generated scenes: minutes on two cores. `:preset=paper|practical`, `:without=..` as in the
paper's ablation: decoupling, modal (L_m), fit (L_f and L_x), noise, sampling (a contrast instead), or both,
decoupling and sampling. `:method=info_nce`: the same encoders with the plain contrast of pooled tokens.
"""

from configs.cdds_f30k import ablated
from configs.dias_scenes import setting
from jax_itm.config import default, options


def get_config(arg: str = ""):
    given = options(arg, preset="practical", without="", method="cdds", view="regions")
    config = setting(default(given["method"]), given["view"])
    config.name, config.batch_size, config.duration = "cdds_scenes", 64, "3 epochs"
    config.dim = 64
    config.image.pooling = config.text.pooling = "mean"
    config.image.hidden = 512  # a region is a crop's pixels
    if given["method"] != "cdds":  # the same encoders with a plain contrast
        config.name = "cdds_scenes-baseline"
        return config
    method = config.method
    method.layers, method.heads, method.mlp, method.noises = 1, 4, 2, 1
    return ablated(config, given["preset"], given["without"])
