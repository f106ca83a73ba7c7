"""Tokenizers from a folder: tokenizer.model (SentencePiece) or .json."""

import abc
import functools
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from povid_jax import errors, files
from povid_jax.errors import UserError
from povid_jax.weights import prepend_scheme

_USUAL = {
  "bos": ("<s>", "<|begin_of_text|>", "<bos>"),
  "eos": ("</s>", "<|end_of_text|>", "<|im_end|>", "<eos>", "<|endoftext|>"),
  "pad": ("<pad>", "<unk>"),
}


class Tokenizer(Protocol):
  """Text to ids and back.

  `encode` takes all text as text: a "</s>" written in it becomes the pieces
  of those four characters, never the special token, whose id only the caller
  can put. `continues` says that the text stands after a special token: Llama
  tokenizers with "legacy": false (all of LLaVA-1.5) put no space in front of
  it then, the older ones do. `decode` leaves special tokens, image placeholders
  and ids outside of the vocabulary out.
  """

  bos_id: int | None
  eos_id: int
  pad_id: int
  vocab_size: int
  folder: Path
  rows: int | None  # of the embedding; None: not known

  def encode(
    self, text: str, bos: bool = False, continues: bool = False
  ) -> list[int]: ...

  def decode(self, ids: Sequence[int]) -> str: ...

  def token_id(self, token: str) -> int | None:
    """Id of a special token by its name, None if there is no such."""
    ...


class _InsideTheTable(abc.ABC):
  """Refuses ids that the model's embedding has no row for.

  JAX would read another row, or NaN, without an error.
  """

  folder: Path
  rows: int | None = None  # of the embedding; None: not known

  @abc.abstractmethod
  def _name(self, i: int) -> str:
    """The token of an id."""

  def _inside(self, ids: list[int]) -> list[int]:
    if self.rows is not None and ids and max(ids) >= self.rows:
      i = next(i for i in ids if i >= self.rows)
      raise UserError(
        f"token {self._name(i)!r} has id {i}, the model's embedding has "
        f"{self.rows} rows: {self.folder} is the tokenizer of another model, "
        "or tokens were added to it for which the model was not enlarged "
        "(resize_token_embeddings)"
      )
    return ids

  def limit(self, rows: int, *used: int | None) -> None:
    """Sets the rows; UserError where one of the ids `used` is outside."""
    self.rows = rows
    self._inside([i for i in used if i is not None])


# Appended to a serialised model, this overrides normalizer_spec (field 3) with
# add_dummy_prefix (field 3) = false: protobuf merges a message given twice.
_NO_DUMMY_PREFIX = b"\x1a\x02\x18\x00"


class _SentencePiece(_InsideTheTable):
  """The slow Llama tokenizer: a dummy space goes in front of a text."""

  def __init__(self, folder: Path) -> None:
    import sentencepiece

    self.folder = folder
    path = folder / "tokenizer.model"
    try:
      # SentencePiece takes an empty file, and complains later on stderr
      if not (proto := path.read_bytes()):
        raise RuntimeError("empty")
      load = lambda p: sentencepiece.SentencePieceProcessor(model_proto=p)
      self._model = self._later = load(proto)
      if _settings(folder).get("legacy") is False:
        self._later = load(proto + _NO_DUMMY_PREFIX)
    except (RuntimeError, OSError) as error:
      raise UserError(f"{path}: not a SentencePiece model") from error
    self._added = _added_tokens(folder)
    names = _special_names(folder)
    model = self._model
    if not model.vocab_size():
      raise UserError(f"{path}: not a SentencePiece model")
    bos = self._named(names["bos"], model.bos_id())
    eos = self._named(names["eos"], model.eos_id())
    if eos is None:
      raise UserError(f"{path}: no end-of-text token; want one with </s>")
    # As in LLaVA, padding is <unk> where nothing else is named.
    pad = self._named(names["pad"], model.unk_id())
    self.bos_id, self.eos_id = bos, eos
    self.pad_id = eos if pad is None else pad
    self._size = model.vocab_size()
    self.vocab_size = max([self._size, *(i + 1 for i in self._added.values())])

  def _named(self, name: str | None, default: int) -> int | None:
    if name is not None and (found := self.token_id(name)) is not None:
      return found
    return None if default < 0 else default

  def encode(
    self, text: str, bos: bool = False, continues: bool = False
  ) -> list[int]:
    ids = (self._later if continues else self._model).encode(text)
    self._inside(ids)
    return [self.bos_id, *ids] if bos and self.bos_id is not None else ids

  def decode(self, ids: Sequence[int]) -> str:
    special = {self.bos_id, self.eos_id, self.pad_id}
    kept = [int(i) for i in ids]
    kept = [i for i in kept if 0 <= i < self._size and i not in special]
    return self._model.decode(kept)

  def token_id(self, token: str) -> int | None:
    if token in self._added:
      return self._inside([self._added[token]])[0]
    found = self._model.piece_to_id(token)
    known = found != self._model.unk_id() or token == "<unk>"
    if not known or self._model.id_to_piece(found) != token:
      return None
    return self._inside([found])[0]

  def _name(self, i: int) -> str:
    added = {known: token for token, known in self._added.items()}
    return added.get(i) or self._model.id_to_piece(i)

  def __reduce__(self) -> tuple:
    return load_tokenizer, (self.folder, self.rows)


class _Tokenizers(_InsideTheTable):
  """A tokenizer.json by the tokenizers package, without its post-processor."""

  def __init__(self, folder: Path) -> None:
    import tokenizers

    self.folder = folder
    path = folder / "tokenizer.json"
    try:
      spec = _read_json(path)
      # A marker inside a text is text. `encode_special_tokens` ensures this
      # only for tokens that are declared special, which some exports forget.
      names = _special_names(folder)
      for token in spec.get("added_tokens") or ():
        if token["content"] in {*names.values(), "<image>", "<pad>"}:
          token["special"] = True
      spec["truncation"] = spec["padding"] = None
      # We put the space in front ourselves, and so know where there is none;
      # and, as SentencePiece, also where the text starts with one already.
      # Where an export of ours says "always" for the sake of LLaVA's rule,
      # "legacy" tells that it was "first".
      schemes = {"first"}
      if _settings(folder).get("legacy") is False:
        schemes.add("always")
      first = prepend_scheme.change(spec.get("pre_tokenizer"), schemes, "never")
      self._space = " " if first else ""
      with errors.hush_stderr():  # a crash in Rust would also print here
        self._model = tokenizers.Tokenizer.from_str(json.dumps(spec))
    except UserError:
      raise
    # the package raises Exception itself, or a BaseException
    except BaseException as error:
      if not isinstance(error, Exception) and not errors.is_panic(error):
        raise
      raise UserError(f"{path}: not a tokenizer.json: {error}") from error
    self._model.encode_special_tokens = True
    self.bos_id = self._find("bos", names)
    eos = self._find("eos", names)
    if eos is None:
      raise UserError(f"{path}: no end-of-text token; want one with </s>")
    self.eos_id = eos
    pad = self._find("pad", names)
    self.pad_id = eos if pad is None else pad
    vocab = self._model.get_vocab(with_added_tokens=True)
    self.vocab_size = max(vocab.values()) + 1
    self._special = {self.bos_id, self.eos_id, self.pad_id}

  def _find(self, kind: str, names: dict[str, str | None]) -> int | None:
    for name in (names[kind], *_USUAL[kind]):
      if name is not None and (found := self.token_id(name)) is not None:
        return found
    return None

  def encode(
    self, text: str, bos: bool = False, continues: bool = False
  ) -> list[int]:
    if text and not continues:
      text = self._space + text
    ids = self._model.encode(text, add_special_tokens=False).ids
    self._inside(ids)
    return [self.bos_id, *ids] if bos and self.bos_id is not None else ids

  def decode(self, ids: Sequence[int]) -> str:
    kept = [int(i) for i in ids]
    kept = [i for i in kept if 0 <= i < self.vocab_size]
    kept = [i for i in kept if i not in self._special]
    return self._model.decode(kept, skip_special_tokens=True)

  def token_id(self, token: str) -> int | None:
    found = self._model.token_to_id(token)
    return None if found is None else self._inside([found])[0]

  def _name(self, i: int) -> str:
    return self._model.id_to_token(i) or ""

  def __reduce__(self) -> tuple:
    return load_tokenizer, (self.folder, self.rows)


def _read_json(path: Path) -> Any:
  try:
    return files.parse_json(path.read_bytes())
  except (OSError, ValueError) as error:
    raise UserError(f"{path}: not JSON: {error}") from error


def _added_tokens(folder: Path) -> dict[str, int]:
  """Tokens that a slow tokenizer keeps outside of its model file."""
  added = _settings(folder, "added_tokens.json")
  decoder = _settings(folder).get("added_tokens_decoder") or {}
  try:
    named = {entry["content"]: int(i) for i, entry in decoder.items()}
    return {str(token): int(i) for token, i in added.items()} | named
  except (AttributeError, KeyError, TypeError, ValueError) as error:
    raise UserError(
      f"{folder}: added_tokens.json or added_tokens_decoder in "
      "tokenizer_config.json is malformed; want a token and id in each entry"
    ) from error


def _settings(
  folder: Path, name: str = "tokenizer_config.json"
) -> dict[str, Any]:
  if not (path := folder / name).is_file():
    return {}
  if not isinstance(settings := _read_json(path), dict):
    raise UserError(f"{path}: want a JSON object")
  return settings


def _special_names(folder: Path) -> dict[str, str | None]:
  """The bos, eos and pad tokens that the folder's settings name."""
  names: dict[str, str | None] = {"bos": None, "eos": None, "pad": None}
  for file in ("special_tokens_map.json", "tokenizer_config.json"):
    settings = _settings(folder, file)
    for kind in names:
      token = settings.get(f"{kind}_token")
      token = token.get("content") if isinstance(token, dict) else token
      names[kind] = token if isinstance(token, str) else names[kind]
  return names


@functools.cache
def generation_stops(folder: Path) -> tuple[int, ...]:
  """eos_token_id of generation_config.json: one id, a list, or nothing.

  Raises:
    UserError: the field is neither.
  """
  name = "generation_config.json"
  value = _settings(folder, name).get("eos_token_id")
  if value is None:
    return ()
  given = value if isinstance(value, list) else [value]
  ids = [i for i in given if type(i) is int and i >= 0]
  if len(ids) < len(given):
    raise UserError(
      f"{folder / name}: eos_token_id is {value!r:.80}, want an id or a list"
    )
  return tuple(ids)


def load_tokenizer(
  folder: str | os.PathLike, rows: int | None = None
) -> Tokenizer:
  """Loads the tokenizer of a folder; tokenizer.model wins over .json.

  The names of bos, eos and pad come from tokenizer_config.json or
  special_tokens_map.json, else the usual ones are looked for.

  Args:
    folder: of a tokenizer.
    rows: of the embedding whose ids these are; an id outside is an error,
      where it appears, that names the token.

  Raises:
    UserError: neither file is there, it is broken, or it has no </s>, or its
      <s> or </s> is outside of the rows.
  """
  folder = Path(folder)
  if (folder / "tokenizer.model").is_file():
    tokenizer = _SentencePiece(folder)
  elif (folder / "tokenizer.json").is_file():
    tokenizer = _Tokenizers(folder)
  else:
    raise UserError(f"{folder}: want tokenizer.model or tokenizer.json in it")
  if rows is not None:
    tokenizer.limit(rows, tokenizer.bos_id, tokenizer.eos_id)
  return tokenizer
