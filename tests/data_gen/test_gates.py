"""One wrong answer per gate, and one that passes them all."""

import pytest

from data_gen.gates import GATES, Limits, check
from data_gen.rules.lexicon import Lexicon

RIGHT = "A brown dog is lying on the grass near a bench, and two men watch it."
WRONG = (
  "A brown dog is lying on the grass near a fountain, and two men watch it."
)
EDIT = [{"span": "fountain", "original": "bench", "kind": "object"}]
LEXICON = Lexicon()


def gate(wrong, edits=EDIT, right=RIGHT, truth=None):
  found = check([right], [wrong], edits, Limits(), LEXICON, truth)
  return found.reason if found else None


def test_a_good_one_passes():
  assert gate(WRONG) is None
  assert gate(WRONG, truth={"dog", "bench", "person"}) is None


@pytest.mark.parametrize(
  ("wrong", "reason"),
  [
    ("", "empty"),
    ("  ", "empty"),
    ("I'm sorry, but I can't help with that.", "refusal"),
    ("As an AI language model, I do not invent things.", "refusal"),
    ("I cannot assist with misleading descriptions.", "refusal"),
    (RIGHT, "identical"),
    (RIGHT.replace("A brown", "The brown") + " ", "identical"),
    (RIGHT.upper(), "identical"),
    (f"Sure, here is the wrong one: {WRONG}", "markup"),
    (f"**{WRONG}**", "markup"),
    (f"<p>{WRONG}</p>", "markup"),
    (f"<image>\n{WRONG}", "markup"),
    (f"{WRONG}</s>", "markup"),
    ('{"rejected": "' + WRONG + '"}', "markup"),
    (f"{WRONG} ASSISTANT: ok", "markup"),
    (f"{WRONG} (hallucinated)", "markup"),
    (f"{WRONG} \ud83d", "markup"),
    (f"Sure! {WRONG}", "markup"),
    (f"[[answer 0]] {WRONG}", "markup"),
    (f"- {WRONG}", "markup"),
    (f"{WRONG} (Note: no fountain is there.)", "markup"),
    (f"{WRONG} The bench was replaced with a fountain.", "markup"),
    ("Ein brauner Hund liegt auf dem Gras bei einem Brunnen, und zwei Herren "
     "sehen ihm zu.", "language"),
    ("一只棕色的狗躺在长椅旁边的草地上，两个男人看着它。", "language"),
    ("A brown dog is lying by a fountain.", "length"),
    (WRONG + " It is a fine day and the sun shines on the whole town, which "
     "is full of people who walk about and talk.", "length"),
    ("Two men watch a brown bench, lying near it on a dog is the grass, and "
     "a fountain.", "similarity"),
  ],
)  # fmt: skip
def test_each_gate(wrong, reason):
  assert gate(wrong) == reason
  assert reason in GATES


def test_edits_must_occur():
  assert gate(WRONG, []) == "edit_missing"
  assert gate(WRONG, [{"span": "zebra"}]) == "edit_missing"
  assert gate(WRONG, [{"span": " ", "original": ""}]) == "edit_missing"
  assert gate(WRONG, [{"span": "", "original": "bench"}]) is None
  assert gate(WRONG, [{"span": "Near  a fountain,"}]) is None


def test_an_invented_object_must_be_absent():
  wrong = RIGHT.replace("bench", "statue")
  edits = [{"span": "statue"}]
  assert gate(wrong, edits, truth={"dog", "statue"}) == "object_present"
  # By category: a sofa in the text, a couch in the annotations.
  wrong = RIGHT.replace("bench", "sofa")
  assert gate(wrong, [{"span": "sofa"}], truth={"couch"}) == "object_present"
  assert gate(wrong, [{"span": "sofa"}], truth=None) is None


def test_an_honest_word_in_the_right_answer_is_no_leak():
  right = "**A dog** lies here with <b>two</b> men on the very green grass."
  wrong = right.replace("dog", "cat")
  assert gate(wrong, [{"span": "cat"}], right) is None


@pytest.mark.parametrize(
  ("right", "wrong", "reason"),
  [
    ("Yes.", "No.", None),
    ("Three", "Four", None),
    ("A cat.", "No, there is no cat here at all.", None),
    ("Yes.", "yes", "identical"),
    ("A dog lies there.", "Un perro yace en la hierba.", "language"),
    ("A dog in Los Angeles.", "A cat in Los Angeles, El Paso.", None),
    ("Yes, I can see two horses and a dog behind the fence.",
     "No, I cannot see any animals.", None),
    ("Two", "The number of animals that can be seen in the picture is three",
     "length"),
  ],
)  # fmt: skip
def test_short_answers_are_exchanged_whole(right, wrong, reason):
  assert gate(wrong, [{"span": wrong}], right) == reason


def test_long_texts_are_compared_in_time():
  right = " ".join(f"{word} the" for word in map(str, range(20_000)))
  edits = [{"span": "dog"}]
  assert gate(f"{right} dog", edits, right) is None
  turned = " ".join(reversed(right.split()))
  assert gate(f"dog {turned}", edits, right) == "similarity"


def test_conversations():
  edits = [{"span": "No."}]
  assert check(["Yes.", RIGHT], ["No.", RIGHT], edits, Limits()) is None
  found = check(["Yes.", RIGHT], ["Yes.", RIGHT], edits, Limits())
  assert found.reason == "identical"
  assert check(["Yes."], ["No.", "No."], edits, Limits()).reason == "schema"
