"""IAIS on Flickr30k, from UNITER's features and weights (Ren et al., ACL 2021).

    python -m jax_itm prepare uniter --source DIR --data_dir data/f30k
    python -m jax_itm convert uniter uniter-base.pt runs/uniter_base --vocab vocab.txt
    python -m jax_itm train --config configs/iais_f30k.py:start=runs/uniter_base --workdir runs/iais_f30k

`size=large` is the large model. A batch holds one pool for each of the eight devices that the authors
used; on more, give config.batch_size as many pools.
"""

from jax_itm.config import default, options
from jax_itm.errors import UserError

SIZES = {"base": (768, 12, 12), "large": (1024, 24, 16)}  # hidden, layers, heads


def optimizer(config, lr: float, warmup: str):
    """UNITER's: decay on kernels, tables and the weights of two LayerNorms, as released."""
    optimizer = config.optimizer
    optimizer.name, optimizer.lr, optimizer.schedule, optimizer.warmup = "bert_adam", lr, "linear", warmup
    optimizer.betas, optimizer.eps, optimizer.weight_decay, optimizer.clip = (0.9, 0.98), 1e-6, 0.01, 2.0
    optimizer.decay_on = (r"(kernel|embedding)$", r"(img_layer_norm|pos_layer_norm)/scale$")


def resize(config, size: str, sizes: dict[str, tuple[int, int, int]]):
    """The matcher's hidden, layers and heads."""
    if size not in sizes:
        raise UserError(f"size={size}: must be one of {', '.join(sizes)}")
    config.uniter.hidden, config.uniter.layers, config.uniter.heads = sizes[size]


def setting(name: str, arg: str):
    """What Flickr30k and COCO share: the config, and the size that was asked for."""
    chosen = options(arg, size="base", start="", alignment="singular")
    config = default("iais")
    config.name, config.start, config.data.data_dir = f"iais_{name}", chosen["start"], f"data/{name}"
    config.losses.attention_alignment.form = chosen["alignment"]
    resize(config, chosen["size"], SIZES)
    config.batch_size, config.duration = 8 * config.mining.pool, "5000 steps"
    config.data.name, config.data.max_regions = "uniter", 100
    config.data.max_words = 62  # 60 pieces, [CLS] and [SEP]
    config.data.tokenizer = "wordpiece"  # fitted where no run with UNITER's own is started from
    config.image.boxes = True  # it reads them: data without are refused
    config.dtype = "bfloat16"
    config.remat = True  # the base needs 22 GiB of a chip of 16 without, on 32 of them
    config.evaluate.every, config.evaluate.batch_size, config.evaluate.images = "1000 steps", 400, 200
    optimizer(config, lr=5e-5, warmup="500 steps")
    return config, chosen["size"]


def get_config(arg: str = ""):
    return setting("f30k", arg)[0]
