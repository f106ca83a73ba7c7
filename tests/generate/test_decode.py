"""Which token comes next: greedy, temperature, top-k and top-p."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from povid_jax.errors import UserError
from povid_jax.generate.decode import Decoding, choose

PROBS = np.array([0.5, 0.2, 0.15, 0.1, 0.05])
ORDER = np.array([3, 0, 4, 1, 2])  # where they stand in the vocabulary
LOGITS = np.log(PROBS)[np.argsort(ORDER)] + 7.0  # only differences count
DRAWS = 4000


def _frequencies(**settings):
  """Share of draws of each token, in the order of PROBS."""
  keys = jax.random.split(jax.random.key(0), DRAWS)
  logits = jnp.tile(jnp.asarray(LOGITS, jnp.float32), (DRAWS, 1))
  ids = choose(logits, keys, Decoding(**settings))
  assert ids.dtype == jnp.int32
  return np.bincount(np.asarray(ids), minlength=5)[ORDER] / DRAWS


def _normal(weights):
  return np.array(weights) / sum(weights)


TABLE = [
  ({"temperature": 1.0}, PROBS),
  ({"temperature": 2.0}, _normal(np.sqrt(PROBS))),
  ({"temperature": 0.5}, _normal(PROBS**2)),
  ({"temperature": 1.0, "top_k": 1}, [1, 0, 0, 0, 0]),
  ({"temperature": 1.0, "top_k": 2}, _normal([0.5, 0.2, 0, 0, 0])),
  ({"temperature": 1.0, "top_k": 99}, PROBS),
  # the smallest set whose probability reaches top_p
  ({"temperature": 1.0, "top_p": 0.4}, [1, 0, 0, 0, 0]),
  ({"temperature": 1.0, "top_p": 0.69}, _normal([0.5, 0.2, 0, 0, 0])),
  ({"temperature": 1.0, "top_p": 0.71}, _normal([0.5, 0.2, 0.15, 0, 0])),
  # top_p counts after temperature and top_k
  ({"temperature": 0.5, "top_p": 0.69}, [1, 0, 0, 0, 0]),
  (
    {"temperature": 1.0, "top_k": 3, "top_p": 0.8},
    _normal([0.5, 0.2, 0, 0, 0]),
  ),
]


@pytest.mark.parametrize(("settings", "want"), TABLE)
def test_distribution(settings, want):
  got = _frequencies(**settings)
  want = np.asarray(want, float)
  # five standard deviations of a share; what is cut off never comes
  assert (np.abs(got - want) <= 5 * np.sqrt(want * (1 - want) / DRAWS)).all()


def test_greedy_needs_no_key():
  logits = jnp.asarray([[0.0, 2.0, 1.0], [5.0, -1.0, 4.9]])
  keys = jax.random.split(jax.random.key(3), 2)
  ids = choose(logits, keys, Decoding(temperature=0.0, top_k=1, top_p=0.1))
  assert ids.tolist() == [1, 0]


@pytest.mark.parametrize(
  "settings",
  [
    {"max_new_tokens": 0},
    {"batch_size": 0},
    {"temperature": -1.0},
    {"top_k": -1},
    {"top_p": 0.0},
    {"top_p": 1.1},
  ],
)
def test_settings_that_make_no_sense(settings):
  with pytest.raises(UserError, match="want"):
    Decoding(**settings)
