"""AMBER: descriptions and questions, each quirk of the original a row."""

import random

import pytest

from povid_jax.errors import UserError
from povid_jax.eval.benchmarks import amber_nouns
from povid_jax.eval.benchmarks.amber import BENCHMARK
from povid_jax.eval.protocol import Options

RELATED = {
  "person": ["man", "people"],
  "man": [],
  "sky": ["cloud"],
  "cloud": [],
  "dog": ["puppy"],
  "orange": [],
  "tree": [],
  "ship": ["boat"],
}


def _write(put, rows):
  """rows: (type, truth, likely hallucinations), ids from 1."""
  annotations, queries = [], []
  for i, (kind, truth, *likely) in enumerate(rows, 1):
    row = {"id": i, "type": kind, "truth": truth}
    if kind == "generative":
      row["hallu"] = likely[0] if likely else []
    annotations.append(row)
    queries.append({"id": i, "image": f"AMBER_{i % 7}.jpg", "query": "Ask."})
  put("amber/annotations.json", annotations)
  put("amber/query/query_all.json", queries)
  return put("amber/relation.json", RELATED).parent


def _rows(*texts):
  return [{"id": i, "response": t} for i, t in enumerate(texts, 1)]


def _tenth(part, whole):
  """A rate as the original prints it, as a fraction."""
  return round(part / (whole + 0.001) * 100, 1) / 100


DESCRIBED = {
  # name: (truth, likely, text, (wrong, nouns), (named, objects), (cog, likely))
  "all right": (["dog"], [], "a dog", (0, 1), (1, 1), (0, 0)),
  "wrong": (["dog"], [], "a tree", (1, 1), (0, 1), (0, 0)),
  "association of an object": (["sky"], [], "a cloud", (0, 1), (1, 1), (0, 0)),
  "plural": (["dog"], [], "dogs", (0, 1), (1, 1), (0, 0)),
  "repetition counts": (["dog"], [], "a tree, a tree", (2, 2), (0, 1), (0, 0)),
  "not in the vocabulary": (["dog"], [], "a lamp", (0, 0), (0, 1), (0, 0)),
  "capitals are not found": (
    ["dog"], [], "Trees. Dogs", (0, 0), (0, 1), (0, 0),
  ),
  "a safe word is right and counts": (
    ["dog"], [], "an orange", (0, 1), (0, 1), (0, 0),
  ),
  "a safe word is no hit": (
    ["orange"], [], "an orange", (0, 1), (0, 1), (0, 0),
  ),
  "likely hallucination": (
    ["dog"], ["tree"], "a tree", (1, 1), (0, 1), (1, 1),
  ),
  "association of a likely one": (
    ["dog"], ["ship"], "a boat", (1, 1), (0, 1), (1, 1),
  ),
  "associations come before objects": (
    # "man" goes to "person", so the object "man" is not covered
    ["man", "person"], [], "a man", (0, 1), (1, 2), (0, 0),
  ),
  "an object that is there twice is covered once": (
    ["ship", "ship"], [], "a ship", (0, 1), (1, 2), (0, 0),
  ),
  "empty": (["dog"], ["tree"], "", (0, 0), (0, 1), (0, 1)),
  "nothing annotated": ([], [], "a dog", (1, 1), (0, 0), (0, 0)),
}  # fmt: skip


@pytest.mark.parametrize("case", DESCRIBED)
def test_description(case, put, run):
  truth, likely, text, wrong, cover, cog = DESCRIBED[case]
  data = _write(put, [("generative", truth, likely)])
  found = run(BENCHMARK, data, _rows(text))
  assert found["CHAIR"] == _tenth(*wrong)
  assert found["Cover"] == _tenth(*cover)
  assert found["Cog"] == _tenth(*cog)
  faultless = float(wrong[0] == 0)
  assert found["Hal"] == round(100 - faultless / 1.001 * 100, 1) / 100


def test_clean_description(put, run):
  data = _write(put, [("generative", ["man", "person"])])
  found = run(BENCHMARK, data, _rows("A man. People."), clean_rules=True)
  # the man is a man, the people are the person; nothing is added or rounded
  assert (found["Cover"], found["CHAIR"], found["Hal"]) == (1, 0, 0)


def test_counters_start_at_a_thousandth(put, run):
  data = _write(put, [("generative", ["dog"])])
  found = run(BENCHMARK, data, _rows("a dog"))
  assert found["Cover"] == pytest.approx(0.999)
  assert found["Hal"] == pytest.approx(0.001)


EXISTENCE = "discriminative-hallucination"
STATE = "discriminative-attribute-state"
NUMBER = "discriminative-attribute-number"
RELATION = "relation"

ASKED = {
  # (truth, answer): accuracy, precision, recall of one question
  "right no": (("no", "No"), (0.999, 0.999, 0.999)),
  "right yes is no hit": (("yes", "Yes"), (0.999, 0, 0)),
  "wrong no": (("yes", "No"), (0, 0, 0)),
  "missed no": (("no", "Yes"), (0, 0, 0)),
  "case matters": (("no", "no"), (0, 0, 0)),
  "a full stop matters": (("yes", "Yes."), (0, 0, 0)),
  "empty": (("no", ""), (0, 0, 0)),
}


@pytest.mark.parametrize("case", ASKED)
def test_question(case, put, run):
  (truth, said), expected = ASKED[case]
  data = _write(put, [(STATE, truth)])
  found = run(BENCHMARK, data, _rows(said))
  names = ("accuracy", "precision", "recall")
  for group in ("", "state/"):
    assert [found[group + n] for n in names] == pytest.approx(expected)
  # the sum of three counters that start at 0.001
  summed = [0.997 if rate else 0 for rate in expected]
  assert [found[f"attribute/{n}"] for n in names] == pytest.approx(summed)


def test_clean_question(put, run):
  data = _write(put, [(STATE, "no"), (STATE, "yes")])
  found = run(BENCHMARK, data, _rows("no, none", "YES."), clean_rules=True)
  assert (found["accuracy"], found["f1"]) == (1, 1)


def test_f1_is_made_of_rounded_rates_and_existence_adds_more(put, run):
  data = _write(put, [(EXISTENCE, "no")] * 4 + [(RELATION, "no")] * 4)
  found = run(BENCHMARK, data, _rows(*("No", "No", "Yes", "Yes") * 2))
  # P = 2 / 2.001 = 99.9...%, shown as 100.0; R = 2 / 4.001, shown as 50.0
  assert round(100 * found["existence/f1"], 9) == 66.6
  assert round(100 * found["relation/f1"], 9) == 66.7


def test_amber_score(put, run):
  data = _write(put, [("generative", ["dog"]), (STATE, "no")])
  found = run(BENCHMARK, data, _rows("a dog, a tree", "No"))
  assert found["AMBER"] == pytest.approx(
    (100 - 100 * found["CHAIR"] + 100 * found["f1"]) / 2
  )


def test_no_dimension_without_its_questions(put, run):
  data = _write(put, [("generative", ["dog"]), (STATE, "no")])
  described = run(BENCHMARK, data, _rows("a dog"))
  assert set(described) == {"CHAIR", "Cover", "Hal", "Cog"}
  asked = run(BENCHMARK, data, [{"id": 2, "response": "No"}])
  assert "CHAIR" not in asked and "existence/f1" not in asked


SPLITS = {"g": [1], "d": [2, 3, 4], "de": [3], "da": [2], "dr": [4]}


def test_splits(put):
  rows = [
    ("generative", []),
    (NUMBER, "no"),
    (EXISTENCE, "no"),
    (RELATION, "no"),
  ]
  data = _write(put, rows)
  for split, ids in SPLITS.items():
    asked = BENCHMARK.questions(data, Options(split=split))
    assert [q.question_id for q in asked] == ids
  with pytest.raises(UserError, match="no split 'x'"):
    BENCHMARK.questions(data, Options(split="x"))


def test_question_without_annotation_is_named(put):
  data = _write(put, [(STATE, "no")])
  put("amber/query/query_all.json", [{"id": 9, "image": "a", "query": "b"}])
  with pytest.raises(UserError, match="no annotation for question 9"):
    BENCHMARK.questions(data, Options())


def test_optional_tools_say_what_they_need():
  pytest.importorskip("inflect")
  for kind, start in (
    ("nltk", amber_nouns.nouns),
    ("spacy", amber_nouns.alike),
  ):
    try:
      __import__(kind)
    except ImportError:
      arguments = (kind, (), False) if kind == "nltk" else (kind,)
      with pytest.raises(UserError, match=kind):
        start(*arguments)


def test_alike_words_cover_and_are_not_hallucinated():
  """What spaCy would do, with a likeness of our own."""
  from povid_jax.eval.benchmarks.amber_words import Lexicon, judge, slots

  lexicon = Lexicon(RELATED, frozenset(RELATED), frozenset())
  alike = lambda a, b: a == b or {a, b} == {"boat", "dog"}
  truth, likely = (
    slots(["dog"], lexicon, False),
    slots(["tree"], lexicon, False),
  )
  assert judge(["boat", "sky"], truth, likely, lexicon, alike) == ["sky"]
  assert (truth.named, likely.named) == ([True], [False])


def plain_generative(rows, texts):
  """The published loop once more, for words that are singular already."""
  chair = [0, 0.001]
  cover, cog, faultless = [0, 0.001], [0, 0.001], [0, 0.001]
  vocabulary = set(RELATED) | {w for g in RELATED.values() for w in g}
  for (_, truth, likely), text in zip(rows, texts, strict=True):
    nouns = [w for w in text.split() if w in vocabulary]
    lists = []
    for objects in (truth, likely):
      words = [(w, k) for k, o in enumerate(objects) for w in RELATED[o]]
      words += [(o, k) for k, o in enumerate(objects)]
      lists.append((words, [0] * len(objects)))
    bad = 0
    for noun in nouns:
      if noun == "orange":
        continue
      hit = [k for w, k in lists[0][0] if w == noun]
      if hit:
        lists[0][1][hit[0]] = 1
        continue
      hit = [k for w, k in lists[1][0] if w == noun]
      if hit:
        lists[1][1][hit[0]] = 1
      bad += 1
    chair[0] += bad
    chair[1] += len(nouns)
    for (_, named), counter in zip(lists, (cover, cog), strict=True):
      counter[0] += sum(named)
      counter[1] += len(named)
    faultless[0] += bad == 0
    faultless[1] += 1
  rate = lambda c: round(c[0] / c[1] * 100, 1)
  hal = round(100 - faultless[0] / faultless[1] * 100, 1)
  return rate(chair), rate(cover), hal, rate(cog)


def plain_discriminative(rows, texts, added=1e-4):
  """The published counters once more: accuracy, P, R, F1."""
  right = no = said_no = hit = 0
  for (_, truth), text in zip(rows, texts, strict=True):
    right += text == {"yes": "Yes", "no": "No"}[truth]
    no += truth == "no"
    said_no += text == "No"
    hit += text == "No" and truth == "no"
  a = round(right / (len(rows) + 0.001) * 100, 1)
  p = round(hit / (said_no + 0.001) * 100, 1)
  r = round(hit / (no + 0.001) * 100, 1)
  f = 2 * (p / 100) * (r / 100) / (p / 100 + r / 100 + added) * 100
  return a, p, r, round(f, 1)


def test_agrees_with_a_plain_implementation_on_whole_files(put, run):
  rng = random.Random(0)
  words = [*RELATED, "puppy", "boat", "lamp", "the"]
  names = list(RELATED)
  described = [
    ("generative", rng.choices(names, k=3), rng.choices(names, k=2))
    for _ in range(200)
  ]
  asked = [
    (
      rng.choice((EXISTENCE, STATE, NUMBER, RELATION)),
      rng.choice(("yes", "no")),
    )
    for _ in range(600)
  ]
  texts = [" ".join(rng.choices(words, k=8)) for _ in described]
  said = rng.choices(("Yes", "No", "no", "Yes."), k=len(asked))
  data = _write(put, described + asked)
  found = run(BENCHMARK, data, _rows(*texts, *said))
  expected = plain_generative(described, texts)
  for name, value in zip(
    ("CHAIR", "Cover", "Hal", "Cog"), expected, strict=True
  ):
    assert round(100 * found[name], 9) == value
  groups = {"": asked, "existence/": [], "relation/": [], "attribute/": []}
  replies = {name: [] for name in groups} | {"": said}
  for row, text in zip(asked, said, strict=True):
    name = {EXISTENCE: "existence/", RELATION: "relation/"}
    name = name.get(row[0], "attribute/")
    groups[name].append(row)
    replies[name].append(text)
  for prefix, rows in groups.items():
    added = 1e-3 if prefix == "existence/" else 1e-4
    expected = plain_discriminative(rows, replies[prefix], added)
    kinds = ("accuracy", "precision", "recall", "f1")
    for name, value in zip(kinds, expected, strict=True):
      assert round(100 * found[prefix + name], 9) == value


@pytest.mark.slow
def test_14216_questions_in_5_seconds(put, run):
  import time

  rng = random.Random(0)
  rows = [(STATE, rng.choice(("yes", "no"))) for _ in range(14216)]
  data = _write(put, rows)
  start = time.monotonic()
  run(BENCHMARK, data, _rows(*rng.choices(("Yes", "No"), k=len(rows))))
  assert time.monotonic() - start < 5
