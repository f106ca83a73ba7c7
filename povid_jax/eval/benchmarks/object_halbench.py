"""Object HalBench: objects that detailed descriptions invent, 300 pictures.

Rohrbach et al.'s pictures and truth (COCO instances and captions) with eight
prompts for detailed descriptions, as RLHF-V (arXiv 2312.00849) evaluates them.

  response  answers with an invented object / answers that name a COCO object
  mention   invented mentions / mentions of COCO objects
  recall    objects of the pictures that are named / objects
  objects, length   mentions and words per answer

Both rates come with recall, because a model that writes less invents less.

Who finds the objects in an answer decides the numbers, so it is pinned and
printed with them:

* "words": CHAIR's reading of the answer itself (chair_words.py), every mention
  counted. No downloads and no cost. It also counts what an answer supposes
  ("there may be a car nearby").
* "judge", with --judge-model: a language model lists the objects that the
  answer says are visible, as the original does with gpt-3.5-turbo-0613; each
  object counts once, and answers of at most three words name none. The original
  reads the list with spaCy's en_core_web_trf and WordNet, we with
  chair_words.py.
"""

import base64
import binascii
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from povid_jax.data.picture import in_folder
from povid_jax.data.questions import Question
from povid_jax.errors import UserError
from povid_jax.eval import judge as judges
from povid_jax.eval import needs
from povid_jax.eval.benchmarks import caption_flags, chair, chair_words, coco
from povid_jax.eval.benchmarks.chair_words import Vocabulary
from povid_jax.eval.protocol import (
  Answers,
  Benchmark,
  Column,
  Metrics,
  Need,
  Options,
  Scored,
  Totals,
  ratio,
)
from povid_jax.files import atomic_write

COUNT = 300
FILE = "obj_halbench*.jsonl"
VERSION = "object_halbench-1"
MAX_TOKENS = 512
SHORT = 3  # words of an answer in which the judge looks for nothing
_PICTURES = "object_halbench_images"


def questions(data: Path, options: Options) -> list[Question]:
  """One question per line; the id is the number of the line, from 0."""
  path = sorted(data.glob(FILE))[0]
  rows = list(needs.read_jsonl(path))
  if len(rows) != COUNT and options.limit is None:
    raise UserError(
      f"{path}: {len(rows)} questions, want {COUNT} (--limit=N for a part)"
    )
  found = coco.read_instances(sorted(data.glob(coco.INSTANCES.pattern)))
  folder = needs.image_folder(data, options)
  return [
    _question(path, number, row, found, folder, options)
    for number, row in enumerate(rows[: options.limit])
  ]


def _question(
  path: Path,
  number: int,
  row: dict[str, Any],
  found: coco.Instances,
  folder: Path,
  options: Options,
) -> Question:
  for name in ("image_id", "question"):
    needs.field(row, name, path, number + 1)
  image_id = chair.row_id({"image_id": row["image_id"]})
  image_id = int(image_id) if str(image_id).isdigit() else image_id
  if image_id not in found.files:
    raise UserError(
      f"{path}: entry {number + 1}: image {row['image_id']!r} is not in the "
      "instances; want those of COCO 2014, train and val"
    )
  cell = str(row.get("image", ""))
  inside = len(cell) > 255  # longer than any file name: the picture itself
  picture = (
    (options.out or path.parent) / _PICTURES / f"{number}.jpg"
    if inside
    else in_folder(folder, cell or found.files[image_id])
  )
  return Question(
    number,
    (picture,),
    options.prompt or row["question"].replace("<image>", "").strip(),
    {
      "image_id": image_id,
      "objects": sorted(set(found.objects[image_id])),
      "categories": found.categories,
      "picture": cell if inside else None,
    },
  )


def prepare(out: Path, questions: Sequence[Question], options: Options) -> None:
  """Decodes the pictures that the file holds itself."""
  for question in questions:
    cell, path = question.extra["picture"], question.images[0]
    if cell is None or not isinstance(path, Path) or path.exists():
      continue
    try:
      data = base64.b64decode(cell, validate=True)
    except (ValueError, binascii.Error) as error:
      raise UserError(
        f"object_halbench: question {question.question_id}: its image is not "
        "base64 text; check that the download is complete"
      ) from error
    with atomic_write(path, "wb") as file:
      file.write(data)


def score(
  data: Path, questions: Sequence[Question], answers: Answers, options: Options
) -> Scored:
  """Finds the objects of every answer; a unit is a picture."""
  scored = Scored()
  categories = questions[0].extra["categories"] if questions else []
  words = caption_flags.settings(options.extra)
  vocabulary = chair_words.load(
    words["synonyms"], words["singular"], options.clean_rules, categories
  )
  vocabulary.keep(categories)
  ids = {q.extra["image_id"] for q in questions}
  references = coco.read_captions(data.glob(coco.CAPTIONS.pattern), ids)
  named = _named(questions, answers, vocabulary, options, scored)
  pairs = zip(questions, answers, named, strict=True)
  for question, answer, objects in pairs:
    captions = references.get(question.extra["image_id"], ())
    truth = chair.objects_of(question, captions, vocabulary)
    _count(scored, question, answer or "", objects, truth)
  return scored


def _named(
  questions: Sequence[Question],
  answers: Answers,
  vocabulary: Vocabulary,
  options: Options,
  scored: Scored,
) -> list[list[str]]:
  """The objects that each answer names, by the extractor that was chosen."""
  judge: judges.Judge | None = options.extra.get("judge")
  words = caption_flags.settings(options.extra)
  table = "original" if words["synonyms"] else "own"
  if judge is None or not judge.server.model:
    extractor = f"words, {table} table, singular={words['singular']}"
    scored.settings["extractor"] = extractor
    scored.notes.append(
      f"objects by {extractor}; the published numbers come from a language "
      "model (--judge-model), so compare only results of this extractor"
    )
    return [
      [mention.object for mention in vocabulary.mentions(answer or "")]
      for answer in answers
    ]
  prompt = judges.load_prompt(judge, "object_halbench", VERSION)
  judges.record(scored, judge, prompt)
  extractor = f"judge {judge.server.model}, prompt {prompt.version}, {table}"
  scored.settings["extractor"] = extractor
  asked = [
    (str(q.question_id), _messages(prompt, q, answer or ""))
    for q, answer in zip(questions, answers, strict=True)
    if len((answer or "").split()) > SHORT
  ]
  verdicts = judges.settle(
    judge,
    "object_halbench",
    [judges.Task(key, messages) for key, messages in asked],
    read_list,
    (0.0, 0.5, 1.0),
    MAX_TOKENS,
  )
  unread = sum(verdicts[key].value is None for key, _ in asked)
  if unread:
    raise UserError(
      f"object_halbench: {unread} replies of the judge contain no JSON list "
      "of objects after three attempts; try another --judge-model"
    )
  found = []
  for question in questions:
    verdict = verdicts.get(str(question.question_id))
    listed = verdict.value if verdict is not None else []
    mentions = [m for text in listed for m in vocabulary.mentions(text)]
    # a word counts once; two words of one object count twice, as there
    once = {mention.word: mention.object for mention in mentions}
    found.append(list(once.values()))
  return found


def _messages(prompt: judges.Prompt, question: Question, answer: str) -> Any:
  values = {"question": question.text, "answer": answer}
  content = judges.fill(prompt, values)
  return lambda attempt: [{"role": "user", "content": content}]


def read_list(reply: str) -> list[str] | None:
  """The last JSON list of texts in a reply, or None."""
  decoder = json.JSONDecoder()
  found = None
  at = reply.find("[")
  while at >= 0:
    try:
      value, end = decoder.raw_decode(reply, at)
    except ValueError:
      end = at + 1
    else:
      if all(isinstance(name, str) for name in value):
        found = value
    at = reply.find("[", end)
  return found


def _count(
  scored: Scored,
  question: Question,
  answer: str,
  objects: Sequence[str],
  truth: set[str],
) -> None:
  wrong = [name for name in objects if name not in truth]
  scored.count(
    question.extra["image_id"],
    {
      "response/n": bool(objects),
      "response/wrong": bool(wrong),
      "mention/n": len(objects),
      "mention/wrong": len(wrong),
      "recall/n": len(truth),
      "recall/seen": len(truth & set(objects)),
      "n": 1,
      "words": len(answer.split()),
    },
  )
  scored.verdicts.append(
    {
      "question_id": question.question_id,
      "unit": str(question.extra["image_id"]),
      "correct": not wrong,
      "named": list(objects),
      "hallucinated": wrong,
      "objects": sorted(truth),
    }
  )


def metrics(totals: Totals, options: Options) -> Metrics:
  """See the module's text."""
  yield "response", ratio(totals["response/wrong"], totals["response/n"])
  yield "mention", ratio(totals["mention/wrong"], totals["mention/n"])
  yield "recall", ratio(totals["recall/seen"], totals["recall/n"])
  yield "objects", ratio(totals["mention/n"], totals["n"])
  yield "length", ratio(totals["words"], totals["n"])


BENCHMARK = Benchmark(
  name="object_halbench",
  title="Object HalBench",
  flags=caption_flags.FLAGS,
  needs=(
    Need(FILE, "https://github.com/RLHF-V/RLHF-V (its evaluation data)"),
    coco.INSTANCES,
    coco.CAPTIONS,
  ),
  questions=questions,
  score=score,
  metrics=metrics,
  columns=(
    Column("response", "Resp"),
    Column("mention", "Ment"),
    Column("recall", "Recall"),
    Column("objects", "Objects", 1.0),
    Column("length", "Length", 1.0),
  ),
  missing="skip",
  prepare=prepare,
)
