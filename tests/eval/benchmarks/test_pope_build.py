"""POPE questions built from annotations: the paper's three ways, by hand."""

import json
import random
from collections import Counter

import pytest

from povid_jax.errors import UserError
from povid_jax.eval.benchmarks import pope, pope_build
from povid_jax.eval.benchmarks.coco import Instances
from povid_jax.eval.protocol import Options

HELD = {
  1: ["fork", "knife", "table"],
  2: ["fork", "knife"],
  3: ["fork", "table"],
  4: ["dog", "table"],
  5: ["dog"],
}
NAMES = ["fork", "knife", "table", "dog", "apple"]
STATS = pope_build.statistics(HELD.values(), NAMES)


def test_statistics_count_pictures():
  assert STATS.order == ("fork", "table", "dog", "knife", "apple")
  assert STATS.together["fork"] == ("knife", "table", "apple", "dog")
  assert STATS.together["dog"] == ("table", "apple", "fork", "knife")


def test_instances_of_one_picture_count_once():
  stats = pope_build.statistics([["a", "a", "a"], ["b"], ["b"]], ["a", "b"])
  assert stats.order == ("b", "a")


def _absent(split, present, held):
  return pope_build.absent(split, present, set(held), STATS, random.Random(0))


def test_popular_takes_the_most_frequent_absent_ones():
  assert _absent("popular", ["dog", "table"], ["dog", "table"]) == [
    "fork",
    "knife",
  ]


def test_adversarial_takes_what_goes_with_each_present_one():
  # fork: knife; dog: the table comes first but is there
  assert _absent("adversarial", ["fork", "dog"], ["fork", "dog", "table"]) == [
    "knife",
    "apple",
  ]


def test_adversarial_asks_about_nothing_twice():
  # the table goes with both
  assert _absent("adversarial", ["knife", "fork"], ["knife", "fork"]) == [
    "table",
    "apple",
  ]


def test_random_takes_any_absent_one():
  drawn = {
    tuple(
      pope_build.absent("random", ["dog"], {"dog"}, STATS, random.Random(s))
    )
    for s in range(40)
  }
  assert drawn == {("fork",), ("knife",), ("table",), ("apple",)}


ARTICLES = {
  "dog": "Is there a dog in the image?",
  "umbrella": "Is there an umbrella in the image?",
  "Apple": "Is there an Apple in the image?",
}


@pytest.mark.parametrize("name", ARTICLES)
def test_article(name):
  assert pope_build.question(name) == ARTICLES[name]


def _instances(count=40):
  rng = random.Random(1)
  names = [f"thing{i}" for i in range(12)]
  objects = {i: rng.sample(names, rng.randrange(1, 7)) for i in range(count)}
  return Instances({i: f"{i}.jpg" for i in objects}, objects, names)


def _build(instances, images=10, per_image=6, seed=0):
  stats = pope_build.statistics(
    instances.objects.values(), instances.categories
  )
  return pope_build.build(instances, stats, images, per_image, seed)


def test_every_split_is_balanced_true_and_about_the_same_pictures():
  instances = _instances()
  rows = _build(instances)
  for split in pope_build.SPLITS:
    assert [row["question_id"] for row in rows[split]] == list(range(1, 61))
    assert [row["label"] for row in rows[split]] == ["yes", "no"] * 30
    for row in rows[split]:
      name = row["text"].removeprefix("Is there a ").split(" ")[0]
      held = instances.objects[int(row["image"].split(".")[0])]
      assert (name in held) == (row["label"] == "yes")
    asked = Counter((row["image"], row["text"]) for row in rows[split])
    assert max(asked.values()) == 1
  yes = [[r for r in rows[s] if r["label"] == "yes"] for s in pope_build.SPLITS]
  assert yes[0] == yes[1] == yes[2]


def test_seed_decides():
  instances = _instances()
  assert _build(instances) == _build(instances)
  assert _build(instances) != _build(instances, seed=1)


def test_what_is_built_is_read_again(tmp_path):
  rows = _build(_instances())
  pope_build.write(rows, tmp_path)
  asked = pope.BENCHMARK.questions(tmp_path, Options())
  assert [q.question_id for q in asked] == list(range(1, 181))
  labels = [row["label"] for split in rows.values() for row in split]
  assert [q.extra["label"] for q in asked] == labels
  first = (tmp_path / "coco_pope_random.json").read_text().split("\n")[0]
  assert json.loads(first) == rows["random"][0]


def test_odd_counts_and_too_few_pictures_are_refused():
  with pytest.raises(UserError, match="want an even number"):
    _build(_instances(), per_image=3)
  with pytest.raises(UserError, match="only .* of 40 pictures"):
    _build(_instances(), images=41)
