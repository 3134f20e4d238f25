"""DIAS on Flickr8k grid features in SCAN's layout (16 cells x 512), small enough for two cores.

python -m jax_itm prepare --config configs/dias_f8k.py --config.data.source=FOLDER
python -m jax_itm train --config configs/dias_f8k.py --workdir runs/dias_f8k
"""

from jax_itm.config import default


def setting(config):
    """What every method shares on these features; each method's own choices are in its file."""
    config.dim, config.batch_size, config.duration = 256, 128, "3 epochs"
    config.image.drop = config.text.drop = 0.1
    config.text.word_dim = 200
    config.data.name, config.data.data_dir = "precomp", "data/f8k"
    config.data.validation = "dev"
    config.data.max_regions, config.data.max_words, config.data.min_count = 16, 20, 4
    config.optimizer.lr, config.optimizer.schedule = 4e-3, "cosine"
    config.optimizer.warmup = "0.5 epochs"
    return config


def get_config():
    config = setting(default("dias"))
    config.name = "dias_f8k"
    triplet = config.losses.triplet
    triplet.negatives, triplet.sum_for, triplet.margin = "hardest", "1 epochs", 0.1
    return config
