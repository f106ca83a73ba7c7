"""What is said about scenes: captions, descriptions, questions and answers.

The wording of a description is decided by the prompt, and its order by the
picture (row by row), so that every word but the things seen is predictable.
"""

from collections.abc import Callable, Sequence

import numpy as np

from data_gen.scenes.world import KINDS, PLACES, POSITIONS, Scene, Thing

Turn = tuple[str, str]  # question, answer

NUMBERS = ("no", "one", "two", "three", "four", "five")


def with_article(words: str) -> str:
  """`words` after "a" or "an"."""
  return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def colored(thing: Thing) -> str:
  """Colour and kind: "red apple"."""
  return f"{thing.color} {thing.kind}"


def joined(parts: Sequence[str]) -> str:
  """An English list: "a, b and c"."""
  if len(parts) == 1:
    return parts[0]
  return ", ".join(parts[:-1]) + " and " + parts[-1]


def _where(thing: Thing) -> str:
  return POSITIONS[thing.cell]


def _sentence(words: str) -> str:
  return words[0].upper() + words[1:] + "."


def _is_are(count: int) -> str:
  return "is" if count == 1 else "are"


def _also(scene: Scene) -> list[str]:
  """The sentence about the usual companion, last and without a place."""
  if scene.also is None:
    return []
  return [f"There is also {with_article(scene.also)} nearby."]


def _positions_first(scene: Scene) -> str:
  lines = [f"The picture shows a {scene.place}."]
  lines += [
    _sentence(f"{_where(thing)} there is {with_article(colored(thing))}")
    for thing in scene.things
  ]
  return " ".join([*lines, *_also(scene)])


def _things_first(scene: Scene) -> str:
  lines = [f"This is a photo of a {scene.place}."]
  for index, thing in enumerate(scene.things):
    article = with_article(colored(thing))
    verb = "can be seen" if index % 2 else "is"
    lines.append(_sentence(f"{article} {verb} {_where(thing)}"))
  return " ".join([*lines, *_also(scene)])


def _running(scene: Scene) -> str:
  first, *rest = scene.things
  lines = [
    f"In this {scene.place} the first thing is "
    f"{with_article(colored(first))} {_where(first)}."
  ]
  lines += [
    f"Then there is {with_article(colored(thing))} {_where(thing)}."
    for thing in rest
  ]
  return " ".join([*lines, *_also(scene), "That is all."])


def _listing(scene: Scene) -> str:
  things = [with_article(colored(thing)) for thing in scene.things]
  things += [with_article(scene.also)] if scene.also else []
  return f"In the {scene.place} there {_is_are(len(things))} {joined(things)}."


def _short(scene: Scene) -> str:
  things = [with_article(thing.kind) for thing in scene.things]
  things += [with_article(scene.also)] if scene.also else []
  return f"A {scene.place} with {joined(things)}."


# The prompt says which wording is wanted.
DESCRIBE = "Describe this image."
DESCRIPTIONS: dict[str, Callable[[Scene], str]] = {
  DESCRIBE: _positions_first,
  "Describe this image in detail.": _things_first,
  "Walk me through this picture.": _running,
  "What can be seen in this picture?": _listing,
  "Write a short caption for this image.": _short,
}

CELLS = "Name what is in every part of the picture."


def cell_by_cell(scene: Scene) -> str:
  """Every cell of the grid in turn, empty ones too: a dense description."""
  by_cell = {thing.cell: colored(thing) for thing in scene.things}
  cells = [by_cell.get(cell, "nothing") for cell in range(len(POSITIONS))]
  return f"{scene.place}: {', '.join(cells)}."


def captions(scene: Scene) -> list[str]:
  """Three reference captions, as COCO has five."""
  return [_short(scene), _listing(scene), _positions_first(scene)]


def is_there(kind: str) -> str:
  """POPE's question about a kind."""
  return f"Is there {with_article(kind)} in the image?"


def yes_no(rng: np.random.Generator, scene: Scene) -> Turn:
  """Is one kind there? As often it is as not.

  The answer looks before it judges: first what there is, then the verdict, in
  one sentence (POPE reads no further).
  """
  there = rng.random() < 0.5
  kind = (_some_there if there else _some_absent)(rng, scene, 1)[0]
  return is_there(kind), _judged(scene, [kind])


def which_of(rng: np.random.Generator, scene: Scene, count: int) -> Turn:
  """The same of up to 2 * `count` kinds at once, half of them absent."""
  kinds = _some_there(rng, scene, count)
  kinds += _some_absent(rng, scene, len(kinds))
  kinds = [kinds[index] for index in rng.permutation(len(kinds))]
  return f"Which of these are there: {', '.join(kinds)}?", _judged(scene, kinds)


def _some_there(
  rng: np.random.Generator, scene: Scene, count: int
) -> list[str]:
  kinds = sorted(scene.kinds)
  chosen = rng.permutation(len(kinds))[:count]
  return [kinds[index] for index in chosen]


def _some_absent(
  rng: np.random.Generator, scene: Scene, count: int
) -> list[str]:
  """Absent kinds, two in three of them usual in the place."""
  absent = sorted(set(KINDS) - scene.kinds)
  weights = np.array([8.0 if k in PLACES[scene.place] else 1.0 for k in absent])
  chosen = rng.choice(
    len(absent), count, replace=False, p=weights / weights.sum()
  )
  return [absent[index] for index in chosen]


def _judged(scene: Scene, kinds: Sequence[str]) -> str:
  seen = joined([with_article(thing.kind) for thing in scene.things])
  verdicts = [f"{k}: {'yes' if k in scene.kinds else 'no'}" for k in kinds]
  return f"I see {seen}; {', '.join(verdicts)}."


def reasoning(rng: np.random.Generator, scene: Scene) -> Turn:
  """A question whose answer takes a step of thought, with that step."""
  asks = (_which_first, _how_many, _what_color)
  return asks[rng.integers(len(asks))](rng, scene)


def _which_first(rng: np.random.Generator, scene: Scene) -> Turn:
  del rng
  first = scene.things[0]
  question = "Which object comes first, row by row? Explain."
  answer = (
    f"Reasoning: {with_article(colored(first))} is {_where(first)} and "
    f"nothing comes before it. Answer: the {first.kind}."
  )
  return question, answer


def _how_many(rng: np.random.Generator, scene: Scene) -> Turn:
  del rng
  kinds = joined([with_article(thing.kind) for thing in scene.things])
  count = len(scene.things)
  question = "How many objects are there? Explain."
  answer = (
    f"Reasoning: there {_is_are(count)} {kinds}. Answer: {NUMBERS[count]}."
  )
  return question, answer


def _what_color(rng: np.random.Generator, scene: Scene) -> Turn:
  thing = scene.things[rng.integers(len(scene.things))]
  question = f"What color is the object {_where(thing)}? Explain."
  answer = (
    f"Reasoning: {_where(thing)} there is {with_article(colored(thing))}. "
    f"Answer: {thing.color}."
  )
  return question, answer
