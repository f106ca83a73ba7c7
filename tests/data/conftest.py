"""A small Llama-like tokenizer, trained once for all tests of the data."""

import json
from pathlib import Path

import pytest
import sentencepiece

_CORPUS = """
A chat between a curious user and an artificial intelligence assistant.
The assistant gives helpful, detailed, and polite answers to the questions.
USER: What is in the picture? ASSISTANT: A dog sits on a red chair.
USER: Describe this image in detail. ASSISTANT: Two cats look at a table.
USER USER: How many people are there? ASSISTANT: There are three people,
one of them with an umbrella; the others walk on the beach. [INST] [/INST]
Is there a car? Yes, there is a car. No, there is no car in the picture.
The man wears a blue shirt and holds a phone in his left hand near the bus.
"""


@pytest.fixture(scope="session")
def llama_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
  """A folder with tokenizer.model: byte fallback, dummy prefix, as Llama's."""
  folder = tmp_path_factory.mktemp("llama")
  with open(folder / "tokenizer.model", "wb") as file:
    sentencepiece.SentencePieceTrainer.train(
      sentence_iterator=iter(_CORPUS.strip().split("\n")),
      model_writer=file,
      vocab_size=460,
      model_type="bpe",
      byte_fallback=True,
      split_digits=True,
      add_dummy_prefix=True,
      remove_extra_whitespaces=False,
      allow_whitespace_only_pieces=True,
      normalization_rule_name="identity",
      character_coverage=1.0,
      num_threads=1,
      minloglevel=2,
    )
  return folder


@pytest.fixture(scope="session")
def new_llama_folder(
  llama_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
  """The same model with the setting that LLaVA-1.5 ships: not legacy."""
  folder = tmp_path_factory.mktemp("new_llama")
  model = (llama_folder / "tokenizer.model").read_bytes()
  (folder / "tokenizer.model").write_bytes(model)
  settings = {"legacy": False, "pad_token": None}
  (folder / "tokenizer_config.json").write_text(json.dumps(settings))
  return folder
