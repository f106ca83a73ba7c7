"""AdamW by hand in NumPy, schedules as literal tables, the guard."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from povid_jax.errors import UserError
from povid_jax.training import optim

LORA = "decoder/layers/self_attn/q_proj/lora_a"
BIAS = "projector/linear_1/bias"
KERNEL = "projector/linear_1/kernel"


def params():
  rng = np.random.default_rng(0)
  shapes = {LORA: (2, 3, 4), BIAS: (3,), KERNEL: (3, 3)}
  return {k: rng.normal(size=s).astype(np.float32) for k, s in shapes.items()}


@pytest.mark.parametrize(
  ("kind", "want"),
  [
    # 10 updates, 2 of warm-up, peak 1, end 0
    ("cosine", [0, 0.5, 1, 0.961940, 0.853553, 0.691342, 0.5, 0.308658]),
    ("linear", [0, 0.5, 1, 0.875, 0.75, 0.625, 0.5, 0.375]),
    ("constant", [0, 0.5, 1, 1, 1, 1, 1, 1]),
  ],
)
def test_schedule_by_hand(kind, want):
  for warmup in ({"warmup_steps": 2}, {"warmup_ratio": 0.11}):
    rate = optim.schedule(kind, 1.0, 10, **warmup)
    got = [float(rate(step)) for step in range(8)]
    np.testing.assert_allclose(got, want, atol=1e-6)


def test_schedule_ends_at_its_end():
  rate = optim.schedule("cosine", 2.0, 10, end_factor=0.1)
  assert float(rate(0)) == 2.0  # no warm-up: the peak at once
  for step in (10, 500):  # and stays there if a run goes on
    assert float(rate(step)) == pytest.approx(0.2)


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (("cosin", 1.0, 10, {}), "did you mean 'cosine'"),
    (("linear", -1.0, 10, {}), "want learning rate >= 0"),
    (("linear", 1.0, 10, {"warmup_steps": 11}), "does not fit a run of 10"),
  ],
)
def test_bad_schedules(arguments, message):
  kind, peak, steps, more = arguments
  with pytest.raises(UserError, match=message):
    optim.schedule(kind, peak, steps, **more)


def adamw(grads, start, rates, *, decay, clip, b1=0.9, b2=0.999, eps=1e-8):
  """float64 AdamW over a list of gradient trees; rates[path](step)."""
  p = {k: v.astype(np.float64) for k, v in start.items()}
  m = {k: np.zeros_like(v) for k, v in p.items()}
  v = {k: np.zeros_like(v) for k, v in p.items()}
  for t, g in enumerate(grads):
    norm = np.sqrt(sum((x.astype(np.float64) ** 2).sum() for x in g.values()))
    shrink = min(1.0, clip / norm) if clip else 1.0
    for k in p:
      x = g[k] * shrink
      m[k] = b1 * m[k] + (1 - b1) * x
      v[k] = b2 * v[k] + (1 - b2) * x**2
      step = (m[k] / (1 - b1 ** (t + 1))) / (
        np.sqrt(v[k] / (1 - b2 ** (t + 1))) + eps
      )
      if not k.endswith("bias"):
        step = step + decay * p[k]
      p[k] = p[k] - rates(k, t) * step
  return p


@pytest.mark.parametrize(("decay", "clip"), [(0.0, 0.0), (0.1, 0.5)])
def test_adamw_with_groups_agrees_with_numpy(decay, clip):
  start = params()
  rng = np.random.default_rng(1)
  grads = [
    {k: rng.normal(size=v.shape).astype(np.float32) for k, v in start.items()}
    for _ in range(6)
  ]
  transform, rates = optim.make(
    learning_rate=1e-2,
    total_steps=6,
    paths=start,
    warmup_steps=2,
    group_rates={"^projector/": 1e-3},
    weight_decay=decay,
    clip_norm=clip,
  )
  assert set(rates) == {"default", "^projector/"}
  p, state = jax.tree.map(jnp.asarray, start), None
  state = transform.init(p)
  for g in grads:
    updates, state = transform.update(g, state, p)
    p = optax.apply_updates(p, updates)
  by_path = lambda path, step: float(
    rates["^projector/" if path.startswith("projector") else "default"](step)
  )
  want = adamw(grads, start, by_path, decay=decay, clip=clip)
  for path in start:
    np.testing.assert_allclose(p[path], want[path], rtol=2e-6, err_msg=path)


def test_a_rate_for_frozen_parameters_is_refused():
  """The released run set mm_projector_lr while its projector was frozen."""
  with pytest.raises(UserError, match="'projector' matches no trainable"):
    optim.make(
      learning_rate=1e-7,
      total_steps=10,
      paths=[LORA],
      group_rates={"projector": 2e-5},
    )


def test_first_matching_group_wins():
  transform, _ = optim.make(
    learning_rate=1.0,
    total_steps=10,
    paths=[BIAS, KERNEL],
    schedule_kind="constant",
    group_rates={"bias$": 0.5, "projector": 0.25},
  )
  grads = {BIAS: jnp.ones(1), KERNEL: jnp.ones(1)}
  updates, _ = transform.update(grads, transform.init(grads), grads)
  # Adam's first step has size one, whatever the gradient; float32 bias
  # correction costs 7e-6
  np.testing.assert_allclose(updates[BIAS], [-0.5], rtol=1e-5)
  np.testing.assert_allclose(updates[KERNEL], [-0.25], rtol=1e-5)


def test_nested_trees_have_the_same_paths():
  tree = {"projector": {"linear_1": {"bias": jnp.ones(1)}}}
  paths = [
    optim.path_of(path)
    for path, _ in jax.tree_util.tree_flatten_with_path(tree)[0]
  ]
  assert paths == [BIAS]


@pytest.mark.parametrize("bad", ["grad", "loss"])
def test_guard_leaves_everything_as_it_was(bad):
  start = jax.tree.map(jnp.asarray, params())
  inner, _ = optim.make(learning_rate=1e-2, total_steps=10, paths=start)
  guarded = optim.finite_guard(inner)
  update = jax.jit(guarded.update)
  good = jax.tree.map(jnp.ones_like, start)
  poison = jax.tree.map(jnp.ones_like, start)
  loss = jnp.array(1.0)
  _, before = update(good, guarded.init(start), start, loss=loss)
  if bad == "grad":
    poison[BIAS] = poison[BIAS].at[1].set(jnp.inf)
  else:
    loss = jnp.array(jnp.nan)
  updates, after = update(poison, before, start, loss=loss)
  assert all(not np.any(x) for x in jax.tree.leaves(updates))
  for a, b in zip(
    jax.tree.leaves(before.inner), jax.tree.leaves(after.inner), strict=True
  ):
    np.testing.assert_array_equal(a, b)
  flags = {k: float(v) for k, v in optim.guard_flags(after).items()}
  assert flags == {"finite": 0, "skipped": 1, "skipped_in_a_row": 1}
  _, healed = update(good, after, start, loss=jnp.array(1.0))
  flags = {k: float(v) for k, v in optim.guard_flags(healed).items()}
  assert flags == {"finite": 1, "skipped": 1, "skipped_in_a_row": 0}


def test_guard_changes_nothing_while_all_is_well():
  start = jax.tree.map(jnp.asarray, params())
  inner, _ = optim.make(learning_rate=1e-2, total_steps=10, paths=start)
  guarded = optim.finite_guard(inner)
  plain, _ = inner.update(start, inner.init(start), start)
  kept, _ = guarded.update(start, guarded.init(start), start)
  jax.tree.map(np.testing.assert_array_equal, plain, kept)


def test_policies():
  good = {"finite": 1.0, "skipped": 0.0, "skipped_in_a_row": 0.0}
  bad = {"finite": 0.0, "skipped": 3.0, "skipped_in_a_row": 3.0}
  optim.check_finite("raise", 7, good)
  optim.check_finite("skip", 7, bad)
  with pytest.raises(optim.NonFiniteError, match="step 7: the loss"):
    optim.check_finite("raise", 7, bad)
  with pytest.raises(FloatingPointError, match="3 times in a row"):
    optim.check_finite("skip", 7, bad, max_in_a_row=3)
  with pytest.raises(UserError, match="want raise or skip"):
    optim.check_finite("ignore", 7, good)
