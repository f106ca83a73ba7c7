"""SENTINEL: one sentence better and worse, after the answer so far.

    .jsonl  {image_id, image_path, question, context, y_win, y_lose, type}
    .json   {image_id: [{question, context, y_win, y_lose, type}]}

The files for LLaMA-Factory have that one's layout (llama_factory.py).

pspdada/SENTINEL, train/models/llava_utils/data.py: pictures of Visual Genome
by number, context and sentence joined by a space, `win` and `lose` as other
spellings.
"""

from collections.abc import Iterable

from povid_jax.data.formats import answers, base, context, ha_dpo
from povid_jax.data.formats.base import Format, Pick, Row
from povid_jax.data.pairs import Sample


def _samples(row: Row, pick: Pick) -> Iterable[Sample]:
  if "image_id" in row:
    images = ha_dpo.genome_picture(row, pick, row.get("image_path"))
  else:
    images = base.pictures(row.get("image_path"), "image_path", pick)
  better = "y_win" if "y_win" in row else "win"
  worse = "y_lose" if "y_lose" in row else "lose"
  sample = answers.pair(
    images,
    base.need(row, "question"),
    base.need(row, better),
    base.need(row, worse),
    name=base.row_id(row.get("image_id")),
    fields=("question", better, worse),
  )
  yield context.after(sample, row.get("context"))


def _matches(row: Row) -> bool:
  return any(
    base.is_text(row, "question", *names)
    for names in (("y_win", "y_lose"), ("win", "lose"))
  )


FORMAT = Format(
  name="sentinel",
  title="SENTINEL",
  keys=("image_id", "question", "context", "y_win", "y_lose"),
  matches=_matches,
  samples=_samples,
  reads=frozenset(
    {"image_id", "image_path", "question", "context"}
    | {"y_win", "y_lose", "win", "lose"}
  ),
)
