"""CHAIR's reading of captions, one row per rule of the original."""

import pytest

from povid_jax.errors import UserError
from povid_jax.eval.benchmarks import chair_words

# a table with the quirks of the original's file: a double space before "motor
# bike", a capital letter, three words
QUIRKY = """person, man, people
motorcycle,  motor bike, moped
cell phone, phone, iPhone
oven, stove top oven
airplane, jet, plane
train
bus, minibus
chair, seat
toilet
tie
wine glass
hot dog
dog, puppy
bear, cub
elephant
plate
knife
scissors
sheep
mouse
traffic light, stop light
baseball glove
skis, ski
tennis racket, racket
"""

RULES = {
  "lower case": ("A DOG", ["dog"]),
  "plural": ("dogs and knives and mice", ["dog", "knife", "mouse"]),
  "irregular plural": ("two people, two men", ["person", "person"]),
  "no singular taken off": ("bus, scissors, skis", ["bus", "scissors", "skis"]),
  "plural of a word in s": ("two buses", ["bus"]),
  "synonym": ("a puppy", ["dog"]),
  "repetition": ("a dog, a dog", ["dog", "dog"]),
  "possessive": ("the dog's bone and the dogs' bones", ["dog", "dog"]),
  "punctuation": (
    '"Dog"; (bus)! man... sheep?',
    ["dog", "bus", "person", "sheep"],
  ),
  "hyphens hold a word together": ("a dog-house", []),
  "double word": ("a hot dog", ["hot dog"]),
  "double word, plural": ("hot dogs", ["hot dog"]),
  "both words of a double word are used up": (
    "a hot dog dog",
    ["hot dog", "dog"],
  ),
  "double words from left to right": ("a hot hot dog", ["hot dog"]),
  "double word over a comma is none": ("hot, dog", ["dog"]),
  "glass": ("a wine glass and wine glasses", ["wine glass", "wine glass"]),
  "glass as the original's singular": ("a wine glas", ["wine glass"]),
  "a glass alone is no object": ("a glass", []),
  "bow tie": ("a bow tie", ["tie"]),
  "toilet seat": ("a toilet seat", ["toilet"]),
  "seat of a toilet": ("the seat of the toilet", ["toilet"]),
  "seat without toilet": ("the seat", ["chair"]),
  "chair beside a toilet stays": ("a chair and a toilet", ["chair", "toilet"]),
  "baby animal": ("a baby elephant", ["elephant"]),
  "adult animal": ("an adult bear", ["bear"]),
  "animal that names no object": ("a baby animal", []),
  "passenger jet": ("a passenger jet", ["airplane"]),
  "passenger train": ("a passenger train", ["train"]),
  "train track is no train": ("a train track, train tracks", []),
  "home plate is no plate": ("the home plate", []),
  "synonym of two words": ("a stop light", ["traffic light"]),
  "only bigrams: three words never match": ("a stove top oven", ["oven"]),
  "leading blank never matches": ("a motor bike", []),
  "capital letter never matches": ("an iPhone", []),
  "racket": ("a tennis racket", ["tennis racket"]),
  "nothing": ("", []),
  "no words": ("... !? 12", []),
}


def _objects(caption: str, path, **options) -> list[str]:
  table = chair_words.load(path, **options)
  return [mention.object for mention in table.mentions(caption)]


@pytest.fixture
def quirky(put):
  return put("synonyms.txt", QUIRKY)


@pytest.mark.parametrize("rule", RULES)
def test_rule(rule, quirky):
  caption, objects = RULES[rule]
  assert _objects(caption, quirky) == objects


CLEAN = {
  "leading blank": ("a motor bike", ["motorcycle"]),
  "capital letter": ("an iPhone", ["cell phone"]),
  "three words": ("a stove top oven", ["oven"]),
  "words of three words": ("a stove", []),
}


@pytest.mark.parametrize("rule", CLEAN)
def test_clean_rule(rule, quirky):
  caption, objects = CLEAN[rule]
  assert _objects(caption, quirky, clean=True) == objects


PATTERN = {
  "bus is missed": ("a bus", []),
  "buses are not": ("buses", ["bus"]),
  "ties are missed": ("two ties", []),
  "wine glass by way of glas": ("a wine glass", ["wine glass"]),
  "plural of people": ("peoples, a man's man", ["person"] * 3),
  "not even a word's own entry": ("a glass of wine glasses", ["wine glass"]),
  "tennis": ("a tennis racket", ["tennis racket"]),
}


@pytest.mark.parametrize("rule", PATTERN)
def test_pattern_rule(rule, quirky):
  caption, objects = PATTERN[rule]
  assert _objects(caption, quirky, singular="pattern") == objects


def test_offsets_point_into_the_caption():
  caption = "Two Hot  dogs, and a MAN."
  found = chair_words.load().mentions(caption)
  assert [caption[m.start : m.end] for m in found] == ["Hot  dogs", "MAN"]


TOKENS = {
  "It's a dog.": ["It", "'s", "a", "dog", "."],
  "isn't there": ["is", "n't", "there"],
  "dogs, cats; a 3,000 m (big) run": [
    "dogs",
    ",",
    "cats",
    ";",
    "a",
    "3,000",
    "m",
    "(",
    "big",
    ")",
    "run",
  ],
  "end...start -- on": ["end", "...", "start", "--", "on"],
  "mid.word stays. Next.": ["mid.word", "stays", ".", "Next", "."],
  "**Dog.** *a* `b`": [*"**", "Dog", *".***", "a", "*", "`", "b", "`"],
  "dog’s ‘cat’ “bus.” on": [
    *("dog", "’", "s", "‘", "cat", "’", "“", "bus", ".", "”", "on"),
  ],
  "dog's-x dogs' 'dog n't x": [
    *("dog's-x", "dogs", "'", "'", "dog", "n't", "x"),
  ],
  "dog—cat and/or don't.": ["dog", "—", "cat", "and/or", "do", "n't", "."],
  # the sentence ends after the quotation mark, so nltk keeps the full stop
  'a dog. " Next': ["a", "dog.", '"', "Next"],
}


@pytest.mark.parametrize("text", TOKENS)
def test_tokens(text):
  assert chair_words.tokens(text) == TOKENS[text]


def test_own_table_has_the_80_categories_each_word_once():
  lines = chair_words.OWN_TABLE.read_text().splitlines()
  words = [word for line in lines for word in line.split(", ")]
  assert len(lines) == 80
  assert len(words) == len(set(words))
  table = chair_words.load()
  for line in lines:
    name = line.split(", ")[0]
    assert [m.object for m in table.mentions(f"One {name}.")] == [name]


def test_own_table_reads_plurals_of_every_category():
  import inflect

  table, engine = chair_words.load(), inflect.engine()
  for name in dict.fromkeys(table.names.values()):
    plural = name if name in ("skis", "scissors") else engine.plural(name)
    assert [m.object for m in table.mentions(f"some {plural}")] == [name]


def test_categories_of_other_annotations_name_themselves(quirky):
  table = chair_words.load(quirky, categories=["Lava Lamp", "dog", "robot"])
  found = [m.object for m in table.mentions("lava lamps, robots, dogs")]
  assert found == ["Lava Lamp", "robot", "dog"]


def test_only_annotated_objects(quirky):
  table = chair_words.load(quirky, categories=["dog"])
  table.keep(["dog"])
  assert [m.object for m in table.mentions("a man, a puppy")] == ["dog"]


@pytest.mark.parametrize("text", ["", "\n\n"])
def test_empty_table_is_refused(text, put):
  with pytest.raises(UserError, match="no line of the form"):
    chair_words.load(put("empty.txt", text))
