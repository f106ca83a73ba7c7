"""Choosing the next token, and the jitted loop that writes an answer."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from flax import nnx

from povid_jax.errors import UserError
from povid_jax.models.llava import Cache, Llava
from povid_jax.models.params import Params, merge

Array = jax.Array
NOT_FINITE = -1  # stands where a token was to be chosen among NaN or infinity


@dataclasses.dataclass(frozen=True)
class Decoding:
  """How answers are written.

  Attributes:
    max_new_tokens: longest answer, </s> included.
    temperature: 0 is greedy.
    top_p: keep the smallest set of tokens with this much probability.
    top_k: keep this many tokens; 0 keeps all.
    seed: of the sampling; every question has its own stream, so answers do
      not depend on how questions are batched.
    batch_size: questions answered at a time.
  """

  max_new_tokens: int = 1024
  temperature: float = 0.0
  top_p: float = 1.0
  top_k: int = 0
  seed: int = 0
  batch_size: int = 16

  def __post_init__(self) -> None:
    if self.max_new_tokens < 1 or self.batch_size < 1:
      raise UserError("max_new_tokens and batch_size: want at least 1")
    if self.temperature < 0 or self.top_k < 0 or not 0 < self.top_p <= 1:
      raise UserError(
        "want temperature >= 0, top_k >= 0 and 0 < top_p <= 1, got "
        f"{self.temperature}, {self.top_k} and {self.top_p}"
      )


def choose(logits: Array, keys: Array, decoding: Decoding) -> Array:
  """Next tokens int32[B] from float32[B, V] logits and one key per row."""
  # the maximum is NaN or infinite where one of them is (one at -inf is none)
  finite = jnp.isfinite(jnp.max(logits, axis=-1))
  return jnp.where(finite, _choose(logits, keys, decoding), NOT_FINITE)


def _choose(logits: Array, keys: Array, decoding: Decoding) -> Array:
  if decoding.temperature == 0:
    return jnp.argmax(logits, axis=-1).astype(jnp.int32)
  logits = logits / decoding.temperature
  if decoding.top_k:
    k = min(decoding.top_k, logits.shape[-1])
    least = jax.lax.top_k(logits, k)[0][:, -1:]
    logits = jnp.where(logits < least, -jnp.inf, logits)
  if decoding.top_p < 1:
    ordered = jnp.sort(logits, axis=-1)[:, ::-1]
    probs = jax.nn.softmax(ordered, axis=-1)
    # a token is kept while the mass before it is below top_p
    before = jnp.cumsum(probs, axis=-1) - probs
    count = jnp.sum(before < decoding.top_p, axis=-1, keepdims=True)
    least = jnp.take_along_axis(ordered, count - 1, axis=-1)
    logits = jnp.where(logits < least, -jnp.inf, logits)
  return jax.vmap(jax.random.categorical)(keys, logits).astype(jnp.int32)


@functools.partial(jax.jit, static_argnames=("graph", "decoding", "stop_ids"))
def write_answers(
  graph: nnx.GraphDef,
  params: Params,
  prefix_ids: Array,
  prefix_len: Array,
  images: Array,
  row_seeds: Array,
  *,
  decoding: Decoding,
  stop_ids: tuple[int, ...],
) -> Array:
  """Tokens int32[B, max_new_tokens] of each answer, filled with the stop token.

  Args:
    prefix_ids: int32[B, P], right-padded.
    prefix_len: int32[B]; 0 for a row that only fills the batch up and is over
      before it starts.
    images: uint8[B, I, H, W, 3].
    row_seeds: uint32[B] a number of each question's own.
    decoding: lengths and sampling.
    stop_ids: tokens at which an answer is over; the first one fills.
  """
  model = merge(graph, params)
  embeds = model.encode_images(images)
  hidden, prefix_cache = model.prefill(prefix_ids, embeds)
  index = jnp.maximum(prefix_len - 1, 0)[:, None, None]
  last = jnp.take_along_axis(hidden, index, axis=1)
  logits = model.decoder.logits(last[:, 0])
  return _loop(
    model, logits, prefix_len, prefix_cache, row_seeds, decoding, stop_ids
  )


def _loop(
  model: Llava,
  logits: Array,
  prefix_len: Array,
  prefix_cache: Cache,
  row_seeds: Array,
  decoding: Decoding,
  stop_ids: tuple[int, ...],
) -> Array:
  layers, batch, _, heads, dim = prefix_cache.keys.shape
  length = decoding.max_new_tokens
  empty = jnp.zeros((layers, batch, length, heads, dim), model.dtype)
  base = jax.random.key(decoding.seed)
  row_keys = jax.vmap(lambda n: jax.random.fold_in(base, n))(row_seeds)

  def pick(logits: Array, step: Array) -> Array:
    keys = jax.vmap(lambda key: jax.random.fold_in(key, step))(row_keys)
    return choose(logits, keys, decoding)

  def over(ids: Array) -> Array:
    return jnp.isin(ids, jnp.array((*stop_ids, NOT_FINITE)))

  def more(state: tuple) -> Array:
    step, _, done, *_ = state
    return (step < length) & ~jnp.all(done)

  def write_one(state: tuple) -> tuple:
    step, ids, done, out, cache = state
    logits, cache = model.decode_step(
      ids, step - 1, prefix_len, prefix_cache, cache
    )
    ids = jnp.where(done, stop_ids[0], pick(logits, step))
    out = out.at[:, step].set(ids)
    return step + 1, ids, done | over(ids), out, cache

  first = pick(logits, jnp.int32(0))
  out = jnp.full((batch, length), stop_ids[0], jnp.int32).at[:, 0].set(first)
  done = over(first) | (prefix_len == 0)
  state = (jnp.int32(1), first, done, out, Cache(empty, empty))
  return jax.lax.while_loop(more, write_one, state)[3]
