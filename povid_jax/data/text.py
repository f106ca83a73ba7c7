"""Conversations to token ids and loss masks, as LLaVA-1.5 and POVID do it."""

import copy
import dataclasses
import re
from collections.abc import Sequence

import numpy as np

from povid_jax.data.tokenizer import Tokenizer, load_tokenizer
from povid_jax.errors import UserError

__all__ = [
  "IMAGE_TOKEN",
  "TEMPLATES",
  "Encoded",
  "Template",
  "Tokenizer",
  "check_ids",
  "count_images",
  "encode",
  "encode_prompt",
  "find_template",
  "load_tokenizer",
  "stop_ids",
]

IMAGE_TOKEN = -200  # placeholder id of one image feature
MARKER = "<image>"


@dataclasses.dataclass(frozen=True)
class Template:
  """A conversation's text; {text} stands for what was said, with its images
  in front, {image} for the images alone.

  Markers of special tokens written in a template (<s>, </s>, <|im_start|>,
  <|im_end|>) become those tokens where the tokenizer has them; the same
  characters in what was said stay text.
  """

  first: str  # first question, with the system's words
  later: str  # any later question
  answer: str
  end: str  # closes an answer


_LLAMA_2_SYSTEM = (
  "You are a helpful language and vision assistant. You are able to "
  "understand the visual content that the user provides, and assist the user "
  "with a variety of tasks using natural language."
)
_VICUNA_SYSTEM = (
  "A chat between a curious user and an artificial intelligence assistant. "
  "The assistant gives helpful, detailed, and polite answers to the user's "
  "questions."
)
_CHATML_TURN = "<|im_start|>user\n{text}<|im_end|><|im_start|>assistant\n"

TEMPLATES: dict[str, Template] = {
  "vicuna_v1": Template(
    first=_VICUNA_SYSTEM + " USER: {text} ASSISTANT:",
    later="USER: {text} ASSISTANT:",
    answer=" {text}",
    end="</s>",
  ),
  "llava_llama_2": Template(
    first=f"[INST] <<SYS>>\n{_LLAMA_2_SYSTEM}\n<</SYS>>\n\n{{text}} [/INST]",
    later="<s>[INST] {text} [/INST]",
    answer=" {text} ",
    end="</s>",
  ),
  "mistral_instruct": Template(
    first="[INST] {text} [/INST]",
    later="[INST] {text} [/INST]",
    answer=" {text} ",
    end="</s>",
  ),
  "chatml": Template(
    first="<|im_start|>system\nAnswer the questions.<|im_end|>" + _CHATML_TURN,
    later=_CHATML_TURN,
    answer="{text}",
    end="<|im_end|>",
  ),
  # Projector pre-training: the picture, then its caption; no question.
  "plain": Template(first="{image}", later="", answer="{text}\n", end=""),
  # The toy world's: no system's words, a context short enough for a laptop.
  "short": Template(
    first="USER: {text} ASSISTANT:",
    later="USER: {text} ASSISTANT:",
    answer=" {text}",
    end="</s>",
  ),
}

_SPECIAL = re.compile(r"(<s>|</s>|<\|im_start\|>|<\|im_end\|>)")


@dataclasses.dataclass(frozen=True)
class Encoded:
  """A prefix and its N branches.

  prefix_ids: int32[p], images as runs of IMAGE_TOKEN.
  branch_ids: N arrays int32[c].
  loss_mask: N arrays bool[c], true where the assistant speaks, </s> included.
  """

  prefix_ids: np.ndarray
  branch_ids: tuple[np.ndarray, ...]
  loss_mask: tuple[np.ndarray, ...]


def find_template(name: str) -> Template:
  """The template of that name; UserError lists the names there are."""
  if name not in TEMPLATES:
    known = ", ".join(sorted(TEMPLATES))
    raise UserError(f"template {name!r}: want one of {known}")
  return TEMPLATES[name]


def check_ids(tokenizer: Tokenizer, template: Template) -> None:
  """UserError where the template needs a token that the model has no row for.

  Args:
    tokenizer: loaded with the number of rows.
  """
  for written in dataclasses.astuple(template):
    for token in _SPECIAL.findall(written):
      tokenizer.token_id(token)


def count_images(turns: Sequence[str]) -> int:
  """How many images the human turns (every second, from the first) ask for."""
  return sum(turn.count(MARKER) for turn in turns[::2])


def stop_ids(tokenizer: Tokenizer, template: Template) -> tuple[int, ...]:
  """Ids at which an answer is over."""
  end = tokenizer.token_id(template.end) if template.end else None
  return tuple(
    dict.fromkeys(i for i in (end, tokenizer.eos_id) if i is not None)
  )


class _Writer:
  """Collects ids and mask; text between special tokens is encoded as one."""

  def __init__(
    self, tokenizer: Tokenizer, template: Template, num_image_tokens: int
  ) -> None:
    self._tokenizer = tokenizer
    self._template = template
    self._image = [IMAGE_TOKEN] * num_image_tokens
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

  def _images(self, count: int, newline: bool) -> None:
    for i in range(count):
      self.flush()
      self._put(self._image)
      self._continues = False  # LLaVA tokenises what follows by itself
      if newline or i < count - 1:
        self._text += "\n"

  def question(self, said: str, first: bool) -> None:
    count = said.count(MARKER)
    if count:
      said = said.replace(MARKER, "").strip()
    text = self._template.first if first else self._template.later
    for piece in _SPECIAL.split(text):
      special = self._special(piece) if _SPECIAL.fullmatch(piece) else None
      if special is not None:
        self._put_special(special)
        continue
      self._text += piece.partition("{")[0]
      if "{image}" in piece:
        self._images(count, newline=False)
        self._text += piece.partition("{image}")[2]
      elif "{text}" in piece:
        self._images(count, newline=bool(said))
        self._text += said + piece.partition("{text}")[2]

  def answer(self, said: str) -> None:
    text = self._template.answer.replace("{text}", said)
    head, whole = self._encode(self._text), self._encode(self._text + text)
    if whole[: len(head)] == head:
      answer = whole[len(head) :]
    else:
      # A tokenizer that joins text across the border would leave the prefix
      # of generation behind; such an answer is encoded apart.
      answer = self._encode(text)
    self._put(head)
    self._put(answer, True)
    self._text, self._continues = "", False
    if end := self._template.end:
      special = self._special(end)
      self._put_special(
        self._tokenizer.eos_id if special is None else special, True
      )

  def conversation(self, turns: Sequence[str], first_is_answer: bool) -> None:
    for i, said in enumerate(turns):
      if (i % 2 == 0) == first_is_answer:
        self.answer(said)
      else:
        self.question(said, first=i == 0)

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
  num_image_tokens: int,
) -> Encoded:
  """Tokenises a prompt once, and each response as a branch of it.

  prefix + branch is, token for token, what LLaVA and the released POVID code
  make of the whole conversation with the slow Llama tokenizer, each image
  token repeated `num_image_tokens` times; loss_mask marks what is not -100 in
  their labels: answers and their </s>. For vicuna_v1 and `short`:

      prefix  <s> [system] USER: <image>*576 \\n q ASSISTANT:
      branch  a </s> USER: q2 ASSISTANT: a2 </s>
      mask    1 1    0              0    1  1

  Conversations of several turns get the same treatment in every turn, where,
  with the tokenizer of LLaVA-1.5, the released code miscounts and drops them
  (all labels -100, one printed line).

  In a human turn each <image> is moved to the front of the turn, as LLaVA
  does, one block of placeholders and a newline per picture (LLaVA makes a
  single one of them); the rest of that turn is stripped. In an answer the
  characters "<image>" are text. So are "<s>", "</s>" and the like in any turn:
  nothing that was said can end a turn or be scored as its end.

  Args:
    prompt_turns: human and gpt turns, a human one last.
    responses: one sequence of turns per branch; gpt turns first and last.
    tokenizer: from `load_tokenizer`.
    template: a name in TEMPLATES, or one of your own.
    num_image_tokens: features per image, 576 for LLaVA-1.5.

  Raises:
    UserError: no such template, turns that do not alternate that way, or an
      <image> after the first answer.
  """
  _check(prompt_turns, responses)
  if isinstance(template, str):
    template = find_template(template)
  writer = _Writer(tokenizer, template, num_image_tokens)
  writer.conversation(prompt_turns, first_is_answer=False)
  prefix = writer.fork()
  prefix.flush()
  start = len(prefix.ids)
  branches = []
  for response in responses:
    branch = writer.fork()
    branch.conversation(response, first_is_answer=True)
    branches.append(branch)
  return Encoded(
    prefix_ids=np.array(prefix.ids, np.int32),
    branch_ids=tuple(np.array(b.ids[start:], np.int32) for b in branches),
    loss_mask=tuple(np.array(b.mask[start:], bool) for b in branches),
  )


def encode_prompt(
  prompt_turns: Sequence[str],
  tokenizer: Tokenizer,
  template: str | Template,
  num_image_tokens: int,
) -> np.ndarray:
  """int32[p], the prefix of `encode`: what an answer is generated from."""
  encoded = encode(prompt_turns, (), tokenizer, template, num_image_tokens)
  return encoded.prefix_ids
