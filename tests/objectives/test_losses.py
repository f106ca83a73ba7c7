"""Every objective against a NumPy float64 oracle, and hand-computed rows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from povid_jax import objectives
from povid_jax.objectives import Counts, Logps, weighted_mean

BATCH = 5


def log_s(x):
  """log sigmoid in float64, written apart from the library's."""
  x = np.asarray(x, np.float64)
  return -np.log1p(np.exp(-np.abs(x))) + np.minimum(x, 0)


def draw(seed):
  """Two models' log-probs, far enough apart to leave the linear range."""
  rng = np.random.default_rng(seed)
  counts = {
    "chosen": rng.integers(1, 40, BATCH),
    "rejected": rng.integers(1, 40, BATCH),
  }
  reference = {
    name: -rng.uniform(1, 60, BATCH)
    for name in ("chosen", "rejected", "noise", "corrupted")
  }
  policy = {
    name: value + rng.normal(0, 8, BATCH) for name, value in reference.items()
  }
  return policy, reference, counts


def oracle_sft(p, q, n):
  return -p["chosen"] / n["chosen"]


def oracle_dpo(
  p,
  q,
  n,
  beta=0.1,
  loss_type="sigmoid",
  label_smoothing=0.0,
  smoothing_variant="cdpo",
  sft_weight=0.0,
  length_normalised=False,
  anchor_weight=0.0,
  anchor=0.0,
):
  c, r = p["chosen"] - q["chosen"], p["rejected"] - q["rejected"]
  if length_normalised:
    c, r = c / n["chosen"], r / n["rejected"]
  h, e = c - r, label_smoothing
  if loss_type == "hinge":
    loss = np.where(beta * h < 1, 1 - beta * h, 0.0)
  elif loss_type == "ipo":
    loss = (h - 0.5 / beta) ** 2
  elif smoothing_variant == "cdpo":
    loss = -(1 - e) * log_s(beta * h) - e * log_s(-beta * h)
  else:
    loss = (-(1 - e) * log_s(beta * h) + e * log_s(-beta * h)) / (1 - 2 * e)
  loss = loss - anchor_weight * log_s(beta * c - anchor)
  return loss - sft_weight * p["chosen"] / n["chosen"]


def oracle_povid(
  p,
  q,
  n,
  beta=0.1,
  text_weight=0.5,
  noise_weight=0.5,
  anchor_weight=0.0,
  anchor=0.0,
):
  text = (p["chosen"] - p["rejected"]) - (q["chosen"] - q["rejected"])
  noise = (p["chosen"] - p["noise"]) - (q["chosen"] - q["noise"])
  kept = beta * (p["chosen"] - q["chosen"]) - anchor
  return (
    -text_weight * log_s(beta * text)
    - noise_weight * log_s(beta * noise)
    - anchor_weight * log_s(kept)
  )


def oracle_paper(p, q, n, alpha=0.1, beta1=0.05, beta2=0.05):
  r = {name: p[name] - q[name] for name in p}
  inner = beta1 * r["rejected"] + beta2 * r["noise"]
  return -log_s(alpha * r["chosen"] - inner)


def oracle_mdpo(
  p, q, n, beta=0.1, anchor=0.0, conditional_weight=1.0, anchor_weight=1.0
):
  r = {name: p[name] - q[name] for name in p}
  text = -log_s(beta * (r["chosen"] - r["rejected"]))
  image = -log_s(beta * (r["chosen"] - r["corrupted"]))
  floor = -log_s(beta * r["chosen"] - anchor)
  return text + conditional_weight * image + anchor_weight * floor


def oracle_mpo(
  p,
  q,
  n,
  beta=0.1,
  preference_weight=0.8,
  quality_weight=0.2,
  sft_weight=1.0,
  shift=0.0,
):
  c, r = (
    beta * (p["chosen"] - q["chosen"]),
    beta * (p["rejected"] - q["rejected"]),
  )
  quality = -log_s(c - shift) - log_s(-(r - shift))
  sft = -p["chosen"] / n["chosen"]
  return (
    -preference_weight * log_s(c - r)
    + quality_weight * quality
    + sft_weight * sft
  )


CASES = [
  ("sft", {}, oracle_sft),
  ("dpo", {}, oracle_dpo),
  ("dpo", {"beta": 0.4}, oracle_dpo),
  ("dpo", {"loss_type": "hinge"}, oracle_dpo),
  ("dpo", {"loss_type": "ipo"}, oracle_dpo),
  ("dpo", {"loss_type": "ipo", "length_normalised": True}, oracle_dpo),
  ("dpo", {"label_smoothing": 0.2}, oracle_dpo),
  (
    "dpo",
    {"label_smoothing": 0.2, "smoothing_variant": "robust"},
    oracle_dpo,
  ),
  ("dpo", {"sft_weight": 0.7}, oracle_dpo),
  ("dpo", {"length_normalised": True, "beta": 2.0}, oracle_dpo),
  ("povid", {}, oracle_povid),
  ("povid", {"text_weight": 1.0, "noise_weight": 0.0}, oracle_povid),
  ("povid", {"text_weight": 0.5, "noise_weight": 0.0}, oracle_povid),
  ("povid", {"text_weight": 0.0, "noise_weight": 1.0}, oracle_povid),
  ("povid_shared", {"beta": 0.3}, oracle_povid),
  ("povid_paper", {}, oracle_paper),
  ("povid_paper", {"alpha": 0.3, "beta1": 0.2, "beta2": 0.1}, oracle_paper),
  ("mdpo", {}, oracle_mdpo),
  ("mdpo", {"anchor": 0.5, "conditional_weight": 0.3}, oracle_mdpo),
  ("dpo", {"anchor_weight": 0.7, "anchor": 0.2}, oracle_dpo),
  (
    "dpo",
    {"anchor_weight": 2.0, "loss_type": "hinge", "length_normalised": True},
    oracle_dpo,
  ),
  ("povid", {"anchor_weight": 0.4}, oracle_povid),
  ("povid_shared", {"anchor_weight": 1.0, "anchor": -0.3}, oracle_povid),
  ("mpo", {}, oracle_mpo),
  ("mpo", {"quality_weight": 0.9, "sft_weight": 0.0, "beta": 0.3}, oracle_mpo),
]
IDS = [f"{name}-{'-'.join(map(str, h.values()))}" for name, h, _ in CASES]


def as_jax(policy, reference, counts):
  f32 = lambda tree: {k: jnp.asarray(v, jnp.float32) for k, v in tree.items()}
  counts = {k: jnp.asarray(v) for k, v in counts.items()}
  return Logps(**f32(policy)), Logps(**f32(reference)), Counts(**counts)


@pytest.mark.parametrize(("name", "hyper", "oracle"), CASES, ids=IDS)
def test_loss_agrees_with_oracle(name, hyper, oracle):
  for seed in range(3):
    policy, reference, counts = draw(seed)
    loss, metrics = objectives.get(name, **hyper).fn(
      *as_jax(policy, reference, counts)
    )
    want = oracle(policy, reference, counts, **hyper)
    # float32 log-probs near 60 nats carry 4e-6; ipo squares what is left
    np.testing.assert_allclose(loss, want, rtol=2e-6, atol=1e-4)
    assert loss.dtype == jnp.float32
    for value in metrics.values():
      assert value.shape == (BATCH,) and value.dtype == jnp.float32


@pytest.mark.parametrize(("name", "hyper", "oracle"), CASES, ids=IDS)
def test_gradient_agrees_with_finite_differences(name, hyper, oracle):
  policy, reference, counts = draw(7)
  objective = objectives.get(name, **hyper)
  p, q, n = as_jax(policy, reference, counts)
  grads = jax.grad(lambda p: objective.fn(p, q, n)[0].sum())(p)
  step = 1e-5
  for key in policy:
    up = {**policy, key: policy[key] + step}
    down = {**policy, key: policy[key] - step}
    want = (
      oracle(up, reference, counts, **hyper)
      - oracle(down, reference, counts, **hyper)
    ) / (2 * step)
    np.testing.assert_allclose(
      getattr(grads, key), want, rtol=1e-4, atol=1e-6, err_msg=key
    )


def test_the_shift_of_mpo():
  """The mean of all rewards of the steps before, in the order of the steps."""
  objective = objectives.get("mpo", beta=0.2)
  carried = dict(objective.carries)
  assert carried["shift"] == 0
  means = []
  for seed in range(4):
    policy, reference, counts = draw(seed)
    p, q, n = as_jax(policy, reference, counts)
    loss, metrics = objective.fn(p, q, n, **carried)
    want = oracle_mpo(
      policy, reference, counts, beta=0.2, shift=np.mean(means or [0.0])
    )
    np.testing.assert_allclose(loss, want, rtol=2e-6, atol=1e-4)
    means.append(
      np.mean(
        [
          0.2 * (policy[name] - reference[name])
          for name in ("chosen", "rejected")
        ]
      )
    )
    batch = {k: weighted_mean(v, jnp.ones(BATCH)) for k, v in metrics.items()}
    carried = objective.carry(carried, batch)
    assert float(carried["shift"]) == pytest.approx(np.mean(means), rel=1e-5)
  assert float(carried["updates"]) == 4


def test_length_normalised_divides_by_the_weights():
  """DDPO's mean: tokens that weigh more count more in the divisor too."""
  policy, reference, counts = draw(5)
  p, q, n = as_jax(policy, reference, counts)
  mass = {"chosen": counts["chosen"] * 1.5, "rejected": counts["rejected"] * 3}
  weighted = n._replace(
    chosen_weight=jnp.asarray(mass["chosen"]),
    rejected_weight=jnp.asarray(mass["rejected"], jnp.float32),
  )
  objective = objectives.get("dpo", length_normalised=True)
  want = oracle_dpo(policy, reference, mass, length_normalised=True)
  got = objective.fn(p, q, weighted)[0]
  np.testing.assert_allclose(got, want, rtol=2e-6, atol=1e-5)


def test_rows_by_hand():
  """beta 0.1, chosen +2 nats, rejected -3, noise -8: margins 0.5 and 1.0."""
  p = Logps(*(jnp.array([x]) for x in (-8.0, -23.0, -28.0)))
  q = Logps(*(jnp.array([x]) for x in (-10.0, -20.0, -20.0)))
  n = Counts(jnp.array([4]), jnp.array([5]))
  loss, metrics = objectives.get("povid").fn(p, q, n)
  # -log s(0.5) = 0.474077, -log s(1.0) = 0.313262
  assert float(loss[0]) == pytest.approx(0.5 * (0.474077 + 0.313262), abs=1e-6)
  want = {
    "rewards/chosen": 0.2,
    "rewards/rejected": -0.3,
    "rewards/noise": -0.8,
    "margin/rejected": 0.5,
    "margin/noise": 1.0,
    "accuracy/rejected": 1.0,
    "accuracy/noise": 1.0,
    "drift/chosen": 2.0,
    "drift/chosen_per_token": 0.5,
    "kl/chosen_per_token": 0.148721,  # exp(0.5) - 1.5
    "logps/chosen": -8.0,
    "logps/rejected": -23.0,
    "logps/noise": -28.0,
    "tokens/chosen": 4.0,
    "tokens/rejected": 5.0,
  }
  assert {k: float(v[0]) for k, v in metrics.items()} == pytest.approx(
    want, abs=1e-6
  )


@pytest.mark.parametrize(
  ("name", "hyper", "want"),
  [
    ("dpo", {}, 0.693147),
    ("dpo", {"loss_type": "hinge"}, 1.0),
    ("dpo", {"loss_type": "ipo"}, 25.0),
    ("dpo", {"label_smoothing": 0.1}, 0.693147),
    ("povid", {}, 0.693147),
    ("povid", {"noise_weight": 0.0}, 0.346574),
    ("povid_paper", {}, 0.693147),
    ("mdpo", {}, 2.079442),
    ("mpo", {"sft_weight": 0.0}, 0.8 * 0.693147 + 0.2 * 1.386294),
    ("dpo", {"anchor_weight": 0.5}, 1.5 * 0.693147),
  ],
)
def test_loss_where_policy_is_the_reference(name, hyper, want):
  x = jnp.array([-12.0])
  same = Logps(x, x - 3, x - 5, x - 7)
  counts = Counts(jnp.array([3]), jnp.array([3]))
  loss, metrics = objectives.get(name, **hyper).fn(same, same, counts)
  assert float(loss[0]) == pytest.approx(want, abs=1e-5)
  assert float(metrics["accuracy/rejected"][0]) == 0.0  # a tie is not a win


def test_paper_defaults_have_the_released_gradient_at_the_reference():
  x = jnp.array([-12.0, -4.0])
  same = Logps(x, x - 3, x - 5)
  counts = Counts(jnp.array([3, 3]), jnp.array([3, 3]))
  grad = lambda name: jax.grad(
    lambda p: objectives.get(name).fn(p, same, counts)[0].sum()
  )(same)
  for a, b in zip(grad("povid")[:3], grad("povid_paper")[:3], strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-6)


@pytest.mark.parametrize(
  ("name", "hyper"),
  [
    ("dpo", {}),
    ("povid", {"noise_weight": 0.0}),
    ("povid", {"text_weight": 0.0}),
    ("mdpo", {"conditional_weight": 0.0}),
  ],
)
def test_what_is_not_needed_may_be_none(name, hyper):
  objective = objectives.get(name, **hyper)
  drop = lambda logps: Logps(
    logps.chosen,
    *(
      value if key in objective.needs.terms else None
      for key, value in list(logps._asdict().items())[1:]
    ),
  )
  p, q, n = as_jax(*draw(3))
  full, _ = objective.fn(p, q, n)
  part, metrics = objective.fn(drop(p), drop(q), n)
  np.testing.assert_array_equal(full, part)
  assert ("margin/noise" in metrics) == bool(objective.needs.noise)


@pytest.mark.parametrize("name", ["sft", "povid"])
def test_microbatches_add_up_to_one_big_batch(name):
  """Split unevenly, with a filler row: same loss and gradient."""
  objective = objectives.get(name)
  p, q, n = as_jax(*draw(11))
  n = Counts(n.chosen.at[2].set(0), n.rejected.at[2].set(0))
  total = objective.weights(n).sum()

  def part(p, rows):
    cut = lambda tree: jax.tree.map(lambda x: x[rows], tree)
    loss, _ = objective.fn(cut(p), cut(q), cut(n))
    return weighted_mean(loss, objective.weights(cut(n)), total)

  whole, whole_grad = jax.value_and_grad(part)(p, slice(None))
  parts = [
    jax.value_and_grad(part)(p, s) for s in (slice(0, 1), slice(1, BATCH))
  ]
  np.testing.assert_allclose(whole, sum(x for x, _ in parts), rtol=1e-6)
  summed = jax.tree.map(lambda *g: sum(g), *(g for _, g in parts))
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), whole_grad, summed
  )
  assert float(whole_grad.chosen[2]) == 0.0


def test_an_objective_can_be_part_of_a_jitted_callable():
  assert isinstance(hash(objectives.get("povid")), int)


def test_sft_mean_is_over_tokens():
  """2 nats over 1 token and 6 nats over 3: the mean is 8 / 4."""
  objective = objectives.get("sft")
  counts = Counts(jnp.array([1, 3]))
  loss, _ = objective.fn(Logps(jnp.array([-2.0, -6.0])), None, counts)
  np.testing.assert_allclose(loss, [2.0, 2.0])
  counts = Counts(jnp.array([1, 3, 0]))
  loss, _ = objective.fn(Logps(jnp.array([-1.0, -6.0, 0.0])), None, counts)
  mean = weighted_mean(loss, objective.weights(counts))
  assert float(mean) == pytest.approx(7 / 4)


def test_weighted_mean_ignores_filler_even_if_it_is_nan():
  values = jnp.array([1.0, jnp.nan])
  assert float(weighted_mean(values, jnp.array([2.0, 0.0]))) == 1.0
  assert float(weighted_mean(values, jnp.zeros(2))) == 0.0


def test_a_step_that_leaves_something_out_is_told():
  p, q, n = as_jax(*draw(0))
  with pytest.raises(
    ValueError, match="the objective needs noise log-probs, but the reference"
  ):
    objectives.get("povid").fn(p, q._replace(noise=None), n)
  with pytest.raises(
    ValueError, match="the objective needs rejected log-probs, but the policy"
  ):
    objectives.get("dpo").fn(p._replace(rejected=None), q, n)
  with pytest.raises(ValueError, match="needs token counts of the rejected"):
    objectives.get("dpo", length_normalised=True).fn(
      p, q, n._replace(rejected=None)
    )
