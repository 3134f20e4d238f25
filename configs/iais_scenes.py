"""IAIS on the generated scenes: minutes on two cores, in two runs.

UNITER is pretrained: from random values the hardest negatives teach nothing. So a first run learns from
negatives drawn at random, without alignment, and the second starts from it and mines:

    python -m jax_itm train --config configs/iais_scenes.py:part=start --workdir runs/start
    python -m jax_itm train --config configs/iais_scenes.py:start=runs/start --workdir runs/iais_scenes

`alignment=distributed` and `alignment=none` are the other two that the paper compares.
"""

from configs.iais_f30k import optimizer
from jax_itm.config import default, options


def get_config(arg: str = ""):
    chosen = options(arg, part="tune", start="", alignment="singular")
    config = default("iais")
    config.name, config.start = "iais_scenes", chosen["start"]
    config.data.max_regions, config.data.max_words = 6, 24
    config.image.boxes = True  # it reads them: data without are refused
    uniter, mining = config.uniter, config.mining
    # A region is a crop's pixels, not a detector's features: it needs layers of its own.
    uniter.region_mlp, uniter.init_std = 512, 0.1
    uniter.hidden, uniter.layers, uniter.heads, uniter.dropout = 64, 2, 4, 0.0
    config.losses.attention_alignment.form = chosen["alignment"]
    mining.hardest, mining.tile = 3, 64
    mining.pool = mining.anchors = 16  # the hardest of larger pools teach a young matcher too little
    config.batch_size, config.duration = 32, "600 steps"
    optimizer(config, lr=5e-4, warmup="50 steps")
    config.evaluate.every = "200 steps"
    config.evaluate.protocol = "folds"  # every pair of a fold goes through the model
    if chosen["part"] == "start":
        config.name, config.optimizer.lr = "iais_scenes_start", 7e-4
        config.duration = mining.random_for = "3000 steps"
        config.evaluate.every, config.losses.attention_alignment.form = "1000 steps", "none"
    return config
