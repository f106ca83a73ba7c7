"""The interface of an objective: inputs, outputs, and how a step combines them.

An objective sees sums of log-probs, never a model, so anyone can check it by
hand. It returns one loss per example. A step combines them with
`Objective.weights` and `weighted_mean`:

  total = sum of weights over the whole batch, every device, every microbatch
  loss  = sum over examples of weight * loss / total

`total` depends on the data alone (on loss masks, not on parameters), so it is
known before the forward pass. A step that splits its batch gives each
microbatch the same `total` and adds up losses and gradients: the result is
that of one big batch, also where examples weigh differently (`sft` weighs by
tokens, so that its mean is the mean over tokens).
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from povid_jax.data.batch import Logps

__all__ = [
  "Array",
  "Counts",
  "Logps",
  "Metrics",
  "Needs",
  "Objective",
  "weighted_mean",
]

Array = jax.Array
Metrics = dict[str, Array]


class Counts(NamedTuple):
  """Of scored tokens, [B]; zero tokens mark a row that only fills a batch.

  Attributes:
    chosen, rejected: numbers of tokens.
    chosen_weight, rejected_weight: sums of their weights; None: each weighs 1.
  """

  chosen: Array
  rejected: Array | None = None
  chosen_weight: Array | None = None
  rejected_weight: Array | None = None


@dataclasses.dataclass(frozen=True)
class Needs:
  """The inputs that an objective needs beside the log-probs of the chosen
  answer.

  `objectives.logps` interprets it for one batch; loaders, caches and plans ask
  the properties. A new term has the same name here and in `data.batch.Logps`;
  CONTRIBUTING.md says what else it takes.

  Attributes:
    rejected: the rejected answers.
    noise: log-probs of noise tokens, and whose tokens the reference scores:
      its "own" (the released code) or those of the "policy", the model in
      training (a true log-ratio). None: no noise tokens.
    corrupted: the chosen answer under the noisy picture.
    reference: a reference model.
  """

  rejected: bool = False
  noise: Literal["own", "policy"] | None = None
  corrupted: bool = False
  reference: bool = False

  @property
  def branches(self) -> int:
    """The least number of answers of a row."""
    return 2 if self.rejected else 1

  @property
  def noisy_picture(self) -> bool:
    return self.corrupted or self.noise is not None

  @property
  def fixed(self) -> "Needs":
    """What of the reference does not change while the policy trains."""
    own = self.noise == "own"
    return dataclasses.replace(self, noise="own" if own else None)

  @property
  def terms(self) -> tuple[str, ...]:
    """The fields of Logps that are asked for."""
    asked = {"chosen": True, **dataclasses.asdict(self)}
    return tuple(name for name in Logps._fields if asked[name])

  def without(self, *terms: str) -> "Needs":
    """The same, terms (fields) left out."""
    off = {f.name: f.default for f in dataclasses.fields(self)}
    return dataclasses.replace(self, **{name: off[name] for name in terms})


@dataclasses.dataclass(frozen=True)
class Objective:
  """A loss by name; `get` returns one with its hyper-parameters bound.

  Attributes:
    name: its name in the registry.
    fn: (policy: Logps, reference: Logps | None, counts: Counts, **hyper) ->
      (loss float32[B], metrics: name -> float32[B]).
    needs: what the step must supply.
    defaults: hyper-parameters; after `get`, the values in force.
    term_weights: field of Needs -> the hyper-parameter that switches it off
      when zero, so that a stage without noise compiles no noisy pass.
    weight_by: "pair" (every example counts once) or "token".
    carries: numbers that go from step to step, with their values before the
      first one; `fn` takes them as hyper-parameters of these names.
    carry: (carried, metrics of the whole batch) -> what the next step gets.
    check: raises UserError for values that make no sense.
  """

  name: str
  fn: Callable[..., tuple[Array, Metrics]]
  needs: Needs
  # dicts have no hash; an objective needs one to be part of a jitted function
  defaults: Mapping[str, Any] = dataclasses.field(hash=False)
  term_weights: Mapping[str, str] = dataclasses.field(
    default_factory=dict, hash=False
  )
  weight_by: str = "pair"
  carries: Mapping[str, float] = dataclasses.field(
    default_factory=dict, hash=False
  )
  carry: Callable[[Mapping[str, Array], Metrics], Metrics] | None = None
  check: Callable[[Mapping[str, Any]], None] = lambda hyper: None

  def weights(self, counts: Counts) -> Array:
    """float32[B]: the share of each example in the mean; 0 for filler rows."""
    count_B = counts.chosen.astype(jnp.float32)
    if self.weight_by == "token":
      return count_B
    return (count_B > 0).astype(jnp.float32)


def weighted_mean(
  values_B: Array, weights_B: Array, total: Array | None = None
) -> Array:
  """sum(weights * values) / total; float32 scalar.

  Args:
    values_B: float32[B], a loss or a metric per example.
    weights_B: float32[B], see `Objective.weights`.
    total: the sum of weights of the whole batch where this is one microbatch
      of several; by default the sum of `weights_B`.
  """
  total = jnp.sum(weights_B) if total is None else total
  kept_B = jnp.where(weights_B > 0, weights_B * values_B, 0.0)
  return jnp.sum(kept_B) / jnp.maximum(total, 1e-9)
