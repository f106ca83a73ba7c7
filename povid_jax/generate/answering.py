"""Questions in, answers out: restore a model, batch by length, resume."""

import dataclasses
import functools
import hashlib
import json
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from povid_jax import files, progress
from povid_jax.checkpoints import restore
from povid_jax.data import fill, text
from povid_jax.data import layout as layouts
from povid_jax.data import noise as noise_lib
from povid_jax.data.image import open_image
from povid_jax.data.layout import Extent
from povid_jax.data.questions import Question
from povid_jax.data.system import with_system
from povid_jax.data.tokenizer import Tokenizer, load_tokenizer
from povid_jax.errors import UserError
from povid_jax.generate import writing
from povid_jax.generate.decode import Decoding
from povid_jax.generate.writing import Prompt
from povid_jax.models import params as params_lib
from povid_jax.models import sharding
from povid_jax.models.config import LlavaConfig
from povid_jax.models.llava import Llava

__all__ = ["Decoding", "Noise", "Policy", "Question", "answer", "load_policy"]


@dataclasses.dataclass(frozen=True)
class Noise:
  """Diffusion noise that is added to every picture."""

  step: int
  overflow: noise_lib.Overflow = "wrap"
  seed: int = 0


@dataclasses.dataclass(frozen=True)
class Policy:
  """A restored model that can answer questions."""

  weights: restore.Weights
  tokenizer: Tokenizer
  graph: Any
  params: params_lib.Params
  mesh: Mesh

  @property
  def config(self) -> LlavaConfig:
    return self.weights.config

  @property
  def template(self) -> str:
    return self.weights.template

  @property
  def fingerprint(self) -> str:
    return self.weights.fingerprint

  @property
  def model(self) -> Llava:
    return params_lib.merge(self.graph, self.params)


def load_policy(
  spec: str, dtype: str | None = None, *, merge_adapter: bool = True
) -> Policy:
  """Restores FOLDER, RUN or RUN@STEP over all devices.

  Args:
    spec: the checkpoint.
    dtype: of weights and activations; None: bfloat16 on accelerators,
      float32 on CPUs.
    merge_adapter: fold LoRA into the kernels; else it stays apart and the
      model's `adapter=False` is the reference.

  Raises:
    UserError: see `checkpoint.load`.
  """
  if dtype is None:
    dtype = "float32" if jax.default_backend() == "cpu" else "bfloat16"
  mesh = sharding.make_mesh({"data": 1, "fsdp": -1, "tensor": 1})
  weights = restore.load(spec, sharding.sharding_for(mesh), jnp.dtype(dtype))
  if merge_adapter:
    weights = weights.merged()
  network = params_lib.network(
    spec, weights.config, weights.params, weights.lora, dtype
  )
  return Policy(
    weights=weights,
    tokenizer=load_tokenizer(
      weights.tokenizer, weights.config.decoder.vocab_size
    ),
    graph=network.graph,
    params=network.params,
    mesh=mesh,
  )


def read_answers(path: Path) -> dict[str, dict[str, Any]]:
  """Answers of an earlier run by question_id (as text); a torn last line,
  left by a killed run, is cut off the file."""
  if not path.exists():
    return {}
  files.cut_torn(path)
  rows = {}
  for number, row in files.json_lines(path):
    try:
      rows[str(row["question_id"])] = row
    except (KeyError, TypeError) as error:
      raise UserError(
        f"{path}, line {number}: want an answer with question_id; remove the "
        "file or choose another --out"
      ) from error
  return rows


def answer(
  policy: Policy,
  questions: Sequence[Question],
  decoding: Decoding,
  out: Path | None = None,
  noise: Noise | None = None,
) -> list[dict[str, Any]]:
  """Answers questions in batches of like length.

  Args:
    policy: from `load_policy`.
    questions: with unique question_ids.
    decoding: lengths and sampling.
    out: JSONL to which each batch is appended; ids already there are skipped,
      so that a killed run continues.
    noise: distort every picture first.

  Returns:
    LLaVA's answer rows {question_id, prompt, text, answer_id, model_id,
    metadata}, in the order of the questions.

  Raises:
    UserError: a picture or question cannot be used; the message names its id.
  """
  ids = [str(q.question_id) for q in questions]
  if len(set(ids)) != len(ids):
    twice = next(i for i in ids if ids.count(i) > 1)
    raise UserError(
      f"question_id {twice!r} occurs more than once; give each question its "
      "own id"
    )
  done: dict[str, dict[str, Any]] = {}
  if out is not None:
    files.check_writable(out)
    done = read_answers(out)
  asked = [q for q in questions if str(q.question_id) not in done]
  bar = progress.bar(
    total=len(questions),
    initial=len(questions) - len(asked),
    desc="answers",
    unit="answer",
  )
  tokens = 0
  try:
    for rows, count in _rows(policy, asked, decoding, noise):
      done |= {str(row["question_id"]): row for row in rows}
      # opened here, so that no file is made before the first answer
      if out is not None:
        with open(out, "a", encoding="utf-8") as sink:
          for row in rows:
            sink.write(json.dumps(row, ensure_ascii=False) + "\n")
      tokens += count
      bar.update(len(rows))
      elapsed = max(bar.format_dict["elapsed"] or 0, 1e-9)
      bar.set_postfix_str(f"{tokens / elapsed:.0f} tokens/s")
  finally:
    bar.close()
  return [done[i] for i in ids]


def stream(
  policy: Policy,
  questions: Sequence[Question],
  decoding: Decoding,
  noise: Noise | None = None,
) -> Iterator[list[dict[str, Any]]]:
  """The rows of `answer`, batch by batch as they are written; for callers that
  keep them and show progress in a way of their own."""
  for rows, _ in _rows(policy, questions, decoding, noise):
    yield rows


def _rows(
  policy: Policy,
  questions: Sequence[Question],
  decoding: Decoding,
  noise: Noise | None,
) -> Iterator[tuple[list[dict[str, Any]], int]]:
  """Batches of answer rows and how many tokens were written.

  Where nothing is drawn by a question's id, a question that is asked twice
  (POPE's splits share every second one) is answered once.
  """
  drawn = decoding.temperature > 0 or noise is not None
  twins: dict[Any, list[Question]] = {}
  for question in questions:
    asked = (question.images, question.earlier, question.text)
    key = question.question_id if drawn else asked
    twins.setdefault(key, []).append(question)
  alike = list(twins.values())
  questions = [group[0] for group in alike]
  prompts = [
    to_prompt(policy, q, (zlib.crc32(str(q.question_id).encode()),), noise)
    for q in questions
  ]
  for found in writing.write(policy, prompts, decoding):
    pairs = [
      (question, branch.ids) for i, (branch,) in found for question in alike[i]
    ]
    tokens = sum(len(branch.ids) for _, (branch,) in found)
    yield _describe(policy, pairs, decoding), tokens


def to_prompt(
  policy: Policy,
  question: Question,
  seeds: tuple[int, ...],
  noise: Noise | None = None,
  context: str = "",
) -> Prompt:
  """A question as `writing.write` takes it, with a branch for every seed.

  Args:
    policy: whose tokenizer and template make the prompt.
    question: what is asked, with its pictures, which are read later.
    seeds: of each branch's own random stream.
    noise: distort every picture first.
    context: the answer so far; branches go on from its end.

  Raises:
    UserError: the question does not fit the model; the message names it.
  """
  layout = layouts.of(policy.config)
  try:
    sizes = layouts.sizes_of(layout, question.images)
    measured = layout.measure(sizes)
  except UserError as error:
    raise UserError(f"question {question.question_id!r}: {error}") from error
  counts = [extent.tokens for extent in measured]
  ids = _prompt_ids(policy, question, counts, context)
  # no more image tokens than the prefix is long: one shape for each length
  padded = writing.padded_length(len(ids))
  room = layouts.coarse(layouts.total(measured))._replace(tokens=padded)
  return Prompt(
    name=f"question {question.question_id!r}",
    ids=ids,
    pictures=functools.partial(_images, policy, question, noise, room),
    kind=room,
    seeds=seeds,
    positions=layout.positions(ids == text.IMAGE_TOKEN, sizes),
  )


def _prompt_ids(
  policy: Policy, question: Question, counts: list[int], context: str = ""
) -> np.ndarray:
  """The prompt; UserError if it does not fit the model.

  Args:
    counts: tokens of each picture.
  """
  first, *others = *question.earlier, question.text
  turns = ("<image>\n" * len(question.images) + first, *others)
  template = policy.template
  try:
    if question.system is not None:
      template = with_system(template, question.system)
    ids = text.encode_prompt(turns, policy.tokenizer, template, counts, context)
    if len(ids) >= (most := policy.config.decoder.context_length):
      raise UserError(
        f"it is too long: {len(ids)} tokens, image tokens included; the model "
        f"has {most} positions. Ask a shorter question"
      )
  except UserError as error:
    raise UserError(f"question {question.question_id!r}: {error}") from error
  return ids


def _images(
  policy: Policy, question: Question, noise: Noise | None, room: Extent
) -> Any:
  """The arrays of the pictures of one question."""
  layout = layouts.of(policy.config)
  pictures = []
  for path in question.images:
    try:
      image = open_image(path)
      if noise is not None:
        seed = noise_lib.seed_for(noise.seed, str(question.question_id), None)
        (image,) = noise_lib.distort_all(
          [image], noise.step, seed, noise.overflow
        )
      pictures.append(image)
    except UserError as error:
      raise UserError(f"question {question.question_id!r}: {error}") from error
  return fill.pack(layout, pictures, room)


def facts(decoding: Decoding) -> dict[str, Any]:
  """The decoding settings that determine an answer, for its metadata."""
  how = dataclasses.asdict(decoding)
  del how["batch_size"]
  if decoding.temperature == 0:  # greedy: nothing is drawn
    how.update(top_p=1.0, top_k=0, seed=0)
  return how


def _describe(
  policy: Policy,
  written: Sequence[tuple[Question, list[int]]],
  decoding: Decoding,
) -> list[dict[str, Any]]:
  rows = []
  for question, ids in written:
    key = f"{policy.fingerprint}:{question.question_id}"
    rows.append(
      {
        "question_id": question.question_id,
        "prompt": question.text,
        "text": policy.tokenizer.decode(ids).strip(),
        "answer_id": hashlib.sha256(key.encode()).hexdigest()[:22],
        "model_id": policy.fingerprint,
        "metadata": {"tokens": len(ids), **facts(decoding)},
      }
    )
  return rows
