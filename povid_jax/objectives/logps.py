"""Computes the log-probs of policy and reference for a batch.

`both` gives those of policy and reference for one batch. Who encodes which
pictures, whose noise tokens are scored and which terms come from the cache is
decided in this module and nowhere else.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from povid_jax.data.batch import Batch
from povid_jax.models.llava import Llava
from povid_jax.models.params import Params, merge
from povid_jax.objectives.core import Array, Counts, Logps, Needs
from povid_jax.objectives.one_model import (
  Pictures,
  Spec,
  encode,
  noise_tokens,
  score,
)

__all__ = [
  "Both",
  "Frozen",
  "Pictures",
  "Spec",
  "both",
  "counts",
  "encode",
  "fixed_reference",
  "noise_differs",
  "noise_tokens",
  "per_pair",
  "score",
]


class Frozen(NamedTuple):
  """Parameters that a step reads.

  Attributes:
    params: those that are not trained.
    reference: initial values of trained parameters that are not adapters: the
      reference model has these, and its adapters off.
  """

  params: Params
  reference: Params


class Both(NamedTuple):
  """Log-probs for each pair, and the policy's noise tokens."""

  policy: Logps
  reference: Logps | None
  noise_ids: Array | None


def both(
  graph: nnx.GraphDef, frozen: Frozen, params: Params, batch: Batch, spec: Spec
) -> Both:
  """Log-probs of policy and reference for a batch.

  Gradients flow into `params` through `policy` alone: the noise tokens and the
  reference are constants of a step.

  Args:
    graph: of the model; the policy has its adapters on, the reference off.
    frozen: parameters that are not trained, and the reference's own.
    params: the trained ones.
    batch: arrays [B, ...].

  Returns:
    One number per pair, float32[B * R] (see `per_pair`); terms that
    `spec.needs` does not name are None.
  """
  needs = spec.needs
  policy = merge(graph, frozen.params, params)
  # Encoding pictures and choosing noise tokens need no gradient: with this
  # model the backward pass keeps no activations for them. With a trained tower
  # its clean pictures go unused, and XLA drops them.
  still = merge(graph, frozen.params, jax.lax.stop_gradient(params))
  pictures = encode(still, batch, spec, adapter=True)
  noise_ids = None
  if needs.noise:
    noise_ids = noise_tokens(still, batch, pictures, spec, adapter=True)
  # A trained tower gives the policy other image tokens than the reference, and
  # they need a gradient. Otherwise policy, reference and noise tokens share one
  # encoding.
  trains_vision = any(
    path.startswith(("vision/", "projector/", "image_newline"))
    for path in params
  )
  theirs = None
  if needs.reference:
    # The graph needs values for the adapters too, although they are off; all
    # other trained parameters get their initial values back.
    own = {**jax.lax.stop_gradient(params), **frozen.reference}
    theirs = _reference(
      merge(graph, frozen.params, own),
      batch,
      None if trains_vision else pictures,
      spec,
      noise_ids,
    )
  if trains_vision:
    # the noise tokens are already chosen, so their noisy pictures are not
    # encoded again
    seen = spec.with_needs(needs.without("noise"))
    pictures = encode(policy, batch, seen, adapter=True)
  mine = score(policy, batch, pictures, spec, adapter=True, noise_ids=noise_ids)
  return Both(
    per_pair(mine, batch),
    None if theirs is None else per_pair(theirs, batch),
    noise_ids,
  )


def fixed_reference(
  graph: nnx.GraphDef, frozen: Frozen, params: Params, batch: Batch, spec: Spec
) -> Logps:
  """The reference's terms that do not change while the policy trains.

  Returns:
    Logps of float32[B], rejected [B, R]: what a batch brings along as
    `reference` once it is cached.
  """
  model = merge(graph, frozen.params, {**params, **frozen.reference})
  # the policy's noise tokens change with the policy and cannot be cached
  spec = spec.with_needs(spec.needs.fixed)
  # without the cached values, which would be returned instead of new ones
  return _reference(model, batch._replace(reference=None), None, spec, None)


def _reference(
  model: Llava,
  batch: Batch,
  pictures: Pictures | None,
  spec: Spec,
  noise_ids: Array | None,
) -> Logps:
  """The reference's log-probs: from the batch where cached, else run.

  Args:
    pictures: the policy's image tokens where the reference has the same.
    noise_ids: the policy's noise tokens.
  """
  cached, needs = batch.reference, spec.needs
  if cached is not None:
    # the reference's own noise tokens follow from fixed weights: cached, too
    if needs.noise != "policy":
      return cached
    # Only the policy's noise tokens are left to score, under the clean picture:
    # `fixed` of these needs asks for no noisy one.
    spec = spec.with_needs(Needs(noise="policy"))
  if pictures is None:
    seen = spec.with_needs(spec.needs.fixed)
    pictures = encode(model, batch, seen, adapter=False)
  if needs.noise == "own":
    noise_ids = noise_tokens(model, batch, pictures, spec, adapter=False)
  found = score(
    model, batch, pictures, spec, adapter=False, noise_ids=noise_ids
  )
  if cached is not None:
    return cached._replace(noise=found.noise)
  return jax.tree.map(jax.lax.stop_gradient, found)


def per_pair(found: Logps, batch: Batch) -> Logps:
  """Every pair of a chosen and a rejected answer as a row of its own.

  Numbers of a chosen answer are repeated for each rejected one that is
  compared with it, so that an objective of pairs needs no other form, and R
  rejected answers on one prefix count as R rows of one pair each.
  """
  if found.rejected is None:
    return found
  pairs = found.rejected.shape[1]
  spread = lambda x: _spread(x, pairs, batch)
  others = jax.tree.map(spread, found._replace(rejected=None))
  return others._replace(rejected=found.rejected.reshape(-1))


def _spread(values: Array, pairs: int, batch: Batch) -> Array:
  """[B] or [B, K] of chosen answers to [B * R], one for each pair."""
  if batch.chosen_of is not None:
    return jnp.take_along_axis(values, batch.chosen_of, axis=1).reshape(-1)
  return jnp.repeat(values, pairs, axis=0) if pairs > 1 else values


def counts(batch: Batch) -> Counts:
  """Scored tokens of each pair, int32[B * R], and sums of their weights."""
  tokens = _split(batch.loss_mask.sum(axis=-1), batch)
  if batch.branch_weight is None:
    return Counts(*tokens)
  kept = jnp.where(batch.loss_mask, batch.branch_weight, 0.0)
  return Counts(*tokens, *_split(kept.sum(axis=-1), batch))


def _split(sums: Array, batch: Batch) -> tuple[Array, Array | None]:
  """[B, N] of answers to those of the chosen and of the rejected, [B * R]."""
  count = batch.num_chosen
  chosen, rejected = sums[:, :count], sums[:, count:]
  if batch.chosen_of is None:
    chosen = chosen[:, 0]
  if not (pairs := rejected.shape[1]):
    return chosen, None
  chosen, rejected = _spread(chosen, pairs, batch), rejected.reshape(-1)
  if pairs == 1:
    return chosen, rejected
  # a row with fewer rejected answers than others has fewer pairs
  return jnp.where(rejected > 0, chosen, 0), rejected


def noise_differs(batch: Batch, noise_ids: Array, pairs: int) -> Array:
  """The share of scored positions whose noise token is not the true one.

  Args:
    pairs: rows of the result; B * R, as `per_pair` makes them.

  Returns:
    float32[pairs].
  """
  own = 0 if batch.chosen_of is None else slice(batch.num_chosen)
  mask = batch.loss_mask[:, own]
  differs = (noise_ids != batch.branch_ids[:, own]) & mask
  # a row that only fills the batch has no scored position
  share = differs.sum(-1) / jnp.maximum(mask.sum(-1), 1)
  return _spread(share, pairs // len(share), batch)
