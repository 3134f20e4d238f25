"""Your own data: pictures with captions, or regions with captions.

    ./launch/local.sh configs/own.py --config.data.source=DIR

DIR holds pictures (in it or in DIR/images) and one file of captions: a CSV with the columns path and caption
(and split, if you have any), JSON lines with these names, or Karpathy's JSON. Without a split `val`, a tenth
of the images becomes it; without `test`, `val` is evaluated. Arguments, after a colon:

    text=DIR     words by a pretrained encoder, frozen: a directory of Hugging Face's libraries, or a name on
                 the hub, such as sentence-transformers/all-MiniLM-L6-v2. Far better with few captions.
    image=DIR    pictures by a pretrained encoder (ViT, DINOv2, Swin, CLIP), frozen
    data=NAME    another layout than `folder`: flickr8k, flickr30k, coco, huggingface, webdataset; or of
                 regions precomp, uniter, bottom_up_tsv
    method=NAME  info_nce (the default), sigmoid, vsepp or dias
"""

from jax_itm.config import default, options
from jax_itm.errors import UserError

PICTURES = ("folder", "flickr8k", "flickr30k", "coco", "huggingface", "webdataset")
REGIONS = {"precomp": 36, "uniter": 100, "bottom_up_tsv": 100}  # of an image, at most


def get_config(arg: str = ""):
    given = options(arg, text="", image="", data="folder", method="info_nce")
    config = default(given["method"])
    config.name = "own"
    config.dim, config.batch_size, config.duration = 256, 128, "12 epochs"
    config.optimizer.lr, config.optimizer.schedule = 1e-3, "cosine"
    config.optimizer.warmup, config.optimizer.weight_decay = "1 epochs", 0.1
    config.data.name, config.data.data_dir = given["data"], f"data/own_{given['data']}"
    config.data.max_words = 24
    if given["data"] in PICTURES:
        set_pictures(config, given["image"])
    elif given["data"] in REGIONS:
        config.data.max_regions = REGIONS[given["data"]]
    else:
        raise UserError(f"data={given['data']}: must be one of {', '.join([*PICTURES, *REGIONS])}")
    if given["text"]:
        config.text.name, config.text.path = "pretrained", given["text"]
        config.text.frozen = config.text.cached = True  # `prepare` computes its tokens once
    config.image.pooling = config.text.pooling = "mean"
    return config


def set_pictures(config, encoder: str):
    config.data.modality = "pixels"
    if encoder:
        config.image.name, config.image.path = "pretrained", encoder
        config.image.frozen = config.image.cached = True
        return
    # A small ViT from random values: it has to learn to see from these pictures alone.
    config.image.name, config.data.image_size, config.image.patch = "vit", 96, 16
    config.image.width, config.image.layers, config.image.heads = 128, 4, 4
    config.image.augment.crop = (0.5, 1.0)
