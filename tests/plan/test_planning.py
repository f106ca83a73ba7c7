"""povid_jax.plan: what it compiles is the step, and what it says is so."""

import functools
import json

import jax
import jax.numpy as jnp
import pytest

from povid_jax import config as config_lib
from povid_jax import errors
from povid_jax.errors import UserError
from povid_jax.models import chips
from povid_jax.models.chips import GIB
from povid_jax.models.presets import preset
from povid_jax.plan import __main__ as plan
from povid_jax.plan import abstract, planning, suggest, text
from povid_jax.plan.abstract import Shape
from povid_jax.plan.topology import parse
from povid_jax.training import outline

STAGE2 = "configs/povid_stage2.py"
SMALL = Shape(prefix=24, branch=8)


def load(spec=STAGE2, **fields):
  return config_lib.load(spec, list(fields.items()))


@pytest.mark.parametrize(
  ("name", "platform", "devices"),
  [
    ("v5e:4x4", "tpu", 16),
    ("v5p:2x2x2", "tpu", 8),
    ("V6E:2x4", "tpu", 8),
    ("gpu:8x80GB", "gpu", 8),
    ("gpu:8xH100", "gpu", 8),
    ("gpu:h200", "gpu", 1),
    ("gpu:2xa100-40", "gpu", 2),
    ("gpu:4090", "gpu", 1),
    ("cpu:8", "cpu", 8),
  ],
)
def test_topology_names(name, platform, devices):
  topology = parse(name)
  assert (topology.platform, topology.devices) == (platform, devices)


def test_memory_is_less_than_what_is_sold():
  assert 15 * GIB < parse("v5e:4x4").chip.memory < 16 * GIB
  assert 70e9 < parse("gpu:1x80GB").chip.memory < 80e9


@pytest.mark.parametrize(
  "name",
  ["v5e", "v5e:0x4", "v9:2x2", "gpu:80GB", "cpu:0", "gpu:8x80", "gpu:h99", ""],
)
def test_unknown_topologies_are_refused(name):
  with pytest.raises(UserError, match="want v4:AxB.*gpu:NxMGB or cpu:N"):
    parse(name)


@pytest.mark.parametrize(
  ("name", "wanted"),
  [
    ("v5e:4x4x4", "want v5e:AxB, at most v5e:16x16"),
    ("v5e:1000x1000", "want v5e:AxB, at most v5e:16x16"),
    ("v6e:16x17", "want v6e:AxB, at most v6e:16x16"),
    ("v5p:2x2", "want v5p:AxBxC, at most v5p:16x20x28"),
    ("v5p:28x28x2", "want v5p:AxBxC, at most v5p:16x20x28"),
    ("v4:16x16x32", "want v4:AxBxC, at most v4:16x16x16"),
    ("cpu:100000", "want at most 256 virtual devices"),
  ],
)
def test_slices_that_no_pod_holds(name, wanted):
  """libtpu would abort the whole process for the first two."""
  with pytest.raises(UserError, match=f"--topology='{name}': {wanted}"):
    parse(name)


def test_sides_in_any_order():
  assert parse("v5p:28x16x20").devices == 8960


@pytest.mark.parametrize("name", ["v4:2x2x1", "v5e:2x2", "v6e:2x4"])
def test_libtpu_has_as_many_devices_as_we_say(name):
  pytest.importorskip("libtpu")
  config = load(batch_size=8)
  mesh = abstract.make_mesh(config, parse(name), compiled=True)
  assert mesh.size == parse(name).devices


@pytest.mark.slow
def test_cpu_plan_of_the_command(tmp_path, capsys):
  out = tmp_path / "plan.json"
  arguments = [
    f"--config={STAGE2}",
    "--topology=cpu:8",
    "--preset=test",
    "--prefix=24",
    "--branch=8",
    f"--json={out}",
    "--config.batch_size=8",
    "--config.lora.rank=4",
  ]
  assert plan.main(arguments) == 0
  written = json.loads(out.read_text())
  assert written["fits"] is True
  assert written["estimated"] is False
  assert written["batch_pairs"] == 8
  assert written["mesh"] == {"data": 1, "fsdp": 8, "tensor": 1}
  assert written["bytes_per_device"] == sum(written["bytes"].values())
  assert set(written["bytes"]) == {
    "weights",
    "trained",
    "optimizer",
    "gradients",
    "activations",
    "temporaries",
    "batch",
  }
  # float32 masters; Adam's two moments are as large, and counters
  trained = written["bytes"]["trained"]
  assert trained * 2 <= written["bytes"]["optimizer"] < trained * 2 + 100
  assert written["flops_per_step"] > 0
  assert written["pairs_per_second"] is None  # a CPU's peak says nothing
  printed = capsys.readouterr().out
  assert "fits" in printed and "arithmetic intensity" in printed


def test_trained_bytes_are_those_of_one_device():
  """fsdp=8 cuts the kernels' adapters by 8, tensor leaves norms whole."""
  config = load(**{"lora.rank": 8, "batch_size": 8})
  described = preset("test")
  one = _estimate(config, described, "cpu:1")
  eight = _estimate(config, described, "cpu:8")
  assert eight.bytes["weights"] < one.bytes["weights"] / 2
  assert eight.bytes["trained"] < one.bytes["trained"] / 2
  assert eight.flops_per_step == one.flops_per_step


@pytest.mark.slow
@pytest.mark.parametrize(
  ("size", "card", "least"), [("7b", 12, 9), ("13b", 24, 16)]
)
def test_a_base_in_4_bits_fits_a_card_that_others_do_not(size, card, least):
  """Stage 2 at its released settings, every parameter counted."""
  described, topology = preset(f"llava-1.5-{size}"), parse(f"gpu:1x{card}GB")
  whole, small = (
    planning.make(
      load(f"{STAGE2}:{size}", base=base),
      described,
      topology,
      Shape(),
      compiled=False,
    )
    for base in ("bf16", "nf4")
  )
  assert small.fits and not whole.fits
  assert small.bytes_per_device > least * 1e9
  assert small.flops_per_step == whole.flops_per_step


def _estimate(config, described, name, shape=SMALL):
  return planning.make(config, described, parse(name), shape, compiled=False)


def test_arguments_are_those_of_training():
  """The same names, shapes and dtypes that train's step is given."""
  config, _ = planning.complete(
    load(**{"batch_size": 4, "lora.rank": 4, "mesh.fsdp": 1}), parse("cpu:1")
  )
  described = preset("test")
  sketch = outline.outline(config, described)
  from povid_jax.training import build

  step, _ = build.make_step(config, sketch, 10)
  mesh = abstract.make_mesh(config, parse("cpu:1"), True)
  state, frozen, batch = abstract.abstract_arguments(
    config, described, sketch, step, mesh, SMALL
  )
  given = {name for name, x in batch._asdict().items() if x is not None}
  assert given == {
    "prefix_ids",
    "prefix_len",
    "branch_ids",
    "loss_mask",
    "images",
    "images_noisy",
    "reference",
  }
  assert batch.reference.noise.shape == (1, 4)
  assert batch.reference.rejected.shape == (1, 4, 1)
  assert batch.reference.corrupted is None
  assert batch.branch_ids.shape == (1, 4, 2, 8)
  assert all(x.dtype == "float32" for x in state.params.values())
  assert all(x.dtype == "bfloat16" for x in frozen.params.values())
  assert not frozen.reference
  with jax.set_mesh(mesh):
    out, _ = jax.eval_shape(step, state, frozen, batch)
  assert jax.tree.map(lambda x: x.shape, out) == jax.tree.map(
    lambda x: x.shape, state
  )


def test_a_program_that_cannot_be_printed_still_has_its_memory(monkeypatch):
  """As XLA fails with one of another version's; any program stands for it."""

  def fail(self):
    raise jax.errors.JaxRuntimeError("INTERNAL: RET_CHECK failure")

  small = jax.jit(lambda x: x @ x).lower(jnp.ones((8, 8))).compile()
  monkeypatch.setattr(planning, "compile_step", lambda *_: (small, ""))
  make = functools.partial(
    planning.make, load(), preset("test"), parse("cpu:1"), SMALL
  )
  assert make().notes == []
  monkeypatch.setattr(type(small), "as_text", fail)
  found = make()
  assert found.fits and not found.estimated and found.roofline is None
  assert "cannot print" in found.notes[0]


def test_batch_that_does_not_divide_is_raised_and_said():
  found = _estimate(load(), preset("test"), "cpu:8")
  assert found.batch_pairs == 8
  assert "batch_size=1 cannot be divided" in found.notes[0]
  assert "--config.batch_size=8" in found.notes[0]


def test_gpus_are_estimated_and_marked():
  config = load(f"{STAGE2}:7b", batch_size=8)
  found = _estimate(config, preset("llava-1.5-7b"), "gpu:8x80GB", Shape())
  assert found.estimated and found.fits
  assert found.attention == "cudnn"
  shown = text.text(found, 0.5)
  assert "fits (estimated)" in shown
  assert "data sheet of the a100-80" in shown
  assert "nothing was measured on the a100-80 yet" in shown
  # 7B in bfloat16 is 14.1 GB with its vision tower, over 8 devices
  assert found.bytes["weights"] == pytest.approx(14.1e9 / 8, rel=0.02)


@pytest.mark.parametrize("name", chips.MEASURED)
def test_a_card_that_was_measured_says_so(name):
  """The estimate beside it agrees with what was measured."""
  config = load(f"{STAGE2}:7b", batch_size=16, reference="online")
  found = _estimate(config, preset("llava-1.5-7b"), f"gpu:{name}", Shape())
  _, pairs, size = chips.MEASURED[name]
  assert f"{pairs} in stage 2, {size} GB" in text.text(found, 0.48)
  estimated = text.rates(found, 0.48)["pairs_per_second"]
  assert estimated == pytest.approx(pairs, rel=0.05)
  assert found.bytes_per_device == pytest.approx(1e9 * size, rel=0.15)


def test_what_does_not_fit_gets_the_nearest_that_does():
  config = load(f"{STAGE2}:13b", batch_size=32, remat="none")
  described = preset("llava-1.5-13b")
  topology = parse("gpu:2x40GB")
  first = planning.make(config, described, topology, Shape())
  assert not first.fits
  found = suggest.complete(first, config, described, topology, Shape())
  (suggestion,) = found.suggestions
  assert suggestion["bytes_per_device"] <= topology.chip.memory
  assert suggestion["batch_pairs"] == 32
  assert suggestion["set"]["remat"] == "full"
  assert "this fits" in text.text(found, 0.4)
  # and the suggestion can be pasted
  fields = {str(k): v for k, v in suggestion["set"].items()}
  again = _estimate(
    load(f"{STAGE2}:13b", **fields), described, "gpu:2x40GB", Shape()
  )
  assert again.fits


def test_nothing_near_fits():
  config = load("configs/dpo_full.py:13b", batch_size=2)
  described, topology = preset("llava-1.5-13b"), parse("gpu:2x40GB")
  first = planning.make(config, described, topology, Shape())
  found = suggest.complete(first, config, described, topology, Shape())
  assert not found.fits and not found.suggestions
  assert "use more devices" in text.text(found, 0.4)
  assert "use more" not in text.text(found, 0.4, searched=False)


@pytest.mark.parametrize(
  ("preset_name", "init", "spec", "layers"),
  [
    ("test", "", "a.py:13b", 2),
    ("", "", "a.py:13b", 40),
    ("", "", "a.py:7b", 32),
    ("", "", "a.py:7b_8gpu", 32),
  ],
)
def test_dimensions_without_a_checkpoint(preset_name, init, spec, layers):
  name, found = planning.dimensions(preset_name, init, spec)
  assert found.decoder.num_layers == layers
  assert name.startswith("preset ")


@pytest.mark.parametrize("spec", ["a.py", "a.py:stage2", "a.py:70b"])
def test_a_config_that_names_no_model_is_not_planned(spec):
  with pytest.raises(UserError, match=f"--config={spec} does not name a model"):
    planning.dimensions("", "", spec)


def test_rows_with_several_rejected_answers():
  """They take more of everything, unless the objective does not use them."""
  config, described = load(batch_size=8), preset("llava-1.5-7b")
  one, three = (
    _estimate(config, described, "gpu:8xH100", Shape(rejected=rejected))
    for rejected in (1, 3)
  )
  assert (one.pairs, three.pairs, three.branches) == (8, 24, 4)
  for kind in ("batch", "temporaries"):
    assert three.bytes[kind] > one.bytes[kind], kind
  # P + N C tokens of the run with a gradient, 1728 and 1216, and a noisy one
  assert 1.2 < three.flops_per_step / one.flops_per_step < 1728 / 1216
  assert "one rejected answer a row" in text.text(one, 0.4)
  assert "24 pairs a step" in text.text(three, 0.4)
  assert "3 rejected answers a row, 8 rows" in text.text(three, 0.4)
  noise_alone = load(**{"objective.hyper.text_weight": 0.0, "batch_size": 8})
  alone = [
    _estimate(noise_alone, described, "gpu:8xH100", Shape(rejected=rejected))
    for rejected in (1, 3)
  ]
  assert alone[0].flops_per_step == alone[1].flops_per_step
  assert "rejected" not in text.text(alone[0], 0.4)


def test_a_warm_up_of_any_length_is_planned():
  found = _estimate(load(warmup_steps=5000), preset("test"), "gpu:1xh100")
  assert found.flops_per_step > 0


def test_what_a_cached_reference_costs_is_said():
  (note,) = text.advice(load())
  assert "reference=online is as fast" in note
  assert len(text.advice(load(epochs=2.0))) == 2
  assert text.advice(load(reference="online")) == []


@pytest.mark.parametrize(
  ("flag", "said"),
  [
    ("--topology=v5e", "--topology='v5e': want v4:AxB"),
    ("--topology=v5e:4x4x4", "--topology='v5e:4x4x4': want v5e:AxB"),
    ("--config.mesh.tensor=3", "mesh (data=1, fsdp=-1, tensor=3) does not div"),
    ("--config.mesh.nope=3", "config has no field 'mesh.nope'; did you"),
    ("--preset=nope", "no preset 'nope'; there are ['llava-1.5-13b'"),
    (
      "--prefix=576",
      "--prefix=576 leaves no room for a question: the pictures",
    ),
    ("--config=configs/povid_stage2.py:70b", "configs/povid_stage2.py has no"),
    ("--config=nowhere.py", "no config file nowhere.py"),
  ],
)
def test_bad_input_is_one_line(flag, said, capsys, monkeypatch):
  def never(*_):
    raise AssertionError("compiled all the same")

  monkeypatch.setattr(planning, "compile_step", never)
  usual = [f"--config={STAGE2}:7b", "--topology=v5e:4x4"]
  if "mesh" in flag or "preset" in flag or "prefix" in flag:
    usual[1] = "--topology=gpu:8x80GB"  # where no libtpu is installed, too
  with pytest.raises(SystemExit) as caught:
    errors.run(lambda: plan.main([*usual, flag]))
  assert caught.value.code == 2
  err = capsys.readouterr().err
  assert err.startswith(f"error: {said}")
  assert err.count("\n") == 1


def test_a_plan_that_cannot_be_written_is_not_made(
  tmp_path, capsys, monkeypatch
):
  monkeypatch.setattr(planning, "make", None)
  (tmp_path / "file").write_text("x")
  for path, said in (
    (tmp_path, f"error: cannot write {tmp_path}: a folder has that name"),
    (tmp_path / "file/plan.json", f"error: cannot write to {tmp_path}/file"),
  ):
    bad = [f"--config={STAGE2}:7b", "--topology=gpu:1x80GB", f"--json={path}"]
    with pytest.raises(SystemExit) as caught:
      errors.run(lambda bad=bad: plan.main(bad))
    assert caught.value.code == 2
    err = capsys.readouterr().err
    assert err.startswith(said) and err.count("\n") == 1


@pytest.mark.slow
@pytest.mark.parametrize(
  ("variant", "name"),
  [("7b", "v5e:4x4"), ("13b", "v5e:4x4"), ("13b", "v5p:2x2x2")],
)
def test_stage_2_fits_tpu_slices(variant, name):
  pytest.importorskip("libtpu")
  config = load(f"{STAGE2}:{variant}", batch_size=16)
  described = preset(f"llava-1.5-{variant}")
  found = planning.make(config, described, parse(name), Shape())
  assert not found.estimated
  assert found.attention == "splash"
  assert found.batch_pairs == 16
  assert found.fits
