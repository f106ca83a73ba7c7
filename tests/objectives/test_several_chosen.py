"""Rows that join pairs of one question with different chosen answers."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from povid_jax.data.records import Rejected, decode, encode
from povid_jax.errors import UserError
from povid_jax.models import params as params_lib
from povid_jax.models.config import LoraConfig
from povid_jax.objectives import Needs, logps
from povid_jax.objectives.logps import Frozen, Spec
from tests import small_world

NEEDS = Needs(rejected=True, noise="own", corrupted=True, reference=True)
SPEC = Spec(NEEDS, head_chunk=64)
RECORDS = [
  small_world.record(
    0,
    more_rejected=(
      Rejected(("A phone.",), 0.5, 1),
      Rejected(("roof cat dog bus.",), 1.0, 2),
      Rejected(("A roof.",), 1.0, 1),
    ),
    more_chosen=(("A cat and a bus.",), ("No.",)),
  ),
  small_world.record(1),
  small_world.record(
    2, more_rejected=(Rejected(("A bus.",)),), rejected_weight=2.0
  ),
]


def _apart():
  """A record for each pair; noise is drawn from the same id."""
  for record in RECORDS:
    for one in record.by_chosen():
      for answer in one.every_rejected:
        yield dataclasses.replace(
          one,
          id=record.id,
          rejected=answer.turns,
          rejected_weight=answer.weight,
          more_rejected=(),
        )


@pytest.fixture(scope="module")
def batches(tmp_path_factory):
  """(pairs that share rows, a row for each pair)."""
  root = tmp_path_factory.mktemp("chosen")
  return (
    small_world.batch_of(root / "a", RECORDS),
    small_world.batch_of(root / "b", list(_apart())),
  )


@pytest.mark.slow
def test_a_pair_is_what_it_is_in_a_row_of_its_own(batches):
  """Every term of policy and reference, and the gradient of all of them."""
  shared, rows = batches
  assert shared.branch_ids.shape[:2] == (3, 3 + 4) and shared.num_chosen == 3
  assert rows.branch_ids.shape[:2] == (7, 2) and rows.chosen_of is None
  graph, shapes = params_lib.abstract(
    small_world.MODEL, LoraConfig(rank=2, alpha=4.0)
  )
  random = np.random.default_rng(1)
  held = {k: jnp.asarray(v) for k, v in small_world.arrays().items()}
  adapters = {
    path: jnp.asarray(random.normal(0, 0.2, leaf.shape), jnp.float32)
    for path, leaf in shapes.items()
    if params_lib.is_lora(path)
  }

  @jax.jit
  def run(batch):
    counts = logps.counts(batch)

    def total(adapters):
      found = logps.both(graph, Frozen(held, {}), adapters, batch, SPEC)
      differs = logps.noise_differs(
        batch, found.noise_ids, len(found.policy.chosen)
      )
      mine = found.policy
      sums = mine.chosen - mine.rejected + mine.noise + mine.corrupted
      return jnp.where(counts.chosen > 0, sums, 0.0).sum(), (found, differs)

    (_, (found, differs)), slope = jax.value_and_grad(total, has_aux=True)(
      adapters
    )
    return counts, found._replace(noise_ids=None), differs, slope

  one, other = run(shared.for_model()), run(rows.for_model())
  real = np.asarray(one[0].chosen) > 0
  assert real.sum() == 7 and real.size == 12

  def by_value(numbers):
    """Rows of pairs in an order that does not depend on their places."""
    table = np.stack([np.asarray(x, np.float64) for x in numbers], axis=1)
    return table[np.lexsort(table[:, :2].T.round(2))]

  for part in range(3):
    mine = [np.asarray(leaf)[real] for leaf in jax.tree.leaves(one[part])]
    theirs = jax.tree.leaves(other[part])
    keys = (one[1].policy.rejected, other[1].policy.rejected)
    mine = [np.asarray(keys[0])[real], *mine]
    np.testing.assert_allclose(
      by_value(mine), by_value([keys[1], *theirs]), rtol=2e-5, atol=1e-5
    )
  far = small_world.relative_difference(one[3], other[3])
  assert {k: v for k, v in far.items() if v > 1e-5} == {}


def test_what_is_cached_of_such_rows(batches):
  """[B, K] of the chosen answers, as a batch brings them along."""
  graph, _ = params_lib.abstract(small_world.MODEL)
  held = {k: jnp.asarray(v) for k, v in small_world.arrays().items()}
  batch = batches[0].for_model()
  score = lambda batch: logps.fixed_reference(
    graph, Frozen(held, {}), {}, batch, SPEC
  )
  found = jax.eval_shape(score, batch)
  assert found.chosen.shape == found.noise.shape == (3, 3)
  assert found.corrupted.shape == (3, 3) and found.rejected.shape == (3, 4)


def test_a_record_keeps_who_is_compared_with_whom():
  assert decode(encode(RECORDS[0])) == RECORDS[0]
  one, two, three = RECORDS[0].by_chosen()
  assert (one.id, two.id) == ("r0", "r0-c2")
  assert [answer.turns for answer in two.every_rejected] == [
    ("A phone.",),
    ("A roof.",),
  ]
  assert two.chosen == ("A cat and a bus.",) and two.rejected_weight == 0.5
  assert three.more_rejected == () and one.rejected == RECORDS[0].rejected
  wrong = dataclasses.replace(RECORDS[0], more_chosen=(("Only one.",),))
  with pytest.raises(UserError, match=r"rejected_of is \[0, 1, 2, 1\]"):
    decode(encode(wrong))


def test_an_objective_of_one_answer_refuses_them(tmp_path):
  with pytest.raises(UserError, match="joins pairs with 3 chosen answers"):
    small_world.batch_of(tmp_path, RECORDS, num_branches=1)
