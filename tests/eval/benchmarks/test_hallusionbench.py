"""HallusionBench: yes, no or unclear; questions, figures, easy and hard."""

import random
import re
from collections import defaultdict

import pytest

from povid_jax.errors import UserError
from povid_jax.eval.benchmarks.hallusionbench import (
  BENCHMARK,
  clean_reading,
  item_id,
  reading,
)
from povid_jax.eval.protocol import Options

# answer: (the original's reading, the clean one)
READINGS = {
  "Yes": ("yes", "yes"),
  "no.": ("no", "no"),
  "Yes, it is": ("yes", "yes"),
  "I say:no": ("unclear", "no"),
  "Yes and no": ("unclear", "yes"),
  "No, yes": ("unclear", "no"),
  "Perhaps": ("unclear", "unclear"),
  "None know": ("unclear", "unclear"),
  "": ("unclear", "unclear"),
  "yes/no": ("unclear", "yes"),
  "yes/ it is": ("yes", "yes"),
  "yes/no / ": ("unclear", "yes"),  # "yesno"
  "no-one, I say": ("no", "no"),
  "yes-man - yes, 1,000": ("yes", "yes"),
  "yes-1,000": ("unclear", "yes"),  # "yes1000"
  "It is.yes": ("unclear", "yes"),
  ". " * 32 + "no.": ("unclear", "no"),
  ". " * 31 + "no.": ("no", "no"),
}


@pytest.mark.parametrize("answer", READINGS)
def test_reading(answer):
  assert (reading(answer), clean_reading(answer)) == READINGS[answer]


def _item(kind="VD", figure=0, question=0, truth=1, picture=1, group=0):
  return {
    "category": kind,
    "subcategory": "chart",
    "visual_input": str(picture),
    "set_id": str(group),
    "figure_id": str(figure),
    "question_id": str(question),
    "question": "Is it so?",
    "gt_answer": str(truth),
    "filename": None if picture == 0 else f"./{kind}/{group}_{figure}.png",
  }


def _score(put, run, items, texts, **options):
  data = put("hb/HallusionBench.json", items).parent
  rows = [
    {**item, "model_prediction": text}
    for item, text in zip(items, texts, strict=True)
  ]
  return run(BENCHMARK, data, rows, **options)


# two questions about an original figure and its edited twin
FOUR = [
  _item(figure=0, question=0, truth=1),
  _item(figure=0, question=1, truth=0),
  _item(figure=1, question=0, truth=0, picture=2),
  _item(figure=1, question=1, truth=0, picture=2),
]

# answers to FOUR: aAcc, qAcc, fAcc, easy, hard
CASES = {
  "all right": (("yes", "no", "no", "no"), (1, 1, 1, 1, 1)),
  "always yes": (("yes",) * 4, (1 / 4, 0, 0, 1 / 2, 0)),
  "always no": (("no",) * 4, (3 / 4, 1 / 2, 1 / 2, 1 / 2, 1)),
  "unclear is wrong": (("", "no", "no", "no"), (3 / 4, 1 / 2, 1 / 2, 1 / 2, 1)),
}


@pytest.mark.parametrize("case", CASES)
def test_scores(case, put, run):
  texts, expected = CASES[case]
  found = _score(put, run, FOUR, texts)
  names = ("aAcc", "qAcc", "fAcc", "easy", "hard")
  assert tuple(found[n] for n in names) == expected


def test_unclear_is_right_without_a_figure_of_vs_only(put, run):
  items = [
    _item("VS", figure=0, picture=0),
    _item("VS", figure=1, picture=1),
    _item("VD", figure=0, picture=1),
  ]
  found = _score(put, run, items, ["Hm", "Hm", "Hm"])
  assert found["aAcc"] == 1 / 3
  found = _score(put, run, items, ["Hm", "Hm", "Hm"], clean_rules=True)
  assert found["aAcc"] == 0


def test_vs_without_a_figure_is_no_figure(put, run):
  items = [_item("VS", figure=0, picture=0), _item("VS", figure=1)]
  assert _score(put, run, items, ["no", "yes"])["fAcc"] == 1
  assert "fAcc" not in _score(put, run, items[:1], ["no"])


def test_questions_of_a_pair_count_within_easy_and_hard(put, run):
  """VS asks a question without and with the original: both are easy."""
  items = [_item("VS", figure=0, picture=0), _item("VS", figure=1, picture=1)]
  found = _score(put, run, items, ["yes", "no"])
  assert (found["easy"], found["easy_items"]) == (0, 1 / 2)


def test_questions_have_no_picture_where_the_file_names_none(put):
  items = [_item("VS", picture=0), _item("VD")]
  data = put("hb/HallusionBench.json", items).parent
  without, with_picture = BENCHMARK.questions(data, Options())
  assert without.images == ()
  assert with_picture.images == (data / "VD/0_0.png",)


def test_bad_truth_is_named(put):
  data = put("hb/HallusionBench.json", [_item(truth="yes")]).parent
  with pytest.raises(UserError, match="entry 1: gt_answer 'yes', want 0 or 1"):
    BENCHMARK.questions(data, Options())


def plain_hallusion(items, texts):
  """The published calculation once more: aAcc, qAcc, fAcc, easy, hard."""
  pairs, figures = defaultdict(list), defaultdict(list)
  easy, hard, total = defaultdict(list), defaultdict(list), []
  for item, text in zip(items, texts, strict=True):
    cut = text.lower()
    for mark in r';/[]"{}()=+\_-><@`,?!':
      beside = f"{mark} " in text or f" {mark}" in text
      gone = beside or re.search(r"\d,\d", text)
      cut = cut.replace(mark, "" if gone else " ")
    words = re.sub(r"(?<!\d)\.(?!\d)", "", cut, count=32).split()
    check = 2
    if ("yes" in words) != ("no" in words):
      check = int(("yes" in words) == (item["gt_answer"] == "1"))
    blind = item["category"] == "VS" and item["figure_id"] == "0"
    right = check == 1 or (blind and check == 2)
    head = (item["category"], item["subcategory"], item["set_id"])
    total.append(right)
    pairs[head, item["question_id"]].append(right)
    part = hard if item["visual_input"] == "2" else easy
    part[head, item["question_id"]].append(right)
    if not blind:
      figures[head, item["figure_id"]].append(right)
  rate = lambda groups: sum(map(all, groups.values())) / len(groups)
  accuracy = sum(total) / len(total)
  return accuracy, rate(pairs), rate(figures), rate(easy), rate(hard)


def test_agrees_with_a_plain_implementation_on_a_whole_file(put, run):
  rng = random.Random(0)
  items = [
    _item(kind, figure, question, rng.randrange(2), min(figure, 2), group)
    for kind in ("VD", "VS")
    for group in range(40)
    for figure in range(4)
    for question in range(3)
  ]
  assert len({item_id(item) for item in items}) == len(items)
  texts = [rng.choice(list(READINGS)) for _ in items]
  found = _score(put, run, items, texts)
  names = ("aAcc", "qAcc", "fAcc", "easy", "hard")
  assert tuple(found[n] for n in names) == plain_hallusion(items, texts)
