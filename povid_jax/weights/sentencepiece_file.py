"""What stands in a tokenizer.model, read without generated code.

ModelProto{1: repeated SentencePiece, 2: TrainerSpec, 3: NormalizerSpec}, of
which only the fields below decide how Llama's tokenizers cut a text.
"""

import dataclasses
import struct
from pathlib import Path
from typing import cast

from povid_jax.errors import UserError
from povid_jax.protowire import fields

NORMAL, UNKNOWN, CONTROL, USER_DEFINED = 1, 2, 3, 4
_BPE = 2

_Message = dict[int, memoryview | int]


@dataclasses.dataclass(frozen=True)
class Piece:
  """A token: its text, its score (higher merges first) and its kind."""

  text: str
  score: float
  kind: int


@dataclasses.dataclass(frozen=True)
class SentencePieceFile:
  """A tokenizer.model.

  Attributes:
    pieces: by id.
    bpe: cut by byte-pair merges.
    byte_fallback: what no piece holds is spelt in bytes.
    bos, unk: texts of the begin-of-text and the unknown token.
    normalises: characters are replaced before the text is cut.
    leading_space: a space is put in front.
    squeezes: runs of spaces become one, none stays at the ends.
  """

  pieces: tuple[Piece, ...]
  bpe: bool
  byte_fallback: bool
  bos: str
  unk: str
  normalises: bool
  leading_space: bool
  squeezes: bool


def read(file: Path) -> SentencePieceFile:
  """Reads a tokenizer.model; UserError where the file is something else."""
  pieces: list[Piece] = []
  trainer: _Message = {}
  normal: _Message = {}
  try:
    for number, payload in fields(memoryview(file.read_bytes())):
      if isinstance(payload, int):
        continue
      if number == 1:
        pieces.append(_piece(dict(fields(payload))))
      elif number == 2:
        trainer |= dict(fields(payload))
      elif number == 3:
        normal |= dict(fields(payload))
    return SentencePieceFile(
      pieces=tuple(pieces),
      bpe=trainer.get(3) == _BPE,
      byte_fallback=bool(trainer.get(35, 0)),
      bos=_text(trainer, 46, "<s>"),
      unk=_text(trainer, 45, "<unk>"),
      normalises=len(cast(memoryview, normal.get(2, memoryview(b"")))) > 0,
      leading_space=bool(normal.get(3, 1)),
      squeezes=bool(normal.get(4, 1)),
    )
  except (ValueError, TypeError, struct.error) as error:
    raise UserError(f"{file}: not a SentencePiece model ({error})") from error


def _piece(message: _Message) -> Piece:
  raw = cast(memoryview, message.get(2, memoryview(bytes(4))))
  (score,) = struct.unpack("<f", raw)
  return Piece(_text(message, 1, ""), score, cast(int, message.get(3, NORMAL)))


def _text(message: _Message, number: int, default: str) -> str:
  payload = message.get(number)
  return default if payload is None else bytes(payload).decode()
