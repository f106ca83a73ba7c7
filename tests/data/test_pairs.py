import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from povid_jax.data import pairs, picture
from povid_jax.data.samples import read_samples
from povid_jax.errors import UserError


def talk(*values: str) -> list[dict[str, str]]:
  return [
    {"from": ("human", "gpt")[i % 2], "value": value}
    for i, value in enumerate(values)
  ]


ROWS = [
  {
    "id": "COCO_1",
    "image": "train/1.jpg",
    "conversations": talk("<image>\nDescribe it.", "A dog.\u2028Brown."),
    "rejected_conversations": talk("<image>\nDescribe it.", "A cat."),
    "category": "object",
    "edits": [{"span": [2, 5]}],
  },
  {
    "id": "two pictures",
    "image": ["a.jpg", "b.png"],
    "conversations": talk("Compare.", "Equal.", "Sure?", "Yes. 🐻"),
  },
  {"id": "text", "conversations": talk("Hi.", "Hello.")},
]
SAMPLES = [
  pairs.Sample(
    "COCO_1",
    ("train/1.jpg",),
    ("<image>\nDescribe it.", "A dog.\u2028Brown."),
    ("<image>\nDescribe it.", "A cat."),
    {"category": "object", "edits": [{"span": [2, 5]}]},
  ),
  pairs.Sample(
    "two pictures",
    ("a.jpg", "b.png"),
    ("Compare.", "Equal.", "Sure?", "Yes. 🐻"),
  ),
  pairs.Sample("text", (), ("Hi.", "Hello.")),
]


def put(path: Path, rows: Any) -> Path:
  if path.suffix == ".jsonl":
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
  else:
    path.write_text(json.dumps(rows), encoding="utf-8")
  return path


@pytest.mark.parametrize("name", ["x.json", "x.jsonl"])
def test_reads_both_formats_and_writes_them_back(
  name: str, tmp_path: Path
) -> None:
  path = put(tmp_path / name, ROWS)
  assert read_samples(path) == SAMPLES
  again = tmp_path / f"again_{name}"
  pairs.write_samples(again, SAMPLES)
  assert read_samples(again) == SAMPLES
  text = again.read_text(encoding="utf-8")
  lines = [line for line in text.split("\n") if line]
  rows = map(json.loads, lines) if name == "x.jsonl" else json.loads(text)
  assert list(rows) == ROWS
  assert "🐻" in text


def test_byte_order_mark_and_blank_lines(tmp_path: Path) -> None:
  path = tmp_path / "x.jsonl"
  rows = [json.dumps(row) for row in ROWS]
  path.write_text("\ufeff" + "\r\n\r\n".join(rows), encoding="utf-8")
  assert read_samples(path) == SAMPLES


def test_numbers_as_ids_and_no_samples(tmp_path: Path) -> None:
  row = {"id": 17, "conversations": talk("a", "b"), "image": None}
  (sample,) = read_samples(put(tmp_path / "x.json", [row]))
  assert sample.id == "17" and sample.images == ()
  assert read_samples(put(tmp_path / "x.json", [])) == []
  pairs.write_samples(tmp_path / "y.json", [])
  assert json.loads((tmp_path / "y.json").read_text()) == []


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
  path = tmp_path / "x.json"
  pairs.write_samples(path, SAMPLES)

  def rows() -> Any:
    yield SAMPLES[0]
    raise ZeroDivisionError

  with pytest.raises(ZeroDivisionError):
    pairs.write_samples(path, rows())
  assert read_samples(path) == SAMPLES
  assert [p.name for p in tmp_path.iterdir()] == ["x.json"]


def row(**changes: Any) -> dict[str, Any]:
  return {"id": "a", "conversations": talk("q", "a")} | changes


@pytest.mark.parametrize(
  ("bad", "message"),
  [
    (3, "is a number; want an object"),
    ([], "is a list; want an object"),
    ({"id": "a"}, "id 'a', conversations is missing"),
    (row(id=None), "id is null; want a string"),
    (row(id=""), "id is empty"),
    (row(id=["x"]), "id is a list"),
    (row(id=True), "id is true or false"),
    (row(image=7), "id 'a', image is a number; want a string"),
    (row(image=["a.jpg", {}]), "image is an object"),
    (row(image=""), "image is an empty string"),
    (row(image=["a", ""]), "image is an empty string"),
    (row(conversations="q"), "conversations is a string; want a list"),
    (row(conversations=[]), "conversations has 0 turns"),
    (row(conversations=talk("q")), "conversations has 1 turns"),
    (row(conversations=[1, 2]), r"conversations\[0\] is a number"),
    (
      row(conversations=talk("q", "a")[::-1]),
      r"conversations\[0\].from is 'gpt'; want 'human'",
    ),
    (
      row(conversations=[{"from": "human", "value": "q"}, {"value": "a"}]),
      r"conversations\[1\].from is 'None'; want 'gpt'",
    ),
    (
      row(conversations=[{"from": "human"}, {"from": "gpt", "value": "a"}]),
      r"conversations\[0\].value is null",
    ),
    (row(conversations=talk("q", " \n")), r"\[1\].value is empty; want text"),
    (row(conversations=talk("q", "\ud800")), "half a surrogate pair"),
    (row(rejected_conversations=[]), "rejected_conversations has 0 turns"),
    (
      row(rejected_conversations=talk("q", "a", "q", "a")),
      "rejected_conversations has 4 turns, conversations 2",
    ),
    (
      row(rejected_conversations=talk("other", "b")),
      r"rejected_conversations\[0\].value differs from the one",
    ),
  ],
)
def test_malformed_rows_are_named(
  bad: Any, message: str, tmp_path: Path
) -> None:
  rows = [ROWS[0], bad]
  # Written by hand: a JSON list keeps half a surrogate as an escape.
  json_path, jsonl_path = tmp_path / "x.json", tmp_path / "x.jsonl"
  json_path.write_text(json.dumps(rows))
  jsonl_path.write_text("\n".join(map(json.dumps, rows)))
  for path, where in ((json_path, "index 1"), (jsonl_path, "line 2")):
    with pytest.raises(UserError, match=message) as caught:
      read_samples(path)
    assert str(caught.value).startswith(f"{path}, {where}: ")
    errors: list[UserError] = []
    assert read_samples(path, errors.append) == SAMPLES[:1]
    assert [str(error) for error in errors] == [str(caught.value)]


@pytest.mark.parametrize(
  ("name", "content", "message"),
  [
    ("x.json", b"{}", "is an object; want a list of samples"),
    ("x.json", b"[", "x.json: not JSON"),
    ("x.json", b"", "x.json: not JSON"),
    ("x.json", b'["\xff"]', "not UTF-8 at byte 2"),
    ("x.json", b"[" * 200_000, "nested too deep"),
    ("x.json", b"[" + b"9" * 5000 + b"]", "x.json: not JSON"),
    ("x.jsonl", b"{", "x.jsonl, line 1: not JSON"),
    ("x.jsonl", b"\n[]", "x.jsonl, line 2: is a list"),
  ],
)
def test_files_that_are_no_samples(
  name: str, content: bytes, message: str, tmp_path: Path
) -> None:
  path = tmp_path / name
  path.write_bytes(content)
  with pytest.raises(UserError, match=message):
    read_samples(path)


def test_no_file(tmp_path: Path) -> None:
  for path in (tmp_path / "no.json", tmp_path):
    with pytest.raises(UserError, match="No such file|without tables"):
      read_samples(path)


JSON = st.recursive(
  st.none()
  | st.booleans()
  | st.integers()
  | st.floats()
  | st.text(max_size=9)
  | st.sampled_from(["human", "gpt", "\ud800", "a" * 3000]),
  lambda inner: (
    st.lists(inner, max_size=3)
    | st.dictionaries(
      st.sampled_from(
        ["id", "image", "conversations", "rejected_conversations"]
        + ["from", "value", "other"]
      ),
      inner,
      max_size=5,
    )
  ),
  max_leaves=12,
)


@settings(
  max_examples=150,
  deadline=None,
  suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(rows=st.lists(JSON, max_size=4), lines=st.booleans())
def test_any_json_is_a_sample_or_an_error(
  rows: list[Any], lines: bool, tmp_path: Path
) -> None:
  path = tmp_path / ("x.jsonl" if lines else "x.json")
  dumped = [json.dumps(row) for row in rows]
  text = "\n".join(dumped) if lines else "[" + ",".join(dumped) + "]"
  path.write_text(text)
  errors: list[UserError] = []
  samples = read_samples(path, errors.append)
  assert len(samples) + len(errors) == len(rows)
  assert all(str(path) in str(error) for error in errors)


TEXT = st.text(
  st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20
).filter(lambda text: text.strip() != "")


@settings(
  max_examples=100,
  deadline=None,
  suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
  turns=st.lists(TEXT, min_size=2, max_size=6),
  images=st.lists(TEXT, max_size=3),
  answers=st.none() | st.lists(TEXT, min_size=3, max_size=3),
  extra=st.dictionaries(TEXT, JSON.filter(lambda v: v == v), max_size=2),
  name=st.sampled_from(["x.json", "x.jsonl"]),
)
def test_any_sample_survives_the_file(
  turns: list[str],
  images: list[str],
  answers: list[str] | None,
  extra: dict[str, Any],
  name: str,
  tmp_path: Path,
) -> None:
  turns = turns[: len(turns) // 2 * 2]
  rejected = None
  if answers is not None:
    rejected = tuple(
      answers[i // 2] if i % 2 else turn for i, turn in enumerate(turns)
    )
  kept = {key: value for key, value in extra.items() if "nan" not in str(value)}
  sample = pairs.Sample("é", tuple(images), tuple(turns), rejected, kept)
  pairs.write_samples(tmp_path / name, [sample, sample])
  assert read_samples(tmp_path / name) == [sample, sample]


def test_rejected_question_may_place_the_image_elsewhere(
  tmp_path: Path,
) -> None:
  bad = row(
    conversations=talk("<image>\nWhat?", "A dog."),
    rejected_conversations=talk("What? \n<image>", "A cat."),
  )
  (sample,) = read_samples(put(tmp_path / "x.json", [bad]))
  assert sample.rejected == ("<image>\nWhat?", "A cat.")


@pytest.mark.parametrize(
  ("turns", "rejected", "want"),
  [
    ("qa", None, ("q", "a", None)),
    ("qaQA", None, ("q", "aQA", None)),
    ("qa", "qb", ("q", "a", "b")),
    ("qaQA", "qaQB", ("qaQ", "A", "B")),
    ("qaQA", "qbQA", ("q", "aQA", "bQA")),
    ("qaQA", "qaQA", ("qaQ", "A", "A")),
  ],
)
def test_split_where_the_conversations_part(
  turns: str, rejected: str | None, want: tuple[str, str, str | None]
) -> None:
  other = None if rejected is None else tuple(rejected)
  sample = pairs.Sample("x", (), tuple(turns), other)
  prompt, chosen, left = pairs.split_turns(sample)
  assert ("".join(prompt), "".join(chosen)) == want[:2]
  assert (None if left is None else "".join(left)) == want[2]


@pytest.fixture
def image_dir(tmp_path: Path) -> Path:
  folder = tmp_path / "images"
  (folder / "sub").mkdir(parents=True)
  (folder / "sub" / "a.jpg").write_bytes(b"x")
  (tmp_path / "secret.jpg").write_bytes(b"x")
  (folder / "inside.jpg").symlink_to("sub/a.jpg")
  (folder / "outside.jpg").symlink_to(tmp_path / "secret.jpg")
  (folder / "way out").symlink_to(tmp_path)
  (folder / "loop.jpg").symlink_to("loop.jpg")
  (tmp_path / "images2").mkdir()
  (tmp_path / "images2" / "b.jpg").write_bytes(b"x")
  (folder / "neighbour.jpg").symlink_to(tmp_path / "images2" / "b.jpg")
  return folder


@pytest.mark.parametrize("name", ["sub/a.jpg", "./sub//a.jpg", "inside.jpg"])
def test_images_inside_are_found(name: str, image_dir: Path) -> None:
  assert picture.resolve_image(image_dir, name).read_bytes() == b"x"
  assert picture.resolve_image(str(image_dir), name).is_file()


def test_the_folder_itself_may_be_a_link(
  image_dir: Path, tmp_path: Path
) -> None:
  link = tmp_path / "link"
  link.symlink_to(image_dir)
  assert picture.resolve_image(link, "inside.jpg").is_file()


@pytest.mark.parametrize(
  ("name", "message"),
  [
    ("", "want a name inside"),
    (".", "want a name inside"),
    ("../secret.jpg", "want a name inside"),
    ("sub/../../secret.jpg", "want a name inside"),
    ("../../../../../etc/passwd", "want a name inside"),
    ("/etc/passwd", "want a name inside"),
    ("a\0.jpg", "want a name inside"),
    ("\ud800.jpg", "surrogates|no such file"),
    ("outside.jpg", "a link that leaves"),
    ("neighbour.jpg", "a link that leaves"),
    ("way out/secret.jpg", "a link that leaves"),
    ("loop.jpg", "no such file"),
    ("no.jpg", "no such file"),
    ("sub", "no such file"),
    ("a" * 5000, "no such file|too long"),
  ],
)
def test_everything_else_is_refused(
  name: str, message: str, image_dir: Path
) -> None:
  with pytest.raises(UserError, match=message):
    picture.resolve_image(image_dir, name)


@settings(
  max_examples=100,
  deadline=None,
  suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
  st.lists(
    st.sampled_from(["..", ".", "", "/", "sub", "a.jpg", "way out", "\\"])
    | st.text(max_size=5),
    max_size=6,
  )
)
def test_no_name_leaves_the_folder(image_dir: Path, parts: list[str]) -> None:
  try:
    path = picture.resolve_image(image_dir, "/".join(parts))
  except UserError:
    return
  assert path.resolve() == (image_dir / "sub" / "a.jpg").resolve()
