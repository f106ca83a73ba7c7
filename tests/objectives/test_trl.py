"""Losses that TRL 1.16's own DPOTrainer gives for the same sums of log-probs.

Made by its `_compute_loss` on the sums of `test_losses.draw(0)`, spread over as
many tokens as each answer has. TRL's sft term is a mean over the tokens of a
batch, so that all answers have nine tokens where it is one of the terms.
"""

import numpy as np
import pytest

from povid_jax import objectives
from tests.objectives.test_losses import as_jax, draw

ROBUST = {"label_smoothing": 0.2, "smoothing_variant": "robust"}
BCO = {"preference_weight": 0.0, "quality_weight": 1.0, "sft_weight": 0.0}


@pytest.mark.parametrize(
  ("types", "name", "hyper", "want"),
  [
    ("sigmoid", "dpo", {}, 0.83617482),
    ("hinge", "dpo", {"loss_type": "hinge"}, 1.18979664),
    ("robust", "dpo", ROBUST, 0.89944036),
    ("ipo", "dpo", {"loss_type": "ipo", "length_normalised": True}, 19.831365),
    ("sigmoid_norm", "dpo", {"length_normalised": True}, 0.65353504),
    ("sigmoid, 0.7 sft", "dpo", {"sft_weight": 0.7}, 4.5601356),
    ("bco_pair", "mpo", BCO, 1.52982521),
    ("0.8 sigmoid, 0.2 bco_pair, 1 sft", "mpo", {}, 6.29484887),
  ],
)
def test_losses_of_trl(types, name, hyper, want):
  policy, reference, counts = draw(0)
  if "sft" in types:
    counts = {key: np.full_like(value, 9) for key, value in counts.items()}
  objective = objectives.get(name, **hyper)
  given = as_jax(policy, reference, counts)
  loss, _ = objective.fn(*given, **objective.carries)
  assert float(loss.mean()) == pytest.approx(want, rel=1e-6)
