"""Rules of all formats: pictures, ids, containers, what is refused."""

import base64
import json

import pytest

from povid_jax.data import formats
from povid_jax.data.samples import read_samples
from povid_jax.errors import UserError
from tests.data.format_rows import (
  ASKED,
  PAIR,
  ROWS,
  C,
  Q,
  R,
  assistant,
  gpt,
  human,
  read,
  user,
)


def test_pictures_in_base64(tmp_path):
  data = b"\x89PNG" + bytes(4000)
  text = base64.b64encode(data).decode()
  for value in (
    f"data:image/png;base64,{text}",
    text,
    {"bytes": text, "path": "a.png"},
    [f"data:image/png;base64,{text}"],
  ):
    row = {"image": value, "question": Q, "chosen": C, "rejected": R}
    assert read(tmp_path, [row])[0].images[0].read() == data


def test_any_table_by_its_columns(tmp_path):
  row = {"photo": "0.jpg", "p": Q, "answers": {"good": C, "bad": R}, "n": 3}
  said: list[str] = []
  columns = "image=photo,question=p,chosen=answers.good,rejected=answers.bad"
  (sample,) = read(tmp_path, [row], said.append, columns=f"id=n,{columns}")
  assert (sample.id, sample.turns) == ("3", (ASKED, C))
  assert sample.rejected == (ASKED, R)
  with pytest.raises(
    UserError, match="no column 'gone'; the columns are photo, p"
  ):
    read(tmp_path, [row], columns=columns.replace("photo", "gone"))
  for flag, words in [
    ("question=p", "chosen missing"),
    ("quest=p", "want NAME=COLUMN with one of the names id, image"),
    ("question=p,question=q,chosen=c", "given twice"),
  ]:
    with pytest.raises(UserError, match=words):
      read(tmp_path, [row], columns=flag)
  with pytest.raises(UserError, match="want one of povid, "):
    read(tmp_path, [row], format="nope")


@pytest.mark.parametrize(
  ("more", "key"),
  [
    ({"rejected": R}, "rejected"),
    ({"rejected_response": R}, "rejected_response"),
    ({"chosen": C, "rejected": R}, "chosen"),
    ({"dispreferred": [gpt(R)]}, "dispreferred"),
    ({"losing_answer": R}, "losing_answer"),
    ({"response_rejected": R}, "response_rejected"),
  ],
)
def test_a_rejected_answer_is_never_dropped(tmp_path, more, key):
  row = {"id": "a", "image": "0.jpg", "conversations": PAIR[0]}
  with pytest.raises(UserError, match=f"id 'a', key '{key}' seems to hold"):
    read(tmp_path, [row | more])
  with pytest.raises(UserError, match="seems to hold"):
    read(tmp_path, [row | more], format="llava")
  for harmless in ({"rejected": None}, {"rejected_score": 3}, {"chosen": ""}):
    assert read(tmp_path, [row | harmless])[0].rejected is None


@pytest.mark.parametrize(
  ("row", "words"),
  [
    (
      {"image": "0.jpg", "question": Q, "chosen": C},
      "closest to SPA-VL, where rejected is missing",
    ),
    (ROWS["spa_vl"][0] | {"rejected": None}, "SPA-VL, where rejected is null"),
    (ROWS["trl"][0] | {"chosen": None}, "TRL, where chosen is null"),
    ({"question_id": 1, "text": "x"}, "looks like answers or questions"),
    ({"a": 1, "b": 2}, "keys a, b: no known preference format has these keys"),
    ({"images": [], "annotations": []}, "looks like COCO's annotations"),
    ({"prompt": Q, "completion": C}, "prompt-completion"),
    (ROWS["spa_vl"][0] | {"image": "http://x/0.jpg"}, "not downloaded"),
    (ROWS["spa_vl"][0] | {"chosen": " "}, "chosen is empty"),
    (
      ROWS["ms_swift"][1] | {"rejected_images": ["1.jpg"]},
      "rejected_images differ",
    ),
    (
      ROWS["trl"][2] | {"rejected": [user("Other?"), assistant(R)]},
      r"rejected\[0\].value differs from the one in chosen",
    ),
  ],
)
def test_a_refusal_names_what_a_row_looks_like(tmp_path, row, words):
  with pytest.raises(UserError, match=words):
    read(tmp_path, [row])


def test_made_ids_stay_when_rows_are_appended(tmp_path):
  row = ROWS["spa_vl"][0]
  rows = [row, row | {"rejected": "No."}, row]
  ids = [s.id for s in read(tmp_path, rows)]
  assert len(set(ids)) == 3
  more = [*rows, row, row | {"chosen": "Yes."}]
  assert [s.id for s in read(tmp_path, more)][:3] == ids


def test_formats_in_one_file_are_counted(tmp_path):
  said: list[str] = []
  read(tmp_path, [ROWS["trl"][0], ROWS["spa_vl"][0]], said.append)
  assert "1 of TRL, 1 of SPA-VL; 2 pairs" in said[0]


def test_a_json_file_of_lines(tmp_path):
  path = tmp_path / "lines.json"
  rows = [ROWS["spa_vl"][0], ROWS["spa_vl"][0] | {"question": "Why?"}]
  path.write_text("\n".join(map(json.dumps, rows)))
  assert [s.turns[0] for s in read_samples(path)] == [ASKED, "<image>\nWhy?"]
  path.write_text("\n".join(map(json.dumps, [*rows, 3])))
  with pytest.raises(UserError, match="line 3: is a number"):
    read_samples(path)


@pytest.mark.parametrize("mark", [",", "\t"])
def test_tables_of_text(tmp_path, mark):
  path = tmp_path / ("t.tsv" if mark == "\t" else "t.csv")
  lines = [["image", "question", "chosen", "rejected"], ["0.jpg", Q, C, R]]
  path.write_text("\n".join(mark.join(line) for line in lines))
  (sample,) = read_samples(path)
  assert sample.turns == (ASKED, C) and sample.rejected == (ASKED, R)


@pytest.mark.parametrize("mark", [",", "\t"])
def test_a_text_that_falls_apart_is_refused(tmp_path, mark):
  path = tmp_path / ("t.tsv" if mark == "\t" else "t.csv")
  names = ["image", "question", "chosen", "rejected"]
  said = mark.join(["0.jpg", Q, C, f"A dog{mark} a cat."])
  path.write_text(f"{mark.join(names)}\n{said}\n")
  with pytest.raises(UserError, match="row 0: 5 cells, .* names 4 columns"):
    read_samples(path)
  # cells that are empty hold nothing
  path.write_text(
    f"{mark.join(names)}\n{mark.join(['0.jpg', Q, C, R, '', ''])}\n"
  )
  assert len(list(read_samples(path))) == 1


WHOLE = [(name, rows[0]) for name, rows in ROWS.items()]


@pytest.mark.parametrize(("name", "row"), WHOLE)
@pytest.mark.parametrize(
  "key", ["rejected_2", "dispreferred", "worse_answer", "y_l", "Rejected3"]
)
def test_every_format_refuses_to_drop_an_answer(tmp_path, name, row, key):
  with pytest.raises(UserError, match=f"key '{key}' seems to hold a chosen or"):
    read(tmp_path, [row | {key: "A spoon."}])
  read(tmp_path, [row | {key: None}])


@pytest.mark.parametrize(("name", "row"), WHOLE)
def test_no_format_drops_a_context(tmp_path, name, row):
  row = row | {"context": "A table."}
  forms = formats.FORMATS[name]
  if "context" in forms.reads:
    assert read(tmp_path, [row], format=name)[0].context == "A table."
    return
  with pytest.raises(UserError, match="'context' seems to hold the answer so"):
    read(tmp_path, [row], format=name)


@pytest.mark.parametrize("key", ["label", "kto_tag"])
@pytest.mark.parametrize("good", [True, False])
def test_a_bad_answer_is_not_trained_on_as_a_right_one(tmp_path, key, good):
  for row in (
    {"messages": [user(Q), assistant(C)]},
    {"conversations": [human(Q), gpt(C)]},
    {"instruction": Q, "input": "", "output": C},
  ):
    with pytest.raises(UserError, match=f"{key}' seems to hold whether the"):
      read(tmp_path, [row | {key: good}])
    assert len(read(tmp_path, [row | {key: "animals"}])) == 1


@pytest.mark.parametrize("name", ["spa_vl", "rlaif_v", "mmpr", "sentinel"])
def test_a_list_of_rejected_answers_shares_the_question(tmp_path, name):
  key = "y_lose" if name == "sentinel" else "rejected"
  row = ROWS[name][0] | {key: [R, "A spoon."]}
  (sample,) = read(tmp_path, [row], format=name)
  turns = sample.turns[:1]
  assert "<image>" in turns[0] and sample.rejected == (*turns, R)
  assert [m.turns for m in sample.more_rejected] == [(*turns, "A spoon.")]
  if name != "sentinel":
    assert read(tmp_path, [row]) == [sample]
  for bad, words in (([], "is an empty list"), ([R, 3], r"\[1\] is a number")):
    with pytest.raises(UserError, match=f"{key}.*{words}|{words}"):
      read(tmp_path, [row | {key: bad}], format=name)


def test_columns_may_hold_several_rejected_answers(tmp_path):
  row = {"photo": "0.jpg", "p": Q, "good": C, "bad": [R, "A spoon."]}
  columns = "image=photo,question=p,chosen=good,rejected=bad"
  said: list[str] = []
  (sample,) = read(tmp_path, [row], said.append, columns=columns)
  assert sample.rejected == (ASKED, R)
  assert [m.turns for m in sample.more_rejected] == [(ASKED, "A spoon.")]
  assert "1 rows of the columns given; 2 pairs" in said[0]


def test_a_context_by_its_column(tmp_path):
  row = {"p": Q, "so_far": "A table.", "good": C, "bad": R}
  columns = "question=p,context=so_far,chosen=good,rejected=bad"
  (sample,) = read(tmp_path, [row], columns=columns)
  assert (sample.context, sample.end_scored) == ("A table.", False)


@pytest.mark.parametrize(("name", "row"), WHOLE)
def test_pictures_as_datasets_stores_them(tmp_path, name, row):
  """A path or bytes, one or several, in every format that names pictures."""
  data = base64.b64encode(b"\x89PNG" + bytes(90)).decode()
  for key in ("image", "images", "image_path"):
    if key not in row:
      continue
    several = isinstance(row[key], list)
    for held, want in (
      ({"bytes": None, "path": "0.jpg"}, b"picture"),
      ({"bytes": data, "path": "x.png"}, base64.b64decode(data)),
    ):
      given = row | {key: [held] if several else held}
      if key == "image_path":
        continue
      (sample,) = read(tmp_path, [given])
      assert [p.read() for p in sample.images] == [want]
    if several:
      mark = lambda said: said.replace("<image>", "<image><image>", 1)
      two = json.loads(mark(json.dumps(row | {key: ["0.jpg"] * 2})))
      (sample,) = read(tmp_path, [two])
      assert len(sample.images) == 2


@pytest.mark.parametrize("ending", [".json", ".jsonl", ".csv"])
def test_empty_files_and_rows_of_null(tmp_path, ending):
  path = tmp_path / f"t{ending}"
  path.write_text("")
  if ending == ".json":
    with pytest.raises(UserError, match="t.json"):
      read_samples(path)
  else:
    assert read_samples(path) == []
  if ending == ".csv":
    return
  rows = [ROWS["spa_vl"][0], None]
  path.write_text(
    json.dumps(rows) if ending == ".json" else "\n".join(map(json.dumps, rows))
  )
  with pytest.raises(UserError, match="is null; want an object"):
    read_samples(path)
  errors: list[UserError] = []
  assert len(read_samples(path, errors.append)) == 1 and len(errors) == 1


@pytest.mark.parametrize(("name", "row"), WHOLE)
def test_ids_of_every_format_stay_when_rows_are_appended(tmp_path, name, row):
  rows = [row, row]
  before = [s.id for s in read(tmp_path, rows)]
  after = [s.id for s in read(tmp_path, [*rows, row, ROWS["trl"][3]])]
  assert after[:2] == before
  if name != "povid":  # its ids are its own
    assert len(set(after)) == 4
