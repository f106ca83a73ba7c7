"""Conversations to token ids and loss masks, as LLaVA-1.5 and POVID do it."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from povid_jax.data.templates import TEMPLATES, Template, find_template
from povid_jax.data.tokenizer import (
  Tokenizer,
  generation_stops,
  load_tokenizer,
)
from povid_jax.data.turn_ids import (
  IMAGE_TOKEN,
  MARKER,
  SPECIAL,
  Writer,
  common_prefix,
  join,
)
from povid_jax.errors import UserError

__all__ = [
  "IMAGE_TOKEN",
  "TEMPLATES",
  "Encoded",
  "Template",
  "Tokenizer",
  "check_ids",
  "common_prefix",
  "count_images",
  "encode",
  "encode_prompt",
  "find_template",
  "join",
  "load_tokenizer",
  "stop_ids",
]


@dataclasses.dataclass(frozen=True)
class Encoded:
  """A prefix and its N branches.

  prefix_ids: int32[p], images as runs of IMAGE_TOKEN.
  branch_ids: N arrays int32[c].
  loss_mask: N arrays bool[c], true where the assistant speaks, </s> included.
  weights: N arrays float32[c], or None where all tokens weigh 1.
  num_chosen: how many of the branches, from the first, are chosen answers.
  chosen_of: for each of the others the number of its chosen answer.
  """

  prefix_ids: np.ndarray
  branch_ids: tuple[np.ndarray, ...]
  loss_mask: tuple[np.ndarray, ...]
  weights: tuple[np.ndarray, ...] | None = None
  num_chosen: int = 1
  chosen_of: tuple[int, ...] = ()


def check_ids(tokenizer: Tokenizer, template: Template) -> None:
  """Raises UserError if the template needs a token without an embedding row,
  or generation_config.json has an end of answers that is no id of the model.

  Args:
    tokenizer: loaded with the number of rows.
  """
  rows = tokenizer.rows
  for i in generation_stops(tokenizer.folder):
    if rows is not None and i >= rows:
      raise UserError(
        f"{tokenizer.folder}/generation_config.json: eos_token_id holds {i}, "
        f"but the model's embedding has {rows} rows; want ids below that"
      )
  for written in filter(
    lambda value: isinstance(value, str), dataclasses.astuple(template)
  ):
    for token in SPECIAL.findall(written):
      tokenizer.token_id(token)


def count_images(turns: Sequence[str]) -> int:
  """How many images the human turns (every second, from the first) ask for."""
  return sum(turn.count(MARKER) for turn in turns[::2])


def stop_ids(tokenizer: Tokenizer, template: Template) -> tuple[int, ...]:
  """Ids at which an answer is over: the template's end, the tokenizer's, and
  those that the model's generation_config.json names."""
  end = tokenizer.token_id(template.end) if template.end else None
  ends = (end, tokenizer.eos_id, *generation_stops(tokenizer.folder))
  return tuple(dict.fromkeys(i for i in ends if i is not None))


def _check(
  prompt_turns: Sequence[str], responses: Sequence[Sequence[str]]
) -> None:
  if len(prompt_turns) % 2 == 0:
    raise UserError(
      f"a prompt of {len(prompt_turns)} turns; want one that ends with a "
      "human turn"
    )
  if any("<video>" in turn for turn in prompt_turns[::2]):
    raise UserError("a turn contains <video>; only pictures are supported")
  for response in responses:
    if len(response) % 2 == 0:
      raise UserError(
        f"a response of {len(response)} turns; want one that starts and ends "
        "with an answer"
      )
    if any(MARKER in turn for turn in response[1::2]):
      raise UserError(
        "there is an <image> after the first answer; want every <image> in "
        "the prompt"
      )


def encode(
  prompt_turns: Sequence[str],
  responses: Sequence[Sequence[str]],
  tokenizer: Tokenizer,
  template: str | Template,
  image_tokens: int | Sequence[int],
  *,
  context: str = "",
  end_scored: bool = True,
) -> Encoded:
  """Tokenises a prompt once, and each response as a branch of it.

  prefix + branch is, token for token, what LLaVA and the released POVID code
  make of the whole conversation with the slow Llama tokenizer, each image
  repeated as often as it has tokens; loss_mask marks what is not -100 in
  their labels: answers and their </s>. For vicuna_v1 and `short`:

      prefix  <s> [system] USER: <image>*576 \\n q ASSISTANT:
      branch  a </s> USER: q2 ASSISTANT: a2 </s>
      mask    1 1    0              0    1  1

  Conversations of several turns get the same treatment in every turn, where,
  with the tokenizer of LLaVA-1.5, the released code miscounts and drops them
  (all labels -100, one printed line).

  In a human turn each <image> is moved to the front of the turn, as LLaVA
  does, one block of placeholders and a newline per picture (LLaVA makes a
  single one of them); the rest of that turn is stripped. Templates that say
  `in_place` leave several where they are. In an answer the
  characters "<image>" are text. So are "<s>", "</s>" and the like in any turn:
  nothing that was said can end a turn or be scored as its end.

  With a context, the answer so far, the text forks behind it: the ids of prefix
  and branch are those of the whole answer, context and response joined by a
  blank, and only what comes after the context is scored. Where a tokenizer
  joins the two across the border, the fork is before the joined token.

  Args:
    prompt_turns: human and gpt turns, a human one last.
    responses: one sequence of turns per branch; gpt turns first and last.
    tokenizer: from `load_tokenizer`.
    template: a name in TEMPLATES, or one of your own.
    image_tokens: tokens of each image in their order, or one number for all:
      576 for LLaVA-1.5.
    context: the answer so far, without the blank after it.
    end_scored: whether the last answer is complete; if not, no </s> follows.

  Raises:
    UserError: an unknown template, turns that do not alternate, an <image>
      after the first answer, or a response without a scored token.
  """
  _check(prompt_turns, responses)
  if isinstance(template, str):
    template = find_template(template)
  asked = count_images(prompt_turns)
  if isinstance(image_tokens, int):
    image_tokens = [image_tokens] * asked
  if len(image_tokens) != asked:
    raise UserError(
      f"{len(image_tokens)} image(s), but {asked} <image> in the text"
    )
  writer = Writer(tokenizer, template, image_tokens)
  writer.prompt(prompt_turns)
  prefix = writer.fork()
  prefix.flush()
  shared = len(prefix.ids)
  branches = []
  for response in responses:
    branch = writer.fork()
    branch.response(response, context, end_scored)
    if not any(branch.mask[shared:]):
      raise UserError(
        "the answer is empty: none of its tokens can be scored; want some text"
      )
    branches.append(branch)
  if context:
    prefix = writer.fork()
    prefix.start_answer(context)
    # joined tokens belong to the branches, all of which need the same prefix
    start = min(
      [common_prefix([prefix.ids, b.ids]) for b in branches],
      default=len(prefix.ids),
    )
    prefix.ids = prefix.ids[:start]
  start = len(prefix.ids)
  return Encoded(
    prefix_ids=np.array(prefix.ids, np.int32),
    branch_ids=tuple(np.array(b.ids[start:], np.int32) for b in branches),
    loss_mask=tuple(np.array(b.mask[start:], bool) for b in branches),
  )


def encode_prompt(
  prompt_turns: Sequence[str],
  tokenizer: Tokenizer,
  template: str | Template,
  image_tokens: int | Sequence[int],
  context: str = "",
) -> np.ndarray:
  """int32[p], the prefix of `encode`: what an answer is generated from.

  Args:
    context: the answer so far, which is to be continued.
  """
  return encode(
    prompt_turns,
    (),
    tokenizer,
    template,
    image_tokens,
    context=context,
  ).prefix_ids
