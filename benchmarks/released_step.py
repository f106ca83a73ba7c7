"""The amount of work of the released stage 2 step, in this framework.

What tool/dpo_trainer_inherent.py of YiyangZhou/POVID runs for one pair (facts
A2 and D): chosen, rejected and, under the noisy picture, chosen again, each a
whole sequence of its own, by the policy and by the reference; float32 logits
and log-softmax over the vocabulary at every position, image tokens included;
the cross-entropy that the language model computes itself wherever it is given
labels; the vision tower for each of the six, and four times more to expand
labels.
Weights, adapters, optimizer and attention are ours, so that what differs is
the algorithm.
"""

from collections.abc import Callable
from typing import cast

import jax
import jax.numpy as jnp
import optax

from povid_jax.data.batch import Batch
from povid_jax.models import backends
from povid_jax.models.llava import Llava
from povid_jax.models.params import Params, merge
from povid_jax.objectives import Logps, logps
from povid_jax.training.step import Frozen, State, StepFn

Array = jax.Array
CLEAN, NOISY = 8, 2  # vision tower runs for a pair


def repeat_images(batch: Batch) -> Batch:
  """One copy of the pictures for each time that they are encoded.

  Copies, as a compiler would see equal arguments and encode them once.
  """
  copy = lambda x, times: jnp.concatenate([x] * times)
  return batch._replace(
    images=copy(batch.images, CLEAN),
    images_noisy=copy(batch.images_noisy, NOISY),
  )


def make(step: StepFn) -> Callable:
  """`(state, frozen, batch) -> (state, metrics)` like `step`."""

  def run(
    state: State, frozen: Frozen, batch: Batch
  ) -> tuple[State, dict[str, Array]]:
    model = merge(step.graph, frozen.params, state.params)
    clean = jax.lax.map(lambda x: model.encode_images(x), batch.images)
    noisy = jax.lax.map(lambda x: model.encode_images(x), batch.images_noisy)
    pair: Batch = jax.tree.map(lambda x: x[0], batch)
    mask = pair.loss_mask
    counts = logps.counts(pair)
    reference, entropy = _logps(
      model, pair, clean[2:4], noisy[1], adapter=False
    )
    reference = jax.lax.stop_gradient(reference)

    def loss_fn(params: dict) -> tuple[Array, Array]:
      policy = merge(step.graph, frozen.params, params)
      ours, more = _logps(policy, pair, clean[:2], noisy[0], adapter=True)
      return step.objective.fn(ours, reference, counts)[0].mean(), more

    grad_fn = jax.value_and_grad(loss_fn, has_aux=True)
    (loss, more), grads = grad_fn(state.params)
    updates, opt_state = step.optimizer.update(
      grads, state.opt_state, state.params, loss=loss
    )
    params = cast(Params, optax.apply_updates(state.params, updates))
    # labels are expanded by encoding again and dropping all but the lengths
    spent = clean[4:].astype(jnp.float32).sum()
    metrics = {
      "loss": loss,
      "entropies": entropy + more,
      "labels": spent + mask.sum(),
    }
    return State(state.step + 1, params, opt_state), metrics

  return run


def _logps(
  model: Llava, pair: Batch, clean: Array, noisy: Array, adapter: bool
) -> tuple[Logps, Array]:
  """Summed log-probs from three whole sequences, and cross-entropies."""
  gold = pair.branch_ids
  scores = [_log_softmax(model, pair, n, clean[n], adapter) for n in range(2)]
  under_noise = _log_softmax(model, pair, 0, noisy, adapter)
  tokens = jax.lax.stop_gradient(under_noise.argmax(-1))
  # of every position, as the released code gathers before it masks
  labels = [_labels(pair, gold[:, n]) for n in range(2)]
  chosen, rejected = (_pick(s, labels[n]) for n, s in enumerate(scores))
  noise = _pick(scores[0], tokens)
  start = pair.prefix_ids.shape[1] - 1
  total = lambda x, n: jnp.where(pair.loss_mask[:, n], x[:, start:-1], 0.0).sum(
    -1
  )
  found = Logps(total(chosen, 0), total(rejected, 1), total(noise, 0), None)
  # The released step computes these as well; the compiler shares the products
  # that stand above.
  entropies = chosen.mean() + rejected.mean()
  entropies += _pick(under_noise, labels[0]).mean()
  return found, jax.lax.stop_gradient(entropies)


def _labels(pair: Batch, answer: Array) -> Array:
  """int32[B, S]: the next token at each position."""
  whole = jnp.concatenate([pair.prefix_ids, answer], axis=1)
  return jnp.maximum(jnp.roll(whole, -1, axis=1), 0)


def _pick(log_probs: Array, ids: Array) -> Array:
  return jnp.take_along_axis(log_probs, ids[..., None], axis=-1)[..., 0]


def _log_softmax(
  model: Llava, pair: Batch, branch: int, embeds: Array, adapter: bool
) -> Array:
  """float32[B, S, V] of prefix and one answer, each position."""
  answer = model.decoder.embed(pair.branch_ids[:, branch], model.dtype)
  x = jnp.concatenate(
    [model.embed_prefix(pair.prefix_ids, embeds), answer], axis=1
  )
  positions = jnp.broadcast_to(jnp.arange(x.shape[1]), x.shape[:2])

  row = backends.Row(pair.prefix_ids.shape[1], 1, answer.shape[1])
  window = model.config.decoder.sliding_window

  def attend(q: Array, k: Array, v: Array, _: None) -> tuple[Array, None]:
    out = backends.attend(
      q, k, v, pair.prefix_len, row, window=window, backend=model.attention
    )
    return out, None

  hidden, _ = model.decoder(
    x, positions, attend, adapter=adapter, remat=model.remat
  )
  return jax.nn.log_softmax(model.decoder.logits(hidden), axis=-1)
