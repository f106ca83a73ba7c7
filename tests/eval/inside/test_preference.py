"""Rewards of held-out pairs by hand."""

import functools
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from povid_jax.checkpoints import stream
from povid_jax.data import records, text
from povid_jax.data.image import open_image, preprocess
from povid_jax.errors import UserError
from povid_jax.eval import __main__ as command
from povid_jax.eval.benchmarks import preference
from povid_jax.eval.protocol import Options
from povid_jax.generate import answering
from povid_jax.models import params as params_lib
from tests.eval.inside.totals import values


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
  assert "rewards are not computed" in scored.notes[0]
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
