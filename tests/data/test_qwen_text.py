"""Prompts of Qwen2.5-VL, token for token as its chat template has them."""

import json

import numpy as np
import pytest

from povid_jax.data import text
from povid_jax.data.tokenizer import load_tokenizer
from povid_jax.errors import UserError

SPECIAL = (
  "<|endoftext|>",
  "<|im_start|>",
  "<|im_end|>",
  "<|vision_start|>",
  "<|vision_end|>",
  "<|image_pad|>",
  "<|video_pad|>",
)
SYSTEM = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
USER = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
PICTURE = "<|vision_start|><|image_pad|><|vision_end|>"
CASES = {
  "alone": (["What is it?"], SYSTEM + USER.format("What is it?")),
  "one": (["<image>\nWhat?"], SYSTEM + USER.format(PICTURE + "What?")),
  "behind": (["What?\n<image>"], SYSTEM + USER.format(PICTURE + "What?")),
  "two": (
    ["<image>\n<image>\nCompare."],
    SYSTEM + USER.format(2 * PICTURE + "Compare."),
  ),
  "between": (
    ["From <image> to <image>?"],
    SYSTEM + USER.format(f"From {PICTURE} to {PICTURE}?"),
  ),
  "turns": (
    ["<image>\nWhat?", "A cat.", "Where?"],
    SYSTEM
    + USER.format(PICTURE + "What?")
    + "A cat.<|im_end|>\n"
    + USER.format("Where?"),
  ),
}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
  return load_tokenizer(byte_level(tmp_path_factory.mktemp("tokenizer")))


def byte_level(folder, special=SPECIAL):
  """A folder with a byte-level BPE like Qwen's, without merges but one."""
  from tokenizers import Tokenizer, decoders, models, pre_tokenizers

  letters = sorted(pre_tokenizers.ByteLevel.alphabet())
  vocab = {letter: i for i, letter in enumerate(letters)}
  vocab["ĊĊ"] = len(vocab)
  made = Tokenizer(models.BPE(vocab=vocab, merges=[("Ċ", "Ċ")]))
  made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
  made.decoder = decoders.ByteLevel()
  made.add_special_tokens(list(special))
  made.save(str(folder / "tokenizer.json"))
  settings = {
    "tokenizer_class": "Qwen2Tokenizer",
    "eos_token": "<|im_end|>",
    "pad_token": "<|endoftext|>",
    "bos_token": None,
  }
  (folder / "tokenizer_config.json").write_text(json.dumps(settings))
  return folder


@pytest.mark.parametrize("case", CASES)
def test_prompt(tokenizer, case):
  turns, want = CASES[case]
  from tokenizers import Tokenizer

  whole = Tokenizer.from_file(str(tokenizer.folder / "tokenizer.json"))
  counts = [3 + i for i in range(want.count("<|image_pad|>"))]
  ids, pictures = [], iter(counts)
  image = tokenizer.token_id("<|image_pad|>")
  for i in whole.encode(want, add_special_tokens=False).ids:
    ids += [text.IMAGE_TOKEN] * next(pictures) if i == image else [i]
  got = text.encode_prompt(turns, tokenizer, "qwen2_vl", counts)
  np.testing.assert_array_equal(got, ids)


def test_answer_and_its_end(tokenizer):
  """What is scored: the answer and <|im_end|>; the next turn is not."""
  encoded = text.encode(
    ["<image>\nWhat?"],
    [["A cat.", "Sure?", "Yes."], ["A dog."]],
    tokenizer,
    "qwen2_vl",
    [2],
  )
  end = tokenizer.token_id("<|im_end|>")
  said = [
    ids[mask]
    for ids, mask in zip(encoded.branch_ids, encoded.loss_mask, strict=True)
  ]
  assert [tokenizer.decode(ids) for ids in said] == ["A cat.Yes.", "A dog."]
  assert [list(ids).count(end) for ids in said] == [2, 1]
  template = text.find_template("qwen2_vl")
  assert text.stop_ids(tokenizer, template) == (end,)


def test_what_was_said_cannot_be_a_picture(tokenizer):
  got = text.encode_prompt(["<|image_pad|>?"], tokenizer, "qwen2_vl", [])
  assert tokenizer.token_id("<|image_pad|>") not in got
  assert text.IMAGE_TOKEN not in got


def test_tokenizer_of_another_model(tmp_path):
  other = load_tokenizer(byte_level(tmp_path, SPECIAL[:3]))
  with pytest.raises(
    UserError, match="no <|vision_start|>".replace("|", r"\|")
  ):
    text.encode_prompt(["<image>\nWhat?"], other, "qwen2_vl", [2])


def test_videos_are_refused(tokenizer):
  with pytest.raises(UserError, match="<video>; only pictures are supported"):
    text.encode_prompt(["<video>\nWhat?"], tokenizer, "qwen2_vl", [])
