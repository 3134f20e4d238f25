"""DIAS on the generated scenes: minutes on two cores. `:modality=pixels` reads pictures with a ViT."""

from jax_itm.config import default, options


def setting(config, modality: str):
    """What every method shares on scenes."""
    config.dim, config.batch_size, config.duration = 256, 128, "8 epochs"
    config.image.boxes = True  # captions speak of places
    config.text.word_dim = 128
    config.data.max_regions, config.data.max_words = 6, 24
    config.data.modality = modality
    if modality == "pixels":
        config.image.name, config.image.patch, config.image.layers = "vit", 12, 4
    config.optimizer.lr, config.optimizer.schedule = 2e-3, "cosine"
    config.optimizer.warmup = "0.3 epochs"
    return config


def get_config(arg: str = ""):
    config = setting(default("dias"), options(arg, modality="regions")["modality"])
    config.name = "dias_scenes"
    return config
