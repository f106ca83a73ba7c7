"""Answers of the model to a few pictures of its data, while it trains."""

import json
from pathlib import Path

from ml_collections import ConfigDict

from povid_jax import files, progress
from povid_jax.data.picture import Picture
from povid_jax.data.questions import Question
from povid_jax.errors import UserError
from povid_jax.generate import answering
from povid_jax.generate.decode import Decoding
from povid_jax.training import build

COUNT = 3  # records that are asked
_TOKENS = 128


class Samples:
  """Generates answers to the first records, every `log.samples` steps.

  Answers go to WORKDIR/samples.jsonl ({"step", "id", "prompt", "text"}) and, in
  short, to standard output. Decoding is greedy, so that answers differ only
    because the model changed.
  """

  def __init__(self, config: ConfigDict, workdir: Path, data: build.Data):
    self._every = config.log.samples
    self._path = workdir / "samples.jsonl"
    self._questions = _questions(data) if self._every else []

  def due(self, number: int) -> bool:
    """Whether answers are due before step `number`."""
    return bool(self._questions) and number % self._every == 0

  def ask(self, policy: answering.Policy, number: int) -> None:
    """Generates the answers, prints them and appends them to the file.

    Raises:
      UserError: a picture that cannot be read.
    """
    how = Decoding(max_new_tokens=_TOKENS, batch_size=COUNT)
    rows = answering.answer(policy, self._questions, how)
    files.ensure_parent(self._path)
    with open(self._path, "a", encoding="utf-8") as file:
      for row in rows:
        kept = {"step": number, "id": row["question_id"],
                "prompt": row["prompt"], "text": row["text"]}  # fmt: skip
        file.write(json.dumps(kept, ensure_ascii=False) + "\n")
        progress.say(f"step {number}  {row['question_id']}: {row['text']}")


def _questions(data: build.Data) -> list[Question]:
  """One question per record, from the first readable records with one turn."""
  found: list[Question] = []
  for index in data.buckets.kept[: 20 * COUNT].tolist():
    try:
      record = data.source[index]
    # training skips this record or stops at it, and reports it then
    except UserError:
      continue
    if len(record.prompt_turns) == 1 and len(found) < COUNT:
      images = tuple(
        Picture(f"{record.id}#{i}", data=image)
        for i, image in enumerate(record.images)
      )
      text = record.prompt_turns[0].replace("<image>", "").strip()
      found.append(Question(record.id, images, text))
  return found
