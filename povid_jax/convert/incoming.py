"""Makes model folders from PyTorch checkpoints, or with random weights."""

import argparse
import dataclasses
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from povid_jax import errors
from povid_jax.checkpoints import random_weights, restore
from povid_jax.checkpoints.stream import Pieces
from povid_jax.convert import chat, made
from povid_jax.data.text import check_ids, find_template
from povid_jax.data.tokenizer import load_tokenizer
from povid_jax.errors import UserError
from povid_jax.models.config import LlavaConfig
from povid_jax.models.presets import preset
from povid_jax.weights import export, keys, layouts, peft_load, tokenizers
from povid_jax.weights.load import Source, cast, open_checkpoint


def say(text: str) -> None:
  """Prints a line to standard error; standard output is for results."""
  print(errors.printable(text), file=sys.stderr)


def _read(
  source: Source, dtype: np.dtype | None, adapter: peft_load.Adapter | None
) -> dict[str, Pieces]:
  """Every parameter, to be read (and the adapter added) when it is written."""

  def rows(entry: keys.Entry) -> Iterator[np.ndarray]:
    stem = entry.path.removesuffix("/kernel")
    for layer in range(entry.layers) if entry.layers else [None]:
      if adapter is not None and entry.path in adapter.others:
        whole = adapter.others[entry.path]
        yield cast(whole, dtype or source.dtype_of(entry), entry.path)
      elif adapter is not None and f"{stem}/lora_a" in adapter.params:
        one = ... if layer is None else layer
        # added before the cast: bfloat16 would round twice
        kernel = source.read_layer(entry, layer, np.dtype(np.float32))
        a = adapter.params[f"{stem}/lora_a"][one]
        b = adapter.params[f"{stem}/lora_b"][one]
        yield export.merged_kernel(
          kernel,
          a,
          b,
          adapter.config.scale,
          dtype or source.dtype_of(entry),
          entry.path if layer is None else f"{entry.path}, layer {layer}",
        )
      else:
        yield source.read_layer(entry, layer, dtype)

  return {
    entry.path: Pieces(
      shape=entry.our_shape,
      dtype=dtype or source.dtype_of(entry),
      rows=rows(entry),
      stacked=bool(entry.layers),
    )
    for entry in keys.entries(source.config)
  }


def from_torch(args: argparse.Namespace) -> None:
  """A LLaVA checkpoint of PyTorch to a model folder."""
  src = Path(args.src)
  source = open_checkpoint(src, args.vision_tower, args.image_mode)
  adapter = None
  if args.adapter:
    adapter = peft_load.read_adapter(args.adapter, source.config)
    if said := peft_load.skipped(adapter):
      say(f"{args.adapter}: {said}")
    if said := peft_load.untuned_projector(adapter, args.adapter):
      say(f"{args.adapter}: {said}")
  template = args.template
  if template is None:
    template, note = chat.fitting(src, source.template)
    if note:
      say(note)
  spoken = find_template(template)
  dtype = None if args.dtype == "keep" else np.dtype(args.dtype)
  words = Path(args.tokenizer or src)
  config = _with_layout(source.config, args)
  with tempfile.TemporaryDirectory() as staged:
    tokenizers.copy_files(words, Path(staged))
    # not from the copy: an error must name a file of the user
    check_ids(load_tokenizer(words, source.config.decoder.vocab_size), spoken)
    restore.save_model_folder(
      args.dst,
      config,
      _read(source, dtype, adapter),
      template=template,
      tokenizer=staged,
      notes=made.mark(args),
    )
  layout = config.layout
  how = layout.mode if layout.kind == "square" else layout.kind
  say(
    f"{args.dst}: {source.layout} layout, template {template}, pictures "
    f"by {how}" + (", adapter merged" if adapter else "")
  )


def _with_layout(config: LlavaConfig, args: argparse.Namespace) -> LlavaConfig:
  """The dimensions with what the flags say of pictures."""
  layout = config.layout
  if args.image_mode is not None:
    if layout.kind != "square":
      raise UserError(
        f"--image-mode={args.image_mode} is for models with one square per "
        f"picture; the layout of this model is {layout.kind}"
      )
    layout = dataclasses.replace(layout, mode=args.image_mode)
  if args.pinpoints is not None:
    if layout.kind != "anyres":
      raise UserError(
        "--pinpoints is for models that cut pictures into tiles; the layout "
        f"of this model is {layout.kind}"
      )
    layout = dataclasses.replace(layout, reader=args.pinpoints)
  return dataclasses.replace(config, layout=layout)


def _template_of(name: str) -> str:
  """The template of a preset's family; toys have one of few tokens."""
  if name in ("tiny", "test"):
    return "short"
  config = preset(name)
  if config.layout.kind == "native":
    return "qwen2_vl"
  kind = "qwen2" if config.decoder.attention_bias else "llama"
  kind = "mistral" if "mistral" in name else kind
  return layouts.template_of({}, config.layout, config.decoder, kind)


def init(args: argparse.Namespace) -> None:
  """Random weights of a preset, its vocabulary that of a tokenizer."""
  config: LlavaConfig = preset(args.preset)
  tokenizer = load_tokenizer(args.tokenizer)
  rows = -(-tokenizer.vocab_size // 64) * 64
  decoder = dataclasses.replace(config.decoder, vocab_size=rows)
  config = _with_layout(dataclasses.replace(config, decoder=decoder), args)
  params = random_weights.draw(config, args.seed, args.dtype)
  template = args.template or _template_of(args.preset)
  find_template(template)
  with tempfile.TemporaryDirectory() as staged:
    tokenizers.copy_files(Path(args.tokenizer), Path(staged))
    restore.save_model_folder(
      args.dst,
      config,
      params,
      template=template,
      tokenizer=staged,
      notes=made.mark(args),
    )
  say(f"{args.dst}: random {args.preset}, seed {args.seed}, {rows} tokens")
