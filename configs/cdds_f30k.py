"""CDDS as published, on Flickr30k: patches of ViT or Swin, words of BERT, both pretrained.

    python -m jax_itm prepare flickr30k --source DIR --data_dir data/f30k
    python -m jax_itm train --config configs/cdds_f30k.py:image=VIT,text=BERT --workdir runs/cdds_f30k

VIT and BERT are directories, or names on the hub, such as google/vit-base-patch16-224-in21k and
bert-base-uncased; a side without one starts from random values, at the full rate. With `preset`
(practical, paper, light) and `without`, as in `cdds_scenes.py`.

25 epochs, AdamW, 2e-4, batch 64, d = 512: the paper's. INFERRED from LAPS, whose protocol the paper copies:
weight decay, the step decay at epochs 9, 15, 20, clipping, a tenth of the rate for pretrained encoders, crops
of 60 % to all of a picture and mirroring, a fifth of the words hidden.
Published rSum of the paper with pretrained backbones (ViT-224 / ViT-384 / Swin-224 / Swin-384):

    VSE++   496.1 / 520.5 / 534.4 / 540.6        LAPS   507.3 / 525.4 / 536.3 / 545.3
    CDDS    510.6 / 526.8 / 539.0 / 552.5        R@1, ViT-224: 74.8 / 63.1; Swin-384: 86.8 / 76.3

R@1 of its ablation (ViT-224): no decoupling 71.4 / 57.9, no L_m 73.8 / 62.3, no L_f and L_x 69.8 / 57.9,
no noise 74.2 / 62.9, contrast instead of sampling 72.1 / 60.4. These are the paper's numbers, not ours.
"""

from jax_itm.config import default, options
from jax_itm.errors import UserError

NO_UNET = {"head.name": "tokens", "losses.decoupling.weight": 0.0}
CONTRAST = {  # of the same pooled components, in the place of sampling
    "losses.sampling.weight": 0.0,
    "losses.decoupling.crossed": 0.0,
    "losses.info_nce.weight": 1.0,
    "losses.info_nce.learn_temperature": False,
}
ABLATIONS = {
    "decoupling": NO_UNET,
    "modality": {"losses.decoupling.modality": 0.0},
    "fit": {"losses.decoupling.fused": 0.0, "losses.decoupling.crossed": 0.0},
    "noise": {"head.noises": 0},
    "sampling": CONTRAST,
    "both": NO_UNET | CONTRAST,
}


def start(preset: str, method: str = "cdds"):
    """What a preset changes: `light` is InfoNCE, with sampling as a light term and without the UNet."""
    if preset != "light" or method != "cdds":
        return default(method)
    config = default("info_nce")
    config.losses.sampling.weight = 0.1
    return config


def ablated(config, preset: str, without: str):
    """The preset, and the method without one of its parts."""
    if preset not in ("paper", "practical", "light"):
        raise UserError(f"config argument preset={preset}: paper, practical or light")
    if without and without not in ABLATIONS:
        raise UserError(f"config argument without={without}: one of {', '.join(ABLATIONS)}")
    if preset == "light" and without:
        raise UserError(f"config argument without={without}: not with preset=light, which is sampling alone")
    if preset == "paper":
        config.losses.sampling.identity = 0.0
    if preset != "practical":
        config.name += f"-{preset}"
    if without:
        config.update_from_flattened_dict(ABLATIONS[without])
        config.name += f"-no_{without}"
    return config


def get_config(arg: str = ""):
    chosen = options(arg, preset="practical", without="", image="", text="")
    config = start(chosen["preset"])
    config.name, config.batch_size, config.duration, config.dim = "cdds_f30k", 64, "25 epochs", 512
    config.data.name, config.data.data_dir = "flickr30k", "data/f30k"
    config.data.modality, config.data.image_size = "pixels", 224
    config.data.tokenizer, config.data.max_words = "wordpiece", 40
    image, text = config.image, config.text
    image.name, image.patch, image.width, image.layers, image.heads = "vit", 16, 768, 12, 12
    text.name, text.width, text.layers, text.heads = "bert", 768, 12, 12
    image.pooling = text.pooling = "mean"
    image.drop = 0.0  # words alone are perturbed
    image.augment.crop, image.augment.flip = (0.6, 1.0), 0.5
    optimizer = config.optimizer
    for side in ("image", "text"):
        if chosen[side]:
            config[side].name, config[side].path = "pretrained", chosen[side]
            optimizer.lr_factors += ((f"^{side}/backbone/", 0.1),)
    optimizer.lr, optimizer.schedule = 2e-4, "step"
    optimizer.step_at, optimizer.step_factor = ("9 epochs", "15 epochs", "20 epochs"), 0.3
    return ablated(config, chosen["preset"], chosen["without"])
