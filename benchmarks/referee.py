"""Recipes against each other in the toy world, on the base of the quickstart.

  python -m benchmarks.referee --seed 0 --recipes own,context [--test]

Every recipe starts from the same base (`sft`), takes as many steps, and is
scored on the 500 validation pictures; with --test also on the two test sets,
which are for recipes that are already chosen. All steps are ordinary commands;
those that are done are passed over, also those of `make quickstart` in the same
folder. `python -m benchmarks.referee table DIR ...` prints what there is.
"""

import argparse
import dataclasses
import functools
import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks import quickstart, quickstart_steps
from benchmarks.lanes import Command
from benchmarks.quickstart_steps import DESCRIBE, own, train
from povid_jax import errors, files
from povid_jax.errors import UserError

SPLITS = {
  "val": "val",
  "in_distribution": "test",
  "balanced": "test_balanced",
}
ERRING = "scenes/annotations/instances_erring.json"
COLUMNS = ("CHAIRs", "CHAIRi", "recall", "length")


@dataclasses.dataclass(frozen=True)
class Recipe:
  """A run: what it changes of a config, and the pairs that it learns from.

  Attributes:
    records: folder of the pairs.
    config: variant of configs/quickstart.py.
    init: the run from which it starts.
    changes: further flags of povid_jax.train.
  """

  records: str
  config: str = "own_answers"
  init: str = "sft"
  changes: tuple[str, ...] = ()


def _objective(name: str, **hyper: float) -> tuple[str, ...]:
  values = (f"--config.objective.hyper.{k}={v}" for k, v in hyper.items())
  return (f"--config.objective.name={name}", *values)


# with the noise term as strong as in the second half of POVID's stage 2
_NOISE = {"text_weight": 1.0, "noise_weight": 0.3}
_STEP = "--config.noise.step=300"
_EXCLUDE = "--config.noise.tokens=argmax_exclude_gold"
_context = functools.partial(Recipe, "context", "own_context")
RECIPES: dict[str, Recipe] = {
  "injected": Recipe("pairs", "stage1"),
  "own": Recipe("own"),
  "context": _context(),
  "own_188": Recipe("own", changes=("--config.steps=188",)),
  "context_188": _context(changes=("--config.steps=188",)),
  "continued": Recipe("pairs", "sft_continued"),
  "context_noise": _context(
    changes=(*_objective("povid_shared", **_NOISE), _STEP)
  ),
  "context_noise_exclude": _context(
    changes=(*_objective("povid_shared", **_NOISE), _STEP, _EXCLUDE)
  ),
  "round2": Recipe("own_again", init="own"),
  "erring": Recipe("erring"),
  "ddpo": Recipe("own", changes=("--config.data.changed_weight=3",)),
  "mdpo": Recipe("own", changes=_objective("mdpo")),
  "mpo": Recipe("own", changes=_objective("mpo")),
}


def steps(
  out: Path, seed: int, names: Sequence[str], test: bool
) -> list[Command]:
  """The base's commands, then those of the recipes in their order."""
  base = quickstart_steps.base_steps(out, seed)
  pairs = {
    "pairs": quickstart_steps.injected(out, seed),
    "own": tuple(own(out, "own", seed)),
    "context": tuple(own(out, "context", seed, unit="sentence")),
    "own_again": tuple(own(out, "own_again", seed + 1, writer="own")),
    "erring": (
      _err(out, seed),
      *own(out, "erring", seed, judge=ERRING, after=("err",)),
    ),
  }
  splits = list(SPLITS if test else ("val",))
  found: dict[str, Command] = {step.name: step for step in base}
  for step in (_evaluate(out, "sft", split) for split in splits):
    found[step.name] = step
  before = [RECIPES[name].init for name in names]
  for name in dict.fromkeys([n for n in before if n in RECIPES] + [*names]):
    recipe = RECIPES[name]
    run = train(out, name, seed, **vars(recipe))
    evaluated = (_evaluate(out, name, split) for split in splits)
    for step in (*pairs[recipe.records], run, *evaluated):
      found[step.name] = step
  return list(found.values())


def _evaluate(out: Path, name: str, split: str) -> Command:
  return Command(
    f"chair-{name}-{split}",
    f"CHAIR: {name}, {split}",
    (
      *("-m", "povid_jax.eval", f"--checkpoint={out}/{name}"),
      "--benchmarks=chair",
      f"--data={out}/bench/{split}",
      f"--image-dir={out}/scenes/images",
      f"--out={out}/referee/{name}/{split}",
      f"--prompt={DESCRIBE}",
      "--max-new-tokens=96",
      "--objects=annotated",
      "--batch-size=100",
    ),
    needs=(f"train-{name}",),
  )


def _err(out: Path, seed: int) -> Command:
  truth = f"{out}/scenes/annotations/instances_train.json"
  return Command(
    "err",
    "annotations of a judge that errs",
    (
      *("-m", "benchmarks.referee", "err", truth, f"{out}/{ERRING}"),
      f"--seed={seed}",
    ),
    needs=("scenes",),
  )


def err(source: Path, target: Path, seed: int, share: float = 0.25) -> None:
  """Forgets that share of the objects of every picture and, for each object
  that it forgets, believes in one that is not there."""
  truth = files.parse_json(source.read_bytes())
  categories = [row["id"] for row in truth["categories"]]
  present: dict[int, set[int]] = {}
  for row in truth["annotations"]:
    present.setdefault(row["image_id"], set()).add(row["category_id"])
  lot = random.Random(seed)
  swapped: dict[tuple[int, int], int] = {}
  for image, objects in sorted(present.items()):
    absent = [c for c in categories if c not in objects]
    lot.shuffle(absent)
    for category in sorted(objects):
      if lot.random() < share:
        swapped[image, category] = absent.pop()
  for row in truth["annotations"]:
    key = row["image_id"], row["category_id"]
    row["category_id"] = swapped.get(key, key[1])
  with files.atomic_write(target) as file:
    json.dump(truth, file)


def table(folders: Sequence[Path]) -> None:
  """Prints a row per recipe and a table per split; seeds in brackets."""
  for split in SPLITS:
    found: dict[str, list[dict[str, float]]] = {}
    for folder in folders:
      for name in ("sft", *RECIPES):
        path = folder / "referee" / name / split / "results.json"
        if path.exists():
          rows = files.parse_json(path.read_bytes())["results"]
          scores = {row["metric"]: row["value"] for row in rows}
          found.setdefault(name, []).append(scores)
    if found:
      print(f"\n| {split} | {' | '.join(COLUMNS)} |")
      print("|---" * (1 + len(COLUMNS)) + "|")
    for name, seeds in found.items():
      cells = [_cell(column, seeds) for column in COLUMNS]
      print(f"| {name} | {' | '.join(cells)} |")


def _cell(column: str, seeds: Sequence[Mapping[str, float]]) -> str:
  scale = 1 if column == "length" else 100
  values = [scale * scores[column] for scores in seeds]
  mean = f"{sum(values) / len(values):.1f}"
  if len(values) == 1:
    return mean
  return f"{mean} ({' '.join(f'{value:.1f}' for value in values)})"


def main(argv: Sequence[str] | None = None) -> int:
  """The command."""
  parser = argparse.ArgumentParser(
    prog="benchmarks.referee",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  add = parser.add_argument
  add("what", nargs="*", metavar="table DIR ... | err FROM TO",
      help="nothing: run")  # fmt: skip
  add("--out", type=Path, default=Path("runs/quickstart"), metavar="DIR")
  add("--seed", type=int, default=0)
  add("--recipes", default="injected,own,context", metavar="NAME,...",
      help=", ".join(RECIPES))  # fmt: skip
  add("--test", action="store_true", help="also evaluate on the test pictures")
  add(
    "--lanes",
    type=int,
    default=1,
    metavar="N",
    help="commands at the same time",
  )
  args = parser.parse_args(argv)
  kind, *paths = args.what or ["run"]
  if kind == "table" and paths:
    table([Path(path) for path in paths])
  elif kind == "err" and len(paths) == 2:
    err(Path(paths[0]), Path(paths[1]), args.seed)
  elif kind == "run":
    names = args.recipes.split(",")
    if unknown := sorted(set(names) - set(RECIPES)):
      raise UserError(
        f"--recipes={args.recipes}: no recipe {unknown[0]}; there are "
        f"{', '.join(RECIPES)}"
      )
    todo = steps(args.out, args.seed, names, args.test)
    quickstart.run_steps(args.out, todo, args.lanes)
  else:
    parser.error("want nothing, `table DIR ...` or `err FROM TO`")
  return 0


if __name__ == "__main__":
  errors.run(main)
