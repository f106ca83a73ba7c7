"""What every injector gets from the driver, and the registry."""

import argparse
import json

import pytest

from data_gen import drive, inject_flags, injectors
from data_gen.gates import Refused
from data_gen.injectors.base import Injector
from povid_jax.data.samples import read_samples
from povid_jax.errors import UserError


class Shout(Injector):
  """A whole injector: the answer in capitals, every third one refused."""

  name = "shout"
  summary = "in capitals"
  gated = False
  stop_after = 99

  @staticmethod
  def add_flags(parser):
    parser.add_argument("--mark", default="!")

  @property
  def label(self):
    return "shout/1"

  def settings(self):
    return {"mark": self.args.mark}

  def check_sample(self, sample):
    if "secret" in sample.turns[1]:
      raise UserError("holds a secret")

  def check(self, item, rejected, edits, chosen=None):
    bad = item.sample.id.endswith("2")
    return Refused("identical", "two") if bad else None

  def dry_run(self, items):
    print(f"would shout {len(items)} times")

  def run(self, job):
    for number, item in enumerate(job.pending()):
      if number == self.stop_after:
        raise UserError("out of breath")
      texts = [answer.upper() + self.args.mark for answer in item.answers]
      job.settle(item, texts, [], again=False)


def arguments(*argv):
  parser = argparse.ArgumentParser()
  inject_flags.add_common(parser)
  Shout.add_flags(parser)
  return parser.parse_args(list(map(str, argv)))


def rows(path):
  return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def source(tmp_path):
  def turns(answer):
    return [
      {"from": "human", "value": "What?"}, {"from": "gpt", "value": answer}
    ]  # fmt: skip

  rows = [{"id": f"s{i}", "conversations": turns(f"a {i}")} for i in range(5)]
  rows.append({"id": "bad", "conversations": turns("secret")})
  path = tmp_path / "in.json"
  path.write_text(json.dumps(rows))
  return path


def test_an_injector_is_one_class(source, tmp_path, capsys):
  out = tmp_path / "out.jsonl"
  argv = ["--input", source, "--out", out, "--on-bad-sample", "skip"]
  assert drive.drive(arguments(*argv, "--dry-run"), Shout) == 0
  assert "would shout 5 times" in capsys.readouterr().out
  assert not list(tmp_path.glob("out*"))
  assert drive.drive(arguments(*argv), Shout) == 0
  pairs = read_samples(out)
  assert [p.rejected[1] for p in pairs] == ["A 0!", "A 1!", "A 3!", "A 4!"]
  assert {p.extra["injector"] for p in pairs} == {"shout/1"}
  (lost,) = rows(tmp_path / "out.rejected.jsonl")
  assert (lost["id"], lost["reason"]) == ("s2", "identical")
  (skipped,) = rows(tmp_path / "out.skipped.jsonl")
  assert skipped["id"] == "bad" and "holds a secret" in skipped["reason"]


def test_it_continues_and_refuses_other_settings(source, tmp_path, monkeypatch):
  out = tmp_path / "out.jsonl"
  argv = ["--input", source, "--out", out, "--on-bad-sample", "skip"]
  monkeypatch.setattr(Shout, "stop_after", 2)
  with pytest.raises(UserError, match="out of breath"):
    drive.drive(arguments(*argv), Shout)
  monkeypatch.setattr(Shout, "stop_after", 3)
  assert drive.drive(arguments(*argv), Shout) == 0
  assert json.loads((tmp_path / "out.summary.json").read_text())[
    "done_before"
  ] == 2  # fmt: skip
  with pytest.raises(UserError, match="mark was '!', now"):
    drive.drive(arguments(*argv, "--mark", "?"), Shout)


def test_a_bad_sample_beyond_the_limit_stops_nobody(source, tmp_path):
  argv = ["--input", source, "--out", tmp_path / "o.jsonl", "--limit", 4]
  assert drive.drive(arguments(*argv), Shout) == 0
  with pytest.raises(UserError, match="'bad'.*holds a secret"):
    drive.drive(arguments(*argv[:-1], 9), Shout)


def test_every_registered_injector_says_what_it_is():
  for name in ("rules", "openai", "openai-batch", "sample-noisy"):
    kind = injectors.find(name)
    assert issubclass(kind, Injector) and kind.name == name and kind.summary
    parser = argparse.ArgumentParser()
    kind.add_flags(parser)
    assert all(action.help for action in parser._actions)
    assert injectors.is_command(name) != (name in injectors.INJECT)


class Grumble(Shout):
  """Says what its flag says: items whose number is not in it are refused."""

  name = "grumble"
  asks = True

  @staticmethod
  def add_flags(parser):
    parser.add_argument("--good", nargs="*", default=[])
    parser.add_argument("--patience", type=int, default=3)

  def settings(self):
    return {}

  def check(self, item, rejected, edits, chosen=None):
    good = item.sample.id in self.args.good
    return None if good else Refused("schema", f"not {item.sample.id}")

  def run(self, job):
    for item in job.pending():
      while not job.settle(item, ["X"], []):
        pass
      job.check_patience()


def grumble(source, tmp_path, *good):
  parser = argparse.ArgumentParser()
  inject_flags.add_common(parser)
  Grumble.add_flags(parser)
  argv = ["--input", source, "--out", tmp_path / "o.jsonl", "--limit", 5]
  args = parser.parse_args([*map(str, argv), "--good", *good])
  return drive.drive(args, Grumble)


def outcome(tmp_path):
  lost = tmp_path / "o.rejected.jsonl"
  return [p.id for p in read_samples(tmp_path / "o.jsonl")], [
    row["id"] for row in rows(lost)
  ]


def test_patience_ends_and_nothing_is_given_up(source, tmp_path):
  with pytest.raises(UserError, match="^3 items in a row.*schema: not s2"):
    grumble(source, tmp_path)
  assert not (tmp_path / "o.jsonl").exists()
  with pytest.raises(UserError, match="^3 items in a row"):
    grumble(source, tmp_path, "s0")
  assert outcome(tmp_path) == (["s0"], [])  # the good pair can be used
  assert grumble(source, tmp_path, "s1", "s3") == 0
  assert outcome(tmp_path) == (["s0", "s1", "s3"], ["s2", "s4"])


def test_nothing_but_refused_items_is_no_success(source, tmp_path):
  Shout.check, check = lambda *_: Refused("identical", ""), Shout.check
  try:
    argv = ["--input", source, "--out", tmp_path / "o.jsonl", "--limit", 4]
    assert drive.drive(arguments(*argv), Shout) == drive.NOTHING
  finally:
    Shout.check = check
  assert len(rows(tmp_path / "o.rejected.jsonl")) == 4


def test_annotations_of_other_pictures_are_told(tmp_path, capsys):
  source = tmp_path / "in.json"
  turns = [{"from": "human", "value": "<image>\nWhat?"},
           {"from": "gpt", "value": "A dog."}]  # fmt: skip
  known = [{"id": i, "image": f"{i}.jpg", "conversations": turns}
           for i in range(3)]  # fmt: skip
  source.write_text(json.dumps(known))
  coco = {"images": [{"id": 1, "file_name": "other.jpg"}], "annotations": [],
          "categories": [{"id": 1, "name": "dog"}]}  # fmt: skip
  path = tmp_path / "instances.json"
  path.write_text(json.dumps(coco))
  argv = ["--input", source, "--out", tmp_path / "o.jsonl"]
  argv += ["--annotations", path]
  with pytest.raises(UserError, match="know 0 of 3.*'0.jpg'.*'other.jpg'"):
    drive.drive(arguments(*argv), Shout)
  coco["images"][0]["file_name"] = "1.jpg"
  path.write_text(json.dumps(coco))
  drive.drive(arguments(*argv), Shout)
  assert "know 1 of 3 pictures; '0.jpg'" in capsys.readouterr().out
