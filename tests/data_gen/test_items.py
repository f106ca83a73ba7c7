"""Samples from every kind of file, their keys, and what COCO knows of them."""

import json

import pytest

from data_gen.items import (
  classify,
  image_key,
  load_annotations,
  load_samples,
  make_items,
)
from povid_jax.data.pairs import Sample
from povid_jax.errors import UserError

CAPTIONS = {
  "images": [
    {"id": 1, "file_name": "COCO_train2014_000000000001.jpg"},
    {"id": 2, "file_name": "b.jpg"},
  ],
  "annotations": [
    {"id": 9, "image_id": 1, "caption": "A dog. "},
    {"id": 8, "image_id": 1, "caption": "Another."},
    {"id": 7, "image_id": 2, "caption": "A cat."},
  ],
}
INSTANCES = {
  "images": CAPTIONS["images"],
  "categories": [{"id": 3, "name": "dog", "supercategory": "animal"}],
  "annotations": [{"id": 1, "image_id": 1, "category_id": 3}],
}


def save(path, data):
  path.write_text(json.dumps(data))
  return path


def sample(question: str, *answers: str, **extra) -> Sample:
  turns = [turn for answer in answers for turn in (question, answer)]
  return Sample("s", ("a.jpg",), tuple(turns), None, extra)


def test_coco_captions_become_samples(tmp_path):
  samples = load_samples(save(tmp_path / "captions.json", CAPTIONS))
  assert [s.turns[1] for s in samples] == ["A dog.", "A cat."]
  assert samples[0].images[0].name == "COCO_train2014_000000000001.jpg"
  assert samples[0].id == "COCO_train2014_000000000001"


@pytest.mark.parametrize(
  ("change", "words"),
  [
    ({"annotations": [{"image_id": 1}]}, r"annotations\[0\].*caption"),
    ({"annotations": [{"image_id": 5, "caption": "x"}]}, "not in images"),
    ({"annotations": [{"image_id": 1, "caption": " "}]}, "empty"),
    ({"annotations": 3}, "annotations is missing"),
    ({"images": [{"id": 1}]}, r"images\[0\]"),
    ({"images": None}, "images is missing"),
  ],
)
def test_malformed_captions_are_named(tmp_path, change, words):
  path = save(tmp_path / "captions.json", CAPTIONS | change)
  with pytest.raises(UserError, match=words) as error:
    load_samples(path)
  assert str(path) in str(error.value)


def test_bad_captions_can_be_skipped_but_are_told(tmp_path):
  rows = [{"image_id": 1}, *CAPTIONS["annotations"]]
  path = save(tmp_path / "captions.json", CAPTIONS | {"annotations": rows})
  problems = []
  assert len(load_samples(path, problems.append)) == 2
  assert len(problems) == 1


def test_annotations_of_both_kinds(tmp_path):
  files = [
    save(tmp_path / "i.json", INSTANCES),
    save(tmp_path / "c.json", CAPTIONS),
  ]
  found = load_annotations(files)
  assert found.objects == {"000000000001": {"dog"}, "b.jpg": set()}
  assert found.captions["000000000001"] == ["A dog. ", "Another."]
  assert found.categories == [("dog", "animal")]


@pytest.mark.parametrize(
  "data",
  [
    [],
    {"images": []},
    INSTANCES | {"annotations": [{"image_id": 1, "category_id": 99}]},
    INSTANCES | {"annotations": [{"image_id": 99, "category_id": 3}]},
    INSTANCES | {"annotations": [7]},
    INSTANCES | {"categories": [{"id": 1}]},
    INSTANCES | {"categories": 5},
    INSTANCES | {"categories": [{"id": 3, "name": None}]},
    INSTANCES | {"categories": [{"id": 3, "name": " "}]},
    INSTANCES | {"categories": [{"id": [3], "name": "dog"}]},
    INSTANCES | {"categories": [{"id": 3, "name": "a", "supercategory": 1}]},
  ],
)
def test_malformed_annotations_are_named(tmp_path, data):
  path = save(tmp_path / "i.json", data)
  with pytest.raises(UserError, match="i.json"):
    load_annotations([path])


def test_names_of_coco_pictures():
  for name in ("COCO_val2014_000000000042.jpg", "000000000042.jpg"):
    assert image_key(name) == image_key(f"train/{name}") == "000000000042"
  assert image_key("train/000042.jpg") == "train/000042.jpg"


@pytest.mark.parametrize(
  ("question", "answer", "category"),
  [
    ("Describe this image in detail.", "A dog lies on the green grass.",
     "captioning"),
    ("What is this photo about'?", "It shows a dog that lies on grass.",
     "captioning"),
    ("Is there a dog?", "Yes.", "vqa"),
    ("What color is it?", "Red", "vqa"),
    ("Why might the dog be there?", "It may rest there because " + "x " * 12,
     "reasoning"),
    ("Which is first?", "Reasoning: it is. Answer: dog.", "reasoning"),
  ],
)  # fmt: skip
def test_categories(question, answer, category):
  assert classify(sample(f"<image>\n{question}", answer)) == category


def test_own_category_counts():
  assert classify(sample("Describe.", "A.", category="mine")) == "mine"


def test_keys_are_stable_and_differ():
  one, two = sample("Q", "A"), sample("Q", "B")
  keys = [item.key for item in make_items([one, two, one], per_sample=2)]
  assert len(set(keys)) == 6
  assert [i.key for i in make_items([one], 1)] == keys[:1]
  assert [i.key for i in make_items([two, one], 2)] == keys[2:4] + keys[:2]


def test_only_some_categories():
  samples = [sample("Q", "A", category=c) for c in ("x", "y", "x")]
  assert len(make_items(samples, 1, ["x"])) == 2
