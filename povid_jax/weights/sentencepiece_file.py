"""Reads and writes a tokenizer.model without generated code.

Only the fields that decide how Llama's tokenizers cut a text.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from google.protobuf.message import DecodeError

from povid_jax import messages
from povid_jax.errors import UserError
from povid_jax.messages import Field

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, BYTE = 1, 2, 3, 4, 6
_BPE = 2

_Model = messages.make(
  "povid_jax.sentencepiece",
  {
    "SentencePiece": [
      Field("piece", 1, "string"),
      Field("score", 2, "float"),
      Field("type", 3, "int32", default=str(NORMAL)),
    ],
    "TrainerSpec": [
      Field("model_type", 3, "int32", default="1"),
      Field("vocab_size", 4, "int32", default="8000"),
      Field("byte_fallback", 35, "bool"),
      Field("unk_piece", 45, "string", default="<unk>"),
      Field("bos_piece", 46, "string", default="<s>"),
    ],
    "NormalizerSpec": [
      Field("name", 1, "string"),
      Field("precompiled_charsmap", 2, "bytes"),
      Field("add_dummy_prefix", 3, "bool", default="true"),
      Field("remove_extra_whitespaces", 4, "bool", default="true"),
    ],
    "ModelProto": [
      Field("pieces", 1, "SentencePiece", repeated=True),
      Field("trainer_spec", 2, "TrainerSpec"),
      Field("normalizer_spec", 3, "NormalizerSpec"),
    ],
  },
)["ModelProto"]


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
    byte_fallback: characters without a piece are written as bytes.
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
  model = _Model()
  try:
    model.ParseFromString(file.read_bytes())
  except DecodeError as error:
    raise UserError(f"{file}: not a SentencePiece model ({error})") from error
  trainer, normal = model.trainer_spec, model.normalizer_spec
  return SentencePieceFile(
    pieces=tuple(Piece(p.piece, p.score, p.type) for p in model.pieces),
    bpe=trainer.model_type == _BPE,
    byte_fallback=trainer.byte_fallback,
    bos=trainer.bos_piece,
    unk=trainer.unk_piece,
    normalises=bool(normal.precompiled_charsmap),
    leading_space=normal.add_dummy_prefix,
    squeezes=normal.remove_extra_whitespaces,
  )


def build(pieces: Sequence[Piece], *, leading_space: bool) -> bytes:
  """A byte-pair model without normalisation, as Llama's tokenizer.model.

  Args:
    pieces: by id; <unk>, <s> and </s> first, as SentencePiece has them.
    leading_space: a space is put in front of a text.
  """
  model = _Model()
  for piece in pieces:
    model.pieces.add(piece=piece.text, score=piece.score, type=piece.kind)
  trainer, normal = model.trainer_spec, model.normalizer_spec
  trainer.model_type, trainer.byte_fallback = _BPE, True
  trainer.vocab_size = len(pieces)
  normal.name = "identity"
  normal.add_dummy_prefix = leading_space
  normal.remove_extra_whitespaces = False
  return model.SerializeToString()
