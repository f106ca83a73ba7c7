"""CHAIR scores: small cases by hand, and a plain implementation beside ours."""

import random

import pytest

from povid_jax.errors import UserError
from povid_jax.eval import answers, bootstrap, needs, results
from povid_jax.eval.benchmarks.chair import BENCHMARK
from povid_jax.eval.protocol import Options

CATEGORIES = ["dog", "cat", "bus", "person", "wine glass", "hot dog"]


def _write(put, truth, captions=None, files=None):
  """Annotations of pictures: truth is image id -> names of objects."""
  images = [
    {"id": i, "file_name": (files or {}).get(i, f"COCO_val2014_{i:012d}.jpg")}
    for i in truth
  ]
  annotations = [
    {"image_id": i, "category_id": CATEGORIES.index(name) + 1}
    for i, names in truth.items()
    for name in names
  ]
  categories = [{"id": k + 1, "name": n} for k, n in enumerate(CATEGORIES)]
  path = put(
    "chair/instances_val2014.json",
    {"images": images, "annotations": annotations, "categories": categories},
  )
  said = [
    {"image_id": i, "caption": text}
    for i, texts in (captions or {}).items()
    for text in texts
  ]
  put("chair/captions_val2014.json", {"images": images, "annotations": said})
  return path.parent


def _rows(captions):
  return [{"image_id": i, "caption": text} for i, text in captions.items()]


CASES = {
  # name: (objects, reference captions, caption, CHAIRs, CHAIRi, recall)
  "all right": (["dog"], [], "A dog.", 0, 0, 1),
  "one of two is wrong": (["dog"], [], "A dog and a cat.", 1, 1 / 2, 1),
  "mentions are counted with repetition": (
    ["dog"], [], "A cat, a cat, a dog.", 1, 2 / 3, 1,
  ),
  "a reference caption makes an object true": (
    ["dog"], ["A kitten beside a dog."], "A cat.", 0, 0, 1 / 2,
  ),
  "an instance counts once in recall": (
    ["dog", "dog", "cat"], [], "A dog and a puppy.", 0, 0, 1 / 2,
  ),
  "nothing named": (["dog"], [], "A quiet place.", 0, 0, 0),
  "nothing there": ([], [], "A dog.", 1, 1, 0),
  "nothing there, nothing named": ([], [], "A place.", 0, 0, 0),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_case(case, put, run):
  objects, references, caption, chair_s, chair_i, recall = CASES[case]
  data = _write(put, {7: objects}, {7: references})
  found = run(BENCHMARK, data, _rows({7: caption}))
  assert found["CHAIRs"] == chair_s
  assert found["CHAIRi"] == pytest.approx(chair_i, abs=1e-15)
  assert found["recall"] == recall
  assert found["length"] == len(caption.split())


def test_rates_are_over_the_corpus(put, run):
  data = _write(put, {1: ["dog"], 2: ["cat", "bus"]})
  found = run(BENCHMARK, data, _rows({1: "A dog.", 2: "A dog, a cat, a bus."}))
  assert found == {
    "CHAIRs": 1 / 2,
    "CHAIRi": 1 / 4,  # not the mean of 0 and 1/3
    "recall": 1.0,
    "objects_per_caption": 2.0,
    "length": 4.0,
  }


def test_empty_captions_are_left_out_or_count_with_clean_rules(put, run):
  data = _write(put, {1: ["dog"], 2: ["cat"]})
  rows = _rows({1: "A cat.", 2: " "})
  assert run(BENCHMARK, data, rows)["CHAIRs"] == 1
  assert run(BENCHMARK, data, rows, clean_rules=True)["CHAIRs"] == 1 / 2


def test_only_empty_captions_are_a_named_error(put):
  data = _write(put, {1: ["dog"]})
  options = Options()
  asked = BENCHMARK.questions(data, options)
  scored = BENCHMARK.score(data, asked, [""], options)
  with pytest.raises(UserError, match="1 empty captions"):
    results.rows(BENCHMARK, scored, options, 10)


@pytest.mark.parametrize(
  "row",
  [
    {"question_id": 310196, "text": "A dog."},
    {"id": "COCO_val2014_000000310196.jpg", "answer": "A dog."},
    {"id": "COCO_val2014_000000310196", "answer": "A dog."},
    {"image_id": 310196, "caption": "A dog."},
    {"image_id": "310196", "caption": "A dog."},
    {"id": 1, "image_id": 310196, "caption": "A dog."},
  ],
)
def test_every_known_id_of_a_picture(row, put, run):
  data = _write(put, {310196: ["cat"], 5: ["dog"]})
  assert run(BENCHMARK, data, [row])["CHAIRs"] == 1


def test_file_names_of_other_annotations_are_ids(put, run):
  data = _write(put, {3: ["dog"]}, files={3: "test/000003.jpg"})
  for name in ("test/000003.jpg", "000003.jpg", "000003"):
    rows = [{"question_id": name, "text": "A dog."}]
    assert run(BENCHMARK, data, rows)["CHAIRs"] == 0


def test_unknown_picture_is_named(put, run):
  data = _write(put, {1: ["dog"]})
  with pytest.raises(UserError, match="ids that no question has: 99"):
    run(BENCHMARK, data, _rows({1: "A dog.", 99: "A dog."}))


def test_unknown_category_is_named(put):
  path = put(
    "chair/instances_val2014.json",
    {
      "images": [{"id": 1, "file_name": "a.jpg"}],
      "annotations": [{"id": 4, "image_id": 1, "category_id": 9}],
      "categories": [],
    },
  )
  with pytest.raises(UserError, match="annotation 4 has category_id 9"):
    BENCHMARK.questions(path.parent, Options())


def test_missing_files_are_explained(put):
  folder = put("chair/instances_val2014.json", {}).parent
  with pytest.raises(UserError, match=r"captions_\*.json \(from COCO 2014"):
    needs.locate(folder.parent, BENCHMARK)


def test_split_and_limit_choose_pictures(put):
  data = _write(put, {i: ["dog"] for i in range(20)})
  put("chair/instances_test.json", {
    "images": [{"id": 99, "file_name": "x.jpg"}],
    "annotations": [], "categories": [],
  })  # fmt: skip
  put("chair/captions_test.json", {"annotations": []})
  everything = BENCHMARK.questions(data, Options())
  assert len(everything) == 21
  one = BENCHMARK.questions(data, Options(split="test"))
  assert [q.question_id for q in one] == [99]
  five = BENCHMARK.questions(data, Options(limit=5, seed=3))
  assert len({q.question_id for q in five}) == 5
  assert five == BENCHMARK.questions(data, Options(limit=5, seed=3))
  assert five != BENCHMARK.questions(data, Options(limit=5, seed=4))
  with pytest.raises(UserError, match="no instances_dev.json"):
    BENCHMARK.questions(data, Options(split="dev"))


def test_own_choice_of_pictures(put):
  data = _write(put, {1: ["dog"], 2: ["cat"]})
  put("chair/questions.jsonl", [{"image": "COCO_val2014_000000000002.jpg",
                                 "text": "<image>\nWhat is it?"}])  # fmt: skip
  (asked,) = BENCHMARK.questions(data, Options())
  assert (asked.question_id, asked.text) == (2, "What is it?")
  put("chair/questions.jsonl", [{"image": "none.jpg"}])
  with pytest.raises(UserError, match="line 1: image 'none.jpg'"):
    BENCHMARK.questions(data, Options())


def plain_chair(table, truth, references, captions):
  """The published rule written once more, with none of our code.

  Captions hold only lower-case words and full stops that stand apart.
  """
  import inflect  # a second or two, and every worker reads this file

  engine = inflect.engine()
  lines = [line.split(", ") for line in table.splitlines()]
  names = {word: line[0] for line in lines for word in line}
  pairs = {"hot dog": "hot dog", "wine glass": "wine glass"}
  pairs |= {"baby dog": "dog", "toilet seat": "toilet", "bow tie": "tie"}
  known = {part for word in [*names, *pairs] for part in word.split()}

  def read(caption):
    words = [
      w if w in known else engine.singular_noun(w) or w for w in caption.split()
    ]
    merged = []
    while words:
      pair = " ".join(words[:2])
      merged.append(pairs.get(pair, words[0]))
      words = words[2 if pair in pairs else 1 :]
    if "toilet" in merged:
      merged = [w for w in merged if w != "seat"]
    return [names[w] for w in merged if w in names]

  wrong_captions = wrong = mentions = seen = present = 0
  for image, caption in captions.items():
    held = {names[o] for o in truth[image]}
    for reference in references[image]:
      held |= set(read(reference))
    said = read(caption)
    bad = [name for name in said if name not in held]
    wrong_captions += bool(bad)
    wrong += len(bad)
    mentions += len(said)
    seen += len(held & set(said))
    present += len(held)
  return wrong_captions / len(captions), wrong / mentions, seen / present


def test_agrees_with_a_plain_implementation_on_a_whole_file(put, run):
  table = (
    "person, man, child\ndog, puppy\ncat\nbus\nchair, seat\ntoilet\n"
    "hot dog\nwine glass\ntie\n"
  )
  rng = random.Random(0)
  words = (
    "man men child children dog dogs puppies cat cats bus buses seat toilet "
    "hot dogs wine glass glasses bow tie baby adult street near the a . of"
  ).split()
  say = lambda n: " ".join(rng.choice(words) for _ in range(n))
  truth = {i: rng.choices(CATEGORIES, k=rng.randrange(4)) for i in range(300)}
  references = {i: [say(6) for _ in range(3)] for i in truth}
  captions = {i: say(rng.randrange(1, 30)) for i in truth}
  data = _write(put, truth, references)
  synonyms = put("synonyms.txt", table)
  rows = _rows(captions)
  rng.shuffle(rows)
  found = run(BENCHMARK, data, rows, extra={"synonyms": synonyms})
  expected = plain_chair(table, truth, references, captions)
  assert (found["CHAIRs"], found["CHAIRi"], found["recall"]) == expected


def test_verdict_says_what_is_wrong_and_what_is_missed(put):
  data = _write(put, {1: ["dog", "bus"]})
  options = Options()
  asked = BENCHMARK.questions(data, options)
  (verdict,) = BENCHMARK.score(data, asked, ["A cat, a dog."], options).verdicts
  assert verdict == {
    "question_id": 1,
    "unit": "1",
    "correct": False,
    "hallucinated": ["cat"],
    "missed": ["bus"],
    "objects": ["bus", "dog"],
    "mentions": [
      {"object": "cat", "start": 2, "end": 5, "hallucinated": True},
      {"object": "dog", "start": 9, "end": 12, "hallucinated": False},
    ],
  }


@pytest.mark.slow
def test_5000_captions_in_20_seconds(put):
  import time

  rng = random.Random(0)
  words = "dog puppy cat bus man wine glass hot street and the".split()
  say = lambda n: " ".join(rng.choice(words) for _ in range(n)) + "."
  truth = {i: rng.choices(CATEGORIES, k=4) for i in range(5000)}
  data = _write(put, truth, {i: [say(10)] * 5 for i in truth})
  rows = [{"image_id": i, "caption": say(100)} for i in truth]
  start = time.monotonic()
  options = Options()
  asked = BENCHMARK.questions(data, options)
  matched = answers.match(asked, rows, BENCHMARK)
  scored = BENCHMARK.score(data, matched.questions, matched.answers, options)
  bootstrap.intervals(BENCHMARK, scored.units, options)
  assert time.monotonic() - start < 20


def test_our_own_table_says_that_it_compares_with_nothing_published(put):
  data = _write(put, {7: ["dog"]})
  table = put("synonyms.txt", "dog, puppy\n")
  for options, told in (
    (Options(), True),
    (Options(extra={"synonyms": table}), False),
  ):
    questions = BENCHMARK.questions(data, options)
    scored = BENCHMARK.score(data, questions, ["A dog."], options)
    assert any("--synonyms=FILE" in note for note in scored.notes) == told
