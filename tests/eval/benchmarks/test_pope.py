"""POPE: the original's reading of answers, its counts, its file layouts."""

import random

import pytest

from povid_jax.errors import UserError
from povid_jax.eval.benchmarks.pope import BENCHMARK, clean_reading, says_yes
from povid_jax.eval.protocol import Options

# answer: (the original's reading, the clean one)
READINGS = {
  "Yes": (True, True),
  "yes": (True, True),
  "No": (False, False),
  "no": (False, False),
  "No, there is not.": (False, False),
  "no,": (False, False),
  "There is not a dog. Yes.": (False, False),
  "Yes. No.": (True, True),
  "It is not": (False, False),
  "Yes. There is no cat": (True, True),
  "NO": (True, False),
  "no\n": (True, False),
  "No\nthing": (True, False),
  "isn't": (True, False),
  "There isn’t one": (True, False),
  "": (True, None),
  "maybe": (True, None),
  "None": (True, None),
  ".No": (True, False),
  "no;": (True, False),
  "Yes, but not here": (False, True),
  "Nothing but yes": (True, True),
}


@pytest.mark.parametrize("answer", READINGS)
def test_reading(answer):
  original, clean = READINGS[answer]
  assert says_yes(answer) is original
  assert clean_reading(answer) is clean


def _row(number, label, image="a.jpg", text="Is there a dog in the image?"):
  return {"question_id": number, "image": image, "text": text, "label": label}


def _answers(*texts):
  return [
    {"question_id": f"random/{i}", "text": t} for i, t in enumerate(texts)
  ]


# answers to questions with the labels yes, yes, no, no
SCORES = {
  "all right": (("yes", "yes", "no", "no"), (1, 1, 1, 1, 1 / 2)),
  "always yes": (("yes",) * 4, (1 / 2, 1 / 2, 1, 2 / 3, 1)),
  "never yes: nothing to divide by": (("no",) * 4, (1 / 2, 0, 0, 0, 0)),
  "one of each": (
    ("yes", "no", "yes", "no"),
    (1 / 2, 1 / 2, 1 / 2, 1 / 2, 1 / 2),
  ),
  "empty answers are a yes": (("", "", "", ""), (1 / 2, 1 / 2, 1, 2 / 3, 1)),
}


@pytest.mark.parametrize("case", SCORES)
def test_scores(case, put, run):
  texts, expected = SCORES[case]
  rows = [_row(i, label) for i, label in enumerate(("yes", "yes", "no", "no"))]
  data = put("pope/coco_pope_random.json", rows).parent
  found = run(BENCHMARK, data, _answers(*texts))
  names = ("accuracy", "precision", "recall", "f1", "yes_ratio")
  assert tuple(found[f"random/{n}"] for n in names) == expected
  assert found["f1"] == expected[3]


def test_clean_rules_leave_the_unclear_out_of_both(put, run):
  rows = [_row(0, "yes"), _row(1, "no")]
  data = put("pope/coco_pope_random.json", rows).parent
  found = run(BENCHMARK, data, _answers("perhaps", "NO"), clean_rules=True)
  assert found["random/accuracy"] == 1 / 2
  assert found["random/recall"] == 0  # the unclear yes is missed
  assert found["random/yes_ratio"] == 0


def test_f1_is_the_mean_of_the_splits_that_are_there(put, run):
  put("pope/coco_pope_random.json", [_row(1, "yes")])
  data = put("pope/coco_pope_popular.json", [_row(1, "yes")]).parent
  found = run(
    BENCHMARK,
    data,
    [
      {"question_id": "random/1", "text": "yes"},
      {"question_id": "popular/1", "text": "no"},
    ],
  )
  assert (found["random/f1"], found["popular/f1"], found["f1"]) == (1, 0, 0.5)
  assert not any(name.startswith("adversarial") for name in found)


def test_official_ids_that_repeat_go_by_split(put, run):
  """Three official answer files put together: ids count from 1 in each."""
  put("pope/coco_pope_random.json", [_row(1, "yes"), _row(2, "no")])
  data = put("pope/coco_pope_popular.json", [_row(1, "no")]).parent
  rows = [
    {"question_id": 1, "text": "yes"},
    {"question_id": 2, "text": "no"},
    {"question_id": 1, "text": "no"},
  ]
  found = run(BENCHMARK, data, rows)
  assert (found["random/accuracy"], found["popular/accuracy"]) == (1, 1)


def test_rows_that_name_their_split_go_to_it_in_any_order(put, run):
  put("pope/coco_pope_random.json", [_row(1, "yes")])
  data = put("pope/coco_pope_popular.json", [_row(1, "no")]).parent
  rows = [
    {"id": 1, "category": "popular", "answer": "no"},
    {"id": 1, "category": "random", "answer": "yes"},
  ]
  found = run(BENCHMARK, data, rows)
  assert (found["random/accuracy"], found["popular/accuracy"]) == (1, 1)


def _merged(count, start=1, image="a.jpg"):
  return [
    {
      "question_id": start + i,
      "image": image,
      "text": "Is there a dog in the imange?\nAnswer the question using a "
      "single word or phrase.",
      "category": "random",
    }
    for i in range(count)
  ]


def test_llava_questions_take_labels_by_order(put, run):
  put("pope/llava_pope_test.jsonl", _merged(2, start=70))
  labels = [_row(1, "yes"), _row(2, "no", image="elsewhere.jpg")]
  data = put("pope/coco_pope_random.json", labels).parent
  rows = [{"question_id": 71, "text": "no"}, {"question_id": 70, "text": "yes"}]
  assert run(BENCHMARK, data, rows)["random/accuracy"] == 1


def test_files_of_two_versions_go_by_picture_and_question(put, run):
  """2910 questions of the copy that LLaVA pins beside 3000 official labels."""
  put("pope/llava_pope_test.jsonl", _merged(1, image="b.jpg"))
  labels = [_row(1, "yes"), _row(2, "no", image="b.jpg")]
  data = put("pope/coco_pope_random.json", labels).parent
  rows = [{"question_id": 1, "text": "no"}]
  assert run(BENCHMARK, data, rows)["random/accuracy"] == 1
  put("pope/llava_pope_test.jsonl", _merged(1, image="c.jpg"))
  with pytest.raises(UserError, match="question 1 .c.jpg. has no label"):
    run(BENCHMARK, data, rows)


def test_questions_carry_the_short_answer_suffix(put):
  data = put("pope/coco_pope_random.json", [_row(1, "yes")]).parent
  (asked,) = BENCHMARK.questions(data, Options())
  assert asked.text == (
    "Is there a dog in the image?\n"
    "Answer the question using a single word or phrase."
  )
  (asked,) = BENCHMARK.questions(data, Options(prompt=""))
  assert asked.text == "Is there a dog in the image?"


def test_limit_keeps_whole_pictures(put):
  rows = [_row(i, "yes", image=f"{i // 2}.jpg") for i in range(6)]
  data = put("pope/coco_pope_random.json", rows).parent
  asked = BENCHMARK.questions(data, Options(limit=2))
  assert [q.extra["image"] for q in asked] == ["0.jpg"] * 2 + ["1.jpg"] * 2


BAD = {
  "label": ([_row(1, "maybe")], "label 'maybe', expected yes or no"),
  "field": ([{"question_id": 1}], "entry 1 has no field 'image'"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_file_is_named(case, put):
  rows, message = BAD[case]
  data = put("pope/coco_pope_random.json", rows).parent
  with pytest.raises(UserError, match=message):
    BENCHMARK.questions(data, Options())


def test_unknown_split_is_named(put):
  data = put("pope/coco_pope_random.json", [_row(1, "yes")]).parent
  with pytest.raises(UserError, match="no split 'hard'"):
    BENCHMARK.questions(data, Options(split="hard"))


def plain_pope(labels, texts):
  """The published evaluation once more: (accuracy, P, R, F1, yes ratio)."""
  said = []
  for text in texts:
    if "." in text:
      text = text[: text.index(".")]
    words = text.replace(",", "").split(" ")
    no = "No" in words or "not" in words or "no" in words
    said.append("no" if no else "yes")
  tp = sum(s == t == "yes" for s, t in zip(said, labels, strict=True))
  fp = sum(s == "yes" != t for s, t in zip(said, labels, strict=True))
  tn = sum(s == t == "no" for s, t in zip(said, labels, strict=True))
  fn = sum(s == "no" != t for s, t in zip(said, labels, strict=True))
  precision, recall = tp / (tp + fp), tp / (tp + fn)
  f1 = 2 * precision * recall / (precision + recall)
  total = tp + fp + tn + fn
  return (tp + tn) / total, precision, recall, f1, (tp + fp) / total


def test_agrees_with_a_plain_implementation_on_whole_files(put, run):
  rng = random.Random(0)
  texts, labels = {}, {}
  for split, count in (
    ("random", 2910),
    ("popular", 600),
    ("adversarial", 600),
  ):
    labels[split] = rng.choices(("yes", "no"), k=count)
    texts[split] = rng.choices(list(READINGS), k=count)
    rows = [
      _row(i, label, image=f"{i // 6}.jpg")
      for i, label in enumerate(labels[split])
    ]
    data = put(f"pope/coco_pope_{split}.json", rows).parent
  rows = [
    {"question_id": f"{split}/{i}", "text": text}
    for split in texts
    for i, text in enumerate(texts[split])
  ]
  rng.shuffle(rows)
  found = run(BENCHMARK, data, rows)
  names = ("accuracy", "precision", "recall", "f1", "yes_ratio")
  for split in texts:
    expected = plain_pope(labels[split], texts[split])
    assert tuple(found[f"{split}/{n}"] for n in names) == expected
  mean = sum(plain_pope(labels[s], texts[s])[3] for s in texts) / 3
  assert found["f1"] == pytest.approx(mean, abs=1e-15)


@pytest.mark.slow
def test_9000_answers_in_2_seconds(put):
  import time

  from povid_jax.eval import answers, bootstrap

  for split in ("random", "popular", "adversarial"):
    rows = [
      _row(i, ("yes", "no")[i % 2], image=f"{i // 6}.jpg") for i in range(3000)
    ]
    data = put(f"pope/coco_pope_{split}.json", rows).parent
  start = time.monotonic()
  options = Options()
  asked = BENCHMARK.questions(data, options)
  rows = [{"question_id": q.question_id, "text": "Yes"} for q in asked]
  matched = answers.match(asked, rows, BENCHMARK)
  scored = BENCHMARK.score(data, matched.questions, matched.answers, options)
  bootstrap.intervals(BENCHMARK, scored.units, options)
  assert time.monotonic() - start < 2


@pytest.mark.parametrize("name", ["../a.jpg", "/etc/passwd"])
def test_a_picture_outside_its_folder_is_refused(name, put, run):
  rows = [_row(0, "yes", image=name)]
  data = put("pope/coco_pope_random.json", rows).parent
  with pytest.raises(UserError, match="want a name inside"):
    run(BENCHMARK, data, _answers("yes"))


def test_answers_that_say_neither_are_counted(put, capsys):
  data = put("pope/coco_pope_random.json", [_row(i, "yes") for i in range(3)])
  questions = BENCHMARK.questions(data.parent, Options())
  for clean, meaning in ((False, "each counts as a yes"), (True, "wrong")):
    options = Options(clean_rules=clean)
    said = ["yes", "perhaps", None]
    scored = BENCHMARK.score(data.parent, questions, said, options)
    (note,) = scored.notes
    assert note.startswith("2 of 3 answers") and note.endswith(meaning)
