"""What the host counts of a step agrees with what the step is given."""

import pytest

from povid_jax.models import flops, sharding
from povid_jax.models.work import Setup
from povid_jax.training import build
from povid_jax.training.accounting import Accounting
from tests import small_world

pytestmark = pytest.mark.usefixtures("one_device")


@pytest.mark.parametrize("records", ["one rejected", "several rejected"])
@pytest.mark.parametrize("objective", ["dpo", "povid", "sft"])
def test_flops_are_those_of_every_answer(records, objective, tmp_path):
  """The FLOPs of a step are those of the N answers that its batch holds."""
  made = small_world.odd_records()
  made += small_world.rich_records() if records == "several rejected" else []
  root = small_world.folders(tmp_path, made)
  config = small_world.config(
    root / "model", root / "data", {"objective.name": objective, "steps": 1}
  )
  mesh = sharding.make_mesh(config.mesh)
  model = build.build_model(config, mesh)
  data = build.build_data(config, model.weights, tmp_path)
  step, rates = build.make_step(config, model, 1)
  loader = build.build_loader(config, data, model.weights, mesh, tmp_path)
  plan = data.plan[0]
  host = loader(plan)
  found = Accounting(config, model, data, step, rates).of(0, host, 0.0)

  branches = {"sft": 1, "dpo": 2, "povid": 2}[objective]
  if records == "several rejected" and objective != "sft":
    branches = 4  # a chosen answer, and the three rejected ones of record 6
  assert host.branch_ids.shape == (
    config.batch_size, branches, plan.branch
  )  # fmt: skip
  used = [row for row in plan.rows if row >= 0]
  work = flops.Step(
    batch=config.batch_size,
    prefix=plan.prefix,
    branches=branches,
    length=plan.branch,
    tiles=float(data.lengths.tiles[used].sum()) / len(plan.rows),
    reference="online" if objective != "sft" else "none",
    noise="own" if objective == "povid" else None,
  )
  trained = frozenset(model.trained)
  counted = Setup(
    model.weights.config,
    model.lora,
    trained.__contains__,
    config.remat,
  )
  assert found["flops"] == flops.of(counted, work)["total"].model
