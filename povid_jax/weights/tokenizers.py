"""Tokenizer files of a folder that transformers opens."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from povid_jax.errors import UserError
from povid_jax.weights import prepend_scheme, sentencepiece_file
from povid_jax.weights.shards import read_json

FILES = (
  "tokenizer.model",
  "tokenizer.json",
  "tokenizer_config.json",
  "special_tokens_map.json",
  "added_tokens.json",
  "chat_template.json",
  "chat_template.jinja",
  # says at which tokens an answer is over
  "generation_config.json",
)
IMAGE, VIDEO, PAD = "<image>", "<video>", "<pad>"


class Names(NamedTuple):
  """Tokens that a processor of transformers asks its tokenizer for.

  Attributes:
    image, pad: one image token, and padding.
    video, start, end: one token of a video and those around an image, where
      the family has them.
  """

  image: str = IMAGE
  video: str | None = None
  pad: str = PAD
  start: str | None = None
  end: str | None = None


# class of a processor -> its tokens
_NAMES = {
  "LlavaOnevisionProcessor": Names(video=VIDEO),
  "Qwen2_5_VLProcessor": Names(
    "<|image_pad|>",
    "<|video_pad|>",
    "<|endoftext|>",
    "<|vision_start|>",
    "<|vision_end|>",
  ),
}
_SPECIAL = (
  sentencepiece_file.UNKNOWN,
  sentencepiece_file.CONTROL,
  sentencepiece_file.USER_DEFINED,
)


def copy_files(source: Path, target: Path) -> None:
  """Copies the files of a tokenizer.

  Raises:
    UserError: there is no tokenizer.
  """
  names = [name for name in FILES if (source / name).is_file()]
  if not {"tokenizer.model", "tokenizer.json"} & set(names):
    raise UserError(f"{source}: no tokenizer.model or tokenizer.json in it")
  target.mkdir(exist_ok=True)
  for name in names:
    shutil.copyfile(source / name, target / name)


def _added(token: str, i: int) -> dict[str, Any]:
  flags = dict.fromkeys(
    ("single_word", "lstrip", "rstrip", "normalized"), False
  )
  return {"id": i, "content": token, **flags, "special": True}


def _merges(scores: dict[str, float], ids: dict[str, int]) -> list[list[str]]:
  """Every way to join two pieces into a third, best score first."""
  ranked = []
  for piece, score in scores.items():
    for cut in range(1, len(piece)):
      left, right = piece[:cut], piece[cut:]
      if left in scores and right in scores:
        ranked.append((-score, ids[left], ids[right], [left, right]))
  return [pair for *_, pair in sorted(ranked)]


def _start_with(bos: str, i: int) -> dict[str, Any]:
  """The post-processor that puts the begin-of-text token in front."""
  start = {"SpecialToken": {"id": bos, "type_id": 0}}
  text = lambda name, n: {"Sequence": {"id": name, "type_id": n}}
  return {
    "type": "TemplateProcessing",
    "single": [start, text("A", 0)],
    "pair": [start, text("A", 0), text("B", 1)],
    "special_tokens": {bos: {"id": bos, "ids": [i], "tokens": [bos]}},
  }


def from_sentencepiece(file: Path) -> dict[str, Any]:
  """tokenizer.json of a Llama tokenizer.model, token for token.

  It behaves as the slow ("legacy") tokenizer of the released code: every
  stretch of text between special tokens gets its own leading space, as LLaVA's
  rule has it behind a picture. What transformers 5 makes of a bare
  tokenizer.model loses that space.

  Raises:
    UserError: not a byte-pair model without normalisation, as Llama's is.
  """
  model = sentencepiece_file.read(file)
  if not model.bpe or model.normalises:
    raise UserError(
      f"{file}: want a byte-pair (BPE) model with the identity normaliser, "
      "as Llama's; put a tokenizer.json beside it"
    )
  ids = {p.text: i for i, p in enumerate(model.pieces)}
  scores = {
    p.text: p.score for p in model.pieces if p.kind == sentencepiece_file.NORMAL
  }
  normalizers: list[dict[str, Any]] = [
    {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
  ]
  strip = []
  if model.leading_space:
    normalizers.insert(0, {"type": "Prepend", "prepend": "▁"})
    strip = [{"type": "Strip", "content": " ", "start": 1, "stop": 0}]
  if model.squeezes:
    # SentencePiece squeezes runs of spaces, and drops those at both ends
    pattern = {"type": "Replace", "pattern": {"Regex": " +"}, "content": " "}
    ends = {"type": "Strip", "strip_left": True, "strip_right": True}
    normalizers = [pattern, ends, *normalizers]
  bos = model.bos
  return {
    "version": "1.0",
    "truncation": None,
    "padding": None,
    "added_tokens": [
      _added(p.text, i)
      for i, p in enumerate(model.pieces)
      if p.kind in _SPECIAL
    ],
    "normalizer": {"type": "Sequence", "normalizers": normalizers},
    "pre_tokenizer": None,
    "post_processor": _start_with(bos, ids[bos]) if bos in ids else None,
    "decoder": {
      "type": "Sequence",
      "decoders": [
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
        *strip,
      ],
    },
    "model": {
      "type": "BPE",
      "dropout": None,
      "unk_token": model.unk,
      "continuing_subword_prefix": None,
      "end_of_word_suffix": None,
      "fuse_unk": True,
      "byte_fallback": model.byte_fallback,
      "ignore_merges": False,
      "vocab": ids,
      "merges": _merges(scores, ids),
    },
  }


def _known(spec: dict[str, Any]) -> dict[str, int]:
  vocab = spec["model"].get("vocab") or {}
  if isinstance(vocab, list):  # Unigram
    vocab = {piece: i for i, (piece, _) in enumerate(vocab)}
  return vocab | {t["content"]: t["id"] for t in spec.get("added_tokens", ())}


class Exported(NamedTuple):
  """Ids of tokens that transformers needs, and rows of the embedding.

  `rows` grows to a multiple of 64 when a token had to be added beyond the end.
  """

  image: int
  pad: int
  rows: int
  video: int | None = None
  start: int | None = None  # beside an image
  end: int | None = None


def export_tokenizer(
  source: Path,
  target: Path,
  vocab_size: int,
  processor: str = "LlavaProcessor",
  special: Mapping[str, int | None] | None = None,
) -> Exported:
  """Writes a tokenizer that knows <image>, for transformers.

  Args:
    source: folder with tokenizer.model or tokenizer.json.
    target: folder to write to; it exists.
    vocab_size: rows of the model's embedding.
    processor: class name of the folder's processor.
    special: ids by name, {"bos_token": 1, ...}, for a folder that does not
      name them.
  """
  copy_files(source, target)
  file = target / "tokenizer.json"
  if not file.is_file():
    spec = from_sentencepiece(source / "tokenizer.model")
    if (source / "added_tokens.json").is_file():
      added = read_json(source / "added_tokens.json")
      spec["added_tokens"] += [
        _added(*item) for item in added.items() if item[0] not in _known(spec)
      ]
  else:
    spec = read_json(file)
  # behind a picture too, as LLaVA's rule has it; our own reader is told by
  # "legacy" what was there
  moved = prepend_scheme.change(spec["pre_tokenizer"], {"first"}, "always")
  later = {"legacy": False} if moved else {}
  known = _known(spec)
  asked = _NAMES.get(processor, Names())
  for name in filter(None, asked):
    if name not in known:
      known[name] = max(known.values()) + 1
      spec.setdefault("added_tokens", []).append(_added(name, known[name]))
  if spec.get("post_processor") is None and "<s>" in known:
    spec["post_processor"] = _start_with("<s>", known["<s>"])
  text = json.dumps(spec, ensure_ascii=False)
  file.write_text(text, encoding="utf-8")
  names = {i: name for name, i in known.items()}
  named = {
    field: names[i]
    for field, i in (special or {}).items()
    if i is not None and i in names
  }
  settings = {"processor_class": processor, "pad_token": asked.pad}
  settings |= {
    "image_token": asked.image,
    "extra_special_tokens": {"image_token": asked.image},
  }
  _write_config(target, named, known, later | settings)
  ids = {field: known[name] for field, name in asked._asdict().items() if name}
  needed = max(ids.values()) + 1
  rows = vocab_size if needed <= vocab_size else -(-needed // 64) * 64
  return Exported(rows=rows, **ids)


def _write_config(
  target: Path,
  named: Mapping[str, str],
  known: dict[str, int],
  settings_too: dict[str, Any],
) -> None:
  file = target / "tokenizer_config.json"
  settings = read_json(file) if file.is_file() else {}
  for field, token in named.items():
    settings.setdefault(field, token)
  if "<unk>" in known:
    settings.setdefault("unk_token", "<unk>")
  settings |= settings_too | {
    # the class that takes tokenizer.json as it is, in every version
    "tokenizer_class": "PreTrainedTokenizerFast",
    "padding_side": "left",
    "clean_up_tokenization_spaces": False,
  }
  settings.pop("added_tokens_decoder", None)  # tokenizer.json has them
  settings.pop("chat_template", None)  # the folder's own file has it
  settings.setdefault("model_max_length", 4096)
  file.write_text(json.dumps(settings, indent=2), encoding="utf-8")
