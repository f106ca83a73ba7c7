"""Templates of LLaVA-NeXT and LLaVA-OneVision against the authors' code."""

import json
import sys
from pathlib import Path

import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from povid_jax.data import text
from povid_jax.data.templates import TEMPLATES
from povid_jax.data.tokenizer import load_tokenizer
from povid_jax.errors import UserError

sys.path.insert(0, str(Path(__file__).parent))
import original_preprocess as original  # noqa: E402

_MARKS = {
  "qwen_1_5": ["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
  "llava_llama_3": [
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
  ],
}
# GPT-4's pattern, which Llama 3 and (but for digits) Qwen2 have
_SPLIT = (
  r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
  r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_CORPUS = [
  "You are a helpful assistant.\n",
  "user\nassistant\nsystem\n\nWhat is in the picture?\n\nTwo cats, I think.",
  "It's 12 o'clock.\n\nThe bus isn't red; it's 3 metres long.\n  \n",
] * 20


@pytest.fixture(scope="module", params=list(_MARKS))
def made(request, tmp_path_factory):
  """(name of the template, folder of a byte-level tokenizer)."""
  name = request.param
  tokenizer = tokenizers.Tokenizer(models.BPE())
  split = tokenizers.Regex(_SPLIT)
  tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
    [
      pre_tokenizers.Split(split, "isolated"),
      pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ]
  )
  tokenizer.decoder = decoders.ByteLevel()
  trainer = trainers.BpeTrainer(
    vocab_size=500,
    special_tokens=_MARKS[name],
    initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    show_progress=False,
  )
  tokenizer.train_from_iterator(_CORPUS, trainer)
  folder = tmp_path_factory.mktemp(name)
  tokenizer.save(str(folder / "tokenizer.json"))
  settings = {"eos_token": _MARKS[name][-1]}
  if name == "llava_llama_3":
    settings["bos_token"] = "<|begin_of_text|>"
  (folder / "tokenizer_config.json").write_text(json.dumps(settings))
  return name, folder


_TALKS = {
  "one": ("<image>\nWhat is in the picture?", "Two cats."),
  "no picture": ("How many?", "3 metres.\n\nIt's long."),
  "image last": ("What is it?\n<image>", "A bus."),
  "image alone": ("<image>", "A bus."),
  "image and no line": ("<image>What is it? ", "A bus."),
  "two images": ("<image>\n<image>\nWhich is red?", "The first."),
  "images in place": ("Is <image> like <image>?", "No."),
  "spaces": ("  Is it\n\nred? ", " It isn't.\n  \n"),
  "unicode": ("<image>\nWas ist daß? 猫", "Ein Bär 🐻."),
  "two": ("<image>\nWhat?", "A cat.", "How many?", "Two cats."),
  "three": ("What?", "A cat.", "Sure?", "Yes.", "Why?", "It said so."),
  "four": ("<image>\nQ", "1", "Q?", "2", "Q!", "It's 12.", "Q", "\tno"),
}


@pytest.mark.parametrize("talk", _TALKS)
def test_ids_are_those_of_the_original(made, talk: str) -> None:
  name, folder = made
  turns = _TALKS[talk]
  ours = load_tokenizer(folder)
  plain = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
  plain.encode_special_tokens = True
  want = original.tokens(
    name,
    turns,
    lambda said: plain.encode(said, add_special_tokens=False).ids,
    {mark: plain.token_to_id(mark) for mark in _MARKS[name]},
    ours.bos_id,
  )
  counts = list(range(2, 2 + turns[0].count("<image>")))
  encoded = text.encode(turns[:1], [turns[1:]], ours, name, counts)
  prefix, runs = [], []
  for token in encoded.prefix_ids.tolist():
    if token != text.IMAGE_TOKEN:
      prefix.append(token)
    elif prefix[-1] != token or runs[-1] == counts[len(runs) - 1]:
      prefix.append(token)
      runs.append(1)
    else:
      runs[-1] += 1
  assert runs == counts
  got = [*prefix, *encoded.branch_ids[0].tolist()]
  # the original writes the line's end behind the last answer too
  assert got == want[: len(got)]
  assert want[len(got) :] in ([], plain.encode("\n").ids)
  scored = encoded.branch_ids[0][encoded.loss_mask[0]].tolist()
  end = plain.token_to_id(TEMPLATES[name].end)
  assert scored.count(end) == len(turns) // 2 and scored[-1] == end


def test_every_end_that_the_folder_names_stops(made) -> None:
  name, folder = made
  tokenizer = load_tokenizer(folder)
  ends = text.stop_ids(tokenizer, TEMPLATES[name])
  assert ends == (tokenizer.eos_id,)
  more = folder.parent / f"{name}-more"
  more.mkdir()
  for file in folder.iterdir():
    (more / file.name).write_bytes(file.read_bytes())
  other = tokenizer.token_id(_MARKS[name][0])
  config = more / "generation_config.json"
  config.write_text(json.dumps({"eos_token_id": [tokenizer.eos_id, other]}))
  found = text.stop_ids(load_tokenizer(more), TEMPLATES[name])
  assert found == (tokenizer.eos_id, other)
  wrong = folder.parent / f"{name}-wrong"
  wrong.mkdir()
  (wrong / "tokenizer.json").write_bytes(
    (folder / "tokenizer.json").read_bytes()
  )
  (wrong / "generation_config.json").write_text('{"eos_token_id": "end"}')
  with pytest.raises(UserError, match="eos_token_id is 'end', want an id"):
    text.stop_ids(load_tokenizer(wrong), TEMPLATES[name])


def test_chatml_direct_is_chatml() -> None:
  assert TEMPLATES["chatml_direct"] == TEMPLATES["chatml"]


def test_images_and_counts_must_agree(made) -> None:
  name, folder = made
  with pytest.raises(UserError, match=r"1 image\(s\), but 2 <image>"):
    text.encode_prompt(
      ("<image>\n<image>\nQ",), load_tokenizer(folder), name, [5]
    )
