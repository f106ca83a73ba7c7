"""MME: reading of answers, pairs of questions, sums of subtasks."""

import random

import pytest

from povid_jax.errors import UserError
from povid_jax.eval import answers
from povid_jax.eval.benchmarks.mme import (
  BENCHMARK,
  SUBTASKS,
  clean_reading,
  reading,
)
from povid_jax.eval.protocol import Options

# answer: (the original's reading, the clean one)
READINGS = {
  "Yes": ("yes", "yes"),
  "no": ("no", "no"),
  "Yes.": ("yes", "yes"),
  "NO!": ("no", "no"),
  " yes, it is": ("yes", "yes"),
  "Not really": ("no", "other"),
  "It is: yes": ("other", "yes"),
  "a yes": ("other", "yes"),
  "I no": ("no", "no"),
  "noyes": ("no", "other"),
  "nyes": ("yes", "other"),
  "know": ("no", "other"),
  "": ("other", "other"),
  "  yes": ("other", "yes"),  # its first four characters are "  ye"
  "no\n": ("no", "no"),
}


@pytest.mark.parametrize("answer", READINGS)
def test_reading(answer):
  assert (reading(answer), clean_reading(answer)) == READINGS[answer]


def _file(*rows):
  return "".join("\t".join(row) + "\n" for row in rows)


ASK = "Is it so? Please answer yes or no."
PAIRS = _file(
  ("a.jpg", ASK, "Yes"),
  ("a.jpg", ASK, "No"),
  ("b.jpg", ASK, "Yes"),
  ("b.jpg", ASK, "No"),
)


def _rows(*texts, subtask="existence", pictures="aabb"):
  return [
    {"question_id": f"{subtask}/{p}.jpg", "text": text}
    for p, text in zip(pictures, texts, strict=True)
  ]


# four answers: accuracy, accuracy_plus, score
SCORES = {
  "all right": (("Yes", "No", "Yes", "No"), (1, 1, 200)),
  "one of a pair": (("Yes", "No", "Yes", "Yes"), (3 / 4, 1 / 2, 125)),
  "one of each pair": (("Yes", "Yes", "No", "No"), (1 / 2, 0, 50)),
  "always yes": (("Yes",) * 4, (1 / 2, 0, 50)),
  "other is wrong": (("so", "No", "", "No"), (1 / 2, 0, 50)),
}


@pytest.mark.parametrize("case", SCORES)
def test_scores(case, put, run):
  texts, expected = SCORES[case]
  data = put("mme/existence.txt", PAIRS).parent
  found = run(BENCHMARK, data, _rows(*texts))
  names = ("accuracy", "accuracy_plus", "score")
  assert tuple(found[f"existence/{n}"] for n in names) == expected
  assert found["perception"] == expected[2]
  assert "cognition" not in found


def test_sums(put, run):
  for subtask in ("existence", "OCR", "code_reasoning"):
    data = put(f"mme/{subtask}.txt", PAIRS).parent
  rows = [
    row
    for subtask in ("existence", "OCR", "code_reasoning")
    for row in _rows("Yes", "No", "Yes", "Yes", subtask=subtask)
  ]
  found = run(BENCHMARK, data, rows)
  assert (found["perception"], found["cognition"]) == (250, 125)


CROSSED = _file(
  ("a.jpg", ASK, "Yes"),
  ("b.jpg", ASK, "Yes"),
  ("a.jpg", ASK, "No"),
  ("b.jpg", ASK, "No"),
)


def test_pairs_are_consecutive_lines_or_by_name_with_clean_rules(put, run):
  data = put("mme/count.txt", CROSSED).parent
  rows = _rows("Yes", "Yes", "Yes", "Yes", subtask="count", pictures="abab")
  assert run(BENCHMARK, data, rows)["count/accuracy_plus"] == 0.5
  found = run(BENCHMARK, data, rows, clean_rules=True)
  assert found["count/accuracy_plus"] == 0


def test_llava_suffix_replaces_the_files_own(put):
  data = put("mme/existence.txt", PAIRS).parent
  asked = BENCHMARK.questions(data, Options(limit=1))
  assert [q.question_id for q in asked] == [
    "existence/a.jpg#0",
    "existence/a.jpg#1",
  ]
  assert asked[0].text == (
    "Is it so?\nAnswer the question using a single word or phrase."
  )


def test_answers_in_the_tools_layout_and_back(put, tmp_path, run):
  data = put("mme/existence.txt", PAIRS).parent
  asked = BENCHMARK.questions(data, Options())
  given = ["Yes", "No\nnever", "No", "Yes"]
  BENCHMARK.write(tmp_path, data, asked, given)
  folder = tmp_path / "mme_submission"
  lines = (folder / "existence.txt").read_text().splitlines()
  assert lines[1].split("\t") == ["a.jpg", ASK, "No", "No never"]
  rows = answers.read(folder, BENCHMARK)
  assert run(BENCHMARK, data, rows)["existence/score"] == 100


BAD = {
  "columns": ("a.jpg\tq\n", "line 1 has 2 columns, want 3"),
  "odd": (_file(("a.jpg", ASK, "Yes")), "1 questions, want an even number"),
  "truth": (_file(("a", ASK, "Yes"), ("a", ASK, "2")), "truth '2', want Yes"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_file_is_named(case, put):
  text, message = BAD[case]
  data = put("mme/existence.txt", text).parent
  with pytest.raises(UserError, match=message) as caught:
    BENCHMARK.questions(data, Options())
  assert "existence.txt" in str(caught.value)


def test_answers_without_prediction_are_named(put):
  folder = put("run/existence.txt", PAIRS).parent
  with pytest.raises(UserError, match="3 columns, want 4.*prediction"):
    answers.read(folder, BENCHMARK)


def plain_mme(lines):
  """The published calculation once more: 100 accuracy + 100 accuracy_plus."""
  right = []
  for _, _, truth, said in lines:
    said, truth = said.lower(), truth.lower()
    if said not in ("yes", "no"):
      start = said[:4]
      said = "yes" if "yes" in start else "no" if "no" in start else "other"
    right.append(said == truth)
  pairs = [right[i] and right[i + 1] for i in range(0, len(right), 2)]
  return sum(right) / len(right) * 100 + sum(pairs) / len(pairs) * 100


def test_agrees_with_a_plain_implementation_on_whole_files(put, run):
  rng, files, rows = random.Random(0), {}, []
  # no blanks at the ends: the tool's lines are stripped
  said = [text for text in READINGS if text == text.strip()]
  for subtask in SUBTASKS:
    lines = [
      (f"{i // 2}.jpg", ASK, ("Yes", "No")[i % 2], rng.choice(said))
      for i in range(60)
    ]
    files[subtask] = lines
    data = put(
      f"mme/{subtask}.txt", _file(*(line[:3] for line in lines))
    ).parent
    rows += [
      {"question_id": f"{subtask}/{line[0]}", "text": line[3]} for line in lines
    ]
  found = run(BENCHMARK, data, rows)
  for subtask, lines in files.items():
    assert found[f"{subtask}/score"] == pytest.approx(
      plain_mme(lines), abs=1e-9
    )
  total = sum(plain_mme(files[s]) for s in SUBTASKS[:10])
  assert found["perception"] == pytest.approx(total, abs=1e-9)
