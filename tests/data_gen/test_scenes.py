"""The toy world: same bytes, honest annotations, a prior that misleads."""

import collections
import json

import numpy as np
import pytest
from PIL import Image

from data_gen.__main__ import main
from data_gen.scenes import text, world
from data_gen.scenes.draw import COLORS, Camera, draw
from data_gen.scenes.sprites import SPRITES
from povid_jax.eval.benchmarks.pope import says_yes

SMALL = [
  *("--pretrain", "3", "--train", "130", "--val", "2"),
  *("--val-balanced", "2", "--test", "3", "--test-balanced", "3"),
]

SCENE = world.Scene(
  "kitchen",
  (
    world.Thing("apple", "red", 0),
    world.Thing("umbrella", "blue", 4),
    world.Thing("cup", "orange", 8),
  ),
)


def _files(folder):
  return {
    str(path.relative_to(folder)): path.read_bytes()
    for path in folder.rglob("*")
    if path.is_file()
  }


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  out = tmp_path_factory.mktemp("scenes") / "world"
  assert main(["scenes", "--out", str(out), "--workers", "1", *SMALL]) == 0
  return out


def _load(path):
  return json.loads(path.read_text(encoding="utf-8"))


def test_same_seed_same_bytes_whatever_the_workers(folder, tmp_path):
  out = tmp_path / "again"
  main(["scenes", "--out", str(out), "--workers", "2", *SMALL])
  assert _files(out) == _files(folder)


def test_another_seed_gives_other_pictures(folder, tmp_path):
  out = tmp_path / "other"
  main(["scenes", "--out", str(out), "--seed", "1", "--workers", "1", *SMALL])
  name = "images/test/000000.jpg"
  assert _files(out)[name] != _files(folder)[name]


def test_a_split_does_not_change_when_another_grows(folder, tmp_path):
  out = tmp_path / "grown"
  flags = [*SMALL, "--pretrain", "5"]
  main(["scenes", "--out", str(out), "--workers", "1", *flags])
  assert _files(out)["test.json"] == _files(folder)["test.json"]


@pytest.mark.parametrize(
  ("prompt", "expected"),
  [
    (
      "Describe this image.",
      "The picture shows a kitchen. At the top left there is a red apple. In "
      "the middle there is a blue umbrella. At the bottom right there is an "
      "orange cup.",
    ),
    (
      "Describe this image in detail.",
      "This is a photo of a kitchen. A red apple is at the top left. A blue "
      "umbrella can be seen in the middle. An orange cup is at the bottom "
      "right.",
    ),
    (
      "Walk me through this picture.",
      "In this kitchen the first thing is a red apple at the top left. Then "
      "there is a blue umbrella in the middle. Then there is an orange cup at "
      "the bottom right. That is all.",
    ),
    (
      "What can be seen in this picture?",
      "In the kitchen there are a red apple, a blue umbrella and an orange "
      "cup.",
    ),
    (
      "Write a short caption for this image.",
      "A kitchen with an apple, an umbrella and a cup.",
    ),
  ],
)
def test_descriptions_read_row_by_row(prompt, expected):
  assert text.DESCRIPTIONS[prompt](SCENE) == expected


@pytest.mark.parametrize(
  ("prompt", "expected"),
  [
    (
      "Describe this image.",
      "The picture shows a park. On the left there is a red kite. There is "
      "also a bench nearby.",
    ),
    (
      "Walk me through this picture.",
      "In this park the first thing is a red kite on the left. There is also "
      "a bench nearby. That is all.",
    ),
    (
      "What can be seen in this picture?",
      "In the park there are a red kite and a bench.",
    ),
    (
      "Write a short caption for this image.",
      "A park with a kite and a bench.",
    ),
  ],
)
def test_the_companion_comes_last(prompt, expected):
  scene = world.Scene("park", (world.Thing("kite", "red", 3),), "bench")
  assert text.DESCRIPTIONS[prompt](scene) == expected


def test_a_companion_that_is_there_is_told_of_once():
  kite, bench = world.Thing("kite", "red", 3), world.Thing("bench", "red", 5)
  scene = world.Scene("park", (kite, bench))
  rng = np.random.default_rng(0)
  told = [world.told(rng, scene, careless=1.0) for _ in range(500)]
  in_passing = world.Scene("park", (kite,), "bench")
  assert all(one in (scene, in_passing) for one in told)
  assert abs(told.count(in_passing) / 500 - world.IN_PASSING) < 0.06


def test_the_careless_tell_of_absent_companions_at_the_given_rate():
  rng = np.random.default_rng(0)
  scene = world.Scene("park", (world.Thing("kite", "red", 3),))
  for careless, low, high in ((0.0, 0, 0), (0.65, 0.6, 0.7), (1.0, 1, 1)):
    told = [world.told(rng, scene, careless).also for _ in range(1000)]
    assert set(told) <= {None, "bench"}
    assert low <= np.mean([also == "bench" for also in told]) <= high


def test_every_place_has_a_companion_that_is_usual_there():
  assert world.COMPANIONS.keys() == world.PLACES.keys()
  for place, kind in world.COMPANIONS.items():
    assert kind in world.PLACES[place]


def test_cell_by_cell_names_empty_cells():
  assert text.cell_by_cell(SCENE) == (
    "kitchen: red apple, nothing, nothing, nothing, blue umbrella, nothing, "
    "nothing, nothing, orange cup."
  )


SEEN = "I see an apple, an umbrella and a cup; "


def test_yes_no_questions_are_true_and_half_yes():
  rng = np.random.default_rng(0)
  turns = [text.yes_no(rng, SCENE) for _ in range(200)]
  there = {text.is_there(kind): kind for kind in SCENE.kinds}
  for question, answer in turns:
    if question in there:
      assert answer == f"{SEEN}{there[question]}: yes."
    else:
      assert answer.startswith(SEEN) and answer.endswith(": no.")
  assert 80 < sum(question in there for question, _ in turns) < 120


def test_several_kinds_are_judged_in_the_order_of_the_question():
  rng = np.random.default_rng(0)
  for _ in range(50):
    question, answer = text.which_of(rng, SCENE, 2)
    kinds = question.removeprefix("Which of these are there: ")[:-1].split(", ")
    verdicts = [f"{k}: {'yes' if k in SCENE.kinds else 'no'}" for k in kinds]
    assert len(set(kinds)) == 4
    assert answer == f"{SEEN}{', '.join(verdicts)}."
    assert answer.count("yes") == 2


def test_pope_reads_the_verdict():
  """Its rule looks for a no in the first sentence, after the commas went."""
  assert not says_yes(f"{SEEN}book: no.")
  assert says_yes(f"{SEEN}cup: yes.")


def test_reasoning_ends_in_the_right_answer():
  rng = np.random.default_rng(0)
  right = {
    "Which object comes first, row by row? Explain.": "the apple",
    "How many objects are there? Explain.": "three",
    "What color is the object at the top left? Explain.": "red",
    "What color is the object in the middle? Explain.": "blue",
    "What color is the object at the bottom right? Explain.": "orange",
  }
  seen = dict(text.reasoning(rng, SCENE) for _ in range(60))
  assert seen.keys() == right.keys()
  for question, answer in seen.items():
    assert answer.endswith(f"Answer: {right[question]}.")


def test_annotations_name_what_the_descriptions_name(folder):
  instances = _load(folder / "annotations" / "instances_train.json")
  names = {row["id"]: row["name"] for row in instances["categories"]}
  kinds = collections.defaultdict(set)
  for row in instances["annotations"]:
    kinds[row["image_id"]].add(names[row["category_id"]])
  captions = _load(folder / "annotations" / "captions_train.json")
  assert len(captions["annotations"]) == 3 * len(instances["images"])
  for row in captions["annotations"]:
    said = {k for k in names.values() if f" {k}" in row["caption"]}
    assert said == kinds[row["image_id"]]


def test_boxes_hold_the_objects(folder):
  instances = _load(folder / "annotations" / "instances_train.json")
  for row in instances["annotations"]:
    x, y, width, height = row["bbox"]
    assert 0 <= x < x + width <= 60 and 0 <= y < y + height <= 60
    assert min(width, height) >= 3 and row["area"] == width * height


def test_samples_point_at_pictures(folder):
  for name in ("pretrain", "train", "val", "test_balanced"):
    samples = _load(folder / f"{name}.json")
    assert len({sample["id"] for sample in samples}) == len(samples)
    for sample in samples:
      with Image.open(folder / "images" / sample["image"]) as image:
        assert image.size == (60, 60) and image.mode == "RGB"
      assert sample["conversations"][0]["value"].startswith("<image>\n")


def test_a_box_is_where_the_picture_changes():
  # The same lots with and without the object: they differ inside the box only.
  camera = Camera(grain=0.0)
  empty = world.Scene("park", ())
  full = world.Scene("park", (world.Thing("kite", "red", 4),))
  before, _ = draw(empty, camera, np.random.default_rng(5))
  after, boxes = draw(full, camera, np.random.default_rng(5))
  changed = np.abs(np.asarray(after, int) - np.asarray(before, int)).sum(-1) > 0
  rows, columns = np.where(changed)
  x, y, width, height = boxes[0]
  assert x <= columns.min() and columns.max() < x + width
  assert y <= rows.min() and rows.max() < y + height
  assert columns.max() - columns.min() >= width - 3


def test_the_place_tells_the_kind_only_in_the_natural_mix():
  rng = np.random.default_rng(0)
  for mix, low, high in (
    (world.Mix(usual=0.85), 0.83, 0.87),
    (world.balanced(), 0.48, 0.52),
  ):
    scenes = [world.draw_scene(rng, mix) for _ in range(2000)]
    usual = [
      thing.kind in world.PLACES[scene.place]
      for scene in scenes
      for thing in scene.things
    ]
    assert low < np.mean(usual) < high


def test_every_kind_can_be_drawn_and_every_place_has_one_of_each_pair():
  assert world.KINDS.keys() == SPRITES.keys()
  for pair, colors in world.PAIRS:
    assert set(colors) <= COLORS.keys()
    for place, usual in world.PLACES.items():
      assert len(set(pair) & usual.keys()) == 1, (place, pair)
