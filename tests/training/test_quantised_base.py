"""A run whose frozen kernels are stored in 8 or 4 bits."""

import shutil

import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from benchmarks import quantised as quantised_error
from povid_jax import convert, score, train
from povid_jax.checkpoints import restore
from povid_jax.data.questions import Question
from povid_jax.errors import UserError
from povid_jax.generate import answering
from povid_jax.generate.decode import Decoding
from povid_jax.models import params, quantised
from povid_jax.training import build
from povid_jax.weights import load
from tests import small_world
from tests.small_world import make_mesh, run_config

UP = "decoder/layers/mlp/up_proj/kernel"


@pytest.fixture(scope="module")
def world(tmp_path_factory):
  return small_world.folders(tmp_path_factory.mktemp("quantised"), 10)


@pytest.mark.parametrize(
  ("kind", "dtype"), [("int8", "int8"), ("nf4", "uint8")]
)
def test_base_is_stored_small_and_cut_over_the_mesh(world, kind, dtype):
  config = run_config(world, base=kind)
  model = build.build_model(config, make_mesh(fsdp=4, tensor=2))
  kernel = model.frozen.params[UP]
  assert kernel.dtype == dtype and kernel.sharding.spec == P(
    None, "fsdp", "tensor"
  )
  assert set(model.params) | set(model.frozen.params) == set(model.shapes)
  for path, leaf in model.shapes.items():
    array = (model.params | model.frozen.params)[path]
    assert array.shape == leaf.shape, path
  plain = build.build_model(run_config(world), make_mesh(fsdp=8)).frozen.params
  back = quantised.dequantise(
    kernel, model.frozen.params[f"{UP}_scale"], jnp.float32
  )
  top = np.abs(np.asarray(plain[UP], np.float32)).max()
  error = np.abs(np.asarray(back) - np.asarray(plain[UP], np.float32)).max()
  assert 0 < error < (0.01 if kind == "int8" else 0.16) * top
  loose = "decoder/embed_tokens/embedding"
  np.testing.assert_array_equal(model.frozen.params[loose], plain[loose])


@pytest.mark.parametrize("trainable", ["decoder", "all"])
def test_full_training_of_a_quantised_base_is_refused(world, trainable):
  config = run_config(world, base="int8", trainable=trainable)
  with pytest.raises(UserError, match=r"config\.base=int8 .*trainable=lora"):
    build.build_model(config, make_mesh(fsdp=8))


@pytest.mark.slow
def test_a_run_resumes_and_every_command_takes_it(
  world, one_device, tmp_path, capsys
):
  fields = {"base": "nf4", "dtype": "bfloat16", "checkpoint.every": 1}
  config = run_config(world, steps=2, batch_size=2, **fields)
  run, cut = tmp_path / "run", tmp_path / "cut"
  whole = train.train_and_evaluate(config, run)
  train.train_and_evaluate(config, cut)
  for step in cut.glob("checkpoints/*"):
    if step.name != "1":
      shutil.rmtree(step)
  resumed = train.train_and_evaluate(config, cut)
  for path, array in whole.params.items():
    np.testing.assert_array_equal(array, resumed.params[path], err_msg=path)

  # eval, generate and sampling: the numbers of the base that was trained on
  model = build.build_model(config, make_mesh())
  frozen = model.frozen.params
  base = quantised.dequantise(frozen[UP], frozen[f"{UP}_scale"], jnp.float32)
  policy = answering.load_policy(str(run), merge_adapter=False)
  np.testing.assert_array_equal(policy.params[UP], base)
  small_world.picture(0).save(tmp_path / "0.png")
  asked = [Question(0, (tmp_path / "0.png",), "A dog?", {})]
  decoding = Decoding(max_new_tokens=2)
  assert len(answering.answer(policy, asked, decoding)) == 1

  # score: policy and reference are on that base
  scorer = score.load_scorer(str(run), dtype="float32")
  for network in (scorer.policy, scorer.reference):
    np.testing.assert_array_equal(network.params[UP], base)

  # export: the changes on the base as it was, and a word about it
  capsys.readouterr()
  convert.main(["to-hf", str(run), str(tmp_path / "hf")])
  assert "was trained on kernels in nf4" in capsys.readouterr().err
  given = restore.load(world / "model").params
  lora = {path: np.asarray(x) for path, x in whole.params.items()}
  want = params.merge_lora({**given, **lora}, 4.0 / 2)
  got = load.open_checkpoint(tmp_path / "hf").params()
  np.testing.assert_allclose(got[UP], want[UP], atol=1e-6)
  assert np.abs(np.asarray(got[UP]) - base).max() > 1e-2

  # a second stage on top is quantised anew, adapters folded in
  second = run_config(world, base="int8", init=str(run))
  held = build.build_model(second, make_mesh()).frozen.params
  back = quantised.dequantise(held[UP], held[f"{UP}_scale"], jnp.float32)
  merged = restore.load(str(run), dtype=jnp.float32).merged().params[UP]
  assert np.abs(back - merged).max() < 0.01 * np.abs(merged).max()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["int8", "nf4"])
def test_losses_and_gradients_are_near_those_of_the_whole_base(
  kind, world, one_device
):
  at = world / "model", world / "data"
  whole = quantised_error.measure(*at, "", 8)
  found = quantised_error.compare(
    quantised_error.measure(*at, f"base={kind}", 8), whole
  )
  limit = {"int8": 0.05, "nf4": 1.0}[kind]
  assert 0 < found["log-prob per token"] < limit
  assert 0 < found["gradient"] < limit
