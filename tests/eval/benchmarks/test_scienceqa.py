"""ScienceQA: letters as LLaVA reads them, with and without pictures."""

import random
import re

import pytest

from povid_jax.errors import UserError
from povid_jax.eval.benchmarks.scienceqa import BENCHMARK, clean_letter, letter
from povid_jax.eval.protocol import Options

# answer: (the original's reading, the clean one)
READINGS = {
  "A": ("A", "A"),
  "E": ("E", "E"),
  "F": (None, None),
  "a": (None, "A"),
  "B. Yes": ("B", "B"),
  "B.": (None, "B"),
  "B.yes": (None, "B"),
  "B) Yes": (None, "B"),
  "(C)": (None, "C"),
  "F. Yes": (None, None),
  "The answer is D.": ("D", "D"),
  "So, The answer is D. Yes.": ("D", "D"),
  "the answer is D.": (None, "D"),
  "The answer is A. The answer is B.": (None, "A"),
  "The answer is Z.": ("Z", None),
  "Apple": (None, None),
  "A nice one": (None, "A"),
  "": (None, None),
}


@pytest.mark.parametrize("answer", READINGS)
def test_reading(answer):
  assert (letter(answer), clean_letter(answer)) == READINGS[answer]


def _write(put, problems):
  """problems: id -> (index of the answer, choices, has a picture)."""
  put(
    "sqa/problems.json",
    {
      i: {"answer": answer, "choices": ["x"] * choices}
      for i, (answer, choices, _) in problems.items()
    },
  )
  put("sqa/pid_splits.json", {"test": list(problems), "val": []})
  return put(
    "sqa/llava_test_CQM-A.json",
    [
      {
        "id": i,
        **({"image": f"{i}/image.png"} if picture else {}),
        "conversations": [
          {"from": "human", "value": ("<image>\n" if picture else "") + "Why?"}
        ],
      }
      for i, (_, _, picture) in problems.items()
    ],
  ).parent


def _rows(**texts):
  return [{"question_id": i, "text": text} for i, text in texts.items()]


CASES = {
  # answers to p (B of 2, picture) and t (A of 2, text only): IMG, all
  "both right": ({"p": "B", "t": "A"}, (1, 1)),
  "only the text right": ({"p": "A", "t": "A"}, (0, 1 / 2)),
  "beyond the choices": ({"p": "C", "t": "A"}, (0, 1 / 2)),
  "unread": ({"p": "Hm", "t": "Hm"}, (0, 0)),
}


@pytest.mark.parametrize("case", CASES)
def test_scores(case, put, run):
  texts, expected = CASES[case]
  data = _write(put, {"p": (1, 2, True), "t": (0, 2, False)})
  found = run(BENCHMARK, data, _rows(**texts))
  assert (found["img_accuracy"], found["accuracy"]) == expected


def test_a_missing_answer_counts_in_all_but_not_in_img(put, run):
  data = _write(put, {"p": (1, 2, True), "q": (0, 2, True)})
  found = run(BENCHMARK, data, _rows(p="B"))
  assert (found["img_accuracy"], found["accuracy"]) == (1, 1 / 2)
  found = run(BENCHMARK, data, _rows(p="B"), clean_rules=True)
  assert (found["img_accuracy"], found["accuracy"]) == (1 / 2, 1 / 2)


def test_a_letter_beyond_the_choices_is_wrong_even_if_it_is_the_answer(
  put, run
):
  data = _write(put, {"p": (2, 2, True)})
  assert run(BENCHMARK, data, _rows(p="C"))["accuracy"] == 0


def test_questions_have_the_picture_apart_and_the_suffix(put):
  data = _write(put, {"p": (1, 2, True), "t": (0, 2, False)})
  with_picture, without = BENCHMARK.questions(data, Options())
  assert with_picture.text == (
    "Why?\nAnswer with the option's letter from the given choices directly."
  )
  assert with_picture.images == (data / "p/image.png",)
  assert without.images == ()


def test_no_pictures_no_img_accuracy(put, run):
  data = _write(put, {"t": (0, 2, False)})
  assert run(BENCHMARK, data, _rows(t="A")) == {"accuracy": 1}


def test_missing_question_and_split_are_named(put):
  data = _write(put, {"p": (1, 2, True)})
  put("sqa/pid_splits.json", {"test": ["p", "q"]})
  with pytest.raises(UserError, match="no question q"):
    BENCHMARK.questions(data, Options())
  with pytest.raises(UserError, match="no split 'dev'"):
    BENCHMARK.questions(data, Options(split="dev"))


def plain_sqa(problems, texts):
  """The published calculation once more: (IMG, all)."""
  right = {}
  for i, (answer, choices, _) in problems.items():
    text, said = texts[i], "FAILED"
    options = ["A", "B", "C", "D", "E"]
    if text in options:
      said = text
    elif len(text) >= 3 and text[0] in options and text[1:3] == ". ":
      said = text[0]
    else:
      found = re.compile(r"The answer is ([A-Z]).").findall(text)
      said = found[0] if len(found) == 1 else said
    index = options.index(said) if said in options[:choices] else -1
    right[i] = index == answer
  pictures = [right[i] for i in problems if problems[i][2]]
  return sum(pictures) / len(pictures), sum(right.values()) / len(right)


def test_agrees_with_a_plain_implementation_on_a_whole_file(put, run):
  rng = random.Random(0)
  problems = {
    str(i): (rng.randrange(5), rng.randrange(2, 6), rng.random() < 0.5)
    for i in range(500)
  }
  texts = {i: rng.choice(list(READINGS)) for i in problems}
  found = run(BENCHMARK, _write(put, problems), _rows(**texts))
  expected = plain_sqa(problems, texts)
  assert (found["img_accuracy"], found["accuracy"]) == expected
