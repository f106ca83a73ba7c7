"""Every config and variant loads, and has the released hyper-parameters."""

import ast
from pathlib import Path

import pytest

from povid_jax import config as config_lib
from povid_jax.errors import UserError
from povid_jax.models import params, presets
from povid_jax.training import build, outline

FOLDER = Path(__file__).parent.parent / "configs"
FILES = sorted(FOLDER.glob("*.py"))


def _variants(path: Path) -> list[str]:
  """VARIANTS as the file says it, without running it."""
  for node in ast.parse(path.read_text()).body:
    if isinstance(node, ast.Assign) and node.targets[0].id == "VARIANTS":
      return list(ast.literal_eval(node.value))
  return []


SPECS = [str(path) for path in FILES] + [
  f"{path}:{variant}" for path in FILES for variant in _variants(path)
]


def load(name, **fields):
  given = {"init": "model", "data.train": "data", **fields}
  return config_lib.load(str(FOLDER / name), list(given.items()))


@pytest.mark.parametrize("spec", SPECS, ids=[Path(s).name for s in SPECS])
def test_loads_and_passes_the_check(spec):
  given = [("init", "model"), ("data.train", "data")]
  config = config_lib.load(spec, given)
  build.check(config)
  with pytest.raises(UserError, match="init is empty"):
    build.check(config_lib.load(spec, [("init", ""), given[1]]))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_imports_only_ml_collections_and_says_its_command(path):
  tree = ast.parse(path.read_text())
  imported = set()
  for node in ast.walk(tree):
    if isinstance(node, ast.Import):
      imported |= {name.name for name in node.names}
    elif isinstance(node, ast.ImportFrom):
      imported.add(node.module)
  assert imported == {"ml_collections"}
  docstring = ast.get_docstring(tree)
  assert f"python -m povid_jax.train --config=configs/{path.name}" in docstring


# docs/design.md, "Hyper-parameters as released"
RELEASED = {
  "povid_stage1.py": {"objective.name": "dpo", "epochs": 3.0},
  "povid_stage2.py": {
    "objective.name": "povid",
    "epochs": 1.0,
    "noise.step": 500,
    "noise.overflow": "wrap",
    "noise.site": "image",
  },
}
BOTH = {
  "lr": 1e-7,
  "schedule": "cosine",
  "warmup_ratio": 0.03,
  "warmup_steps": -1,
  "weight_decay": 0.0,
  "b1": 0.9,
  "b2": 0.999,
  "eps": 1e-8,
  "clip_norm": 0.0,
  "batch_size": 1,
  "grad_accum": 1,
  "trainable": "lora",
  "lora.rank": 128,
  "lora.alpha": 256.0,
  "projector_lr": 0.0,
  "dtype": "bfloat16",
  "checkpoint.every": 200,
  "checkpoint.keep": 1,
}


@pytest.mark.parametrize("variant", ["7b", "13b"])
@pytest.mark.parametrize("name", sorted(RELEASED))
def test_released_hyper_parameters(name, variant):
  config = load(f"{name}:{variant}")
  fields = config_lib.flat_fields(config)
  wanted = {**BOTH, **RELEASED[name]}
  assert {path: fields[path] for path in wanted} == wanted
  assert config.objective.hyper.to_dict() == {"beta": 0.1}


def test_stage_2_is_stage_1_with_its_changes():
  for variant in _variants(FOLDER / "povid_stage2.py"):
    first = config_lib.flat_fields(load(f"povid_stage1.py:{variant}"))
    second = config_lib.flat_fields(load(f"povid_stage2.py:{variant}"))
    changed = {name for name in first if first[name] != second[name]}
    assert changed == {"objective.name", "epochs"}


@pytest.mark.parametrize(
  "name, base, changes",
  [
    (
      "povid_next.py:llava-next-34b",
      "povid_stage2.py",
      {"data.bucket_multiple"},
    ),
    (
      "povid_onevision.py:llava-onevision-7b",
      "povid_next.py",
      {"data.bucket_multiple", "lr", "warmup_ratio", "clip_norm"}
      | {"batch_size", "grad_accum"},
    ),
    (
      "povid_qwen.py:qwen2.5-vl-3b",
      "povid_stage1.py",
      {"data.buckets", "lr", "batch_size", "epochs", "head_chunk"},
    ),
  ],
)
def test_other_families_are_a_base_and_its_changes(name, base, changes):
  """A variant that the base does not have is not asked of it."""
  below, above = (config_lib.flat_fields(load(spec)) for spec in (base, name))
  assert {key for key in above if above[key] != below[key]} == changes


def test_variants_for_more_devices_follow_their_rule():
  one = load("povid_stage1.py:7b")
  for name, pairs in (("7b_8gpu", 8), ("7b_v5e16", 16)):
    more = load(f"povid_stage1.py:{name}")
    assert more.batch_size == pairs
    assert more.lr == pytest.approx(one.lr * pairs**0.5)


def test_adapters_go_where_the_released_ones_do():
  config = load("povid_stage2.py")
  # a matter of shapes: nothing is allocated
  _, shapes = params.abstract(
    presets.preset("llava-1.5-7b"), outline.lora_of(config)
  )
  adapters = {k: v for k, v in shapes.items() if params.is_lora(k)}
  assert (
    sum(v.size for v in adapters.values()) == 319_815_680
  )  # the released adapter


def test_full_decoder_trains_no_adapter():
  config = load("dpo_full.py")
  assert outline.lora_of(config) is None
  assert outline.trainable_patterns(config) == ["^decoder/"]


def test_configs_import_only_ml_collections():
  for path in FILES:
    names = {
      node.module if isinstance(node, ast.ImportFrom) else alias.name
      for node in ast.walk(ast.parse(path.read_text()))
      if isinstance(node, ast.Import | ast.ImportFrom)
      for alias in node.names
    }
    assert names <= {"ml_collections"}, path.name
