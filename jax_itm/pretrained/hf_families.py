"""All families, by modality and by the `model_type` of Hugging Face's config.json.

A new family is a `Family` in one of the two modules beside this one, an entry here, and an entry in
`models.pretrained_encoder.BACKBONES`.
"""

from jax_itm.pretrained.image_families import CLIP_IMAGE, DINOV2, DINOV2_REGISTERS, SWIN, VIT
from jax_itm.pretrained.text_families import BERT, CLIP_TEXT, POOLED_BERT, UNITER

FAMILIES = {
    "text": {"bert": BERT, "clip": CLIP_TEXT, "clip_text_model": CLIP_TEXT},
    "image": {
        "vit": VIT,
        "dinov2": DINOV2,
        "dinov2_with_registers": DINOV2_REGISTERS,
        "clip": CLIP_IMAGE,
        "clip_vision_model": CLIP_IMAGE,
        "swin": SWIN,
    },
    "pair": {"uniter": UNITER, "bert": POOLED_BERT},
}
