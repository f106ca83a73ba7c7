"""The same model in PyTorch: a transformers LLaVA, and TRL's trainer on it."""

import io
import tempfile
import time
from collections.abc import Callable
from typing import Any

import datasets
import numpy as np
import peft
import pyarrow
import tokenizers
import torch
import transformers
import trl
from PIL import Image

from povid_jax.models.config import LlavaConfig, VisionConfig
from povid_jax.weights import hf_config
from povid_jax.weights.load import open_checkpoint

LINEARS = "q_proj k_proj v_proj o_proj gate_proj up_proj down_proj".split()
TARGETS = rf".*language_model.*\.({'|'.join(LINEARS)})"


def llava(described: LlavaConfig, dtype: torch.dtype, device: str) -> Any:
  """Random weights of these dimensions; the picture's token is the last."""
  text = hf_config.to_text_config(
    described.decoder, described.decoder.vocab_size
  )
  assert isinstance(described.vision, VisionConfig)  # square pictures
  vision = hf_config.to_vision_config(described.vision)
  config = transformers.LlavaConfig(
    vision_config=transformers.CLIPVisionConfig(**vision),
    text_config=transformers.AutoConfig.for_model(**text),
    image_token_index=described.decoder.vocab_size - 1,
    tie_word_embeddings=described.decoder.tie_embeddings,
  )
  config.pad_token_id = 0
  config._attn_implementation = "sdpa"
  torch.manual_seed(0)
  with torch.device(device):
    model: Any = transformers.LlavaForConditionalGeneration(config)
    model = model.to(dtype)
  generator = torch.Generator(device).manual_seed(0)
  with torch.no_grad():
    for name, p in model.named_parameters():
      if p.ndim > 1:  # large enough that tokens differ in probability
        size = 1.0 if "embed_tokens" in name else p[0].numel() ** -0.5
        p.normal_(0, size, generator=generator)
  return model.eval()


def our_params(model: Any) -> dict[str, np.ndarray]:
  """Its weights under our paths."""
  with tempfile.TemporaryDirectory() as folder:
    model.save_pretrained(folder)
    return dict(open_checkpoint(folder).params(np.float32))


def processor(described: LlavaConfig) -> Any:
  """One token for each word w0, w1, ...; pictures as the model has them."""
  size = described.decoder.vocab_size
  words = {"<pad>": 0, "<s>": 1, "</s>": 2}
  words |= {f"w{i}": i for i in range(3, size - 1)} | {"<image>": size - 1}
  kind = tokenizers.models.WordLevel(words, unk_token="<pad>")
  backend = tokenizers.Tokenizer(kind)
  backend.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
  tokenizer = transformers.PreTrainedTokenizerFast(
    tokenizer_object=backend,
    pad_token="<pad>",
    bos_token="<s>",
    eos_token="</s>",
    additional_special_tokens=["<image>"],
  )
  assert isinstance(described.vision, VisionConfig)  # square pictures
  side = described.vision.image_size
  return transformers.LlavaProcessor(
    transformers.CLIPImageProcessor(
      size={"shortest_edge": side}, crop_size={"height": side, "width": side}
    ),
    tokenizer,
    patch_size=described.vision.patch_size,
    vision_feature_select_strategy="default",
    image_token="<image>",
    num_additional_image_tokens=1,
  )


def words(ids: np.ndarray) -> str:
  return " ".join(f"w{i}" for i in ids)


class Dpo:
  """TRL's DPOTrainer on pairs of one picture, a question and two answers.

  Its best settings here: fused head (the default), no gradient checkpointing,
  LoRA with the reference as the same weights without adapters. Caching the
  reference (`precompute_ref_log_probs`) is refused for data with pictures.
  """

  def __init__(
    self,
    model: Any,
    described: LlavaConfig,
    pairs: list[dict[str, Any]],
    lora: dict[str, Any],
    lr: float,
  ):
    rows = [
      {
        "images": [_png(pair["picture"])],
        "prompt": "<image> " + words(pair["question"]),
        "chosen": words(pair["answers"][0]),
        "rejected": words(pair["answers"][1]),
      }
      for pair in pairs
    ]
    self._folder = tempfile.TemporaryDirectory()
    bf16 = model.dtype == torch.bfloat16
    self.trainer = trl.DPOTrainer(
      model,
      args=trl.DPOConfig(
        output_dir=self._folder.name,
        per_device_train_batch_size=len(pairs),
        gradient_checkpointing=False,
        max_length=None,
        learning_rate=lr,
        beta=0.1,
        bf16=bf16,
        use_cpu=model.device.type == "cpu",
        report_to=[],
        disable_tqdm=True,
        dataloader_pin_memory=False,
      ),
      train_dataset=_dataset(rows),
      processing_class=processor(described),
      peft_config=peft.LoraConfig(
        r=lora["rank"],
        lora_alpha=lora["alpha"],
        target_modules=TARGETS,
        lora_dropout=0.0,
        task_type="CAUSAL_LM",
      ),
    )
    self.model = self.trainer.model
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():  # B is zero at first: every loss would be log 2
      for name, p in sorted(self.model.named_parameters()):
        if "lora_B" in name:
          p.copy_(0.02 * torch.randn(p.shape, generator=generator))
    self.trainer.create_optimizer()
    self.trainer.current_gradient_accumulation_steps = 1  # as train() sets it
    self.batch = next(iter(self.trainer.get_train_dataloader()))

  def adapters(self) -> dict[str, np.ndarray]:
    """Under our paths, the layers stacked."""
    found: dict[str, list] = {}
    state = {n: p for n, p in self.model.named_parameters() if "lora_" in n}
    layers = 1 + max(int(_layer(n)) for n in state)
    for name in sorted(state, key=lambda n: int(_layer(n))):
      block, linear = name.split(f"layers.{_layer(name)}.")[1].split(".")[:2]
      kind = "lora_a" if "lora_A" in name else "lora_b"
      path = f"decoder/layers/{block}/{linear}/{kind}"
      array = state[name].detach().float().cpu().numpy().T
      found.setdefault(path, []).append(array)
    assert all(len(parts) == layers for parts in found.values())
    return {path: np.stack(parts) for path, parts in found.items()}

  def reference(self) -> list[np.ndarray]:
    """Sums of log-probs of chosen and rejected without adapters."""
    found = self.trainer.compute_ref_log_probs(self.model, dict(self.batch))
    return [x.float().cpu().numpy() for x in found]

  def step(self) -> tuple[float, float]:
    """Seconds of one update, and its loss."""
    start = time.perf_counter()
    self.model.train()
    loss = self.trainer.training_step(self.model, dict(self.batch))
    self.trainer.optimizer.step()
    self.trainer.optimizer.zero_grad()
    value = float(loss)
    return time.perf_counter() - start, value

  def close(self) -> None:
    self._folder.cleanup()


def _png(picture: np.ndarray) -> dict[str, Any]:
  out = io.BytesIO()
  Image.fromarray(picture).save(out, "PNG")
  return {"bytes": out.getvalue(), "path": None}


def _dataset(rows: list[dict[str, Any]]) -> datasets.Dataset:
  """With a name of our own: datasets 5.2 cannot hash tables of pyarrow 26."""
  text = datasets.Value("string")
  features = datasets.Features(
    images=datasets.List(datasets.Image()),
    prompt=text,
    chosen=text,
    rejected=text,
  )
  table = pyarrow.Table.from_pylist(rows, schema=features.arrow_schema)
  return datasets.Dataset(table, fingerprint="pairs")


def _layer(name: str) -> str:
  return name.split("layers.")[1].split(".")[0]


def generate(
  model: Any, described: LlavaConfig, ids: np.ndarray, pictures: np.ndarray
) -> Callable[[int], np.ndarray]:
  """`run(count)`: greedy tokens int[B, count] that transformers writes.

  Args:
    ids: int[B, P] prompts, those below zero image tokens.
    pictures: uint8[B, S, S, 3].
  """
  shown = processor(described).image_processor(
    [Image.fromarray(picture) for picture in pictures], return_tensors="pt"
  )
  image = described.decoder.vocab_size - 1
  tokens = torch.from_numpy(np.where(ids < 0, image, ids)).to(model.device)
  pixels = shown["pixel_values"].to(model.device, model.dtype)

  def run(count: int) -> np.ndarray:
    with torch.inference_mode():
      out = model.generate(
        input_ids=tokens,
        attention_mask=torch.ones_like(tokens),
        pixel_values=pixels,
        do_sample=False,
        min_new_tokens=count,
        max_new_tokens=count,
        eos_token_id=None,
        pad_token_id=0,
      )
    return out[:, tokens.shape[1] :].cpu().numpy()

  return run


def versions() -> dict[str, str]:
  every = (torch, transformers, peft, trl)
  return {module.__name__: module.__version__ for module in every}


def threads() -> int:
  return torch.get_num_threads()


def device_of(name: str) -> str:
  return "cuda" if name == "gpu" else "cpu"


def dtype_of(name: str) -> torch.dtype:
  return getattr(torch, name)
