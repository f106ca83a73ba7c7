"""Reference log-probs of a whole dataset, computed once and kept on disk.

Stored as FOLDER/logps.npz (one float32[n] per fixed term of the objective)
and FOLDER/key.json, which says what they were computed from. A cache whose key
differs in anything is refused, with the entry that differs.
"""

import contextlib
import json
import zipfile
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from ml_collections import ConfigDict

from povid_jax import errors, files, progress
from povid_jax.checkpoints import restore
from povid_jax.data import batches
from povid_jax.data.batch import Batch, Logps
from povid_jax.errors import UserError
from povid_jax.models.config import LayoutConfig
from povid_jax.models.params import Params
from povid_jax.objectives import logps
from povid_jax.training import build
from povid_jax.training.reference_part import Part
from povid_jax.training.step import Frozen, StepFn

_NOISE = ("noise", "noise_seed")  # entries of the key


def _layout_of(layout: LayoutConfig) -> dict[str, Any]:
  """The picture layout for the key; written for squares as in older caches."""
  if layout.kind == "square":
    return {"image_mode": layout.mode}
  return {"layout": layout.to_dict()}


def key_of(
  config: ConfigDict, model: build.Model, data: build.Data, step: StepFn
) -> dict[str, Any]:
  """Everything that the numbers depend on.

  Not what decides their order (batch size, buckets): values go by record, so
  the order matters to an unfinished pass only, see `cached`.
  """
  needs_noise = step.spec.needs.fixed.noisy_picture
  key = {
    "terms": list(step.spec.needs.fixed.terms),
    "weights": restore.fingerprint(config.init),
    "data": data.source.fingerprint(),
    "records": len(data.lengths.prefix),
    "template": model.weights.template,
    **_layout_of(model.weights.config.layout),
    "dtype": config.dtype,
    "noise": config.noise.to_dict() if needs_noise else None,
    "noise_seed": config.seed if needs_noise else None,
  }
  for field in ("base", "matmul"):
    if config[field] != "bf16":  # older caches have none
      key[field] = config[field]
  if config.data.changed_weight != 1.0:  # weights of records are in `data`
    key["changed_weight"] = config.data.changed_weight
  return key


def cached(
  config: ConfigDict,
  model: build.Model,
  data: build.Data,
  step: StepFn,
  mesh: Mesh,
  workdir: Path,
) -> Logps:
  """float32[n] of each fixed term (rejected: [n, R]): read, or computed.

  Raises:
    UserError: a stale cache, or noise that is drawn anew each epoch.
  """
  needs_noise = step.spec.needs.fixed.noisy_picture
  epochs = len(data.plan) / data.plan.steps_per_epoch
  if needs_noise and config.noise.per_epoch and epochs > 1:
    raise UserError(
      "config.reference=cached does not work with "
      "config.noise.per_epoch=True, because the noise differs in each epoch: "
      "set config.noise.per_epoch=False or config.reference=online"
    )
  folder = Path(config.reference_cache or workdir / "reference")
  key = key_of(config, model, data, step)
  if (folder / "key.json").exists():
    values = _read(folder, key)
    _check_complete(values, config, data, folder)
    return values
  # of batches: an unfinished pass holds the values of the first ones
  order = [
    config.batch_size,
    config.seed,
    data.buckets.prefix,
    data.buckets.branch,
  ]
  part = Part(folder, {**key, "order": order})
  values = _compute(config, model, data, step, mesh, workdir, part)
  if jax.process_index() == 0:
    with files.atomic_dir(folder) as temporary:
      # numpy's stub takes every name for allow_pickle
      np.savez(temporary / "logps.npz", **values)  # pyright: ignore[reportArgumentType]
      (temporary / "key.json").write_text(json.dumps(key, indent=2))
  part.remove()
  return Logps(**values)


def _read(folder: Path, key: dict[str, Any]) -> Logps:
  stored = files.read_json(
    folder / "key.json", "it describes the cached log-probs"
  )
  wanted = files.as_read(key)
  for name in wanted | stored:  # what only one of them has differs too
    value = wanted.get(name)
    if name in _NOISE and value is None:
      continue  # older caches name it where no fixed term sees a noisy picture
    if stored.get(name) != value:
      raise UserError(
        f"reference cache {folder} is stale: its {name} is "
        f"{stored.get(name)!r}, this run has {value!r}. Remove the folder to "
        "compute it again"
      )
  try:
    # opened here: numpy leaves a damaged file open
    with open(folder / "logps.npz", "rb") as raw, np.load(raw) as file:
      values = {name: file[name] for name in key["terms"]}
  except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
    raise UserError(
      f"{folder / 'logps.npz'} cannot be read ({error}); remove the folder to "
      "compute the log-probs again"
    ) from error
  if "rejected" in values:  # caches of older versions: one rejected answer
    values["rejected"] = values["rejected"].reshape(len(values["chosen"]), -1)
  return Logps(**values)


def _check_complete(
  values: Logps,
  config: ConfigDict,
  data: build.Data,
  folder: Path,
) -> None:
  """Raises UserError if the cache lacks samples (it had other length
  limits).
  """
  # [n, K] where rows have several chosen answers
  chosen = values.chosen[data.buckets.kept]
  absent = np.isnan(chosen.reshape(len(chosen), -1)).any(axis=1)
  if absent.any() and config.data.on_bad_sample == "raise":
    first = int(data.buckets.kept[absent][0])
    raise UserError(
      f"reference cache {folder} is stale: it has no log-probs for "
      f"{int(absent.sum())} samples, the first is record {first}. Remove the "
      "folder to compute the log-probs again"
    )


def _compute(
  config: ConfigDict,
  model: build.Model,
  data: build.Data,
  step: StepFn,
  mesh: Mesh,
  workdir: Path,
  part: Part,
) -> dict[str, np.ndarray]:
  """One pass over every sample, forward only, in the run's own batches.

  Args:
    part: reads what an interrupted pass has computed, and saves what this one
      computes.
  """
  # Epoch number 0: noise that is drawn anew each epoch is cached for runs of
  # one epoch only, and theirs has that number too.
  plan = batches.BatchOrder(data.buckets, config.batch_size, config.seed)
  loader = build.build_loader(config, data, model.weights, mesh, workdir)
  score = jax.jit(
    lambda frozen, params, batch: _score(step, frozen, params, batch)
  )
  done, values = part.load()
  if done and not jax.process_index():
    print(f"reference log-probs: continuing with batch {done} of {len(plan)}")
  rows = batches.pipeline(plan, loader, config.data.workers, done)
  bar = progress.bar(
    rows,
    total=len(plan),
    initial=done,
    desc="reference log-probs",
    unit="batch",
  )
  with contextlib.closing(rows), contextlib.ExitStack() as stack:
    # also where a signal ends it; `done` and `values` as they are then
    stack.callback(lambda: part.keep(done, values, now=True))
    for host in bar:
      batch = build.place(host, config, mesh)
      with jax.set_mesh(mesh):
        out = score(model.frozen, model.params, batch)
      found, index = multihost_utils.process_allgather(
        (out, batch.index), tiled=True
      )
      index = np.asarray(index).reshape(-1)
      real = index != batches.FILLER
      for name in step.spec.needs.fixed.terms:
        terms = np.asarray(getattr(found, name))
        # [A, b, ...] to [A * b, ...]
        terms = terms.reshape(len(index), *terms.shape[2:])
        bad = ~np.isfinite(terms.reshape(len(index), -1)).all(axis=1)
        for record in index[real & bad][:1].tolist():
          who = f"record {data.source[record].id!r}"
          raise errors.not_finite(f"{who}: log-prob {name} of the reference")
        if name not in values:
          size = (len(data.lengths.prefix), *terms.shape[1:])
          values[name] = np.full(size, np.nan, np.float32)
        values[name][index[real]] = terms[real]
      done += 1
      part.keep(done, values)
  return values


def _score(step: StepFn, frozen: Frozen, params: Params, batch: Batch) -> Logps:
  """The fixed terms [A, b, ...] of a batch, under the reference."""
  return jax.lax.map(
    lambda part: logps.fixed_reference(
      step.graph, frozen, params, part, step.spec
    ),
    batch,
  )
