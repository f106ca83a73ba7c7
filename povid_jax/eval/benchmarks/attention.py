"""How much of a response's attention falls on the picture, layer by layer.

The checkpoint answers questions; then the prompt and its answer run once more
with attention weights made explicit (models/inspect_attention.py). For every
response token the state that wrote it is looked at: the share of its attention
that falls on image tokens, mean over heads, over the tokens of a response (its
end token included), then over responses.

  image_share           mean over layers
  layer_00/image_share  of one layer, and so on
  uniform               image tokens / tokens in sight: what attention without
                        any preference would give

OUT/attention/<question_id>.png shows the first --heat-maps responses as in the
paper's analysis: one row per generated token, image tokens to the left, text to
the right; of a picture that is cut into tiles the tokens of the whole picture,
which come first, and the share of the tiles in the title.
OUT/attention/heads.json has the share of every layer and head.
"""

import functools
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from povid_jax import bounds, progress
from povid_jax.data.picture import in_folder
from povid_jax.data.questions import Question
from povid_jax.errors import UserError
from povid_jax.eval import inside, needs
from povid_jax.eval.benchmarks import heat_map
from povid_jax.eval.protocol import (
  Benchmark,
  Column,
  Flags,
  Metrics,
  Need,
  Options,
  Scored,
  Totals,
  ratio,
)
from povid_jax.files import atomic_write

MULTIPLE = 32  # lengths are padded to multiples, so that few are compiled


def questions(data: Path, options: Options) -> list[Question]:
  """questions.jsonl: question_id, image, text, and maybe the answer to use."""
  folder, path = needs.image_folder(data, options), data / "questions.jsonl"
  asked = []
  for number, row in enumerate(needs.read_jsonl(path), 1):
    image, text = (
      needs.field(row, name, path, number) for name in ("image", "text")
    )
    text = text.replace("<image>", "").strip() + (options.prompt or "")
    extra = {"image": image, "answer": row.get("answer")}
    name = row.get("question_id", number)
    asked.append(Question(name, (in_folder(folder, image),), text, extra))
  return asked[: options.limit]


def measure(policy: Any, data: Path, options: Options) -> Scored:
  """Answers, looks, draws; a unit is a picture."""
  asked = questions(data, options)
  if not asked:
    raise UserError(f"attention: {data / 'questions.jsonl'} is empty")
  given = [q.extra["answer"] for q in asked]
  if None in given:
    made = inside.answers(policy, asked, options, "attention")
    given = [g or m for g, m in zip(given, made, strict=True)]
  run, heads = _looker(), {}
  scored = Scored(answers=inside.rows(asked, given), prompt=asked[0].text)
  drawn = options.extra.get("heat_maps", 0) if options.out else 0
  pairs = list(zip(asked, given, strict=True))
  for i, (question, answer) in enumerate(
    progress.bar(pairs, desc="attention", unit="response")
  ):
    seen = _look(run, policy, question, answer)
    heads[str(question.question_id)] = seen.heads.round(5).tolist()
    _count(scored, question, seen)
    if options.out is not None and i < drawn:
      _draw(policy, question, seen, options.out)
  if options.out is not None:
    with atomic_write(options.out / "attention" / "heads.json") as file:
      json.dump(heads, file)
  return scored


class Seen:
  """One response's attention.

  Attributes:
    ids: int[S] tokens of prompt and response, image placeholders included.
    start: number of prompt tokens.
    weights: float32[C, S] mean over layers and heads.
    heads: float32[L, H] share on image tokens, mean over response tokens.
    uniform: the share that even attention would give.
  """

  def __init__(self, ids: np.ndarray, start: int, looks: Any):
    from povid_jax.data.text import IMAGE_TOKEN

    count = len(ids) - start
    weights = np.asarray(looks.weights[:, 0, :count]).mean(axis=0)
    width = weights.shape[1] - looks.weights.shape[2]  # padded prompt
    self.ids, self.start = ids, start
    self.weights = np.concatenate(
      [weights[:, :start], weights[:, width : width + count]], axis=1
    )
    self.heads = np.asarray(looks.image_share[:, 0, :, :count]).mean(axis=-1)
    self.is_image = ids == IMAGE_TOKEN
    in_sight = start + np.arange(count)
    self.uniform = float((self.is_image.sum() / in_sight).mean())


@functools.cache
def _looker() -> Any:
  import jax

  from povid_jax.models.inspect_attention import look
  from povid_jax.models.params import merge

  @functools.partial(jax.jit, static_argnames="graph")
  def run(graph: Any, params: Any, *arrays: Any, **places: Any) -> Any:
    return look(merge(graph, params), *arrays, **places)

  return run


def _look(run: Any, policy: Any, question: Question, answer: str) -> Seen:
  import jax

  from povid_jax.data import fill, image, text
  from povid_jax.data import layout as layouts

  layout = layouts.of(policy.config)
  pictures = [image.open_image(path) for path in question.images]
  encoded = text.encode(
    ("<image>\n" * len(question.images) + question.text,),
    ((answer,),),
    policy.tokenizer,
    policy.template,
    [extent.tokens for extent in layout.measure([p.size for p in pictures])],
  )
  batch = fill.alone(encoded, layout, pictures, MULTIPLE)
  with jax.set_mesh(policy.mesh):
    looks = run(
      policy.graph,
      policy.params,
      batch.prefix_ids,
      batch.prefix_len,
      batch.branch_ids[:, 0],
      batch.images,
      positions=batch.positions,
      position_start=batch.position_start,
    )
  prompt = encoded.prefix_ids
  ids = np.concatenate([prompt, encoded.branch_ids[0]])
  return Seen(ids, len(prompt), looks)


def _count(scored: Scored, question: Question, seen: Seen) -> None:
  layers = seen.heads.mean(axis=1)
  counts = {"n": 1.0, "share": float(layers.mean()), "uniform": seen.uniform}
  counts |= {f"layer_{i:02d}": float(s) for i, s in enumerate(layers)}
  unit = str(question.extra["image"])
  scored.count(unit, counts)
  scored.verdicts.append(
    {
      "question_id": question.question_id,
      "unit": unit,
      "image_share": float(layers.mean()),
      "layers": layers.round(5).tolist(),
      "tokens": len(seen.ids) - seen.start,
    }
  )


def _draw(policy: Any, question: Question, seen: Seen, out: Path) -> None:
  name = re.sub(r"[^\w.-]", "_", str(question.question_id))
  share = f"{seen.heads.mean():.1%} of attention on image tokens"
  shown = np.ones(len(seen.ids), bool)
  if policy.config.layout.newline:
    tiles = np.flatnonzero(seen.is_image)[policy.config.image_tokens :]
    shown[tiles] = False
    share += f", {seen.weights[:, tiles].sum(1).mean():.1%} on its tiles"
  title = question.text.strip().partition("\n")[0][:80]
  picture = heat_map.draw(
    seen.weights[:, shown],
    seen.is_image[shown],
    _pieces(policy.tokenizer, seen.ids[seen.start :]),
    f"{title}  ({share})",
  )
  with atomic_write(out / "attention" / f"{name}.png", "wb") as file:
    picture.save(file, "PNG")


def _pieces(tokenizer: Any, ids: Iterable[int]) -> list[str]:
  """Tokens as text; what cannot stand alone (half a character) is shown as
  the mark for it."""
  return [tokenizer.decode([int(i)]).strip() or "\u2423" for i in ids]


def metrics(totals: Totals, options: Options) -> Metrics:
  """See the module's text."""
  n = totals["n"]
  yield "image_share", ratio(totals["share"], n)
  yield "uniform", ratio(totals["uniform"], n)
  for name in sorted(name for name in totals if name.startswith("layer_")):
    yield f"{name}/image_share", ratio(totals[name], n)


def _add_flags(group: Any) -> None:
  group.add_argument(
    "--heat-maps",
    type=bounds.whole(),
    default=4,
    metavar="N",
    help="draw heat maps of the first N responses (4)",
  )


BENCHMARK = Benchmark(
  name="attention",
  flags=Flags(
    "attention", _add_flags, lambda args: {"heat_maps": args.heat_maps}
  ),
  title="Attention",
  needs=(
    Need(
      "questions.jsonl",
      "your own questions, one JSON object per line: question_id, image, text",
    ),
  ),
  metrics=metrics,
  measure=measure,
  columns=(Column("image_share", "on image"), Column("uniform", "uniform")),
  max_new_tokens=256,
)
