"""MMPR: InternVL's preference data, one .jsonl per source.

    {image, question: "<image>\\n...", chosen, rejected, answer_gt, image_wh}

OpenGVLab/MMPR-v1.2. `image` may be a list. meta.json names the files and the
folder of each one's pictures.
"""

import dataclasses

from povid_jax.data.formats import answers, base, spa_vl
from povid_jax.data.formats.base import Row


def _matches(row: Row) -> bool:
  return answers.matches(row) and (
    base.IMAGE in row["question"]
    or bool(row.keys() & {"answer_gt", "image_wh", "meta"})
  )


FORMAT = dataclasses.replace(
  spa_vl.FORMAT, name="mmpr", title="MMPR", matches=_matches
)
