"""A model folder, pictures, records and a config as small as they can be."""

import contextlib
import dataclasses
import io
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from PIL import Image

from povid_jax import config as config_lib
from povid_jax.checkpoints import restore, stream
from povid_jax.data import batches, lengths
from povid_jax.data import layout as layouts
from povid_jax.data.batch import Batch
from povid_jax.data.records import (
  Record,
  RecordSource,
  RecordWriter,
  Rejected,
  shard_name,
)
from povid_jax.data.tokenizer import load_tokenizer
from povid_jax.models import params, sharding
from povid_jax.models.config import LlavaConfig, LoraConfig
from povid_jax.models.presets import preset
from tests import small_tokenizer

_TEST = preset("test")
MODEL = dataclasses.replace(
  _TEST,
  decoder=dataclasses.replace(_TEST.decoder, vocab_size=small_tokenizer.VOCAB),
)
TEMPLATE = "short"
_WORDS = "cat dog bus car man chair roof shirt table bird phone".split()


def arrays(config: LlavaConfig = MODEL, seed: int = 0) -> dict[str, np.ndarray]:
  """Random weights by path: layers are far from linear, nothing saturates."""
  _, shapes = params.abstract(config)
  random = np.random.default_rng(seed)
  out = {}
  for path, leaf in shapes.items():
    values = random.normal(0, 0.2, leaf.shape).astype(np.float32)
    out[path] = 1 + values if path.endswith("scale") else values
  return out


def model_folder(root: Path, weights: Mapping[str, Any] | None = None) -> Path:
  folder = root / "model"
  restore.save_model_folder(
    folder,
    MODEL,
    dict(weights) if weights is not None else arrays(),
    template=TEMPLATE,
    tokenizer=small_tokenizer.write(root / "tokenizer"),
  )
  return folder


def run_folder(
  root: Path, base: Path, projector: bool, seed: int = 0, **lora_fields: Any
) -> Path:
  """A run directory as training leaves it: adapters at step 7."""
  lora = LoraConfig(rank=3, alpha=6.0, **lora_fields)
  _, shapes = params.abstract(restore.describe(base), lora)
  rng = np.random.default_rng(seed)
  trained = {
    path: (0.1 * rng.standard_normal(leaf.shape)).astype(np.float32)
    for path, leaf in shapes.items()
    if params.is_lora(path) or (projector and path.startswith("projector"))
  }
  run = root / f"run{seed}"
  run.mkdir()
  described = {
    "init": str(base),
    "lora": lora.to_dict(),
    "objective": {"name": "dpo", "hyper": {"beta": 0.1}},
    "data": {"train": "/somewhere/private/pairs_a|b", "split": "train"},
    "lr": 2e-7,
  }
  (run / "config.json").write_text(json.dumps(described))
  with ocp.StandardCheckpointer() as checkpointer:
    checkpointer.save(
      (run / "checkpoints" / "7" / "params").absolute(),
      stream.nest(trained),
    )
  return run


def picture(seed: int, size: tuple[int, int] = (31, 22)) -> Image.Image:
  random = np.random.default_rng(seed)
  return Image.fromarray(random.integers(0, 256, (*size, 3), np.uint8))


def png(seed: int, size: tuple[int, int] = (31, 22)) -> bytes:
  out = io.BytesIO()
  picture(seed, size).save(out, "PNG")
  return out.getvalue()


def sentence(random: np.random.Generator, words: int) -> str:
  return " ".join(random.choice(_WORDS) for _ in range(words))


def record(i: int, **fields: Any) -> Record:
  """Pair number i; lengths differ from pair to pair."""
  random = np.random.default_rng([7, i])
  made = Record(
    id=f"r{i}",
    images=(png(i),),
    image_noisy=None,
    noise_step=-1,
    noise_seed=0,
    prompt_turns=(f"<image>\n{sentence(random, 1 + i % 4)}?",),
    chosen=(sentence(random, 1 + i % 3),),
    rejected=(sentence(random, 1 + i % 5),),
    category="hallucination",
    injector="test",
  )
  return dataclasses.replace(made, **fields)


def data_folder(
  folder: Path, records: list[Record] | int = 12, shards: int = 2
) -> Path:
  """Shards that RecordSource opens; a number makes so many usual pairs."""
  if isinstance(records, int):
    records = [record(i) for i in range(records)]
  folder.mkdir(parents=True, exist_ok=True)
  for k in range(shards):
    with RecordWriter(folder / shard_name("train", k, shards)) as writer:
      for made in records[k::shards]:
        writer.write(made)
  return folder


def folders(root: Path, records: list[Record] | int) -> Path:
  """`root`, with a model in root/model and these records in root/data."""
  model_folder(root)
  data_folder(root / "data", records)
  return root


# one bucket and no warm-up: few steps that all do something, one compilation
FIELDS = {
  "objective.name": "povid",
  "lora.rank": 2,
  "lora.alpha": 4.0,
  "lr": 1e-2,
  "warmup_ratio": 0.0,
  "batch_size": 2,
  "dtype": "float32",
  "attention": "xla",
  "remat": "none",
  "head_chunk": 64,
  "data.buckets": 1,
  "data.bucket_multiple": 8,
  "noise.per_epoch": False,
  "checkpoint.every": 0,
  "log.every": 1,
  "log.tensorboard": False,
}


def config(
  model: Path | str, data: Path | str, fields: Mapping[str, Any] | None = None
) -> Any:
  """The whole config of a run, locked."""
  made = config_lib.default()
  wanted = {"init": str(model), "data.train": str(data), **FIELDS}
  for name, value in {**wanted, **(fields or {})}.items():
    config_lib.set_field(made, name, value)
  return made.lock()


def run_config(world: Path, **fields: Any) -> Any:
  """The config of a run on what `folders` made, in batches of eight."""
  fields = {"batch_size": 8, **fields}
  return config(world / "model", world / "data", fields)


def make_mesh(**sizes: int) -> jax.sharding.Mesh:
  """A mesh of these sizes, 1 where none is given."""
  return sharding.make_mesh({"data": 1, "fsdp": 1, "tensor": 1, **sizes})


def config_file(path: Path, made: Any) -> Path:
  """A config file that says the same, for the command."""
  flat = config_lib.flat_fields(made)
  hyper = flat.pop("objective.hyper").to_dict()
  flat |= {f"objective.hyper.{name}": value for name, value in hyper.items()}
  path.write_text(
    "from ml_collections import ConfigDict\n\n\n"
    "def get_config():\n"
    "  c = ConfigDict()\n"
    f"  for name, value in {flat!r}.items():\n"
    "    node, *rest = name.split('.')\n"
    "    at = c\n"
    "    while rest:\n"
    "      if node not in at:\n"
    "        at[node] = ConfigDict()\n"
    "      at, node, *rest = at[node], *rest\n"
    "    at[node] = value\n"
    "  return c\n"
  )
  return path


def losses(workdir: Path) -> list[float]:
  """The loss of every step, in order; asserts that none is missing."""
  lines = (workdir / "metrics/train.jsonl").read_text().splitlines()
  rows = [json.loads(line) for line in lines]
  assert [row["step"] for row in rows] == list(range(len(rows)))
  return [row["loss"] for row in rows]


def relative_difference(ours: Any, theirs: Any) -> dict[str, float]:
  """Per leaf: largest absolute difference over the largest absolute value.

  A leaf that is a millionth of the largest one is zero up to rounding (the
  gradient of a bias on keys, which a softmax does not see); ours must be so
  too.
  """
  largest = lambda x: float(np.abs(np.asarray(x, np.float64)).max())
  zero = 1e-6 * max(map(largest, theirs.values()))

  def one(a: Any, b: Any) -> float:
    if largest(b) <= zero:
      return 0.0 if largest(a) <= zero else math.inf
    return largest(np.asarray(a, np.float64) - b) / largest(b)

  return jax.tree.map(one, dict(ours), dict(theirs))


@contextlib.contextmanager
def one_device() -> Iterator[None]:
  """`sharding.make_mesh` sees the first device only."""
  make = sharding.make_mesh
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(
      sharding,
      "make_mesh",
      lambda shape, _=None: make(shape, jax.devices()[:1]),
    )
    yield


def odd_records() -> list[Record]:
  """Every kind of pair: ragged, two pictures, several turns, text only."""
  talk = ("Yes.", "And a dog chair?", "No, a bus.")
  return [
    record(0),
    record(1, chosen=("cat dog bus car roof table.",), rejected=("A bird.",)),
    record(
      2,
      images=(png(20), png(21, (12, 40))),
      prompt_turns=("<image>\n<image>\ncat or dog?",),
    ),
    record(
      3,
      prompt_turns=("<image>\nA car?", "Yes, a red car.", "And a bus?"),
      chosen=talk,
      rejected=("No.", "And a dog chair?", "Yes, a dog and a cat."),
    ),
    record(4, images=(), prompt_turns=("How many birds are there?",)),
  ]


def rich_records() -> list[Record]:
  """Pairs with a context, weights and several rejected answers."""
  more = (Rejected(("A phone.",), 0.5), Rejected(("roof cat dog bus.",)))
  return [
    record(5, context="A cat and a dog.", rejected_weight=0.3),
    record(6, context="Two birds.", end_scored=True, more_rejected=more),
    record(7, rejected_weight=1.7, end_scored=False),
  ]


def batch_of(
  root: Path,
  records: list[Record],
  *,
  site: str = "image",
  num_branches: int = 2,
  changed_weight: float = 1.0,
  fillers: int = 0,
  config: LlavaConfig = MODEL,
) -> Batch:
  """One batch [B, ...] of these records, made as a run makes it."""
  folder = data_folder(root / f"data-{site}-{num_branches}", records, shards=1)
  source = RecordSource(folder)
  tokenizer = load_tokenizer(small_tokenizer.write(root / "words"))
  text = lengths.TextSpec(
    TEMPLATE, layouts.of(config), num_branches, changed_weight
  )
  measured = lengths.measure(source, tokenizer, text)
  text = text.for_records(measured)
  buckets = lengths.assign(
    measured, count=1, multiple=8, num_branches=text.num_branches
  )
  rows = (*range(len(records)), *([batches.FILLER] * fillers))
  load = batches.Loader(
    source=source,
    tokenizer=tokenizer,
    text=text,
    rooms=buckets.rooms,
    noise=batches.NoiseSpec(500, "wrap", site, seed=0, per_epoch=False),
    local_rows=tuple(range(len(rows))),
    weighted=bool(measured.weighted.any()),
  )
  return load(batches.BatchRows(0, buckets.prefix[0], buckets.branch[0], rows))
