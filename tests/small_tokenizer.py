"""A small Llama-like tokenizer.model, trained once per test process."""

import functools
import io
from pathlib import Path

import sentencepiece

_CORPUS = """
A chat between a curious user and an artificial intelligence assistant.
The assistant gives helpful, detailed, and polite answers to the questions.
USER: Describe this image in detail. ASSISTANT: Two cats look at a table.
Is there a car? Yes, there is a car. No, there is no car in the picture.
A man in a red shirt holds a phone; three birds sit on the roof of a bus.
"""


@functools.cache
def _model() -> bytes:
  out = io.BytesIO()
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(_CORPUS.strip().split("\n")),
    model_writer=out,
    vocab_size=400,
    model_type="bpe",
    byte_fallback=True,
    split_digits=True,
    remove_extra_whitespaces=False,
    allow_whitespace_only_pieces=True,
    normalization_rule_name="identity",
    num_threads=1,
    minloglevel=2,
  )
  return out.getvalue()


VOCAB = 400


def write(folder: Path) -> Path:
  """Puts tokenizer.model into a folder, which is made."""
  folder.mkdir(parents=True, exist_ok=True)
  (folder / "tokenizer.model").write_bytes(_model())
  return folder
