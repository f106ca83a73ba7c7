"""A step costs what it cost: FLOPs, memory, collectives, kernels."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from benchmarks import costs
from povid_jax.models import sharding
from povid_jax.plan import program

FAST = ("stage 1, cached", costs.DECODE)


@pytest.mark.parametrize(
  "name",
  [
    pytest.param(name, marks=() if name in FAST else pytest.mark.slow)
    for name in costs.NAMES
  ],
)
def test_costs_are_those_committed(name):
  """Wanted changes: python -m benchmarks.costs --write, and say why."""
  wanted = costs.committed()
  if wanted is None:
    pytest.skip(f"no values for JAX {jax.__version__}")
  assert costs.compare(costs.costs(name), wanted[name]) == []


def test_what_counts_as_a_change():
  wanted = {"flops": 1000, "all-gather": 10}
  assert costs.compare({"flops": 1050, "all-gather": 10}, wanted) == []
  assert costs.compare({"flops": 1051, "all-gather": 10}, wanted) == [
    "flops: 1,051 now, 1,000 committed (+5.1%)"
  ]
  # fewer is a change too: a value that is too high guards nothing
  assert costs.compare({"flops": 1000}, wanted) == [
    "all-gather: 0 now, 10 committed (-100.0%)"
  ]
  more = {**wanted, "all-to-all": 1}
  assert costs.compare(more, wanted) == ["all-to-all: 1 now, 0 committed (new)"]


def test_a_program_is_read_with_its_loops():
  """Seven rounds of one product, whose sum goes over eight devices."""
  mesh = sharding.make_mesh({"data": 1, "fsdp": 8, "tensor": 1})
  cut = lambda *axes: NamedSharding(mesh, P(*axes))

  def rounds(x, w):
    def one(x, _):
      y = jax.lax.with_sharding_constraint(x @ w, cut())
      return jnp.tanh(jax.lax.with_sharding_constraint(y, cut(None, "fsdp"))), 0

    return jax.lax.scan(one, x, length=7)[0]

  shape = lambda *dims, spec: jax.ShapeDtypeStruct(
    dims, jnp.float32, sharding=cut(*spec)
  )
  arguments = (
    shape(16, 64, spec=(None, "fsdp")),
    shape(64, 64, spec=("fsdp", None)),
  )
  compiled = jax.jit(rounds).lower(*arguments).compile()
  found = program.read(compiled.as_text())
  assert found.flops == 7 * 2 * 16 * (64 // 8) * 64  # of one device
  assert found.counts == {"all-reduce": 7}
  assert found.bytes == {"all-reduce": 7 * 16 * 64 * 4 * 7 // 8}
  assert found.unknown_loops == 0


WINDOWED = """
%body (p: (bf16[4,8], u32[])) -> (bf16[4,8], u32[]) {
  %two = u32[] constant(2)
  %p = (bf16[4,8]{1,0}, u32[]) parameter(0)
  %i = u32[] get-tuple-element(%p), index=1
  %x = bf16[4,8]{1,0} get-tuple-element(%p), index=0
  %start = (bf16[4,8]{1,0}, bf16[4,8]{1,0}, u32[], u32[]) collective-permute-start(%x), channel_id=1
  %done = bf16[4,8]{1,0} collective-permute-done(%start)
  %next = u32[] add(%i, %two)
  ROOT %out = (bf16[4,8]{1,0}, u32[]) tuple(%done, %next)
}

%test (p: (bf16[4,8], u32[])) -> pred[] {
  %limit = u32[] constant(7)
  %p.1 = (bf16[4,8]{1,0}, u32[]) parameter(0)
  %i.1 = u32[] get-tuple-element(%p.1), index=1
  ROOT %less = pred[] compare(%i.1, %limit), direction=LT
}

%begin (a: bf16[4,8]) -> bf16[16,8] {
  %a = bf16[4,8]{1,0} parameter(0)
  ROOT %g = bf16[16,8]{1,0} all-gather(%a), channel_id=5, dimensions={0}
}

%end (a.1: bf16[4,8]) -> bf16[16,8] {
  %a.1 = bf16[4,8]{1,0} parameter(0)
  ROOT %g.1 = bf16[16,8]{1,0} all-gather(%a.1), channel_id=5, dimensions={0}
}

ENTRY %main (x: bf16[4,8], n: u32[]) -> bf16[16,8] {
  %x.1 = bf16[4,8]{1,0} parameter(0)
  %n = u32[] parameter(1)
  %both = (bf16[4,8]{1,0}, u32[]) tuple(%x.1, %n)
  %loop = (bf16[4,8]{1,0}, u32[]) while(%both), condition=%test, body=%body
  %y = bf16[4,8]{1,0} get-tuple-element(%loop), index=0
  %first = bf16[16,8]{1,0} fusion(%y), kind=kCustom, calls=%begin
  ROOT %last = bf16[16,8]{1,0} fusion(%y), kind=kCustom, calls=%end
}
"""  # noqa: E501


def test_a_program_of_a_tpu():
  """A loop counted by twos, and a gather that begins and ends in fusions."""
  found = program.read(WINDOWED)
  assert found.counts == {"collective-permute": 4, "all-gather": 1}
  assert found.bytes == {
    "collective-permute": 4 * 4 * 8 * 2,
    "all-gather": 16 * 8 * 2,
  }
  unclear = WINDOWED.replace("compare(%i.1, %limit)", "compare(%limit, %i.1)")
  assert program.read(unclear).unknown_loops == 1


@pytest.mark.parametrize(
  "groups, of_others",
  [
    ("{}", 8),  # all devices, whose number is not told
    ("{{0,1},{2,3}}", 4),
    ("[4,4]<=[16]", 6),
    ("[8,2]<=[2,8]T(1,0)", 4),
    ("mesh['data'=4,'fsdp'=2] {'fsdp'}", 4),
    ("mesh['data'=4,'fsdp'=2] {'data','fsdp'}", 7),
    ("mesh['data'=4,'fsdp'=2], device_ids=([4,2]T(1,0)) {'data':(1)2}", 4),
  ],
)
def test_what_a_collective_gets_from_others(groups, of_others):
  """So many eighths of the array."""
  # without the channel the two fusions are two gathers
  text = WINDOWED.replace("channel_id=5", f"replica_groups={groups}")
  sent = program.read(text).bytes["all-gather"]
  assert sent == 2 * (16 * 8 * 2) * of_others // 8
