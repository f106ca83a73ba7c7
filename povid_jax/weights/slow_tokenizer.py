"""tokenizer.model made from a tokenizer.json, for programs that read only that.

LLaVA's own code asks for the slow Llama tokenizer (use_fast=False), llama.cpp
for the file. It is written only where it cuts a sample of text as the
tokenizer.json does, token for token.
"""

import json
from pathlib import Path
from typing import Any

from povid_jax.weights import sentencepiece_file
from povid_jax.weights.sentencepiece_file import Piece
from povid_jax.weights.shards import read_json

_SAMPLE = (
  "A chat between a curious user and an artificial intelligence assistant.",
  "USER: Describe this image in detail. ASSISTANT: Two cats, and 3.14 dogs!",
  "  two  spaces\nand\ta line; naïve café, 東京, Привет, 🙂 ... x=y+1234567890",
  "def f(x):\n    return {'a': [1, 2], \"b\": None}  # done",
)


def ensure(folder: Path) -> bool:
  """Writes tokenizer.model beside tokenizer.json, where there is none.

  Returns:
    Whether the file exists now; False for a tokenizer that SentencePiece cannot
    represent (byte-level BPE, other ids of <s> and </s>).
  """
  if (folder / "tokenizer.model").is_file():
    return True
  spec = read_json(folder / "tokenizer.json")
  pieces = _pieces(spec)
  if not pieces:
    return False
  made = sentencepiece_file.build(pieces, leading_space=_leading_space(spec))
  if not _same(made, spec):
    return False
  (folder / "tokenizer.model").write_bytes(made)
  added = {
    token["content"]: token["id"]
    for token in spec.get("added_tokens") or ()
    if token["id"] >= len(pieces)
  }
  if added and not (folder / "added_tokens.json").is_file():
    text = json.dumps(added, indent=2, ensure_ascii=False)
    (folder / "added_tokens.json").write_text(text, encoding="utf-8")
  return True


def _pieces(spec: dict[str, Any]) -> list[Piece]:
  """The pieces by id, [] where the model is not of SentencePiece's kind."""
  model = spec.get("model") or {}
  vocab = model.get("vocab")
  if model.get("type") != "BPE" or not model.get("byte_fallback"):
    return []
  if not isinstance(vocab, dict) or sorted(vocab.values()) != list(
    range(len(vocab))
  ):
    return []
  rank: dict[str, int] = {}
  merges: list[Any] = model.get("merges") or []
  for i, merge in enumerate(merges):
    left, right = merge.split(" ") if isinstance(merge, str) else merge
    rank.setdefault(left + right, i)
  special = {
    token["content"]
    for token in spec.get("added_tokens") or ()
    if token.get("special")
  }
  out = []
  for text in sorted(vocab, key=vocab.__getitem__):
    kind, score = sentencepiece_file.NORMAL, -float(rank.get(text, len(rank)))
    if text == model.get("unk_token"):
      kind, score = sentencepiece_file.UNKNOWN, 0.0
    elif len(text) == 6 and text.startswith("<0x") and text.endswith(">"):
      kind, score = sentencepiece_file.BYTE, 0.0
    elif text in special:
      kind, score = sentencepiece_file.CONTROL, 0.0
    out.append(Piece(text, score, kind))
  if [piece.text for piece in out[:3]] != ["<unk>", "<s>", "</s>"]:
    return []
  return out


def _leading_space(spec: dict[str, Any]) -> bool:
  """Whether a space is put in front of a text."""
  text = json.dumps([spec.get("normalizer"), spec.get("pre_tokenizer")])
  schemes = ('"prepend_scheme": "first"', '"prepend_scheme": "always"')
  return '"type": "Prepend"' in text or any(s in text for s in schemes)


def _same(made: bytes, spec: dict[str, Any]) -> bool:
  """Whether both tokenizers cut the sample in the same way."""
  import sentencepiece
  import tokenizers

  slow = sentencepiece.SentencePieceProcessor(model_proto=made)
  fast = tokenizers.Tokenizer.from_str(json.dumps(spec))
  return all(
    slow.encode(text) == fast.encode(text, add_special_tokens=False).ids
    for text in _SAMPLE
  )
