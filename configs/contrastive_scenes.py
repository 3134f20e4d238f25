"""The baselines on the generated scenes: `:method=vsepp|info_nce|sigmoid,text=bigru|bow`."""

from configs.dias_scenes import setting
from jax_itm.config import default, options


def get_config(arg: str = ""):
    chosen = options(arg, method="info_nce", text="bigru", modality="regions")
    config = setting(default(chosen["method"]), chosen["modality"])
    config.name = "contrastive_scenes"
    config.text.name = chosen["text"]
    if chosen["text"] == "bow":
        config.text.pooling = "mean"
    return config
