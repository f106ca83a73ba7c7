"""Reads the text of a compiled program: how often each part runs, and what the
devices send to each other.
"""

import collections
import dataclasses
import math
import re

import jax

KINDS = (
  "all-gather",
  "all-reduce",
  "reduce-scatter",
  "all-to-all",
  "collective-permute",
)
# instructions that only name memory, or only hold others
_FREE = frozenset(
  "parameter constant tuple get-tuple-element bitcast while conditional call "
  "after-all partition-id replica-id".split()
)
_HEAD = re.compile(r"^(ENTRY )?%?([\w.-]+) \(.*\{$")
_LINE = re.compile(r"^\s+(ROOT )?%?([\w.-]+) = (.*)$")
_CALLED = re.compile(
  r"\b(?:calls|to_apply|body|true_computation|false_computation)=%?([\w.-]+)"
)
_CONDITION = re.compile(r"\bcondition=%?([\w.-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_TRIPS = re.compile(r'known_trip_count"?[:=]\s*\{"?n"?:\s*"?(\d+)')
_CHANNEL = re.compile(r"channel_id=(\d+)")
_ARRAY = re.compile(r"\b(pred|[a-z]+\d+[a-z0-9]*)\[([\d,]*)\]")
_OPERAND = re.compile(r"%([\w.-]+)")
# Groups of devices are `[4,2]<=[8]`, four of two; `{{0,1},{2,3}}`, the groups
# themselves; or `mesh['data'=4,'fsdp'=2] {'fsdp'}`, axes of a mesh, of which a
# part may be meant: `'data':(1)2`.
_GROUPS = re.compile(
  r"\breplica_groups=(?:\[\d+,(?P<each>\d+)\]|\{\{(?P<first>[\d,]+)\}"
  r"|mesh\[(?P<sides>[^\]]*)\][^{]*\{(?P<axes>[^}]*)\})"
)
_SIDE = re.compile(r"'([^']+)'=(\d+)")
_AXIS = re.compile(r"'([^']+)'(?::\(\d+\)(\d+))?")


@dataclasses.dataclass(frozen=True)
class Program:
  """What one run of a program does, on each device.

  Attributes:
    counts: collectives by kind.
    bytes: of each kind, that are other devices': of n devices, (n - 1) / n of
      the larger one of what goes in and what comes out, which is the whole
      array of a gather and of a reduce-scatter.
    flops: of matrix products (`dot`), two for each multiplication.
    kernels: instructions that compute or move something; a fusion is one.
    unknown_loops: loops whose number of rounds the text does not tell; what is
      in them counts once.
  """

  counts: dict[str, int]
  bytes: dict[str, int]
  flops: int
  kernels: int
  unknown_loops: int


@dataclasses.dataclass(frozen=True)
class _Instruction:
  name: str
  opcode: str
  size: int  # bytes
  dims: tuple[int, ...]  # of the first array
  operands: tuple[str, ...]
  text: str  # behind the opcode


_Bodies = dict[str, dict[str, _Instruction]]  # by computation, by name


def of(compiled: jax.stages.Compiled) -> Program | None:
  """Reads a compiled program; None where XLA compiles it but cannot print it.

  (JAX 0.10.2 does not understand some asynchronous instructions with several
  operands that libtpu 0.0.52 makes for a v6e; JAX 0.12 does.)
  """
  try:
    return read(compiled.as_text() or "")
  except jax.errors.JaxRuntimeError:
    return None


def read(text: str) -> Program:
  """Reads what `jax.stages.Compiled.as_text` gives.

  What is in a loop counts as often as the loop runs: as often as the compiler
  says, or as a counter says that starts at zero.
  """
  bodies, entry = _computations(text)
  counts: collections.Counter[str] = collections.Counter()
  sizes: collections.Counter[str] = collections.Counter()
  flops = kernels = unknown = 0

  def walk(name: str, times: int, fused: bool, seen: set[str]) -> None:
    nonlocal flops, kernels, unknown
    for one in bodies[name].values():
      kind = one.opcode.removesuffix("-start")
      channel = _CHANNEL.search(one.text)
      # TPUs start, go on with and end a collective in one fusion each
      if kind in KINDS and not (channel and channel[1] in seen):
        counts[kind] += times
        sizes[kind] += times * _moved(one, bodies[name])
        seen |= {channel[1]} if channel else set()
      if one.opcode not in _FREE and not one.opcode.endswith("-done"):
        kernels += 0 if fused else times
      if one.opcode == "dot":
        flops += times * _dot_flops(one, bodies[name])
      if one.opcode == "while":
        rounds = _rounds(one, bodies)
        unknown += rounds is None
        walk(_body(one), times * (rounds or 1), fused, set())
      elif one.opcode in ("call", "conditional", "async-start", "fusion"):
        inside = fused or one.opcode == "fusion"
        for inner in _called(one):
          walk(inner, times, inside, seen)

  walk(entry, 1, False, set())
  return Program(dict(counts), dict(sizes), flops, kernels, unknown)


def _computations(text: str) -> tuple[_Bodies, str]:
  """Instructions by computation, and the name of the one that is run."""
  bodies: _Bodies = {}
  entry, at = "", ""
  for line in text.splitlines():
    if head := _HEAD.match(line):
      at = head[2]
      bodies[at] = {}
      entry = at if head[1] else entry
    elif at and (found := _LINE.match(line)):
      one = _instruction(found[2], found[3])
      bodies[at]["ROOT" if found[1] else found[2]] = one
  return bodies, entry


def _instruction(name: str, text: str) -> _Instruction:
  """`f32[2,4]{1,0} all-gather(%x), replica_groups=...`."""
  end = _end_of_tuple(text) if text.startswith("(") else text.find(" ")
  shape, rest = text[:end], text[end + 1 :]
  opcode, _, tail = rest.partition("(")
  operands = tuple(_OPERAND.findall(tail.partition(")")[0]))
  arrays = [
    (kind, tuple(int(d) for d in dims.split(",") if d))
    for kind, dims in _ARRAY.findall(shape)
  ]
  sizes = [_itemsize(kind) * math.prod(dims) for kind, dims in arrays]
  # what is started gives operands, results and what keeps count of them
  size = max(sizes, default=0) if opcode.endswith("-start") else sum(sizes)
  first = arrays[0][1] if arrays else ()
  return _Instruction(name, opcode, size, first, operands, tail)


def _end_of_tuple(text: str) -> int:
  """Behind the parenthesis that closes the first one."""
  depth = 0
  for i, letter in enumerate(text):
    depth += (letter == "(") - (letter == ")")
    if depth == 0:
      return i + 1
  return len(text)


def _itemsize(kind: str) -> int:
  bits = re.search(r"\d+", kind)
  return max(1, int(bits[0]) // 8) if bits else 1


def _moved(one: _Instruction, body: dict[str, _Instruction]) -> int:
  given = sum(body[name].size for name in one.operands if name in body)
  whole = max(one.size, given)
  n = _together(one.text)
  return whole if n is None else whole * (n - 1) // n


def _together(text: str) -> int | None:
  """Devices in each group of a collective.

  None for a permutation, and where all devices are meant and not counted.
  """
  found = _GROUPS.search(text)
  if found is None:
    return None
  if found["each"]:
    return int(found["each"])
  if found["first"]:
    return found["first"].count(",") + 1
  sides = dict(_SIDE.findall(found["sides"]))
  axes = _AXIS.findall(found["axes"])
  return math.prod(int(part or sides[axis]) for axis, part in axes)


def _dot_flops(one: _Instruction, body: dict[str, _Instruction]) -> int:
  summed = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", one.text)
  left = body.get(one.operands[0])
  assert summed and left, f"cannot read the product {one.name}"
  dims = [left.dims[int(i)] for i in summed[1].split(",") if i]
  return 2 * math.prod(one.dims) * math.prod(dims)


def _called(one: _Instruction) -> tuple[str, ...]:
  branches = _BRANCHES.search(one.text)
  more = _OPERAND.findall(branches[1]) if branches else []
  return (*_CALLED.findall(one.text), *more)


def _body(one: _Instruction) -> str:
  return _called(one)[0]


def _rounds(loop: _Instruction, bodies: _Bodies) -> int | None:
  """How often a loop runs: as the compiler noted, or by its counter."""
  if known := _TRIPS.search(loop.text):
    return int(known[1])
  named = _CONDITION.search(loop.text)
  test = bodies[named[1]] if named else {}
  root = test.get("ROOT")
  if root is None or root.opcode != "compare" or "=LT" not in root.text:
    return None
  counter, limit = (test.get(name) for name in root.operands)
  if counter is None or counter.opcode != "get-tuple-element":
    return None
  most = _number(limit)
  body = bodies[_body(loop)]
  index = re.search(r"index=(\d+)", counter.text)
  given = body["ROOT"].operands
  if most is None or index is None or int(index[1]) >= len(given):
    return None
  step = body.get(given[int(index[1])])
  if step is None or step.opcode != "add":
    return None
  added = [n for name in step.operands if (n := _number(body.get(name)))]
  return -(-most // (added[0] if added else 1))


def _number(one: _Instruction | None) -> int | None:
  if one is None or one.opcode != "constant":
    return None
  found = re.match(r"(\d+)\)", one.text)
  return int(found[1]) if found else None
