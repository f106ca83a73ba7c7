"""Pairs of one question in one record."""

import dataclasses
import json

import pytest

from data_gen import group
from data_gen.__main__ import main
from povid_jax.data.pairs import Sample, to_record
from povid_jax.data.picture import Picture
from povid_jax.data.records import RecordSource, Rejected

Q = "<image>\nWhat is it?"


def pair(name, said, **more):
  given = {"rejected": (Q, said)} | more
  made = Sample(name, (Picture("a.png"),), (Q, "A cup."))
  return dataclasses.replace(made, **given)


def joined(*samples, most=4):
  return group.group(samples, most, lambda picture: picture.name.encode())


def answers(sample):
  first = (sample.rejected[-1], sample.rejected_weight)
  return [first, *((m.turns[-1], m.weight) for m in sample.more_rejected)]


def test_a_pair_keeps_its_chosen_answer():
  rows = joined(
    pair("a", "A car."),
    pair("b", "A bus.", turns=(Q, "A mug.")),
    pair("c", "A van."),
    pair("d", "A cup.", turns=(Q, "A mug."), rejected_weight=0.5),
  )
  assert [row.id for row in rows] == ["a"]
  assert rows[0].every_chosen == ((Q, "A cup."), (Q, "A mug."))
  assert [more.of for more in rows[0].more_rejected] == [1, 0, 1]
  record = to_record(rows[0], ())
  assert record.every_chosen == (("A cup.",), ("A mug.",))
  first, second = record.by_chosen()
  assert [answer.turns for answer in first.every_rejected] == [
    ("A car.",),
    ("A van.",),
  ]
  assert [answer.weight for answer in second.every_rejected] == [1.0, 0.5]


def test_rejected_answers_of_one_question_become_one_row():
  rows = joined(
    pair("a", "A car."),
    pair(
      "other",
      "A car.",
      turns=("<image>\nAnd?", "A mug."),
      rejected=("<image>\nAnd?", "A car."),
    ),
    pair("b", "A bus.", rejected_weight=0.5),
    pair("c", "A car."),  # twice in the data, twice in the loss
  )
  assert [row.id for row in rows] == ["a", "other"]
  assert answers(rows[0]) == [("A car.", 1.0), ("A bus.", 0.5), ("A car.", 1.0)]
  assert rows[1].more_rejected == ()


@pytest.mark.parametrize(
  "other",
  [
    {"images": (Picture("b.png"),)},
    {"turns": (f"{Q}?", "A cup."), "rejected": (f"{Q}?", "B.")},
    {"context": "So far."},
    {"end_scored": False},
    {"system": "Be kind."},
    {"extra": {"category": "one"}},
    {"extra": {"image_noisy": "n.png"}},
    {"rejected": None},
    {"rejected": (Q, "A cup.")},  # refused later on, alone
    {"more_rejected": (Rejected((Q, "C.")),)},
  ],
)
def test_what_differs_stays_apart(other):
  rows = [pair("a", "A car."), pair("b", "A bus.", **other)]
  assert joined(*rows) == rows


def test_answers_that_part_at_another_turn_stay_apart():
  turns = (Q, "A cup.", "And?", "A fork.")
  late = pair("a", "", turns=turns, rejected=(*turns[:3], "A car."))
  soon = pair("b", "", turns=turns, rejected=(Q, "A car.", "And?", "A fork."))
  assert joined(late, soon) == [late, soon]


def test_no_row_has_more_than_asked_for():
  rows = joined(*(pair(str(i), f"{i}.") for i in range(5)), most=2)
  assert [len(answers(row)) for row in rows] == [2, 2, 1]


def test_the_command(tmp_path, photos, capsys):
  """Pictures are compared by what they show, not by their names."""
  photos.make_images(tmp_path / "images", 2)
  picture = (tmp_path / "images/0.png").read_bytes()
  (tmp_path / "images/again.png").write_bytes(picture)
  rows = [
    photos.row("a", "0.png", "A cup.", "A car."),
    photos.row("b", "1.jpg", "A cup.", "A bus."),
    photos.row("c", "again.png", "A cup.", "A bus."),
  ]
  photos.write_rows(tmp_path / "pairs.jsonl", rows)
  argv = ["write", f"--pairs={tmp_path}/pairs.jsonl", "--workers=1"]
  argv += [f"--image-dir={tmp_path}/images"]
  for name, flags in (("plain", []), ("grouped", ["--pairs-per-row=4"])):
    assert main([*argv, f"--out={tmp_path / name}", *flags]) == 0
  assert "3 samples in 2 rows" in capsys.readouterr().out
  held = [RecordSource(tmp_path / name) for name in ("plain", "grouped")]
  assert [len(source) for source in held] == [3, 2]
  first = held[1][0]
  assert (first.id, first.images) == ("a", (picture,))
  said = [answer.turns[0] for answer in first.every_rejected]
  assert said == ["A car.", "A bus."]
  settings = json.loads((tmp_path / "plain/povid.json").read_text())
  assert "pairs_per_row" not in settings  # folders made before are complete
