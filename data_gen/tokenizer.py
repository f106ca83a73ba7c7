"""A small tokenizer made from a few texts.

  python -m data_gen tokenizer --input scenes/train.json --out=tokenizer

Frequent words are one token each; anything else is spelled in bytes, so that
every text can be written. For toys: a real model brings its own tokenizer.
"""

import argparse
import collections
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from povid_jax import bounds
from povid_jax.data.samples import read_samples
from povid_jax.data.templates import TEMPLATES
from povid_jax.errors import UserError
from povid_jax.files import atomic_dir

SPECIALS = ("<unk>", "<s>", "</s>")  # ids 0, 1, 2, as Llama has them
BYTES = 256


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the flags of `data_gen tokenizer`."""
  parser.add_argument(
    "--input", nargs="+", required=True, help="LLaVA-Instruct JSON or JSONL"
  )
  parser.add_argument("--out", required=True, help="folder to write")
  parser.add_argument(
    "--vocab-size",
    type=bounds.whole(260, 2**20),
    default=512,
    help="number of tokens: special ones, 256 bytes, then words (%(default)s)",
  )
  parser.add_argument(
    "--template",
    choices=sorted(TEMPLATES),
    default="short",
    help="template whose markers, such as <|im_end|>, become tokens "
    "(%(default)s)",
  )


def main(args: argparse.Namespace) -> int:
  """Builds the tokenizer from all turns of all inputs."""
  texts = [
    turn
    for path in args.input
    for sample in read_samples(path)
    for turn in (*sample.turns, *(sample.rejected or ()))
  ]
  tokenizer = build(texts, args.vocab_size, markers(args.template))
  with atomic_dir(args.out) as folder:
    tokenizer.save(str(folder / "tokenizer.json"))
    _write_config(folder)
  print(f"{tokenizer.get_vocab_size()} tokens in {args.out}")
  return 0


def markers(template: str) -> tuple[str, ...]:
  """The markers of special tokens in a template, in its order."""
  written = "".join(map(str, vars(TEMPLATES[template]).values()))
  return tuple(dict.fromkeys(re.findall(r"<\|.+?\|>", written)))


def build(
  texts: Iterable[str], vocab_size: int, special: Sequence[str] = ()
) -> Tokenizer:
  """A tokenizer of `vocab_size` tokens at most, words by frequency.

  A word is a token together with the space before it (" cup"); a mark such as
  "." is a token of its own. Ties go by the alphabet: the result depends on the
  texts only. `special` are tokens that no text contains.

  Raises:
    UserError: `vocab_size` leaves no room for words.
  """
  specials = (*SPECIALS, *special)
  room = vocab_size - len(specials) - BYTES
  if room <= 0:
    least = len(specials) + BYTES + 1
    raise UserError(f"--vocab-size={vocab_size}: expected at least {least}")
  splitter = pre_tokenizers.ByteLevel(add_prefix_space=False)
  counts: collections.Counter[str] = collections.Counter()
  for text, times in collections.Counter(texts).items():
    for chunk in _chunks(text):
      for word, _ in splitter.pre_tokenize_str(chunk):
        counts[word] += times
  ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
  letters = sorted(pre_tokenizers.ByteLevel.alphabet())
  words = [word for word, _ in ranked if word not in set(letters)][:room]
  return _assemble(specials, letters, words, splitter)


def _chunks(text: str) -> tuple[str, ...]:
  """`text` as a template shows it, with the words before and after it."""
  if text.startswith("<image>"):
    return "USER:", text.removeprefix("<image>"), " ASSISTANT:"
  return "USER:", " " + text.strip(), " ASSISTANT:"


def _assemble(
  specials: tuple[str, ...],
  letters: list[str],
  words: list[str],
  splitter: pre_tokenizers.PreTokenizer,
) -> Tokenizer:
  # A unigram model takes the segmentation with the highest sum of scores: one
  # word (-1) always beats its spelling (-10 for each byte).
  vocab = [(token, 0.0) for token in specials]
  vocab += [(letter, -10.0) for letter in letters]
  vocab += [(word, -1.0) for word in words]
  tokenizer = Tokenizer(models.Unigram(vocab, 0))
  tokenizer.pre_tokenizer = splitter
  tokenizer.decoder = decoders.ByteLevel()
  tokenizer.add_special_tokens(list(specials))
  return tokenizer


def _write_config(folder: Path) -> None:
  config = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "unk_token": SPECIALS[0],
    "bos_token": SPECIALS[1],
    "eos_token": SPECIALS[2],
    "pad_token": SPECIALS[0],
    "clean_up_tokenization_spaces": False,
  }
  path = folder / "tokenizer_config.json"
  path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
