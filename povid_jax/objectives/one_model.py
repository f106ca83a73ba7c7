"""The log-probs of one model for a batch, from its pictures and its tokens.

`objectives.logps` decides what is run for policy and reference; this module
runs it.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from povid_jax.data.batch import Batch
from povid_jax.models.llava import Llava
from povid_jax.models.pictures import pixels_of, with_pixels
from povid_jax.models.scoring import argmax_tokens, token_logps
from povid_jax.objectives.core import Array, Logps, Needs


@dataclasses.dataclass(frozen=True)
class Spec:
  """How batches are run; hashable, so that it can be a static argument.

  Attributes:
    needs: the objective's.
    exclude_gold: the noise token is the runner-up where the argmax is gold
      (`argmax_tokens` puts the true token at -inf).
    noise_scale: (sqrt(alpha_bar), sqrt(1 - alpha_bar)) for the `pixels` site,
      or None: noisy pictures come with the batch.
    head_chunk: rows of logits that a device holds at one time.
    share_prefix: False runs image and question once per answer.
  """

  needs: Needs
  exclude_gold: bool = False
  noise_scale: tuple[float, float] | None = None
  head_chunk: int = 256
  share_prefix: bool = True

  def with_needs(self, needs: Needs) -> "Spec":
    """The same way to run, for other needs."""
    return dataclasses.replace(self, needs=needs)


class Pictures(NamedTuple):
  """Image tokens of a batch, float[B, M, D]; None where nobody needs them."""

  clean: Array
  noisy: Array | None


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
    images = with_pixels(batch.images, batch.images_noisy)
    return model.encode_images(images, adapter=adapter)
  images = batch.images
  shape = pixels_of(images).shape[1:]

  def draw(seed: Array) -> Array:
    return jax.random.normal(jax.random.key(seed), shape)

  assert batch.noise_seed is not None  # the pixels site has one a row
  # one key per row: the noise of a sample must not depend on its row or device
  eps = jax.vmap(draw)(batch.noise_seed)
  noise = (jnp.array(spec.noise_scale), eps)
  return model.encode_images(images, noise, adapter=adapter)


def noise_tokens(
  model: Llava, batch: Batch, pictures: Pictures, spec: Spec, *, adapter: bool
) -> Array:
  """The tokens a model prefers under the noisy picture.

  Position by position of the chosen answers, which is teacher-forced: the
  argmax is over the vocabulary given the true words before. No gradient.
  Source: `_get_noisy_batch_logps` of the released trainer, see docs/design.md.

  Returns:
    int32[B, C], or [B, K, C] where rows have K chosen answers.
  """
  assert pictures.noisy is not None
  # noise tokens replace those of the chosen answers: no other branch runs
  first = slice(0, batch.num_chosen)
  hidden = _hidden(model, batch, pictures.noisy, first, spec, adapter)
  gold = _of_chosen(batch, batch.branch_ids)
  chosen = argmax_tokens(
    model.decoder.head(),
    hidden,
    gold.reshape(hidden.shape[:-1]) if spec.exclude_gold else None,
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
    noise_ids: tokens to score beside the chosen ones, as `noise_tokens` has
      them.

  Returns:
    Logps of float32[B] ([B, K] where rows have K chosen answers), rejected
    [B, R]; terms that `spec.needs` does not name are None.
  """
  first = slice(0, batch.num_chosen)
  # an objective without rejected answers does not pay for their branches
  every = slice(None) if spec.needs.rejected else first
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
    distorted = _per_token(
      model, batch, pictures.noisy, first, spec, adapter, None
    )
    theirs = None if weight is None else weight[:, first]
    found = _sum(distorted, mask[:, first], theirs)
    corrupted = _of_chosen(batch, found[..., 0])
  others = slice(batch.num_chosen, None)
  return Logps(
    chosen=_of_chosen(batch, sums[..., 0]),
    rejected=sums[:, others, 0] if spec.needs.rejected else None,
    noise=None if noise_ids is None else _of_chosen(batch, sums[..., 1]),
    corrupted=corrupted,
  )


def _of_chosen(batch: Batch, values: Array) -> Array:
  """Of [B, N, ...] the chosen answer's [B, ...]; of several, [B, K, ...]."""
  return values[:, 0 if batch.chosen_of is None else slice(batch.num_chosen)]


def _sum(per_token: Array, mask: Array, weight: Array | None) -> Array:
  """Over the scored tokens, each times its weight: [B, n, C, J] to [B, n, J].

  Weights act on policy and reference alike, so that a reward stays a weighted
  sum of log-ratios of tokens.
  """
  if weight is not None:
    per_token = per_token * weight
  # not a product with the mask: 0 times an infinite log-prob would be NaN
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
    # Both targets share one product with the vocabulary matrix, the costly
    # part; other branches score their own tokens twice so that shapes are
    # equal.
    count, width = batch.num_chosen, gold.shape[2]
    second = gold.at[:, :count].set(noise_ids.reshape(-1, count, width))
    targets = jnp.stack([gold, second], axis=-1)
  return token_logps(model.decoder.head(), hidden, targets, spec.head_chunk)


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

  def repeat(x: Any) -> Any:
    return x if x is None or shared else jnp.repeat(x, count, axis=0)

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
