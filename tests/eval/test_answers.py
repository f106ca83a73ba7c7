"""Answers of every format, matched to questions; bad ones named."""

import pytest

from povid_jax.data.questions import Question
from povid_jax.errors import UserError
from povid_jax.eval import answers
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
  "text.jsonl": ("not json\n", "line 1 is not JSON"),
  "list.jsonl": ("[1]\n[2]\n", "expected a list|not a JSON object|is not JSON"),
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
  with pytest.raises(UserError, match="cannot read"):
    answers.read(tmp_path / "none.jsonl", BENCHMARK)
  with pytest.raises(UserError, match="a folder without test.jsonl"):
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
  with pytest.raises(UserError, match="2 answers are for ids .* 8, 9"):
    answers.match(_questions(1), rows, BENCHMARK)
  found = answers.match(_questions(1), rows, BENCHMARK, ignore_unknown=True)
  assert found.answers == ["a"]


def test_an_answer_given_twice_counts_once_and_two_answers_are_refused():
  found = answers.match(_questions(1), _rows((1, "a"), (1, "a")), BENCHMARK)
  assert found.answers == ["a"]
  assert found.notes == ["1 answers were given twice and count once"]
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
