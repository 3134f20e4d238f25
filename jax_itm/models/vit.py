"""The Vision Transformer, randomly initialised or as ViT, DINOv2 and CLIP publish it."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jax_itm.models.layers import Tokens, TransformerLayer, drop_tokens, maybe_remat
from jax_itm.models.repeated import in_turn
from jax_itm.types import Array, Float, Inputs


def normalise_pixels(
    pixels: Array, scale: float, mean: tuple[float, ...], std: tuple[float, ...], dtype: jnp.dtype
) -> Float[Array, "b h v 3"]:
    """`(p scale - mean) / std` of uint8 pixels (b, h, v, 3), as an encoder's preprocessor says."""
    x = pixels.astype(jnp.float32) * scale
    return ((x - jnp.asarray(mean, jnp.float32)) / jnp.asarray(std, jnp.float32)).astype(dtype)


def bicubic_weights(size: int, out: int, antialias: bool) -> np.ndarray:
    """The matrix (out, size) of bicubic resizing along one axis, as PyTorch's `interpolate` does it.

    Keys (1981) with a = -0.75 and repeated edges; with `antialias` as PIL: a = -0.5, a wider kernel where the
    axis shrinks, and edges left out.
    """
    a = -0.5 if antialias else -0.75
    step = size / out
    centre = (np.arange(out)[:, None] + 0.5) * step - 0.5
    stretch = max(step, 1.0) if antialias else 1.0
    taps = np.floor(centre) + np.arange(-1, 3) if not antialias else np.arange(size)[None] + 0 * centre
    x = np.abs(taps - centre) / stretch
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    weights = np.where(x <= 1, near, np.where(x < 2, far, 0))
    weights = weights / weights.sum(1, keepdims=True)
    if antialias:
        return weights
    matrix = np.zeros((out, size))
    np.add.at(matrix, (np.arange(out)[:, None], np.clip(taps, 0, size - 1).astype(int)), weights)
    return matrix


class Vit(nn.Module):
    """A Vision Transformer (Dosovitskiy et al., "An Image is Worth 16x16 Words", ICLR 2021).

    The defaults are for training from random values: pre-norm layers, learnt positions and no class token, so
    that the patches take the place of regions. The other fields make it ViT, DINOv2 (with registers, Darcet
    et al., "Vision Transformers Need Registers", 2024) or CLIP's image encoder as they are published.

    Tokens are the class token, the registers and the patches, those that it has, after the last LayerNorm,
    which CLIP itself applies to the class token alone. For pictures of another size than `image_size`, the
    positions are resized as the transformers library does.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> image = {"pixels": jnp.zeros((2, 32, 32, 3), jnp.uint8)}
        >>> vit = Vit(layers=1, heads=2, width=8, patch=16, image_size=32)
        >>> vit.apply(vit.init(jax.random.key(0), image), image).features.shape
        (2, 4, 8)

    Attributes:
        layers: number of layers.
        heads: attention heads of a layer.
        width: of a token.
        patch: side of a patch in pixels.
        image_size: side in pixels of the square pictures that the positions are for.
        mlp: width of a layer's MLP; 0 for four times `width`.
        act: activation of the MLPs, one of `layers.ACTIVATIONS`.
        norm_eps: of the LayerNorms.
        scale: pixels p of 0 to 255 become `(p scale - mean) / std`.
        mean: of each colour.
        std: of each colour.
        class_token: whether a learnt token stands before the patches.
        registers: learnt tokens between the class token and the patches.
        antialias: whether resizing the positions does.
        norm_first: CLIP's LayerNorm before the layers, with patches without bias.
        layer_scale: DINOv2's LayerScale.
        drop: fraction of the patches hidden in training, from the other patches too (masked autoencoders).
        patch_dropout: fraction of the patches left out in training: the layers never see them, which saves
            their time (Li et al., "Scaling Language-Image Pre-training via Masking" (FLIP), CVPR 2023).
        remat: whether the backward pass computes the layers again instead of keeping their activations.
        dtype: of the computation.
    """

    layers: int
    heads: int
    width: int
    patch: int
    image_size: int
    mlp: int = 0
    act: str = "gelu_tanh"
    norm_eps: float = 1e-6
    scale: float = 1 / 255
    mean: tuple[float, ...] = (0.5,) * 3
    std: tuple[float, ...] = (0.5,) * 3
    class_token: bool = False
    registers: int = 0
    antialias: bool = False
    norm_first: bool = False
    layer_scale: bool = False
    drop: float = 0.0
    patch_dropout: float = 0.0
    remat: bool = False
    dtype: jnp.dtype = jnp.dtype("float32")

    @nn.compact
    def __call__(self, image: Inputs, train: bool = False) -> Tokens:
        """Takes `batch["image"]` with uint8 pixels; rows and columns that fill no patch are left out."""
        x = self._embed_patches(image["pixels"])
        if train and self.patch_dropout:
            x = self._kept_patches(x)
        mask = jnp.ones(x.shape[:2], bool)
        if train:
            learnt = jnp.arange(x.shape[1]) < int(self.class_token) + self.registers
            mask = drop_tokens(self, mask, self.drop) | learnt
        layers = [
            maybe_remat(TransformerLayer, self.remat)(
                self.heads,
                self.mlp or 4 * self.width,
                norm_eps=self.norm_eps,
                dtype=self.dtype,
                act=self.act,
                layer_scale=self.layer_scale,
                name=f"layer_{index}",
            )
            for index in range(self.layers)
        ]
        x, _ = in_turn(layers, x, mask, train)
        return Tokens(nn.LayerNorm(self.norm_eps, dtype=self.dtype, name="norm")(x), mask)

    def _embed_patches(self, pixels: Array) -> Float[Array, "b n width"]:
        """The tokens before the layers: patches with their positions, and those that are learnt."""
        window = (self.patch, self.patch)
        patches = nn.Conv(
            self.width,
            window,
            window,
            "VALID",
            use_bias=not self.norm_first,
            dtype=self.dtype,
            name="patches",
        )
        x = patches(normalise_pixels(pixels, self.scale, self.mean, self.std, self.dtype))
        rows, columns = x.shape[1:3]
        x = x.reshape(x.shape[0], -1, self.width)
        if self.class_token:
            x = jnp.concatenate([self._learnt_tokens("cls", 1, x), x], axis=1)
        x = x + self._positions(rows, columns).astype(self.dtype)
        if self.registers:
            registers = self._learnt_tokens("registers", self.registers, x)
            first = int(self.class_token)
            x = jnp.concatenate([x[:, :first], registers, x[:, first:]], axis=1)
        if self.norm_first:
            x = nn.LayerNorm(self.norm_eps, dtype=self.dtype, name="norm_first")(x)
        return x

    def _kept_patches(self, x: Float[Array, "b n width"]) -> Float[Array, "b m width"]:
        """The learnt tokens, and of each picture's patches as many, in order, as `patch_dropout` leaves."""
        learnt = int(self.class_token) + self.registers
        patches = x.shape[1] - learnt
        count = max(1, round(patches * (1 - self.patch_dropout)))
        draws = jax.random.uniform(self.make_rng("dropout"), (x.shape[0], patches))
        kept = jnp.sort(jnp.argsort(draws, axis=1)[:, :count], axis=1)
        chosen = jnp.take_along_axis(x[:, learnt:], kept[..., None], axis=1)
        return jnp.concatenate([x[:, :learnt], chosen], axis=1)

    def _learnt_tokens(
        self, name: str, count: int, x: Float[Array, "b p width"]
    ) -> Float[Array, "b n width"]:
        """The same `count` tokens for every row of `x`."""
        tokens = self.param(name, nn.initializers.normal(0.02), (1, count, self.width))
        return jnp.broadcast_to(tokens.astype(self.dtype), (x.shape[0], count, self.width))

    def _positions(self, rows: int, columns: int) -> Float[Array, "1 n width"]:
        side = self.image_size // self.patch
        first = int(self.class_token)
        shape = (1, first + side * side, self.width)
        table = self.param("positions", nn.initializers.normal(0.02), shape)
        if (rows, columns) == (side, side):
            return table
        grid = table[0, first:].reshape(side, side, self.width).astype(jnp.float32)
        down, across = (jnp.asarray(bicubic_weights(side, n, self.antialias)) for n in (rows, columns))
        grid = jnp.einsum("rh,cv,hvd->rcd", down, across, grid)
        return jnp.concatenate([table[:, :first], grid.reshape(1, -1, self.width)], axis=1)
