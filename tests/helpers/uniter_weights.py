"""A tiny UNITER's weights, named as its authors publish them."""

import numpy as np

HIDDEN, LAYERS, POSITIONS, REGION = 128, 2, 16, 6

PIECES = ["[PAD]", "[unused1]", "[UNK]", "[CLS]", "[SEP]", "A", "Dog", "dog", "a", "log", "run", "##s", "."]


def published(head="rank_output", seed=0, mlp=4 * HIDDEN) -> dict[str, np.ndarray]:
    """A tiny UNITER as its authors save it, with values large enough to tell every part from every other."""
    rng = np.random.default_rng(seed)
    state, draw = {}, lambda *shape: rng.normal(0, 0.2, shape).astype(np.float32)

    def linear(name, rows, columns):
        state[f"{name}.weight"], state[f"{name}.bias"] = draw(rows, columns), draw(rows)

    def norm(name):
        state[f"{name}.weight"], state[f"{name}.bias"] = 1 + draw(HIDDEN), draw(HIDDEN)

    text, image = "uniter.embeddings", "uniter.img_embeddings"
    for name, rows in (("word", len(PIECES)), ("position", POSITIONS), ("token_type", 2)):
        state[f"{text}.{name}_embeddings.weight"] = draw(rows, HIDDEN)
    norm(f"{text}.LayerNorm")
    linear(f"{image}.img_linear", HIDDEN, REGION)
    linear(f"{image}.pos_linear", HIDDEN, 7)
    state[f"{image}.mask_embedding.weight"] = draw(2, REGION)
    for name in ("img_layer_norm", "pos_layer_norm", "LayerNorm"):
        norm(f"{image}.{name}")
    for k in range(LAYERS):
        layer = f"uniter.encoder.layer.{k}"
        for name in ("self.query", "self.key", "self.value", "output.dense"):
            linear(f"{layer}.attention.{name}", HIDDEN, HIDDEN)
        linear(f"{layer}.intermediate.dense", mlp, HIDDEN)
        linear(f"{layer}.output.dense", HIDDEN, mlp)
        norm(f"{layer}.attention.output.LayerNorm")
        norm(f"{layer}.output.LayerNorm")
    linear("uniter.pooler.dense", HIDDEN, HIDDEN)
    linear("itm_output", 2, HIDDEN)
    if head == "rank_output":
        linear("rank_output", 1, HIDDEN)
    return state
