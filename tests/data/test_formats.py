"""One row of every format, as its project lays it out; all values made up."""

import base64
import json
from typing import Any

import pytest

from povid_jax.data import formats
from povid_jax.data.pairs import Sample, split_turns, write_samples
from povid_jax.data.records import Rejected
from povid_jax.data.samples import Layout, read_samples
from povid_jax.errors import UserError

Q, C, R = "What is on the table?", "A red cup.", "A red cup and a knife."
ASKED = f"<image>\n{Q}"


def human(text: str) -> dict[str, Any]:
  return {"from": "human", "value": text}


def gpt(text: str) -> dict[str, Any]:
  return {"from": "gpt", "value": text}


def user(content: Any) -> dict[str, Any]:
  return {"role": "user", "content": content}


def assistant(content: Any) -> dict[str, Any]:
  return {"role": "assistant", "content": content}


def parts(text: str) -> list[dict[str, Any]]:
  return [{"type": "text", "text": text}]


PAIR = [human(ASKED), gpt(C)], [human(ASKED), gpt(R)]
HUB = {"ds_name": "made_up", "origin_dataset": "x", "origin_split": "{}"}
ROWS: dict[str, list[dict[str, Any]]] = {
  "povid": [
    {
      "id": "7",
      "image": "0.jpg",
      "conversations": PAIR[0],
      "rejected_conversations": PAIR[1],
    },
    {
      "image": ["0.jpg"],
      "conversations": PAIR[0],
      "rejected_conversations": PAIR[1],
    },
    {
      "id": "7",
      "images": ["0.jpg"],
      "conversations": [human(f"<ImageHere>{Q}"), gpt(C)],
      "rejected_conversations": [human(f"<ImageHere>{Q}"), gpt(R)],
    },
  ],
  "rlhf_v": [
    {
      "image": {"bytes": None, "path": "0.jpg"},
      "text": json.dumps({"question": Q, "chosen": C, "rejected": R}),
      "idx": 3,
      "image_path": "0.jpg",
      **HUB,
    }
  ],
  "rlaif_v": [
    {
      "image": {"bytes": None, "path": "0.jpg"},
      "question": Q,
      "chosen": C,
      "rejected": R,
      "idx": 3,
      **HUB,
    },
    {
      "image": None,
      "image_path": "0.jpg",
      "question": Q,
      "chosen": C,
      "rejected": R,
      **HUB,
    },
  ],
  "spa_vl": [{"image": "0.jpg", "question": Q, "chosen": C, "rejected": R}],
  "mmpr": [
    {
      "image": "0.jpg",
      "question": ASKED,
      "chosen": C,
      "rejected": R,
      "answer_gt": "cup",
    },
    {
      "image": ["0.jpg"],
      "question": Q,
      "chosen": C,
      "rejected": R,
      "image_wh": [[8, 8]],
    },
  ],
  "ha_dpo": [
    {"image_id": 0, "question": Q, "chosen": C, "reject": R, "correct": False}
  ],
  "sentinel": [
    {"image_id": 0, "question": Q, "context": None, "y_win": C, "y_lose": R}
  ],
  "trl": [
    {
      "images": ["0.jpg"],
      "prompt": [user([{"type": "image"}, *parts(Q)])],
      "chosen": [assistant(parts(C))],
      "rejected": [assistant(parts(R))],
    },
    {
      "images": ["0.jpg"],
      "prompt": [user(Q)],
      "chosen": [assistant(C)],
      "rejected": [assistant(R)],
    },
    {
      "images": ["0.jpg"],
      "chosen": [user(Q), assistant(C)],
      "rejected": [user(Q), assistant(R)],
      "score_chosen": 1.0,
    },
    {"image": "0.jpg", "prompt": Q, "chosen": C, "rejected": R},
  ],
  "llama_factory": [
    {
      "conversations": [human(ASKED)],
      "chosen": gpt(C),
      "rejected": gpt(R),
      "images": ["0.jpg"],
    },
    {
      "messages": [user(ASKED)],
      "chosen": assistant(C),
      "rejected": assistant(R),
      "images": ["0.jpg"],
    },
    {
      "instruction": ASKED,
      "input": "",
      "chosen": C,
      "rejected": R,
      "images": ["0.jpg"],
    },
  ],
  "ms_swift": [
    {
      "messages": [user(ASKED), assistant(C)],
      "rejected_response": R,
      "images": ["0.jpg"],
    },
    {
      "messages": [user(ASKED), assistant(C)],
      "rejected_messages": [user(ASKED), assistant(R)],
      "images": ["0.jpg"],
      "rejected_images": ["0.jpg"],
    },
  ],
}
CASES = [(name, row) for name, rows in ROWS.items() for row in rows]


def read(tmp_path, rows, said=None, **layout) -> list[Sample]:
  path = tmp_path / "in.json"
  path.write_text(json.dumps(rows))
  (tmp_path / "images").mkdir(exist_ok=True)
  (tmp_path / "images/0.jpg").write_bytes(b"picture")
  layout = Layout(str(tmp_path / "images"), **layout)
  return read_samples(path, layout=layout, announce=said)


@pytest.mark.parametrize(("name", "row"), CASES)
def test_every_layout_is_recognised_and_read(tmp_path, name, row):
  said: list[str] = []
  (sample,) = read(tmp_path, [row], said.append)
  assert sample.turns[0].replace("\n", "") == ASKED.replace("\n", "")
  assert (sample.turns[1], sample.rejected) == (C, (sample.turns[0], R))
  assert [p.read() for p in sample.images] == [b"picture"]
  assert sample.id
  title = formats.FORMATS[name].title
  assert f"1 rows of {title}; 1 pairs" in said[0]
  assert read(tmp_path, [row], format=name)[0] == sample


def test_correct_answers_alone(tmp_path):
  row = {"id": "a", "image": "0.jpg", "conversations": PAIR[0], "model": "x"}
  said: list[str] = []
  (sample,) = read(tmp_path, [row], said.append)
  assert (sample.turns, sample.rejected) == ((ASKED, C), None)
  assert sample.extra == {"model": "x"}
  assert "1 rows of LLaVA-Instruct; 0 pairs" in said[0]
  (chat,) = read(tmp_path, [{"messages": [user(Q), assistant(C)]}])
  assert (chat.turns, chat.rejected) == ((Q, C), None)


def rated(text: str, *ratings: str) -> dict[str, Any]:
  aspects = ("Helpfulness", "Ethical Considerations", "Visual Faithfulness")
  notes = {
    aspect: {"Rating": rating, "Rationale": ""}
    for aspect, rating in zip(aspects, ratings, strict=True)
  }
  return {"model": "m", "response": text, "annotations": notes}


@pytest.mark.parametrize("columns", [False, True])
def test_vlfeedback_pairs_every_two_answers_of_different_ratings(
  tmp_path, columns
):
  completions: Any = [
    rated("worst", "1", "5", "1"),
    rated("best", "5", "5", "5"),
    rated("as bad", "1", "5", "1"),
    rated("unrated", "N/A", "5", "1"),
  ]
  if columns:  # as a table holds them
    completions = {k: [c[k] for c in completions] for k in completions[0]}
  row = {"id": "v", "img_path": "/home/author/0.jpg", "prompt": Q}
  row |= {"models": ["m"], "completions": completions}
  (tmp_path / "images/merged_images").mkdir(parents=True)
  (tmp_path / "images/merged_images/v.jpg").write_bytes(b"v")
  said: list[str] = []
  found = read(tmp_path, [row], said.append)
  assert [(s.id, s.turns[1], s.rejected and s.rejected[1]) for s in found] == [
    ("v-0-1", "best", "worst"),
    ("v-1-2", "best", "as bad"),
  ]
  assert found[0].images[0].read() == b"v"
  assert "1 rows of VLFeedback; 2 pairs" in said[0]


def test_ha_dpo_descriptions_and_their_question(tmp_path):
  folder = tmp_path / "images/VG_100K_2"
  folder.mkdir(parents=True)
  (folder / "9.jpg").write_bytes(b"nine")
  held = {"9": {"chosen": ["a.", "b."], "rejected": ["x.", "y."]}}
  found = read(tmp_path, held)
  assert [s.id for s in found] == ["9", "9#2"]
  assert [(s.turns[1], s.rejected[1]) for s in found if s.rejected] == [
    ("a.", "x."),
    ("b.", "y."),
  ]
  assert found[0].turns[0] == found[1].turns[0] != "<image>\n"
  assert found[0].images[0].read() == b"nine"
  right = {"image_id": 1, "question": Q, "chosen": C, "reject": R}
  assert read(tmp_path, [right | {"correct": True}]) == []


def test_sentinel_keeps_the_answer_so_far(tmp_path):
  row = {"question": Q, "context": "A table.", "y_win": C, "y_lose": R}
  one, two = read(tmp_path, {"0": [row | {"type": "y+"}, row]})
  assert (one.context, one.turns[1], one.id) == ("A table.", C, "0")
  assert one.end_scored is False
  (plain,) = read(tmp_path, ROWS["sentinel"])
  assert (plain.context, plain.end_scored) == ("", None)
  assert two.id == "0#2"
  assert one.extra == {"type": "y+"}


@pytest.mark.parametrize(
  "row",
  [
    {
      "conversations": [{"from": "system", "value": "Be kind."}, *PAIR[0]],
      "rejected_conversations": PAIR[1],
    },
    {"messages": [user(Q), assistant(C)], "system": "Be kind."},
    {
      "messages": [{"role": "system", "content": "Be kind."}]
      + [user(Q), assistant(C)]
    },
    {
      "conversations": [human(Q)],
      "chosen": gpt(C),
      "rejected": gpt(R),
      "system": "Be kind.",
    },
  ],
)
def test_the_systems_words_are_kept(tmp_path, row):
  (sample,) = read(tmp_path, [row])
  assert sample.system == "Be kind."
  assert len(sample.turns) == 2


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
  with pytest.raises(UserError, match="no column 'gone'; there are photo, p"):
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
    ({"question_id": 1, "text": "x"}, "looks like answers or questions"),
    ({"a": 1, "b": 2}, "keys a, b: no known preference format has them"),
    ({"images": [], "annotations": []}, "looks like COCO's annotations"),
    ({"prompt": Q, "completion": C}, "prompt-completion"),
    (ROWS["spa_vl"][0] | {"image": "http://x/0.jpg"}, "not downloaded"),
    (ROWS["spa_vl"][0] | {"chosen": " "}, "chosen is empty"),
    (
      ROWS["ms_swift"][1] | {"rejected_images": ["1.jpg"]},
      "rejected_images are others",
    ),
    (
      ROWS["trl"][2] | {"rejected": [user("Other?"), assistant(R)]},
      r"rejected\[0\].value is not the one in chosen",
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


def test_our_own_context_pairs_come_back(tmp_path):
  """What `write_samples` leaves is what is read, for every kind of end."""
  made = [
    Sample(
      f"s{i}",
      ("0.jpg",),
      (ASKED, C),
      (ASKED, R),
      extra={"invented": ["knife"]},
      context=context,
      end_scored=end,
    )
    for i, (context, end) in enumerate(
      [("A table.", False), ("A table.", True), ("", False), ("", None)]
    )
  ]
  path = tmp_path / "pairs.jsonl"
  write_samples(path, made)
  assert read_samples(path) == made
  rows = [json.loads(line) for line in path.read_text().splitlines()]
  assert "context" not in rows[2] and "end_scored" not in rows[3]
  rows[0]["end_scored"] = "no"
  path.write_text(json.dumps(rows[0]) + "\n")
  with pytest.raises(UserError, match="end_scored is a string; want true"):
    read_samples(path)


def beside(**more) -> dict[str, Any]:
  return ROWS["povid"][0] | more


def test_context_weights_and_more_rejected_answers(tmp_path):
  other = {"conversations": [human(ASKED), gpt("No.")], "weight": 0.5}
  row = beside(context="A table. ", end_scored=False, rejected_weight=2)
  row["more_rejected"] = [other]
  (sample,) = read(tmp_path, [row])
  assert (sample.context, sample.end_scored) == ("A table.", False)
  assert sample.rejected_weight == 2.0
  assert sample.more_rejected == (Rejected((ASKED, "No."), 0.5),)
  assert split_turns(sample) == ((ASKED,), (C,), (R,))
  write_samples(tmp_path / "again.jsonl", [sample])
  layout = Layout(str(tmp_path / "images"))
  assert read_samples(tmp_path / "again.jsonl", layout=layout) == [sample]


@pytest.mark.parametrize(
  ("more", "words"),
  [
    ({"context": 3}, "context is a number"),
    ({"end_scored": 1}, "end_scored is a number; want true or false"),
    ({"rejected_weight": -1}, "rejected_weight is -1; want a number"),
    ({"rejected_weight": "1"}, "rejected_weight is '1'; want a number"),
    ({"rejected_weight": float("inf")}, "rejected_weight is inf"),
    ({"more_rejected": "x"}, "more_rejected is a string"),
    (
      {"more_rejected": [{"conversations": [human("?"), gpt("x")]}]},
      r"more_rejected\[0\]\[0\].value is not the one in conversations",
    ),
  ],
)
def test_what_stands_beside_a_pair_is_checked(tmp_path, more, words):
  with pytest.raises(UserError, match=f"id '7', {words}"):
    read(tmp_path, [beside(**more)])
