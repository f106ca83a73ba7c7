"""Every format: its rows become the samples that they mean."""

import json
from typing import Any

import pytest

from povid_jax.data import formats
from povid_jax.data.pairs import Sample, split_turns, write_samples
from povid_jax.data.records import Rejected
from povid_jax.data.samples import Layout, read_samples
from povid_jax.errors import UserError
from tests.data.format_rows import (
  ASKED,
  CASES,
  PAIR,
  ROWS,
  C,
  Q,
  R,
  assistant,
  gpt,
  human,
  parts,
  read,
  user,
)


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
      r"more_rejected\[0\]\[0\].value differs from the one in conversations",
    ),
  ],
)
def test_what_stands_beside_a_pair_is_checked(tmp_path, more, words):
  with pytest.raises(UserError, match=f"id '7', {words}"):
    read(tmp_path, [beside(**more)])


@pytest.mark.parametrize(
  ("row", "turns"),
  [
    (
      {"conversation": [{"human": ASKED, "assistant": C}], "system": "S"},
      (ASKED, C),
    ),
    ({"instruction": ASKED, "input": "", "output": C}, (ASKED, C)),
    (
      {"instruction": ASKED, "input": "Say.", "output": C},
      (f"{ASKED}\nSay.", C),
    ),
  ],
)
def test_other_chats_of_ms_swift(tmp_path, row, turns):
  row = row | {"rejected_response": R, "images": ["0.jpg"]}
  (sample,) = read(tmp_path, [row])
  assert sample.turns == turns and sample.rejected == (turns[0], R)
  assert sample.system == row.get("system")


SENTINEL_FOR_LLAMA_FACTORY = {
  "instruction": f"<image>{Q}",
  "chosen": C,
  "rejected": R,
  "images": ["0.jpg"],
}


@pytest.mark.parametrize(
  ("said", "context", "end"),
  [
    ("A table. ", "A table.", False),
    ("", "", None),
    (None, "", None),
  ],
)
def test_sentinel_in_llama_factorys_layout(tmp_path, said, context, end):
  row = SENTINEL_FOR_LLAMA_FACTORY | {"context": said}
  lines: list[str] = []
  (sample,) = read(tmp_path, [row], lines.append)
  assert (sample.context, sample.end_scored) == (context, end)
  assert (sample.turns[1], sample.rejected[1]) == (C, R)
  assert "1 rows of LLaMA-Factory; 1 pairs" in lines[0]


@pytest.mark.parametrize(
  "row",
  [
    ROWS["trl"][0] | {"images": None},
    ROWS["trl"][2] | {"images": []},
    ROWS["ms_swift"][0] | {"images": None},
  ],
)
@pytest.mark.parametrize(
  "part",
  [
    {"type": "image", "image": "0.jpg"},
    {"type": "image_url", "image_url": {"url": "0.jpg"}},
    {"type": "image_url", "image_url": "0.jpg"},
    {"type": "image", "image": {"bytes": None, "path": "0.jpg"}},
  ],
)
def test_pictures_inside_a_message(tmp_path, row, part):
  asked = user([part, *parts(Q)])
  row = json.loads(json.dumps(row))
  for key in ("prompt", "chosen", "rejected", "messages"):
    if key in row and row[key][0]["role"] == "user":
      row[key][0] = asked
  (sample,) = read(tmp_path, [row])
  assert [p.read() for p in sample.images] == [b"picture"]
  assert sample.turns == (ASKED, C) and sample.rejected == (ASKED, R)


@pytest.mark.parametrize(
  ("more", "rejected"),
  [
    ({"rejected_response": R}, R),
    ({}, None),
    ({"rejected_response": None}, None),
  ],
)
def test_ms_swift_query_and_response(tmp_path, more, rejected):
  row = {"query": "And?", "response": C, "history": [[f"<image>{Q}", "Yes."]]}
  row |= {"images": ["0.jpg"], "system": "Be kind.", **more}
  said: list[str] = []
  (sample,) = read(tmp_path, [row], said.append)
  turns = (f"<image>{Q}", "Yes.", "And?")
  assert sample.turns == (*turns, C) and sample.system == "Be kind."
  assert sample.rejected == (None if rejected is None else (*turns, rejected))
  assert "1 rows of ms-swift" in said[0]


@pytest.mark.parametrize(
  ("role", "row"),
  [
    ("tool", ROWS["ms_swift"][0]),
    ("tool_call", ROWS["ms_swift"][1]),
    ("observation", ROWS["llama_factory"][0]),
    ("function_call", ROWS["povid"][0]),
  ],
)
def test_roles_that_are_not_spoken_are_refused(tmp_path, role, row):
  row = json.loads(json.dumps(row))
  turns = row["messages" if "messages" in row else "conversations"]
  turns[0]["role" if "role" in turns[0] else "from"] = role
  with pytest.raises(UserError, match=f"is '{role}'; want 'human'"):
    read(tmp_path, [row])
