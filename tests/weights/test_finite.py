"""NaN and infinity in weights: found in every dtype, and named."""

import ml_dtypes
import numpy as np
import pytest

from povid_jax.errors import UserError
from povid_jax.weights import finite
from povid_jax.weights.load import cast

DTYPES = (np.float16, np.float32, np.float64, ml_dtypes.bfloat16)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bad", [np.nan, -np.nan, np.inf, -np.inf])
def test_it_is_found_and_named(dtype: type, bad: float):
  array = np.full((3, 700_000), -1.5, dtype)
  array[0, 0] = ml_dtypes.finfo(dtype).max
  array[0, 1] = ml_dtypes.finfo(dtype).min
  array[0, 2] = -0.0
  finite.check(array, "a file: a key")
  finite.check(array.T, "a file: a key")  # not contiguous
  array[2, 5] = bad
  with pytest.raises(UserError, match=r"a key has 1 value.*\[2, 5\]"):
    finite.check(array, "a file: a key")
  with pytest.raises(UserError, match=r"\[5, 2\]"):
    finite.check(array.T, "a file: a key")


def test_whole_numbers_and_empty_arrays_pass():
  finite.check(np.array([2**31 - 1, -1], np.int32), "x")
  finite.check(np.zeros((0, 4), np.float32), "x")


@pytest.mark.parametrize(
  "before, after, value",
  [
    (np.float32, np.float16, 65_520.0),
    (np.float32, np.float16, -1e9),
    (ml_dtypes.bfloat16, np.float16, 1e5),
    (np.float64, np.float32, 1e39),
    (np.float32, ml_dtypes.bfloat16, 3.4e38),
  ],
)
def test_a_cast_that_overflows(before: type, after: type, value: float):
  kernel = np.array([[1.0, 2.0], [value, 3.0]], before)
  assert np.isfinite(kernel.astype(np.float64)).all()
  message = rf"up_proj has 1 value.*\[0, 1\].*{np.dtype(after)}.*bfloat16"
  with pytest.raises(UserError, match=message):
    cast(kernel.T, np.dtype(after), "up_proj")
  kernel[1, 0] = 100.0
  assert cast(kernel.T, np.dtype(after), "up_proj").tolist() == [
    [1.0, 100.0],
    [2.0, 3.0],
  ]
