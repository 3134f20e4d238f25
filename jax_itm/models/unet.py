"""The dual-path UNet of CDDS: tokens -> a semantic and a modality component of each."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from jax_itm.arrays import Encoded, l2_normalise, mean_pool
from jax_itm.models.layers import TransformerLayer, recomputed
from jax_itm.types import Array, Bool, Float, PRNGKeyArray


def noise_bank(tokens: int, samples: int, dim: int) -> Float[Array, "n z d"]:
    """Standard normal noise by position: a longer padding changes none of it."""
    keys = jax.vmap(lambda k: jax.random.fold_in(jax.random.key(0), k))(jnp.arange(tokens))
    return jax.vmap(lambda key: jax.random.normal(key, (samples, dim)))(keys)


def halves(key: PRNGKeyArray, shape: tuple[int, int], dtype=jnp.float32) -> Array:
    """Start values of `Linear_{2d->d}`: half of either input, with a little noise.

    A token then starts near itself. From the usual values it starts as a random mixture of all dimensions,
    which random backbones take far longer to leave (measured); INFERRED, as all start values are.
    """
    eye = jnp.eye(shape[1], dtype=dtype) / 2
    return jnp.concatenate([eye, eye]) + nn.initializers.normal(0.02)(key, shape, dtype)


class Path(nn.Module):
    """One decoder, `D^s` or `D^m`: each layer takes the one before it and its encoder layer's output.

    `y_k = Linear_{2d->d}(ViT_{2d}([y_{k-1} ; e_{n+1-k}]))`, with `e_n` = H without noise. INFERRED.
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
            both = jnp.concatenate([x, skip], axis=-1)
            layer = recomputed(TransformerLayer, self.remat)
            layer = layer(self.heads, 2 * self.mlp * size, dtype=self.dtype, still=True, name=f"layer_{k}")
            x = nn.Dense(size, dtype=self.dtype, kernel_init=halves, name=f"linear_{k}")(
                layer(both, mask, False)
            )
        return x


class Unet(nn.Module):
    """One modality's encoder and its two decoders. CDDS, equations (1) to (4).

    No down- or up-sampling; pre-norm ViT layers, 8 heads and an MLP of 4 times the width are INFERRED, and
    that all layers start as the identity: with `halves`, a component starts as its token and some noise.
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
        """The semantic and the modality component, means over the z noises `E_n(delta)`; no noise: of H."""
        x, outputs = tokens.astype(self.dtype), []
        for k in range(self.layers):
            layer = recomputed(TransformerLayer, self.remat)(
                self.heads, self.mlp * x.shape[-1], dtype=self.dtype, still=True, name=f"encoder_{k}"
            )
            x = layer(x, mask, False)
            outputs.append(x)
        samples = 1 if noise is None else noise.shape[1]
        each = lambda x: jnp.broadcast_to(x[:, None], (len(x), samples, *x.shape[1:]))
        noisy = each(x) if noise is None else each(x) + noise
        skips, masks = [_flat(each(x)) for x in reversed(outputs)], _flat(each(mask))

        def decoded(name: str) -> Array:
            path = Path(self.heads, self.mlp, self.remat, self.dtype, name=name)
            found = path(_flat(noisy), skips, masks).astype(jnp.float32)
            return jnp.mean(found.reshape(-1, samples, *found.shape[1:]), axis=1)

        return decoded("semantic"), decoded("modality")


class DualPath(nn.Module):
    """The UNets of both modalities and the noise layer `E_n`, which they share (INFERRED)."""

    dim: int
    layers: int = 2
    heads: int = 8
    mlp: int = 4
    samples: int = 4  # z; 0: no noise
    scale: float = 1.0  # of the noise
    remat: bool = False
    dtype: jnp.dtype = jnp.dtype("float32")

    def setup(self) -> None:
        """The parts."""
        sizes = self.layers, self.heads, self.mlp, self.remat, self.dtype
        self.of_image, self.of_text = Unet(*sizes), Unet(*sizes)
        noise = recomputed(TransformerLayer, self.remat)
        self.noise = noise(self.heads, self.mlp * self.dim, dtype=self.dtype)

    def __call__(self, image: Encoded, text: Encoded) -> tuple[Encoded, Encoded]:
        """Both modalities with the fixed noise: what parameters are made with."""
        return self.image(image), self.text(text)

    def image(self, encoded: Encoded, train: bool = False) -> Encoded:
        """An image's patches, decoupled."""
        return self._decoupled(self.of_image, encoded, train)

    def text(self, encoded: Encoded, train: bool = False) -> Encoded:
        """A caption's words, decoupled."""
        return self._decoupled(self.of_text, encoded, train)

    def _decoupled(self, unet: Unet, encoded: Encoded, train: bool) -> Encoded:
        tokens, mask = encoded.tokens, encoded.mask
        semantic, modality = unet(tokens, mask, self._disturbance(mask, train) if self.samples else None)
        embedding = l2_normalise(mean_pool(semantic, mask))
        return Encoded(embedding, semantic, mask, tokens, modality)

    def _disturbance(self, mask: Bool[Array, "b n"], train: bool) -> Float[Array, "b z n d"]:
        """`E_n(delta)`: delta drawn anew in training, else a fixed bank, the same for every row."""
        shape = (*mask.shape, self.samples, self.dim)
        if train:
            delta = jax.random.normal(self.make_rng("dropout"), shape)
        else:
            delta = jnp.broadcast_to(noise_bank(*shape[1:]), shape)
        delta = jnp.moveaxis(delta, 2, 1).astype(self.dtype)
        masks = jnp.broadcast_to(mask[:, None], delta.shape[:3])
        return self.scale * self.noise(_flat(delta), _flat(masks), False).reshape(delta.shape)


def _flat(x: Array) -> Array:
    """The noises of a row one after another, so that devices keep their rows."""
    return x.reshape(-1, *x.shape[2:])
