"""The input of an injector: samples from JSON or COCO, and their objects."""

import collections
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from povid_jax import files
from povid_jax.data.pairs import Sample
from povid_jax.data.picture import Picture
from povid_jax.data.samples import Layout, read_samples
from povid_jax.errors import UserError
from povid_jax.files import load_json

CAPTIONING, REASONING, VQA = "captioning", "reasoning", "vqa"

_DESCRIBE = re.compile(
  r"\b(describ|descri\w*|elaborate|caption|summari[sz]e|walk me through|explain"
  r" the visual|going on|happening|key elements|photo about|picture about"
  r"|what do you see|can be seen|list the|analy[sz]e)",
  re.I,
)
_REASON = re.compile(
  r"\b(why|might|could|may|reasons?|infer\w*|suggest\w*|purpose|potential|challenges?"
  r"|how can|how does|what factors|explain|what would|should)\b",
  re.I,
)
_COCO_NAME = re.compile(r"(?:COCO_\w+_)?(\d{12})\.\w+$")
_CAPTION_PROMPT = (
  "<image>\nProvide a one-sentence caption for the provided image."
)


@dataclass(frozen=True)
class Item:
  """One sample to work on; `variant` counts several pairs of one sample."""

  key: str
  sample: Sample
  category: str
  variant: int = 0

  @property
  def image(self) -> str:
    """The name by which annotations know the (first) picture."""
    if not self.sample.images:
      return ""
    return image_key(self.sample.images[0].name)

  @property
  def questions(self) -> tuple[str, ...]:
    return tuple(
      turn.replace("<image>", "").strip() for turn in self.sample.turns[::2]
    )

  @property
  def answers(self) -> tuple[str, ...]:
    return self.sample.turns[1::2]


def image_key(name: str) -> str:
  """COCO's pictures are named in several ways; other names stay."""
  match = _COCO_NAME.search(name)
  return match.group(1) if match else name


def classify(sample: Sample) -> str:
  """The sample's own `category`, or what its first question and answers look
  like: captioning, reasoning or vqa."""
  own = sample.extra.get("category")
  if isinstance(own, str) and own:
    return own
  question = sample.turns[0].replace("<image>", "")
  answers = sample.turns[1::2]
  words = sum(len(answer.split()) for answer in answers) / len(answers)
  if re.search(r"\b(reasoning|answer)\s*:", answers[0], re.I):
    return REASONING
  if _REASON.search(question) and words > 12:
    return REASONING
  if _DESCRIBE.search(question) and words > 5:
    return CAPTIONING
  return VQA


def make_items(
  samples: Iterable[Sample],
  per_sample: int = 1,
  categories: Sequence[str] = (),
) -> list[Item]:
  """Samples as items with keys that stay the same when the input grows.

  The key is a hash of id, image and turns; exact duplicates are counted up, so
  that none is lost.
  """
  seen: collections.Counter = collections.Counter()
  items = []
  for sample in samples:
    category = classify(sample)
    if categories and category not in categories:
      continue
    names = [picture.name for picture in sample.images]
    parts = json.dumps([sample.id, names, sample.turns])
    digest = hashlib.blake2b(parts.encode(), digest_size=9).hexdigest()
    copy = seen[digest]
    seen[digest] += 1
    for variant in range(per_sample):
      key = f"{digest}-{copy}-{variant}"
      items.append(Item(key, sample, category, variant))
  return items


def load_samples(
  path: str | Path,
  on_bad: Callable[[UserError], None] | None = None,
  layout: Layout = Layout(),  # noqa: B008, it is frozen
  announce: Callable[[str], object] | None = None,
) -> list[Sample]:
  """Reads samples of any format (povid_jax/data/samples.py) or COCO captions.

  Raises:
    UserError: names the file, the index and the id of a malformed row.
  """
  path = Path(path)
  captions = _coco_document(path)
  if captions is None:
    return read_samples(path, on_bad, layout, announce)
  samples = _from_captions(path, captions, layout.image_dir, on_bad)
  if announce is not None:
    announce(f"{path}: captions of COCO; {len(samples):,} pictures")
  return samples


def _coco_document(path: Path) -> dict | None:
  """The document of a COCO file, None for the other formats."""
  if path.suffix != ".json" or path.is_dir():
    return None
  try:
    with open(path, encoding="utf-8-sig") as file:
      if file.read(64).lstrip()[:1] != "{":
        return None
      file.seek(0)
      document = files.parse_json(file.read())
  except (OSError, ValueError):
    return None  # `read_samples` raises the error
  return document if "annotations" in document else None


def _from_captions(
  path: Path,
  document: dict,
  image_dir: str | None,
  on_bad: Callable[[UserError], None] | None,
) -> list[Sample]:
  """One sample per picture: its first caption."""
  names = _image_names(path, document)
  samples: dict[Any, Sample] = {}
  for i, row in enumerate(_rows(path, document, "annotations")):
    where = f"{path}, annotations[{i}]"
    try:
      image_id, caption = _caption(row, where)
      if image_id not in names:
        raise UserError(f"{where}: image_id {image_id!a} is not in images")
    except UserError as error:
      if on_bad is None:
        raise
      on_bad(error)
      continue
    name = names[image_id]
    samples.setdefault(
      image_id,
      Sample(
        Path(name).stem,
        (Picture(name, image_dir),),
        (_CAPTION_PROMPT, caption),
      ),
    )
  return list(samples.values())


def _caption(row: Any, where: str) -> tuple[Any, str]:
  if not isinstance(row, dict) or not isinstance(row.get("caption"), str):
    raise UserError(
      f"{where}: want an object with image_id and caption (a captions_*.json; "
      "give an instances_*.json with --annotations)"
    )
  if not row["caption"].strip():
    raise UserError(
      f"{where}: the caption is empty; write one, or remove the row"
    )
  image_id = row.get("image_id")
  if not isinstance(image_id, int | str):
    raise UserError(f"{where}: want image_id, a number or a string")
  return image_id, row["caption"].strip()


def _rows(path: Path, document: dict, field: str) -> list:
  rows = document.get(field)
  if not isinstance(rows, list):
    raise UserError(f"{path}: {field} is missing; want COCO's format")
  return rows


def _image_names(path: Path, document: dict) -> dict[Any, str]:
  names = {}
  for i, row in enumerate(_rows(path, document, "images")):
    name = row.get("file_name") if isinstance(row, dict) else None
    image_id = row.get("id") if isinstance(row, dict) else None
    if not isinstance(name, str) or not isinstance(image_id, int | str):
      raise UserError(f"{path}, images[{i}]: want an object {{id, file_name}}")
    names[image_id] = name
  return names


@dataclass(frozen=True)
class Annotations:
  """What COCO says is in the pictures.

  Attributes:
    objects: image key -> names of the categories annotated in it.
    captions: image key -> its reference captions.
    categories: (name, supercategory) of the whole file.
  """

  objects: dict[str, set[str]]
  captions: dict[str, list[str]]
  categories: list[tuple[str, str]]


def load_annotations(paths: Sequence[str | Path]) -> Annotations:
  """Reads instances_*.json and captions_*.json files of COCO.

  Raises:
    UserError: a row is not in COCO's format; the message names the file and the
      row.
  """
  result = Annotations({}, collections.defaultdict(list), [])
  for path in map(Path, paths):
    document = _load_json(path)
    names = _image_names(path, document)
    kinds = _category_names(path, document, result)
    if kinds:
      for name in names.values():
        result.objects.setdefault(image_key(name), set())
    for i, row in enumerate(_rows(path, document, "annotations")):
      _annotate(result, f"{path}, annotations[{i}]", row, names, kinds)
  return result


def _load_json(path: Path) -> dict:
  document = load_json(path)
  if not isinstance(document, dict):
    raise UserError(f"{path}: want an object in COCO's format")
  return document


def _category_names(
  path: Path, document: dict, result: Annotations
) -> dict[Any, str]:
  kinds = {}
  rows = _rows(path, document, "categories") if "categories" in document else ()
  for i, row in enumerate(rows):
    row = row if isinstance(row, dict) else {}
    name, number = row.get("name"), row.get("id")
    group = row.get("supercategory") or name
    if (
      not isinstance(name, str)
      or not isinstance(group, str)
      or not isinstance(number, int | str)
      or not name.strip()
    ):
      raise UserError(f"{path}, categories[{i}]: want an object {{id, name}}")
    kinds[number] = name
    result.categories.append((name, group))
  return kinds


def _annotate(
  result: Annotations,
  where: str,
  row: Any,
  names: dict[Any, str],
  kinds: dict[Any, str],
) -> None:
  try:
    name = image_key(names[row["image_id"]])
    if "caption" in row:
      result.captions[name].append(str(row["caption"]))
    else:
      result.objects.setdefault(name, set()).add(kinds[row["category_id"]])
  except (TypeError, KeyError) as error:
    raise UserError(
      f"{where}: want a known image_id and a known category_id or a caption"
    ) from error
