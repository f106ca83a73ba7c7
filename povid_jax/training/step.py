"""The training step: a pure function of state and batch."""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from povid_jax.data.batch import Batch
from povid_jax.models.params import Params
from povid_jax.objectives import Objective, logps, weighted_mean
from povid_jax.objectives.logps import Frozen, Spec
from povid_jax.training.optim import GuardState, guard_flags

__all__ = ["Frozen", "State", "StepFn"]

Array = jax.Array


class State(NamedTuple):
  """What a step changes."""

  # int32[]: steps so far, skipped ones too: the place in the plan
  step: Array
  params: Params  # the trained ones, float32
  opt_state: Any
  # numbers that the objective carries from step to step, see `Objective`
  carried: Mapping[str, Array] = {}  # noqa: RUF012


@dataclasses.dataclass(frozen=True, eq=False)
class StepFn:
  """`step(state, frozen, batch) -> (state, metrics)`; jit it with donation.

  Attributes:
    graph: of the model.
    objective: with its hyper-parameters bound.
    spec: how batches are run.
    optimizer: guarded transform from `optim`.
  """

  graph: nnx.GraphDef
  objective: Objective
  spec: Spec
  optimizer: optax.GradientTransformationExtraArgs

  def __call__(
    self, state: State, frozen: Frozen, batch: Batch
  ) -> tuple[State, dict[str, Array]]:
    """One update.

    Args:
      state: parameters and optimizer state.
      frozen: the rest of the model.
      batch: arrays [A, b, ...]: A microbatches of b rows.

    Returns:
      The new state, and scalar metrics (float32, means over the batch).
    """
    parts = batch.prefix_len.shape[0]
    # all microbatches as one batch, because the total weight is that of the
    # step
    flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), batch)
    counts = logps.counts(flat)
    # known before the forward pass: every microbatch divides by the same
    total = self.objective.weights(counts).sum()
    gradients = lambda part: self._gradients(state, frozen, part, total)
    first: Batch = jax.tree.map(lambda x: x[0], batch)
    # without a scan the gradients exist once; in a scan their sum lies beside
    # them
    if parts == 1:
      grads, metrics = gradients(first)
    else:
      shapes = jax.eval_shape(gradients, first)
      zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
      add = lambda carry, part: (
        jax.tree.map(jnp.add, carry, gradients(part)),
        None,
      )
      (grads, metrics), _ = jax.lax.scan(add, zeros, batch)
    # the guard needs the loss too: it may overflow while all gradients are
    # finite
    updates, opt_state = self.optimizer.update(
      grads, state.opt_state, state.params, loss=metrics["loss"]
    )
    params = cast(Params, optax.apply_updates(state.params, updates))
    metrics |= {
      # before clipping, which the optimizer does
      "grad_norm": optax.tree.norm(grads),
      "param_norm": optax.tree.norm(params),
      **guard_flags(cast(GuardState, opt_state)),
      # pairs: a row with R rejected answers counts R times
      "rows_used": (counts.chosen > 0).sum().astype(jnp.float32),
      "tokens_scored": flat.loss_mask.sum().astype(jnp.float32),
    }
    # The step counts up even if the guard withheld the update, because it is
    # also the position in the data.
    carried = self._carry(state.carried, metrics)
    return State(state.step + 1, params, opt_state, carried), metrics

  def _carry(
    self, carried: Mapping[str, Array], metrics: dict[str, Array]
  ) -> Mapping[str, Array]:
    """What the next step is given; unchanged by a step that is not finite."""
    if self.objective.carry is None:
      return carried
    new = self.objective.carry(carried, metrics)
    # one NaN that is carried over would spoil all later steps
    finite = metrics["finite"] > 0
    return jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, carried)

  def _gradients(
    self, state: State, frozen: Frozen, batch: Batch, total: Array
  ) -> tuple[Params, dict[str, Array]]:
    """Gradients and metrics of one microbatch, as shares of the whole."""
    counts = logps.counts(batch)
    weights = self.objective.weights(counts)
    # from earlier steps only, so that all microbatches of a step use equal
    # values
    hyper = {name: state.carried[name] for name in self.objective.carries}
    share = lambda values: weighted_mean(values, weights, total)

    def loss_fn(params: Params) -> tuple[Array, dict[str, Array]]:
      found = logps.both(self.graph, frozen, params, batch, self.spec)
      loss, metrics = self.objective.fn(
        found.policy, found.reference, counts, **hyper
      )
      if found.noise_ids is not None:
        metrics["noise_differs"] = logps.noise_differs(
          batch, found.noise_ids, len(weights)
        )
      # shares of the total: their sum over the microbatches is the batch mean
      return share(loss), {k: share(v) for k, v in metrics.items()}

    (loss, metrics), grads = jax.value_and_grad(loss_fn, has_aux=True)(
      state.params
    )
    return grads, {**metrics, "loss": loss}
