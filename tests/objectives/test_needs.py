"""What objectives need, and requests for one that are refused."""

import dataclasses

import pytest

from povid_jax import objectives
from povid_jax.errors import UserError
from povid_jax.objectives import Needs


def test_needs_follow_the_weights():
  need = lambda name, **hyper: objectives.get(name, **hyper).needs
  pair = Needs(rejected=True, reference=True)
  noise = Needs(noise="own", reference=True)
  assert need("sft") == Needs()
  assert need("dpo") == pair
  assert need("povid") == dataclasses.replace(pair, noise="own")
  assert need("povid_shared") == dataclasses.replace(pair, noise="policy")
  assert need("povid_paper") == need("povid_shared")
  assert need("povid", noise_weight=0.0) == pair
  assert need("povid", text_weight=0.0) == noise
  assert need("povid_paper", beta1=0.0).rejected is False
  assert need("mdpo") == dataclasses.replace(pair, corrupted=True)
  assert need("mdpo", conditional_weight=0.0) == pair


@pytest.mark.parametrize(
  ("name", "terms", "fixed", "noisy"),
  [
    ("sft", ["chosen"], ["chosen"], False),
    ("dpo", ["chosen", "rejected"], ["chosen", "rejected"], False),
    (
      "povid",
      ["chosen", "rejected", "noise"],
      ["chosen", "rejected", "noise"],
      True,
    ),
    (
      "povid_shared",
      ["chosen", "rejected", "noise"],
      ["chosen", "rejected"],
      True,
    ),
    (
      "mdpo",
      ["chosen", "rejected", "corrupted"],
      ["chosen", "rejected", "corrupted"],
      True,
    ),
  ],
)
def test_what_needs_mean(name, terms, fixed, noisy):
  needs = objectives.get(name).needs
  assert list(needs.terms) == terms and list(needs.fixed.terms) == fixed
  assert needs.noisy_picture == noisy
  assert needs.branches == 1 + ("rejected" in terms)


@pytest.mark.parametrize(
  ("name", "hyper", "message"),
  [
    ("povd", {}, "did you mean 'povid'"),
    ("povid", {"text_wieght": 1}, "did you mean 'text_weight'"),
    ("povid", {"beta": "big"}, "povid.beta: want float, got 'big'"),
    ("povid", {"beta": True}, "povid.beta: want float"),
    ("povid", {"beta": 0}, "beta: want a number above 0"),
    ("povid", {"beta": float("nan")}, "beta: want a number above 0"),
    (
      "povid",
      {"text_weight": 0, "noise_weight": 0},
      "nothing would be learned",
    ),
    ("dpo", {"loss_type": "sigmod"}, "want one of sigmoid, hinge, ipo"),
    ("dpo", {"label_smoothing": 0.5}, "want [0, 0.5)"),
    ("dpo", {"label_smoothing": 0.1, "loss_type": "ipo"}, "needs loss_type"),
    ("dpo", {"length_normalised": 1}, "want bool"),
    ("dpo", {"anchor_weight": -1}, "anchor_weight: want a number >= 0"),
    ("povid", {"anchor_weight": -1}, "anchor_weight: want a number >= 0"),
    ("mpo", {"shift": 1.0}, "unknown mpo hyper-parameter 'shift'"),
    (
      "mpo",
      {"preference_weight": 0, "quality_weight": 0},
      "preference_weight and quality_weight are both 0",
    ),
    ("sft", {"beta": 0.1}, "unknown sft hyper-parameter 'beta'"),
  ],
)
def test_bad_requests_are_named(name, hyper, message):
  with pytest.raises(UserError) as error:
    objectives.get(name, **hyper)
  assert message in str(error.value)
