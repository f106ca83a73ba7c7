"""How a config is read and overridden, and what is refused."""

from pathlib import Path

import pytest

from povid_jax import config
from povid_jax.errors import UserError

FOLDER = Path(__file__).parents[1] / "configs"


def _file(tmp_path, body):
  path = tmp_path / "run.py"
  path.write_text(
    "from ml_collections import ConfigDict\n"
    "VARIANTS = ('big',)\n"
    "def get_config(variant='small'):\n"
    "  c = ConfigDict()\n"
    f"  {body}\n"
    "  return c\n"
  )
  return str(path)


def test_a_file_says_how_its_run_differs(tmp_path):
  spec = _file(
    tmp_path,
    "c.batch_size = 64 if variant == 'big' else 2; c.lora = ConfigDict(); "
    "c.lora.rank = 4; c.objective = ConfigDict(); "
    "c.objective.hyper = ConfigDict({'beta': 0.3})",
  )
  small, big = config.load(spec), config.load(f"{spec}:big")
  assert (small.batch_size, big.batch_size) == (2, 64)
  assert (small.lora.rank, small.lora.alpha) == (4, 256.0)
  assert small.objective.hyper.to_dict() == {"beta": 0.3}
  changed = config.load(
    spec,
    [("batch_size", "8"), ("lr", "1e-3"), ("share_prefix", "false"),
     ("objective.hyper.beta", "0.5"), ("lora.alpha", "2")],
  )  # fmt: skip
  assert changed.batch_size == 8 and changed.lr == 1e-3
  assert changed.share_prefix is False and changed.lora.alpha == 2.0
  assert changed.objective.hyper.beta == 0.5
  with pytest.raises(AttributeError, match="locked"):
    changed.new_field = 1


BAD = {
  "no field": (("lrr", "1"), "no field 'lrr'; did you mean 'lr'"),
  "nested": (("lora.rnk", "1"), "did you mean 'lora.rank'"),
  "a folder": (("lora", "1"), "no field 'lora'"),
  "of others": (("learning_rate", "1"), "did you mean 'lr'"),
  "of others, nested": (("train.max_steps", "1"), "did you mean 'steps'"),
  "last part": (("optimizer.clip_norm", "1"), "did you mean 'clip_norm'"),
  "nan": (("lr", "nan"), "config.lr: want a finite number, got 'nan'"),
  "infinite": (("steps", "inf"), "steps: want a whole number, got 'inf'"),
  "too large": (("eps", "1e999"), "config.eps: want a finite number"),
  "not a number": (
    ("lr", "fast"),
    "config.lr: want a finite number, got 'fast'",
  ),
  "not whole": (
    ("batch_size", "2.5"),
    "batch_size: want a whole number, got '2.5'",
  ),
  "not a bool": (("share_prefix", "maybe"), "share_prefix: want True or False"),
  "nothing": (("batch_size", ""), "batch_size: want a whole number, got ''"),
}


@pytest.mark.parametrize("case", BAD)
def test_overrides_that_are_refused(case, tmp_path):
  override, message = BAD[case]
  with pytest.raises(UserError, match=message):
    config.load(_file(tmp_path, "pass"), [override])


def test_files_that_are_refused(tmp_path):
  with pytest.raises(UserError, match="no config file .*none.py"):
    config.load("none.py")
  with pytest.raises(UserError, match=r"no variant 'huge'; it has \['big'\]"):
    config.load(_file(tmp_path, "pass") + ":huge")
  with pytest.raises(UserError, match="no field 'batch'; did you mean"):
    config.load(_file(tmp_path, "c.batch = 1"))
  with pytest.raises(UserError, match="get_config failed: NameError"):
    config.load(_file(tmp_path, "c.lr = nonsense"))
  with pytest.raises(UserError, match="cannot be loaded: SyntaxError"):
    config.load(_file(tmp_path, "c.lr ="))
  (tmp_path / "run.yaml").write_text("lr: 1e-6")
  with pytest.raises(UserError, match="run.yaml is not a config .*get_config"):
    config.load(str(tmp_path / "run.yaml"))
  (tmp_path / "empty.py").write_text("")
  with pytest.raises(UserError, match="has no function get_config"):
    config.load(str(tmp_path / "empty.py"))


def test_overrides_in_the_command_line():
  given = ["--config.lr=1e-3", "--config", "x.py", "--config.lora.rank", "4",
           "--workdir=d", "--config.init=a=b"]  # fmt: skip
  overrides, rest = config.take_overrides(given)
  assert overrides == [("lr", "1e-3"), ("lora.rank", "4"), ("init", "a=b")]
  assert rest == ["--config", "x.py", "--workdir=d"]


def test_flat():
  assert config.flat({"a": {"b": 1, "c": {"d": 2}}, "e": 3}) == {
    "a.b": 1, "a.c.d": 2, "e": 3
  }  # fmt: skip
  fields = config.flat_fields(config.default())
  assert fields["mesh.fsdp"] == -1 and "objective.hyper" in fields


def test_whole_numbers_keep_all_their_digits():
  made = config.default()
  config.set_field(made, "seed", "9007199254740993")
  assert made.seed == 9007199254740993


def test_an_installed_config_is_found_by_its_name(tmp_path, monkeypatch):
  """After `pip install` there is no configs/ in the working directory."""
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(config, "INSTALLED", FOLDER)
  found = config.load("configs/povid_stage2.py:7b")
  assert found.noise.step == 500
  with pytest.raises(UserError, match=r"no config file configs/none\.py"):
    config.load("configs/none.py")
