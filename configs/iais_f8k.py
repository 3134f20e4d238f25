"""IAIS on Flickr8k grid features in SCAN's layout (16 cells x 512), as far as two cores carry it.

In two runs, as `iais_scenes.py` explains, from random values or, with `size=minilm`, words and layers
from a BERT directory of those sizes:

    python -m jax_itm train --config configs/iais_f8k.py:part=start --workdir runs/start
    python -m jax_itm train --config configs/iais_f8k.py:part=start,size=minilm,start=DIR --workdir runs/start
    python -m jax_itm train --config configs/iais_f8k.py:start=runs/start --workdir runs/iais_f8k

All pairs of 1,000 images and 5,000 captions take an hour and more here; `evaluate --mode rerank` minutes.
"""

from configs.iais_f30k import optimizer, resize
from jax_itm.config import default, options

SIZES = {"small": (128, 2, 4), "minilm": (384, 6, 12)}  # hidden, layers, heads


def get_config(arg: str = ""):
    chosen = options(arg, part="tune", size="small", start="", alignment="singular")
    config = default("iais")
    config.name, config.start = "iais_f8k", chosen["start"]
    config.data.name, config.data.data_dir, config.data.validation = "precomp", "data/f8k", "dev"
    config.data.max_regions, config.data.max_words, config.data.min_count = 16, 20, 4
    config.image.boxes = True  # it reads them: data without are refused
    resize(config, chosen["size"], SIZES)
    config.uniter.init_std = 0.08 if chosen["size"] == "small" else 0.02
    config.uniter.region_mlp = 512  # the grid's features are no detector's
    config.losses.attention_alignment.form = chosen["alignment"]
    mining = config.mining
    mining.pool = mining.anchors = 16
    mining.hardest, mining.tile = 3, 64
    config.batch_size, config.duration = 32, "100 steps"
    optimizer(config, lr=3e-4, warmup="10 steps")
    config.evaluate.every, config.evaluate.images = "50 steps", 100
    if chosen["part"] == "start":
        config.name, config.optimizer.lr, config.optimizer.warmup = "iais_f8k_start", 5e-4, "100 steps"
        config.duration = mining.random_for = "1300 steps"
        config.evaluate.every, config.losses.attention_alignment.form = "650 steps", "none"
    return config
