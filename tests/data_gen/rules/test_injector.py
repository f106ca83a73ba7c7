"""Whole answers: what the seed decides, and what never happens."""

import random
import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_gen.rules.corpus import Answer, learn
from data_gen.rules.english import article
from data_gen.rules.injector import (
  Settings,
  generator,
  inject,
  parse_edits,
)
from data_gen.rules.lexicon import Lexicon
from povid_jax.errors import UserError

TEXTS = [
  "A black cat sleeps on a red couch in the living room. An old lamp stands "
  "next to the couch, and two books lie on the floor. The cat seems happy.",
  "The image shows a man riding a bicycle down the street. He is wearing a "
  "blue helmet. There are three parked cars on the left side of the street, "
  "a truck, and a bus in the background.",
  "An apple, an orange, and a banana are in a white bowl on the table. A knife "
  "is placed to the right of the bowl.",
]


CORPUS = learn(
  [Answer(str(i), "Describe it.", text) for i, text in enumerate(TEXTS)],
  Lexicon(),
)


@pytest.fixture
def corpus():
  return CORPUS


def wrong(corpus, index: int, seed: int, **options):
  chosen = Settings(seed=seed, **options)
  rng = generator(chosen, index)
  return inject(corpus, chosen, rng, str(index), "Describe it.", TEXTS[index])


def test_the_seed_decides(corpus):
  first = [wrong(corpus, 0, seed) for seed in range(20)]
  assert first == [wrong(corpus, 0, seed) for seed in range(20)]
  assert len({found.text for found in first}) > 10


@pytest.mark.parametrize("index", range(len(TEXTS)))
def test_edits_tell_the_whole_difference(corpus, index):
  for seed in range(60):
    found = wrong(corpus, index, seed)
    assert found.text != TEXTS[index]
    position = 0
    text = TEXTS[index]
    for edit in found.edits:  # in reading order: undo one after the other
      assert edit["span"] in found.text
      assert edit["kind"] in ("object", "attribute", "relation")
      position = found.text.index(edit["span"], position)
    restored = found.text
    for edit in reversed(found.edits):
      head, _, tail = restored.rpartition(edit["span"])
      restored = head + edit["original"] + tail
    squeeze = lambda s: re.sub(r"[\s,]+", " ", s).replace(" .", ".").strip()
    assert squeeze(restored) == squeeze(text)


@pytest.mark.parametrize("index", range(len(TEXTS)))
def test_english_agrees(corpus, index):
  for seed in range(150):
    text = wrong(corpus, index, seed).text
    for found, word in re.findall(r"\b([Aa]n?) ([\w-]+)", text):
      assert found.lower() == article(word), text
    assert not re.search(r"\s[.,]|[.,]{2}|\s{2}", text), text
    starts = re.findall(r"(?:^|[.] )(\w)", text)
    assert all(letter.isupper() for letter in starts), text


def test_only_asked_kinds_occur(corpus):
  only = parse_edits("attribute=1")
  for seed in range(20):
    kinds = {e["kind"] for e in wrong(corpus, 1, seed, edits=only).edits}
    assert kinds == {"attribute"}


def test_shares_of_kinds_follow_the_probabilities(corpus):
  edits = parse_edits("replace=0.7,insert=0.1,attribute=0.25,relation=0.3")
  kinds = [
    (edit["kind"], bool(edit["original"]))
    for seed in range(400)
    for edit in wrong(corpus, 2, seed, edits=edits).edits
  ]
  replaced = kinds.count(("object", True))
  inserted = kinds.count(("object", False))
  assert replaced > 4 * inserted
  assert kinds.count(("relation", True)) > 40


def test_closed_vocabulary(corpus):
  for seed in range(40):
    found = wrong(corpus, 0, seed, closed=True)
    if found:
      words = set(re.findall(r"[a-z]+", found.text.lower()))
      assert words <= corpus.words


def test_reasoning_leads_to_the_wrong_answer(corpus):
  text = "Reasoning: a red cat is on the left and no other. Answer: the cat."
  chosen = Settings(edits=parse_edits("attribute=0.5"))
  for seed in range(20):
    rng = random.Random(seed)
    found = inject(corpus, chosen, rng, "9", "Which comes first?", text)
    answer = re.search(r"Answer: the (.*)\.", found.text).group(1)
    assert answer != "cat"
    assert f" {answer} is on the" in found.text
    assert "answer" in {edit["kind"] for edit in found.edits}


def ask(question: str, answer: str, seed: int = 0) -> str:
  corpus = learn([Answer("x", question, answer)], Lexicon())
  rng = generator(Settings(), seed)
  found = inject(corpus, Settings(), rng, "x", question, answer)
  return found.text if found else ""


def test_what_is_asked_about_stays_if_anything_else_can_change():
  question = "What is the cat doing on the red couch?"
  answer = "It is sleeping beside a blue pillow on the red couch."
  for seed in range(9):
    text = ask(question, answer, seed)
    assert text and text != answer and text.endswith("on the red couch.")
  # A black couch would contradict the question.
  assert ask(question, "It is on the red couch.") == ""


def test_a_final_answer_that_is_a_sentence_becomes_wrong():
  answer = (
    "Reasoning: The man holds a kite and walks.\nAnswer: He will fly his kite."
  )
  for seed in range(9):
    final = ask("What will he do?", answer, seed).partition("Answer: ")[2]
    assert final and final != "He will fly his kite."


def test_the_conclusion_follows_the_wrong_yes_or_no():
  answer = (
    "Reasoning: No one is in. The doors are open, so the train is not "
    "moving.\nAnswer: No"
  )
  for seed in range(9):
    text = ask("Is the train moving?", answer, seed)
    assert "No one is in." in text  # that "No" answers nothing
    assert text.endswith("so the train is moving.\nAnswer: Yes")


def test_endless_answers_cost_no_time():
  """Each took minutes once: no full stop anywhere, and one long page."""
  start = time.process_time()
  assert ask("Describe it.", "A" * 100_000) == ""
  assert ask("Describe it.", "A dog sits there. " * 6000) == ""
  assert ask("Describe it.", "a dog " * 1600) != ""
  assert time.process_time() - start < 20


def test_nothing_to_change_is_said(corpus):
  rng = random.Random(0)
  assert (
    inject(corpus, Settings(), rng, "9", "Who?", "Nobody knows it.") is None
  )


@pytest.mark.parametrize(
  "text", ["replace", "x=1", "replace=2", "replace=-1", "insert=0", "=", "a=b"]
)
def test_bad_probabilities_are_named(text):
  with pytest.raises(UserError, match="--edits"):
    parse_edits(text)


@settings(max_examples=150, deadline=None)
@given(text=st.text(max_size=300), question=st.text(max_size=60))
def test_any_text_is_edited_or_left_alone(text, question):
  found = inject(CORPUS, Settings(), random.Random(0), "0", question, text)
  assert found is None or found.text != text


WORDS = st.sampled_from(
  """a an the red two dogs cat is are on left and , . orange man his there no
  yes Answer: next to of big 3 \n ? 's - "table" in front""".split(" ")
)


@settings(max_examples=200, deadline=None)
@given(words=st.lists(WORDS, max_size=40))
def test_odd_sentences(words):
  text = " ".join(words)
  found = inject(CORPUS, Settings(), random.Random(0), "0", "What?", text)
  assert found is None or found.text != text


WHY = "Why is the bench empty?"


def test_reasoning_is_led_to_a_wrong_conclusion_or_given_up():
  rng = random.Random(0)
  answer = (
    "A red car is parked next to the bench. It is likely that nobody wants to "
    "sit there because of the noise of the street."
  )
  corpus = learn([Answer("0", WHY, answer)], Lexicon())
  make = lambda text, reasons: inject(
    corpus, Settings(), rng, "0", WHY, text, reasons
  )
  assert make(answer, False) is not None  # a wrong premise would do
  assert make(answer, True) is None
  final = "A red car is near the bench. The red car is in the foreground."
  found = make(final, True)
  assert found is not None and found.text.split(".")[-2] != final.split(".")[-2]
