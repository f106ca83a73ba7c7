"""The commands of the quickstart, and what each of them waits for."""

from collections.abc import Iterator
from pathlib import Path

from benchmarks.lanes import Command

SPLITS = {"in_distribution": "test", "balanced": "test_balanced"}
HEADLINE = "in_distribution"
STAGES = ("sft", "stage1", "stage2", "own_answers")
ABLATIONS = (
  "sft_continued",
  "injected_only",
  "noise_only",
  "half_injected",
  "own_context",
)
TITLES = {
  "sft": "base (SFT)",
  "stage1": "stage 1",
  "stage2": "stage 2 (POVID)",
  "own_answers": "own answers",
  "own_context": "own answers, by sentence",
  "sft_continued": "SFT continued",
  "injected_only": "stage 2, injected only",
  "noise_only": "stage 2, noise only",
  "half_injected": "stage 2, injected at half weight",
}
INIT = {
  "pretrain": "base",
  "sft": "pretrain",
  "stage1": "sft",
  "sft_continued": "sft",
  "own_answers": "sft",
  "own_context": "sft",
}
RECORDS = {
  "pretrain": "pretrain",
  "sft": "sft",
  "own_answers": "own",
  "own_context": "context",
}
COMPARED = (
  ("sft", "stage1"),
  ("sft", "stage2"),
  ("sft", "own_answers"),
  ("stage2", "own_answers"),
  ("sft_continued", "stage2"),
)
DESCRIBE = "Describe this image."
# chances per answer; insertions speak of what is usual in the place
EDITS = "insert=1,replace=0.6"
PAIRS = 3000  # pictures whose description becomes a preference pair
ANSWERS = 6  # own answers about each of them


def steps(out: Path, seed: int, ablations: bool) -> list[Command]:
  """All commands, those that others wait for first."""
  tuned = [*STAGES[1:], *(ABLATIONS if ablations else ())]
  return [
    *base_steps(out, seed),
    *injected(out, seed),
    *(_pope(out, split, seed) for split in SPLITS),
    *own(out, "own", seed),
    *(own(out, "context", seed, unit="sentence") if ablations else ()),
    *(train(out, stage, seed) for stage in tuned),
    *(_evaluate(out, s, split) for s in ("sft", *tuned) for split in SPLITS),
    *(_compare(out, a, b) for a, b in COMPARED if a in ("sft", *tuned)),
  ]


def base_steps(out: Path, seed: int) -> list[Command]:
  """From nothing to the model that every recipe starts from."""
  return [
    *_model(out, seed),
    _write(out, "pretrain", "scenes/pretrain.json", "scenes", seed),
    train(out, "pretrain", seed),
    _write(out, "sft", "scenes/train.json", "scenes", seed),
    train(out, "sft", seed),
  ]


def injected(out: Path, seed: int) -> tuple[Command, Command]:
  """POVID's first kind of pairs, and their records."""
  write = _write(out, "pairs", "pairs.jsonl", "inject", seed)
  return _inject(out, seed), write


def _model(out: Path, seed: int) -> Iterator[Command]:
  yield Command(
    "scenes",
    "draw the world",
    (
      *("-m", "data_gen", "scenes"),
      f"--out={out}/scenes",
      f"--seed={seed}",
    ),
  )
  yield Command(
    "tokenizer",
    "make a tokenizer from its texts",
    (
      *("-m", "data_gen", "tokenizer", "--input"),
      f"{out}/scenes/train.json",
      f"{out}/scenes/pretrain.json",
      f"--out={out}/tokenizer",
      "--vocab-size=384",
    ),
    needs=("scenes",),
  )
  yield Command(
    "base",
    "a LLaVA of toy size with random weights",
    (
      *("-m", "povid_jax.convert", "init", f"{out}/base", "--preset=tiny"),
      f"--tokenizer={out}/tokenizer",
      "--template=short",
      f"--seed={seed}",
    ),
    needs=("tokenizer",),
  )


def _inject(out: Path, seed: int) -> Command:
  return Command(
    "inject",
    "inject hallucinations into correct answers",
    (
      *("-m", "data_gen", "inject"),
      f"--input={out}/scenes/train.json",
      f"--image-dir={out}/scenes/images",
      f"--annotations={out}/scenes/annotations/instances_train.json",
      f"--out={out}/pairs.jsonl",
      "--injector=rules",
      f"--edits={EDITS}",
      "--words-per-edit=20",
      "--insert-above=0.4",  # one pair in seven; more of them cost recall
      "--replace-within=any",
      "--closed-vocabulary",
      "--categories=description",
      f"--limit={PAIRS}",
      f"--seed={seed}",
    ),
    needs=("scenes",),
  )


def own(
  out: Path,
  name: str,
  seed: int,
  *,
  unit: str = "answer",
  writer: str = "sft",
  judge: str = "scenes/annotations/instances_train.json",
  after: tuple[str, ...] = (),
) -> Iterator[Command]:
  """Pairs of the writer's own answers, and their records."""
  yield Command(
    f"sample-{name}",
    f"pairs from the own answers of {writer}, {unit} by {unit}",
    (
      *("-m", "data_gen", "sample", f"--checkpoint={out}/{writer}"),
      f"--input={out}/scenes/train.json",
      f"--image-dir={out}/scenes/images",
      f"--annotations={out}/{judge}",
      "--objects=annotated",
      f"--out={out}/{name}.jsonl",
      f"--unit={unit}",
      "--categories=description",
      f"--limit={PAIRS}",
      f"--candidates={ANSWERS}",
      "--max-new-tokens=96",
      "--batch-size=192",
      "--chunk=1000",
      f"--seed={seed}",
    ),
    needs=(f"train-{writer}", *after),
  )
  yield _write(out, name, f"{name}.jsonl", f"sample-{name}", seed)


def _write(out: Path, name: str, pairs: str, after: str, seed: int) -> Command:
  return Command(
    f"write-{name}",
    f"TFRecords: {name}",
    (
      *("-m", "data_gen", "write", f"--pairs={out}/{pairs}"),
      f"--image-dir={out}/scenes/images",
      f"--out={out}/records/{name}",
      f"--seed={seed}",
    ),
    needs=(after,),
  )


def train(
  out: Path,
  stage: str,
  seed: int,
  *,
  config: str = "",
  init: str = "",
  records: str = "",
  changes: tuple[str, ...] = (),
) -> Command:
  """A run named `stage`; by default also its config, with its own data."""
  records = records or RECORDS.get(stage, "pairs")
  init = init or INIT.get(stage, "stage1")
  return Command(
    f"train-{stage}",
    f"train: {TITLES.get(stage, stage)}",
    (
      *("-m", "povid_jax.train"),
      f"--config=configs/quickstart.py:{config or stage}",
      f"--workdir={out}/{stage}",
      f"--config.init={out}/{init}",
      f"--config.data.train={out}/records/{records}",
      f"--config.seed={seed}",
      *changes,
    ),
    needs=(init if init == "base" else f"train-{init}", f"write-{records}"),
  )


def _pope(out: Path, split: str, seed: int) -> Command:
  instances = f"{out}/scenes/annotations/instances_{SPLITS[split]}.json"
  return Command(
    f"pope-{split}",
    f"POPE questions, {split} test pictures",
    (
      *("-m", "povid_jax.eval", "build-pope", f"--instances={instances}"),
      f"--out={out}/bench/{split}/pope",
      *("--images=500", "--per-image=2", f"--seed={seed}"),
    ),
    needs=("scenes",),
  )


def _evaluate(out: Path, stage: str, split: str) -> Command:
  return Command(
    f"eval-{stage}-{split}",
    f"evaluate: {TITLES[stage]}, {split}",
    (
      *("-m", "povid_jax.eval", f"--checkpoint={out}/{stage}"),
      "--benchmarks=chair,pope",
      f"--data={out}/bench/{split}",
      f"--images={out}/scenes/images",
      f"--out={out}/eval/{stage}/{split}",
      f"--prompt=chair={DESCRIBE}",
      "--prompt=pope=",
      "--max-new-tokens=chair=96",
      "--max-new-tokens=pope=40",
      "--objects=annotated",
      "--batch-size=100",
    ),
    needs=(f"train-{stage}", f"pope-{split}"),
  )


def _compare(out: Path, a: str, b: str) -> Command:
  return Command(
    f"compare-{a}-{b}",
    f"is the step from {TITLES[a]} to {TITLES[b]} significant?",
    (
      *("-m", "povid_jax.eval", "compare"),
      f"{out}/eval/{a}/{HEADLINE}",
      f"{out}/eval/{b}/{HEADLINE}",
    ),
    needs=(f"eval-{a}-{HEADLINE}", f"eval-{b}-{HEADLINE}"),
  )
