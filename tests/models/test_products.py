"""Products of 8-bit operands against float64, and the text that is compiled."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from povid_jax.errors import UserError
from povid_jax.models import products, quantised, sharding
from povid_jax.models.layers import Linear, LoRA, RMSNorm

# half a step of the rounded operands, against the norm of the product
LOOSE = {"int8": 0.012, "fp8": 0.05}
BOTH = pytest.mark.parametrize("form", ["int8", "fp8"])


def _case(form, seed=0, dtype=jnp.float32):
  """Rows and columns of very different sizes; one row and one column of 0."""
  random = np.random.default_rng(seed)
  x = random.normal(size=(2, 3, 64)) * 10.0 ** random.integers(-6, 6, (2, 3, 1))
  w = random.normal(size=(64, 40)) * 10.0 ** random.integers(-3, 3, (1, 40))
  x[1, 2], w[:, 7] = 0, 0
  kernel = jnp.asarray(w, jnp.float32)
  stored, scale = quantised.quantise(kernel, f"matmul={form}")
  return jnp.asarray(x, dtype), kernel, stored, scale


def _rounded(x, dtype, axis):
  """float64: what the codes of x stand for."""
  codes, scale = products.quantise(x, dtype, axis)
  assert codes.dtype == dtype and scale.shape[axis] == 1
  return np.asarray(codes, np.float64) * np.asarray(scale, np.float64)


def _close(got, want, tolerance):
  """In each row and column by itself: their sizes differ by 10^12."""
  got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
  got, want = got.reshape(-1, got.shape[-1]), want.reshape(-1, want.shape[-1])
  scale = np.abs(want).max(axis=1, keepdims=True)
  assert (np.abs(got - want) <= tolerance * scale + 1e-30).all()


@BOTH
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_product_is_that_of_what_the_codes_stand_for(form, dtype):
  x, kernel, stored, scale = _case(form, dtype=dtype)
  y = jax.jit(products.product)(x, stored, scale)
  assert y.dtype == dtype and y.shape == (2, 3, 40)
  back = quantised.dequantise(stored, scale, jnp.float32)
  want = _rounded(x, stored.dtype, -1) @ np.asarray(back, np.float64)
  _close(y, want, 2e-6 if dtype == jnp.float32 else 2**-7)
  exact = np.asarray(x, np.float64) @ np.asarray(kernel, np.float64)
  for row, whole in zip(
    np.asarray(y, np.float64).reshape(-1, 40),
    exact.reshape(-1, 40),
    strict=True,
  ):
    scaled = np.linalg.norm(kernel, axis=0) + 1e-30  # columns alike
    off = np.linalg.norm((row - whole) / scaled)
    assert off <= LOOSE[form] * np.linalg.norm(whole / scaled)


@BOTH
def test_gradient_is_the_product_with_the_rounded_cotangent(form):
  x, kernel, stored, scale = _case(form)
  ct = jnp.asarray(np.random.default_rng(1).normal(size=(2, 3, 40)), x.dtype)
  _, back = jax.vjp(lambda x: products.product(x, stored, scale), x)
  got = back(ct)[0]
  codes = np.asarray(stored, np.float64)
  _close(got, _rounded(ct * scale[None], stored.dtype, -1) @ codes.T, 2e-6)
  exact = np.asarray(ct, np.float64) @ np.asarray(kernel, np.float64).T
  off = np.linalg.norm(got - exact, axis=-1)
  assert (off <= 1.5 * LOOSE[form] * np.linalg.norm(exact, axis=-1)).all()


@BOTH
def test_numbers_that_are_not_finite_stay_so(form):
  x, _, stored, scale = _case(form)
  bad = x.at[0, 0, 3].set(jnp.nan).at[0, 1, 5].set(jnp.inf)
  y = np.isfinite(products.product(bad, stored, scale)).all(axis=-1)
  assert y.tolist() == [[False, False, True], [True, True, True]]


@BOTH
def test_gradients_of_adapters_are_near_those_of_float32(form):
  x, *_ = _case(form)
  x = x / (np.abs(x).max(axis=-1, keepdims=True) + 1e-30)  # all tokens count
  found = []
  for kind in ("bf16", f"matmul={form}"):
    layer = Linear(64, 48, rngs=nnx.Rngs(0), bias=True)
    layer.add_lora(4, 2.0, nnx.Rngs(1))
    layer.lora_b[...] = 0.1 * jax.random.normal(jax.random.key(2), (4, 48))
    if kind != "bf16":
      layer.quantise(kind)
    loss = lambda layer, x: jnp.tanh(layer(x)).sum()
    grads = nnx.grad(loss, argnums=(nnx.DiffState(0, LoRA), 1))
    found.append(jax.tree.leaves(nnx.jit(grads)(layer, x)))
  assert len(found[0]) == 3  # of A, B and x
  for whole, got in zip(*found, strict=True):
    off = float(jnp.linalg.norm(got - whole) / jnp.linalg.norm(whole))
    assert 0 < off < 2 * LOOSE[form]


@BOTH
@pytest.mark.parametrize("cut", [P("fsdp", "tensor"), P("tensor", "fsdp")])
def test_a_kernel_cut_over_devices_gives_the_same(form, cut):
  x, _, stored, scale = _case(form)
  x = jnp.concatenate([x] * 4)

  @jax.jit
  def both(x, stored, scale):
    y, back = jax.vjp(lambda x: products.product(x, stored, scale), x)
    return y, *back(y)

  whole = both(x, stored, scale)
  mesh = sharding.make_mesh({"data": 2, "fsdp": 2, "tensor": 2})
  place = lambda a, spec: jax.device_put(a, NamedSharding(mesh, spec))
  with jax.set_mesh(mesh):
    parts = both(
      place(x, P(("data", "fsdp"))), place(stored, cut),
      place(scale, P(None, cut[1])),
    )  # fmt: skip
  for one, other in zip(whole, parts, strict=True):
    if form == "int8":  # its sums are exact, whatever their order
      np.testing.assert_array_equal(one, other)
    _close(other, one, 1e-6)


@pytest.mark.parametrize(
  ("form", "dtype"),
  [
    ("int8", jnp.float32),
    pytest.param("fp8", jnp.bfloat16, marks=pytest.mark.slow),
  ],
)
def test_an_adapter_that_adds_zero_changes_no_bit(form, dtype):
  """In one program, where what is fused with what is not the same in both."""
  draw = lambda i, *shape: jax.random.normal(jax.random.key(i), shape)
  layers = []
  for i, (rows, columns) in enumerate([(96, 200), (96, 200), (200, 96)]):
    layer = Linear(rows, columns, rngs=nnx.Rngs(i))
    layer.add_lora(4, 2.0, nnx.Rngs(i))
    layer.quantise(f"matmul={form}")
    layers.append(layer)
  graph, lora, rest = nnx.split(layers, LoRA, ...)
  norm = RMSNorm(96, 1e-5)

  def through(layers, x, adapter):
    gate, up, down = layers
    for _ in range(2):
      h = norm(x)
      h = jax.nn.silu(gate(h, adapter)) * up(h, adapter)
      x = x + down(h, adapter)
    return x

  def both(lora, rest, x):
    layers = nnx.merge(graph, lora, rest)
    policy = through(layers, x, True)
    reference = through(layers, x, False)
    return (policy.astype(jnp.float32) ** 2).sum(), (policy, reference)

  x = draw(7, 300, 96).astype(dtype)
  lowered = jax.jit(jax.grad(both, has_aux=True)).lower(lora, rest, x)
  # as a run is compiled, not as tests are: see conftest.py
  run = lowered.compile(
    {
      "xla_backend_optimization_level": 3,
      "xla_llvm_disable_expensive_passes": False,
    }
  )
  _, (policy, reference) = run(lora, rest, x)
  np.testing.assert_array_equal(policy, reference)


def _lowered(form, platform):
  x, _, stored, scale = _case(form, dtype=jnp.bfloat16)
  run = jax.value_and_grad(
    lambda x, k, s: products.product(x, k, s).astype(jnp.float32).sum()
  )
  traced = jax.jit(run).trace(x, stored, scale)
  text = traced.lower(lowering_platforms=(platform,)).as_text()
  return [line for line in text.splitlines() if "dot_general" in line]


@pytest.mark.parametrize(
  ("form", "platform", "kind", "given"),
  [
    ("fp8", "cuda", "f8E4M3FN", "bf16"),
    ("int8", "cuda", "i8", "i32"),
    ("int8", "tpu", "i8", "i32"),
  ],
)
def test_the_compiler_is_given_products_of_8_bits(form, platform, kind, given):
  """Forward and to the input; operands that are converted first would be
  multiplied in bfloat16."""
  lines = _lowered(form, platform)
  assert len(lines) == 2
  for line, (left, right, out) in zip(
    lines, [("64", "64x40", "40"), ("40", "64x40", "64")], strict=True
  ):
    want = f"(tensor<2x3x{left}x{kind}>, tensor<{right}x{kind}>)"
    assert f"{want} -> tensor<2x3x{out}x{given}>" in line


def test_what_cannot_be_stored_so():
  for base in ("int8", "nf4"):
    with pytest.raises(UserError, match=f"config.base={base} has no place"):
      quantised.kind_of({"base": base, "matmul": "fp8"})
  assert quantised.kind_of({"base": "nf4"}) == "nf4"
  for shape in ((140_000, 8), (8, 140_000)):  # the gradient sums columns
    wide = jax.ShapeDtypeStruct(shape, jnp.float32)
    store = lambda form, wide=wide: jax.eval_shape(
      lambda w: quantised.quantise(w, f"matmul={form}"), wide
    )
    assert store("fp8")[0].shape == shape
    with pytest.raises(UserError, match="sums of more than 133144 numbers"):
      store("int8")


def test_only_kernels_of_the_decoder():
  array = jnp.ones((2, 64, 4))
  for path in ("decoder/lm_head/kernel", "vision/layers/mlp/fc1/kernel"):
    assert list(quantised.store(path, array, "matmul=int8")) == [path]
  path = "decoder/layers/mlp/up_proj/kernel"
  held = quantised.store(path, array, "matmul=fp8")
  assert held[path].dtype == jnp.float8_e4m3fn
  assert held[f"{path}_scale"].shape == (2, 1, 4)
  assert quantised.store(path, held[path], "matmul=fp8") == {path: held[path]}
