"""Regexes on parameter paths and the table they print."""

import jax
import jax.numpy as jnp
import pytest

from povid_jax.errors import UserError
from povid_jax.training import trainable

PARAMS = {
  "vision/layers/mlp/fc1/kernel": jax.ShapeDtypeStruct((3, 4), jnp.bfloat16),
  "projector/linear_1/kernel": jax.ShapeDtypeStruct((4, 5), jnp.float32),
  "decoder/lm_head/kernel": jax.ShapeDtypeStruct((1000, 30), jnp.bfloat16),
  "decoder/layers/mlp/up_proj/lora_a": jax.ShapeDtypeStruct(
    (2, 50, 8), jnp.float32
  ),
}


def test_table():
  got = trainable.trainable_table(PARAMS, ["lora_[ab]$", "^projector/"])
  assert got == (
    "parameters                 trainable                  frozen\n"
    "------------------------------------------------------------\n"
    "decoder                            -       30,000 (60.00 kB)\n"
    "decoder LoRA           800 (3.20 kB)                       -\n"
    "projector                  20 (80 B)                       -\n"
    "vision                             -               12 (24 B)\n"
    "total                  820 (3.28 kB)       30,012 (60.02 kB)"
  )


def test_a_quantised_kernel_counts_with_all_its_parameters():
  kernel = "decoder/layers/mlp/up_proj/kernel"
  held = {
    kernel: jax.ShapeDtypeStruct((2, 32, 10), jnp.uint8),  # two rows a byte
    f"{kernel}_scale": jax.ShapeDtypeStruct((2, 1, 10), jnp.bfloat16),
  }
  got = trainable.trainable_table({**PARAMS, **held}, "lora_[ab]$")
  assert "31,280 (60.68 kB)" in got.splitlines()[2]


def test_match():
  assert trainable.match_trainable(PARAMS, "mlp") == {
    "vision/layers/mlp/fc1/kernel",
    "decoder/layers/mlp/up_proj/lora_a",
  }


@pytest.mark.parametrize(
  ("regexes", "message"),
  [
    (["lora_[ab]$", "projektor/"], "'projektor/' matches no parameter"),
    ("mm_projector", "groups: decoder, projector, vision"),
    ("([", "not a regular expression"),
    ([], "config.trainable is empty"),
  ],
)
def test_regex_that_names_nothing(regexes, message):
  with pytest.raises(UserError) as error:
    trainable.match_trainable(PARAMS, regexes)
  assert message in str(error.value)
