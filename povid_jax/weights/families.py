"""The models of transformers that a model of ours can be written as."""

import json
from pathlib import Path

from povid_jax.errors import UserError
from povid_jax.models.config import LlavaConfig
from povid_jax.weights import llava_hf, qwen_export
from povid_jax.weights.hf_model import HfModel

_MODELS = (*llava_hf.MODELS, qwen_export.MODEL)


def of(config: LlavaConfig) -> HfModel:
  """The model of transformers that a config of ours fits.

  Raises:
    UserError: transformers has no model of this tower and this layout.
  """
  for model in _MODELS:
    if model.fits(config):
      return model
  layout = config.layout
  raise UserError(
    "transformers has no LLaVA with this tower and this layout of pictures "
    f"({layout.kind}, max_tiles={layout.max_tiles}, "
    f"several={layout.several!r}, reader={layout.reader!r})"
  )


def write_processor(
  target: Path, config: LlavaConfig, template: str | None
) -> None:
  """Writes preprocessor_config.json, processor_config.json, chat template.

  Args:
    template: the conversation template as Jinja, or None where it has no form
      of messages. It takes the place of what came with the tokenizer.
  """
  for name, value in of(config).processor_files(config).items():
    (target / name).write_text(json.dumps(value, indent=2), encoding="utf-8")
  if template is not None:
    (target / "chat_template.json").unlink(missing_ok=True)
    (target / "chat_template.jinja").write_text(template, encoding="utf-8")
