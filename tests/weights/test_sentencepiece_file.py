"""A tokenizer.model read byte by byte, against the sentencepiece package."""

import io
from pathlib import Path
from typing import Any

import pytest
import sentencepiece

from povid_jax.errors import UserError
from povid_jax.weights import sentencepiece_file, tokenizers
from tests import small_tokenizer


def _trained(path: Path, **options: Any) -> Path:
  out = io.BytesIO()
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(["a cat and a dog", "two cats and three dogs"] * 9),
    model_writer=out,
    vocab_size=40,
    hard_vocab_limit=False,
    minloglevel=2,
    **options,
  )
  path.write_bytes(out.getvalue())
  return path


def test_pieces_are_those_of_the_package(tmp_path: Path):
  folder = small_tokenizer.write(tmp_path)
  file = folder / "tokenizer.model"
  model = sentencepiece.SentencePieceProcessor(model_file=str(file))
  got = sentencepiece_file.read(file)
  assert len(got.pieces) == model.vocab_size() == small_tokenizer.VOCAB
  for i, piece in enumerate(got.pieces):
    assert piece.text == model.id_to_piece(i)
    assert piece.score == model.get_score(i)
    assert (piece.kind == sentencepiece_file.UNKNOWN) == model.is_unknown(i)
    assert (piece.kind == sentencepiece_file.CONTROL) == model.is_control(i)
    plain = not (model.is_unknown(i) or model.is_control(i) or model.is_byte(i))
    assert (piece.kind == sentencepiece_file.NORMAL) == plain
  assert got.bpe and got.byte_fallback and got.leading_space
  assert not got.normalises and not got.squeezes
  assert (got.bos, got.unk) == ("<s>", "<unk>")


def test_settings_are_read(tmp_path: Path):
  file = _trained(
    tmp_path / "m.model",
    model_type="unigram",
    bos_piece="<begin>",
    unk_piece="<what>",
    add_dummy_prefix=False,
    user_defined_symbols=["<image>"],
  )
  got = sentencepiece_file.read(file)
  assert not got.bpe and not got.byte_fallback and not got.leading_space
  assert got.normalises  # nmt_nfkc, unless told otherwise
  assert got.squeezes
  assert (got.bos, got.unk) == ("<begin>", "<what>")
  kinds = {p.text: p.kind for p in got.pieces}
  assert kinds["<image>"] == sentencepiece_file.USER_DEFINED


@pytest.mark.parametrize(
  "content", [b"<html>", b"\x0a\xff", b"\x0a\x02\x0d\x01"]
)
def test_other_files_are_refused(tmp_path: Path, content: bytes):
  file = tmp_path / "tokenizer.model"
  file.write_bytes(content)
  with pytest.raises(UserError, match=r"tokenizer\.model: not a SentencePiece"):
    sentencepiece_file.read(file)


@pytest.mark.parametrize(
  "options",
  [
    {"model_type": "unigram", "normalization_rule_name": "identity"},
    {"model_type": "bpe"},
  ],
)
def test_only_what_llama_has_becomes_json(tmp_path: Path, options: dict):
  file = _trained(tmp_path / "tokenizer.model", **options)
  with pytest.raises(UserError, match=r"want a byte-pair \(BPE\) model with"):
    tokenizers.from_sentencepiece(file)
