"""Sums of log-probs of one model over a batch: what objectives are made of."""

import dataclasses

import jax
import jax.numpy as jnp

from povid_jax.models.llava import Llava
from povid_jax.models.scoring import argmax_tokens, token_logps
from povid_jax.objectives import Counts, Logps

Array = jax.Array
Batch = dict[str, Array]


@dataclasses.dataclass(frozen=True)
class Spec:
  """How batches are run; hashable, so that it can be a static argument.

  Attributes:
    needs: the objective's, see objectives.core.
    exclude_gold: the noise token is the runner-up where the argmax is gold.
    noise_scale: (sqrt(alpha_bar), sqrt(1 - alpha_bar)) for the `pixels` site,
      or None: distorted pictures come with the batch.
    head_chunk: rows of logits held at one time.
    share_prefix: False runs image and question once per answer.
  """

  needs: frozenset[str]
  exclude_gold: bool = False
  noise_scale: tuple[float, float] | None = None
  head_chunk: int = 256
  share_prefix: bool = True

  @property
  def uses_noise(self) -> bool:
    return bool(self.needs & {"noise", "corrupted"})


def counts(batch: Batch) -> Counts:
  """Scored tokens of each answer, int32[B]."""
  sums = batch["loss_mask"].sum(axis=-1)
  return Counts(sums[:, 0], sums[:, 1] if sums.shape[1] > 1 else None)


def encode(model: Llava, batch: Batch) -> Array:
  """Image tokens of the clean pictures, float[B, I * tokens, D]."""
  return model.encode_images(batch["images"])


def encode_noisy(model: Llava, batch: Batch, spec: Spec) -> Array:
  """Image tokens of the distorted pictures, float[B, I * tokens, D]."""
  if spec.noise_scale is None:
    return model.encode_images(batch["images_noisy"])
  images = batch["images"]

  def draw(seed: Array) -> Array:
    return jax.random.normal(jax.random.key(seed), images.shape[1:])

  eps = jax.vmap(draw)(batch["noise_seed"])
  return model.encode_images(images, noise=(jnp.array(spec.noise_scale), eps))


def _hidden(
  model: Llava,
  batch: Batch,
  embeds: Array,
  branches: slice,
  spec: Spec,
  adapter: bool,
) -> Array:
  """float[B, n, C, D] states that predict the tokens of some branches."""
  ids = batch["branch_ids"][:, branches]
  prefix, length = batch["prefix_ids"], batch["prefix_len"]
  batch_size, count, width = ids.shape
  if spec.share_prefix or count == 1:
    return model.branches(prefix, length, ids, embeds, adapter=adapter)
  repeat = lambda x: jnp.repeat(x, count, axis=0)
  hidden = model.branches(
    repeat(prefix),
    repeat(length),
    ids.reshape(batch_size * count, 1, width),
    repeat(embeds),
    adapter=adapter,
  )
  return hidden.reshape(batch_size, count, width, -1)


def noise_tokens(
  model: Llava, batch: Batch, embeds_noisy: Array, spec: Spec, adapter: bool
) -> Array:
  """The tokens a model prefers under the distorted picture.

  Position by position of the chosen answer, which is teacher-forced: the
  argmax is over the vocabulary given the true words before. No gradient.
  Source: facts A2 (`_get_noisy_batch_logps` of the released trainer).

  Returns:
    int32[B, C].
  """
  hidden = _hidden(model, batch, embeds_noisy, slice(0, 1), spec, adapter)
  gold = batch["branch_ids"][:, 0]
  chosen = argmax_tokens(
    model.decoder.logits,
    hidden.reshape(-1, hidden.shape[-1]),
    gold.reshape(-1) if spec.exclude_gold else None,
    spec.head_chunk,
  )
  return jax.lax.stop_gradient(chosen.reshape(gold.shape))


def logps(
  model: Llava,
  batch: Batch,
  embeds: Array,
  spec: Spec,
  *,
  adapter: bool,
  noise_ids: Array | None = None,
  embeds_noisy: Array | None = None,
) -> Logps:
  """Summed log-probs of every answer of the batch under one model.

  Args:
    model: the policy (adapter on) or the reference (adapter off).
    batch: arrays [B, ...] as data.batches makes them.
    embeds: clean image tokens.
    noise_ids: int32[B, C] tokens to score beside the chosen ones.
    embeds_noisy: distorted image tokens, for `corrupted`.

  Returns:
    Logps of float32[B]; terms that `spec.needs` does not name are None.
  """
  count = 2 if "rejected" in spec.needs else 1
  per_token = _per_token(
    model, batch, embeds, slice(0, count), spec, adapter, noise_ids
  )
  mask = batch["loss_mask"][:, :count, :, None]
  sums = jnp.where(mask, per_token, 0.0).sum(axis=2)  # [B, n, J]
  corrupted = None
  if "corrupted" in spec.needs:
    assert embeds_noisy is not None
    one = slice(0, 1)
    distorted = _per_token(model, batch, embeds_noisy, one, spec, adapter, None)
    corrupted = jnp.where(mask[:, :1], distorted, 0.0).sum(axis=(1, 2, 3))
  return Logps(
    chosen=sums[:, 0, 0],
    rejected=sums[:, 1, 0] if count == 2 else None,
    noise=None if noise_ids is None else sums[:, 0, 1],
    corrupted=corrupted,
  )


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
  gold = batch["branch_ids"][:, branches]
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
