"""A matcher on a dual encoder's tokens, on Flickr8k's grid features: alignment before fusion.

    python -m jax_itm prepare --encode --config configs/study_f8k.py --config.data.source=FOLDER
    python -m jax_itm study configs/evidence_f8k.py --rows sigmoid-long --seeds 0,1  # or others
    python -m jax_itm neighbours --workdir RUN
    python -m jax_itm train --config configs/matcher_f8k.py:start=RUN --workdir runs/matcher
    python -m jax_itm evaluate --workdir runs/matcher --split dev --isd \
        --mode rerank --rerank_from RUN --top_k 20 --first_weight 2

It adds more to a run of another seed than to the one it started from (docs/benchmarks/flickr8k_minilm.md).
`alignment=singular|distributed|congruence` adds IAIS's term, for the whole run or, with `part=tune` and a
matcher's run as `start`, for 150 steps at a lower rate.
"""

from configs.study_f8k import LONG, shared
from jax_itm.config import default, options


def get_config(arg: str = ""):
    chosen = options(arg, start="", part="start", alignment="none", neighbours="")
    config = default("matcher")
    config.name, config.start, config.dim = "matcher_f8k", chosen["start"], 256
    config.data.name, config.data.data_dir, config.data.validation = "precomp", "data/f8k", "dev"
    config.data.max_regions, config.data.min_count = 16, 4
    encoders = {
        name: value for name, value in (shared() | LONG).items() if name not in ("duration", "batch_size")
    }
    config.update_from_flattened_dict(encoders)
    config.matcher.pooled = True
    config.losses.attention_alignment.form = chosen["alignment"]
    config.mining.neighbours = chosen["neighbours"] or f"{chosen['start']}/neighbours.npz"
    config.batch_size = 64  # 8 pools of 8 pairs: 512 scored pairs an update
    config.optimizer.lr, config.optimizer.schedule = 1e-3, "cosine"
    if chosen["part"] == "tune":
        config.name, config.duration, config.optimizer.lr = "matcher_f8k_tuned", "150 steps", 2e-4
        config.optimizer.warmup, config.evaluate.every = "10 steps", "150 steps"
    else:
        config.duration, config.optimizer.warmup = "1000 steps", "100 steps"
        config.mining.random_for, config.mining.ramp = "150 steps", "850 steps"
        config.evaluate.every = "500 steps"
    config.evaluate.images = 100  # all pairs of them; `evaluate` re-ranks the whole split
    return config
