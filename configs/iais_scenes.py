"""IAIS on the generated scenes, with a small UNITER from scratch. `:alignment=singular|distributed|none`.

Validation is on five folds of 100 images, since every pair is a pass through the model.
"""

from jax_itm.config import default, options


def get_config(arg: str = ""):
    config = default("iais")
    method = config.method
    method.alignment = options(arg, alignment="singular")["alignment"]
    config.name = "iais_scenes"
    method.hidden, method.layers, method.heads, method.dropout = 128, 3, 4, 0.0
    method.pool, method.anchors, method.hardest, method.tile = 16, 16, 3, 256
    config.batch_size, config.duration = 64, "6 epochs"
    config.image.boxes = True
    config.data.max_regions, config.data.max_words = 6, 24
    config.optimizer.lr, config.optimizer.schedule, config.optimizer.warmup = 1e-3, "linear", "0.3 epochs"
    config.evaluate.every, config.evaluate.batch_size, config.evaluate.protocol = "2 epochs", 100, "folds"
    return config
