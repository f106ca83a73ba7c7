"""Checkpoints in and out.

  python -m povid_jax.convert from-torch llava-v1.5-7b base \\
      --vision-tower=clip-vit-large-patch14-336
  python -m povid_jax.convert to-hf run merged --merge
  python -m povid_jax.convert to-peft run adapter
  python -m povid_jax.convert init base --preset=tiny --tokenizer=tokenizer
"""

import argparse
import dataclasses
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from povid_jax import errors, files
from povid_jax.checkpoints import restore
from povid_jax.checkpoints.stream import Pieces
from povid_jax.data.text import (
  TEMPLATES,
  Template,
  check_ids,
  find_template,
)
from povid_jax.data.tokenizer import load_tokenizer
from povid_jax.errors import UserError
from povid_jax.models import params as params_lib
from povid_jax.models.config import LlavaConfig
from povid_jax.models.presets import PRESETS, preset
from povid_jax.weights import (
  export,
  keys,
  peft_export,
  peft_load,
  tokenizers,
)
from povid_jax.weights.load import Source, cast, open_checkpoint

DTYPES = ("bfloat16", "float16", "float32")


def _say(text: str) -> None:
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
  source = open_checkpoint(src, args.vision_tower)
  adapter = None
  if args.adapter:
    adapter = peft_load.read_adapter(args.adapter, source.config)
    if said := peft_load.skipped(adapter):
      _say(f"{args.adapter}: {said}")
    if said := peft_load.untuned_projector(adapter, args.adapter):
      _say(f"{args.adapter}: {said}")
  template = args.template or source.template
  spoken = find_template(template)
  dtype = None if args.dtype == "keep" else np.dtype(args.dtype)
  words = Path(args.tokenizer or src)
  with tempfile.TemporaryDirectory() as staged:
    tokenizers.copy_files(words, Path(staged))
    # not the copy: an error names a file that the user has
    check_ids(load_tokenizer(words, source.config.decoder.vocab_size), spoken)
    restore.save_model_folder(
      args.dst,
      source.config,
      _read(source, dtype, adapter),
      template=template,
      image_mode=args.image_mode or source.image_mode,
      tokenizer=staged,
    )
  mode = args.image_mode or source.image_mode
  _say(
    f"{args.dst}: {source.layout} layout, template {template}, pictures "
    f"by {mode}" + (", adapter folded in" if adapter else "")
  )


def chat_template(template: Template) -> str | None:
  """A conversation template as Jinja, for transformers' processors.

  Messages hold text, or a list of {"type": "image"} and {"type": "text"}
  parts; pictures come first, as LLaVA has them.
  """
  if "{text}" not in template.first:
    return None
  before, after = template.first.split("{text}")
  later, later_after = template.later.split("{text}")
  quote = lambda s: "{{ " + repr(s) + " }}" if s else ""
  said = (
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}"
    "{% for part in message['content'] if part['type'] == 'image' %}"
    "{{ '<image>\\n' }}{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}"
    "{{ part['text'] }}{% endfor %}{% endif %}"
  )
  answer, answer_after = template.answer.split("{text}")
  return (
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}"
    "{% if loop.first %}"
    + quote(before)
    + said
    + quote(after)
    + "{% else %}"
    + quote(later)
    + said
    + quote(later_after)
    + "{% endif %}"
    "{% elif message['role'] == 'assistant' %}"
    + quote(answer)
    + said
    + quote(answer_after + template.end)
    + "{% endif %}{% endfor %}"
  )


def to_hf(args: argparse.Namespace) -> None:
  """A checkpoint of ours to a folder of LlavaForConditionalGeneration."""
  weights, tuned = restore.open_chain(args.src)
  if tuned and tuned[-1][1] is not None and not args.merge:
    tuned = tuned[:-1]
    _say(
      f"{args.src} has an adapter: writing what it started from (--merge folds "
      "the adapter in; to-peft writes it apart)"
    )
  config = weights.config
  with files.atomic_dir(args.dst) as folder:
    image, pad, rows = tokenizers.export_tokenizer(
      weights.tokenizer, folder, config.decoder.vocab_size
    )
    tokenizer = load_tokenizer(weights.tokenizer)
    tokens = {
      "bos_token_id": tokenizer.bos_id,
      "eos_token_id": tokenizer.eos_id,
      "pad_token_id": pad,
    }
    export.write_llava_hf(
      folder,
      config,
      weights.params,
      tuned=tuned,
      vocab_size=rows,
      image_token=image,
      tokens=tokens,
      manners={
        "template": weights.template,
        "image_mode": weights.image_mode,
      },
    )
    tokenizers.write_processor(
      folder,
      config.square_tower,
      weights.image_mode,
      chat_template(find_template(weights.template)),
    )
  grown = f", vocabulary grown to {rows}" * (rows > config.decoder.vocab_size)
  _say(f"{args.dst}: llava-hf layout{grown}")


def to_peft(args: argparse.Namespace) -> None:
  """The adapter of a run to a PEFT folder."""
  trained, lora, init = restore.load_trained(args.src)
  if lora is None:
    raise UserError(f"{args.src} was trained without an adapter: use to-hf")
  config = restore.describe(args.src)
  base = args.base or str(init)
  with files.atomic_dir(args.dst) as folder:
    peft_export.write_adapter(
      folder, lora, trained, config, layout=args.layout, base=base
    )
  _say(f"{args.dst}: adapter on {init}; to-hf {init} --merge writes that base")


def init(args: argparse.Namespace) -> None:
  """Random weights of a preset, its vocabulary that of a tokenizer."""
  config: LlavaConfig = preset(args.preset)
  tokenizer = load_tokenizer(args.tokenizer)
  rows = -(-tokenizer.vocab_size // 64) * 64
  decoder = dataclasses.replace(config.decoder, vocab_size=rows)
  config = dataclasses.replace(config, decoder=decoder)
  model = params_lib.build(config, seed=args.seed)
  dtype = np.dtype(args.dtype)
  params: dict[str, Any] = {
    path: np.asarray(jax.device_get(value)).astype(dtype)
    for path, value in params_lib.flatten(model).items()
  }
  small = args.preset in ("tiny", "test")
  template = args.template or ("short" if small else "vicuna_v1")
  find_template(template)
  with tempfile.TemporaryDirectory() as staged:
    tokenizers.copy_files(Path(args.tokenizer), Path(staged))
    restore.save_model_folder(
      args.dst,
      config,
      params,
      template=template,
      image_mode=args.image_mode or "pad",
      tokenizer=staged,
    )
  _say(f"{args.dst}: random {args.preset}, seed {args.seed}, {rows} tokens")


def _common(parser: argparse.ArgumentParser) -> None:
  parser.add_argument(
    "--template",
    choices=sorted(TEMPLATES),
    help="conversation template; without it, the one that fits the model",
  )
  parser.add_argument(
    "--image-mode",
    choices=("pad", "resize"),
    help="how pictures become square; without it, as the checkpoint says",
  )


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog="python -m povid_jax.convert",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  commands = parser.add_subparsers(dest="command", required=True)

  one = commands.add_parser("from-torch", help="LLaVA of PyTorch -> ours")
  one.add_argument("src", help="original (liuhaotian) or llava-hf folder")
  one.add_argument("dst", help="model folder to make")
  one.add_argument(
    "--vision-tower",
    help="CLIP folder, where an original checkpoint does not hold its tower",
  )
  one.add_argument(
    "--dtype", choices=(*DTYPES, "keep"), default="bfloat16", help="of weights"
  )
  one.add_argument("--adapter", help="PEFT folder to fold into the weights")
  one.add_argument("--tokenizer", help="its folder, if it is not SRC")
  _common(one)
  one.set_defaults(run=from_torch)

  one = commands.add_parser("to-hf", help="ours -> transformers")
  one.add_argument("src", help="model folder, RUN or RUN@STEP")
  one.add_argument("dst", help="llava-hf folder to make")
  one.add_argument(
    "--merge", action="store_true", help="fold the run's adapter in"
  )
  one.set_defaults(run=to_hf)

  one = commands.add_parser("to-peft", help="a run's adapter -> PEFT")
  one.add_argument("src", help="RUN or RUN@STEP")
  one.add_argument("dst", help="PEFT folder to make")
  one.add_argument(
    "--layout",
    choices=("llava-hf", "original"),
    default="llava-hf",
    help="whose module names: transformers' (4.52 and later) or LLaVA's code",
  )
  one.add_argument("--base", help="base_model_name_or_path to write")
  one.set_defaults(run=to_peft)

  one = commands.add_parser("init", help="random weights of a preset")
  one.add_argument("dst", help="model folder to make")
  one.add_argument("--preset", choices=sorted(PRESETS), required=True)
  one.add_argument("--tokenizer", required=True, help="its folder")
  one.add_argument("--seed", type=int, default=0)
  one.add_argument("--dtype", choices=DTYPES, default="float32")
  _common(one)
  one.set_defaults(run=init)
  return parser


def main(argv: Sequence[str] | None = None) -> int:
  args = _parser().parse_args(argv)
  args.run(args)
  return 0


def command() -> None:
  """The entry point of the installed script."""
  errors.run(main)


if __name__ == "__main__":
  command()
