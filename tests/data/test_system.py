"""The system's words of a sample go where the template has its own."""

import dataclasses

import pytest

from povid_jax.data import text
from povid_jax.data.layout import Square
from povid_jax.data.lengths import TextSpec, encode_record
from povid_jax.data.system import has_place, with_system
from povid_jax.data.tokenizer import load_tokenizer
from povid_jax.errors import UserError
from tests import small_tokenizer, small_world


@pytest.mark.parametrize(
  ("name", "begin", "rest"),
  [
    ("vicuna_v1", "Be brief. USER: {text}", " ASSISTANT:"),
    ("llava_llama_2", "[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\n{text}", "]"),
    ("chatml", "<|im_start|>system\nBe brief.<|im_end|>", "assistant\n"),
  ],
)
def test_templates_with_a_place(name, begin, rest):
  template = with_system(name, "Be brief.")
  assert template.first.startswith(begin) and template.first.endswith(rest)
  assert template.later == text.find_template(name).later


def test_every_template_that_names_a_system_has_a_place():
  for name, template in text.TEMPLATES.items():
    if "system" in template.first.lower() or "SYS" in template.first:
      assert has_place(name), name


@pytest.mark.parametrize("name", ["mistral_instruct", "short", "plain"])
def test_templates_without_a_place_stay(name):
  assert not has_place(name)
  assert with_system(name, "Be brief.") == text.find_template(name)


@pytest.mark.parametrize("words", ["{text}", "a}", "</s>", "<|im_end|>"])
def test_words_that_a_template_would_read_are_refused(words):
  with pytest.raises(UserError, match="system turn contains"):
    with_system("chatml", words)


def test_a_record_is_encoded_with_its_own_words(tmp_path):
  tokenizer = load_tokenizer(small_tokenizer.write(tmp_path / "words"))
  spec = TextSpec("vicuna_v1", Square(28, 4), 2)
  plain = small_world.record(0)
  own = dataclasses.replace(plain, system="a cat")
  ids = [encode_record(r, tokenizer, spec).prefix_ids for r in (plain, own)]
  assert len(ids[1]) < len(ids[0])
  assert "a cat USER:" in tokenizer.decode([i for i in ids[1] if i >= 0])
  short = dataclasses.replace(spec, template="short")  # no place: as before
  ids = [encode_record(r, tokenizer, short).prefix_ids for r in (plain, own)]
  assert ids[0].tolist() == ids[1].tolist()
