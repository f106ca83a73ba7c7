"""Every reader of JSON: whatever lies there, a value or a clear error."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_gen import encode, inspect_stats, items, rounds, write
from data_gen.journal import Journal
from data_gen.verify.detections import DetectionsVerifier
from povid_jax import folders
from povid_jax.checkpoints import model_json, restore
from povid_jax.convert import card, chat, made
from povid_jax.data import text, tokenizer
from povid_jax.data.records import RecordSource
from povid_jax.data.samples import Layout
from povid_jax.eval import answers, compare, needs, results
from povid_jax.eval.benchmarks import (
  amber,
  hallusionbench,
  mmhal,
  mmvet,
  pope,
  scienceqa,
)
from povid_jax.eval.protocol import Options
from povid_jax.generate import __main__ as generate
from povid_jax.generate import answering
from povid_jax.generate.decode import Decoding
from povid_jax.llm import log, prices
from povid_jax.report import load as report
from povid_jax.training import lock, metrics, reference, reference_part, workdir
from tests import fuzzing, small_world
from tests.report import conftest as reported

pytestmark = pytest.mark.slow
JSON = fuzzing.values("dog", "chosen", "yes", "results", "short")
Case = tuple[Path, Callable[[], Any]]


def _lines(file: Path, *rows: Any) -> Path:
  file.parent.mkdir(parents=True, exist_ok=True)
  file.write_text("".join(json.dumps(row) + "\n" for row in rows))
  return file


def _json(file: Path, value: Any) -> Path:
  file.parent.mkdir(parents=True, exist_ok=True)
  file.write_text(json.dumps(value))
  return file


def _model(root: Path) -> Case:
  folder = small_world.model_folder(root)

  def ask() -> None:
    text.find_template(model_json.read(folder).template)
    restore.fingerprint(folder)

  return folder / "model.json", ask


def _run(root: Path) -> Case:
  run = small_world.run_folder(root, small_world.model_folder(root), False)

  def ask() -> None:
    workdir.check_ended(str(run))
    card._stage(f"{run}@1")
    restore.describe(run)
    restore.load_trained(run)

  return run / "config.json", ask


def _rows_of_steps(root: Path) -> Case:
  file = _lines(root / "t.jsonl", {"step": 0, "loss": 1}, {"step": 1})
  return file, lambda: metrics.truncate(file, 1)


def _reference(root: Path) -> Case:
  key = {"terms": ["chosen"], "n": 3}
  file = _json(root / "key.json", key)
  np.savez(root / "logps.npz", chosen=np.ones(3))
  return file, lambda: reference._read(root, key)


def _part(root: Path) -> Case:
  key = {"terms": ["chosen"]}
  part = reference_part.Part(root / "reference", key)
  part.keep(3, {"chosen": np.ones(3)}, now=True)
  return root / "reference.part" / "key.json", part.load


def _earlier_answers(root: Path) -> Case:
  row = {
    "question_id": "1",
    "prompt": "q",
    "text": "a",
    "model_id": "m",
    "metadata": answering.facts(Decoding()),
  }
  file = _lines(root / "a.jsonl", row, row | {"question_id": "2"})
  asked = [generate.Question("1", (), "q")]
  ask = lambda: generate.check_earlier(file, asked, Decoding(), "m")
  return file, lambda: (answering.read_answers(file), ask())


def _questions(root: Path) -> Case:
  (root / "a.png").write_bytes(small_world.png(0))
  row = {"question_id": 1, "image": "a.png", "text": "What?"}
  file = _lines(root / "q.jsonl", row, row)
  return file, lambda: generate.read_questions(file, root)


POPE = [
  {"question_id": i, "image": f"{i % 2}.jpg", "text": f"Is there a {word}?",
   "label": ("yes", "no")[i % 2]}
  for i, word in enumerate(("dog", "cat", "bus", "car"))
]  # fmt: skip


def _pope(root: Path) -> Case:
  for split in ("random", "popular", "adversarial"):
    file = _lines(root / f"coco_pope_{split}.json", *POPE)
  return file, lambda: needs.questions(pope.BENCHMARK, root, Options())


def _answers(root: Path) -> Case:
  _pope(root)
  options = Options(split="random")
  asked = pope.BENCHMARK.questions(root, options)
  rows = [
    {"question_id": q["question_id"], "prompt": q["text"], "text": "yes"}
    for q in POPE
  ]
  file = _lines(root / "given.jsonl", *rows)

  def ask() -> None:
    given = answers.read(file, pope.BENCHMARK)
    found = answers.match(asked, given, pope.BENCHMARK, "skip")
    pope.BENCHMARK.score(root, found.questions, found.answers, options)

  return file, ask


BESIDE = {
  "query/query_all.json": [{"id": 1, "image": "a.jpg", "query": "Describe."}],
  "pid_splits.json": {"test": ["1"]},
  "llava_test_CQM-A.json": [
    {"id": "1", "conversations": [{"from": "human", "value": "q"}]}
  ],
}


def _of_benchmark(benchmark: Any, name: str, value: Any) -> Callable:
  def make(root: Path) -> Case:
    for beside, held in BESIDE.items():
      _json(root / beside, held)
    file = _json(root / name, value)
    options = Options(limit=1)
    return file, lambda: needs.questions(benchmark.BENCHMARK, root, options)

  return make


def _results(root: Path) -> Case:
  reported.write_evaluation(root, "sft")
  file = next(root.rglob("results.json"))

  def ask() -> None:
    results.read(file.parent)
    compare.compare(file.parent, file.parent, 10)

  return file, ask


def _report(root: Path) -> Case:
  reported.write_evaluation(root, "sft")
  reported.write_log(root, ["loss"])
  file = next(root.rglob("results.json"))
  return file, lambda: report.load([root])


def _card(root: Path) -> Case:
  reported.write_evaluation(root / "eval/2", "sft")
  file = root / "eval/2/results.json"
  return file, lambda: card._scores(f"{root}@2")


def _replies(root: Path) -> Case:
  reply = {
    "key": "k", "text": "t", "parsed": None, "refusal": None, "finish": "stop",
    "structured": True, "prompt_tokens": 1, "completion_tokens": 1,
    "cost": 0.0, "thoughts": "", "fingerprint": "f",
  }  # fmt: skip
  event = {"event": "failed", "key": "k", "reason": "r", "usage": {"prompt": 1}}
  file = _lines(root / "log.jsonl", reply, event)

  def ask() -> None:
    log.read(file)
    log.Replies(file).close()

  return file, ask


def _journal(root: Path) -> Case:
  settings = {"seed": 0}
  file = root / "journal.jsonl"
  Journal(file, settings).close()
  with file.open("a") as more:
    for row in (
      {"event": "sent", "key": "a"},
      {"event": "accepted", "key": "a", "edits": [{"kind": "object"}]},
      {"event": "batch", "batch": "b", "requests": 3, "remote": "r"},
    ):
      more.write(json.dumps(row) + "\n")
  return file, lambda: Journal(file, settings).close()


def _prices(root: Path) -> Case:
  image = {"base": 85, "tile": 170}
  models = {"m": {"input": 1, "output": 2, "batch": 0.5, "image": image}}
  file = _json(root / "prices.json", {"models": models})
  return file, lambda: prices.load_price("m-1", file)


def _detections(root: Path) -> Case:
  boxes = [{"label": "dog", "score": 0.5, "box": [0, 0, 1, 1]}]
  file = _lines(
    root / "d.jsonl",
    {"image": "a.jpg", "detections": boxes, "queries": ["dog"]},
    {"image": "b.jpg", "detections": []},
  )
  args = SimpleNamespace(detections=file, detected=0.5, undetected=0.2)
  vocabulary = SimpleNamespace(
    mentions=lambda label: [SimpleNamespace(object=label)]
  )
  setting = SimpleNamespace(args=args, vocabulary=vocabulary, logs=root)
  return file, lambda: DetectionsVerifier(setting)


def _coco(root: Path) -> Case:
  samples = lambda file: items.load_samples(file, Layout(str(root)))
  file = _json(
    root / "instances.json",
    {
      "images": [{"id": 1, "file_name": "a.jpg"}],
      "categories": [{"id": 5, "name": "dog", "supercategory": "animal"}],
      "annotations": [{"image_id": 1, "category_id": 5, "caption": "A dog."}],
    },
  )
  return file, lambda: (items.load_annotations([file]), samples(file))


def _skipped(root: Path) -> Case:
  file = _lines(root / "skipped.jsonl", {"id": "a", "reason": "gone: b"}, {})
  return file, lambda: inspect_stats.left_out(file)


def _rounds(root: Path) -> Case:
  file = _json(root / "rounds.json", {"sample-1": ["--seed=1"]})
  return file, lambda: rounds._note(SimpleNamespace(out=root))


def _records(name: str) -> Callable[[Path], Case]:
  def make(root: Path) -> Case:
    folder = small_world.data_folder(root / "data", 3)
    split = {"name": "train", "shardLengths": ["2", "1"]}
    info = {"name": "povid", "splits": [split], "noise_overflow": "wrap"}
    file = _json(folder / name, info)
    options = encode.Options(pairs=str(file), image_dir=None)
    return file, lambda: (RecordSource(str(folder), "train")[0],
                          write.is_complete(options, folder))  # fmt: skip

  return make


def _tokenizer(name: str) -> Callable[[Path], Case]:
  def make(root: Path) -> Case:
    folder = small_world.model_folder(root) / "tokenizer"
    file = folder / name
    if not file.exists():
      _json(file, {"eos_token_id": [2, 3]} if "gen" in name else {"<x>": 400})

    def ask() -> None:
      tokenizer.generation_stops.cache_clear()
      words = tokenizer.load_tokenizer(folder, 500)
      tokenizer.generation_stops(folder)
      chat.fitting(folder, "short")
      words.encode("A dog.")

    return file, ask

  return make


def _mark(root: Path) -> Case:
  args = SimpleNamespace(dst=root, command="to-hf", made_by="x")
  made.leave(args, root)
  return root / made.NAME, lambda: made.is_there(args)


def _folder(root: Path) -> Case:
  file = _json(root / "config.json", {"model_type": "llava", "peft_type": "x"})
  (root / "trainer_state.json").write_text("{}")
  return file, lambda: folders.explain(root)


def _lock(root: Path) -> Case:
  file = _json(root / ".lock", {"host": "h", "pid": 1, "since": "now"})

  def ask() -> None:
    with file.open("a+") as held:
      lock._holder(held)

  return file, ask


MMHAL = [{"question_type": "attribute", "question_topic": "t", "question": "q",
          "image_id": "1", "image_src": "http://x/1.jpg", "image_content": [],
          "gt_answer": "a", "model_answer": ""}] * 96  # fmt: skip
HALLUSION = {"category": "VD", "subcategory": "chart", "visual_input": "1",
             "set_id": "0", "figure_id": "1", "question_id": "0",
             "question": "q", "gt_answer": "1", "filename": "1.png",
             "gt_answer_details": "d", "sample_note": "n"}  # fmt: skip
READERS = {
  "model.json": _model,
  "config.json of a run": _run,
  "train.jsonl": _rows_of_steps,
  "reference key": _reference,
  "part of a reference": _part,
  "answers of a run before": _earlier_answers,
  "questions": _questions,
  "POPE": _pope,
  "answers": _answers,
  "MMHal": _of_benchmark(mmhal, "response_template.json", MMHAL),
  "MM-Vet": _of_benchmark(
    mmvet, "mm-vet.json",
    {"v1_0": {"imagename": "a.jpg", "question": "q", "answer": "a",
              "capability": ["ocr"]}}),
  "AMBER": _of_benchmark(
    amber, "annotations.json",
    [{"id": 1, "type": "generative", "truth": ["dog"], "hallu": ["cat"]}]),
  "HallusionBench": _of_benchmark(
    hallusionbench, "HallusionBench.json", [HALLUSION]),
  "ScienceQA": _of_benchmark(
    scienceqa, "problems.json",
    {"1": {"question": "q", "choices": ["a", "b"], "answer": 0, "hint": "",
           "image": None, "split": "test"}}),
  "results.json": _results,
  "report": _report,
  "scores of a model card": _card,
  "replies": _replies,
  "journal": _journal,
  "prices": _prices,
  "detections": _detections,
  "COCO": _coco,
  "skipped.jsonl": _skipped,
  "rounds.json": _rounds,
  "dataset_info.json": _records("dataset_info.json"),
  "povid.json": _records("povid.json"),
  "tokenizer_config.json": _tokenizer("tokenizer_config.json"),
  "added_tokens.json": _tokenizer("added_tokens.json"),
  "generation_config.json": _tokenizer("generation_config.json"),
  "special_tokens_map.json": _tokenizer("special_tokens_map.json"),
  "mark of convert": _mark,
  "a folder of somebody": _folder,
  "lock": _lock,
}  # fmt: skip


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
  made_once: dict[str, Case] = {}

  def find(name: str) -> Case:
    if name not in made_once:
      made_once[name] = READERS[name](tmp_path_factory.mktemp("reader"))
      made_once[name][1]()  # whole, it is read
    return made_once[name]

  return find


@pytest.mark.parametrize("name", READERS)
@fuzzing.runs(60)
@given(data=st.data())
def test_any_json_is_read_or_named(name: str, data: Any, cases: Callable):
  file, ask = cases(name)
  fuzzing.fuzzed(data, file, ask, JSON)
