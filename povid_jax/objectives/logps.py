"""A batch to the log-probs that objectives are made of.

`both` gives those of policy and reference for one batch. Who encodes which
pictures, whose noise tokens are scored and which terms come from the cache is
decided in this module and nowhere else.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from povid_jax.data.batch import Batch
from povid_jax.models.llava import Llava
from povid_jax.models.params import Params, merge
from povid_jax.models.scoring import argmax_tokens, token_logps
from povid_jax.objectives.core import Array, Counts, Logps, Needs


@dataclasses.dataclass(frozen=True)
class Spec:
  """How batches are run; hashable, so that it can be a static argument.

  Attributes:
    needs: the objective's.
    exclude_gold: the noise token is the runner-up where the argmax is gold.
    noise_scale: (sqrt(alpha_bar), sqrt(1 - alpha_bar)) for the `pixels` site,
      or None: noisy pictures come with the batch.
    head_chunk: rows of logits held at one time.
    share_prefix: False runs image and question once per answer.
  """

  needs: Needs
  exclude_gold: bool = False
  noise_scale: tuple[float, float] | None = None
  head_chunk: int = 256
  share_prefix: bool = True

  def of(self, needs: Needs) -> "Spec":
    """The same way to run for other needs."""
    return dataclasses.replace(self, needs=needs)


class Frozen(NamedTuple):
  """Parameters that a step reads.

  Attributes:
    params: those that are not trained.
    reference: initial values of trained parameters that are not adapters: the
      reference model has these, and its adapters off.
  """

  params: Params
  reference: Params


class Pictures(NamedTuple):
  """Image tokens of a batch, float[B, M, D]; None where nobody needs them."""

  clean: Array
  noisy: Array | None


class Both(NamedTuple):
  """Log-probs for each pair, and the policy's noise tokens int32[B, C]."""

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
  still = merge(graph, frozen.params, jax.lax.stop_gradient(params))
  pictures = encode(still, batch, spec, adapter=True)
  noise_ids = None
  if needs.noise:
    noise_ids = noise_tokens(still, batch, pictures, spec, adapter=True)
  # A trained tower: the policy's pictures need a gradient, and the reference
  # sees others. Otherwise all three share what was encoded once.
  trains_vision = any(
    path.startswith(("vision/", "projector/")) for path in params
  )
  theirs = None
  if needs.reference:
    own = {**jax.lax.stop_gradient(params), **frozen.reference}
    theirs = _reference(
      merge(graph, frozen.params, own),
      batch,
      None if trains_vision else pictures,
      spec,
      noise_ids,
    )
  if trains_vision:
    seen = spec.of(needs.without("noise"))
    pictures = encode(policy, batch, seen, adapter=True)
  mine = score(policy, batch, pictures, spec, adapter=True, noise_ids=noise_ids)
  return Both(
    per_pair(mine), None if theirs is None else per_pair(theirs), noise_ids
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
  spec = spec.of(spec.needs.fixed)
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
    if needs.noise != "policy":
      return cached
    # only the policy's noise tokens are left to score
    spec = spec.of(Needs(noise="policy"))
  if pictures is None:
    seen = spec.of(spec.needs.fixed)
    pictures = encode(model, batch, seen, adapter=False)
  if needs.noise == "own":
    noise_ids = noise_tokens(model, batch, pictures, spec, adapter=False)
  found = score(
    model, batch, pictures, spec, adapter=False, noise_ids=noise_ids
  )
  if cached is not None:
    return cached._replace(noise=found.noise)
  return jax.tree.map(jax.lax.stop_gradient, found)


def per_pair(found: Logps) -> Logps:
  """Every pair of a chosen and a rejected answer as a row of its own.

  Numbers of the chosen answer are repeated for each rejected one, so that an
  objective of pairs needs no other form, and R rejected answers on one prefix
  count as R rows of one pair each.
  """
  if found.rejected is None:
    return found
  pairs = found.rejected.shape[1]
  spread = lambda x: jnp.repeat(x, pairs, axis=0) if pairs > 1 else x
  others = jax.tree.map(spread, found._replace(rejected=None))
  return others._replace(rejected=found.rejected.reshape(-1))


def counts(batch: Batch) -> Counts:
  """Scored tokens of each pair, int32[B * R], and sums of their weights."""
  tokens = _split(batch.loss_mask.sum(axis=-1))
  if batch.branch_weight is None:
    return Counts(*tokens)
  kept = jnp.where(batch.loss_mask, batch.branch_weight, 0.0)
  return Counts(*tokens, *_split(kept.sum(axis=-1)))


def _split(sums: Array) -> tuple[Array, Array | None]:
  """[B, N] of answers to those of the chosen and of the rejected, [B * R]."""
  chosen, rejected = sums[:, 0], sums[:, 1:]
  if not (pairs := rejected.shape[1]):
    return chosen, None
  if pairs == 1:
    return chosen, rejected[:, 0]
  rejected = rejected.reshape(-1)
  # a row with fewer rejected answers than others has fewer pairs
  return jnp.where(rejected > 0, jnp.repeat(chosen, pairs), 0), rejected


def noise_differs(batch: Batch, noise_ids: Array, pairs: int) -> Array:
  """The share of scored positions whose noise token is not the true one.

  Args:
    pairs: rows of the result; B * R, as `per_pair` makes them.

  Returns:
    float32[pairs].
  """
  mask = batch.loss_mask[:, 0]
  differs = (noise_ids != batch.branch_ids[:, 0]) & mask
  share = differs.sum(-1) / jnp.maximum(mask.sum(-1), 1)
  return jnp.repeat(share, pairs // len(share)) if pairs > len(share) else share


def encode(
  model: Llava, batch: Batch, spec: Spec, *, adapter: bool
) -> Pictures:
  """Image tokens of the clean and, where needed, of the noisy pictures.

  Args:
    adapter: whether LoRA of tower and projector takes part.
  """
  clean = model.encode_images(batch.images, adapter=adapter)
  if not spec.needs.noisy_picture:
    return Pictures(clean, None)
  return Pictures(clean, _encode_noisy(model, batch, spec, adapter))


def _encode_noisy(
  model: Llava, batch: Batch, spec: Spec, adapter: bool
) -> Array:
  """Image tokens of the noisy pictures, float[B, M, D]."""
  if spec.noise_scale is None:
    return model.encode_images(batch.images_noisy, adapter=adapter)
  images = batch.images

  def draw(seed: Array) -> Array:
    return jax.random.normal(jax.random.key(seed), images.shape[1:])

  assert batch.noise_seed is not None  # the pixels site has one a row
  eps = jax.vmap(draw)(batch.noise_seed)
  noise = (jnp.array(spec.noise_scale), eps)
  return model.encode_images(images, noise, adapter=adapter)


def noise_tokens(
  model: Llava, batch: Batch, pictures: Pictures, spec: Spec, *, adapter: bool
) -> Array:
  """The tokens a model prefers under the noisy picture.

  Position by position of the chosen answer, which is teacher-forced: the
  argmax is over the vocabulary given the true words before. No gradient.
  Source: facts A2 (`_get_noisy_batch_logps` of the released trainer).

  Returns:
    int32[B, C].
  """
  assert pictures.noisy is not None
  hidden = _hidden(model, batch, pictures.noisy, slice(0, 1), spec, adapter)
  gold = batch.branch_ids[:, 0]
  chosen = argmax_tokens(
    model.decoder.logits,
    hidden.reshape(-1, hidden.shape[-1]),
    gold.reshape(-1) if spec.exclude_gold else None,
    spec.head_chunk,
  )
  return jax.lax.stop_gradient(chosen.reshape(gold.shape))


def score(
  model: Llava,
  batch: Batch,
  pictures: Pictures,
  spec: Spec,
  *,
  adapter: bool,
  noise_ids: Array | None = None,
) -> Logps:
  """Summed log-probs of every answer of the batch under one model.

  Args:
    model: the policy (adapter on) or the reference (adapter off).
    batch: arrays [B, ...].
    pictures: image tokens, from `encode`.
    noise_ids: int32[B, C] tokens to score beside the chosen ones.

  Returns:
    Logps of float32[B], rejected [B, R]; terms that `spec.needs` does not
    name are None.
  """
  every = slice(None) if spec.needs.rejected else slice(0, 1)
  per_token = _per_token(
    model, batch, pictures.clean, every, spec, adapter, noise_ids
  )
  mask = batch.loss_mask[:, every, :, None]
  weight = None
  if batch.branch_weight is not None:
    weight = batch.branch_weight[:, every, :, None]
  sums = _sum(per_token, mask, weight)  # [B, n, J]
  corrupted = None
  if spec.needs.corrupted:
    assert pictures.noisy is not None
    one = slice(0, 1)
    distorted = _per_token(
      model, batch, pictures.noisy, one, spec, adapter, None
    )
    first = None if weight is None else weight[:, :1]
    corrupted = _sum(distorted, mask[:, :1], first)[:, 0, 0]
  return Logps(
    chosen=sums[:, 0, 0],
    rejected=sums[:, 1:, 0] if spec.needs.rejected else None,
    noise=None if noise_ids is None else sums[:, 0, 1],
    corrupted=corrupted,
  )


def _sum(per_token: Array, mask: Array, weight: Array | None) -> Array:
  """Over the scored tokens, each times its weight: [B, n, C, J] to [B, n, J].

  Weights act on policy and reference alike, so that a reward stays a weighted
  sum of log-ratios of tokens.
  """
  if weight is not None:
    per_token = per_token * weight
  return jnp.where(mask, per_token, 0.0).sum(axis=2)


def _per_token(
  model: Llava,
  batch: Batch,
  embeds: Array,
  branches: slice,
  spec: Spec,
  adapter: bool,
  noise_ids: Array | None,
) -> Array:
  """float32[B, n, C, J]: log-probs of the branch tokens and, J = 2, of the
  noise tokens at the chosen answer's positions."""
  hidden = _hidden(model, batch, embeds, branches, spec, adapter)
  gold = batch.branch_ids[:, branches]
  targets = gold[..., None]
  if noise_ids is not None:
    second = gold.at[:, 0].set(noise_ids)
    targets = jnp.stack([gold, second], axis=-1)
  scored = token_logps(
    model.decoder.logits,
    hidden.reshape(-1, hidden.shape[-1]),
    targets.reshape(-1, targets.shape[-1]),
    spec.head_chunk,
  )
  return scored.reshape(targets.shape)


def _hidden(
  model: Llava,
  batch: Batch,
  embeds: Array,
  branches: slice,
  spec: Spec,
  adapter: bool,
) -> Array:
  """float[B, n, C, D] states that predict the tokens of some branches."""
  ids = batch.branch_ids[:, branches]
  batch_size, count, width = ids.shape
  shared = spec.share_prefix or count == 1
  repeat: Callable[[Any], Any] = lambda x: (
    x if x is None or shared else jnp.repeat(x, count, axis=0)
  )
  hidden = model.branches(
    repeat(batch.prefix_ids),
    repeat(batch.prefix_len),
    ids if shared else ids.reshape(batch_size * count, 1, width),
    repeat(embeds),
    adapter=adapter,
    positions=repeat(batch.positions),
    position_start=repeat(batch.position_start),
  )
  return hidden.reshape(batch_size, count, width, -1)
