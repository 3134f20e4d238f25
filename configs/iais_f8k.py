"""IAIS on Flickr8k grid features in SCAN's layout (16 cells x 512), as far as two cores carry it.

Words and layers start from a BERT directory, two layers of six of MiniLM in the sizes here;
the regions' parts from random values. In two runs, as `iais_scenes.py` explains:

    python -m jax_itm train --config configs/iais_f8k.py:part=start,start=MINILM_DIR --workdir runs/start
    python -m jax_itm train --config configs/iais_f8k.py:start=runs/start --workdir runs/iais_f8k
"""

from configs.iais_f30k import optimizer
from jax_itm.config import default, options


def get_config(arg: str = ""):
    given = options(arg, part="tune", start="", alignment="singular")
    config = default("iais")
    config.name, config.start = "iais_f8k", given["start"]
    config.data.name, config.data.data_dir, config.data.validation = "precomp", "data/f8k", "dev"
    config.data.max_regions, config.data.max_words = 16, 24
    config.data.tokenizer = "wordpiece"  # fitted where no start has its own
    method = config.method
    method.hidden, method.layers, method.heads = 384, 2, 12
    method.alignment, method.hardest, method.tile = given["alignment"], 3, 64
    method.pool, method.anchors = 32, 8
    config.batch_size, config.duration = 32, "300 steps"
    optimizer(config, lr=1e-4, warmup="30 steps")
    # All pairs of 1,000 images and 5,000 captions take hours here; `evaluate --mode rerank` takes minutes.
    config.evaluate.every, config.evaluate.images = "300 steps", 100
    if given["part"] == "start":
        config.name, config.optimizer.lr = "iais_f8k_start", 2e-4
        config.duration = method.draw_for = "1500 steps"
        config.evaluate.every, method.alignment = "750 steps", "none"
        method.pool = method.anchors = 16
        config.batch_size = 16
    return config
