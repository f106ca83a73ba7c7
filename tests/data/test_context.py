"""Contexts, weights of tokens, and several rejected answers, as ids."""

import dataclasses

import numpy as np
import pytest

from povid_jax.data import changes, layout, lengths, text
from povid_jax.data.lengths import TextSpec
from povid_jax.data.records import Rejected, decode, encode
from povid_jax.data.tokenizer import load_tokenizer
from povid_jax.errors import UserError
from tests import small_world

# sentences, lists, several scripts, numbers, dashes; joined by a blank each
REAL = (
  "The image shows a busy street in Zürich, at about 5:30 p.m. A red tram "
  "(line 11) waits; its doors are open. Two people -- a man and a girl -- get "
  "on. \n\n1. A dog.\n2. A cat, 猫, sleeps.\n\n- “Why?” she asks… It's 3.5 m "
  "long! Ein Bär 🐻 sitzt da."
)
QUESTION = ("<image>\nDescribe it.",)


@pytest.fixture(scope="module", params=["legacy", "new"])
def tokenizer(request, llama_folder, new_llama_folder):
  folder = llama_folder if request.param == "legacy" else new_llama_folder
  return load_tokenizer(folder)


def _question(template):
  """Without a picture where its marks are tokens that Llama's has not."""
  marks = text.TEMPLATES[template].image_start
  return ("Describe it.",) if marks else QUESTION


def _ids(encoded, n=0):
  return [*encoded.prefix_ids.tolist(), *encoded.branch_ids[n].tolist()]


@pytest.mark.parametrize("template", text.TEMPLATES)
def test_ids_are_those_of_the_whole_answer_at_every_border(template, tokenizer):
  """The text is cut at each blank; nothing of the context is scored."""
  question = _question(template)
  whole = text.encode(question, [(REAL,)], tokenizer, template, 3)
  borders = [i for i, c in enumerate(REAL) if c == " " and REAL[i - 1] != " "]
  assert len(borders) > 40
  before = 0
  for at in borders:
    context, rest = REAL[:at], REAL[at + 1 :]
    if text.join(context, rest) != REAL:  # a line end beside the blank
      context, rest = REAL[: at + 1], REAL[at + 1 :]
    made = text.encode(
      question, [(rest,), ("No.",)], tokenizer, template, 3, context=context
    )
    assert _ids(made) == _ids(whole)
    for n, said in enumerate((rest, "No.")):
      scored = made.branch_ids[n][made.loss_mask[n]].tolist()
      assert tokenizer.decode(scored).strip() == said.strip()
    assert len(made.prefix_ids) >= before  # a longer context is no shorter
    before = len(made.prefix_ids)
  assert before > len(_ids(whole)) // 2


@pytest.mark.parametrize("template", text.TEMPLATES)
def test_an_answer_that_goes_on_has_no_end(template, tokenizer):
  """What is scored is one sentence, and no template's end follows."""
  first, second, third = "A dog sits.", "It is red.", "The end."
  question = _question(template)
  encode_ = lambda said, **more: text.encode(
    question, [(said,)], tokenizer, template, 3, **more
  )
  made = encode_(second, context=first, end_scored=False)
  longer = encode_(f"{first} {second} {third}")
  assert _ids(made) == _ids(longer)[: len(_ids(made))]
  assert made.loss_mask[0].all()
  assert tokenizer.decode(made.branch_ids[0]).strip() == second
  ended = encode_(second, context=first, end_scored=True)
  if text.TEMPLATES[template].end:
    assert len(ended.branch_ids[0]) > len(made.branch_ids[0])
  # what is generated from is what the branch follows
  asked = text.encode_prompt(question, tokenizer, template, 3, context=first)
  assert asked.tolist() == made.prefix_ids.tolist()


def test_a_token_across_the_border_belongs_to_the_branch(tokenizer):
  """Wherever the blank is, before the border or behind it."""
  said = "A dog sits on a red chair."
  template = dataclasses.replace(text.TEMPLATES["short"], answer="\n{text}")
  whole = text.encode(QUESTION, [(said,)], tokenizer, template, 3)
  for at in range(1, len(said)):
    context, rest = said[:at], said[at:]
    if text.join(context, rest) != said:
      continue
    made = text.encode(
      QUESTION, [(rest,)], tokenizer, template, 3, context=context
    )
    assert _ids(made) == _ids(whole)
    assert made.loss_mask[0].any()


def test_nothing_to_score_is_refused(tokenizer):
  with pytest.raises(UserError, match="none of its tokens can be scored"):
    text.encode(
      QUESTION, [("",)], tokenizer, "short", 3, context="A", end_scored=False
    )


def _marked(one, other, tokenizer):
  encoded = text.encode(QUESTION, [(one,), (other,)], tokenizer, "short", 3)
  ends = text.stop_ids(tokenizer, text.TEMPLATES["short"])
  ids = [branch.tolist() for branch in encoded.branch_ids]
  marks = changes.changed(*ids, tokenizer, ends)
  assert not marks[0][-1] and not marks[1][-1]  # </s>
  words = []
  for tokens, mark in zip(ids, marks, strict=True):
    changed = [i for i, m in zip(tokens, mark, strict=True) if m]
    words.append(tokenizer.decode(changed).split())
  return words


@pytest.mark.parametrize(
  ("one", "other", "want"),
  [
    ("A red car, here.", "A blue car, here.", (["red"], ["blue"])),
    ("A dog.", "A dog.", ([], [])),
    ("Two cats look.", "Two fat cats look.", ([], ["fat"])),
    ("Yes, a 猫 sits.", "Yes, a Bär sits.", (["猫"], ["Bär"])),
    ("No car there.", "No car here.", (["there."], ["here."])),
  ],
)
def test_changed_words(one, other, want, tokenizer):
  assert _marked(one, other, tokenizer) == list(want)


def _encoded(record, tokenizer, **options):
  options = {"num_branches": 2, **options}
  spec = TextSpec("short", layout.of(small_world.MODEL), **options)
  return lengths.encode_record(record, tokenizer, spec)


def test_weights_of_a_record(tokenizer):
  plain = small_world.record(0, chosen=("A red car.",), rejected=("A bus.",))
  assert _encoded(plain, tokenizer).weights is None
  heavy = dataclasses.replace(plain, rejected_weight=0.25)
  weights = _encoded(heavy, tokenizer).weights
  assert set(weights[0]) == {1.0} and set(weights[1]) == {0.25}
  both = _encoded(heavy, tokenizer, changed_weight=4.0)
  assert set(both.weights[0]) == {1.0, 4.0}
  assert set(both.weights[1]) == {0.25, 1.0}
  assert both.weights[1][-1] == 0.25  # </s> is in both answers
  # where one answer is used there is nothing to compare
  alone = _encoded(heavy, tokenizer, num_branches=1)
  assert len(alone.branch_ids) == 1 and alone.weights is None


def test_bad_weights_are_refused(tokenizer):
  for bad in (-1.0, np.nan, np.inf):
    record = small_world.record(0, rejected_weight=bad)
    with pytest.raises(UserError, match="'r0': rejected_weight is"):
      _encoded(record, tokenizer)
  more = small_world.record(0, more_rejected=(Rejected(("A bus.",)),))
  with pytest.raises(UserError, match="needs exactly one rejected answer"):
    _encoded(more, tokenizer, changed_weight=2.0)


def test_several_rejected_answers_share_a_prefix(tokenizer):
  record = small_world.record(
    0,
    context="A cat.",
    more_rejected=(Rejected(("A bus.",), 0.5), Rejected(("Two birds.",))),
  )
  made = _encoded(record, tokenizer)
  assert len(made.branch_ids) == 4
  assert [set(w) for w in made.weights] == [{1.0}, {1.0}, {0.5}, {1.0}]
  for n, answer in enumerate(record.every_rejected, start=1):
    one = dataclasses.replace(record, rejected=answer.turns, more_rejected=())
    alone = _encoded(one, tokenizer)
    assert _ids(alone, 1) == _ids(made, n)
  measured = lengths.measure(
    [record, small_world.record(1)],
    tokenizer,
    TextSpec("short", layout.of(small_world.MODEL), 2),
  )
  assert measured.answers.tolist() == [4, 2]
  assert measured.weighted.tolist() == [1, 0]


@pytest.mark.parametrize(
  "fields",
  [
    {},
    {"context": "A cat."},
    {"end_scored": True, "context": "A"},
    {"end_scored": False},
    {"rejected_weight": 0.5},
    {
      "more_rejected": (Rejected(("a",)), Rejected(("b", "q", "c"), 0.25)),
      "rejected_weight": 2.0,
    },
  ],
)
def test_records_keep_it(fields):
  record = small_world.record(3, **fields)
  assert decode(encode(record)) == record
  plain = encode(small_world.record(3))
  assert (encode(record) == plain) == (not fields)
