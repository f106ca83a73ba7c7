"""The training step: a pure function of state and batch."""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from povid_jax.models.llava import Llava
from povid_jax.models.params import Params, merge
from povid_jax.objectives import Logps, Objective, logps, weighted_mean
from povid_jax.objectives.logps import Batch, Spec
from povid_jax.training.optim import GuardState, guard_flags

Array = jax.Array


class State(NamedTuple):
  """What a step changes."""

  step: Array  # int32[]: updates so far
  params: Params  # the trained ones, float32
  opt_state: Any


class Frozen(NamedTuple):
  """What a step reads.

  Attributes:
    params: the parameters that are not trained.
    reference: initial values of trained parameters that are not adapters: the
      reference model has these, and its adapters off.
  """

  params: Params
  reference: Params


@dataclasses.dataclass(frozen=True, eq=False)
class StepFn:
  """`step(state, frozen, batch) -> (state, metrics)`; jit it with donation.

  Attributes:
    graph: of the model.
    objective: with its hyper-parameters bound.
    spec: how batches are run.
    optimizer: guarded transform from `optim`.
    train_vision: whether gradients reach the image tokens.
  """

  graph: nnx.GraphDef
  objective: Objective
  spec: Spec
  optimizer: optax.GradientTransformationExtraArgs
  train_vision: bool

  def __call__(
    self, state: State, frozen: Frozen, batch: Batch
  ) -> tuple[State, dict[str, Array]]:
    """One update.

    Args:
      state: parameters and optimizer state.
      frozen: the rest of the model.
      batch: arrays [A, b, ...]: A microbatches of b rows; with cached
        reference log-probs as `reference_chosen` and so on.

    Returns:
      The new state, and scalar metrics (float32, means over the batch).
    """
    flat = {k: v.reshape(-1, *v.shape[2:]) for k, v in batch.items()}
    everything = logps.counts(flat)
    total = self.objective.weights(everything).sum()

    def one(carry: tuple, part: Batch) -> tuple[tuple, None]:
      new = self._gradients(state.params, frozen, part, total)
      return jax.tree.map(jnp.add, carry, new), None

    parts = next(iter(batch.values())).shape[0]
    if parts == 1:
      first = {k: v[0] for k, v in batch.items()}
      grads, metrics = self._gradients(state.params, frozen, first, total)
    else:
      shapes = jax.eval_shape(
        lambda part: self._gradients(state.params, frozen, part, total),
        {k: v[0] for k, v in batch.items()},
      )
      zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
      (grads, metrics), _ = jax.lax.scan(one, zeros, batch)
    updates, opt_state = self.optimizer.update(
      grads, state.opt_state, state.params, loss=metrics["loss"]
    )
    params = cast(Params, optax.apply_updates(state.params, updates))
    metrics |= {
      "grad_norm": optax.tree.norm(grads),
      "param_norm": optax.tree.norm(params),
      **guard_flags(cast(GuardState, opt_state)),
      "rows_used": (everything.chosen > 0).sum().astype(jnp.float32),
      "tokens_scored": flat["loss_mask"].sum().astype(jnp.float32),
    }
    return State(state.step + 1, params, opt_state), metrics

  def _gradients(
    self, params: Params, frozen: Frozen, batch: Batch, total: Array
  ) -> tuple[Params, dict[str, Array]]:
    """Gradients and metrics of one microbatch, as shares of the whole."""
    counts = logps.counts(batch)
    weights_B = self.objective.weights(counts)
    policy = merge(self.graph, frozen.params, params)
    embeds, embeds_noisy = self._encode(policy, batch)
    noise_ids = None
    if "noise" in self.spec.needs:
      assert embeds_noisy is not None  # uses_noise is part of needs
      noise_ids = logps.noise_tokens(
        policy, batch, embeds_noisy, self.spec, adapter=True
      )
    reference = None
    if "reference" in self.objective.needs:
      shared = None if self.train_vision else (embeds, embeds_noisy)
      reference = self.reference_logps(frozen, params, batch, noise_ids, shared)

    def loss_fn(params: Params) -> tuple[Array, dict[str, Array]]:
      model = merge(self.graph, frozen.params, params)
      seen = (
        self._encode(model, batch, noisy="corrupted" in self.spec.needs)
        if self.train_vision
        else (embeds, embeds_noisy)
      )
      policy = logps.logps(
        model,
        batch,
        seen[0],
        self.spec,
        adapter=True,
        noise_ids=noise_ids,
        embeds_noisy=seen[1],
      )
      loss_B, metrics_B = self.objective.fn(policy, reference, counts)
      loss = weighted_mean(loss_B, weights_B, total)
      means = {
        k: weighted_mean(v, weights_B, total) for k, v in metrics_B.items()
      }
      return loss, {**means, "loss": loss}

    grads, metrics = jax.grad(loss_fn, has_aux=True)(params)
    if noise_ids is not None:
      metrics["noise_differs"] = _share_that_differs(batch, noise_ids, total)
    return grads, metrics

  def _encode(
    self, model: Llava, batch: Batch, noisy: bool = True
  ) -> tuple[Array, Array | None]:
    clean = logps.encode(model, batch)
    if not noisy or not self.spec.uses_noise:
      return clean, None
    return clean, logps.encode_noisy(model, batch, self.spec)

  def reference_logps(
    self,
    frozen: Frozen,
    params: Params,
    batch: Batch,
    noise_ids: Array | None,
    shared: tuple[Array, Array | None] | None,
  ) -> Logps:
    """The reference's log-probs: from the batch where cached, else run.

    Args:
      noise_ids: the policy's noise tokens.
      shared: the policy's image tokens where the reference has the same.
    """
    own = self.objective.noise_reference == "own"
    cached = cached_logps(batch)
    asks_policy = "noise" in self.spec.needs and not own
    if cached is not None and not asks_policy:
      return cached
    model = merge(self.graph, frozen.params, {**params, **frozen.reference})
    if cached is not None:  # only the policy's noise tokens are left to score
      spec = dataclasses.replace(self.spec, needs=frozenset({"noise"}))
      embeds = shared[0] if shared else logps.encode(model, batch)
      scored = logps.logps(
        model, batch, embeds, spec, adapter=False, noise_ids=noise_ids
      )
      return cached._replace(noise=scored.noise)
    embeds, embeds_noisy = shared or self._encode(model, batch)
    if own:
      assert embeds_noisy is not None  # a noise reference has noise
      noise_ids = logps.noise_tokens(
        model, batch, embeds_noisy, self.spec, adapter=False
      )
    scored = logps.logps(
      model,
      batch,
      embeds,
      self.spec,
      adapter=False,
      noise_ids=noise_ids,
      embeds_noisy=embeds_noisy,
    )
    return jax.tree.map(jax.lax.stop_gradient, scored)


CACHED = "reference_"


def cached_logps(batch: Mapping[str, Array]) -> Logps | None:
  """Reference log-probs that came with the batch, or None."""
  terms = {
    name: batch[f"{CACHED}{name}"]
    for name in Logps._fields
    if f"{CACHED}{name}" in batch
  }
  return Logps(**terms) if terms else None


def _share_that_differs(batch: Batch, noise_ids: Array, total: Array) -> Array:
  """Mean share of scored positions whose noise token is not the true one."""
  mask = batch["loss_mask"][:, 0]
  differs = (noise_ids != batch["branch_ids"][:, 0]) & mask
  share = differs.sum(-1) / jnp.maximum(mask.sum(-1), 1)
  return weighted_mean(share, (mask.sum(-1) > 0).astype(jnp.float32), total)
