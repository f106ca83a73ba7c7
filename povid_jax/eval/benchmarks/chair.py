"""CHAIR: objects that a caption names and the picture does not hold.

Rohrbach et al., arXiv 1809.02156. An object is in a picture if COCO annotates
an instance of it or one of COCO's reference captions names it.

  CHAIRs   captions with at least one hallucinated object / captions
  CHAIRi   hallucinated mentions / mentions, over the corpus, with repetition
  recall   objects of the pictures that captions name / objects, over the corpus
  objects_per_caption   mentions (repetition counted) per caption
  length   words (cut at white space) per caption

How captions are read is in chair_words.py. As in the authors' recipe (LURE
tool/to_chair.py), empty captions are left out; with --clean-rules they count as
captions that name nothing. The original stops with ZeroDivisionError when no
caption names any object; here CHAIRi is 0 then.
"""

import random
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from povid_jax import progress
from povid_jax.data.picture import in_folder
from povid_jax.data.questions import Question
from povid_jax.errors import UserError
from povid_jax.eval import needs, protocol
from povid_jax.eval.benchmarks import caption_flags, chair_words, coco
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

PROMPT = "Describe this image."  # the authors' povid_infer.py


def questions(data: Path, options: Options) -> list[Question]:
  """One question per picture: those of questions.jsonl, else all annotated.

  With a limit, that many pictures are drawn with the seed.
  """
  found = coco.read_instances(_files(data, coco.INSTANCES, options))
  folder = needs.image_folder(data, options)
  prompts = _chosen(data / "questions.jsonl", found)
  ids = list(prompts) if prompts else sorted(found.files)
  if options.limit is not None and options.limit < len(ids):
    ids = sorted(random.Random(options.seed).sample(ids, options.limit))
  return [
    Question(
      image_id,
      (in_folder(folder, found.files[image_id]),),
      options.prompt or prompts.get(image_id, PROMPT),
      {
        "objects": sorted(set(found.objects[image_id])),
        "categories": found.categories,
        "aliases": _names_of(found.files[image_id]),
      },
    )
    for image_id in ids
  ]


def _files(data: Path, need: Need, options: Options) -> list[Path]:
  """Annotation files: all of them together, or those of one split."""
  files = sorted(data.glob(need.pattern))
  if options.split is None:
    return files
  wanted = data / need.pattern.replace("*", options.split)
  if wanted not in files:
    raise UserError(f"chair: no {wanted.name} in {data} for that split")
  return [wanted]


def _names_of(file_name: str) -> tuple[str, ...]:
  """Other ids under which answers name a picture: its file, with and without
  folder and ending."""
  path = Path(file_name)
  return tuple(dict.fromkeys((file_name, path.name, path.stem)))


def _chosen(path: Path, found: coco.Instances) -> dict[int, str]:
  """image id -> prompt, from an optional list of pictures to describe."""
  if not path.exists():
    return {}
  ids = {n: i for i, f in found.files.items() for n in _names_of(f)}
  chosen = {}
  for number, row in enumerate(needs.read_jsonl(path), 1):
    image = row.get("image", row.get("image_id"))
    image_id = image if image in found.files else ids.get(str(image))
    if image_id is None:
      raise UserError(
        f"{path}: line {number}: image {image!r} is not in the annotations"
      )
    chosen[image_id] = row.get("text", PROMPT).replace("<image>", "").strip()
  return chosen


def row_id(row: Mapping[str, Any]) -> Any:
  """The image id of an answer: COCO_val2014_000000310196(.jpg) is 310196."""
  given = row.get("image_id", protocol.row_id(row))
  match = re.fullmatch(r"(?:.*/)?COCO_\w+?_0*(\d+)(?:\.\w+)?", str(given))
  return int(match.group(1)) if match else given


def score(
  data: Path, questions: Sequence[Question], answers: Answers, options: Options
) -> Scored:
  """Reads every caption; a unit is a picture."""
  scored, empty = Scored(), 0
  categories = questions[0].extra["categories"] if questions else []
  words = caption_flags.settings(options.extra)
  vocabulary = chair_words.load(
    words["synonyms"], words["singular"], options.clean_rules, categories
  )
  if words["objects"] == "annotated":
    vocabulary.keep(categories)
  references = coco.read_captions(
    _files(data, coco.CAPTIONS, options), {q.question_id for q in questions}
  )
  pairs = list(zip(questions, answers, strict=True))
  for question, answer in progress.bar(pairs, desc="chair", unit="caption"):
    caption = answer or ""
    if not caption.strip() and not options.clean_rules:
      empty += 1
      continue
    captions = references.get(question.question_id, ())
    truth = objects_of(question, captions, vocabulary)
    _score_caption(scored, question, caption, truth, vocabulary)
  if words["synonyms"] is None:
    scored.notes.append(
      "objects were found with povid_jax's own word table, so these numbers "
      "are not comparable with published ones; give the original "
      "synonyms.txt with --synonyms=FILE to compare"
    )
  if empty:
    scored.notes.append(f"{empty} empty captions are left out")
  return scored


def objects_of(
  question: Question, captions: Iterable[str], vocabulary: Vocabulary
) -> set[str]:
  """Objects of a picture: those annotated and those its references name."""
  found = {vocabulary.names[name] for name in question.extra["objects"]}
  for caption in captions:
    found |= {mention.object for mention in vocabulary.mentions(caption)}
  return found


def _score_caption(
  scored: Scored,
  question: Question,
  caption: str,
  truth: set[str],
  vocabulary: Vocabulary,
) -> None:
  mentions = vocabulary.mentions(caption)
  wrong = [mention for mention in mentions if mention.object not in truth]
  seen = truth & {mention.object for mention in mentions}
  scored.count(
    question.question_id,
    {
      "n": 1,
      "captions/wrong": bool(wrong),
      "mentions": len(mentions),
      "mentions/wrong": len(wrong),
      "truth": len(truth),
      "truth/seen": len(seen),
      "words": len(caption.split()),
    },
  )
  scored.verdicts.append(
    {
      "question_id": question.question_id,
      "unit": str(question.question_id),
      "correct": not wrong,
      "hallucinated": [mention.object for mention in wrong],
      "missed": sorted(truth - seen),
      "objects": sorted(truth),
      "mentions": [
        {
          "object": mention.object,
          "start": mention.start,
          "end": mention.end,
          "hallucinated": mention.object not in truth,
        }
        for mention in mentions
      ],
    }
  )


def metrics(totals: Totals, options: Options) -> Metrics:
  """See the module's text."""
  yield "CHAIRs", ratio(totals["captions/wrong"], totals["n"])
  yield "CHAIRi", ratio(totals["mentions/wrong"], totals["mentions"])
  yield "recall", ratio(totals["truth/seen"], totals["truth"])
  yield "objects_per_caption", ratio(totals["mentions"], totals["n"])
  yield "length", ratio(totals["words"], totals["n"])


BENCHMARK = Benchmark(
  name="chair",
  title="CHAIR",
  flags=caption_flags.FLAGS,
  needs=(
    coco.INSTANCES,
    coco.CAPTIONS,
    Need(
      "questions.jsonl", "file with your own choice of pictures", optional=True
    ),
  ),
  questions=questions,
  score=score,
  metrics=metrics,
  columns=(
    Column("CHAIRs", "CHAIR_S"),
    Column("CHAIRi", "CHAIR_I"),
    Column("recall", "Recall"),
    Column("objects_per_caption", "Objects", 1.0),
    Column("length", "Length", 1.0),
  ),
  row_id=row_id,
  missing="skip",
)
