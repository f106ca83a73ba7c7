"""A preference record and its form as a tf.train.Example."""

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import TypeVar, cast

from povid_jax.data import example
from povid_jax.errors import UserError

T = TypeVar("T")
# Features that only some records have, and their kinds.
OPTIONAL = {
  "context": "text",
  "end_scored": "int64",
  "more_rejected": "text",
  "more_rejected_turns": "int64",
  "more_chosen": "text",
  "more_chosen_turns": "int64",
  "rejected_of": "int64",
  "rejected_weight": "float32",
  "system": "text",
}
# Features that writers may leave out: those of a list that may be empty.
_LISTS = (
  "image",
  "image_noisy",
  "rejected",
  *OPTIONAL,
)


@dataclasses.dataclass(frozen=True)
class Rejected:
  """One more rejected answer to the same prompt.

  Attributes:
    turns: as `Record.rejected`.
    weight: multiplies the log-prob of each of its tokens.
    of: number of the chosen answer that it makes a pair with; 0: `chosen`,
      others are in `more_chosen`.
  """

  turns: tuple[str, ...]
  weight: float = 1.0
  of: int = 0


@dataclasses.dataclass(frozen=True)
class Record:
  """A preference pair with its encoded pictures; `rejected` may be ().

  Attributes:
    context: the answer so far; chosen and rejected go on from there. It is
      read and not scored.
    end_scored: whether the end of the answer (</s>) follows the last turn and
      is scored; None: where there is no context.
    rejected_weight: multiplies the log-prob of each token of `rejected`.
    more_rejected: other rejected answers, beside `rejected`.
    more_chosen: other chosen answers, beside `chosen`, of pairs of the same
      question; `rejected` is compared with `chosen`.
    system: the system's words in place of the template's; "": none.
  """

  id: str
  images: tuple[bytes, ...]
  image_noisy: bytes | None
  noise_step: int  # -1: none stored
  noise_seed: int  # 63 bit
  prompt_turns: tuple[str, ...]
  chosen: tuple[str, ...]
  rejected: tuple[str, ...]
  category: str
  injector: str
  context: str = ""
  end_scored: bool | None = None
  rejected_weight: float = 1.0
  more_rejected: tuple[Rejected, ...] = ()
  system: str = ""
  more_chosen: tuple[tuple[str, ...], ...] = ()

  @property
  def every_rejected(self) -> tuple[Rejected, ...]:
    """All rejected answers; () where there are none."""
    first = Rejected(self.rejected, self.rejected_weight)
    return (first, *self.more_rejected) if self.rejected else ()

  @property
  def every_chosen(self) -> tuple[tuple[str, ...], ...]:
    """All chosen answers, as `Rejected.of` counts them."""
    return (self.chosen, *self.more_chosen)

  def by_chosen(self) -> list["Record"]:
    """A record for each chosen answer, with the rejected ones of its pairs."""
    found = []
    for number, chosen in enumerate(self.every_chosen):
      own = [one for one in self.every_rejected if one.of == number]
      first, *others = own or [Rejected(())]
      made = dataclasses.replace(
        self,
        id=f"{self.id}-c{number + 1}" if number else self.id,
        chosen=chosen,
        rejected=first.turns,
        rejected_weight=first.weight,
        more_rejected=tuple(dataclasses.replace(o, of=0) for o in others),
        more_chosen=(),
      )
      found.append(made)
    return found

  @property
  def scores_end(self) -> bool:
    """Whether the last turn ends with </s>, and this is scored."""
    return not self.context if self.end_scored is None else self.end_scored


def encode(record: Record) -> bytes:
  """A record as a serialised tf.train.Example, the same bytes every time.

  Raises:
    UserError: a text is not valid Unicode (half a surrogate pair).
  """

  def texts(values: Sequence[str]) -> list[bytes]:
    try:
      return [value.encode() for value in values]
    except UnicodeEncodeError as error:
      raise UserError(f"record {record.id!a}: {error}; want Unicode") from error

  noisy = record.image_noisy
  return example.encode_example(
    {
      "id": texts([record.id]),
      "image": record.images,
      "image_noisy": [] if noisy is None else [noisy],
      "noise_step": [int(record.noise_step)],
      "noise_seed": [int(record.noise_seed)],
      "prompt_turns": texts(record.prompt_turns),
      "chosen": texts(record.chosen),
      "rejected": texts(record.rejected),
      "category": texts([record.category]),
      "injector": texts([record.injector]),
      **_optional(record, texts),
    }
  )


def optional(record: Record) -> frozenset[str]:
  """The names of OPTIONAL that a record has."""
  return frozenset(_optional(record, lambda values: [b"" for _ in values]))


def _optional(
  record: Record, texts: Callable[[Sequence[str]], list[bytes]]
) -> dict[str, example.Values]:
  """Features that only some records have.

  A plain pair has none of them, so its bytes are the same in every version.
  """
  found: dict[str, example.Values] = {}
  if record.system:
    found["system"] = texts([record.system])
  if record.context:
    found["context"] = texts([record.context])
  if record.end_scored is not None:
    found["end_scored"] = [int(record.end_scored)]
  others = record.more_rejected
  weights = [float(answer.weight) for answer in record.every_rejected]
  if any(weight != 1.0 for weight in weights):
    found["rejected_weight"] = weights
  if others:
    turns = [turn for answer in others for turn in answer.turns]
    found["more_rejected"] = texts(turns)
    found["more_rejected_turns"] = [len(answer.turns) for answer in others]
  if record.more_chosen:
    turns = [turn for answer in record.more_chosen for turn in answer]
    found["more_chosen"] = texts(turns)
    found["more_chosen_turns"] = [len(answer) for answer in record.more_chosen]
    found["rejected_of"] = [answer.of for answer in record.every_rejected]
  return found


def _take(
  features: dict[str, example.Values], name: str, kind: type[T]
) -> Sequence[T]:
  if name not in features:
    raise ValueError(f"feature {name} is missing")
  values = features[name]
  if any(not isinstance(value, kind) for value in values):
    raise ValueError(f"feature {name}: want a list of {kind.__name__}")
  return cast(Sequence[T], values)


def _one(features: dict[str, example.Values], name: str, kind: type[T]) -> T:
  values = _take(features, name, kind)
  if len(values) != 1:
    raise ValueError(f"feature {name} has {len(values)} values, want one")
  return values[0]


def parse(data: bytes) -> Record:
  """A serialised Example as a record; ValueError for wrong features."""
  features = example.decode_example(data)
  # Writers may leave empty lists out altogether.
  optional = dict.fromkeys(_LISTS, ())
  features = optional | features

  def text(name: str) -> str:
    return _one(features, name, bytes).decode()

  def texts(name: str) -> tuple[str, ...]:
    return tuple(v.decode() for v in _take(features, name, bytes))

  def at_most_one(name: str, kind: type[T]) -> T | None:
    return _one(features, name, kind) if features[name] else None

  noisy = at_most_one("image_noisy", bytes)
  end_scored = at_most_one("end_scored", int)
  weights = _take(features, "rejected_weight", float)
  several = lambda name: _split(
    name, texts(name), _take(features, f"{name}_turns", int)
  )
  others, more_chosen = several("more_rejected"), several("more_chosen")
  if len(weights) not in (0, 1 + len(others)):
    raise ValueError(
      f"feature rejected_weight has {len(weights)} values, want one for each "
      f"of {1 + len(others)} rejected answers"
    )
  weights = weights or [1.0] * (1 + len(others))
  of = _take(features, "rejected_of", int) or [0] * (1 + len(others))
  if (
    len(of) != 1 + len(others)
    or of[0] != 0
    or not all(0 <= number <= len(more_chosen) for number in of)
  ):
    raise ValueError(
      f"feature rejected_of is {list(of)}, want for each of {1 + len(others)} "
      f"rejected answers one of {1 + len(more_chosen)} chosen ones, the first 0"
    )
  return Record(
    id=text("id"),
    images=tuple(_take(features, "image", bytes)),
    image_noisy=noisy,
    noise_step=_one(features, "noise_step", int),
    noise_seed=_one(features, "noise_seed", int),
    prompt_turns=texts("prompt_turns"),
    chosen=texts("chosen"),
    rejected=texts("rejected"),
    category=text("category"),
    injector=text("injector"),
    context=(at_most_one("context", bytes) or b"").decode(),
    end_scored=None if end_scored is None else bool(end_scored),
    rejected_weight=weights[0],
    more_rejected=tuple(map(Rejected, others, weights[1:], of[1:])),
    more_chosen=tuple(more_chosen),
    system=(at_most_one("system", bytes) or b"").decode(),
  )


def _split(
  name: str, turns: tuple[str, ...], sizes: Sequence[int]
) -> list[tuple[str, ...]]:
  """Turns of several answers, one after the other, to one tuple for each."""
  if min(sizes, default=1) < 1 or sum(sizes) != len(turns):
    raise ValueError(
      f"feature {name} has {len(turns)} turns, {name}_turns counts "
      f"{list(sizes)}"
    )
  ends = list(itertools.accumulate(sizes))
  return [turns[end - n : end] for n, end in zip(sizes, ends, strict=True)]


def decode(data: bytes) -> Record:
  """Parses what `encode` or TensorFlow wrote.

  Raises:
    UserError: the bytes are not a preference record.
  """
  try:
    return parse(data)
  except ValueError as error:
    raise UserError(f"not a preference record: {error}") from error
