"""All families, by modality and by the `model_type` of Hugging Face's config.json.

A new family needs

    its names          a `Family` in `text_families.py` or `image_families.py`
    its `model_type`   an entry here
    its own summary    if it has one, `Family.pooling` and `Family.own`
    its module         an entry in `BACKBONES` of `models/pretrained_encoder.py`, and the module, if it is new
    its tokenizer      text: `Tokenizer.from_folder` in `data/tokenizer.py` reads BERT's, CLIP's, SigLIP's
    its pixels         images: `preprocessor.py` reads preprocessor_config.json
    a golden file      an entry in `tests/goldens/make_encoders.py`, which is run by hand, with PyTorch
"""

from jax_itm.pretrained.image_families import CLIP_IMAGE, DINOV2, DINOV2_REGISTERS, SIGLIP_IMAGE, SWIN, VIT
from jax_itm.pretrained.text_families import BERT, CLIP_TEXT, POOLED_BERT, SIGLIP_TEXT, UNITER

FAMILIES = {
    "text": {
        "bert": BERT,
        "clip": CLIP_TEXT,
        "clip_text_model": CLIP_TEXT,
        "siglip": SIGLIP_TEXT,
        "siglip_text_model": SIGLIP_TEXT,
    },
    "image": {
        "vit": VIT,
        "dinov2": DINOV2,
        "dinov2_with_registers": DINOV2_REGISTERS,
        "clip": CLIP_IMAGE,
        "clip_vision_model": CLIP_IMAGE,
        "siglip": SIGLIP_IMAGE,
        "siglip_vision_model": SIGLIP_IMAGE,
        "swin": SWIN,
    },
    "pair": {"uniter": UNITER, "bert": POOLED_BERT},
}
