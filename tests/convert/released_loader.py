"""Our exports in LLaVA's own code: run by hand, as it needs old packages.

  python -m tests.convert.released_loader write DIR
  PYTHONPATH=OLD:LLAVA:. python -m tests.convert.released_loader read DIR

`write` makes a tiny model and a run on top of it (adapters and projector are
trained), exports both, and writes our logits and those of today's transformers.
`read` opens the exports by `load_pretrained_model` of haotian-liu/LLaVA
(checked out at LLAVA) with the packages that it asks for, in OLD:

  pip install --target OLD --no-deps transformers==4.37.2 tokenizers==0.15.1 \
    huggingface_hub==0.25.2 accelerate==0.27.2 peft==0.8.2
"""

import sys
from pathlib import Path

import numpy as np

IDS = [1, 5, 6, -200, 7, 8, 9]


def write(root: Path) -> None:
  """Makes the exports, and DIR/want.npz."""
  import jax
  import torch
  import transformers

  from povid_jax import convert
  from povid_jax.checkpoints import restore
  from povid_jax.models import params as params_lib
  from povid_jax.models.vit import normalise
  from tests import small_world

  # LLaVA reads weights as float16: ours are numbers that float16 holds
  half = {
    path: value.astype(np.float16).astype(np.float32)
    for path, value in small_world.arrays().items()
  }
  base = small_world.model_folder(root, half)
  run = small_world.run_folder(root, base, projector=True)
  for argv in (
    ["to-llava", run, root / "llava-run"],
    ["to-llava", run, root / "llava-base", "--base-only"],
    ["to-peft", run, root / "llava-lora-run", "--layout=original"],
    ["to-hf", run, root / "hf-run"],
  ):
    assert convert.main(list(map(str, argv))) == 0
  size = small_world.MODEL.vision.image_size
  images = np.random.default_rng(1).integers(
    0, 256, (1, size, size, 3), np.uint8
  )
  pixels = np.asarray(normalise(images)).transpose(0, 3, 1, 2).copy()
  count = (size // small_world.MODEL.vision.patch_size) ** 2
  spread = lambda image: [
    j for i in IDS for j in ([image] * count if i == -200 else [i])
  ]

  def logits(spec):
    weights = restore.load(spec).merged()
    graph, _ = params_lib.abstract(weights.config, weights.lora)
    model = params_lib.merge(graph, weights.params)

    def forward(ids, images):
      hidden, _ = model.prefill(ids, model.encode_images(images))
      return model.decoder.logits(hidden)

    return np.asarray(jax.jit(forward)(np.array([spread(-200)]), images[None]))

  theirs = transformers.LlavaForConditionalGeneration.from_pretrained(
    root / "hf-run", dtype=torch.float32
  ).eval()
  image = theirs.config.image_token_index
  with torch.no_grad():
    out = theirs(
      input_ids=torch.tensor([spread(image)]),
      pixel_values=torch.from_numpy(pixels),
    )
  np.savez(
    root / "want.npz", run=logits(run), base=logits(base), pixels=pixels,
    transformers=out.logits.numpy(),
  )  # fmt: skip


def read(root: Path) -> int:
  """Compares; 1 where an export gives other logits."""
  import torch
  import transformers
  from llava.model.builder import load_pretrained_model

  held = np.load(root / "want.npz")
  rows = held["run"].shape[-1]
  run = {
    "povid_jax": held["run"],
    "transformers": held["transformers"][..., :rows],
  }
  print(f"transformers {transformers.__version__}, torch {torch.__version__}")
  wrong = 0
  # the adapter is folded in as float16 there, too: fewer digits are equal
  for name, base, want, most in (
    ("llava-base", None, {"povid_jax": held["base"]}, 1e-5),
    ("llava-run", None, run, 2e-3),
    ("llava-lora-run", str(root / "llava-base"), run, 2e-3),
  ):
    tokenizer, model, processor, _ = load_pretrained_model(
      str(root / name), base, name, device="cpu"
    )
    model.float()
    for layer in model.model.layers:  # its angles were kept as float16
      layer.self_attn.rotary_emb._set_cos_sin_cache(256, "cpu", torch.float32)
    model.get_vision_tower().to(dtype=torch.float32)
    with torch.no_grad():
      out = model(
        input_ids=torch.tensor([IDS]),
        images=torch.from_numpy(held["pixels"]),
      )
    got = out.logits.numpy()[..., :rows]
    assert len(tokenizer) <= rows and processor is not None
    for other, logits in want.items():
      apart = np.abs(got - logits).max()
      share = np.linalg.norm(got - logits) / np.linalg.norm(logits)
      wrong += share > most
      print(
        f"{name} in LLaVA's code against {other}: {got.shape}, largest "
        f"difference {apart:.2e} of {np.abs(logits).max():.1f}, "
        f"relative {share:.2e}"
      )
  return int(wrong > 0)


if __name__ == "__main__":
  command, folder = sys.argv[1:]
  sys.exit(
    write(Path(folder).resolve())
    if command == "write"
    else read(Path(folder).resolve())
  )
