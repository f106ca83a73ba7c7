"""Preference samples, and the released JSON format in which we write them.

A list in a .json file or one object per line in a .jsonl file:

    {"id": "a", "image": "a.jpg",
     "conversations": [{"from": "human", "value": "<image>\\nDescribe it."},
                       {"from": "gpt", "value": "A dog."}],
     "rejected_conversations": [...same human turns...]}

`image` may be a list of names, or absent. Other keys are kept. How this and
other people's formats are read: povid_jax/data/samples.py.
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from povid_jax.data.picture import Picture
from povid_jax.data.records import Record, Rejected
from povid_jax.errors import UserError
from povid_jax.files import atomic_write

ROLES = ("human", "gpt")


@dataclasses.dataclass(frozen=True)
class Sample:
  """One row: turns alternate between human and gpt, and the last is an answer.

  Attributes:
    id: need not be unique.
    images: the pictures of the <image> marks in the human turns, in order.
      A name becomes a picture file whose folder is not known yet.
    turns: question and answer in turn; the correct answers.
    rejected: the same questions with dispreferred answers, or None.
    extra: every other key of the row.
    system: the system prompt, if the data has its own.
    context: the last answer so far, without the blank before what follows; the
      last turn of `turns` and of `rejected` is what follows it.
    end_scored: whether the answer ends with the last turn, so that </s> is
      scored; None: where there is no context.
    rejected_weight: of each token of `rejected`.
    more_rejected: other rejected answers to the same question (and context),
      whole conversations like `rejected`.
    more_chosen: other chosen answers to it, whole conversations like `turns`,
      where pairs of one question have been joined (`Rejected.of`).
  """

  id: str
  images: tuple[Picture, ...]
  turns: tuple[str, ...]
  rejected: tuple[str, ...] | None = None
  extra: dict[str, Any] = dataclasses.field(default_factory=dict)
  system: str | None = None
  context: str = ""
  end_scored: bool | None = None
  rejected_weight: float = 1.0
  more_rejected: tuple[Rejected, ...] = ()
  more_chosen: tuple[tuple[str, ...], ...] = ()

  @property
  def every_chosen(self) -> tuple[tuple[str, ...], ...]:
    """All chosen answers, as `Rejected.of` counts them."""
    return (self.turns, *self.more_chosen)

  def __post_init__(self) -> None:
    images: tuple[Picture | str, ...] = self.images
    named = tuple(Picture(x) if isinstance(x, str) else x for x in images)
    object.__setattr__(self, "images", named)

  def within(self, folder: str | Path | None) -> "Sample":
    """The same sample, its files in that folder."""
    where = None if folder is None else str(folder)
    images = tuple(dataclasses.replace(p, folder=where) for p in self.images)
    return dataclasses.replace(self, images=images)


def _beside(sample: Sample) -> dict[str, Any]:
  """The keys beside a pair (formats/context.py); none for a plain one."""
  row: dict[str, Any] = {}
  if sample.context:
    row["context"] = sample.context
  if sample.end_scored is not None:
    row["end_scored"] = sample.end_scored
  if sample.rejected_weight != 1.0:
    row["rejected_weight"] = sample.rejected_weight
  if sample.more_rejected:
    row["more_rejected"] = [
      {"conversations": _turns(more.turns), "weight": more.weight}
      for more in sample.more_rejected
    ]
  return row


def _turns(turns: Sequence[str]) -> list[dict[str, str]]:
  return [{"from": ROLES[i % 2], "value": turn} for i, turn in enumerate(turns)]


def to_json(sample: Sample) -> dict[str, Any]:
  """The sample as the JSON object of the released format."""

  def rows(turns: Sequence[str]) -> list[dict[str, str]]:
    if sample.system is None:
      return _turns(turns)
    return [{"from": "system", "value": sample.system}, *_turns(turns)]

  row: dict[str, Any] = {"id": sample.id}
  if names := [picture.name for picture in sample.images]:
    row["image"] = names[0] if len(names) == 1 else names
  row["conversations"] = rows(sample.turns)
  if sample.rejected is not None:
    row["rejected_conversations"] = rows(sample.rejected)
  return row | _beside(sample) | sample.extra


def dump(row: dict[str, Any]) -> str:
  """One line of JSON; characters stay as they are where UTF-8 has them."""
  text = json.dumps(row, ensure_ascii=False)
  try:
    text.encode()
  except UnicodeEncodeError:  # a lone surrogate, in a key that is only copied
    return json.dumps(row)
  return text


def pictures_folder(path: str | Path) -> Path:
  """Where `write_samples` puts pictures that are not files of their own."""
  path = Path(path)
  return path.with_name(f"{path.stem}.images")


_ENDINGS = {b"\xff\xd8": ".jpg", b"\x89P": ".png", b"RI": ".webp"}


def save_picture(picture: Picture, folder: Path) -> Picture:
  """Writes a picture into a folder under a name made of its content.

  Raises:
    UserError: the picture cannot be read, or the folder cannot be written to.
  """
  data = picture.read()
  name = hashlib.blake2b(data, digest_size=12).hexdigest()
  name += _ENDINGS.get(data[:2], ".img")
  if not (folder / name).exists():
    with atomic_write(folder / name, "wb") as file:
      file.write(data)
  return Picture(name, str(folder))


def with_files(samples: Iterable[Sample], folder: Path) -> list[Sample]:
  """The samples with every picture in a file of its own.

  Pictures of tables are written into `folder`, and so are the others then:
  what names them knows one folder only. Without such pictures nothing is
  written.
  """
  samples = list(samples)
  if all(picture.is_file for s in samples for picture in s.images):
    return samples
  return [in_folder(sample, folder) for sample in samples]


def in_folder(sample: Sample, folder: Path) -> Sample:
  """The sample, its pictures written into a folder; see `save_picture`."""
  images = tuple(save_picture(picture, folder) for picture in sample.images)
  return dataclasses.replace(sample, images=images)


def write_samples(path: str | Path, samples: Iterable[Sample]) -> None:
  """Writes a .jsonl or (any other name) a JSON list, whole or not at all.

  Pictures that came out of a table are written beside it, into the folder
  `pictures_folder(path)`, where every command looks for them.
  """
  path = Path(path)
  samples = with_files(samples, pictures_folder(path))
  with atomic_write(path) as file:
    if path.suffix == ".jsonl":
      for sample in samples:
        file.write(dump(to_json(sample)) + "\n")
      return
    file.write("[")
    for i, sample in enumerate(samples):
      file.write((",\n" if i else "\n") + dump(to_json(sample)))
    file.write("\n]\n")


def split_turns(
  sample: Sample,
) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...] | None]:
  """Splits a sample into the common prompt and the two answers.

  Turns q1 a1 q2 a2 against q1 a1 q2 b2 give
  prompt (q1, a1, q2), chosen (a2,), rejected (b2,).

  Returns:
    (prompt, chosen, rejected). The prompt ends with a human turn: the last one
    before the conversations part, or the first one of all if there is nothing
    rejected. The answers start with a gpt turn. Two equal conversations part at
    their last answer. Of several rejected answers the first to part counts:
    each has the turns from `len(prompt)` on.
  """
  turns, rejected = sample.turns, sample.rejected
  if rejected is None:
    return turns[:1], turns[1:], None
  cut = len(turns) - 1
  every = [rejected, *(more.turns for more in sample.more_rejected)]
  for i in range(1, len(turns), 2):
    if any(turns[i] != other[i] for other in every):
      cut = i
      break
  return turns[:cut], turns[cut:], rejected[cut:]


def label(value: object) -> str:
  """An extra field as text: a string as it is, anything else as JSON."""
  if value is None:
    return ""
  if not isinstance(value, str):
    return json.dumps(value, sort_keys=True)
  # JSON may hold half a surrogate pair, which UTF-8 may not.
  return value.encode("utf-8", "replace").decode()


def to_record(
  sample: Sample,
  images: tuple[bytes, ...],
  noisy: bytes | None = None,
  step: int = -1,
  seed: int = 0,
) -> Record:
  """The record of a sample and its encoded pictures.

  Args:
    sample: its turns part where the record's prompt ends.
    images: of `sample.images`.
    noisy, step, seed: of the stored noisy picture, if there is one.
  """
  prompt, chosen, rejected = split_turns(sample)
  return Record(
    id=sample.id,
    images=images,
    image_noisy=noisy,
    noise_step=step,
    noise_seed=seed,
    prompt_turns=prompt,
    chosen=chosen,
    rejected=rejected or (),
    category=label(sample.extra.get("category")),
    injector=label(sample.extra.get("injector")),
    context=sample.context,
    end_scored=sample.end_scored,
    rejected_weight=sample.rejected_weight,
    more_rejected=tuple(
      dataclasses.replace(more, turns=more.turns[len(prompt) :])
      for more in sample.more_rejected
    ),
    system=sample.system or "",
    more_chosen=tuple(turns[len(prompt) :] for turns in sample.more_chosen),
  )


def noisy_pictures(sample: Sample) -> tuple[Picture, ...]:
  """The distorted pictures that a sample brings with it, or ().

  Raises:
    UserError: `image_noisy` has neither one name, for the first picture, nor
      one for each picture.
  """
  named, count = sample.extra.get("image_noisy"), len(sample.images)
  if named is None:
    return ()
  names = named if isinstance(named, list) else [named]
  if not names or not all(n and isinstance(n, str) for n in names):
    raise UserError(f"image_noisy is {named!r:.40}; want a file name")
  if len(names) not in (1, count):
    raise UserError(
      f"{len(names)} names in image_noisy and {count} image(s); want one name "
      "for the first picture, or one for each picture"
    )
  folder = sample.images[0].folder if sample.images else None
  return tuple(Picture(name, folder) for name in names)
