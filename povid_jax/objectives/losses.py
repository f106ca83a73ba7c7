"""The objectives: formulas from sums of log-probs to a loss per example.

Notation, for policy p and reference q (nats, float32[B]):
  r(y) = log p(y | x) - log q(y | x)
A "reward" is beta * r(y); a margin is the chosen reward minus another one.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from povid_jax.objectives.core import Array, Counts, Logps, Metrics


def sft(policy: Logps, reference: Logps | None, counts: Counts):
  """Cross-entropy: -log p(chosen) / tokens, nats per token.

  With weights by token (see `core`) the mean over a batch is the mean over
  its tokens, as one big batch gives it.
  """
  del reference
  tokens_B = jnp.maximum(counts.chosen, 1).astype(jnp.float32)
  loss_B = -policy.chosen / tokens_B
  return loss_B, {
    "logps/chosen": policy.chosen,
    "tokens/chosen": counts.chosen.astype(jnp.float32),
  }


def dpo(
  policy: Logps,
  reference: Logps,
  counts: Counts,
  *,
  beta: float,
  loss_type: str,
  label_smoothing: float,
  smoothing_variant: str,
  sft_weight: float,
  anchor_weight: float,
  anchor: float,
  length_normalised: bool,
):
  """Direct preference optimisation and its kin.

  h = r(chosen) - r(rejected), each divided by its own number of tokens (the sum
  of their weights, where they have some) when `length_normalised`. With
  e = label_smoothing:
    sigmoid        -log s(beta h)             Eq. 7, arXiv 2305.18290
    .. cdpo        -(1-e) log s(beta h) - e log s(-beta h)
                   (conservative DPO: labels wrong with probability e)
    .. robust      (-(1-e) log s(beta h) + e log s(-beta h)) / (1 - 2e)
                   Eq. 12, arXiv 2403.00409
    hinge          max(0, 1 - beta h)         arXiv 2305.10425
    ipo            (h - 1 / (2 beta))^2       Eq. 17, arXiv 2310.12036
  plus sft_weight * (-log p(chosen) / tokens)
  plus anchor_weight * -log s(beta r(chosen) - anchor), see `anchored`.

  IPO is published with sums; libraries that average want length_normalised.
  """
  chosen_B = policy.chosen - reference.chosen
  rejected_B = _ratio(policy, reference, "rejected")
  if length_normalised:
    if counts.rejected is None:
      raise ValueError(
        "length_normalised needs token counts of the rejected answers"
      )
    chosen_B = chosen_B / _size(counts.chosen, counts.chosen_weight)
    rejected_B = rejected_B / _size(counts.rejected, counts.rejected_weight)
  h_B = chosen_B - rejected_B
  loss_B = _preference(h_B, beta, loss_type, label_smoothing, smoothing_variant)
  if sft_weight:
    loss_B = loss_B - sft_weight * policy.chosen / jnp.maximum(counts.chosen, 1)
  if anchor_weight:
    loss_B = loss_B + anchor_weight * anchored(beta * chosen_B, anchor)
  metrics = {
    **common_metrics(policy, reference, counts),
    **reward_metrics(beta * chosen_B, rejected=beta * rejected_B),
  }
  return loss_B, metrics


def _size(tokens_B: Array, weight_B: Array | None) -> Array:
  """Divisor of a mean over tokens; 1 for rows without any."""
  if weight_B is None:
    return jnp.maximum(tokens_B, 1)
  return jnp.where(weight_B > 0, weight_B, 1.0)


def anchored(reward_B: Array, anchor: float) -> Array:
  """-log s(reward - anchor): keeps the chosen answer's reward above the anchor.

  DPO is content when both answers get less likely, the rejected one faster.
  Source: Eq. 6, arXiv 2406.11839.
  """
  return -jax.nn.log_sigmoid(reward_B - anchor)


def _preference(
  h_B: Array, beta: float, loss_type: str, smoothing: float, variant: str
) -> Array:
  if loss_type == "hinge":
    return jax.nn.relu(1.0 - beta * h_B)
  if loss_type == "ipo":
    return jnp.square(h_B - 1.0 / (2.0 * beta))
  right_B = -jax.nn.log_sigmoid(beta * h_B)
  if not smoothing:
    return right_B
  wrong_B = -jax.nn.log_sigmoid(-beta * h_B)
  if variant == "cdpo":
    return (1 - smoothing) * right_B + smoothing * wrong_B
  return ((1 - smoothing) * right_B - smoothing * wrong_B) / (1 - 2 * smoothing)


def povid(
  policy: Logps,
  reference: Logps,
  counts: Counts,
  *,
  beta: float,
  text_weight: float,
  noise_weight: float,
  anchor_weight: float,
  anchor: float,
):
  """POVID stage 2 as released: a weighted sum of two DPO losses.

    text_weight * -log s(beta (r(chosen) - r(rejected)))
    + noise_weight * -log s(beta (r(chosen) - (q_p - q_q)))
    + anchor_weight * -log s(beta r(chosen) - anchor)      (0 as released)

  q_p is the log-prob that the policy gives, under the clean image, to the
  tokens it prefers under the noisy image; q_q the same of the reference. In
  `povid` the reference prefers its own tokens (released code), in
  `povid_shared` it scores the policy's, which makes q_p - q_q a true
  log-ratio. The formula is one; the step supplies the tokens.
  Source: POVID tool/dpo_trainer_inherent.py, get_batch_metrics. Weights (1, 0)
  are stage 1, (0.5, 0) half weight, (0, 1) noise only.
  """
  chosen_B = beta * (policy.chosen - reference.chosen)
  loss_B = jnp.zeros_like(chosen_B)
  rewards = {}
  if text_weight:
    rewards["rejected"] = beta * _ratio(policy, reference, "rejected")
    loss_B -= text_weight * jax.nn.log_sigmoid(chosen_B - rewards["rejected"])
  if noise_weight:
    rewards["noise"] = beta * _ratio(policy, reference, "noise")
    loss_B -= noise_weight * jax.nn.log_sigmoid(chosen_B - rewards["noise"])
  if anchor_weight:
    loss_B += anchor_weight * anchored(chosen_B, anchor)
  metrics = {
    **common_metrics(policy, reference, counts),
    **reward_metrics(chosen_B, **rewards),
  }
  return loss_B, metrics


def povid_paper(
  policy: Logps,
  reference: Logps,
  counts: Counts,
  *,
  alpha: float,
  beta1: float,
  beta2: float,
):
  """POVID as its paper writes it: one sigmoid over a weighted sum.

    -log s(alpha r(chosen) - (beta1 r(rejected) + beta2 r(noise)))

  Source: arXiv 2402.11411, the objective of section 3. The paper gives no
  values that we could find; the defaults (0.1, 0.05, 0.05) have, where policy
  and reference are equal, the gradient of the released code.
  """
  chosen_B = alpha * (policy.chosen - reference.chosen)
  rewards, h_B = {}, chosen_B
  if beta1:
    rewards["rejected"] = beta1 * _ratio(policy, reference, "rejected")
    h_B = h_B - rewards["rejected"]
  if beta2:
    rewards["noise"] = beta2 * _ratio(policy, reference, "noise")
    h_B = h_B - rewards["noise"]
  metrics = {
    **common_metrics(policy, reference, counts),
    **reward_metrics(chosen_B, **rewards),
    "margin/joint": h_B,
    "accuracy/joint": _positive(h_B),
  }
  return -jax.nn.log_sigmoid(h_B), metrics


def mpo(
  policy: Logps,
  reference: Logps,
  counts: Counts,
  *,
  beta: float,
  preference_weight: float,
  quality_weight: float,
  sft_weight: float,
  shift: Array | float,
  updates: Array | float,
):
  """Mixed preference optimisation: which is better, how good each is, and SFT.

    preference_weight * -log s(beta (r(chosen) - r(rejected)))
    + quality_weight * (-log s(beta r(chosen) - shift)
                        - log s(-(beta r(rejected) - shift)))     (bco_pair)
    + sft_weight * (-log p(chosen) / tokens)

  `shift` is the mean of all rewards, chosen and rejected, of the steps before.
  The batch's own rewards are left out, so that microbatches add up to one big
  batch; trainers in PyTorch count them in. Source: Eq. 1-5, arXiv 2411.10442,
  its weights (0.8, 0.2, 1); BCO: arXiv 2404.04656.
  """
  del updates
  chosen_B = beta * (policy.chosen - reference.chosen)
  rejected_B = beta * _ratio(policy, reference, "rejected")
  preference_B = -jax.nn.log_sigmoid(chosen_B - rejected_B)
  quality_B = -jax.nn.log_sigmoid(chosen_B - shift)
  quality_B -= jax.nn.log_sigmoid(shift - rejected_B)
  sft_B = -policy.chosen / jnp.maximum(counts.chosen, 1)
  loss_B = preference_weight * preference_B + quality_weight * quality_B
  loss_B += sft_weight * sft_B
  parts = {"preference": preference_B, "quality": quality_B, "sft": sft_B}
  metrics = {
    **common_metrics(policy, reference, counts),
    **reward_metrics(chosen_B, rejected=rejected_B),
    **{
      f"loss/{name}": jax.lax.stop_gradient(part_B)
      for name, part_B in parts.items()
    },
    "shift": jnp.full_like(chosen_B, shift),
  }
  return loss_B, metrics


def mpo_carry(carried: Mapping[str, Array], metrics: Metrics) -> Metrics:
  """The mean of all rewards so far, this step's counted in."""
  reward = (metrics["rewards/chosen"] + metrics["rewards/rejected"]) / 2
  updates = carried["updates"] + 1
  shift = carried["shift"] + (reward - carried["shift"]) / updates
  return {"shift": shift, "updates": updates}


def mdpo(
  policy: Logps,
  reference: Logps,
  counts: Counts,
  *,
  beta: float,
  anchor: float,
  conditional_weight: float,
  anchor_weight: float,
):
  """mDPO: text preference + image preference + reward anchor.

    -log s(beta (r(chosen) - r(rejected)))
    - conditional_weight * log s(beta (r(chosen) - r'(chosen)))
    - anchor_weight * log s(beta r(chosen) - anchor)

  r' is the log-ratio of the same answer under the distorted image; the policy
  needs a gradient there too. Source: Eq. 4-7, arXiv 2406.11839 (weights 1 and
  anchor 0, a plain sum of three).
  """
  chosen_B = beta * (policy.chosen - reference.chosen)
  rewards = {"rejected": beta * _ratio(policy, reference, "rejected")}
  loss_B = -jax.nn.log_sigmoid(chosen_B - rewards["rejected"])
  if conditional_weight:
    rewards["corrupted"] = beta * _ratio(policy, reference, "corrupted")
    log_s_B = jax.nn.log_sigmoid(chosen_B - rewards["corrupted"])
    loss_B -= conditional_weight * log_s_B
  if anchor_weight:
    loss_B += anchor_weight * anchored(chosen_B, anchor)
  metrics = {
    **common_metrics(policy, reference, counts),
    **reward_metrics(chosen_B, **rewards),
  }
  return loss_B, metrics


def _ratio(policy: Logps, reference: Logps, kind: str) -> Array:
  """log p - log q of one kind of answer; float32[B].

  Raises:
    ValueError: a step left out what the objective `needs`.
  """
  p_B, q_B = getattr(policy, kind), getattr(reference, kind)
  if p_B is None or q_B is None:
    whose = "policy" if p_B is None else "reference"
    raise ValueError(
      f"the objective needs {kind} log-probs, but the {whose} has none"
    )
  return p_B - q_B


def reward_metrics(chosen_B: Array, **others: Array) -> Metrics:
  """Rewards, margins and accuracies, one set per kind of negative; no grad.

  Names: rewards/chosen, and for each kind K (rejected, noise, corrupted)
  rewards/K, margin/K (nats, scaled by beta) and accuracy/K (1 where the
  margin is positive).
  """
  metrics = {"rewards/chosen": chosen_B}
  for kind, reward_B in others.items():
    metrics[f"rewards/{kind}"] = reward_B
    metrics[f"margin/{kind}"] = chosen_B - reward_B
    metrics[f"accuracy/{kind}"] = _positive(chosen_B - reward_B)
  return jax.tree.map(jax.lax.stop_gradient, metrics)


def common_metrics(policy: Logps, reference: Logps, counts: Counts) -> Metrics:
  """Metrics to watch in every preference run; float32[B] each, no gradient.

  drift/chosen            log p - log q of the chosen answer, nats; falling
                          means that the good answer is being unlearnt
  drift/chosen_per_token  the same, nats per token
  kl/chosen_per_token     exp(d) - 1 - d with d the drift per token: the
                          low-variance estimate of KL(q || p) on the
                          dataset's answers (not on the policy's own)
  logps/*, tokens/*       policy log-probs (nats) and scored tokens
  """
  drift_B = policy.chosen - reference.chosen
  per_token_B = drift_B / jnp.maximum(counts.chosen, 1)
  metrics = {
    "drift/chosen": drift_B,
    "drift/chosen_per_token": per_token_B,
    "kl/chosen_per_token": jnp.expm1(per_token_B) - per_token_B,
    "tokens/chosen": counts.chosen.astype(jnp.float32),
  }
  if counts.rejected is not None:
    metrics["tokens/rejected"] = counts.rejected.astype(jnp.float32)
  for name, logps_B in policy._asdict().items():
    if logps_B is not None:
      metrics[f"logps/{name}"] = logps_B
  return jax.tree.map(jax.lax.stop_gradient, metrics)


def _positive(margin_B: Array) -> Array:
  return (margin_B > 0).astype(jnp.float32)
