"""Builds all parts of a training run from a config and a mesh."""

import dataclasses
import functools
import math
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AbstractMesh, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from ml_collections import ConfigDict

from povid_jax import config as config_lib
from povid_jax.checkpoints import restore
from povid_jax.data import batches, lengths
from povid_jax.data import layout as layouts
from povid_jax.data.batch import Batch, Logps
from povid_jax.data.lengths import Buckets, Lengths, TextSpec
from povid_jax.data.records import RecordSource
from povid_jax.data.tokenizer import Tokenizer, load_tokenizer
from povid_jax.errors import UserError
from povid_jax.models import params as params_lib
from povid_jax.models import quantised, sharding
from povid_jax.models.params import Params
from povid_jax.training import adapters, optim
from povid_jax.training.outline import (
  Outline,
  get_objective,
  make_spec,
  outline,
)
from povid_jax.training.step import Frozen, State, StepFn


def check(config: ConfigDict) -> None:
  """Raises UserError for values that make no sense, before anything runs."""
  config_lib.check(config)
  if config.batch_size % config.grad_accum:
    raise UserError(
      f"config.grad_accum={config.grad_accum} does not divide "
      f"batch_size={config.batch_size}"
    )
  get_objective(config)


@dataclasses.dataclass(frozen=True)
class Model(Outline):
  """An outline with its arrays, trained (float32) and frozen."""

  weights: restore.Weights  # of `init`; its params are not kept
  params: Params
  frozen: Frozen


def build_model(config: ConfigDict, mesh: Mesh) -> Model:
  """Restores `config.init` onto the mesh and adds adapters, new or given.

  Raises:
    UserError: there is nothing to restore, no parameter is trainable, or an
      adapter has other dimensions.
  """
  dtype = jnp.dtype(config.dtype)
  storage = quantised.kind_of(config)
  place = sharding.sharding_for(mesh)
  described = restore.describe(config.init)
  sketch = outline(config, described)
  adapter = adapters.read(config, described, sketch)
  trained = frozenset(sketch.trained)
  weights = restore.load(
    config.init,
    place,
    dtype,
    keep=lambda path: path in trained,
    storage=storage,
  ).merged()
  # a run as init has adapters: quantised only after they are folded in
  arrays: Params = {}
  for path in list(weights.params):
    arrays |= quantised.store(path, weights.params.pop(path), storage)
  if storage != "bf16":
    arrays = {
      path: jax.device_put(array, place(path, array.shape))
      for path, array in arrays.items()
    }
  own = {k: v for k, v in sketch.shapes.items() if not params_lib.is_lora(k)}
  params_lib.check_shapes(config.init, arrays, own)
  # copies: the trained arrays are donated to the step
  reference = {
    path: jnp.array(arrays[path], dtype, copy=True) for path in sketch.copied
  }
  arrays |= adapters.start(config, adapter, sketch, arrays, place)
  fields = {f.name: getattr(sketch, f.name) for f in dataclasses.fields(sketch)}
  return Model(
    **fields,
    weights=dataclasses.replace(weights, params={}),
    params={path: arrays[path].astype(jnp.float32) for path in sketch.trained},
    frozen=Frozen(
      {path: arrays[path] for path in sketch.shapes if path not in trained},
      reference,
    ),
  )


@dataclasses.dataclass(frozen=True)
class Data:
  """The records of a run, their lengths and the plan of all steps."""

  source: RecordSource
  tokenizer: Tokenizer
  text: TextSpec
  lengths: Lengths
  buckets: Buckets
  plan: batches.BatchOrder


def build_data(
  config: ConfigDict, weights: restore.Weights, workdir: Path
) -> Data:
  """Measures every record and lays out all steps.

  Raises:
    UserError: there are no records, or some are too long (their ids are listed
      in WORKDIR).
  """
  source = RecordSource(config.data.train, config.data.split)
  if not len(source):
    raise UserError(
      f"{config.data.train} holds no records of the split {config.data.split}"
    )
  rows = weights.config.decoder.vocab_size
  tokenizer = load_tokenizer(weights.tokenizer, rows)
  text = lengths.TextSpec(
    template=weights.template,
    layout=layouts.of(weights.config),
    num_branches=get_objective(config).needs.branches,
    changed_weight=config.data.changed_weight,
  )
  note = functools.partial(batches.note_skipped, workdir / "skipped.jsonl")
  measured = lengths.measure(
    source,
    tokenizer,
    text,
    config.data.limit,
    on_bad=(
      (lambda i, error: note(i, "", error))
      if config.data.on_bad_sample == "skip"
      else _refuse_sample
    ),
  )
  text = text.for_records(measured)
  buckets = lengths.assign(
    measured,
    count=config.data.buckets,
    multiple=config.data.bucket_multiple,
    num_branches=text.num_branches,
    max_prefix=config.data.max_prefix,
    max_branch=config.data.max_branch,
    max_positions=weights.config.decoder.context_length,
    one_room=text.layout.same_size,
  )
  lengths.report_too_long(
    source,
    measured,
    buckets,
    str(workdir / "too_long.tsv"),
    config.data.on_too_long,
    weights.config.decoder.context_length,
  )
  one = batches.BatchOrder(buckets, config.batch_size, config.seed)
  steps = config.steps or max(1, math.ceil(config.epochs * len(one)))
  plan = batches.BatchOrder(buckets, config.batch_size, config.seed, steps)
  return Data(source, tokenizer, text, measured, buckets, plan)


def build_loader(
  config: ConfigDict,
  data: Data,
  weights: restore.Weights,
  mesh: Mesh,
  workdir: Path,
  cached: Logps | None = None,
) -> batches.Loader:
  """Reads the rows that belong to this process.

  Args:
    cached: log-probs of the reference, arrays [n, ...].
  """
  noise = batches.NoiseSpec(
    step=config.noise.step,
    overflow=config.noise.overflow,
    site=config.noise.site,
    seed=config.seed,
    per_epoch=config.noise.per_epoch,
  )
  microbatch = config.batch_size // config.grad_accum
  placed = NamedSharding(mesh, sharding.BATCH)
  shards = placed.addressable_devices_indices_map((microbatch,)).values()
  return batches.Loader(
    source=data.source,
    tokenizer=data.tokenizer,
    text=data.text,
    rooms=data.buckets.rooms,
    noise=noise if get_objective(config).needs.noisy_picture else None,
    local_rows=batches.local_rows(
      [s[0] for s in shards if s is not None], microbatch, config.grad_accum
    ),
    skipped=(
      workdir / "skipped.jsonl" if config.data.on_bad_sample == "skip" else None
    ),
    reference=cached,
    weighted=bool(data.lengths.weighted.any()),
    advice=_SKIP_SAMPLES,
  )


_SKIP_SAMPLES = "; --config.data.on_bad_sample=skip skips such samples"


def _refuse_sample(index: int, error: UserError) -> None:
  del index  # the error names the record
  raise UserError(f"{error}{_SKIP_SAMPLES}") from error


def make_step(
  config: ConfigDict, model: Outline, num_steps: int
) -> tuple[StepFn, dict[str, Any]]:
  """The step function and the learning rate of each group by step."""
  objective = get_objective(config)
  groups = {}
  if config.projector_lr > 0:
    groups = {r"^projector/": config.projector_lr}
  transform, rates = optim.make(
    learning_rate=config.lr,
    total_steps=num_steps,
    paths=model.trained,
    schedule_kind=config.schedule,
    warmup_ratio=config.warmup_ratio,
    warmup_steps=None if config.warmup_steps < 0 else config.warmup_steps,
    group_rates=groups,
    weight_decay=config.weight_decay,
    b1=config.b1,
    b2=config.b2,
    eps=config.eps,
    clip_norm=config.clip_norm,
  )
  step = StepFn(
    graph=model.graph,
    objective=objective,
    spec=make_spec(config, objective),
    optimizer=optim.finite_guard(transform),
  )
  return step, rates


def describe_state(
  step: StepFn, params: Params, mesh: Mesh | AbstractMesh
) -> State:
  """Shapes and shardings of a State: optimizer state cut like the parameters.

  Args:
    params: arrays, or ShapeDtypeStructs with a sharding.
  """
  whole = NamedSharding(mesh, P())

  def cut(path: tuple, leaf: Any) -> jax.ShapeDtypeStruct:
    name = getattr(path[-1], "key", None) if path else None
    like = params.get(name) if name is not None else None
    placed = whole
    if like is not None and like.shape == leaf.shape:
      placed = like.sharding
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=placed)

  shapes = jax.eval_shape(step.optimizer.init, params)
  opt_state = jax.tree_util.tree_map_with_path(cut, shapes)
  number = jax.ShapeDtypeStruct((), jnp.int32, sharding=whole)
  carried: dict[str, Any] = {
    name: jax.ShapeDtypeStruct((), jnp.float32, sharding=whole)
    for name in step.objective.carries
  }
  return State(cast(jax.Array, number), params, opt_state, carried)


def init_state(step: StepFn, params: Params, mesh: Mesh) -> State:
  """Optimizer state cut like the parameters; step 0."""
  described = describe_state(step, params, mesh)
  placed = jax.tree.map(lambda leaf: leaf.sharding, described.opt_state)
  opt_state = jax.jit(step.optimizer.init, out_shardings=placed)(params)
  put = lambda x: jax.device_put(x, described.step.sharding)
  carried = {
    name: put(jnp.float32(x)) for name, x in step.objective.carries.items()
  }
  return State(put(jnp.int32(0)), params, opt_state, carried)


def place(host: Batch, config: ConfigDict, mesh: Mesh) -> Batch:
  """This process's rows to global arrays [A, b, ...] on the mesh."""
  parts = config.grad_accum
  cut = NamedSharding(mesh, P(None, *sharding.BATCH))
  microbatch = config.batch_size // parts

  def put(x: np.ndarray) -> jax.Array:
    local = x.reshape(parts, -1, *x.shape[1:])
    return jax.make_array_from_process_local_data(
      cut, local, (parts, microbatch, *x.shape[1:])
    )

  return jax.tree.map(put, host)
