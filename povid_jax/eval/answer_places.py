"""Which question a row of an answer file is about: id, words and picture."""

from collections import defaultdict
from collections.abc import Container, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from povid_jax.data.questions import Question
from povid_jax.errors import UserError
from povid_jax.eval.answer_fields import bare
from povid_jax.eval.protocol import Benchmark


def by_text(questions: Sequence[Question]) -> dict[str, list[int]]:
  places: dict[str, list[int]] = defaultdict(list)
  for place, question in enumerate(questions):
    places[bare(question.text)].append(place)
  return places


def _prompt_of(row: Mapping[str, Any]) -> str:
  return bare(row.get("prompt") or row.get("question") or "")


def _picture_of(row: Mapping[str, Any]) -> str | None:
  for name in ("image", "image_path", "img_path"):
    if isinstance(row.get(name), str) and len(row[name]) < 4096:
      return Path(row[name]).stem
  return None


def _same_picture(question: Question, row: Mapping[str, Any]) -> bool:
  """Whether a row may be about a question's picture: it is, or names none."""
  picture = _picture_of(row)
  return picture is None or picture in pictures_of([question])


def pictures_of(questions: Iterable[Question]) -> set[str | None]:
  """The names of the questions' pictures without folder and ending."""
  return {Path(str(image)).stem for q in questions for image in q.images}


def of_another_file(
  questions: Sequence[Question],
  rows: Sequence[Mapping[str, Any]],
  ids: Sequence[Any],
  places: Mapping[str, list[int]],
  others: Mapping[str, list[int]],
) -> bool:
  """Whether no id is one of the benchmark's, or the question that a row repeats
  is not that of its id: another tool counts its rows in another way.
  """
  if not any(str(row_id) in places for row_id in ids):
    return True
  for row, row_id in zip(rows, ids, strict=True):
    said, own = _prompt_of(row), places.get(str(row_id), [])
    words = [bare(questions[place].text) for place in own]
    if own and said in others and said not in words:
      return True
  return False


def agreeing(
  places: Sequence[int],
  questions: Sequence[Question],
  row: Mapping[str, Any],
  others: Mapping[str, list[int]],
  pictures: Container[str | None],
  benchmark: Benchmark,
) -> Sequence[int]:
  """The places of a row's id, or, where the row repeats the words of another
  question or names its picture, the place of that question.

  Raises:
    UserError: the words are those of several other questions, or the picture
      is that of others only.
  """
  said = _prompt_of(row)
  same = [p for p in places if _same_picture(questions[p], row)]
  elsewhere = not same and _picture_of(row) in pictures
  repeats = said in others
  if not places or not (repeats or elsewhere):
    return places
  if not elsewhere and any(
    bare(questions[place].text) == said for place in places
  ):
    return places
  found = [p for p in others.get(said, ()) if _same_picture(questions[p], row)]
  if len(found) == 1 and _picture_of(row) is not None:
    return found
  place = places[0]
  if elsewhere:
    asked = ", ".join(str(path) for path in questions[place].images)
    raise UserError(
      f"{benchmark.name}: the answer with the id "
      f"{questions[place].question_id!r} is about the picture "
      f"{_picture_of(row)!r:.60}, and the question of that id about "
      f"{asked!r:.60}; use the benchmark's own ids"
    )
  raise UserError(
    f"{benchmark.name}: the answer with the id "
    f"{questions[place].question_id!r} repeats another question "
    f"({said[:60]!r}, not {bare(questions[place].text)[:60]!r}); its ids come "
    "from another file: add the picture to each row as `image`, or use the "
    "benchmark's own ids"
  )


def by_words(
  questions: Sequence[Question],
  rows: Sequence[Mapping[str, Any]],
  others: Mapping[str, list[int]],
) -> tuple[dict[str, list[int]], list[Any]] | None:
  """Slots and ids by question and picture; None where words do not tell every
  row's place."""
  words = [bare(question.text) for question in questions]
  in_order = len(rows) == len(questions) and all(
    _prompt_of(row) == text for row, text in zip(rows, words, strict=True)
  )
  named, keys = {}, []
  for number, row in enumerate(rows):
    places = others.get(_prompt_of(row), [])
    found = [p for p in places if _same_picture(questions[p], row)]
    if in_order:
      found = [number]
    if len(found) != 1:
      return None
    key = f"row {number}"
    named[key] = found
    keys.append(key)
  return named, keys


def asked(
  places: Sequence[int], questions: Sequence[Question], row: Mapping[str, Any]
) -> tuple[Sequence[int], bool]:
  """Of the questions with one id, those that a row repeats; was there one?"""
  said = _prompt_of(row)
  same = [p for p in places if said and bare(questions[p].text) == said]
  return (same, True) if same else (places, False)


def slots(
  questions: Sequence[Question], ids: Sequence[Any]
) -> dict[str, list[int]]:
  """id -> places of its questions: by our ids if they fit, else by official."""
  own: dict[str, list[int]] = defaultdict(list)
  official: dict[str, list[int]] = defaultdict(list)
  for place, question in enumerate(questions):
    names = (question.question_id, *question.extra.get("aliases", ()))
    for name in dict.fromkeys(map(str, names)):  # picture 1 may be "1.jpg"
      own[name].append(place)
    given = question.extra.get("official_id", question.question_id)
    official[str(given)].append(place)
  fits = sum(str(row_id) in own for row_id in ids)
  return own if fits >= sum(str(i) in official for i in ids) else official
