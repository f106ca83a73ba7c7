"""Token counts of every sample before step 0, and the bucket lengths."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from povid_jax import files, progress
from povid_jax.data import changes, system, text
from povid_jax.data import layout as layouts
from povid_jax.data.layout import Extent, Layout
from povid_jax.data.records import Record, Records
from povid_jax.data.tokenizer import Tokenizer
from povid_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class TextSpec:
  """The settings that determine the tokens of a record.

  Attributes:
    template: name of the conversation template.
    layout: how many tokens an image takes.
    num_branches: N of a batch. 1: only the chosen answers are used; otherwise
      at least 2, see `for_records`.
    changed_weight: of the tokens in which chosen and rejected answer differ.
    num_chosen: K of a batch, see `for_records`.
  """

  template: str
  layout: Layout
  num_branches: int
  changed_weight: float = 1.0
  num_chosen: int = 1

  def for_records(self, measured: "Lengths") -> "TextSpec":
    """With room for all answers of these records."""
    chosen = int(measured.chosen.max(initial=1))
    rejected = int((measured.answers - measured.chosen).max(initial=0))
    most = max(self.num_branches, chosen + rejected)
    return dataclasses.replace(self, num_branches=most, num_chosen=chosen)


def measure_images(record: Record, spec: TextSpec) -> list[Extent]:
  """Room of each image of a record; UserError if one is not a picture."""
  return layouts.measure_encoded(spec.layout, record.images)


def encode_record(
  record: Record, tokenizer: Tokenizer, spec: TextSpec
) -> text.Encoded:
  """Prefix and branches of a record; UserError names its id."""
  rejected = record.every_rejected if spec.num_branches > 1 else ()
  if spec.num_branches > 1 and not rejected:
    raise UserError(
      f"record {record.id!r} has no rejected answer; this objective needs "
      "pairs (data_gen inject makes them)"
    )
  every = record.every_chosen
  if len(every) > 1 and spec.num_branches == 1:
    raise UserError(
      f"record {record.id!r} joins pairs with {len(every)} chosen answers, and "
      "this objective trains on one: write the records without --pairs-per-row"
    )
  asked = text.count_images(record.prompt_turns)
  if asked != len(record.images):
    raise UserError(
      f"record {record.id!r} has {len(record.images)} image(s) and {asked} "
      "<image> in its text"
    )
  try:
    template = text.find_template(spec.template)
    if record.system:
      template = system.with_system(template, record.system)
    encoded = text.encode(
      record.prompt_turns,
      [*every, *(answer.turns for answer in rejected)],
      tokenizer,
      template,
      [extent.tokens for extent in measure_images(record, spec)],
      context=record.context,
      end_scored=record.scores_end,
    )
    encoded = dataclasses.replace(
      encoded,
      num_chosen=len(every),
      chosen_of=tuple(answer.of for answer in rejected),
    )
    weights = [*(1.0 for _ in every), *(answer.weight for answer in rejected)]
    return _weighted(encoded, weights, tokenizer, spec)
  except UserError as error:
    raise UserError(f"record {record.id!r}: {error}") from error


def _weighted(
  encoded: text.Encoded,
  answers: Sequence[float],
  tokenizer: Tokenizer,
  spec: TextSpec,
) -> text.Encoded:
  """Puts the weights of tokens: of their answer, times `changed_weight`.

  Args:
    answers: the weight of each branch.
  """
  if not all(math.isfinite(w) and w >= 0 for w in answers):
    raise UserError(
      f"rejected_weight is {list(answers[encoded.num_chosen :])}; want "
      "numbers >= 0"
    )
  gamma, branches = spec.changed_weight, encoded.branch_ids
  if gamma == 1.0 and all(weight == 1.0 for weight in answers):
    return encoded
  weights = [
    np.full(len(ids), weight, np.float32)
    for ids, weight in zip(branches, answers, strict=True)
  ]
  if gamma != 1.0:
    if len(branches) > 2:
      raise UserError(
        "data.changed_weight needs exactly one rejected answer, and there "
        f"are {len(branches) - encoded.num_chosen} of them"
      )
    if len(branches) == 2:
      ends = text.stop_ids(tokenizer, text.find_template(spec.template))
      chosen, rejected = (ids.tolist() for ids in branches)
      marks = changes.changed(chosen, rejected, tokenizer, ends)
      for weight, mark in zip(weights, marks, strict=True):
        weight[mark] *= gamma
  return dataclasses.replace(encoded, weights=tuple(weights))


@dataclasses.dataclass(frozen=True)
class Lengths:
  """Per sample, int32[n]. All 0 for a sample that cannot be used.

  Attributes:
    prefix: tokens.
    branch: tokens of the longest branch.
    scored: branch tokens in all.
    tiles, image_tokens, taps: of its images together, see `data.room.Extent`.
    answers: branches.
    weighted: 1 where tokens do not all weigh 1.
    chosen: branches that are chosen answers.
  """

  prefix: np.ndarray
  branch: np.ndarray
  scored: np.ndarray
  tiles: np.ndarray
  image_tokens: np.ndarray
  taps: np.ndarray
  answers: np.ndarray
  weighted: np.ndarray
  chosen: np.ndarray

  def room(self, samples: np.ndarray) -> Extent:
    """The least room in which the images of each of these samples fit."""
    columns = (self.tiles, self.image_tokens, self.taps)
    return Extent(*(int(column[samples].max()) for column in columns))


def measure(
  source: Records,
  tokenizer: Tokenizer,
  spec: TextSpec,
  limit: int = 0,
  on_bad: Callable[[int, UserError], None] | None = None,
) -> Lengths:
  """Tokenises every record once.

  Args:
    limit: only the first so many records; 0: all.
    on_bad: called with the index of a record that is damaged or that the
      objective cannot use; None raises the error.
  """
  count = min(limit, len(source)) if limit else len(source)
  table = np.zeros((count, 9), np.int32)
  for i in progress.bar(range(count), desc="measuring lengths", unit="rec"):
    try:
      record = source[i]
      encoded = encode_record(record, tokenizer, spec)
      room = layouts.total(measure_images(record, spec))
    except UserError as error:
      if on_bad is None:
        raise
      on_bad(i, error)
      continue
    branches = [len(ids) for ids in encoded.branch_ids]
    table[i] = (
      len(encoded.prefix_ids),
      max(branches),
      sum(branches),
      *room,
      len(branches),
      encoded.weights is not None,
      encoded.num_chosen,
    )
  return Lengths(*table.T)


def choose_buckets(
  lengths: Sequence[int] | np.ndarray, count: int, multiple: int
) -> tuple[int, ...]:
  """At most `count` lengths, multiples of `multiple`, with the least padding.

  Exact: dynamic programming over the distinct rounded lengths. Lengths
  1, 1, 1, 9 with count 2 and multiple 4 give (4, 12).
  """
  rounded = -(-np.asarray(lengths) // multiple) * multiple
  sizes, numbers = np.unique(rounded, return_counts=True)
  total = np.concatenate([[0], np.cumsum(numbers)])
  best: list[tuple[float, tuple[int, ...]]] = [(0.0, ())]
  best += [(np.inf, ())] * len(sizes)
  for _ in range(min(count, len(sizes))):
    new = list(best)
    for end in range(1, len(sizes) + 1):
      for start in range(end):
        cost = best[start][0] + sizes[end - 1] * (total[end] - total[start])
        if cost < new[end][0]:
          new[end] = (cost, (*best[start][1], int(sizes[end - 1])))
    best = new
  return best[-1][1]


@dataclasses.dataclass(frozen=True)
class Buckets:
  """Which samples are used and how long their rows are."""

  prefix: tuple[int, ...]  # P of each prefix bucket
  branch: tuple[int, ...]  # C of each branch bucket
  kept: np.ndarray  # indices of the samples that fit
  of: np.ndarray  # int[n, 2]: prefix and branch bucket of each sample
  padding: float  # share of the tokens of a row that is padding
  rooms: Mapping[int, Extent]  # P -> what the images of its rows may take


def assign(
  lengths: Lengths,
  *,
  count: int,
  multiple: int,
  num_branches: int,
  max_prefix: int = 0,
  max_branch: int = 0,
  max_positions: int = 0,
  one_room: bool = True,
) -> Buckets:
  """Chooses bucket lengths from the data; samples over the maxima are left
  out of `kept` (the caller reports them).

  Args:
    max_positions: of prefix and longest branch together: what the model was
      made for. 0 is no limit, as for the others.
    one_room: images take as much in every bucket, so that fewer shapes are
      compiled: for layouts in which all have one size.
  """
  fits = lengths.prefix > 0
  if max_positions:
    fits &= lengths.prefix + lengths.branch <= max_positions
  if max_prefix:
    fits &= lengths.prefix <= max_prefix
  if max_branch:
    fits &= lengths.branch <= max_branch
  kept = np.flatnonzero(fits)
  if not len(kept):
    if not (lengths.prefix > 0).any():
      raise UserError(
        "no sample can be used; skipped.jsonl in the run directory gives the "
        "reason for each"
      )
    raise UserError(
      "every sample is too long: the shortest has "
      f"{int((lengths.prefix + lengths.branch)[lengths.prefix > 0].min())} "
      "tokens, image tokens included. Raise config.data.max_prefix and "
      "config.data.max_branch (0: no limit); the model itself has "
      f"{max_positions or 'unlimited'} positions"
    )
  prefix = choose_buckets(lengths.prefix[kept], count, multiple)
  branch = choose_buckets(lengths.branch[kept], count, multiple)
  of = np.stack(
    [
      np.searchsorted(prefix, lengths.prefix),
      np.searchsorted(branch, lengths.branch),
    ],
    axis=1,
  )
  rows = np.array(prefix)[of[kept, 0]]
  rows = rows + num_branches * np.array(branch)[of[kept, 1]]
  real = lengths.prefix[kept] + lengths.scored[kept]
  padding = 1.0 - real.sum() / rows.sum()
  rooms, room = {}, Extent(0, 0)
  for number, length in enumerate(prefix):
    # not less than in shorter ones: the last bucket takes rows of all
    members = kept if one_room else kept[of[kept, 0] == number]
    room = layouts.cover([room, lengths.room(members)])
    rooms[length] = room
  return Buckets(prefix, branch, kept, of, float(padding), rooms)


def report_too_long(
  source: Records,
  lengths: Lengths,
  buckets: Buckets,
  path: str,
  policy: str,
  max_positions: int = 0,
) -> None:
  """Writes the ids and token counts of samples that do not fit.

  Raises:
    UserError: some samples do not fit and the policy is "refuse".
  """
  out = np.setdiff1d(np.flatnonzero(lengths.prefix), buckets.kept)
  if not len(out):
    return
  with files.atomic_write(path) as file:
    for i in out:
      file.write(
        f"{source[i].id}\tprefix {lengths.prefix[i]}\t"
        f"branch {lengths.branch[i]}\n"
      )
  first = source[out[0]].id
  message = (
    f"{len(out)} sample(s) are longer than data.max_prefix, data.max_branch "
    f"or the model's positions, image tokens included; the first is {first!r} "
    f"with {lengths.prefix[out[0]]} + {lengths.branch[out[0]]} tokens; all in "
    f"{path}"
  )
  if policy == "refuse":
    raise UserError(
      f"{message}. Raise the limits (the model's {max_positions or 'own'} "
      "positions are fixed) or set data.on_too_long=drop"
    )
  print(f"left out: {message}")
