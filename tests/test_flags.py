"""Every flag that is a number has bounds, and what is outside is refused."""

import argparse
import importlib
import json
import math

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_gen import __main__ as data_gen
from povid_jax import bounds
from povid_jax.errors import UserError
from tests import small_world

MAINS = {
  "train": ("train", []),
  "score": ("score", []),
  "generate": ("generate.__main__", []),
  "demo": ("demo.__main__", []),
  "eval": ("eval.__main__", []),
  "compare": ("eval.__main__", ["compare"]),
  "build-pope": ("eval.__main__", ["build-pope"]),
  "matched-recall": ("eval.__main__", ["matched-recall"]),
  "plan": ("plan.__main__", []),
  "report": ("report.__main__", []),
  "convert": ("convert", []),
}
TEXTS = st.one_of(
  st.integers().map(str),
  st.floats().map(str),
  st.text(max_size=12),
  st.sampled_from(
    ["nan", "inf", "-inf", "1e400", "", "0x10", "1_0", "9" * 5000, "٣", "-0"]
  ),
)


class _Caught(Exception):
  pass


def _main(name):
  if name in data_gen.COMMANDS:
    return lambda argv: data_gen.main([name, *argv])
  module, first = MAINS[name]
  main = importlib.import_module(f"povid_jax.{module}").main
  return lambda argv: main([*first, *argv])


def _parsers(name):
  """The parser of a command, and those of its parts."""
  found = []

  def catch(self, *_):
    found.append(self)
    raise _Caught

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(argparse.ArgumentParser, "parse_args", catch)
    with pytest.raises(_Caught):
      _main(name)([])
  for action in found[0]._actions:
    if isinstance(action, argparse._SubParsersAction):
      found += action.choices.values()
  return found


FLAGS = [
  (name, parser, action)
  for name in [*MAINS, *data_gen.COMMANDS]
  for parser in _parsers(name)
  for action in parser._actions
  if action.type is not None
]
NUMBERS = [row for row in FLAGS if isinstance(row[2].type, bounds.Flag)]


def test_there_is_no_number_without_bounds():
  assert len(NUMBERS) > 100
  bare = [(n, a.option_strings) for n, _, a in FLAGS if a.type in (int, float)]
  assert not bare
  for name, _, action in NUMBERS:
    value = action.default
    held = value is None or action.type.bound.holds(value)
    assert held, (name, action.option_strings)


@settings(
  max_examples=150,
  deadline=None,
  suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(row=st.sampled_from(NUMBERS), text=TEXTS)  # fmt: skip
def test_a_number_is_in_its_bounds_or_refused(row, text, capsys):
  _, parser, action = row
  flag = action.option_strings[0]
  try:
    value = action.type(text)
  except argparse.ArgumentTypeError as error:
    assert str(error).isprintable()
    capsys.readouterr()
    with pytest.raises(SystemExit) as left:
      parser.parse_args([f"{flag}={text}"])
    assert left.value.code == 2
    # parsers of parts ask for their words first
    said = capsys.readouterr().err.splitlines()[-1]
    assert f"argument {flag}" in said, said
  else:
    assert type(value) is action.type.kind and math.isfinite(value)
    assert action.type.bound.holds(value)


@pytest.mark.parametrize(
  ("flag", "text", "wanted"),
  [
    (bounds.whole(1, 9), "0", "a whole number of at least 1, at most 9"),
    (bounds.whole(1), "2.5", "a whole number of at least 1"),
    (bounds.number(above=0, most=1), "0", "a number above 0, at most 1"),
    (bounds.number(below=1), "1", "a number of at least 0, below 1"),
    (bounds.number(), "nan", "a number of at least 0"),
  ],
)
def test_the_words(flag, text, wanted):
  with pytest.raises(argparse.ArgumentTypeError, match=f"{text}.*{wanted}"):
    flag(text)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
  root = tmp_path_factory.mktemp("flags")
  turns = lambda answer: [
    {"from": "human", "value": "<image>\nWhat is there?"},
    {"from": "gpt", "value": answer},
  ]
  rows = []
  for i in range(5):
    (root / f"{i}.png").write_bytes(small_world.png(i))
    said = f"A dog sits beside {i} red chairs."
    rows.append(
      {
        "id": str(i),
        "image": f"{i}.png",
        "conversations": turns(said),
        "rejected_conversations": turns(said.replace("dog", "cat")),
      }
    )
  (root / "pairs.json").write_text(json.dumps(rows))
  return root, root / "pairs.json"


# flags whose every value is cheap, and the rest of the command
RUNS = {
  "inspect": ("limit", "samples", "html-samples", "noise-step", "seed"),
  "inject": ("limit", "pairs-per-sample", "seed", "tries", "words-per-edit",
             "insert-above", "min-length", "max-length", "min-similarity"),
  "write": ("noise-step", "val-fraction", "seed"),
}  # fmt: skip


def _value(flag):
  low = flag.bound.least if flag.bound.least is not None else flag.bound.above
  high = flag.bound.most if flag.bound.most is not None else flag.bound.below
  if flag.kind is int:
    return st.integers(low, high).map(str)
  return st.floats(low, high).filter(flag.bound.holds).map(repr)


@pytest.mark.slow
@settings(
  max_examples=150,
  deadline=None,
  suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data(), name=st.sampled_from(sorted(RUNS)))  # fmt: skip
def test_numbers_in_their_bounds_make_no_traceback(
  data, name, world, tmp_path_factory, capsys
):
  root, pairs = world
  flags = {a.option_strings[0]: a.type for n, _, a in NUMBERS if n == name}
  argv = []
  for flag in data.draw(st.lists(st.sampled_from(RUNS[name]), unique=True)):
    argv.append(f"--{flag}={data.draw(_value(flags[f'--{flag}']))}")
  out = tmp_path_factory.mktemp("out")
  argv += {
    "inspect": [str(pairs), f"--image-dir={root}", f"--html={out / 'p.html'}"],
    "inject": [f"--input={pairs}", "--injector=rules", f"--out={out}/p.jsonl"],
    "write": [f"--pairs={pairs}", f"--image-dir={root}", f"--out={out / 'r'}",
              "--workers=1", "--store-noisy"],
  }[name]  # fmt: skip
  try:
    assert _main(name)(argv) in (0, None, 3)
  except UserError as error:
    assert str(error)
  assert not list(out.glob(".*tmp-*"))
