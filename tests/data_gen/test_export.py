"""Exported pairs come back as they were; what a format cannot say is told."""

import json

import pytest

from data_gen import __main__ as cli
from povid_jax.data.pairs import Sample, write_samples
from povid_jax.data.records import Rejected
from povid_jax.data.samples import Layout, read_samples
from povid_jax.errors import UserError

Q = "<image>\nWhat is it?"


@pytest.fixture
def world(tmp_path, photos):
  images = tmp_path / "images"
  images.mkdir()
  photos.make_images(images, 2)
  asked = ("<image>\nSee?", "Yes.", "And <image>?")
  made = [
    Sample("a", ("0.png",), (Q, "A dog."), (Q, "A cat."), {"category": "x"}),
    Sample("b", ("0.png", "1.jpg"), (*asked, "B."), (*asked, "C.")),
    Sample("c", (), ("Hi?", "Hi."), ("Hi?", "No."), system="Be kind."),
    Sample("d", ("1.jpg",), (Q, "Only right.")),
  ]
  write_samples(tmp_path / "pairs.jsonl", made)
  return tmp_path


def export(world, out, form, *more, source="pairs.jsonl"):
  images = f"--image-dir={world / 'images'}"
  argv = ["export", str(world / source), images, f"--format={form}"]
  return cli.main([*argv, f"--out={world / out}", *more])


def test_trl_keeps_pairs_and_pictures(world, capsys):
  assert export(world, "out.parquet", "trl") == 0
  printed = capsys.readouterr().out
  assert "3 rows of trl" in printed
  assert "1 samples without a rejected answer were left out" in printed
  said: list[str] = []
  found = read_samples(world / "out.parquet", announce=said.append)
  assert "3 rows of TRL; 3 pairs" in said[0]
  layout = Layout(str(world / "images"))
  given = read_samples(world / "pairs.jsonl", layout=layout)[:3]
  for one, other in zip(found, given, strict=True):
    assert one.id == other.id and one.system == other.system
    squeeze = lambda turns: ["".join(t.split()) for t in turns or ()]
    assert squeeze(one.turns) == squeeze(other.turns)
    assert squeeze(one.rejected) == squeeze(other.rejected)
    assert [p.read() for p in one.images] == [p.read() for p in other.images]


def test_a_table_says_what_datasets_needs(world):
  pq = pytest.importorskip("pyarrow.parquet")
  export(world, "out.parquet", "trl")
  schema = pq.read_schema(world / "out.parquet")
  info = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
  assert info["images"]["feature"] == {"_type": "Image"}
  row = pq.read_table(world / "out.parquet").to_pylist()[1]
  assert row["prompt"][0]["content"][0] == {"type": "image", "text": None}
  assert [m["role"] for m in row["prompt"]] == ["user", "assistant", "user"]
  assert row["chosen"] == [
    {"role": "assistant", "content": [{"type": "text", "text": "B."}]}
  ]


@pytest.mark.parametrize("ending", [".json", ".jsonl"])
def test_released_and_instruct_json(world, ending):
  export(world, f"out{ending}", "povid")
  layout = Layout(str(world / "images"))
  given = read_samples(world / "pairs.jsonl", layout=layout)
  assert read_samples(world / f"out{ending}", layout=layout) == given[:3]
  assert not (world / "out.images").exists()
  export(world, f"right{ending}", "llava")
  found = read_samples(world / f"right{ending}", layout=layout)
  assert [s.turns for s in found] == [s.turns for s in given]
  assert all(s.rejected is None for s in found)


@pytest.mark.parametrize("form", ["povid", "llava"])
def test_what_llavas_own_loader_refuses_is_told(world, capsys, form):
  export(world, "out.json", form)
  printed = capsys.readouterr().out
  assert "1 samples have several pictures; LLaVA's loader reads one" in printed
  assert "1 samples have a system turn, which LLaVA's loader refuses" in printed


def test_from_tables_and_records_the_pictures_come_along(world):
  export(world, "t.parquet", "trl")
  export(world, "again.json", "povid", source="t.parquet")
  assert cli.main(["write", f"--pairs={world / 't.parquet'}", "--workers=1",
                   f"--out={world / 'records'}"]) == 0  # fmt: skip
  export(world, "records.json", "povid", source="records")
  layout = Layout(str(world / "images"))
  given = read_samples(world / "pairs.jsonl", layout=layout)[:3]
  for name in ("again.json", "records.json"):
    found = read_samples(world / name)
    assert [s.id for s in found] == [s.id for s in given]
    for one, other in zip(found, given, strict=True):
      assert [p.read() for p in one.images] == [p.read() for p in other.images]
      assert one.system == other.system


def test_what_a_format_has_no_place_for_is_told(world, capsys):
  more = (Rejected((Q, "a fish."), 0.5),)
  made = Sample(
    "a",
    ("0.png",),
    (Q, "a dog."),
    (Q, "a cat."),
    context="There is",
    end_scored=False,
    more_rejected=more,
  )
  write_samples(world / "context.jsonl", [made])
  export(world, "out.json", "povid", source="context.jsonl")
  printed = capsys.readouterr().out
  assert "1 pairs had a context, which was written into both answers" in printed
  assert "1 pairs had weights, which are lost" in printed
  assert "1 pairs did not score the end of the answer" in printed
  one, two = read_samples(world / "out.json")
  assert one.turns == (Q, "There is a dog.") and one.context == ""
  assert one.rejected == (Q, "There is a cat.")
  assert (two.id, two.rejected) == ("a-r2", (Q, "There is a fish."))


@pytest.mark.parametrize(
  ("out", "form", "words"),
  [
    ("out.json", "trl", "ends in .parquet"),
    ("out.parquet", "povid", "ends in .json or .jsonl"),
    ("pairs.jsonl", "povid", "is the input"),
    ("gone/../images", "povid", "ends in"),
  ],
)
def test_bad_outputs_are_refused(world, out, form, words):
  with pytest.raises(UserError, match=words):
    export(world, out, form)


def test_nothing_to_export_and_a_missing_picture_leave_nothing(world):
  row = {"id": "x", "image": "gone.png", "conversations": [
    {"from": "human", "value": Q}, {"from": "gpt", "value": "A."}]}  # fmt: skip
  (world / "right.json").write_text(json.dumps([row]))
  with pytest.raises(UserError, match="no pair to write"):
    export(world, "out.parquet", "trl", source="right.json")
  row["rejected_conversations"] = row["conversations"]
  (world / "right.json").write_text(json.dumps([row]))
  with pytest.raises(UserError, match="id 'x': image 'gone.png'"):
    export(world, "out.parquet", "trl", source="right.json")
  assert not (world / "out.parquet").exists()
