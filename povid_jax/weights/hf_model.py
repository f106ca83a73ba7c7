"""What there is to say of a model of transformers that ours are written as."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from povid_jax.models.config import LlavaConfig
from povid_jax.weights.tokenizers import Exported

Json = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class HfModel:
  """A model class of transformers.

  Attributes:
    model_type, architecture, processor: its names in the files of a folder.
    fits: whether a model of ours is one of these.
    on_disk: prefix of each part's tensors, in files that every transformers
      with the class reads.
    modules: the same among the modules of transformers 4.52 and later (towers
      of LLaVA: 5.x), where PEFT looks for them.
    config_json: config.json, without the ids that all families have.
    processor_files: content of each file of the processor.
    projector_names: our names of the projector's tensors to other ones.
  """

  model_type: str
  architecture: str
  processor: str
  fits: Callable[[LlavaConfig], bool]
  on_disk: Mapping[str, str]
  modules: Mapping[str, str]
  config_json: Callable[[LlavaConfig, Exported], Json]
  processor_files: Callable[[LlavaConfig], dict[str, Json]]
  projector_names: Mapping[str, str] = dataclasses.field(default_factory=dict)

  def name(self, prefixes: Mapping[str, str], part: str, name: str) -> str:
    """A tensor's name: part and name as a keys.Entry has them.

    Args:
      prefixes: `on_disk` or `modules`.
    """
    if part == "projector":
      name = self.projector_names.get(name, name)
    return prefixes[part] + name
