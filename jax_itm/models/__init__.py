"""Encoders and their layers, as Flax Linen modules for any training loop.

Every encoder takes one side of a batch (`jax_itm.types`) and returns `Encoded`: an L2-normalised embedding,
the tokens it was pooled from, and their mask.

    from jax_itm import models
    encoder = models.RegionEncoder(dim=1024)
    variables = encoder.init(jax.random.key(0), image)
    encoded = encoder.apply(variables, image, train=True, rngs={"dropout": key})

`RegionEncoder`, `BiGruText` and `BagOfWords` are whole encoders. `BackboneEncoder` makes one of a backbone:
`Vit`, `Swin`, `Bert` or `ClipText`. `DualPath` decouples the tokens of two encoders (CDDS). `Uniter` scores
pairs, `TokenMatcher` those of a dual encoder's tokens. `register_encoder` takes one of your own.
"""

from jax_itm.models.attention_pooling import AttentionPooling
from jax_itm.models.bert import Bert, ClipText, TokenEmbeddings
from jax_itm.models.build import register_encoder
from jax_itm.models.image import RegionEncoder, box_location
from jax_itm.models.layers import Mlp, ProjectionHead, Tokens, TransformerLayer
from jax_itm.models.pooling import Gpo, HremPooling, max_pool, pool, pool_by_rank
from jax_itm.models.pretrained_encoder import BackboneEncoder, backbone
from jax_itm.models.recurrent import BiGru, Gru
from jax_itm.models.swin import Swin
from jax_itm.models.text import BagOfWords, BiGruText
from jax_itm.models.token_matcher import TokenMatcher, late_interaction
from jax_itm.models.unet import DualPath, Unet
from jax_itm.models.uniter import Uniter, attention_maps
from jax_itm.models.vit import Vit, normalise_pixels

__all__ = [
    "AttentionPooling",
    "BackboneEncoder",
    "BagOfWords",
    "Bert",
    "BiGru",
    "BiGruText",
    "ClipText",
    "DualPath",
    "Gpo",
    "Gru",
    "HremPooling",
    "Mlp",
    "ProjectionHead",
    "RegionEncoder",
    "Swin",
    "TokenEmbeddings",
    "TokenMatcher",
    "Tokens",
    "TransformerLayer",
    "Unet",
    "Uniter",
    "Vit",
    "attention_maps",
    "backbone",
    "box_location",
    "late_interaction",
    "max_pool",
    "normalise_pixels",
    "pool",
    "pool_by_rank",
    "register_encoder",
]
