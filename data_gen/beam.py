"""`data_gen write` as an Apache Beam pipeline, for more than one machine.

The functions are those of the local writer, a shard is still written by one
worker from beginning to end, and the output is the same to the byte. Folders
may be anything that Beam's filesystems know (gs://, s3://, hdfs://). A folder
is complete when dataset_info.json is there: it is written last.

All workers need this package: pass Beam a container or --setup_file with it.
"""

import contextlib
import re
import shutil
import tempfile
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from data_gen import metadata, shards
from data_gen.encode import Options
from data_gen.shards import Shard, ShardPlan, Written
from povid_jax.data.picture import Picture
from povid_jax.errors import UserError
from povid_jax.files import atomic_dir
from povid_jax.folders import is_remote

_STAGED = "writing-"  # begins the folder of shards that have no place yet


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
    try:
      yield dataclasses.replace(options, pairs=str(path))
    except UserError as error:  # the copy is used nowhere else
      words = str(error).replace(str(path), options.pairs)
      raise UserError(words) from error


def pictures(options: Options) -> list[Picture]:
  """Pipeline step: the pictures whose content decides the split."""
  with _local_pairs(options) as local:
    samples, _ = shards.load(local)
  return shards.to_digest(samples, options)


def plan(options: Options, contents: Mapping[Picture, bytes]) -> ShardPlan:
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
  written: Sequence[Written],
  plan: ShardPlan,
  options: Options,
  staged: str,
  folder: str,
) -> None:
  """Pipeline step: the shards get their place, then the small files,
  dataset_info.json last.

  Args:
    staged: where the shards were written.
    folder: where all belongs; shards of a run before this one (it may have had
      another number of them) are removed from it.
  """
  from apache_beam.io.filesystems import FileSystems

  if staged != folder:
    names = {shard.name for shard in plan.shards}
    last = lambda path: path.rpartition("/")[2]
    old = [p for p in _files(folder, "*-of-*") if last(p) not in names]
    if old:
      FileSystems.delete(old)
    # A runner may try this step again: what has its place already keeps it.
    ready = [last(path) for path in _files(staged, "*-of-*")]
    FileSystems.rename(
      [_join(staged, name) for name in ready],
      [_join(folder, name) for name in ready],
    )
  for name, text in shards.finish(written, plan, options).items():
    with FileSystems.create(_join(folder, name), "text/plain") as file:
      file.write(text.encode())


def _files(folder: str, pattern: str) -> list[str]:
  """The files of a remote folder that match a pattern."""
  from apache_beam.io.filesystems import FileSystems

  (found,) = FileSystems.match([_join(folder, pattern)])
  return [file.path for file in found.metadata_list]


def build(
  pipeline: object, options: Options, folder: str, staged: str | None = None
) -> None:
  """Adds the steps to a beam.Pipeline.

  Args:
    staged: where shards are until all are there; None: in the folder itself.
  """
  staged = staged or folder
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
    | "Write" >> beam.Map(write_shard, options, staged)
    | "Collect" >> beam.combiners.ToList()
    | "Finish"
    >> beam.Map(finish, AsSingleton(planned), options, staged, folder)
  )


def reason_of(error: BaseException) -> str:
  """Finds our own error message in the text that a runner wraps around it.

  Some runners pass on the error, others only the text of a worker's traceback,
  hundreds of lines of it.
  """
  inner: BaseException | None = error
  texts = []
  while inner is not None:
    if isinstance(inner, UserError):
      return str(inner)
    texts.append(str(inner))
    inner = inner.__cause__ or inner.__context__
  for text in texts:
    if found := _OURS.search(text):
      return found[1].replace("\\'", "'")
  lines = [line.strip() for line in texts[0].splitlines() if line.strip()]
  return lines[-1][:500] if lines else type(error).__name__


_OURS = re.compile(
  r"povid_jax\.errors\.UserError: (.+?)"
  r"(?= \[while running|\\n|\n|\s*$)"
)


def _run(
  options: Options,
  folder: str,
  runner: str,
  arguments: Sequence[str],
  staged: str | None = None,
) -> None:
  import apache_beam as beam
  from apache_beam.options.pipeline_options import PipelineOptions

  flags = PipelineOptions([f"--runner={runner}", *arguments])
  try:
    with beam.Pipeline(options=flags) as pipeline:
      build(pipeline, options, folder, staged)
  except Exception as error:
    reason = reason_of(error)
    ours = "UserError" in repr(error) or reason != str(error)
    raise UserError(reason if ours else f"{runner}: {reason}") from error


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
    UserError: Beam is not installed, the folder exists, a sample is bad, or the
      runner fails.
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
    raise UserError(f"{out} is complete already; choose another folder")
  # Shards are beside their place until all are there: a run that fails leaves
  # nothing that a reader, or a run with another --shards, would mix in.
  staged = _join(out, f"{_STAGED}{uuid.uuid4().hex[:8]}")
  _remove(FileSystems, out)
  try:
    FileSystems.mkdirs(staged)
    _run(options, out, runner, arguments, staged)
  finally:
    _remove(FileSystems, out, staged)


def _remove(filesystems: Any, out: str, *staged: str) -> None:
  """Removes what this run, or one before it, has staged."""
  left = _files(out, f"{_STAGED}*/*")
  folders = {path.rpartition("/")[0] for path in left} | set(staged)
  if left:
    filesystems.delete(left)
  for folder in folders:  # object stores have none
    with contextlib.suppress(OSError):
      filesystems.delete([folder])
