"""FLOPs by kind, and what is counted of a run: `flops` and its parts."""

import dataclasses
from collections.abc import Callable

from povid_jax.models.config import LlavaConfig, LoraConfig


@dataclasses.dataclass(frozen=True)
class Work:
  """FLOPs by kind; they add up, and scale by a number."""

  forward: float = 0.0
  backward: float = 0.0
  recompute: float = 0.0

  @property
  def model(self) -> float:
    return self.forward + self.backward

  @property
  def hardware(self) -> float:
    return self.forward + self.backward + self.recompute

  def __add__(self, other: "Work") -> "Work":
    return Work(
      self.forward + other.forward,
      self.backward + other.backward,
      self.recompute + other.recompute,
    )

  def __mul__(self, times: float) -> "Work":
    return Work(
      self.forward * times, self.backward * times, self.recompute * times
    )


@dataclasses.dataclass(frozen=True)
class Setup:
  """What `flops.of` needs to know of a run.

  Attributes:
    config: dimensions.
    lora: adapters, or None.
    trains: whether the parameter at a flat path gets a gradient.
    remat: name of the rematerialisation policy (see models.llama.REMAT).
    masked: whether (query, key) pairs that the mask closes are counted.
  """

  config: LlavaConfig
  lora: LoraConfig | None = None
  trains: Callable[[str], bool] = lambda path: path.endswith(
    ("/lora_a", "/lora_b")
  )
  remat: str = "none"
  masked: bool = True
