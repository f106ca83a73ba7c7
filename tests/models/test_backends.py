"""Every attention backend against `xla`, values and gradients."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from povid_jax.errors import UserError
from povid_jax.models import backends, sharding
from povid_jax.models.backends import Row
from povid_jax.models.config import DecoderConfig

ROW = Row(prefix=70, branches=2, length=24)
LENGTHS = jnp.array([70, 1, 33])


def arrays(row=ROW, heads=4, kv_heads=2, dim=128, dtype=jnp.float32):
  keys = jax.random.split(jax.random.key(0), 4)
  total = row.prefix + row.branches * row.length
  shape = lambda h: (len(LENGTHS), total, h, dim)
  make = lambda key, h: jax.random.normal(key, shape(h), dtype)
  q, k, v = (
    make(key, h)
    for key, h in zip(keys, (heads, kv_heads, kv_heads), strict=False)
  )
  return q, k, v, make(keys[3], heads)


def real_tokens(row=ROW):
  index = np.arange(row.prefix + row.branches * row.length)
  return (index < np.array(LENGTHS)[:, None]) | (index >= row.prefix)


def value_and_gradients(fn, row=ROW, **kwargs):
  q, k, v, cotangent = arrays(row, **kwargs)
  # what padding gives has no meaning and reaches no loss
  real = jnp.array(real_tokens(row))[..., None, None]

  def loss(q, k, v):
    out = jnp.where(real, fn(q, k, v, LENGTHS, row), 0)
    return (out * cotangent).sum(), out

  grads, out = jax.jit(jax.grad(loss, argnums=(0, 1, 2), has_aux=True))(q, k, v)
  return out, *grads


def assert_same(fn, reference, row=ROW, **kwargs):
  got = value_and_gradients(fn, row, **kwargs)
  want = value_and_gradients(reference, row, **kwargs)
  for a, b in zip(got, want, strict=True):
    np.testing.assert_allclose(a, b, atol=2e-5, rtol=2e-5)


plain = lambda window=None: functools.partial(backends.xla, window=window)


@pytest.mark.parametrize("window", [None, 20])
def test_calls_of_cudnn_compute_what_xla_does(window):
  """The same two calls and mask, through JAX's own implementation of them."""
  ours = functools.partial(backends.cudnn, window=window, implementation="xla")
  assert_same(ours, plain(window), dim=16)


def test_mask_of_branches_as_a_table():
  mask = backends.branch_mask(jnp.array([2]), Row(3, 2, 2), None)[0]
  assert mask.astype(int).tolist() == [
    [1, 1, 0, 1, 0, 0, 0],
    [1, 1, 0, 1, 1, 0, 0],
    [1, 1, 0, 0, 0, 1, 0],
    [1, 1, 0, 0, 0, 1, 1],
  ]


def of_branches(fn):
  """The backend asked for the branches' queries alone, zeros for the rest."""

  def run(q, k, v, lengths, row):
    tail = fn(q[:, row.prefix :], k, v, lengths, row)
    return jnp.pad(tail, ((0, 0), (row.prefix, 0), (0, 0), (0, 0)))

  return run


def without_prefix(fn):
  def run(q, k, v, lengths, row):
    return fn(q, k, v, lengths, row).at[:, : row.prefix].set(0)

  return run


@pytest.mark.parametrize("window", [None, 20])
@pytest.mark.parametrize("name", ["xla", "cudnn"])
def test_branches_alone(name, window):
  more = {"implementation": "xla"} if name == "cudnn" else {}
  ours = functools.partial(getattr(backends, name), window=window, **more)
  assert_same(of_branches(ours), without_prefix(plain(window)), dim=16)


SPLASH = functools.partial(backends.splash, interpret=True)
ROWS = [
  pytest.param(ROW, id="padded to whole blocks"),
  pytest.param(Row(96, 1, 32), id="one branch, one block"),
]


@pytest.mark.slow
@pytest.mark.parametrize("row", ROWS)
def test_splash_in_interpret_mode(row):
  assert_same(SPLASH, plain(), row)


@pytest.mark.slow
@pytest.mark.parametrize("row", [*ROWS, Row(200, 2, 128)])
def test_splash_of_branches_alone(row):
  assert_same(of_branches(SPLASH), without_prefix(plain()), row)


@pytest.mark.slow
def test_splash_on_a_mesh():
  """Rows over data and fsdp, heads over tensor: each device its own part."""
  mesh = sharding.make_mesh(
    {"data": 1, "fsdp": 3, "tensor": 2}, jax.devices()[:6]
  )
  q, k, v, _ = arrays()
  want = backends.xla(q, k, v, LENGTHS, ROW, None)
  put = lambda x, spec: jax.device_put(x, NamedSharding(mesh, spec))
  cut = P(("data", "fsdp"), None, "tensor")
  with jax.set_mesh(mesh):
    got = jax.jit(lambda *xs: backends.splash(*xs, ROW, interpret=True))(
      put(q, cut), put(k, cut), put(v, cut), put(LENGTHS, P(("data", "fsdp")))
    )
  real = real_tokens()[..., None, None]
  np.testing.assert_allclose(
    np.where(real, got, 0), np.where(real, want, 0), atol=2e-5
  )


BIG = DecoderConfig()
BF16, F32 = jnp.bfloat16, jnp.float32


@pytest.mark.parametrize(
  ("config", "dtype", "platform", "backend"),
  [
    (BIG, BF16, "cpu", "xla"),
    (BIG, BF16, "gpu", "cudnn"),
    (BIG, BF16, "tpu", "splash"),
    (BIG, F32, "gpu", "xla"),
    (BIG, F32, "tpu", "splash"),
    (dataclasses.replace(BIG, head_dim=80), BF16, "tpu", "xla"),
    (dataclasses.replace(BIG, sliding_window=64), BF16, "tpu", "xla"),
    (dataclasses.replace(BIG, sliding_window=64), BF16, "gpu", "cudnn"),
    (dataclasses.replace(BIG, head_dim=256), BF16, "gpu", "xla"),
  ],
)
def test_auto(config, dtype, platform, backend):
  assert backends.choose("auto", config, dtype, platform) == backend


@pytest.mark.parametrize(
  ("name", "dtype", "platform", "message"),
  [
    ("flash", BF16, "gpu", "want one of .*got 'flash'"),
    ("cudnn", BF16, "cpu", "cudnn: it needs an NVIDIA GPU, this is cpu"),
    ("cudnn", F32, "gpu", "cudnn: it needs dtype=bfloat16, got float32"),
    ("splash", BF16, "gpu", "splash: it needs a TPU, this is gpu"),
  ],
)
def test_what_cannot_run_is_refused(name, dtype, platform, message):
  with pytest.raises(UserError, match=message):
    backends.choose(name, BIG, dtype, platform)


def test_platform_is_that_of_jax_where_none_is_given():
  assert backends.choose("auto", BIG, BF16) == "xla"
