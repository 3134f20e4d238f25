"""CDDS on the generated scenes: minutes on two cores.

`:preset=paper|practical|light` (`light`: InfoNCE, with sampling as a light term); `:without=..` as in the
paper's ablation: decoupling, modality (L_m), fit (L_f and L_x), noise, sampling (a contrast instead), or
both, decoupling and sampling. `:method=info_nce`: the same encoders with the plain contrast of pooled tokens.
"""

from configs.cdds_f30k import ablated, start
from configs.dias_scenes import setting
from jax_itm.config import options

ARGUMENTS = {"preset": "practical", "without": "", "method": "cdds"}


def small(config, chosen: dict[str, str]):
    """What fits two cores: a layer a path, one noise; with `method`, the same encoders' plain contrast.

    The encoders' rate is too high for the UNet's transformers, which take a tenth of it
    (docs/benchmarks/scenes.md).
    """
    config.batch_size, config.image.pooling, config.text.pooling = 64, "mean", "mean"
    if chosen["method"] != "cdds":
        config.name += "-baseline"
        return config
    if chosen["preset"] != "light":
        head = config.head
        head.layers, head.heads, head.mlp, head.noises = 1, 4, 2, 1
    config = ablated(config, chosen["preset"], chosen["without"])
    if config.head.name == "unet":
        config.optimizer.lr_factors = (("^head/", 0.1),)
    return config


def get_config(arg: str = ""):
    chosen = options(arg, **ARGUMENTS, modality="regions")
    config = setting(start(chosen["preset"], chosen["method"]), chosen["modality"])
    config.name, config.dim, config.duration = "cdds_scenes", 64, "3 epochs"
    config.image.hidden = 512  # a region is a crop's pixels
    return small(config, chosen)
