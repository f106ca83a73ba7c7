"""The write command: all in, nothing twice, whole or not at all."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from data_gen.__main__ import main
from povid_jax.data.records import RecordSource
from povid_jax.errors import UserError


def write(root: Path, out: str = "out", *more: str, **changes) -> Path:
  flags = {
    "pairs": root / "pairs.jsonl",
    "image-dir": root / "images",
    "out": root / out,
    "workers": 1,
    "shards": 3,
  } | {key.replace("_", "-"): value for key, value in changes.items()}
  argv = [f"--{key}={value}" for key, value in flags.items()]
  assert main(["write", *argv, *more]) == 0
  return root / out


def content(folder: Path) -> dict[str, bytes]:
  return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_every_sample_is_there_in_order(tmp_path, photos):
  photos.make_pairs(tmp_path)
  source = RecordSource(write(tmp_path), "train")
  assert [source[i].id for i in range(len(source))] == [
    f"s{i}" for i in range(24)
  ]
  record = source[10]
  assert record.images == ((tmp_path / "images/2.jpg").read_bytes(),)
  assert record.prompt_turns == ("<image>\nDescribe this image in detail.",)
  assert record.chosen == ("Picture 10 shows an orange suit.",)
  assert record.rejected == ("Picture 10 shows a blue suit.",)
  assert record.category == "captioning"


def test_the_same_bytes_for_any_number_of_workers(tmp_path, photos):
  photos.make_pairs(tmp_path)
  changes = {"val_fraction": 0.3, "seed": 5}
  noisy = ("--store-noisy",)
  one = content(write(tmp_path, "one", *noisy, **changes))
  two = content(write(tmp_path, "two", *noisy, **changes, workers=2))
  assert one == two
  assert {name.split(".")[0] for name in one} >= {
    "povid-train",
    "povid-validation",
  }
  other = content(write(tmp_path, "seed", *noisy, val_fraction=0.3, seed=6))
  assert other != one


def test_the_same_bytes_wherever_the_folders_are(tmp_path, photos):
  for name in ("here", "there"):
    (tmp_path / name).mkdir()
    photos.make_pairs(tmp_path / name)
  here, there = (write(tmp_path / name) for name in ("here", "there"))
  assert content(here) == content(there)


def test_the_same_picture_under_two_names_stays_in_one_split(tmp_path, photos):
  photos.make_pairs(tmp_path, images=8)
  for i in range(8):
    name = f"{i}.png" if i % 3 == 0 else f"{i}.jpg"
    data = (tmp_path / "images" / name).read_bytes()
    (tmp_path / "images" / f"copy{name}").write_bytes(data)
  rows = [
    json.loads(line)
    for line in (tmp_path / "pairs.jsonl").read_text().splitlines()
  ]
  rows += [
    row | {"id": "copy" + row["id"], "image": "copy" + row["image"]}
    for row in rows
  ]
  photos.write_rows(tmp_path / "pairs.jsonl", rows)
  out = write(tmp_path, val_fraction=0.4)
  train, held = RecordSource(out, "train"), RecordSource(out, "validation")
  pictures = [
    {part[i].images for i in range(len(part))} for part in (train, held)
  ]
  assert len(train) + len(held) == 48
  assert not pictures[0] & pictures[1]


def test_answers_without_a_rejected_one_and_text_alone(tmp_path, photos):
  photos.make_images(tmp_path / "images", 1)
  rows = [
    photos.row("sft", "0.png", "A rocket.", None),
    photos.row("text", None, "A poem.", "No poem."),
  ]
  photos.write_rows(tmp_path / "pairs.jsonl", rows)
  source = RecordSource(write(tmp_path, "out", "--store-noisy"), "train")
  assert (source[0].rejected, source[0].noise_step) == ((), 500)
  assert (source[1].images, source[1].image_noisy) == ((), None)


def bad_rows(tmp_path, photos) -> dict[str, str]:
  """Writes pairs of which all but the last are bad; gives id -> reason."""
  images = tmp_path / "images"
  photos.make_images(images, 2)
  (tmp_path / "secret.jpg").write_bytes((images / "1.jpg").read_bytes())
  (images / "link.jpg").symlink_to(tmp_path / "secret.jpg")
  (images / "cut.jpg").write_bytes((images / "1.jpg").read_bytes()[:500])
  (images / "page.jpg").write_text("<html>")
  os.mkfifo(images / "pipe.jpg")
  rows = [
    photos.row("up", "../secret.jpg", "a", "b"),
    photos.row("root", "/etc/passwd", "a", "b"),
    photos.row("link", "link.jpg", "a", "b"),
    photos.row("cut", "cut.jpg", "a", "b"),
    photos.row("page", "page.jpg", "a", "b"),
    photos.row("pipe", "pipe.jpg", "a", "b"),
    photos.row("gone", "gone.jpg", "a", "b"),
    photos.row("same", "0.png", "a", "a"),
    photos.row("good", "0.png", "a", "b"),
  ]
  photos.write_rows(tmp_path / "pairs.jsonl", rows)
  return {
    "up": "want a name inside",
    "root": "want a name inside",
    "link": "a link that leaves",
    "cut": "broken",
    "page": "not a picture",
    "pipe": "no such file",
    "gone": "no such file",
    "same": "is equal to conversations",
  }


def test_bad_samples_are_skipped_by_name(tmp_path, photos, capsys):
  reasons = bad_rows(tmp_path, photos)
  out = write(tmp_path, on_bad_sample="skip", val_fraction=0.2)
  listed = [
    json.loads(line)
    for line in (out / "skipped.jsonl").read_text().splitlines()
  ]
  assert sorted(row["id"] for row in listed) == sorted(reasons)
  for row in listed:
    assert reasons[row["id"]] in row["reason"]
  facts = json.loads((out / "povid.json").read_text())
  assert (facts["skipped"], sum(facts["records"].values())) == (8, 1)
  assert "8 samples skipped" in capsys.readouterr().out


def test_a_bad_sample_stops_and_leaves_nothing(tmp_path, photos):
  bad_rows(tmp_path, photos)
  before = sorted(tmp_path.iterdir())
  for workers in (1, 2):
    with pytest.raises(UserError, match=r"pairs.jsonl, id 'up': image"):
      write(tmp_path, workers=workers, shards=2)
    assert sorted(tmp_path.iterdir()) == before


def test_nothing_but_bad_samples(tmp_path, photos):
  photos.make_images(tmp_path / "images", 1)
  row = photos.row("a", "gone.jpg", "x", "y")
  photos.write_rows(tmp_path / "pairs.jsonl", [row])
  with pytest.raises(UserError, match="every sample was skipped.*gone.jpg"):
    write(tmp_path, on_bad_sample="skip")


def test_a_second_run_sees_that_all_is_done(tmp_path, photos, capsys):
  pairs = photos.make_pairs(tmp_path)
  before = content(write(tmp_path))
  assert content(write(tmp_path)) == before
  assert "complete already" in capsys.readouterr().out
  with pytest.raises(UserError, match="exists already"):
    write(tmp_path, seed=1)
  pairs.write_text(pairs.read_text().replace("blue", "green"))
  with pytest.raises(UserError, match="exists already"):
    write(tmp_path)


@pytest.mark.parametrize(
  ("flag", "message"),
  [
    ("--split=a/b", "want letters"),
    ("--image-dir=/nowhere", "no such folder"),
    ("--pairs=/nowhere.json", "/nowhere.json: No such file"),
    ("--noise-site=pixels", "leave --store-noisy out"),
  ],
)
def test_options_out_of_range(tmp_path, photos, flag, message):
  photos.make_pairs(tmp_path, 2, 2)
  with pytest.raises(UserError, match=message):
    write(tmp_path, "out", "--store-noisy", flag)


def test_workers_never_import_jax():
  code = (
    "import sys, data_gen.pool, data_gen.write; print('jax' in sys.modules)"
  )
  shown = subprocess.run(
    [sys.executable, "-c", code], capture_output=True, text=True, check=True
  )
  assert shown.stdout.strip() == "False"


def children(pid: int) -> list[int]:
  out = subprocess.run(
    ["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True
  )
  return [int(line) for line in out.stdout.split()]


def is_alive(pid: int) -> bool:
  try:
    state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
  except OSError:
    return False
  return state != "Z"  # ended, and not yet noticed by its parent


def test_a_killed_run_leaves_no_folder_and_no_workers(tmp_path, photos):
  photos.make_pairs(tmp_path, count=4000)
  command = [sys.executable, "-m", "data_gen", "write", "--store-noisy"]
  command += [f"--pairs={tmp_path}/pairs.jsonl", f"--out={tmp_path}/out"]
  command += [f"--image-dir={tmp_path}/images", "--workers=2"]
  process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
  deadline = time.monotonic() + 120
  workers = []
  try:
    while not list(tmp_path.glob(".out.tmp-*/.povid-*")):
      assert time.monotonic() < deadline and process.poll() is None
      time.sleep(0.01)
    workers = children(process.pid)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert workers and not (tmp_path / "out").exists()
    deadline = time.monotonic() + 30
    while any(map(is_alive, workers)):
      assert time.monotonic() < deadline
      time.sleep(0.01)
  finally:
    for pid in filter(is_alive, workers):
      os.kill(pid, signal.SIGKILL)


# All of Unicode, halves of surrogate pairs included.
ANY = st.characters(exclude_categories=())
TEXT = st.text(ANY, max_size=8) | st.just("<image>\nWhat?")
TURN = st.fixed_dictionaries(
  {"from": st.sampled_from(["human", "gpt"]), "value": TEXT}
)
TALK = st.lists(TURN, max_size=4) | st.just(
  [{"from": "human", "value": "<image>"}, {"from": "gpt", "value": "x"}]
)
NAME = st.sampled_from(
  ["0.png", "../pairs.jsonl", "/etc/passwd", "", "\0", "a" * 5000, "."]
)
JSON = st.recursive(
  st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
  lambda inner: (
    st.lists(inner, max_size=2) | st.dictionaries(TEXT, inner, max_size=2)
  ),
  max_leaves=4,
)
ROW = (
  st.fixed_dictionaries(
    {"id": TEXT | JSON, "conversations": TALK | JSON},
    optional={
      "image": NAME | st.lists(NAME, max_size=2) | JSON,
      "rejected_conversations": TALK | JSON,
      "category": JSON,
      "injector": JSON,
      "image_noisy": NAME | JSON,
      "noise_step": JSON,
    },
  )
  | JSON
)


@settings(max_examples=150, deadline=None)
@given(st.lists(ROW, max_size=4))
def test_any_json_is_written_or_named(tmp_path_factory, photos, rows):
  root = tmp_path_factory.mktemp("fuzz")
  photos.make_images(root / "images", 1)
  photos.write_rows(root / "pairs.jsonl", rows)
  try:
    out = write(root, on_bad_sample="skip")
  except UserError:
    return
  facts = json.loads((out / "povid.json").read_text())
  assert facts["records"]["train"] + facts["skipped"] == len(rows)


@settings(max_examples=60, deadline=None)
@given(st.lists(ROW, min_size=1, max_size=3))
def test_any_json_is_inspected_or_named(tmp_path_factory, photos, rows):
  root = tmp_path_factory.mktemp("fuzz")
  photos.make_images(root / "images", 1)
  pairs = photos.write_rows(root / "pairs.jsonl", rows)
  argv = ["inspect", str(pairs), f"--image-dir={root}/images"]
  with contextlib.suppress(UserError):
    assert main([*argv, f"--html={root}/page.html"]) == 0
    assert (root / "page.html").read_text()


def test_a_huge_answer(tmp_path, photos):
  photos.make_images(tmp_path / "images", 1)
  answer = "naïve 🐈 " * 500_000
  row = photos.row("big", "0.png", answer, answer + "!")
  photos.write_rows(tmp_path / "pairs.jsonl", [row])
  record = RecordSource(write(tmp_path), "train")[0]
  assert (record.chosen, record.rejected) == ((answer,), (answer + "!",))


def test_complete_tells_what_was_skipped(tmp_path, photos, capsys):
  bad_rows(tmp_path, photos)
  write(tmp_path, "out", "--on-bad-sample=skip")
  capsys.readouterr()
  write(tmp_path, "out", "--on-bad-sample=skip")
  said = capsys.readouterr().out
  assert "complete already" in said
  assert "8 samples skipped" in said and "remove the folder" in said


def test_the_output_may_be_a_link_to_an_empty_folder(tmp_path, photos):
  photos.make_pairs(tmp_path)
  (tmp_path / "disk").mkdir()
  (tmp_path / "out").symlink_to(tmp_path / "disk")
  write(tmp_path)
  assert (tmp_path / "out").is_symlink()
  assert len(RecordSource(tmp_path / "disk", "train")) == 24


def test_pairs_that_are_gone(tmp_path, photos):
  photos.make_pairs(tmp_path)
  out = write(tmp_path)
  (tmp_path / "pairs.jsonl").unlink()
  with pytest.raises(UserError, match="pairs.jsonl: No such file"):
    write(tmp_path)
  (out / "povid.json").write_text("[]")
  with pytest.raises(UserError, match="exists already"):
    write(tmp_path)
