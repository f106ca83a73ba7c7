"""The injectors by name."""

import importlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
  from data_gen.injectors.base import Injector

# Name -> module and class. Those of INJECT are choices of `data_gen inject
# --injector`; each of the others is a command of its own.
_PLACES = {
  "rules": "data_gen.injectors.rules:Rules",
  "openai": "data_gen.injectors.openai_live:OpenAI",
  "openai-batch": "data_gen.injectors.openai_batch:OpenAIBatch",
  "sample": "data_gen.injectors.sample:Sample",
  "sample-noisy": "data_gen.injectors.sample_noisy:SampleNoisy",
}
INJECT = ("rules", "openai", "openai-batch")


def find(name: str) -> "type[Injector]":
  """The class of an injector."""
  module, _, kind = _PLACES[name].partition(":")
  return getattr(importlib.import_module(module), kind)


def of_inject() -> "Iterator[type[Injector]]":
  """Those that `data_gen inject` offers."""
  yield from map(find, INJECT)


def is_command(name: str) -> bool:
  """Whether an injector is a command of its own."""
  return name in _PLACES and name not in INJECT
