"""The baselines on Flickr8k grid features: `:method=vsepp|info_nce|sigmoid`.

Learning rates and margins of vsepp and info_nce were chosen on dev, method by method
(docs/benchmarks/flickr8k_bigru.md); sigmoid was not tuned and takes the rate of info_nce.
"""

from configs.dias_f8k import setting
from jax_itm.config import default, options


def get_config(arg: str = ""):
    method = options(arg, method="info_nce")["method"]
    config = setting(default(method))
    config.name = "contrastive_f8k"
    config.optimizer.lr = 6e-3 if method == "vsepp" else 1.2e-2
    if method == "vsepp":
        config.losses.triplet.margin = 0.1
    return config
