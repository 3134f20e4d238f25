"""DIAS on Flickr30k with bottom-up-attention regions, as reported: 30 epochs, batch 128, BiGRU.

For features in SCAN's layout (`{train,dev,test}_ims.npy`, 36 x 2048):

    python -m jax_itm prepare precomp --source FOLDER --data_dir data/f30k
    python -m jax_itm train --config configs/dias_f30k.py --workdir runs/dias_f30k
"""

from jax_itm.config import default


def get_config():
    config = default("dias")  # the defaults are the reported settings
    config.name = "dias_f30k"
    config.data.name, config.data.data_dir = "precomp", "data/f30k"
    config.data.max_words, config.data.min_count = 64, 4
    config.evaluate.batch_size = 500
    return config
