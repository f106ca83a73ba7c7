"""HA-DPO: corrected descriptions and yes/no answers about Visual Genome.

    desc_data.json  {image_id, chosen: [...], rejected: [...]}
    pope_data.json  {image_id, question, chosen, reject, correct}

opendatalab/HA-DPO. Descriptions come without a question: one of the four of
its train_dpo.py, by the image's number. The k-th chosen text meets the k-th
rejected one. Rows with "correct": true are left out there and here.
"""

import zlib
from collections.abc import Iterable

from povid_jax.data.formats import answers, base
from povid_jax.data.formats.base import Format, Pick, Row
from povid_jax.data.pairs import Sample

_DESCRIBE = (
  "Describe this image in detail.",
  "Take a look at this image and describe what you notice.",
  "Please provide a detailed description of the picture.",
  "Could you describe the contents of this image for me?",
)


def genome_picture(
  row: Row, pick: Pick, path: object = None
) -> tuple[base.Picture, ...]:
  """The picture of a Visual Genome number, in either of its two folders.

  Args:
    row: with `image_id`.
    pick: chooses among the names.
    path: where the data says it is; often a place on its authors' machine.
  """
  number = base.row_id(base.need(row, "image_id"))
  names = [f"VG_100K/{number}.jpg", f"VG_100K_2/{number}.jpg", f"{number}.jpg"]
  if isinstance(path, str) and path:
    names = [path.lstrip("/"), *names, path.rsplit("/", 1)[-1]]
  return (base.Picture(pick(names)),)


def _samples(row: Row, pick: Pick) -> Iterable[Sample]:
  if row.get("correct") is True:
    return
  images = genome_picture(row, pick)
  number = base.row_id(row["image_id"])
  chosen = base.need(row, "chosen")
  if "reject" in row:
    asked, fields = base.need(row, "question"), ("question", "chosen", "reject")
    yield answers.pair(
      images, asked, chosen, row["reject"], name=number, fields=fields
    )
    return
  rejected = base.need(row, "rejected")
  if not isinstance(chosen, list) or not isinstance(rejected, list):
    raise base.Malformed("chosen and rejected: want two lists of descriptions")
  asked = _DESCRIBE[zlib.crc32(number.encode()) % len(_DESCRIBE)]
  for better, worse in zip(chosen, rejected, strict=False):
    yield answers.pair(images, asked, better, worse, name=number)


def _matches(row: Row) -> bool:
  if "image_id" not in row or "chosen" not in row:
    return False
  lists = isinstance(row["chosen"], list) and isinstance(
    row.get("rejected"), list
  )
  return "reject" in row or lists


FORMAT = Format(
  name="ha_dpo",
  title="HA-DPO",
  keys=("image_id", "chosen", "reject"),
  matches=_matches,
  samples=_samples,
  reads=frozenset(
    {"image_id", "question", "chosen", "rejected", "reject", "correct"}
  ),
)
