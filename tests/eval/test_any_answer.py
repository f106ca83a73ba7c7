"""Whatever a model says, every benchmark gives finite scores."""

import json
import math

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from povid_jax.eval import benchmarks as registry
from povid_jax.eval import bootstrap, protocol
from povid_jax.eval.protocol import Options

IMAGES = [{"id": i, "file_name": f"{i}.jpg"} for i in (1, 2)]
VD = {"category": "VD", "subcategory": "x", "set_id": "0", "visual_input": "1"}
FILES = {
  "chair/instances_val.json": {
    "images": IMAGES,
    "annotations": [{"image_id": 1, "category_id": 1}],
    "categories": [{"id": 1, "name": "dog"}],
  },
  "chair/captions_val.json": {
    "images": IMAGES,
    "annotations": [{"image_id": 2, "caption": "A glass?"}],
  },
  "pope/coco_pope_random.json": [
    {"question_id": i, "image": "a", "text": "Is it?", "label": label}
    for i, label in enumerate(("yes", "no"))
  ],
  "scienceqa/problems.json": {
    i: {"answer": 1, "choices": ["a", "b"]} for i in "12"
  },
  "scienceqa/pid_splits.json": {"test": ["1", "2"]},
  "scienceqa/llava_test_CQM-A.json": [
    {"id": i, "image": "a", "conversations": [{"value": "<image>\nWhy?"}]}
    for i in "12"
  ],
  "amber/annotations.json": [
    {"id": 1, "type": "generative", "truth": ["dog"], "hallu": []},
    {"id": 2, "type": "relation", "truth": "no"},
  ],
  "amber/relation.json": {"dog": ["puppy"], "tree": []},
  "amber/query_all.json": [
    {"id": i, "image": "a", "query": "Say."} for i in (1, 2)
  ],
  "hallusionbench/HallusionBench.json": [
    {
      **VD,
      "figure_id": str(i),
      "question_id": "0",
      "question": "Is it?",
      "gt_answer": str(i),
      "filename": "a.png",
    }
    for i in (0, 1)
  ],
}
TEXTS = {
  "mme/existence.txt": "a\tIs it?\tYes\na\tIs it?\tNo\n",
  "mmbench/dev.tsv": "index\tquestion\tA\tB\tanswer\n"
  "1\tq\tx\ty\tA\n2\tq\tx\ty\tB\n",
}
NAMES = (
  *("chair", "pope", "mme", "mmbench", "scienceqa", "amber"),
  "hallusionbench",
)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
  root = tmp_path_factory.mktemp("data")
  contents = {name: json.dumps(value) for name, value in FILES.items()}
  for name, text in (contents | TEXTS).items():
    (root / name).parent.mkdir(exist_ok=True)
    (root / name).write_text(text)
  return root


WORDS = st.sampled_from(
  ["Yes", "no", "A", "B.", "(A)", "dog", "glasses", "'", ".", "n't", "\n", "ß"]
)
ANSWERS = st.one_of(
  st.none(), st.text(max_size=30), st.lists(WORDS, max_size=8).map(" ".join)
)


@pytest.mark.parametrize("clean", [False, True])
@pytest.mark.parametrize("name", NAMES)
@given(said=st.tuples(ANSWERS, ANSWERS))
@settings(
  max_examples=60,
  deadline=None,
  suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_scores_are_finite(name, clean, data, said):
  benchmark, options = registry.get(name), Options(clean_rules=clean)
  asked = benchmark.questions(data / name, options)
  assert len(asked) == 2
  scored = benchmark.score(data / name, asked, said, options)
  if not scored.units:  # CHAIR leaves empty captions out
    assert name == "chair" and not any((text or "").strip() for text in said)
    return
  totals = protocol.total(scored.units)
  for metric, value in benchmark.metrics(totals, options):
    top = {"score": 200, "perception": 2000, "AMBER": 100}
    whole = ("length", "objects_per_caption")
    limit = math.inf if metric in whole else top.get(metric.split("/")[-1], 1)
    assert 0 <= float(np.asarray(value)[0]) <= limit
    # results.md and config.checkpoint.best go by the list
    assert benchmark.metric_words() & set(metric.split("/")), metric
  for interval in bootstrap.intervals(
    benchmark, scored.units, options, 5
  ).values():
    assert math.isfinite(interval.low) and interval.low <= interval.high
