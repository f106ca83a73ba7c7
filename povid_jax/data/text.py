"""Conversations to token ids and loss masks, as LLaVA-1.5 and POVID do it."""

import copy
import dataclasses
import re
from collections.abc import Sequence

import numpy as np

from povid_jax.data.templates import TEMPLATES, Template, find_template
from povid_jax.data.tokenizer import (
  Tokenizer,
  generation_stops,
  load_tokenizer,
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

IMAGE_TOKEN = -200  # placeholder id of one image feature
MARKER = "<image>"


_PLACE = re.compile(r"\{text\}|\{image\}")
_SPECIAL = re.compile(r"(<s>|</s>|<\|[^<|>]+\|>)")


@dataclasses.dataclass(frozen=True)
class Encoded:
  """A prefix and its N branches.

  prefix_ids: int32[p], images as runs of IMAGE_TOKEN.
  branch_ids: N arrays int32[c].
  loss_mask: N arrays bool[c], true where the assistant speaks, </s> included.
  weights: N arrays float32[c], or None where all tokens weigh 1.
  """

  prefix_ids: np.ndarray
  branch_ids: tuple[np.ndarray, ...]
  loss_mask: tuple[np.ndarray, ...]
  weights: tuple[np.ndarray, ...] | None = None


def check_ids(tokenizer: Tokenizer, template: Template) -> None:
  """UserError where the template needs a token that the model has no row for.

  Args:
    tokenizer: loaded with the number of rows.
  """
  for written in filter(
    lambda value: isinstance(value, str), dataclasses.astuple(template)
  ):
    for token in _SPECIAL.findall(written):
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


class _Writer:
  """Collects ids and mask; text between special tokens is encoded as one."""

  def __init__(
    self, tokenizer: Tokenizer, template: Template, counts: Sequence[int]
  ) -> None:
    self._tokenizer = tokenizer
    self._template = template
    self._counts = counts  # tokens of the images that are still to come
    bos = tokenizer.bos_id
    self.ids: list[int] = [] if bos is None else [bos]
    self.mask = [False] * len(self.ids)
    self._text = ""  # not encoded yet: an answer may follow on it
    self._continues = False  # what comes next stands after a special token

  def _encode(self, text: str) -> list[int]:
    return self._tokenizer.encode(text, continues=self._continues)

  def _put(self, ids: Sequence[int], mask: bool = False) -> None:
    self.ids.extend(ids)
    self.mask.extend([mask] * len(ids))

  def flush(self) -> None:
    if self._text:
      self._put(self._encode(self._text))
      self._text, self._continues = "", False

  def _put_special(self, token: int, mask: bool = False) -> None:
    self.flush()
    self._put([token], mask)
    self._continues = True

  def _special(self, token: str) -> int | None:
    named = {"</s>": self._tokenizer.eos_id, "<s>": self._tokenizer.bos_id}
    return named.get(token, self._tokenizer.token_id(token))

  def _image(self) -> None:
    self.flush()
    self._mark(self._template.image_start)
    self._put([IMAGE_TOKEN] * self._counts[0])
    self._counts = self._counts[1:]
    self._continues = False  # LLaVA tokenises what follows by itself
    self._mark(self._template.image_end)

  def _mark(self, token: str) -> None:
    """A token beside an image, where the template has one."""
    if not token:
      return
    known = self._special(token)
    if known is None:
      raise UserError(
        f"{self._tokenizer.folder}: the tokenizer has no {token}, which the "
        "template puts beside an image; it is the tokenizer of another model"
      )
    self._put_special(known)

  def _said(self, said: str) -> list[str]:
    """What was said as the texts before, between and behind its images."""
    texts = said.split(MARKER)
    count = len(texts) - 1
    at_front = count == 1 and not texts[0]
    if count and not (self._template.in_place and (count > 1 or at_front)):
      rest = "".join(texts).strip()
      texts = ["", *["\n"] * (count - 1), f"\n{rest}" if rest else ""]
    if self._template.image_end:
      texts[1:] = [text.removeprefix("\n") for text in texts[1:]]
    if self._template.trim:
      texts[0] = texts[0].lstrip()
      texts[-1] = texts[-1].rstrip()
    return texts

  def _with_images(self, texts: Sequence[str]) -> None:
    self._text += texts[0]
    for text in texts[1:]:
      self._image()
      self._text += text

  def question(self, said: str, first: bool) -> None:
    text = self._template.first if first else self._template.later
    texts = self._said(said)
    if "{image}" in text:  # the images alone
      texts = [
        "\n" if 0 < i < len(texts) - 1 else "" for i in range(len(texts))
      ]
    for piece in _SPECIAL.split(text):
      special = self._special(piece) if _SPECIAL.fullmatch(piece) else None
      if special is not None:
        self._put_special(special)
        continue
      before, *after = _PLACE.split(piece)
      self._text += before
      if after:
        self._with_images(texts)
        self._text += after[0]

  def _after_question(self, text: str) -> list[int]:
    """Ids of an answer's text behind the question that is not encoded yet."""
    head, whole = self._encode(self._text), self._encode(self._text + text)
    if whole[: len(head)] == head:
      return whole[len(head) :]
    # A tokenizer that joins text across the border would leave the prefix
    # of generation behind; such an answer is encoded apart.
    return self._encode(text)

  def _context(self, context: str) -> list[int]:
    before = self._template.answer.partition("{text}")[0]
    context = context.lstrip() if self._template.trim else context
    return self._after_question(before + context)

  def start_answer(self, context: str) -> None:
    """An answer that is not finished: nothing of it is scored."""
    self._put([*self._encode(self._text), *self._context(context)])
    self._text, self._continues = "", False

  def answer(self, said: str, context: str = "", ends: bool = True) -> None:
    """An answer, scored from where it differs from its context."""
    if self._template.trim:
      context, said = context.lstrip(), said.rstrip()
      said = said if context else said.lstrip()
    before, _, after = self._template.answer.partition("{text}")
    text = before + join(context, said) + (after if ends else "")
    answer, fork = self._after_question(text), 0
    if context:
      fork = common_prefix([answer, self._context(context)])
    self._put(self._encode(self._text))
    self._put(answer[:fork])
    self._put(answer[fork:], True)
    self._text, self._continues = "", False
    if (end := self._template.end) and ends:
      special = self._special(end)
      self._put_special(
        self._tokenizer.eos_id if special is None else special, True
      )

  def prompt(self, turns: Sequence[str]) -> None:
    for i, said in enumerate(turns):
      if i % 2:
        self.answer(said)
      else:
        self.question(said, first=i == 0)

  def response(self, turns: Sequence[str], context: str, ends: bool) -> None:
    for i, said in enumerate(turns):
      if i % 2:
        self.question(said, first=False)
      else:
        last = i == len(turns) - 1
        self.answer(said, "" if i else context, ends or not last)

  def fork(self) -> "_Writer":
    other = copy.copy(self)
    other.ids, other.mask = list(self.ids), list(self.mask)
    return other


def _check(
  prompt_turns: Sequence[str], responses: Sequence[Sequence[str]]
) -> None:
  if len(prompt_turns) % 2 == 0:
    raise UserError(
      f"a prompt of {len(prompt_turns)} turns; want one that ends with a "
      "human turn"
    )
  for response in responses:
    if len(response) % 2 == 0:
      raise UserError(
        f"a response of {len(response)} turns; want one that starts and ends "
        "with an answer"
      )
    if any(MARKER in turn for turn in response[1::2]):
      raise UserError(
        "a picture is asked for after the first answer; want every <image> "
        "in the prompt"
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
    context: what was said of the answer, without the blank behind it.
    end_scored: whether the last answer is over; if not, no </s> follows.

  Raises:
    UserError: no such template, turns that do not alternate that way, an
      <image> after the first answer, or a response of which nothing is scored.
  """
  _check(prompt_turns, responses)
  if isinstance(template, str):
    template = find_template(template)
  asked = count_images(prompt_turns)
  if isinstance(image_tokens, int):
    image_tokens = [image_tokens] * asked
  if len(image_tokens) != asked:
    raise UserError(
      f"{len(image_tokens)} image(s) and {asked} <image> in the text"
    )
  writer = _Writer(tokenizer, template, image_tokens)
  writer.prompt(prompt_turns)
  prefix = writer.fork()
  prefix.flush()
  shared = len(prefix.ids)
  branches = []
  for response in responses:
    branch = writer.fork()
    branch.response(response, context, end_scored)
    if not any(branch.mask[shared:]):
      raise UserError("a response of which no token is scored; want text")
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


def join(context: str, said: str) -> str:
  """The answer so far and what follows, a blank between them."""
  touching = not context or not said
  if touching or context[-1].isspace() or said[0].isspace():
    return context + said
  return f"{context} {said}"


def common_prefix(sequences: Sequence[Sequence[int]]) -> int:
  """How many ids all sequences start with."""
  count = 0
  for ids in zip(*sequences, strict=False):
    if len(set(ids)) > 1:
      break
    count += 1
  return count
