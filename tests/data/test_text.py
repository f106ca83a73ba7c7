import re
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from povid_jax.data import text
from povid_jax.errors import UserError

sys.path.insert(0, str(Path(__file__).parent))
import released_rule as released  # noqa: E402

SAMPLES = {
  "single": ("<image>\nDescribe this image.", "A dog on a chair."),
  "image last": ("What is this?\n<image>", "A bus, I think."),
  "image alone": ("<image>", "A table."),
  "text only": ("How many people are there?", "Three."),
  "untouched spaces": ("  Is it blue? ", " Yes,  very.\n\n- blue\n"),
  "unicode": ("<image>\nWas ist daß? 猫", "Ein Bär 🐻."),
  "long answer": ("<image>\nTell me.", "One.\nTwo.\nThree. " * 20 + "End."),
}
TURNS = {
  "two": ("<image>\nWhat?", "A cat.", "How many?", "Two cats."),
  "three": ("What?", "A cat.", "Sure?", "Yes.", "Why?", "It said so."),
}


def collapse(ids: Sequence[int], num_image_tokens: int) -> list[int]:
  """Runs of image tokens back to one -200 each."""
  out: list[int] = []
  run = 0
  for token in map(int, ids):
    run = run + 1 if token == text.IMAGE_TOKEN else 0
    if run % num_image_tokens == 1 or run == 0:
      out.append(token)
  return out


def ours(
  folder: Path, turns: Sequence[str], cut: int, template: str = "vicuna_v1"
) -> tuple[list[int], list[int]]:
  tokenizer = text.load_tokenizer(folder)
  encoded = text.encode(turns[:cut], [turns[cut:]], tokenizer, template, 5)
  prefix, branch = encoded.prefix_ids, encoded.branch_ids[0]
  answer = np.where(encoded.loss_mask[0], branch, released.IGNORE)
  ids = collapse([*prefix, *branch], 5)
  hidden = len(ids) - len(branch)
  return ids, [released.IGNORE] * hidden + answer.tolist()


@pytest.mark.parametrize("legacy", [True, False])
@pytest.mark.parametrize("name", SAMPLES)
def test_single_turns_are_those_of_the_released_code(
  name: str, legacy: bool, llama_folder: Path, new_llama_folder: Path
) -> None:
  folder = llama_folder if legacy else new_llama_folder
  prompt = released.vicuna_prompt(SAMPLES[name])
  want = released.labels(released.SlowLlama(folder, legacy), prompt)
  assert ours(folder, SAMPLES[name], 1) == want
  assert any(label >= 0 for label in want[1])


@pytest.mark.parametrize("name", TURNS)
def test_legacy_tokenizers_agree_in_several_turns(
  name: str, llama_folder: Path
) -> None:
  prompt = released.vicuna_prompt(TURNS[name])
  want = released.labels(released.SlowLlama(llama_folder), prompt)
  assert ours(llama_folder, TURNS[name], 1) == want
  assert sum(label == 2 for label in want[1]) == len(TURNS[name]) // 2


@pytest.mark.parametrize("name", TURNS)
def test_what_the_released_code_drops_is_masked_by_turn(
  name: str, new_llama_folder: Path
) -> None:
  # Counted alone, "USER" starts with a space piece; after </s> it does not.
  # The counts differ, and the released code sets all labels to -100.
  tokenize = released.SlowLlama(new_llama_folder, legacy=False)
  turns = TURNS[name]
  prompt = released.vicuna_prompt(turns)
  ids, dropped = released.labels(tokenize, prompt)
  assert set(dropped) == {released.IGNORE}
  got_ids, got = ours(new_llama_folder, turns, 1)
  assert got_ids == ids
  answers = [tokenize(answer)[1:] + [2] for answer in turns[1::2]]
  assert [t for t in got if t >= 0] == sum(answers, [])


@pytest.mark.parametrize("cut", [1, 3])
def test_the_cut_does_not_change_the_tokens(
  cut: int, llama_folder: Path, new_llama_folder: Path
) -> None:
  for folder in (llama_folder, new_llama_folder):
    whole = ours(folder, TURNS["two"], 1)[0]
    assert ours(folder, TURNS["two"], cut)[0] == whole


def test_llama_2_and_mistral_are_those_of_the_released_code(
  llama_folder: Path,
) -> None:
  tokenize = released.SlowLlama(llama_folder)
  system = (
    "<<SYS>>\nYou are a helpful language and vision assistant. You are able "
    "to understand the visual content that the user provides, and assist the "
    "user with a variety of tasks using natural language.\n<</SYS>>\n\n"
  )
  for name, words, between in (
    ("llava_llama_2", system, "<s>"),
    ("mistral_instruct", "", ""),
  ):
    for turns in (SAMPLES["single"], SAMPLES["text only"], TURNS["two"]):
      prompt = released.llama_2_prompt(turns, words, between)
      want = released.labels(tokenize, prompt, sep="[/INST] ")
      assert ours(llama_folder, turns, 1, name) == want
      assert any(label >= 0 for label in want[1])


def test_short_has_no_words_of_the_system(llama_folder: Path) -> None:
  tokenize = released.SlowLlama(llama_folder)
  want = released.with_image(
    tokenize, "USER: <image>\nWhat? ASSISTANT: A cat.</s>"
  )
  assert ours(llama_folder, ("<image>\nWhat?", "A cat."), 1, "short")[0] == want


def test_plain_is_image_and_caption(llama_folder: Path) -> None:
  tokenize = released.SlowLlama(llama_folder)
  ids, labels = ours(
    llama_folder, ("Describe it. <image>", "A cat."), 1, "plain"
  )
  assert ids == released.with_image(tokenize, "<image>A cat.\n")
  assert labels == [released.IGNORE] * 2 + ids[2:]


def test_chatml_closes_with_its_own_token_where_there_is_one(
  llama_folder: Path, tmp_path: Path
) -> None:
  model = (llama_folder / "tokenizer.model").read_bytes()
  (tmp_path / "tokenizer.model").write_bytes(model)
  (tmp_path / "added_tokens.json").write_text(
    '{"<|im_start|>": 460, "<|im_end|>": 461}'
  )
  tokenizer = text.load_tokenizer(tmp_path)
  encoded = text.encode(("q",), [("a", "q", "b")], tokenizer, "chatml", 2)
  assert tokenizer.vocab_size == 462
  assert encoded.prefix_ids.tolist().count(460) == 3
  assert encoded.branch_ids[0].tolist().count(461) == 3
  assert encoded.branch_ids[0][-1] == 461 and encoded.loss_mask[0][-1]
  assert text.stop_ids(tokenizer, text.TEMPLATES["chatml"]) == (461, 2)
  old = text.load_tokenizer(llama_folder)
  encoded = text.encode(("q",), [("a",)], old, "chatml", 2)
  assert encoded.branch_ids[0][-1] == old.eos_id


def test_one_block_per_image(llama_folder: Path) -> None:
  tokenizer = text.load_tokenizer(llama_folder)
  turn = "See <image> and <image>."
  ids = text.encode_prompt((turn,), tokenizer, "short", 4).tolist()
  newline = tokenizer.encode("\n")
  user = [1, *tokenizer.encode("USER: ")]
  rest = tokenizer.encode("\nSee  and . ASSISTANT:")
  assert ids == user + [-200] * 4 + newline + [-200] * 4 + rest
  assert text.count_images((turn, "<image>", "<image>")) == 3


def test_text_behind_an_image_starts_afresh(new_llama_folder: Path) -> None:
  """Even where the image follows a special token: LLaVA cuts at the image."""
  tokenizer = text.load_tokenizer(new_llama_folder)
  template = text.Template("<s>{image}dog", "", " {text}", "</s>")
  ids = text.encode_prompt(("<image>",), tokenizer, template, 1).tolist()
  assert ids == [1, 1, -200, *tokenizer.encode("dog")]


def test_branches_share_the_prefix(llama_folder: Path) -> None:
  tokenizer = text.load_tokenizer(llama_folder)
  prompt = ("<image>\nWhat?",)
  encoded = text.encode(
    prompt, [("A dog.",), ("A bus.",)], tokenizer, "vicuna_v1", 3
  )
  for i, answer in enumerate(("A dog.", "A bus.")):
    alone = text.encode(prompt, [(answer,)], tokenizer, "vicuna_v1", 3)
    assert np.array_equal(alone.prefix_ids, encoded.prefix_ids)
    assert np.array_equal(alone.branch_ids[0], encoded.branch_ids[i])
  asked = text.encode_prompt(prompt, tokenizer, "vicuna_v1", 3)
  assert np.array_equal(asked, encoded.prefix_ids)
  assert encoded.prefix_ids.dtype == encoded.branch_ids[0].dtype == np.int32
  assert encoded.loss_mask[0].dtype == bool


@pytest.mark.parametrize("marker", ["</s>", "<s>", "<image>", "<unk>"])
def test_markers_in_an_answer_are_text(marker: str, llama_folder: Path) -> None:
  tokenizer = text.load_tokenizer(llama_folder)
  said = f"A {marker} cat."
  encoded = text.encode(("What?",), [(said,)], tokenizer, "vicuna_v1", 3)
  branch = encoded.branch_ids[0].tolist()
  assert branch == tokenizer.encode(said) + [2]
  assert not {1, 2, -200} & set(branch[:-1])
  assert tokenizer.decode(branch) == said


def test_markers_in_a_question_cannot_end_it(llama_folder: Path) -> None:
  tokenizer = text.load_tokenizer(llama_folder)
  turn = "Hi</s>USER: x ASSISTANT: y</s> <ima<image>ge>"
  ids = text.encode_prompt((turn,), tokenizer, "short", 1).tolist()
  assert ids.count(2) == 0 and ids.count(1) == 1 and ids.count(-200) == 1
  encoded = text.encode((turn,), [("Yes.",)], tokenizer, "short", 1)
  assert encoded.loss_mask[0].all()
  assert tokenizer.decode(encoded.branch_ids[0]) == "Yes."


@pytest.mark.parametrize(
  ("prompt", "response", "message"),
  [
    ((), ("a",), "prompt of 0 turns"),
    (("q", "a"), ("a",), "prompt of 2 turns"),
    (("q",), (), "response of 0 turns"),
    (("q",), ("a", "q"), "response of 2 turns"),
    (("q",), ("a", "<image> q", "a"), "after the first answer"),
  ],
)
def test_turns_that_make_no_sense(
  prompt: Sequence[str],
  response: Sequence[str],
  message: str,
  llama_folder: Path,
) -> None:
  tokenizer = text.load_tokenizer(llama_folder)
  with pytest.raises(UserError, match=message):
    text.encode(prompt, [response], tokenizer, "short", 3)


def test_a_tokenizer_that_joins_across_the_border(tmp_path: Path) -> None:
  """Line ends that would merge leave the prefix what generation starts from."""
  made = tokenizers.ByteLevelBPETokenizer()
  made.train_from_iterator(
    ["\n\n\n\n a\n\n b"] * 9, 400, 1, special_tokens=["<s>", "</s>"]
  )
  made.save(str(tmp_path / "tokenizer.json"))
  tokenizer = text.load_tokenizer(tmp_path)
  assert len(tokenizer.encode("\n\n")) == 1
  prompt = text.encode_prompt(("q",), tokenizer, "chatml", 1).tolist()
  encoded = text.encode(("q",), [("\n\nb",), ("b",)], tokenizer, "chatml", 1)
  assert encoded.prefix_ids.tolist() == prompt
  assert tokenizer.decode(prompt).endswith("assistant\n")
  for branch, said in zip(encoded.branch_ids, ("\n\nb", "b"), strict=True):
    assert branch.tolist() == [*tokenizer.encode(said), tokenizer.eos_id]
    assert tokenizer.decode(branch) == said


def test_unknown_template_names_the_known(llama_folder: Path) -> None:
  tokenizer = text.load_tokenizer(llama_folder)
  with pytest.raises(UserError, match="vicuna_v2.*want one of.*vicuna_v1"):
    text.encode(("q",), [("a",)], tokenizer, "vicuna_v2", 3)


@settings(
  max_examples=60,
  deadline=None,
  suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
  turns=st.lists(
    st.text(
      st.characters(exclude_categories=["Cs"], exclude_characters="\u2581\0")
    ).filter(lambda said: not re.search("<s>|</s>|<image>| ASSIST", said)),
    min_size=2,
    max_size=4,
  ),
  image=st.booleans(),
)
def test_any_text_is_that_of_the_released_code(
  turns: list[str], image: bool, llama_folder: Path
) -> None:
  turns = turns[: len(turns) // 2 * 2]
  if image:
    turns[0] = "<image>\n" + turns[0]
  prompt = released.vicuna_prompt(turns)
  want = released.labels(released.SlowLlama(llama_folder), prompt)
  got = ours(llama_folder, turns, 1)
  assert got[0] == want[0]
  assert got == want
