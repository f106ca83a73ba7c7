r"""Dispreferred answers from a checkpoint that sees distorted pictures.

  python -m data_gen sample-noisy --checkpoint RUN --input train.json \
    --image-dir images --out pairs.jsonl

Asks the first question of each sample over a picture with diffusion noise, and
writes the released preference format with the model's answer as the rejected
one (SeVa did this, with a fixed noise). `povid` objectives draw such answers
during training; this command makes them once, so that they can be inspected and
kept.

Answers are kept in a journal beside OUT as they come: the same command
continues after a stop. An answer equal to the correct one makes no pair: those
samples are listed in rejected.jsonl beside OUT.
"""

import argparse
import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from data_gen.encode import check_picture
from data_gen.gates import Refused
from data_gen.injectors.base import Injector, World
from data_gen.items import Item
from povid_jax import bounds
from povid_jax.data.pairs import Sample
from povid_jax.data.questions import Question
from povid_jax.errors import UserError

if TYPE_CHECKING:  # JAX is imported when the command runs, not for its --help
  from data_gen.job import Job
  from povid_jax.generate.answering import Policy


class SampleNoisy(Injector):
  """A checkpoint that sees distorted pictures."""

  name = "sample-noisy"
  summary = "make rejected answers with a checkpoint on noisy pictures"
  gated = False

  def __init__(self, args: argparse.Namespace):
    super().__init__(args)
    self._policy: Policy | None = None

  @staticmethod
  def add_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--checkpoint", required=True, help="RUN, RUN@STEP or a model folder")
    add(
      "--noise-step",
      type=bounds.NOISE_STEP,
      default=500,
      help="0..999 (default 500)",
    )
    add("--noise-overflow", "--overflow", choices=("wrap", "clip"),
        default="wrap", help=(
          "noisy values outside 0..255: wrap as released, or clip"
        ))  # fmt: skip
    add("--max-new-tokens", type=bounds.TOKENS, default=256, help="default 256")
    add(
      "--temperature",
      type=bounds.TEMPERATURE,
      default=0.0,
      help="0 is greedy (default)",
    )
    add("--top-p", type=bounds.TOP_P, default=1.0, help="default 1: all tokens")
    add("--batch-size", type=bounds.ROWS, default=16, help="default 16")
    add("--dtype", help="float32 or bfloat16 (default: by device)")

  def prepare(self, world: World) -> None:
    super().prepare(world)
    if not self.args.dry_run:
      from povid_jax.generate import answering

      self._policy = answering.load_policy(
        self.args.checkpoint, self.args.dtype
      )

  @property
  def label(self) -> str:
    """Also the settings stored in the pairs: checkpoint, noise and decoding."""
    from povid_jax.generate import answering

    args = self.args
    noise = answering.Noise(args.noise_step, args.noise_overflow, args.seed)
    sampled = dataclasses.asdict(self._decoding())
    del sampled["batch_size"]
    return json.dumps(
      {
        "name": "noisy-picture",
        "checkpoint": self._policy.fingerprint if self._policy else "",
        "noise": dataclasses.asdict(noise),
        "decoding": sampled,
      },
      sort_keys=True,
    )

  def _decoding(self) -> Any:
    from povid_jax.generate import answering

    args = self.args
    return answering.Decoding(
      max_new_tokens=args.max_new_tokens,
      temperature=args.temperature,
      top_p=args.top_p,
      seed=args.seed,
      batch_size=args.batch_size,
    )

  def settings(self) -> dict[str, Any]:
    return {"images": self.args.image_dir}

  def check_sample(self, sample: Sample) -> None:
    """Raises UserError if there is no picture, or one is missing or broken."""
    if not sample.images:
      raise UserError(
        "this sample has no picture to put noise on: remove the sample, or "
        "add a picture"
      )
    for picture in sample.images:
      check_picture(picture.read(), f"image {picture.name!r}")

  def dry_run(self, items: Sequence[Item]) -> None:
    print(
      f"{len(items)} answers of {self.args.checkpoint}; this dry run writes "
      "nothing"
    )
    for item in items[:3]:
      print(f"  id {item.sample.id}: {item.questions[0]}")

  def run(self, job: "Job") -> None:
    from povid_jax.generate import answering

    assert self._policy is not None
    args = self.args
    noise = answering.Noise(args.noise_step, args.noise_overflow, args.seed)
    of_key = dict(zip(question_keys(job.items), job.items, strict=True))
    questions = [
      to_question(item, key)
      for key, item in of_key.items()
      if not job.journal.finished(item.key)
    ]
    stream = answering.stream(self._policy, questions, self._decoding(), noise)
    for rows in stream:
      for row in rows:
        item = of_key[row["question_id"]]
        # The same question over the same noise has the same answer.
        job.settle(item, [row["text"].strip()], [], again=False)

  def check(
    self,
    item: Item,
    rejected: Sequence[str],
    edits: list[dict],
    chosen: Sequence[str] | None = None,
  ) -> Refused | None:
    """An answer of the model's own must only differ."""
    (text,) = rejected
    if not text.strip():
      return Refused("empty", "")
    if text.split() == item.answers[0].split():
      return Refused("identical", "answer equal to the correct one")
    return None

  def pairs(self, item: Item, event: Mapping[str, Any]) -> list[Sample]:
    """Only the first exchange is kept: what comes later was said about another
    answer."""
    sample = item.sample
    extra = {k: v for k, v in sample.extra.items() if k != "edits"}
    name = sample.id + (f"-v{item.variant}" if item.variant else "")
    pair = dataclasses.replace(
      sample,
      id=name,
      turns=sample.turns[:2],
      rejected=(sample.turns[0], event["rejected"][0]),
      extra=extra | {"injector": self.label},
    )
    return [pair]


def to_question(item: Item, key: str) -> Question:
  """The first question of a sample."""
  return Question(
    question_id=key, images=item.sample.images, text=item.questions[0]
  )


def question_keys(items: Sequence[Item]) -> list[str]:
  """The ids; one that is there again becomes id#2, id#3, ... They decide the
  noise and what is drawn, so they do not depend on what is done already."""
  keys: dict[str, None] = {}
  for item in items:
    key, number = item.sample.id, 1
    while key in keys:
      number += 1
      key = f"{item.sample.id}#{number}"
    keys[key] = None
  return list(keys)
