"""DIAS on MSCOCO with bottom-up-attention regions, as reported: batch 256, cutoff 1.9.

For features in SCAN's layout (`{train,dev,test,testall}_ims.npy`, 36 x 2048), where `test` is the first 1,000
images of `testall`'s 5,000. Published numbers are of `testall`: `coco_1k` is the mean of five folds.

    python -m jax_itm prepare precomp --source FOLDER --data_dir data/coco
    python -m jax_itm train --config configs/dias_coco.py --workdir runs/dias_coco
    python -m jax_itm evaluate --workdir runs/dias_coco --split testall --protocol coco_1k    # and coco_5k
"""

from configs.dias_f30k import get_config as f30k


def get_config():
    config = f30k()
    config.name, config.batch_size = "dias_coco", 256
    config.losses.triplet.cutoff = 1.9
    config.data.data_dir = "data/coco"
    config.evaluate.protocol = "folds"
    return config
