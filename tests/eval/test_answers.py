"""Answers of every format, matched to questions; bad ones named."""

import csv
from pathlib import Path

import pytest

from povid_jax.data.questions import Question
from povid_jax.errors import UserError
from povid_jax.eval import answers
from povid_jax.eval.answer_formats import rows_of
from povid_jax.eval.benchmarks.xlsx import write_xlsx
from povid_jax.eval.protocol import Benchmark

BENCHMARK = Benchmark("test", "Test", (), lambda totals, options: iter(()))

FORMATS = {
  "llava.jsonl": '{"question_id": 1, "prompt": "?", "text": "a"}\n\n',
  "released.jsonl": '{"id": 1, "question": "?", "answer": "a", "model": "m"}\n',
  "chair.json": '[{"image_id": 1, "caption": "a"}]',
  "chair_original.json": '{"overall": {}, "imgToEval": {"0": {"image_id": 1, '
  '"caption": "a"}}}',
  "amber.json": '[{"id": 1, "response": "a"}]',
  "mmbench.json": '[{"index": 1, "prediction": "a"}]',
  "hallusion.json": '[{"id": 1, "answer": "truth", "model_prediction": "a"}]',
  "mapping.json": '{"1": "a"}',
  "lines.json": '{"question_id": 1, "text": "a"}\n'
  '{"question_id": 2, "text": "b"}',
  "bom.jsonl": '\ufeff{"question_id": 1, "text": "a"}',
}


@pytest.mark.parametrize("name", FORMATS)
def test_format(name, put):
  row = answers.read(put(name, FORMATS[name]), BENCHMARK)[0]
  assert str(BENCHMARK.row_id(row)) == "1"
  assert answers.text_of(row) == "a"


def test_a_line_separator_inside_a_text_is_no_new_line(put):
  path = put("a.jsonl", '{"question_id": 1, "text": "a\u2028b"}\n')
  assert answers.read(path, BENCHMARK)[0]["text"] == "a\u2028b"


def test_rows_of_other_benchmarks_are_passed_over(put):
  rows = [{"benchmark": b, "question_id": 1, "text": b} for b in ("x", "test")]
  found = answers.read(put("answers.jsonl", rows), BENCHMARK)
  assert [row["text"] for row in found] == ["test"]


def test_folder_has_a_file_per_benchmark(put):
  folder = put("run/test.jsonl", [{"question_id": 1, "text": "a"}]).parent
  assert len(answers.read(folder, BENCHMARK)) == 1


BAD_FILES = {
  "text.jsonl": ("not json\n", "line 1: not JSON"),
  "list.jsonl": ("[1]\n[2]\n", "expected a list|not a JSON object"),
  "number.json": ("3", "expected a list of answers"),
  "no_text.jsonl": (
    '{"question_id": 1}',
    "answer 1 .fields question_id. has no",
  ),
  "latin.jsonl": ('{"question_id": 1, "text": "é"}'.encode("latin-1"), "UTF-8"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_file_is_named(name, put):
  content, message = BAD_FILES[name]
  with pytest.raises(UserError, match=message) as caught:
    answers.read(put(name, content), BENCHMARK)
  assert name in str(caught.value)


def test_missing_file_and_empty_folder_are_named(tmp_path):
  with pytest.raises(UserError, match="No such file"):
    answers.read(tmp_path / "none.jsonl", BENCHMARK)
  with pytest.raises(
    UserError, match="a folder that contains none of test.jsonl"
  ):
    answers.read(tmp_path, BENCHMARK)


def _questions(*ids, **extra):
  return [Question(i, (), "?", dict(extra)) for i in ids]


def _rows(*pairs):
  return [{"question_id": i, "text": text} for i, text in pairs]


def test_order_does_not_matter():
  rows = _rows(("2", "b"), (1, "a"))
  assert answers.match(_questions(1, 2), rows, BENCHMARK).answers == ["a", "b"]


def test_an_alias_that_is_the_id_is_no_second_question():
  """Picture 1 in the file 1.jpg."""
  matched = answers.match(
    _questions(1, aliases=("1", "1.jpg")), _rows(("1", "a")), BENCHMARK
  )
  assert (matched.answers, matched.notes) == (["a"], [])


def test_missing_answers_by_each_rule():
  asked, rows = _questions(1, 2, 3), _rows((2, "b"))
  with pytest.raises(UserError, match="2 of 3 questions have no answer: 1, 3;"):
    answers.match(asked, rows, BENCHMARK)
  skipped = answers.match(asked, rows, BENCHMARK, "skip")
  assert ([q.question_id for q in skipped.questions], skipped.answers) == (
    [2],
    ["b"],
  )
  assert skipped.notes == ["2 of 3 questions have no answer"]
  empty = answers.match(asked, rows, BENCHMARK, "empty")
  assert empty.answers == [None, "b", None]


def test_unknown_ids_are_named_or_passed_over():
  rows = _rows((1, "a"), (8, "x"), (9, "y"))
  with pytest.raises(UserError, match="2 answers have ids .* 8, 9"):
    answers.match(_questions(1), rows, BENCHMARK)
  found = answers.match(_questions(1), rows, BENCHMARK, ignore_unknown=True)
  assert found.answers == ["a"]


def test_an_answer_given_twice_counts_once_and_two_answers_are_refused():
  found = answers.match(_questions(1), _rows((1, "a"), (1, "a")), BENCHMARK)
  assert found.answers == ["a"]
  assert found.notes == ["1 answers occur twice and count once"]
  with pytest.raises(UserError, match="two different answers for question 1"):
    answers.match(_questions(1), _rows((1, "a"), (1, "b")), BENCHMARK)


def test_official_ids_that_repeat_go_to_questions_in_turn():
  asked = [Question(f"s{i}", (), "?", {"official_id": i % 2}) for i in range(4)]
  rows = _rows((0, "a"), (1, "b"), (1, "d"), (0, "c"))
  assert answers.match(asked, rows, BENCHMARK).answers == ["a", "b", "c", "d"]


def test_an_answer_that_repeats_its_question_finds_it_among_equal_ids():
  short = "\nAnswer the question using a single word or phrase."
  asked = [
    Question(f"{text}{i}", (), f"Is it {text}?{short}", {"official_id": i})
    for text in "ab"
    for i in range(2)
  ]
  rows = [
    {"question_id": 1, "prompt": "<image>\nIs it  b?", "text": "b1"},
    {"question_id": 0, "question": asked[2].text, "text": "b0"},
    {
      "question_id": 0,
      "prompt": "Is it A? Please answer yes or no.",
      "text": "a0",
    },
    {"question_id": 1, "text": "a1"},
  ]
  found = answers.match(asked, rows, BENCHMARK)
  assert found.answers == ["a0", "a1", "b0", "b1"]
  (note,) = found.notes
  assert note.startswith("1 answers have an id that several questions have")


def test_rows_without_ids_go_by_order():
  rows = [{"question": "?", "answer": text} for text in "ab"]
  found = answers.match(_questions(1, 2), rows, BENCHMARK)
  assert found.answers == ["a", "b"]
  with pytest.raises(UserError, match="2 answers for 3 questions"):
    answers.match(_questions(1, 2, 3), rows, BENCHMARK)


def test_no_answers_at_all():
  with pytest.raises(UserError, match="1 of 1 questions have no answer"):
    answers.match(_questions(1), [], BENCHMARK)


POPE = {
  i + 1: (f"{i // 2}.jpg", f"Is there a {animal} in the image?", label)
  for i in range(8)
  for animal, label in [(("cat", "no"), ("dog", "yes"))[i % 2]]
}
SAID = {i: "No, not one." if i % 2 else "Yes, there is." for i in POPE}


def _pope() -> list[Question]:
  return [
    Question(i, (Path(image),), text, {"label": label, "image": image})
    for i, (image, text, label) in POPE.items()
  ]


def _matched(path, field=None):
  rows = answers.read(path, BENCHMARK, field)
  return answers.match(_pope(), rows, BENCHMARK)


def test_samples_of_lmms_eval(put):
  for keep in ("doc", "input"):
    rows = []
    for number, (i, (image, text, label)) in enumerate(POPE.items()):
      doc = {"question_id": i, "image": image, "text": text, "label": label}
      row = {"doc_id": number, "target": label, "filtered_resps": [SAID[i]]}
      row |= {"resps": [[SAID[i]]], "input": text}
      rows.append(row | ({"doc": doc} if keep == "doc" else {}))
    found = _matched(put(f"{keep}.jsonl", rows))
    assert found.answers == list(SAID.values())
  moved = [row | {"input": "Is there a cow?"} for row in rows]
  with pytest.raises(UserError, match="repeats another question|by order"):
    _matched(put("moved.jsonl", moved[1:]))


@pytest.mark.parametrize("ending", [".xlsx", ".tsv", ".csv"])
def test_tables_of_vlmevalkit(tmp_path, ending):
  names = ["index", "image_path", "question", "answer", "prediction"]
  lines = [
    [1000 + i, image, text, label.capitalize(), SAID[i]]
    for i, (image, text, label) in POPE.items()
  ]
  path = tmp_path / f"m_POPE{ending}"
  if ending == ".xlsx":
    write_xlsx(path, [names, *lines[::-1]])
  else:
    mark = "\t" if ending == ".tsv" else ","
    with open(path, "w", newline="") as file:
      csv.writer(file, delimiter=mark).writerows([names, *lines[::-1]])
  found = _matched(path)
  assert found.answers == list(SAID.values())
  assert "matched by question and picture" in found.notes[0]


@pytest.mark.parametrize("mark", [",", "\t"])
def test_rows_of_a_table_are_whole(tmp_path, mark):
  """Marks inside an answer end no row; a comma that makes a cell is told."""
  path = tmp_path / ("a.csv" if mark == "," else "a.tsv")
  lines = [
    [str(i), f"{said[:2]}\u2028\x0c\x1cNo."]
    for i, said in enumerate(SAID.values())
  ]
  text = "\n".join(
    mark.join(line) for line in [["question_id", "text"], *lines]
  )
  path.write_text(text)
  assert [row["text"] for row in rows_of(path)] == [line[1] for line in lines]
  path.write_text(f"{text}\n7{mark}Yes{mark} a cow.")
  with pytest.raises(UserError, match=r"row \d+: 3 cells, .* names 2 columns"):
    rows_of(path)


def test_a_field_that_holds_the_question_is_no_answer(put):
  rows = [
    {"question_id": i, "text": text, "label": label, "output": SAID[i]}
    for i, (_, text, label) in POPE.items()
  ]
  path = put("a.jsonl", rows)
  with pytest.raises(UserError, match=r"'text' holds the question.*output"):
    _matched(path)
  assert _matched(path, "output").answers == list(SAID.values())
  with pytest.raises(UserError, match="answer 1 has no text 'said'"):
    _matched(path, "said")


def test_a_field_that_holds_the_truth_is_no_answer(put):
  rows = [
    {"question_id": i, "question": text, "answer": label, "reply": SAID[i]}
    for i, (_, text, label) in POPE.items()
  ]
  path = put("a.jsonl", rows)
  with pytest.raises(UserError, match=r"'answer' holds the right answer"):
    _matched(path)
  nested = [{**row, "reply": {"said": [row["reply"]]}} for row in rows]
  found = _matched(put("n.jsonl", nested), "reply.said")
  assert found.answers == list(SAID.values())
  # A model that is right every time, and rows with nothing else in them.
  perfect = [{k: r[k] for k in ("question_id", "answer")} for r in rows]
  assert _matched(put("p.jsonl", perfect)).answers[0] == POPE[1][2]


@pytest.mark.parametrize(
  ("name", "text", "other"),
  [
    # an instruction or a template around the question
    ("text", "{} Answer with yes or no only.", "answer"),
    ("text", "USER: <image>\n{} ASSISTANT:", "output"),
    ("caption", "Question: {}\nAnswer:", "generated_text"),
    # the right answer in a field that usually has the model's words
    ("response", None, "output"),
    ("text", None, "model_output"),
    # two fields that may be the model's, and differ
    ("caption", "A dog on a chair.", "output"),
    ("prediction", "It is unclear.", "pred"),
  ],
)
def test_a_field_that_may_be_another(put, name, text, other):
  rows = [
    {"question_id": i, name: text.format(q) if text else label, other: SAID[i]}
    for i, (_, q, label) in POPE.items()
  ]
  path = put("a.jsonl", rows)
  with pytest.raises(UserError, match=rf"'{name}' .*--answer-field.*{other}"):
    _matched(path)
  if text and "{}" in text:  # also where the model is right every time
    perfect = [
      row | {other: POPE[i][2].capitalize()} for i, row in enumerate(rows, 1)
    ]
    with pytest.raises(UserError, match=rf"'{name}' holds .*{other}"):
      _matched(put("p.jsonl", perfect))
  assert _matched(path, other).answers == list(SAID.values())
  # what else our own files hold is nobody's answer
  ours = [
    {"question_id": i, "text": label, "answer_id": str(i), "model_id": "m"}
    for i, (_, _, label) in POPE.items()
  ]
  assert _matched(put("ours.jsonl", ours)).answers[0] == POPE[1][2]


def test_a_model_that_repeats_its_question(put):
  rows = [
    {"question_id": i, "text": f"{q} {SAID[i]}", "label": label}
    for i, (_, q, label) in POPE.items()
  ]
  assert _matched(put("a.jsonl", rows)).answers[0] == rows[0]["text"]


def test_a_row_about_the_picture_of_another_question(put):
  rows = [
    {"question_id": i, "text": SAID[i], "image": f"val/{image}"}
    for i, (image, _, _) in POPE.items()
  ]
  assert _matched(put("a.jsonl", rows)).answers == list(SAID.values())
  rows[4]["image"] = "val/0.jpg"
  with pytest.raises(UserError, match="id 5 is about the picture '0'"):
    _matched(put("b.jsonl", rows))
  rows[4]["image"] = "a-name-that-no-question-has.jpg"
  assert _matched(put("c.jsonl", rows)).answers == list(SAID.values())


def test_rows_that_are_counted_in_another_way(put):
  """VLMEvalKit counts from 0: all rows are in the order of the questions."""
  rows = [
    {"index": i - 1, "question": q, "prediction": SAID[i]}
    for i, (_, q, _) in POPE.items()
  ]
  found = _matched(put("a.jsonl", rows))
  assert found.answers == list(SAID.values())
  assert "matched by question and picture" in found.notes[0]


def test_a_row_that_repeats_another_question(put):
  """The ids count from another file: pictures tell, or it is refused."""
  rows = [
    {"question_id": i, "question": text, "text": SAID[i], "image": image}
    for i, (image, text, _) in POPE.items()
  ]
  shifted = [row | {"question_id": i % 8 + 1} for i, row in enumerate(rows, 1)]
  assert _matched(put("a.jsonl", shifted)).answers == list(SAID.values())
  for row in shifted:
    del row["image"]
  assert _matched(put("b.jsonl", shifted)).answers == list(SAID.values())
  with pytest.raises(UserError, match="repeats another question"):
    _matched(put("c.jsonl", shifted[::-1]))  # the order does not tell either


@pytest.mark.parametrize(
  "data", [b"", b"PK\x03\x04" + bytes(99), b"<x/>", b"\xff" * 50]
)
def test_files_that_are_no_xlsx(tmp_path, data):
  path = tmp_path / "a.xlsx"
  path.write_bytes(data)
  with pytest.raises(UserError, match="a.xlsx: not a readable .xlsx table"):
    answers.read(path, BENCHMARK)
