"""The dual-path UNet of CDDS: from each token to a semantic and a modality component.

Equations are those of docs/methods/cdds.md. What the paper leaves open is INFERRED.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from jax_itm.arrays import Encoded, l2_normalise, mean_pool
from jax_itm.models.layers import TransformerLayer, maybe_remat
from jax_itm.models.repeated import outputs_in_turn, side_by_side
from jax_itm.types import Array, Bool, Float, PRNGKeyArray


def noise_bank(tokens: int, samples: int, dim: int) -> Float[Array, "n z d"]:
    """Fixed standard normal noise for each position: a longer padding changes none of it."""
    keys = jax.vmap(lambda k: jax.random.fold_in(jax.random.key(0), k))(jnp.arange(tokens))
    return jax.vmap(lambda key: jax.random.normal(key, (samples, dim)))(keys)


def average_halves(key: PRNGKeyArray, shape: tuple[int, int], dtype=jnp.float32) -> Array:
    """Initial kernel of `Linear_{2d->d}`: the mean of the input's two halves, with a little noise.

    A token then starts near itself. From the usual values it starts as a random mixture of all dimensions,
    which random backbones take far longer to leave (measured); INFERRED, as all initial values are.
    """
    eye = jnp.eye(shape[1], dtype=dtype) / 2
    return jnp.concatenate([eye, eye]) + nn.initializers.normal(0.02)(key, shape, dtype)


class Decoder(nn.Module):
    """One decoder, `D^s` or `D^m`: each layer takes the previous one's and its encoder layer's output.

        y_k = Linear_{2d->d}(ViT_{2d}([y_{k-1} ; e_{n+1-k}]))

    where `e_n` is H without noise. INFERRED.

    Attributes:
        heads: attention heads of a layer.
        mlp: width of a layer's MLP over the layer's own.
        remat: whether the backward pass computes the layers again.
        dtype: of the computation.
    """

    heads: int
    mlp: int
    remat: bool
    dtype: jnp.dtype

    @nn.compact
    def __call__(
        self, x: Float[Array, "b n d"], skips: list[Float[Array, "b n d"]], mask: Bool[Array, "b n"]
    ) -> Float[Array, "b n d"]:
        """From the noisy H, with the encoder's outputs, the last first."""
        size = x.shape[-1]
        for k, skip in enumerate(skips):
            layer = maybe_remat(TransformerLayer, self.remat)(
                self.heads,
                2 * self.mlp * size,
                dtype=self.dtype,
                zero_init_residual=True,
                name=f"layer_{k}",
            )
            linear = nn.Dense(size, dtype=self.dtype, kernel_init=average_halves, name=f"linear_{k}")
            x = linear(layer(jnp.concatenate([x, skip], axis=-1), mask, False))
        return x


class Unet(nn.Module):
    """One modality's encoder and its two decoders: equations (1) to (4).

    No down- or up-sampling. Pre-norm ViT layers, 8 heads and an MLP of 4 times the width are INFERRED, and
    that all layers start as the identity: with `average_halves` a component starts as its token and noise.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> x, mask = jnp.ones((2, 3, 8)), jnp.ones((2, 3), bool)
        >>> unet = Unet(layers=1, heads=2)
        >>> semantic, modality = unet.apply(unet.init(jax.random.key(0), x, mask, None), x, mask, None)
        >>> semantic.shape, modality.shape
        ((2, 3, 8), (2, 3, 8))

    Attributes:
        layers: of the encoder, and of each decoder.
        heads: attention heads of a layer.
        mlp: width of a layer's MLP over the layer's own.
        remat: whether the backward pass computes the layers again.
        dtype: of the computation.
    """

    layers: int = 2
    heads: int = 8
    mlp: int = 4
    remat: bool = False
    dtype: jnp.dtype = jnp.dtype("float32")

    @nn.compact
    def __call__(
        self, tokens: Float[Array, "b n d"], mask: Bool[Array, "b n"], noise: Float[Array, "b z n d"] | None
    ) -> tuple[Float[Array, "b n d"], Float[Array, "b n d"]]:
        """The semantic and the modality component.

        Args:
            tokens: of one modality.
            mask: which of them are true.
            noise: z noises `E_n(delta)`, over which the components are averaged; None for none.
        """
        x = tokens.astype(self.dtype)
        layers = [
            maybe_remat(TransformerLayer, self.remat)(
                self.heads,
                self.mlp * x.shape[-1],
                dtype=self.dtype,
                zero_init_residual=True,
                name=f"encoder_{k}",
            )
            for k in range(self.layers)
        ]
        outputs = outputs_in_turn(layers, x, mask, False)
        samples = 1 if noise is None else noise.shape[1]
        repeat = lambda x: jnp.broadcast_to(x[:, None], (x.shape[0], samples, *x.shape[1:]))
        noisy = _merge_samples(repeat(outputs[-1]) if noise is None else repeat(outputs[-1]) + noise)
        skips = [_merge_samples(repeat(x)) for x in reversed(outputs)]
        masks = _merge_samples(repeat(mask))
        decoders = [
            Decoder(self.heads, self.mlp, self.remat, self.dtype, name=name)
            for name in ("semantic", "modality")
        ]

        def mean(component: Float[Array, "bz n d"]) -> Float[Array, "b n d"]:
            component = component.astype(jnp.float32)
            return jnp.mean(component.reshape(-1, samples, *component.shape[1:]), axis=1)

        semantic, modality = map(mean, side_by_side(decoders, noisy, skips, masks))
        return semantic, modality


class DualPath(nn.Module):
    """The UNets of both modalities, and the noise layer `E_n`, which they share (INFERRED).

    Ma et al., "Aligning the True Semantics: Constrained Decoupling and Distribution Sampling for Cross-Modal
    Alignment", AAAI 2026, arXiv 2603.05566; docs/methods/cdds.md, equations (1) to (4).

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jax_itm.arrays import Encoded
        >>> tokens = jnp.ones((2, 3, 8))
        >>> encoded = Encoded(tokens[:, 0], tokens, jnp.ones((2, 3), bool))
        >>> unet = DualPath(dim=8, layers=1, heads=2, samples=2)
        >>> image, text = unet.apply(unet.init(jax.random.key(0), encoded, encoded), encoded, encoded)
        >>> image.tokens.shape, image.modality.shape
        ((2, 3, 8), (2, 3, 8))

    Attributes:
        dim: of a token.
        layers: of an encoder, and of each decoder.
        heads: attention heads of a layer.
        mlp: width of a layer's MLP over the layer's own.
        samples: number z of noises; 0 for none.
        scale: of the noise.
        remat: whether the backward pass computes the layers again.
        dtype: of the computation.
    """

    dim: int
    layers: int = 2
    heads: int = 8
    mlp: int = 4
    samples: int = 4
    scale: float = 1.0
    remat: bool = False
    dtype: jnp.dtype = jnp.dtype("float32")

    def setup(self) -> None:
        """The parts."""
        sizes = self.layers, self.heads, self.mlp, self.remat, self.dtype
        self.of_image = Unet(*sizes)
        self.of_text = Unet(*sizes)
        noise_layer = maybe_remat(TransformerLayer, self.remat)
        self.noise = noise_layer(self.heads, self.mlp * self.dim, dtype=self.dtype)

    def __call__(self, image: Encoded, text: Encoded) -> tuple[Encoded, Encoded]:
        """Both modalities with the fixed noise."""
        return self.image(image), self.text(text)

    def image(self, encoded: Encoded, train: bool = False) -> Encoded:
        """An image's regions or patches, decoupled; new noise in training."""
        return self._decouple(self.of_image, encoded, train)

    def text(self, encoded: Encoded, train: bool = False) -> Encoded:
        """A caption's words, decoupled; new noise in training."""
        return self._decouple(self.of_text, encoded, train)

    def _decouple(self, unet: Unet, encoded: Encoded, train: bool) -> Encoded:
        tokens = encoded.tokens
        mask = encoded.mask
        semantic, modality = unet(tokens, mask, self._noise(mask, train) if self.samples else None)
        embedding = l2_normalise(mean_pool(semantic, mask))
        return Encoded(embedding, semantic, mask, tokens, modality)

    def _noise(self, mask: Bool[Array, "b n"], train: bool) -> Float[Array, "b z n d"]:
        """`E_n(delta)`: delta is new in training, else a fixed bank, the same for every item."""
        shape = (*mask.shape, self.samples, self.dim)
        if train:
            delta = jax.random.normal(self.make_rng("dropout"), shape)
        else:
            delta = jnp.broadcast_to(noise_bank(*shape[1:]), shape)
        delta = jnp.moveaxis(delta, 2, 1).astype(self.dtype)
        masks = jnp.broadcast_to(mask[:, None], delta.shape[:3])
        noise = self.noise(_merge_samples(delta), _merge_samples(masks), False)
        return self.scale * noise.reshape(delta.shape)


def _merge_samples(x: Array) -> Array:
    """(b, z, ..) -> (b z, ..): an item's noises one after another, so that devices keep their items."""
    return x.reshape(-1, *x.shape[2:])
