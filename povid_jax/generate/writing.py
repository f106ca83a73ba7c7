"""Prompts in, tokens of N branches out; a free slot takes the next prompt."""

import collections
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from povid_jax import errors
from povid_jax.data import text
from povid_jax.data.tokenizer import Tokenizer
from povid_jax.generate import slots as slots_lib
from povid_jax.generate.decode import NOT_FINITE, Decoding
from povid_jax.generate.slots import Marks, Slots, Stops
from povid_jax.models import sharding

if TYPE_CHECKING:  # answering imports this module
  from povid_jax.generate.answering import Policy

LENGTH_MULTIPLE = 32  # prefixes are padded to multiples, so few are compiled
_READERS = 4  # threads that read pictures
End = Literal["stop", "sentence", "length"]


def padded_length(length: int) -> int:
  """Tokens of the row that a prompt of this length is padded to.

  The prompts of models that cut pictures into tiles are thousands of tokens
  long, and of many different lengths: the steps grow with the length, and are a
  sixteenth of the next lower power of two.
  """
  step = max(LENGTH_MULTIPLE, 1 << max(0, length.bit_length() - 5))
  return -(-length // step) * step


@dataclasses.dataclass(frozen=True)
class Prompt:
  """What N branches are written from.

  Attributes:
    name: name of the question, for errors ("question 3").
    ids: int32[p] the prefix.
    pictures: reads what `Llava.encode_images` takes, without the leading axis.
    kind: prompts of one kind have pictures of one shape.
    seeds: one number per branch, below 2**32, of its own random stream.
    positions: int32[p, 3] of the prefix, and that of what follows; None: 0, 1
      and so on.
  """

  name: str
  ids: np.ndarray
  pictures: Callable[[], Any]
  kind: Any
  seeds: tuple[int, ...]
  positions: tuple[np.ndarray, int] | None = None


@dataclasses.dataclass(frozen=True)
class Branch:
  """A finished branch: its ids without the end token, and why it ended.

  `end` is "stop" for a stop token, "sentence" where the next word would have
  begun another sentence, "length" where there was no more room.
  """

  ids: list[int]
  end: End


def write(
  policy: "Policy",
  prompts: Sequence[Prompt],
  decoding: Decoding,
  *,
  sentence: bool = False,
) -> Iterator[list[tuple[int, list[Branch]]]]:
  """Writes the branches of every prompt, all prompts with as many.

  Args:
    policy: the model.
    prompts: in any order; those of like length share the device.
    decoding: lengths and sampling; batch_size counts branches.
    sentence: a branch is over with its first sentence.

  Yields:
    (index of the prompt, its branches), whenever some are over.

  Raises:
    UserError: of `Prompt.pictures`; or the model gave logits that are no
      numbers, the prompt is named.
  """
  groups: dict[Any, list[int]] = {}
  order = sorted(range(len(prompts)), key=lambda i: len(prompts[i].ids))
  for i in order:
    padded = padded_length(len(prompts[i].ids))
    groups.setdefault((padded, prompts[i].kind), []).append(i)
  template = text.find_template(policy.template)
  stops = Stops(text.stop_ids(policy.tokenizer, template), sentence)
  marks = sentence_marks(policy) if sentence else None
  with ThreadPoolExecutor(_READERS) as pool:
    for (padded, _), members in groups.items():
      group = [(i, prompts[i]) for i in members]
      yield from _Group(policy, padded, decoding, stops, marks, pool).run(group)


class _Group:
  """Prompts of one padded length, and the slots that they pass through."""

  def __init__(
    self,
    policy: "Policy",
    padded: int,
    decoding: Decoding,
    stops: Stops,
    marks: Marks | None,
    pool: ThreadPoolExecutor,
  ):
    self._policy = policy
    self._padded = padded
    # the seed is an argument: another one needs no compilation
    self._key = jax.random.key_data(jax.random.key(decoding.seed))
    self._decoding = dataclasses.replace(decoding, seed=0)
    self._stops = stops
    self._marks = marks
    self._pool = pool

  def run(
    self, group: Sequence[tuple[int, Prompt]]
  ) -> Iterator[list[tuple[int, list[Branch]]]]:
    branches = len(group[0][1].seeds)
    devices = self._policy.mesh.devices.size
    in_devices = lambda count: -(-max(count, 1) // devices) * devices
    size = in_devices(self._decoding.batch_size // branches)
    # a quarter at a time: rarely waits for the last one of the others, and
    # still gives the prefill enough rows
    self._rows = in_devices(size // 4)
    with jax.set_mesh(self._policy.mesh):
      state = self._empty(size, branches)
    waiting = collections.deque(group)
    reading: collections.deque[Future] = collections.deque()
    at_work: dict[int, tuple[int, Prompt]] = {}  # by slot
    while waiting or at_work:
      free = [slot for slot in range(size) if slot not in at_work]
      while waiting and free:
        taken, free = free[: self._rows], free[self._rows :]
        chosen = [waiting.popleft() for _ in taken if waiting]
        while len(reading) < len(chosen):
          reading.append(self._pool.submit(chosen[len(reading)][1].pictures))
        pictures = [reading.popleft() for _ in chosen]
        ahead = [p for _, p in list(waiting)[: self._rows]]
        for prompt in ahead[len(reading) :]:
          reading.append(self._pool.submit(prompt.pictures))
        state = self._admit(state, taken, chosen, pictures)
        at_work |= dict(zip(taken, chosen, strict=False))
      wanted = min(len(free) + self._rows, size) if waiting else size
      state, found = self._advance(state, wanted, at_work)
      yield found

  def _empty(self, size: int, branches: int) -> Slots:
    return slots_lib.empty(
      self._policy.graph,
      self._policy.params,
      self._key,
      slots=size,
      branches=branches,
      prefix=self._padded,
      length=self._decoding.max_new_tokens,
    )

  def _admit(
    self,
    state: Slots,
    free: Sequence[int],
    chosen: Sequence[tuple[int, Prompt]],
    reading: Sequence[Future],
  ) -> Slots:
    """Prompts into the free slots; rows that lack one go to no slot."""
    rows, branches = self._rows, len(chosen[0][1].seeds)
    size = state.prefix_len.shape[0]
    at = np.full(rows, size, np.int32)
    at[: len(chosen)] = free[: len(chosen)]
    ids = np.zeros((rows, self._padded), np.int32)
    lengths = np.ones(rows, np.int32)
    seeds = np.zeros((rows, branches), np.uint32)
    for row, (_, prompt) in enumerate(chosen):
      ids[row, : len(prompt.ids)] = prompt.ids
      lengths[row] = len(prompt.ids)
      seeds[row] = prompt.seeds
    read = [job.result() for job in reading]
    read += [jax.tree.map(np.zeros_like, read[0])] * (rows - len(read))
    pictures = jax.tree.map(lambda *each: np.stack(each), *read)
    place = lambda x: jax.device_put(
      x, NamedSharding(self._policy.mesh, sharding.BATCH)
    )
    placed = self._positions([prompt for _, prompt in chosen])
    inputs = jax.tree.map(place, (ids, lengths, pictures, seeds, *placed))
    with jax.set_mesh(self._policy.mesh):
      return slots_lib.admit(
        self._policy.graph,
        self._policy.params,
        state,
        jnp.asarray(at),
        *inputs,
        decoding=self._decoding,
        stops=self._stops,
      )

  def _positions(
    self, chosen: Sequence[Prompt]
  ) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Positions int32[R, P, 3] of prefixes, int32[R] of what follows them."""
    if chosen[0].positions is None:
      return None, None
    positions = np.zeros((self._rows, self._padded, 3), np.int32)
    starts = np.ones(self._rows, np.int32)
    for row, prompt in enumerate(chosen):
      assert prompt.positions is not None  # a layout gives them, or does not
      before, starts[row] = prompt.positions
      positions[row, : len(before)] = before
    return positions, starts

  def _advance(
    self, state: Slots, wanted: int, at_work: dict[int, tuple[int, Prompt]]
  ) -> tuple[Slots, list[tuple[int, list[Branch]]]]:
    """Continues to generate; finished slots leave `at_work`."""
    with jax.set_mesh(self._policy.mesh):
      state = slots_lib.advance(
        self._policy.graph,
        self._policy.params,
        state,
        jnp.int32(wanted),
        self._marks,
        decoding=self._decoding,
        stops=self._stops,
      )
    over = np.all(np.asarray(state.over), axis=1)
    done = [slot for slot in at_work if over[slot]]
    tokens, counts = np.asarray(state.out), np.asarray(state.count)
    found = []
    for slot in done:
      index, prompt = at_work.pop(slot)
      each = zip(tokens[slot], counts[slot], strict=True)
      branches = [self._branch(prompt, t[:n].tolist()) for t, n in each]
      found.append((index, branches))
    return state, found

  def _branch(self, prompt: Prompt, ids: list[int]) -> Branch:
    if NOT_FINITE in ids:
      raise errors.not_finite(f"{prompt.name}: a logit of the answer")
    room = self._policy.config.decoder.context_length - len(prompt.ids)
    ids = ids[:room]  # no position is left behind these
    if ids[-1] in self._stops.ids:
      return Branch(ids[:-1], "stop")
    if self._ends_sentence(ids[-2:]):
      return Branch(ids[:-1], "sentence")
    return Branch(ids, "length")

  def _ends_sentence(self, last: list[int]) -> bool:
    if self._marks is None or len(last) < 2:
      return False
    return bool(self._marks.ends[last[0]] & self._marks.begins[last[1]])


def sentence_marks(policy: "Policy") -> Marks:
  """Which tokens of a vocabulary end a sentence, and which begin a word."""
  size = policy.config.decoder.vocab_size
  ends, begins = np.zeros(size, bool), np.zeros(size, bool)
  for i, said in enumerate(token_texts(policy.tokenizer)[:size]):
    ends[i] = said.rstrip("\"'”’)").endswith((".", "!", "?"))
    begins[i] = said[:1].isspace()
  return Marks(jnp.asarray(ends), jnp.asarray(begins))


def token_texts(tokenizer: Tokenizer) -> list[str]:
  """What each token adds to a text, spaces in front included."""
  # alone, a token's leading space would not be shown
  anchor = tokenizer.encode("a")[-1:]
  start = len(tokenizer.decode(anchor))
  return [
    tokenizer.decode([*anchor, i])[start:] for i in range(tokenizer.vocab_size)
  ]
