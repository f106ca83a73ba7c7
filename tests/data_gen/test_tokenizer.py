"""The toy's tokenizer: whole words where it knows them, bytes elsewhere."""

import json

import pytest

from data_gen.__main__ import main
from data_gen.tokenizer import build, markers
from povid_jax.data.text import TEMPLATES, encode, load_tokenizer
from povid_jax.errors import UserError

TURNS = [
  "<image>\nDescribe this image.",
  "On the left there is a cup. On the right there is a cup.",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  path = tmp_path_factory.mktemp("tokenizer")
  names = ("human", "gpt")
  sample = {
    "id": "1",
    "image": "1.jpg",
    "conversations": [
      {"from": name, "value": turn}
      for name, turn in zip(names, TURNS, strict=True)
    ],
  }
  (path / "in.json").write_text(json.dumps([sample]), encoding="utf-8")
  flags = ["--input", str(path / "in.json"), "--out", str(path / "out")]
  assert main(["tokenizer", *flags]) == 0
  return path / "out"


def _pieces(tokenizer, ids):
  return [tokenizer.decode([i]) for i in ids]


def test_known_words_are_one_token(folder):
  tokenizer = load_tokenizer(folder)
  ids = tokenizer.encode(" On the right there is a cup.")
  assert _pieces(tokenizer, ids) == [
    *(" On", " the", " right", " there", " is", " a", " cup", "."),
  ]


def test_a_template_costs_one_token_per_word(folder):
  tokenizer = load_tokenizer(folder)
  encoded = encode(TURNS[:1], [TURNS[1:]], tokenizer, TEMPLATES["short"], 2)
  prefix = [i for i in encoded.prefix_ids.tolist() if i >= 0]
  assert _pieces(tokenizer, prefix)[1:] == [
    *("USER", ":", " ", "\n", "Describe", " this", " image", "."),
    *(" ASSISTANT", ":"),
  ]
  assert encoded.branch_ids[0].tolist()[-1] == tokenizer.eos_id


@pytest.mark.parametrize(
  "text", ["zebra", "Ärger über 猫", "a\tb\n\nc", "  x "]
)
def test_unknown_text_survives(folder, text):
  tokenizer = load_tokenizer(folder)
  assert tokenizer.decode(tokenizer.encode(text)) == text


def test_special_tokens_have_llamas_ids(folder):
  tokenizer = load_tokenizer(folder)
  assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id) == (1, 2, 0)


def test_frequent_words_first_then_the_alphabet():
  tokenizer = build(["b b b", "c a c a", "d"], 263)
  vocab = tokenizer.get_vocab()
  words = {i: word for word, i in vocab.items() if i >= 259}
  # Each of three texts has both names around it; then b (3), a (2), c (2).
  assert words == {259: "USER", 260: "ĠASSISTANT", 261: "Ġb", 262: "Ġa"}


def test_the_markers_of_a_template_are_tokens():
  tokenizer = build(["a"], 400, markers("qwen2_vl"))
  prompt = TEMPLATES["qwen2_vl"].first.format(text="a")
  pieces = tokenizer.encode(prompt, add_special_tokens=False).tokens
  assert pieces[0] == "<|im_start|>" and pieces.count("<|im_end|>") == 2
  assert tokenizer.encode("<|image_pad|>").tokens == ["<|image_pad|>"]
  assert markers("short") == ()


def test_no_room_for_words():
  with pytest.raises(UserError, match="expected at least 260"):
    build(["a"], 259)
