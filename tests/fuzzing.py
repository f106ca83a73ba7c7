"""What the fuzz tests share: any JSON, and files with something spoilt."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from povid_jax.errors import UserError


def runs(examples: int) -> settings:
  """So many examples, each as long as it takes."""
  return settings(
    max_examples=examples,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
  )


def values(*words: str) -> Any:
  """Strategy: any JSON; `words` are texts that lead further in."""
  return st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["0", "\x1b[2J\n", "../x", *words]),
    lambda inner: (
      st.lists(inner, max_size=3)
      | st.dictionaries(st.text(max_size=6), inner, max_size=3)
    ),
    max_leaves=6,
  )


def paths(value: Any, at: tuple = ()) -> list[tuple]:
  """Every place in a JSON value, the whole one left out."""
  out = [at] if at else []
  inner = value.items() if isinstance(value, dict) else ()
  inner = enumerate(value) if isinstance(value, list) else inner
  for name, held in inner:
    out += paths(held, (*at, name))
  return out


def put(value: Any, path: tuple, new: Any) -> Any:
  """A copy with another value at one place."""
  if not path:
    return new
  value = copy.deepcopy(value)
  place = value
  for name in path[:-1]:
    place = place[name]
  place[path[-1]] = new
  return value


def survives(ask: Callable[[], Any]) -> None:
  """Whatever it is asked, the answer is a value or a UserError of one line."""
  try:
    ask()
  except UserError as error:
    assert str(error)


def spoil(data: Any, text: str, any_json: Any) -> bytes:
  """Draws a JSON text, or lines of JSON, with something wrong in it."""
  how = data.draw(st.sampled_from(["value", "value", "bytes", "cut", "deep"]))
  raw = text.encode()
  if how == "value":
    lines = text.splitlines() if text.count("\n") > 1 else [text]
    try:
      number = data.draw(st.integers(0, len(lines) - 1))
      row = json.loads(lines[number])
    except ValueError:  # one value over many lines
      number, lines, row = 0, [text], json.loads(text)
    path = data.draw(st.sampled_from([(), *paths(row)]))
    lines[number] = json.dumps(put(row, path, data.draw(any_json)))
    return "\n".join(lines).encode() + b"\n"
  at = data.draw(st.integers(0, len(raw)))
  if how == "cut":
    return raw[:at]
  junk = data.draw(st.binary(max_size=24))
  if how == "deep":
    junk = b"[" * 100_000 if at % 2 else b"9" * 5000
  return raw[:at] + junk + raw[at + data.draw(st.integers(0, 9)) :]


def fuzzed(
  data: Any, file: Path, ask: Callable[[], Any], any_json: Any
) -> None:
  """Asks with a spoilt file; the file is as before then."""
  before = file.read_bytes()
  try:
    file.write_bytes(spoil(data, before.decode(), any_json))
    survives(ask)
  finally:
    file.write_bytes(before)
