"""What the pages name exists: commands, flags, config fields, paths, links."""

import argparse
import ast
import contextlib
import functools
import importlib
import importlib.util
import io
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from povid_jax import config as config_lib

ROOT = Path(__file__).parents[1]
PAGES = sorted(
  path.relative_to(ROOT).as_posix()
  for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]
  if path.name != "CHANGELOG.md"  # it names what there was
)
# modules with the commands that each of them has
MODULES = {
  "povid_jax.train": (),
  "povid_jax.plan": (),
  "povid_jax.generate": (),
  "povid_jax.demo": (),
  "povid_jax.score": (),
  "povid_jax.report": (),
  "povid_jax.eval": ("compare", "matched-recall", "build-pope"),
  "povid_jax.convert": ("from-torch", "to-hf", "to-peft", "to-llava", "init"),
  "data_gen": (
    *("inject", "sample", "sample-noisy", "inspect", "write"),
    *("export", "merge", "rounds", "scenes", "tokenizer"),
  ),
}
# what commands write
_WRITTEN = ("benchmarks/results.json",)
# parts of paths that stand for others
_HOLDERS = re.compile(r"NAME|DIR|<|\{|\*")
_PATH = re.compile(
  r"\b(?:povid_jax|data_gen|configs|benchmarks|docs|tests)/[\w./<>{}*-]*"
)


class _Parsed(Exception):
  pass


def _commands(text: str) -> Iterator[list[str]]:
  """Words of every `python -m` line behind it; lines that go on (a backslash,
  or deeper to the right) are joined."""
  text = re.sub(r"\\\n\s*", " ", text)
  text = re.sub(r"\n {6,}(?=[\[-])", " ", text)
  for line in text.splitlines():
    found = re.search(
      r"python -m ((?:povid_jax|data_gen|benchmarks)\S* ?.*)", line
    )
    if found:
      command = re.split(r"`|\s[|>&]\s|;", found[1])[0]
      with contextlib.suppress(ValueError):  # prose with an apostrophe
        yield shlex.split(re.sub(r"\$[A-Z_]+", "1", command), comments=True)


def _main(module: str):
  spec = importlib.util.find_spec(module)
  assert spec is not None, module
  main = getattr(importlib.import_module(module), "main", None)
  if main is None:
    main = importlib.import_module(f"{module}.__main__").main
  return main


@functools.cache
def _help(module: str, command: str) -> str:
  """What --help prints."""
  with contextlib.redirect_stdout(io.StringIO()) as out:
    with contextlib.suppress(SystemExit):
      _main(module)([*([command] if command else []), "--help"])
  return out.getvalue()


def _parse(module: str, words: list[str]) -> None:
  """Gives the words to the command's own parser, and stops there."""
  true = argparse.ArgumentParser.parse_known_args

  def parse(self, *args, **kwargs):
    true(self, *args, **kwargs)
    raise _Parsed

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(argparse.ArgumentParser, "parse_known_args", parse)
    with contextlib.redirect_stderr(io.StringIO()) as error:
      try:
        _main(module)(words)
      except _Parsed:
        return
      except SystemExit:
        pass
  raise AssertionError(f"{module} {words}: {error.getvalue()}")


def _check(words: list[str]) -> None:
  """Flags, their values, and fields of one command line are known."""
  module, *rest = words
  if module.startswith("benchmarks"):
    assert (ROOT / module.replace(".", "/")).with_suffix(".py").exists(), module
    return
  assert module in MODULES, module
  command = rest[0] if rest and rest[0] in MODULES[module] else ""
  if not command and module in ("data_gen", "povid_jax.convert") and rest:
    assert not re.match(r"[a-z]", rest[0]), rest[0]
  fields = []
  if "--" in rest:  # what stands behind it goes to `sample`, or to Beam
    where = rest.index("--")
    if command == "rounds":
      behind = [f"--{name}=x" for name in ("out", "image-dir", "checkpoint")]
      _parse(module, ["sample", *rest[where + 1 :], *behind])
    rest = rest[:where]
  for word in rest:
    name, _, value = word.partition("=")
    if name.startswith("--config.") and value:
      fields.append((name.removeprefix("--config."), value))
  spec = re.search(r"--config[= ](configs/\S+)", " ".join(rest))
  spec = spec[1] if spec else "configs/povid_stage1.py"
  config_lib.load(spec, [(n, v) for n, v in fields if v != "..."])
  if rest and not re.search(r"\[|\.\.\.|COMMAND|--help", " ".join(rest)):
    _parse(module, rest)
    return
  known = set(re.findall(r"--[a-z][\w-]*", _help(module, command)))
  for word in rest:
    flag = word.strip("[]").partition("=")[0]
    if flag.startswith("--") and not flag.startswith("--config."):
      assert flag in {*known, "--help"}, f"{flag} of {module} {command}"


@pytest.mark.parametrize("page", PAGES)
def test_the_commands_of_a_page_are_known(page):
  for words in _commands((ROOT / page).read_text()):
    _check(words)


@pytest.mark.parametrize("module", MODULES)
def test_the_examples_of_help_are_known(module):
  for command in ("", *MODULES[module]):
    text = _help(module, command)
    assert not re.search(r"\S {3,}--", text.partition("\noptions:")[0]), text
    for words in _commands(text):
      _check(words)


@pytest.mark.parametrize("folder", ["benchmarks", "configs"])
def test_the_examples_in_heads_of_files_are_known(folder):
  for path in sorted((ROOT / folder).glob("*.py")):
    text = ast.get_docstring(ast.parse(path.read_text())) or ""
    # a backslash that is no raw one joins two lines of the example
    assert not re.search(r"\S {3,}--", text), path
    for words in _commands(text):
      _check(words)


@pytest.mark.parametrize(
  "line",
  [
    "python -m povid_jax.train --config=configs/povid_stage2.py:7b --no-flag",
    "python -m povid_jax.train --config=configs/povid_stage2.py --workdir=w "
    "--config.lrr=1",
    "python -m povid_jax.train --config=configs/none.py --workdir=w",
    "python -m povid_jax.generate --checkpoint=a --chat --dtype=float8",
    "python -m data_gen write --pairs FILE [--shard-count N]",
    "python -m data_gen injekt --out=x",
    "python -m povid_jax.nothing",
  ],
)
def test_a_command_that_is_not_there_is_found(line):
  (words,) = _commands(line)
  with pytest.raises(Exception):  # noqa: B017
    _check(words)


def _absent(text: str, folder: Path) -> list[str]:
  """Paths of the repository, and links from `folder`, that are not there."""
  absent = []
  for found in _PATH.finditer(text):
    path = found[0].rstrip(".,")
    inside_another = text[: found.start()][-1:] in ("/", "-", ".")
    if path in _WRITTEN or _HOLDERS.search(path) or inside_another:
      continue
    # a module may be named without its ending
    if not ((ROOT / path).exists() or (ROOT / f"{path}.py").exists()):
      absent.append(path)
  links = re.findall(r"\]\(([\w./-]+)(?:#[\w-]+)?\)", text)
  return absent + [link for link in links if not (folder / link).exists()]


@pytest.mark.parametrize("page", PAGES)
def test_what_a_page_names_exists(page):
  path = ROOT / page
  assert _absent(path.read_text(), path.parent) == []


@pytest.mark.parametrize(
  "text", ["`povid_jax/sharding.py`", "[x](none.md)", "see docs/none.md."]
)
def test_a_path_that_is_not_there_is_found(text):
  assert len(_absent(text, ROOT)) == 1
