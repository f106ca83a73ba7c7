r"""Pairs from the model's own answers: the recipe that gains most.

  python -m data_gen sample --checkpoint RUN --input train.json \
    --image-dir images --annotations instances_train.json --out pairs.jsonl

The checkpoint answers the first question about each picture several times,
whole or sentence by sentence (the best sentence goes on as the context of the
next), and a verifier says which of the named objects are in the picture. An
answer without an invented object and one with make a pair; see
data_gen/sampling/pairs.py.

Every candidate is in the journal beside OUT before it is used: the same command
continues after any stop and asks for none again. On this machine's own devices
the pairs depend on the seed alone. --input may be samples, COCO captions, or a
folder of pictures together with --prompt.
"""

import argparse
import dataclasses
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_gen import verify
from data_gen.encode import check_picture
from data_gen.gates import Refused
from data_gen.injectors import server_flags
from data_gen.injectors.base import Injector, World
from data_gen.items import Item
from data_gen.sampling.loop import Loop
from data_gen.sampling.sources import OwnDecoder, Servers, Source, Task
from data_gen.verify.base import Agreement, Setting
from povid_jax import bounds
from povid_jax.data.pairs import Sample as Pair
from povid_jax.data.picture import Picture
from povid_jax.errors import UserError
from povid_jax.eval.benchmarks import chair_words
from povid_jax.llm import Options

if TYPE_CHECKING:
  from data_gen.job import Job

VERSION = 3  # of the way from candidates to pairs
_PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")


class Sample(Injector):
  """The model's own answers, judged by what is in the picture."""

  name = "sample"
  summary = "make pairs from the model's own answers, judged by a verifier"
  gated = False

  def __init__(self, args: argparse.Namespace):
    super().__init__(args)
    if args.pairs_per_sample != 1:
      raise UserError(
        "--pairs-per-sample: sample makes the pairs of a picture together; use "
        "--pairs-per-context"
      )
    if (args.checkpoint is None) == (not args.base_url):
      raise UserError(
        "give --checkpoint for a local model, or --base-url and --model for "
        "a server"
      )
    self._part, self._parts = _shard(args.shard)
    self._stem = Path(args.out).with_suffix("")
    self._source: Source | None = None
    self._agreement: Agreement | None = None
    self._vocabulary = chair_words.Vocabulary({}, {})

  @staticmethod
  def add_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
      "--checkpoint",
      help="RUN, RUN@STEP or a model folder, run on this machine",
    )
    add("--unit", choices=("answer", "sentence"), default="answer", help=(
      "compare whole answers (default), or sentences after the same beginning"
    ))  # fmt: skip
    add(
      "--candidates",
      type=bounds.whole(2, 10**4),
      default=8,
      metavar="N",
      help="answers or sentences of one context (default %(default)s)",
    )
    add("--pairs-per-context", type=bounds.whole(1), default=1, metavar="N",
        help="pairs of one context, at most (default %(default)s)")  # fmt: skip
    add(
      "--max-sentences",
      type=bounds.whole(1),
      default=12,
      metavar="N",
      help="with --unit=sentence: longest answer (default %(default)s)",
    )
    add("--length-ratio", type=bounds.number(1), default=1.5, metavar="R",
        help=(
      "greatest ratio of words between the two texts of a pair (default "
      "%(default)s)"
    ))  # fmt: skip
    add(
      "--prompt",
      help="one question for every picture, instead of its own question",
    )
    add("--shard", default="0/1", metavar="I/N", help=(
      "process only part I of N, 0 <= I < N, for several machines; `data_gen "
      "merge` joins their files"
    ))  # fmt: skip
    add("--chunk", type=bounds.whole(1), default=256, metavar="N",
        help="pictures processed at once (default %(default)s)")  # fmt: skip
    _add_decoding(parser)
    _add_words(parser)
    verify.add_flags(parser)

  def load(
    self, path: str, on_bad: Callable[[UserError], None] | None
  ) -> Sequence[Pair]:
    """The samples; with --prompt, --input may also be a folder of pictures."""
    folder = Path(path)
    if not folder.is_dir() or not (prompt := self.args.prompt):
      return super().load(path, on_bad)
    names = sorted(
      p.relative_to(folder).as_posix()
      for p in folder.rglob("*")
      if p.suffix.lower() in _PICTURES
    )
    if not names:
      raise UserError(
        f"--input={path}: the folder contains no pictures; want files that "
        "end in " + ", ".join(_PICTURES)
      )
    where = self.args.image_dir or path
    turns = (f"<image>\n{prompt}", "-")
    return [Pair(n, (Picture(n, where),), turns) for n in names]

  def check_sample(self, sample: Pair) -> None:
    if not sample.images:
      raise UserError(
        "this sample has no picture, and answers need one: remove the "
        "sample, or add a picture"
      )
    for picture in sample.images:
      check_picture(picture.read(), f"image {picture.name!r}")

  def wants(self, item: Item) -> bool:
    return zlib.crc32(item.key.encode()) % self._parts == self._part

  def prepare(self, world: World) -> None:
    super().prepare(world)
    args = self.args
    categories = [name for name, _ in world.annotations.categories]
    self._vocabulary = chair_words.load(
      args.vocabulary, args.singular, clean=True, categories=categories
    )
    if args.objects == "annotated":
      if not categories:
        raise UserError(
          "--objects=annotated needs --annotations instances_*.json"
        )
      self._vocabulary.keep(categories)
    setting = Setting(args, self._vocabulary, self._stem)
    self._agreement = verify.build(setting)
    if not args.dry_run:
      own = args.checkpoint is not None
      self._source = OwnDecoder(args) if own else Servers(args, self._stem)

  @property
  def label(self) -> str:
    who = self._source.label if self._source else ""
    return f"sample/{VERSION}/{self.args.unit}/{who}"

  def settings(self) -> dict[str, Any]:
    args = self.args
    assert self._source is not None and self._agreement is not None
    kept = ("candidates", "pairs_per_context", "max_sentences", "length_ratio",
            "prompt", "shard", "agree", "singular")  # fmt: skip
    verdicts: dict[str, Any] = {}
    for verifier in self._agreement.verifiers:
      verdicts |= verifier.settings()
    names = sorted(self._vocabulary.names.items())
    return {
      **{name: getattr(args, name) for name in kept},
      "images": args.image_dir,
      "writer": self._source.settings(),
      "verifiers": verdicts,
      "vocabulary": zlib.crc32(repr(names).encode()),
    }

  def dry_run(self, items: Sequence[Item]) -> None:
    each = "answers" if self.args.unit == "answer" else "sentences a context"
    print(f"{len(items)} pictures, {self.args.candidates} {each} of each:")
    for item in items[:3]:
      print(f"  {item.sample.images[0].name}: {self._question(item)}")

  def run(self, job: "Job") -> None:
    assert self._source is not None and self._agreement is not None
    Loop(job, self, self._source, self._agreement).run(job.pending())

  def check(
    self,
    item: Item,
    rejected: Sequence[str],
    edits: list[dict],
    chosen: Sequence[str] | None = None,
  ) -> Refused | None:
    """Candidates are judged by the verifiers; what comes here has pairs."""
    del item, rejected, edits, chosen

  def pairs(self, item: Item, event: Mapping[str, Any]) -> list[Pair]:
    """The pairs of a picture; with a context, it is what both follow."""
    made = []
    for number, pair in enumerate(event["pairs"]):
      marks = ["<image>"] * len(item.sample.images)
      turn = "\n".join([*marks, self._question(item)])
      extra = {"injector": self.label, "category": item.category}
      extra["invented"] = pair["invented"]
      made.append(
        dataclasses.replace(
          item.sample,
          id=f"{item.sample.id}-s{number}",
          turns=(turn, pair["chosen"]),
          rejected=(turn, pair["rejected"]),
          extra=extra,
          context=pair.get("context", ""),
          end_scored=pair.get("end_scored"),
          rejected_weight=1.0,
          more_rejected=(),
        )
      )
    return made

  def _question(self, item: Item) -> str:
    return self.args.prompt or item.questions[0]

  def task(self, item: Item, number: int, context: str) -> Task:
    """The context number `number` of an item."""
    pictures, question = item.sample.images, self._question(item)
    key = f"{item.key}/{number}"
    system = item.sample.system
    return Task(item.sample.id, key, pictures, question, context, system)

  def named(self, text: str) -> tuple[str, ...]:
    """The objects that a text names, each once."""
    mentions = self._vocabulary.mentions(text)
    return tuple(dict.fromkeys(mention.object for mention in mentions))


def _shard(text: str) -> tuple[int, int]:
  """(I, N) of "I/N"."""
  part, slash, parts = text.partition("/")
  if not slash or not part.isdecimal() or not parts.isdecimal():
    raise UserError(f"--shard={text}: want I/N, two whole numbers")
  if not 0 <= int(part) < int(parts):
    raise UserError(f"--shard={text}: want 0 <= I < N")
  return int(part), int(parts)


def _add_decoding(parser: argparse.ArgumentParser) -> None:
  options = Options("")
  add = parser.add_argument_group("writing").add_argument
  add("--max-new-tokens", type=bounds.TOKENS, default=256, help="default 256")
  add("--temperature", type=bounds.TEMPERATURE, default=1.0, help="default 1")
  add("--top-p", type=bounds.TOP_P, default=1.0, help="default 1: all tokens")
  add("--top-k", type=bounds.TOP_K, default=0,
      help="default 0: all (not for servers)")  # fmt: skip
  add("--batch-size", type=bounds.ROWS, default=64, metavar="N",
      help="candidates generated at once (default %(default)s)")  # fmt: skip
  add("--dtype", help="float32 or bfloat16 (default: by device)")
  add(
    "--base-url",
    nargs="+",
    default=[],
    metavar="URL",
    help="OpenAI-compatible servers instead of --checkpoint, e.g. vLLM",
  )
  add("--model", help="name of the model on these servers")
  add(
    "--key-env",
    default=options.key_env,
    metavar="NAME",
    help="environment variable with their key (default %(default)s)",
  )
  server_flags.add_requests(add)


def _add_words(parser: argparse.ArgumentParser) -> None:
  add = parser.add_argument_group("objects in answers").add_argument
  add("--vocabulary", type=Path, metavar="FILE", help=(
    "objects and their names, CHAIR's format (a line: name, synonym, ...); "
    "default: COCO's 80 objects and the categories of --annotations"
  ))  # fmt: skip
  add("--objects", choices=("table", "annotated"), default="table", help=(
    "look for all objects of the vocabulary (default), or only for the "
    "categories of --annotations"
  ))  # fmt: skip
  add("--singular", default="inflect",
      choices=("inflect", "pattern", "wordnet"),
      help="how plurals are read (default %(default)s); wordnet: lemmas by "
      "part of speech, with nltk's data")  # fmt: skip
