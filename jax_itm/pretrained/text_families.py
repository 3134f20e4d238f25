"""The families of text encoders, BERT, CLIP and SigLIP; and UNITER, a BERT that also reads regions."""

from jax_itm.pretrained.family import (
    CLIP_FIELDS,
    CLIP_LAYER,
    CLIP_UNUSED,
    LAYER_FIELDS,
    SIGLIP_FIELDS,
    Family,
    layer_names,
    leaf_names,
)
from jax_itm.types import Architecture

BERT_LAYER = {
    "attention.self.query": "attention/query/kernel",
    "attention.self.key": "attention/key/kernel",
    "attention.self.value": "attention/value/kernel",
    "attention.output.dense": "attention/out/kernel",
    "attention.output.LayerNorm": "norm_attention/scale",
    "intermediate.dense": "mlp/hidden/kernel",
    "output.dense": "mlp/out/kernel",
    "output.LayerNorm": "norm_mlp/scale",
}


def bert_names(arch: Architecture) -> dict[str, str]:
    """BERT's, without its pooler."""
    return leaf_names(
        {
            "embeddings.word_embeddings": "embeddings/words/embedding",
            "embeddings.position_embeddings": "embeddings/positions/embedding",
            "embeddings.token_type_embeddings": "embeddings/types/embedding",
            "embeddings.LayerNorm": "embeddings/norm/scale",
            **layer_names("encoder.layer", arch["layers"], BERT_LAYER),
        }
    )


BERT = Family(
    names=bert_names,
    prefix="bert.",
    unused=("cls.", "pooler.", "classifier.", "qa_outputs.", "embeddings.position_ids"),
    fields=LAYER_FIELDS
    | {
        "norm_eps": ("layer_norm_eps", 1e-12),
        "vocab": ("vocab_size", 30522),
        "positions": ("max_position_embeddings", 512),
        "types": ("type_vocab_size", 2),
    },
    needs={"position_embedding_type": "absolute", "is_decoder": False},
)


def pooled_bert_names(arch: Architecture) -> dict[str, str]:
    """BERT's with its pooler: what UNITER takes of a BERT."""
    return bert_names(arch) | leaf_names({"pooler.dense": "pooler/kernel"})


# BERT as the start of UNITER: heads of pretraining and layers beyond UNITER's stay unread.
POOLED_BERT = BERT._replace(names=pooled_bert_names, unused=("",), cut=("embeddings/positions/embedding",))

# By the authors' code (github.com/ChenRocks/UNITER, `model/model.py` and `itm.py`), which IAIS keeps.
REGION_MODULES = {
    "uniter.img_embeddings.img_linear": "img_linear/kernel",
    "uniter.img_embeddings.pos_linear": "pos_linear/kernel",
    "uniter.img_embeddings.img_layer_norm": "img_layer_norm/scale",
    "uniter.img_embeddings.pos_layer_norm": "pos_layer_norm/scale",
    "uniter.img_embeddings.LayerNorm": "img_norm/scale",
    "rank_output": "rank_output/kernel",
}


def uniter_names(arch: Architecture) -> dict[str, str]:
    """UNITER's: BERT's below `uniter.`, the regions' parts and the score's head."""
    bert = {f"uniter.{name}": path for name, path in pooled_bert_names(arch).items()}
    return bert | leaf_names(REGION_MODULES)


UNITER = Family(
    names=uniter_names,
    prefix="",
    # What pretraining needs and matching does not: its heads, and the vector of a masked region.
    unused=(
        "cls.",
        "feat_regress.",
        "region_classifier.",
        "itm_output.",
        "uniter.img_embeddings.mask_embedding.",
    ),
    cut=("embeddings/positions/embedding",),
)


def clip_text_names(arch: Architecture) -> dict[str, str]:
    """CLIP's text encoder's."""
    return leaf_names(
        {
            "embeddings.token_embedding": "embeddings/words/embedding",
            "embeddings.position_embedding": "embeddings/positions/embedding",
            "final_layer_norm": "norm/scale",
            **layer_names("encoder.layers", arch["layers"], CLIP_LAYER),
        }
    )


CLIP_TEXT = Family(
    names=clip_text_names,
    prefix="text_model.",
    unused=("vision_model.", "visual_projection.", *CLIP_UNUSED),
    fields=CLIP_FIELDS
    | {
        "width": ("hidden_size", 512),
        "mlp": ("intermediate_size", 2048),
        "heads": ("num_attention_heads", 8),
        "vocab": ("vocab_size", 49408),
        "positions": ("max_position_embeddings", 77),
    },
    section="text_config",
    pooling="clip",
    own={"text_projection.weight": "projection/linear/kernel"},
)

SIGLIP_TEXT = Family(
    names=clip_text_names,
    prefix="text_model.",
    unused=("vision_model.", "logit_bias", *CLIP_UNUSED),
    fields=SIGLIP_FIELDS | {"vocab": ("vocab_size", 32000), "positions": ("max_position_embeddings", 64)},
    fixed={"causal": False},
    section="text_config",
    pooling="siglip",
    own=leaf_names({"head": "projection/linear/kernel"}),
)
