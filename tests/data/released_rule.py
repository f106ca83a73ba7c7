"""The released code's tokens and labels, written from its description alone.

docs/design.md, "Text": build the whole prompt as one string, tokenise it with
the slow Llama tokenizer around <image>, then find the answers again by
splitting that string at " ASSISTANT: " and "</s>".
"""

import re
from collections.abc import Sequence
from pathlib import Path

import sentencepiece

SYSTEM = (
  "A chat between a curious user and an artificial intelligence assistant. "
  "The assistant gives helpful, detailed, and polite answers to the user's "
  "questions."
)
IMAGE, IGNORE = -200, -100


class SlowLlama:
  """transformers 4.33 in words: special tokens are cut out of the text first.

  With "legacy": false only the first piece of a text gets the dummy space.
  """

  def __init__(self, folder: Path, legacy: bool = True) -> None:
    self.model = sentencepiece.SentencePieceProcessor(
      model_file=str(folder / "tokenizer.model")
    )
    self.legacy = legacy

  def _after_special(self, text: str) -> list[int]:
    # Behind a newline, which is a byte of its own, there is no dummy space.
    newline = self.model.encode("\n")
    ids = self.model.encode("\n" + text)
    assert ids[: len(newline)] == newline
    return ids[len(newline) :]

  def __call__(self, text: str) -> list[int]:
    ids = [1]
    for i, part in enumerate(re.split("(<s>|</s>)", text)):
      if part in ("<s>", "</s>"):
        ids.append({"<s>": 1, "</s>": 2}[part])
      elif i == 0 or self.legacy:
        ids += self.model.encode(part)
      elif part:
        ids += self._after_special(part)
    return ids


def with_image(tokenize: SlowLlama, text: str) -> list[int]:
  first, *others = (tokenize(chunk) for chunk in text.split("<image>"))
  ids = first
  for chunk in others:
    ids = ids + [IMAGE] + chunk[1:]
  return ids


def vicuna_prompt(turns: Sequence[str]) -> str:
  text = SYSTEM + " "
  for i, turn in enumerate(turns):
    if "<image>" in turn:
      turn = ("<image>\n" + turn.replace("<image>", "").strip()).strip()
    text += f"ASSISTANT: {turn}</s>" if i % 2 else f"USER: {turn} "
  return text


def llama_2_prompt(turns: Sequence[str], system: str, between: str) -> str:
  text = ""
  for i, turn in enumerate(turns):
    if "<image>" in turn:
      turn = ("<image>\n" + turn.replace("<image>", "").strip()).strip()
    if i == 0:
      turn = system + turn
    text += f" {turn} </s>" if i % 2 else f"{between}[INST] {turn} [/INST]"
  return text.removeprefix(between)


def labels(
  tokenize: SlowLlama, prompt: str, sep: str = " ASSISTANT: "
) -> tuple[list[int], list[int]]:
  """(ids, labels) with one -200 per image; all labels -100 on a mismatch."""
  ids = with_image(tokenize, prompt)
  out = list(ids)
  out[0] = IGNORE
  at = 1
  for part in prompt.split("</s>"):
    halves = part.split(sep)
    if part == "" or len(halves) != 2:
      break
    question = len(with_image(tokenize, halves[0] + sep)) - 2
    out[at : at + question] = [IGNORE] * question
    at += len(with_image(tokenize, part))
  out[at:] = [IGNORE] * (len(out) - at)
  if at != sum(token != 0 for token in ids):
    out = [IGNORE] * len(out)
  return ids, out
