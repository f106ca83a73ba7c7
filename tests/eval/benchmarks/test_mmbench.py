"""MMBench: letters without an LLM, rotations, and the submission file."""

import base64
import csv
import io
import random
import zipfile
from xml.etree import ElementTree

import pytest

from povid_jax.errors import UserError
from povid_jax.eval.benchmarks.mmbench import BENCHMARK, infer, letter, text
from povid_jax.eval.benchmarks.xlsx import write_xlsx
from povid_jax.eval.protocol import Options

CHOICES = {"A": "a cat", "B": "a dog", "C": "a bird", "D": "none"}

# answer: (letter, text, all with clean rules)
READINGS = {
  "B": ("B", None, "B"),
  "b": (None, None, "B"),
  "B.": ("B", None, "B"),
  "(B)": ("B", None, "B"),
  "(B).": ("B", None, "B"),
  "B) a dog": ("B", "B", "B"),
  "Answer: C, yes": ("C", None, "C"),
  ":D": ("D", None, "D"),
  "A": ("A", None, "A"),
  "A it is": ("A", None, "A"),
  "A rather large animal": (None, None, None),
  "A or B": (None, None, None),
  "It is B I think": ("B", None, "B"),
  "Perhaps A or B.": ("B", None, "B"),
  "It is A. Surely so.": ("A", None, "A"),
  "I see a dog": (None, "B", "B"),
  "I see A DOG": (None, "B", "B"),
  "a dog and a cat": (None, None, None),
  "E": ("E", None, "E"),  # no option, so it is wrong
  "B or E": (None, None, None),
  "": (None, None, None),
}


@pytest.mark.parametrize("answer", READINGS)
def test_reading(answer):
  by_letter, by_text, clean = READINGS[answer]
  assert letter(answer) == by_letter
  assert text(answer, CHOICES) == by_text
  assert infer(answer, CHOICES, clean=False) == (by_letter or by_text)
  assert infer(answer, CHOICES, clean=True) == clean


COLUMNS = (
  *("index", "question", "hint", "A", "B", "C", "D", "answer", "category"),
  *("image", "source", "l2-category", "comment", "split"),
)


def _tsv(*rows):
  out = io.StringIO()
  writer = csv.DictWriter(out, COLUMNS, delimiter="\t", lineterminator="\n")
  writer.writeheader()
  for row in rows:
    writer.writerow({"question": "What?", "A": "x", "B": "y", **row})
  return out.getvalue()


def _rows(**texts):
  return [{"question_id": int(i[1:]), "text": t} for i, t in texts.items()]


TWO = _tsv(
  {"index": 1, "answer": "A", "category": "look", "l2-category": "see"},
  {"index": 2, "answer": "B", "category": "think", "l2-category": "see"},
  {"index": 1000001, "answer": "B", "category": "look", "l2-category": "see"},
)


CASES = {
  "every rotation right": (("A", "B", "B"), (1, 1, 1, 1, 1)),
  "one rotation wrong": (("A", "B", "A"), (1 / 2, 2 / 3, 0, 1, 1 / 2)),
  "unread": (("?", "?", "?"), (0, 0, 0, 0, 0)),
}


@pytest.mark.parametrize("case", CASES)
def test_scores(case, put, run):
  (one, two, turned), expected = CASES[case]
  data = put("mmbench/dev.tsv", TWO).parent
  found = run(BENCHMARK, data, _rows(i1=one, i2=two, i1000001=turned))
  names = (
    *("accuracy", "single_accuracy", "category/look", "category/think"),
    "l2-category/see",
  )
  assert tuple(found[n] for n in names) == expected
  assert found["unread"] == (case == "unread")


def test_wording_has_the_hint_and_only_given_options(put):
  table = _tsv({"index": 1, "hint": "Look.", "C": "nan", "D": ""})
  data = put("mmbench/dev.tsv", table).parent
  (asked,) = BENCHMARK.questions(data, Options())
  assert asked.text == (
    "Look.\nWhat?\nA. x\nB. y\n"
    "Answer with the option's letter from the given choices directly."
  )


def test_an_option_that_is_not_there_cannot_be_chosen(put, run):
  data = put("mmbench/dev.tsv", _tsv({"index": 1, "answer": "A"})).parent
  found = run(BENCHMARK, data, _rows(i1="C"))
  assert (found["accuracy"], found["unread"]) == (0, 0)
  # nor does it leave "A" as the only letter
  assert run(BENCHMARK, data, _rows(i1="A, C"))["accuracy"] == 0


def test_pictures_are_decoded_once_per_question(put, tmp_path):
  picture = base64.b64encode(b"picture" * 20).decode()
  table = _tsv(
    {"index": 1, "image": picture},
    {"index": 1000001, "image": "1"},
    {"index": 2, "image": "1"},
  )
  data = put("mmbench/dev.tsv", table).parent
  options = Options(out=tmp_path / "out")
  asked = BENCHMARK.questions(data, options)
  BENCHMARK.prepare(tmp_path / "out", asked, options)
  assert asked[0].images == asked[1].images
  for question in asked:
    assert question.images[0].read_bytes() == b"picture" * 20


def test_bad_picture_and_index_and_two_files_are_named(put, tmp_path):
  data = put("mmbench/dev.tsv", _tsv({"index": 1, "image": "no!" * 40})).parent
  options = Options(out=tmp_path / "out")
  asked = BENCHMARK.questions(data, options)
  with pytest.raises(UserError, match="question 1: its image is not base64"):
    BENCHMARK.prepare(tmp_path, asked, options)
  put("mmbench/test.tsv", _tsv({"index": "x"}))
  with pytest.raises(UserError, match="found dev.tsv, test.tsv"):
    BENCHMARK.questions(data, Options())
  with pytest.raises(UserError, match="index 'x', want a number"):
    BENCHMARK.questions(data, Options(split="test"))


def test_without_truth_there_is_only_the_submission(put, run, tmp_path):
  data = put("mmbench/test.tsv", _tsv({"index": 1}, {"index": 2})).parent
  found = run(BENCHMARK, data, _rows(i1="A", i2="?"))
  assert found == {"unread": 1 / 2}


def _cells(path):
  """A sheet's rows read with the standard library."""
  with zipfile.ZipFile(path) as archive:
    sheet = ElementTree.fromstring(archive.read("xl/worksheets/sheet1.xml"))
  space = "{http://schemas.openxmlformats.org/spreadsheetml/2006/main}"
  return [
    {cell.get("r"): "".join(cell.itertext()) for cell in row}
    for row in sheet.iter(f"{space}row")
  ]


def test_submission_has_llavas_columns(put, tmp_path):
  data = put("mmbench/dev.tsv", TWO).parent
  asked = BENCHMARK.questions(data, Options())
  BENCHMARK.write(tmp_path, data, asked, ["A", "B <&>", None])
  head, first, second, third = _cells(tmp_path / "mmbench_submission.xlsx")
  assert list(head.values()) == [
    *("index", "question", "A", "B", "C", "D", "prediction", "answer"),
    "split",
  ]
  assert (first["A2"], first["G2"], second["G3"]) == ("1", "A", "B <&>")
  assert "G4" not in third


def test_xlsx_is_read_by_openpyxl(tmp_path):
  openpyxl = pytest.importorskip("openpyxl")
  path = tmp_path / "a.xlsx"
  write_xlsx(path, [["a", None, 3], ["x\x00 <y>", " z ", 0.5]])
  sheet = openpyxl.load_workbook(path).active
  rows = [[cell.value for cell in row] for row in sheet.iter_rows()]
  assert rows == [["a", None, 3], ["x <y>", " z ", 0.5]]


def test_columns_beyond_z(tmp_path):
  write_xlsx(tmp_path / "a.xlsx", [list(range(703))])
  (row,) = _cells(tmp_path / "a.xlsx")
  places = list(row)
  assert [places[i] for i in (0, 25, 26, 701, 702)] == [
    *("A1", "Z1", "AA1", "ZZ1", "AAA1")
  ]


def plain_circular(table, said):
  """CircularEval once more: questions with every rotation right."""
  right = {}
  for row, answer in zip(table, said, strict=True):
    base = row["index"] % 1000000
    right[base] = right.get(base, True) and answer == row["answer"]
  return sum(right.values()) / len(right)


def test_agrees_with_a_plain_implementation_on_a_whole_file(put, run):
  rng = random.Random(0)
  table = [
    {"index": base + k * 1000000, "answer": rng.choice("AB")}
    for k in range(2)
    for base in range(1, 300)
  ]
  said = [rng.choice("AAB") for _ in table]
  data = put("mmbench/dev.tsv", _tsv(*table)).parent
  rows = [
    {"question_id": row["index"], "text": text}
    for row, text in zip(table, said, strict=True)
  ]
  rng.shuffle(rows)
  found = run(BENCHMARK, data, rows)
  assert found["accuracy"] == plain_circular(table, said)
