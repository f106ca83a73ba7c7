"""Exports checkpoints for transformers, LLaVA's code and PEFT."""

import argparse
from pathlib import Path
from typing import Any

from povid_jax import files
from povid_jax.checkpoints import restore
from povid_jax.convert import card, made
from povid_jax.convert.incoming import say
from povid_jax.convert.jinja import chat_template
from povid_jax.data.text import find_template, stop_ids
from povid_jax.data.tokenizer import Tokenizer, load_tokenizer
from povid_jax.errors import UserError
from povid_jax.models.config import LlavaConfig
from povid_jax.weights import (
  export,
  families,
  keys,
  original_export,
  peft_export,
  slow_tokenizer,
  tokenizers,
)

_HF_USE = """\
from transformers import AutoProcessor, MODEL
model = MODEL.from_pretrained(FOLDER)
processor = AutoProcessor.from_pretrained(FOLDER)"""
_LLAVA_USE = """\
# LLaVA's own code; "llava" must be part of the folder's name
from llava.mm_utils import get_model_name_from_path
from llava.model.builder import load_pretrained_model
name = get_model_name_from_path(FOLDER)
tokenizer, model, processor, _ = load_pretrained_model(FOLDER, None, name)"""
_PEFT_USE = """\
from peft import PeftModel
model = PeftModel.from_pretrained(base, FOLDER)"""
_LLAVA_LORA_USE = """\
# LLaVA's own code; the folder's name must hold "llava" and "lora"
from llava.model.builder import load_pretrained_model
load_pretrained_model(FOLDER, BASE, "llava-lora")"""


def _open(
  args: argparse.Namespace,
) -> tuple[str, restore.Weights, list[export.Tuned]]:
  """(resolved checkpoint, base with weights on disk, what runs trained)."""
  spec = restore.resolve(args.src)
  if args.base_only:
    _, _, init = restore.load_trained(spec)
    spec = restore.resolve(init)
  weights, tuned = restore.open_chain(spec)
  return spec, weights, list(tuned)


def _tokens(
  weights: restore.Weights, tokenizer: Tokenizer, pad: int
) -> dict[str, Any]:
  """Ids of bos, eos and pad; every id that ends an answer is an eos."""
  ends = stop_ids(tokenizer, find_template(weights.template))
  return {
    "bos_token_id": tokenizer.bos_id,
    "eos_token_id": ends[0] if len(ends) == 1 else list(ends),
    "pad_token_id": pad,
  }


def _manners(weights: restore.Weights) -> dict[str, str]:
  layout = weights.config.layout
  square = {"image_mode": layout.mode} if layout.kind == "square" else {}
  return {"template": weights.template, **square}


def to_hf(args: argparse.Namespace) -> None:
  """A checkpoint of ours to a folder of LlavaForConditionalGeneration."""
  spec, weights, tuned = _open(args)
  config = weights.config
  with files.atomic_dir(args.dst) as folder:
    tokenizer = load_tokenizer(weights.tokenizer)
    ids = tokenizers.export_tokenizer(
      weights.tokenizer,
      folder,
      config.decoder.vocab_size,
      families.of(config).processor,
      {"bos_token": tokenizer.bos_id, "eos_token": tokenizer.eos_id},
    )
    slow_tokenizer.ensure(folder)  # for programs that read no tokenizer.json
    export.write_llava_hf(
      folder,
      config,
      weights.params,
      tuned=tuned,
      ids=ids,
      tokens=_tokens(weights, tokenizer, ids.pad),
      manners=_manners(weights),
    )
    spoken = find_template(weights.template)
    families.write_processor(folder, config, chat_template(spoken))
    card.write(
      folder,
      spec,
      config,
      template=weights.template,
      what="A folder of transformers: all weights, adapters folded in.",
      use=_HF_USE.replace("MODEL", families.of(config).architecture),
    )
    made.leave(args, folder)
  more = ids.rows > config.decoder.vocab_size
  grown = f", vocabulary grown to {ids.rows}" if more else ""
  say(f"{args.dst}: llava-hf layout{_what(tuned)}{grown}")


def _what(tuned: list[export.Tuned]) -> str:
  """The words for the training that an export contains."""
  if not tuned:
    return ", no parameter trained"
  folded = sum(lora is not None for _, lora in tuned)
  runs = f"{len(tuned)} run" + "s" * (len(tuned) > 1)
  return f", with the training of {runs}" + (
    ", adapters folded in" if folded else ""
  )


def to_llava(args: argparse.Namespace) -> None:
  """A checkpoint of ours to a whole model in the original layout."""
  spec, weights, tuned = _open(args)
  config = weights.config
  tower = _tower(args, config)
  with files.atomic_dir(args.dst) as folder:
    tokenizers.copy_files(weights.tokenizer, folder)
    if not slow_tokenizer.ensure(folder):
      say(
        f"{args.dst}: its tokenizer.json cannot be converted to a "
        "tokenizer.model, and LLaVA's code reads only the tokenizer.model of "
        "a Llama tokenizer; use to-hf"
      )
    tokenizer = load_tokenizer(weights.tokenizer)
    original_export.write(
      folder,
      config,
      weights.params,
      tuned=tuned,
      tower=tower,
      tokens=_tokens(weights, tokenizer, tokenizer.pad_id),
      manners=_manners(weights),
    )
    card.write(
      folder,
      spec,
      config,
      template=weights.template,
      what="A whole model in the layout of LLaVA's own code.",
      use=_LLAVA_USE,
    )
    made.leave(args, folder)
  say(f"{args.dst}: original layout{_what(tuned)}, vision tower {tower}")
  if "llava" not in Path(args.dst).resolve().name.lower():
    say(
      f"{args.dst}: LLaVA's code recognises a model by the name of its "
      "folder; put 'llava' into the name"
    )


def _tower(args: argparse.Namespace, config: LlavaConfig) -> str:
  """mm_vision_tower: LLaVA's code takes names on the hub, and folders; one
  that is not published lies beside what is written."""
  own = str(Path(args.dst).resolve() / original_export.TOWER)
  published = original_export.published_tower(config.square_tower)
  return args.vision_tower or published or own


def to_peft(args: argparse.Namespace) -> None:
  """The adapter of a run to a PEFT folder."""
  spec = restore.resolve(args.src)
  trained, lora, init = restore.load_trained(spec)
  if lora is None:
    raise UserError(
      f"{args.src} was trained without an adapter, so there is no PEFT folder "
      "to write; use to-hf"
    )
  weights, tuned = restore.open_chain(spec)
  config = weights.config
  base = args.base or str(init)
  original = args.layout == "original"
  if original:
    # LLaVA's loader puts the projector on whatever base it is given
    for entry in keys.projector_entries(config):
      value = export.tensor(entry, None, weights.params, tuned)
      trained[entry.path] = value.transpose(entry.axes)
  with files.atomic_dir(args.dst) as folder:
    peft_export.write_adapter(
      folder, lora, trained, config, layout=args.layout, base=base
    )
    if original:
      tokenizer = load_tokenizer(weights.tokenizer)
      original_export.write_config(
        folder,
        config,
        weights.params,
        tuned=tuned,
        tower=_tower(args, config),
        tokens=_tokens(weights, tokenizer, tokenizer.pad_id),
        manners=_manners(weights),
      )
    card.write(
      folder,
      spec,
      config,
      template=weights.template,
      what=f"A LoRA adapter of PEFT, names of the {args.layout} layout.",
      use=_LLAVA_LORA_USE if original else _PEFT_USE,
      adapter=True,
    )
    made.leave(args, folder)
  say(f"{args.dst}: adapter on {init}; `to-hf {init}` writes that base")
