"""Generation on the device: one prefill per prompt, then N branches of tokens.

A slot holds a prompt: the keys and values of its prefix once, and N branches
that are written from it. All slots advance together, one token of every branch
a step. A slot whose branches are all over is free and takes another prompt,
while the others stay where they are: `admit` and `advance` keep their shapes,
so each is compiled once per length of prefix.

Nothing that a branch computes depends on the other slots, so answers depend
neither on the order of the prompts nor on what they share the device with.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from povid_jax.generate.decode import NOT_FINITE, Decoding, choose
from povid_jax.models.llava import Llava
from povid_jax.models.params import Params, merge

Array = jax.Array
# Own keys that attention reads at a time, at most. On CPUs a block that is not
# all of them is cut out, a copy; elsewhere each further block is a round trip
# to the host.
BLOCK = {"cpu": 128}
LARGE_BLOCK = 256
_ROUNDED = 32  # a shorter answer has one block, of a multiple of this


class Stops(NamedTuple):
  """When a branch is over.

  Attributes:
    ids: tokens that end an answer; the first one fills what is not written.
    sentence: whether a branch is over with its first sentence as well: at a
      token that begins a word after one that ends a sentence. It is written
      and is no part of the sentence.
  """

  ids: tuple[int, ...]
  sentence: bool = False


class Slots(NamedTuple):
  """The state of S slots with N branches of at most C tokens, a pytree.

  Attributes:
    prefix: keys and values of every layer, float[S, K, P, A]; see `_layered`.
    own: the same of the branches, float[S, N, K, C, A].
    prefix_len: int32[S].
    start: int32[S] position of each branch's first token.
    key: uint32[2] of all random streams.
    seeds: uint32[S, N] of each branch's own one.
    ids: int32[S, N] the last token.
    count: int32[S, N] tokens written.
    over: bool[S, N].
    out: int32[S, N, C] the tokens.
  """

  prefix: Any
  own: Any
  prefix_len: Array
  start: Array
  key: Array
  seeds: Array
  ids: Array
  count: Array
  over: Array
  out: Array


class Marks(NamedTuple):
  """Which tokens end a sentence and which begin a word, bool[V] each."""

  ends: Array
  begins: Array


def block_size(length: int) -> int:
  """Own keys that attention reads at a time, of answers of `length` tokens."""
  most = BLOCK.get(jax.default_backend(), LARGE_BLOCK)
  return min(most, -(-length // _ROUNDED) * _ROUNDED)


def _unrolled() -> bool:
  """On CPUs layers have arrays of their own; see `Llama.unstack`."""
  return jax.default_backend() == "cpu"


def _layered(stacked: tuple[Array, Array]) -> Any:
  """Keys and values [L, ...] as `Llava.decode_step` takes them."""
  if not _unrolled():
    return stacked
  keys, values = stacked
  return [(keys[i], values[i]) for i in range(keys.shape[0])]


@functools.partial(
  jax.jit, static_argnames=("graph", "slots", "branches", "prefix", "length")
)
def empty(
  graph: nnx.GraphDef,
  params: Params,
  key: Array,
  *,
  slots: int,
  branches: int,
  prefix: int,
  length: int,
) -> Slots:
  """Free slots for prefixes of `prefix` and answers of `length` tokens; `key`
  is the data of the key from which every branch's is derived."""
  model = merge(graph, params)
  decoder = model.config.decoder
  block = block_size(length)
  # attention reads whole blocks
  room = -(-length // block) * block
  layers, heads, dim = (
    decoder.num_layers,
    decoder.num_kv_heads,
    decoder.head_dim,
  )
  zeros = lambda *shape: jnp.zeros((layers, *shape, dim), model.dtype)
  whole = lambda *shape: jnp.zeros((slots, *shape), jnp.int32)
  return Slots(
    prefix=_layered((zeros(slots, heads, prefix), zeros(slots, heads, prefix))),
    own=_layered(
      (
        zeros(slots, branches, heads, room),
        zeros(slots, branches, heads, room),
      )
    ),
    prefix_len=whole(),
    start=whole(),
    key=key,
    seeds=whole(branches).astype(jnp.uint32),
    ids=whole(branches),
    count=whole(branches),
    over=jnp.ones((slots, branches), bool),
    out=whole(branches, length),
  )


@functools.partial(
  jax.jit,
  static_argnames=("graph", "decoding", "stops"),
  donate_argnames=("slots",),
)
def admit(
  graph: nnx.GraphDef,
  params: Params,
  slots: Slots,
  at: Array,
  prefix_ids: Array,
  prefix_len: Array,
  pictures: Any,
  seeds: Array,
  positions: Array | None = None,
  position_start: Array | None = None,
  *,
  decoding: Decoding,
  stops: Stops,
) -> Slots:
  """Puts R prompts into free slots, their first tokens chosen.

  Args:
    at: int32[R] the slot of each; S and more: the row only fills the shape.
    prefix_ids: int32[R, P], right-padded.
    prefix_len: int32[R], at least 1.
    pictures: what `Llava.encode_images` takes, with a leading axis R.
    seeds: uint32[R, N].
    positions: int32[R, P, 3] of the prefix; None: 0 .. P - 1.
    position_start: int32[R], position of the first token of every branch;
      None: prefix_len.
    decoding: how a token is chosen.
    stops: when a branch is over.
  """
  model = merge(graph, params)
  start = prefix_len if position_start is None else position_start
  embeds = model.encode_images(pictures)
  hidden, (keys, values) = model.prefill(
    prefix_ids, embeds, prefix_len=prefix_len, positions=positions
  )
  logits = model.decoder.logits(hidden[:, 0])
  by_head = lambda x: jnp.swapaxes(x, 2, 3)  # [L, R, K, P, A]
  count = jnp.zeros(seeds.shape, jnp.int32)
  logits = jnp.broadcast_to(logits[:, None], (*seeds.shape, logits.shape[-1]))
  # the state is the same for all branches; only their random keys differ
  first = _next_tokens(logits, slots.key, seeds, count, decoding)
  over = jnp.isin(first, jnp.array((*stops.ids, NOT_FINITE)))
  out = jnp.full((*seeds.shape, slots.out.shape[-1]), stops.ids[0], jnp.int32)
  put = lambda old, new: old.at[at].set(new, mode="drop")
  put_layers = (
    put if _unrolled() else lambda old, new: old.at[:, at].set(new, mode="drop")
  )
  return Slots(
    prefix=jax.tree.map(
      put_layers, slots.prefix, _layered((by_head(keys), by_head(values)))
    ),
    # Old keys of the slot are ignored, because `count` starts anew. Their
    # values get weight 0, which is nothing unless one is NaN; but a branch that
    # is not finite ends the run (`writing._branch`), and its slot is done with.
    own=slots.own,
    prefix_len=put(slots.prefix_len, prefix_len),
    start=put(slots.start, start),
    key=slots.key,
    seeds=put(slots.seeds, seeds),
    ids=put(slots.ids, first),
    count=put(slots.count, count + 1),
    over=put(slots.over, over | (slots.out.shape[-1] == 1)),
    out=put(slots.out, out.at[..., 0].set(first)),
  )


def _next_tokens(
  logits: Array, key: Array, seeds: Array, count: Array, decoding: Decoding
) -> Array:
  """Next tokens int32[S, N]; token t of a branch draws with its t-th key."""
  base = jax.random.wrap_key_data(key)

  # keys from seed and token number, not a chain of splits: an answer must not
  # depend on its slot or on the other answers
  def own(seed: Array, step: Array) -> Array:
    return jax.random.fold_in(jax.random.fold_in(base, seed), step)

  keys = jax.vmap(own)(seeds.reshape(-1), count.reshape(-1))
  flat = logits.reshape(-1, logits.shape[-1])
  return choose(flat, keys, decoding).reshape(seeds.shape)


@functools.partial(
  jax.jit,
  static_argnames=("graph", "decoding", "stops"),
  donate_argnames=("slots",),
)
def advance(
  graph: nnx.GraphDef,
  params: Params,
  slots: Slots,
  wanted: Array,
  marks: Marks | None = None,
  *,
  decoding: Decoding,
  stops: Stops,
) -> Slots:
  """Writes tokens until at least `wanted` slots are free.

  Args:
    slots: some at work.
    wanted: int32[]; the number of slots: until all are over.
    marks: with `stops.sentence`.
    decoding: how a token is chosen.
    stops: when a branch is over.
  """
  model = merge(graph, params)
  if _unrolled():
    model.decoder.unstack(slots.ids.size)
  length = slots.out.shape[-1]

  def more(state: Slots) -> Array:
    return jnp.sum(jnp.all(state.over, axis=1)) < wanted

  def write_one(state: Slots) -> Slots:
    return _write_one(model, state, marks, decoding, stops, length)

  return jax.lax.while_loop(more, write_one, slots)


def _write_one(
  model: Llava,
  state: Slots,
  marks: Marks | None,
  decoding: Decoding,
  stops: Stops,
  length: int,
) -> Slots:
  # The last token is not in `own` yet. Of a slot never used -1: what such slots
  # compute is written to the last place, and nobody sees it before another key
  # is there.
  written = state.count - 1
  logits, new = model.decode_step(
    state.ids,
    state.start[:, None] + written,
    written,
    state.prefix_len,
    state.prefix,
    state.own,
    block=block_size(length),
  )
  ids = _next_tokens(logits, state.key, state.seeds, state.count, decoding)
  over = jnp.isin(ids, jnp.array((*stops.ids, NOT_FINITE)))
  if stops.sentence:
    assert marks is not None
    over |= marks.ends[state.ids] & marks.begins[ids]
  # branches that are over still run, because all slots share one shape; nothing
  # that they compute is kept
  ids = jnp.where(state.over, stops.ids[0], ids)
  count = jnp.where(state.over, state.count, state.count + 1)
  # Where to write depends on the tokens, and they on all that was read: so the
  # compiler knows that nobody reads the old keys any more, and writes in place
  # of copying them. Nothing is read again of a branch that is not finite, so
  # `length` does: in the room of `own`, which is rounded up, or behind it,
  # where it is dropped.
  kept = jnp.where(ids == NOT_FINITE, length, written)
  row, branch = jnp.indices(ids.shape)
  out = state.out.at[
    row, branch, jnp.where(state.over, length, state.count)
  ].set(ids, mode="drop")
  return state._replace(
    own=_put_own(state.own, new, kept),
    ids=jnp.where(state.over, state.ids, ids),
    count=count,
    over=state.over | over | (count >= length),
    out=out,
  )


def _put_own(own: Any, new: tuple[Array, Array], at: Array) -> Any:
  """Writes [L, S, N, K, A] at index `at` [S, N] of [S, N, K, C, A]."""
  row, branch = jnp.indices(at.shape)
  if not _unrolled():
    # advanced indices on both sides of a slice come first: [S, N, L, K, A]
    put = lambda old, fresh: old.at[:, row, branch, :, at].set(
      jnp.moveaxis(fresh, 0, 2), mode="drop"
    )
    return jax.tree.map(put, own, tuple(new))
  put = lambda old, fresh: old.at[row, branch, :, at].set(fresh, mode="drop")
  keys, values = new
  return [(put(k, keys[i]), put(v, values[i])) for i, (k, v) in enumerate(own)]
