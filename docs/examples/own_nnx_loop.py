"""Your own Flax NNX encoders and training loop, with the batch split over all devices.

    python docs/examples/own_nnx_loop.py

Eight devices on a CPU: XLA_FLAGS=--xla_force_host_platform_device_count=8
"""

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jax_itm import losses


class Encoder(nnx.Module):
    """Any module will do that gives one vector an item."""

    def __init__(self, rngs: nnx.Rngs):
        self.up = nnx.Linear(32, 64, rngs=rngs)
        self.down = nnx.Linear(64, 16, rngs=rngs)

    def __call__(self, x):
        return losses.l2_normalise(self.down(nnx.relu(self.up(x))))


class Matcher(nnx.Module):
    """Both encoders, and the temperature and bias of the sigmoid loss."""

    def __init__(self, rngs: nnx.Rngs):
        self.image = Encoder(rngs)
        self.text = Encoder(rngs)
        self.log_scale = nnx.Param(jnp.log(10.0))
        self.bias = nnx.Param(jnp.asarray(-5.0))


def pairs(step):
    """Images and texts of the same things, with noise of their own."""
    things, image, text = jax.random.normal(jax.random.fold_in(jax.random.key(0), step), (3, 64, 32))
    return things + 0.3 * image, things[:, ::-1] + 0.3 * text


def loss(matcher, images, texts):
    """The sigmoid loss with DIAS's spatial terms."""
    v, t = matcher.image(images), matcher.text(texts)
    scale, bias = jnp.exp(matcher.log_scale[...]), matcher.bias[...]
    spatial = losses.spatial_constraint(v, t, inter=0.005, intra=0.01, axis="dp")
    return losses.sigmoid(v, t, scale=scale, bias=bias, axis="dp") + spatial


@nnx.jit
def update(matcher, optimizer, images, texts):
    value, grads = nnx.value_and_grad(loss)(matcher, images, texts)
    optimizer.update(matcher, grads)
    return value


def main():
    mesh = jax.make_mesh((jax.device_count(),), ("dp",), (AxisType.Auto,))
    with jax.set_mesh(mesh):
        matcher = Matcher(nnx.Rngs(1))
        optimizer = nnx.Optimizer(matcher, optax.adam(3e-3), wrt=nnx.Param)
        rows = NamedSharding(mesh, PartitionSpec("dp"))
        for step in range(31):
            value = update(matcher, optimizer, *jax.device_put(pairs(step), rows))
            if step % 10 == 0:
                print(f"step {step}: loss {value:.4f}")


if __name__ == "__main__":
    main()
