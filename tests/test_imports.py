"""Imports point down only, as the layers of the package say."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LEVELS = (
  {"errors"},
  {"files", "progress", "config", "protowire"},
  {"models", "stream", "topology"},
  {"weights", "objectives", "sharding", "trainable", "flops", "footprint"}
  | {"model_json"},
  {"data", "checkpoint", "optim", "metrics", "html"},
  {"llm", "forward", "sampling"},
  {"step", "decoding", "outline"},
  {"run_checkpoints", "adapters"},
  {"build"},
  {"reference"},
  {"abstract"},
  {"planning"},
  {"plan_text", "suggest"},
  {"evals"},
  {"eval", "convert"},
  {"loop"},
  {"train", "generate", "score", "plan", "report"},
)
LEVEL = {name: i for i, names in enumerate(LEVELS) for name in names}


def _package_imports(path: Path) -> set[str]:
  """First names below povid_jax (and data_gen) that a file imports."""
  found = set()
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.ImportFrom) and node.module:
      parts = node.module.split(".")
      if parts[0] == "data_gen":
        found.add("data_gen")
      elif parts == ["povid_jax"]:
        found |= {alias.name for alias in node.names}
      elif parts[0] == "povid_jax":
        found.add(parts[1])
    elif isinstance(node, ast.Import):
      for alias in node.names:
        parts = alias.name.split(".")
        if parts[0] == "povid_jax" and len(parts) > 1:
          found.add(parts[1])
        elif parts[0] == "data_gen":
          found.add("data_gen")
  return found


FILES = sorted((ROOT / "povid_jax").rglob("*.py"))


@pytest.mark.parametrize(
  "path", FILES, ids=lambda p: p.relative_to(ROOT).as_posix()
)
def test_imports_point_down(path: Path):
  own = path.relative_to(ROOT / "povid_jax").parts[0].removesuffix(".py")
  if own == "__init__":
    return
  assert own in LEVEL, f"{own} has no level: add it to LEVELS"
  for name in _package_imports(path) - {own, "__version__"}:
    assert name != "data_gen", "povid_jax never imports data_gen"
    assert LEVEL[name] < LEVEL[own], f"{own} imports {name}, which is above it"


def test_configs_import_only_ml_collections():
  for path in (ROOT / "configs").glob("*.py"):
    names = {
      node.module if isinstance(node, ast.ImportFrom) else alias.name
      for node in ast.walk(ast.parse(path.read_text()))
      if isinstance(node, ast.Import | ast.ImportFrom)
      for alias in node.names
    }
    assert names <= {"ml_collections"}, path.name
