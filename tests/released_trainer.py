"""What the released POVID trainer computes, in PyTorch, from its description.

docs/design.md, "The noise term as released": plain sequences, images expanded
inside the model, sums of log-softmax over shifted labels, the noise term's
argmax tokens, the mean of two DPO losses. The adapter is a PEFT model, switched
off for the reference.
"""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from tests.data.released_rule import (
  IGNORE,
  IMAGE,
  SlowLlama,
  labels,
  vicuna_prompt,
)

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


def pixels(file: Path, size: int) -> torch.Tensor:
  """Pad to a square with the mean colour, resize, normalise."""
  image = Image.open(file).convert("RGB")
  side = max(image.size)
  square = Image.new("RGB", (side, side), tuple(int(m * 255) for m in MEAN))
  width, height = image.size
  square.paste(image, ((side - width) // 2, (side - height) // 2))
  square = square.resize((size, size), Image.Resampling.BICUBIC)
  values = (np.asarray(square, np.float32) / 255 - MEAN) / STD
  return torch.from_numpy(values.transpose(2, 0, 1).astype(np.float32))[None]


def merge(
  model: Any, ids: list[int], targets: list[int], image: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
  """(embeddings [1, S, D], labels [1, S]) with the image in its slot."""
  slot = ids.index(IMAGE)
  table = model.get_input_embeddings()
  tower = model.model.vision_tower(image, output_hidden_states=True)
  features = tower.hidden_states[-2][:, 1:]
  image_embeds = model.model.multi_modal_projector(features)[0]
  text = lambda part: table(torch.tensor(part, dtype=torch.long))
  embeds = torch.cat([text(ids[:slot]), image_embeds, text(ids[slot + 1 :])])
  hidden = [IGNORE] * len(image_embeds)
  expanded = targets[:slot] + hidden + targets[slot + 1 :]
  return embeds[None], torch.tensor(expanded)[None]


def logits_of(model: Any, embeds: torch.Tensor) -> torch.Tensor:
  hidden = model.model.language_model(inputs_embeds=embeds).last_hidden_state
  return model.lm_head(hidden).float()


def batch_logps(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
  targets = targets[:, 1:].clone()
  scored = targets != IGNORE
  targets[~scored] = 0
  logps = logits[:, :-1].log_softmax(-1)
  picked = logps.gather(2, targets[..., None])[..., 0]
  return (picked * scored).sum(-1)


def own_logps(
  clean: torch.Tensor,
  noisy: torch.Tensor,
  targets: torch.Tensor,
  exclude_gold: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
  """(sum of clean log-probs of the noisy argmax tokens, those tokens)."""
  gold = targets[:, 1:]
  scored = gold != IGNORE
  ranked = noisy[:, :-1].topk(2, dim=-1).indices
  tokens = ranked[..., 0]
  if exclude_gold:
    tokens = torch.where(tokens == gold, ranked[..., 1], tokens)
  logps = clean[:, :-1].log_softmax(-1)
  picked = logps.gather(2, tokens[..., None])[..., 0]
  return (picked * scored).sum(-1), tokens[scored]


def dpo(policy_margin: Any, reference_margin: Any, beta: float = 0.1) -> Any:
  return -torch.nn.functional.logsigmoid(
    beta * (policy_margin - reference_margin)
  )


class Released:
  """Scores one pair with a PEFT-wrapped LlavaForConditionalGeneration."""

  def __init__(self, peft_model: Any, tokenizer: Path, image_size: int):
    self.peft_model = peft_model
    self.tokenize = SlowLlama(tokenizer)
    self.size = image_size

  def _one(
    self, turns: list[str], image: Path
  ) -> tuple[torch.Tensor, torch.Tensor]:
    ids, targets = labels(self.tokenize, vicuna_prompt(turns))
    model = self.peft_model.base_model.model
    return merge(model, ids, targets, pixels(image, self.size))

  def model_numbers(
    self,
    chosen: list[str],
    rejected: list[str],
    image: Path,
    noisy: Path,
    adapter: bool,
    exclude_gold: bool = False,
  ) -> dict[str, Any]:
    off = nullcontext() if adapter else self.peft_model.disable_adapter()
    model = self.peft_model.base_model.model
    with torch.no_grad(), off:
      embeds, targets = self._one(chosen, image)
      clean = logits_of(model, embeds)
      distorted = logits_of(model, self._one(chosen, noisy)[0])
      own, tokens = own_logps(clean, distorted, targets, exclude_gold)
      bad_embeds, bad_targets = self._one(rejected, image)
      bad = logits_of(model, bad_embeds)
      return {
        "chosen_logps": batch_logps(clean, targets)[0],
        "rejected_logps": batch_logps(bad, bad_targets)[0],
        "noise_logps": own[0],
        "tokens": tokens.tolist(),
        "clean": clean,
        "targets": targets,
      }

  def pair(self, *args: Any, **options: Any) -> dict[str, Any]:
    """Policy and reference numbers, and the losses of both stages."""
    p = self.model_numbers(*args, adapter=True, **options)
    r = self.model_numbers(*args, adapter=False, **options)
    text = dpo(
      p["chosen_logps"] - p["rejected_logps"],
      r["chosen_logps"] - r["rejected_logps"],
    )
    noise = dpo(
      p["chosen_logps"] - p["noise_logps"],
      r["chosen_logps"] - r["noise_logps"],
    )
    return {
      "policy": p,
      "reference": r,
      "stage_1": float(text),
      "stage_2": float(0.5 * text + 0.5 * noise),
    }
