"""From a run's config and facts to its encoders: the only module of this package that reads them."""

from collections.abc import Callable

import flax.linen as nn
import jax.numpy as jnp

from jax_itm.config.facts import Facts
from jax_itm.config.fields import IMAGE, TEXT, register_encoder_name
from jax_itm.errors import UserError
from jax_itm.models.attention_pooling import AttentionPooling
from jax_itm.models.bert import Bert, ClipText
from jax_itm.models.image import RegionEncoder
from jax_itm.models.pretrained_encoder import BackboneEncoder, backbone
from jax_itm.models.text import BagOfWords, BiGruText
from jax_itm.models.token_matcher import TokenMatcher
from jax_itm.models.uniter import Uniter
from jax_itm.models.vit import Vit
from jax_itm.types import Architecture, Config

MakeEncoder = Callable[[Config, Facts], nn.Module]
BUILT_IN = {"image": IMAGE["name"].choices, "text": TEXT["name"].choices}
REGISTERED: dict[tuple[str, str], MakeEncoder] = {}  # by side and name


def register_encoder(side: str, name: str) -> Callable[[MakeEncoder], MakeEncoder]:
    """Registers a function that makes an encoder of one's own, for `config.image.name` or `config.text.name`.

        @models.register_encoder("text", "words_alone")
        def words_alone(config, facts):
            return models.BagOfWords(config.dim, facts.vocab)

    The function takes the config and the facts of a run, and returns a Linen module of `batch["image"]` or
    `batch["text"]` that gives `Encoded`. Its sizes are fields that there are: `config.dim`, the size of the
    embedding, `config.text.width` and so on. An image encoder of one's own reads pixels. Running the same
    definition again, such as a notebook's cell, replaces the function.

    Args:
        side: "image" or "text".
        name: the value of the field.

    Raises:
        UserError: there is no such side, or another encoder has the name.
    """

    def register(make: MakeEncoder) -> MakeEncoder:
        if side not in BUILT_IN:
            raise UserError(f"register_encoder: side {side!r} must be one of {', '.join(BUILT_IN)}")
        other = REGISTERED.get((side, name), make)
        is_same = (other.__module__, other.__qualname__) == (make.__module__, make.__qualname__)
        if name in BUILT_IN[side] or not is_same:
            raise UserError(f"config.{side}.name: there is such an encoder already, {name!r}")
        register_encoder_name(side, name)
        REGISTERED[side, name] = make
        return make

    return register


def encoder(config: Config, facts: Facts, side: str) -> nn.Module:
    """The encoder of one side, "image" or "text"."""
    if make := REGISTERED.get((side, config[side].name)):
        return make(config, facts)
    return image_encoder(config, facts) if side == "image" else text_encoder(config, facts)


def image_encoder(config: Config, facts: Facts) -> nn.Module:
    """The encoder that `config.image` describes."""
    options = config.image
    dtype = jnp.dtype(config.dtype)
    if options.name == "regions":
        return RegionEncoder(
            config.dim,
            options.pooling,
            options.boxes,
            options.drop,
            options.hidden,
            options.feature_dropout,
            options.norm,
            dtype,
        )
    if options.name == "pretrained":
        arch = facts.architecture("image")
        module = backbone("image", arch, remat=config.remat, dtype=dtype)
        if options.patch_dropout:
            if not isinstance(module, Vit):
                raise UserError(f"config.image.patch_dropout: a {arch.kind} cannot leave patches out")
            module = module.clone(patch_dropout=options.patch_dropout)
        attention_pool = _attention_pool(arch, dtype) if options.pooling == "siglip" else None
        return _on_backbone(config, "image", module, attention_pool)
    vit = Vit(
        layers=options.layers,
        heads=options.heads,
        width=options.width,
        patch=options.patch,
        image_size=config.data.image_size,
        drop=options.drop,
        patch_dropout=options.patch_dropout,
        remat=config.remat,
        dtype=dtype,
    )
    return _on_backbone(config, "image", vit)


def text_encoder(config: Config, facts: Facts) -> nn.Module:
    """The encoder that `config.text` describes."""
    vocab = facts.vocab
    options = config.text
    dtype = jnp.dtype(config.dtype)
    if options.name == "bigru":
        return BiGruText(config.dim, vocab, options.pooling, options.drop, options.word_dim, dtype)
    if options.name == "bow":
        return BagOfWords(config.dim, vocab, options.pooling, options.drop, dtype)
    layer_options = {"dropout": options.dropout, "remat": config.remat, "dtype": dtype}
    if options.name == "pretrained":
        return _on_backbone(config, "text", backbone("text", facts.architecture("text"), **layer_options))
    bert = Bert(
        vocab=vocab,
        width=options.width,
        layers=options.layers,
        heads=options.heads,
        positions=config.data.max_words,
        types=0,
        act="gelu_tanh",
        drop=options.drop,
        **layer_options,
    )
    return _on_backbone(config, "text", bert)


def _attention_pool(arch: Architecture, dtype: jnp.dtype) -> AttentionPooling:
    """SigLIP's pooling of an image encoder of this architecture."""
    return AttentionPooling(arch.heads, arch.mlp, arch.act, arch.norm_eps, dtype)


def _on_backbone(
    config: Config, side: str, module: nn.Module, attention_pool: AttentionPooling | None = None
) -> BackboneEncoder:
    options = config[side]
    pretrained = options.name == "pretrained"
    return BackboneEncoder(
        module,
        config.dim,
        pooling=options.pooling,
        drop=options.drop if pretrained else 0.0,  # a randomly initialised backbone drops tokens itself
        frozen=options.frozen,
        summary_last=isinstance(module, ClipText),
        pads_with_tokens=isinstance(module, ClipText) and not module.causal,
        hidden=options.hidden,
        feature_dropout=options.feature_dropout,
        norm=options.norm if side == "image" else "none",
        attention_pool=attention_pool,
        dtype=jnp.dtype(config.dtype),
    )


def uniter(config: Config, facts: Facts) -> Uniter:
    """The matcher that the config describes."""
    options = config.uniter
    return Uniter(
        vocab=facts.vocab,
        hidden=options.hidden,
        mlp=options.mlp,
        layers=options.layers,
        heads=options.heads,
        positions=config.data.max_words,
        dropout=options.dropout,
        init_std=options.init_std,
        region_mlp=options.region_mlp,
        center_boxes=options.center_boxes,
        mlm=config.losses.masked_lm.weight > 0,
        remat=config.remat,
        dtype=jnp.dtype(config.dtype),
    )


def token_matcher(config: Config, facts: Facts) -> TokenMatcher:
    """The matcher on a dual encoder's tokens that the config describes."""
    return TokenMatcher(
        **{side: encoder(config, facts, side) for side in ("image", "text")},
        **config.matcher,
        remat=config.remat,
        dtype=jnp.dtype(config.dtype),
    )
