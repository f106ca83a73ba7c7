"""`data_gen write` as an Apache Beam pipeline, for more than one machine.

The functions are those of the local writer, a shard is still written by one
worker from beginning to end, and the output is the same to the byte. Folders
may be anything that Beam's filesystems know (gs://, s3://, hdfs://). A folder
is complete when dataset_info.json is there: it is written last.

All workers need this package: pass Beam a container or --setup_file with it.
"""

import contextlib
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from data_gen import metadata, shards
from data_gen.encode import Options
from data_gen.shards import Plan, Shard, Written
from povid_jax.data.picture import Picture
from povid_jax.errors import UserError
from povid_jax.files import atomic_dir


def is_remote(path: str) -> bool:
  return "://" in path


@contextlib.contextmanager
def _local_pairs(options: Options) -> Iterator[Options]:
  """The options with the samples' file within reach of `open`."""
  if not is_remote(options.pairs):
    yield options
    return
  import dataclasses

  from apache_beam.io.filesystems import FileSystems

  with tempfile.TemporaryDirectory() as folder:
    path = Path(folder, options.pairs.rsplit("/", 1)[-1])
    with FileSystems.open(options.pairs) as source, path.open("wb") as file:
      shutil.copyfileobj(source, file)
    yield dataclasses.replace(options, pairs=str(path))


def pictures(options: Options) -> list[Picture]:
  """Pipeline step: the pictures whose content decides the split."""
  with _local_pairs(options) as local:
    samples, _ = shards.load(local)
  return shards.to_digest(samples, options)


def plan(options: Options, contents: Mapping[Picture, bytes]) -> Plan:
  """Pipeline step: which sample goes into which shard."""
  with _local_pairs(options) as local:
    samples, skipped = shards.load(local)
    return shards.make_plan(samples, skipped, local, contents)


def _join(folder: str, name: str) -> str:
  return f"{folder.rstrip('/')}/{name}"


def write_shard(shard: Shard, options: Options, folder: str) -> Written:
  """Pipeline step: one shard, under its name only when it is whole."""
  if not is_remote(folder):
    return shards.write_shard(shard, options, _join(folder, shard.name))
  from apache_beam.io.filesystems import FileSystems

  with tempfile.TemporaryDirectory() as local:
    path = Path(local, shard.name)
    written = shards.write_shard(shard, options, path)
    with (
      path.open("rb") as source,
      FileSystems.create(_join(folder, shard.name)) as target,
    ):
      shutil.copyfileobj(source, target, 1 << 22)
  return written


def finish(
  written: Sequence[Written], plan: Plan, options: Options, folder: str
) -> None:
  """Pipeline step: the small files, dataset_info.json last."""
  from apache_beam.io.filesystems import FileSystems

  for name, text in shards.finish(written, plan, options).items():
    with FileSystems.create(_join(folder, name), "text/plain") as file:
      file.write(text.encode())


def build(pipeline: object, options: Options, folder: str) -> None:
  """Adds the steps to a beam.Pipeline."""
  import apache_beam as beam
  from apache_beam.pvalue import AsDict, AsSingleton

  start = pipeline | "Options" >> beam.Create([options])
  contents = (
    start
    | "Pictures" >> beam.FlatMap(pictures)
    | "Spread pictures" >> beam.Reshuffle()
    | "Digest" >> beam.Map(lambda p: (p, shards.digest(p)))
  )
  planned = start | "Plan" >> beam.Map(plan, AsDict(contents))
  (
    planned
    | "Shards" >> beam.FlatMap(lambda plan: plan.shards)
    | "Spread shards" >> beam.Reshuffle()
    | "Write" >> beam.Map(write_shard, options, folder)
    | "Collect" >> beam.combiners.ToList()
    | "Finish" >> beam.Map(finish, AsSingleton(planned), options, folder)
  )


def _user_error(error: BaseException | None) -> UserError | None:
  """Our own error inside whatever a runner wraps around it."""
  while error is not None and not isinstance(error, UserError):
    error = error.__cause__ or error.__context__
  return error


def _run(
  options: Options, folder: str, runner: str, arguments: Sequence[str]
) -> None:
  import apache_beam as beam
  from apache_beam.options.pipeline_options import PipelineOptions

  flags = PipelineOptions([f"--runner={runner}", *arguments])
  try:
    with beam.Pipeline(options=flags) as pipeline:
      build(pipeline, options, folder)
  except Exception as error:
    reason = _user_error(error)
    raise UserError(
      str(reason) if reason else f"{runner} failed: {error}"
    ) from error


def run(
  options: Options, out: str, runner: str, arguments: Sequence[str]
) -> None:
  """Runs the pipeline and waits for it.

  Args:
    options: as for the local writer.
    out: a folder here, or on one of Beam's filesystems.
    runner: the name of a Beam runner.
    arguments: the runner's own options.

  Raises:
    UserError: no Beam, the folder exists, a bad sample, the runner's failure.
  """
  try:
    from apache_beam.io.filesystems import FileSystems
  except ImportError as error:
    raise UserError(
      f"--runner {runner} needs Beam: pip install 'povid_jax[beam]'"
    ) from error
  if not is_remote(out):
    with atomic_dir(out) as folder:
      _run(options, str(folder), runner, arguments)
    return
  try:
    complete = FileSystems.exists(_join(out, metadata.INFO_FILE))
  except (OSError, ValueError) as error:
    raise UserError(f"{out}: {error}") from error
  if complete:
    raise UserError(f"{out} is complete already; name another folder")
  _run(options, out, runner, arguments)
