"""Benchmarks that look into the model, on a model of random weights."""

import dataclasses
import functools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from PIL import Image

from data_gen import tokenizer as tokenizers
from povid_jax.checkpoints import restore, stream
from povid_jax.data import records, text
from povid_jax.data.image import open_image, preprocess
from povid_jax.errors import UserError
from povid_jax.eval import __main__ as command
from povid_jax.eval import protocol
from povid_jax.eval.benchmarks import attention, noise_sweep, preference
from povid_jax.eval.protocol import Options, Scored
from povid_jax.generate import answering
from povid_jax.models import params as params_lib
from povid_jax.models import sharding
from povid_jax.models.config import LoraConfig
from povid_jax.models.presets import PRESETS

WORDS = (
  "a cat sits on the red chair. a dog stands by the blue table. what is in the "
  "picture? describe this image."
)


@pytest.fixture(scope="module", autouse=True)
def one_device() -> Iterator[None]:
  """Compiling for the eight of the other tests takes minutes here."""
  with pytest.MonkeyPatch.context() as patch:
    make = sharding.make_mesh
    first = jax.devices()[:1]
    patch.setattr(sharding, "make_mesh", lambda shape: make(shape, first))
    yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
  """A model folder of the test preset, with pictures beside it."""
  root = tmp_path_factory.mktemp("inside")
  (root / "tokenizer").mkdir()
  built = tokenizers.build([WORDS], 300)
  built.save(str(root / "tokenizer" / "tokenizer.json"))
  tokenizers._write_config(root / "tokenizer")
  rng = np.random.default_rng(0)
  _, shapes = params_lib.abstract(PRESETS["test"])
  weights = {
    path: rng.normal(0, 0.2, leaf.shape).astype(np.float32)
    for path, leaf in shapes.items()
  }
  restore.save_model_folder(
    root / "model",
    PRESETS["test"],
    weights,
    template="short",
    tokenizer=root / "tokenizer",
  )
  for i in range(3):
    pixels = rng.integers(0, 256, (20, 30, 3), np.uint8)
    (root / "images").mkdir(exist_ok=True)
    Image.fromarray(pixels).save(root / "images" / f"{i}.png")
  return root


@pytest.fixture(scope="module")
def base(folder: Path) -> answering.Policy:
  return answering.load_policy(str(folder / "model"))


@pytest.fixture(scope="module")
def tuned(base: answering.Policy) -> answering.Policy:
  """The same with an adapter that does something."""
  lora = LoraConfig(rank=2, alpha=4.0)
  graph, shapes = params_lib.abstract(base.config, lora)
  rng = np.random.default_rng(1)
  added = {
    path: jnp.array(rng.normal(0, 0.3, leaf.shape), jnp.float32)
    for path, leaf in shapes.items()
    if params_lib.is_lora(path)
  }
  params = dict(sorted({**base.params, **added}.items()))
  weights = dataclasses.replace(base.weights, params=params, lora=lora)
  return dataclasses.replace(base, weights=weights, graph=graph, params=params)


def sample(i: int, chosen: str, rejected: str, **extra: Any) -> dict[str, Any]:
  turns = lambda answer: [
    {"from": "human", "value": "<image>\nwhat is in the picture?"},
    {"from": "gpt", "value": answer},
  ]
  return {
    "id": f"p{i}",
    "image": f"{i % 3}.png",
    "conversations": turns(chosen),
    "rejected_conversations": turns(rejected),
    **extra,
  }


PAIRS = [
  sample(0, "a cat sits.", "a dog stands by the table.", category="one"),
  sample(1, "a dog.", "a cat.", category="two"),
  sample(
    2, "the red chair.", "the blue chair on the red table.", category="one"
  ),
  sample(3, "a dog stands by the blue table.", "a dog", category="two"),
  sample(4, "chair", "table", category="one"),
]


@pytest.fixture
def pairs(folder: Path, tmp_path: Path) -> Path:
  path = tmp_path / "pairs.jsonl"
  path.write_text("".join(json.dumps(row) + "\n" for row in PAIRS))
  (tmp_path / "images").symlink_to(folder / "images")
  return path


@functools.partial(jax.jit, static_argnames=("graph", "adapter"))
def row_logits(graph, params, ids, pixels, adapter) -> jax.Array:
  model = params_lib.merge(graph, params)
  embeds = model.encode_images(pixels)
  hidden, _ = model.prefill(ids, embeds, adapter=adapter)
  return model.decoder.logits(hidden)


def plain_logp(
  policy: answering.Policy, folder: Path, row: dict[str, Any], answer: str,
  adapter: bool, **how: Any,
) -> float:  # fmt: skip
  """Sum of log-probs over the answer, from one row of logits."""
  encoded = text.encode(
    (row["conversations"][0]["value"],),
    ((answer,),),
    policy.tokenizer,
    policy.template,
    policy.config.image_tokens,
    **how,
  )
  image = open_image(folder / "images" / row["image"])
  pixels = preprocess(image, policy.config.vision.image_size, "pad")
  ids = np.concatenate([encoded.prefix_ids, encoded.branch_ids[0]])
  padded = np.pad(ids, (0, 64 - len(ids)))  # behind what is scored
  logits = row_logits(
    policy.graph, policy.params, padded[None], pixels[None, None], adapter
  )
  logits = np.asarray(logits[0], np.float64)
  logps = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
  start = len(encoded.prefix_ids)
  return sum(logps[i - 1, ids[i]] for i in range(start, len(ids)))


def values(benchmark: protocol.Benchmark, scored: Scored) -> dict[str, float]:
  totals = protocol.total(scored.units)
  found = benchmark.metrics(totals, Options())
  return {name: float(value[0]) for name, value in found}


def test_rewards_by_hand(
  tuned: answering.Policy, folder: Path, pairs: Path
) -> None:
  options = Options(extra={"pairs": pairs, "beta": 0.5})
  scored = preference.measure(tuned, pairs.parent, options)
  margins = []
  for row, verdict in zip(PAIRS, scored.verdicts, strict=True):
    rewards = []
    for i, key in enumerate(("conversations", "rejected_conversations")):
      answer = row[key][1]["value"]
      own, before = (
        plain_logp(tuned, folder, row, answer, adapter)
        for adapter in (True, False)
      )
      assert verdict["logps"][i] == pytest.approx(own, abs=1e-3)
      assert verdict["reference_logps"][i] == pytest.approx(before, abs=1e-3)
      rewards.append(0.5 * (own - before))
    margins.append(rewards[0] - rewards[1])
  found = values(preference.BENCHMARK, scored)
  assert found["margin"] == pytest.approx(np.mean(margins), abs=1e-3)
  assert found["accuracy"] == np.mean([m > 0 for m in margins])
  assert found["one/margin"] == pytest.approx(np.mean(margins[::2]), abs=1e-3)
  assert found["two/accuracy"] == np.mean([m > 0 for m in margins[1::2]])
  assert abs(found["margin"]) > 0.01, "the adapter does nothing"
  assert scored.settings["reference"] == "adapter off"
  assert len(scored.units) == 3  # pictures


def test_contexts_weights_and_more_rejected_answers(
  tuned: answering.Policy, folder: Path, pairs: Path
) -> None:
  """The context is read and not scored, and a rejected answer is a pair."""
  more = sample(0, "", "a red chair.")["rejected_conversations"]
  row = sample(0, "a cat sits.", "a dog stands.") | {
    "context": "the table.",
    "end_scored": False,
    "rejected_weight": 0.5,
    "more_rejected": [{"conversations": more, "weight": 2.0}],
  }
  pairs.write_text(json.dumps(row))
  options = Options(extra={"pairs": pairs, "beta": 1.0})
  scored = preference.measure(tuned, pairs.parent, options)
  how = {"context": "the table.", "end_scored": False}
  logp = lambda answer, adapter: plain_logp(
    tuned, folder, row, answer, adapter, **how
  )
  assert len(scored.verdicts) == 2
  for verdict, answer, weight in zip(
    scored.verdicts, ("a dog stands.", "a red chair."), (0.5, 2.0), strict=True
  ):
    want = [logp("a cat sits.", True), weight * logp(answer, True)]
    assert verdict["logps"] == pytest.approx(want, abs=1e-3)
    before = [logp("a cat sits.", False), weight * logp(answer, False)]
    assert verdict["reference_logps"] == pytest.approx(before, abs=1e-3)
    rewards = np.subtract(want, before)
    assert verdict["rewards"] == pytest.approx(rewards, abs=1e-3)


def test_records_give_what_json_gives(
  tuned: answering.Policy, pairs: Path, tmp_path: Path
) -> None:
  source = preference.open_pairs(pairs, Options(extra={"pairs": pairs}))
  folder = tmp_path / "records"
  folder.mkdir()
  path = folder / records.shard_name("validation", 0, 1)
  with records.RecordWriter(path) as writer:
    for record in source:
      writer.write(record)
  ours = preference.measure(tuned, pairs, Options(extra={"pairs": pairs}))
  theirs = preference.measure(tuned, folder, Options())
  assert ours.verdicts == theirs.verdicts
  two = preference.measure(tuned, folder, Options(limit=2))
  assert [v["question_id"] for v in two.verdicts] == ["p0", "p1"]


def test_without_a_reference(
  base: answering.Policy, folder: Path, pairs: Path
) -> None:
  extra = {"pairs": pairs}
  scored = preference.measure(base, pairs, Options(extra=extra))
  assert list(values(preference.BENCHMARK, scored)) == ["likelier"]
  assert "no rewards" in scored.notes[0]
  same = Options(extra=extra | {"reference": str(folder / "model")})
  found = values(preference.BENCHMARK, preference.measure(base, pairs, same))
  assert (found["accuracy"], found["margin"]) == (0, 0)  # a tie is no success
  assert found["likelier"] == found["reference_likelier"]


def test_a_run_is_compared_with_its_adapter_off(
  tuned: answering.Policy, folder: Path, pairs: Path, tmp_path: Path
) -> None:
  """The command on a run directory gives what the restored policy gives."""
  run = tmp_path / "run"
  (run / "checkpoints" / "7").mkdir(parents=True)
  config = {
    "init": str(folder / "model"),
    "lora": tuned.weights.lora.to_dict(),
  }
  (run / "config.json").write_text(json.dumps(config))
  added = {k: v for k, v in tuned.params.items() if params_lib.is_lora(k)}
  with ocp.StandardCheckpointer() as checkpointer:
    path = run / "checkpoints" / "7" / "params"
    checkpointer.save(path.absolute(), stream.nest(added))
  argv = [
    f"--checkpoint={run}@7",
    "--benchmarks=preference",
    f"--pairs={pairs}",
    f"--out={tmp_path}/out",
    "--resamples=10",
  ]
  assert command.main(argv) == 0
  results = json.loads((tmp_path / "out" / "results.json").read_text())
  found = {row["metric"]: row["value"] for row in results["results"]}
  options = Options(extra={"pairs": pairs})
  scored = preference.measure(tuned, pairs, options)
  assert found == pytest.approx(values(preference.BENCHMARK, scored), abs=1e-5)
  made = results["settings"]["measured_by"]["preference"]
  assert made == {"reference": "adapter off", "beta": 0.1, "pairs": 5}


def test_pairs_that_cannot_be_used(tmp_path: Path, pairs: Path) -> None:
  with pytest.raises(UserError, match="want TFRecords .* found none"):
    preference.open_pairs(tmp_path / "images", Options())
  row = dict(PAIRS[0])
  del row["rejected_conversations"]
  pairs.write_text(json.dumps(row))
  with pytest.raises(UserError, match="'p0' has no rejected answer"):
    preference.open_pairs(tmp_path, Options())
  pairs.write_text(json.dumps(PAIRS[0] | {"image": "9.png"}))
  with pytest.raises(UserError, match="id 'p0'.*9.png"):
    preference.open_pairs(tmp_path, Options())


QUESTIONS = [
  {"question_id": "q/1", "image": "0.png", "text": "what is in the picture?"},
  {"question_id": 2, "image": "1.png", "text": "<image>\ndescribe this image."},
]


def test_attention_end_to_end(folder: Path, tmp_path: Path) -> None:
  data, out = tmp_path / "data", tmp_path / "out"
  (data / "attention").mkdir(parents=True)
  questions = data / "attention" / "questions.jsonl"
  questions.write_text("".join(json.dumps(row) + "\n" for row in QUESTIONS))
  argv = [
    f"--checkpoint={folder}/model",
    "--benchmarks=attention",
    f"--data={data}",
    f"--images={folder}/images",
    f"--out={out}",
    "--max-new-tokens=6",
    "--resamples=10",
    "--heat-maps=1",
  ]
  assert command.main(argv) == 0
  rows = json.loads((out / "results.json").read_text())["results"]
  found = {row["metric"]: row["value"] for row in rows}
  layers = [found[f"layer_{i:02d}/image_share"] for i in range(2)]
  assert found["image_share"] == pytest.approx(np.mean(layers))
  assert 0 < found["image_share"] < 1
  assert 0 < found["uniform"] < 1
  names = sorted(path.name for path in (out / "attention").iterdir())
  assert names == ["heads.json", "q_1.png"]
  heads = json.loads((out / "attention" / "heads.json").read_text())
  assert np.shape(heads["2"]) == (2, 4)
  with Image.open(out / "attention" / "q_1.png") as picture:
    assert picture.width > 300
  before = (out / "results.json").read_text()
  assert command.main(argv) == 0  # answers are read back, nothing else changes
  assert (out / "results.json").read_text() == before
  assert len(list((out / "answers").glob("attention-*.jsonl"))) == 1


def test_attention_of_a_given_answer_does_not_see_padding(
  base: answering.Policy, folder: Path
) -> None:
  """An even model: all weights equal, so shares can be counted."""
  zero = {
    path: jnp.zeros_like(leaf) if "q_proj" in path else leaf
    for path, leaf in base.params.items()
  }
  even = dataclasses.replace(base, params=zero)
  question = attention.Question(
    1, (folder / "images/0.png",), "what is in the picture?", {"image": "0"}
  )
  seen = attention._look(attention._looker(), even, question, "a cat sits.")
  assert seen.heads == pytest.approx(seen.uniform, abs=1e-5)
  count, width = seen.weights.shape
  in_sight = seen.start + np.arange(count)
  for row, number in enumerate(in_sight):
    expected = np.where(np.arange(width) < number, 1 / number, 0)
    np.testing.assert_allclose(seen.weights[row], expected, atol=1e-6)
  assert seen.is_image.sum() == base.config.image_tokens


def put_chair(data: Path, folder: Path) -> None:
  data.mkdir(parents=True)
  images = [{"id": i, "file_name": f"{i}.png"} for i in range(3)]
  objects = [
    {"id": i, "image_id": i, "category_id": 1, "bbox": [0, 0, 1, 1]}
    for i in range(3)
  ]
  categories = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
  captions = [{"id": i, "image_id": i, "caption": "a cat"} for i in range(3)]
  instances = {
    "images": images, "annotations": objects, "categories": categories
  }  # fmt: skip
  (data / "instances_val.json").write_text(json.dumps(instances))
  captions = {"images": images, "annotations": captions}
  (data / "captions_val.json").write_text(json.dumps(captions))
  (data / "images").symlink_to(folder / "images")


def test_noise_sweep_by_step(
  base: answering.Policy,
  folder: Path,
  tmp_path: Path,
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  """Answers that a test gives: wrong for as many pictures as the step says."""
  put_chair(tmp_path / "chair", folder)
  asked = []

  def answer(policy, questions, how, out, noise) -> list[dict[str, str]]:
    asked.append((noise, out.name))
    wrong = 0 if noise is None else {500: 1, 999: 3}[noise.step]
    texts = ["a dog"] * wrong + ["a cat and a cat"] * (3 - wrong)
    return [{"text": text} for text in texts]

  monkeypatch.setattr(answering, "answer", answer)
  extra = {
    "noise_steps": noise_sweep.read_steps("999,clean,500"),
    "decoding": {},
  }
  options = Options(out=tmp_path / "out", seed=7, extra=extra)
  (tmp_path / "noise_sweep").mkdir()
  scored = noise_sweep.measure(base, tmp_path / "noise_sweep", options)
  found = values(noise_sweep.BENCHMARK, scored)
  steps = [name for name in found if name.endswith("/CHAIRs")]
  assert steps == ["clean/CHAIRs", "500/CHAIRs", "999/CHAIRs"]
  assert [found[name] for name in steps] == pytest.approx([0, 1 / 3, 1])
  assert found["500/CHAIRi"] == pytest.approx(1 / 5)
  noises = [noise for noise, _ in asked]
  assert noises[0] == answering.Noise(999, seed=7)
  assert noises[1] is None
  assert len({name for _, name in asked}) == 3  # no step reads another's
  assert len(scored.verdicts) == 9


def test_noise_sweep_really_asks_under_noise(
  base: answering.Policy,
  folder: Path,
  tmp_path: Path,
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  put_chair(tmp_path / "chair", folder)
  distort, steps = answering.noise_lib.distort, []

  def spy(image: np.ndarray, step: int, *rest: Any) -> np.ndarray:
    steps.append(step)
    return distort(image, step, *rest)

  monkeypatch.setattr(answering.noise_lib, "distort", spy)
  options = Options(
    out=tmp_path / "out",
    limit=2,
    extra={
      "noise_steps": (None, 999),
      "decoding": {"max_new_tokens": 3, "batch_size": 2},
    },
  )
  scored = noise_sweep.measure(base, tmp_path / "chair", options)
  assert "999/CHAIRs" in values(noise_sweep.BENCHMARK, scored)
  files = (tmp_path / "out" / "answers").glob("noise_sweep-*.jsonl")
  assert [len(path.read_text().splitlines()) for path in files] == [2, 2]
  assert steps == [999, 999]


STEPS: list[tuple[str, Any]] = [
  ("clean", (None,)),
  ("0,500", (0, 500)),
  (" 500 ,clean,500", (500, None)),
  ("1000", None),
  ("-1", None),
  ("5.5", None),
  ("noisy", None),
  ("", None),
]


@pytest.mark.parametrize(("value", "expected"), STEPS)
def test_noise_steps(value: str, expected: Any) -> None:
  if expected is None:
    with pytest.raises(UserError, match="--noise-steps"):
      noise_sweep.read_steps(value)
  else:
    assert noise_sweep.read_steps(value) == expected


def test_a_model_is_needed(tmp_path: Path) -> None:
  rows: Callable[[str], str] = lambda name: f"--benchmarks={name}"
  (tmp_path / "questions.jsonl").write_text("")
  for name in ("attention", "preference", "noise_sweep"):
    with pytest.raises(UserError, match="needs --checkpoint"):
      command.main(
        [
          f"--answers={tmp_path}/a.jsonl",
          rows(name),
          f"--data={tmp_path}",
          f"--out={tmp_path}/out",
        ]
      )
