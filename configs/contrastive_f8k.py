"""The baselines on Flickr8k grid features: `:method=vsepp|info_nce|sigmoid`."""

from configs.dias_f8k import setting
from jax_itm.config import default, options


def get_config(arg: str = ""):
    config = setting(default(options(arg, method="info_nce")["method"]))
    config.name = "contrastive_f8k"
    return config
