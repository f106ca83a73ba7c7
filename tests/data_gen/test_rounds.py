"""Rounds of ordinary commands, stopped and started again."""

import pytest

from data_gen import __main__ as data_gen
from data_gen import rounds
from povid_jax.errors import UserError


class Commands:
  """Stands for the commands: notes them and makes what they leave."""

  def __init__(self, folder):
    self.folder = folder
    self.seen: list[str] = []
    self.fails_at: str | None = None

  def __call__(self, command):
    flags = dict(f.partition("=")[::2] for f in command if f.startswith("--"))
    name = " ".join(command[1:3]).removeprefix("data_gen ")
    name = name.partition(" --")[0]
    place = flags.get("--workdir", flags.get("--out", ""))
    self.seen.append(f"{name} {place.removeprefix(str(self.folder) + '/')}")
    if self.seen[-1] == self.fails_at:
      return 3
    if name == "sample":
      rounds.Path(place).parent.mkdir(parents=True, exist_ok=True)
      rounds.Path(place).write_text("")
    elif name == "write":
      rounds.Path(place).mkdir()
      rounds.Path(place, "dataset_info.json").write_text("{}")
    else:
      rounds.Path(place, "checkpoints").mkdir(parents=True)
    self.flags = flags
    return 0


ALL = [
  step.format(number)
  for number in (1, 2)
  for step in (
    "sample round-{}/pairs.jsonl",
    "write round-{}/records",
    "povid_jax.train round-{}/run",
  )
]


@pytest.fixture
def commands(tmp_path, monkeypatch):
  made = Commands(tmp_path)
  monkeypatch.setattr(rounds, "_run", made)
  return made


def _main(folder, *flags, sample=("--input=a.jsonl",)):
  return data_gen.main(
    [
      *("rounds", "--rounds=2", "--checkpoint=base", "--config=c.py"),
      *(f"--out={folder}", "--image-dir=images", *flags, "--", *sample),
    ]
  )


def test_each_round_starts_from_the_last(tmp_path, commands):
  assert _main(tmp_path, "--train=--config.lr=1") == 0
  assert commands.seen == ALL
  assert commands.flags["--config.init"] == str(tmp_path / "round-1/run")
  assert commands.flags["--config.seed"] == "1"
  assert commands.flags["--config.lr"] == "1"
  assert _main(tmp_path, "--train=--config.lr=1") == 0
  assert commands.seen == ALL


@pytest.mark.parametrize("number", range(len(ALL)))
def test_goes_on_where_it_stopped(tmp_path, commands, number):
  commands.fails_at = ALL[number]
  assert _main(tmp_path) == 3
  commands.fails_at = None
  assert _main(tmp_path) == 0
  assert commands.seen == [*ALL[: number + 1], *ALL[number:]]


def test_a_folder_that_was_written_before_a_kill_is_taken(tmp_path, commands):
  commands.fails_at = ALL[1]
  _main(tmp_path)
  records = tmp_path / "round-1/records"
  records.mkdir()
  (records / "dataset_info.json").write_text("{}")
  commands.fails_at = None
  commands.seen.clear()
  assert _main(tmp_path) == 0
  assert commands.seen == ALL[2:]


def test_flags_that_make_no_sense(tmp_path, commands):
  assert _main(tmp_path) == 0
  with pytest.raises(UserError, match="sample-1 was done with other flags"):
    _main(tmp_path, sample=("--input=b.jsonl",))
  with pytest.raises(
    UserError, match="--seed=3: the command rounds sets this flag"
  ):
    _main(tmp_path, sample=("--seed=3",))
