"""The text of a plan."""

from ml_collections import ConfigDict

from povid_jax.plan.planning import Plan
from povid_jax.progress import digits

_KINDS = {
  "weights": "frozen weights",
  "trained": "trained weights (float32)",
  "optimizer": "optimizer state",
  "gradients": "gradients",
  "activations": "activations kept",
  "temporaries": "temporaries",
  "batch": "batch",
}


def rates(plan: Plan, mfu: float) -> dict[str, float | None]:
  """Expected speed at a share of the peak FLOP/s."""
  if plan.peak_flops is None:
    return {"mfu": mfu, "seconds_per_step": None, "pairs_per_second": None}
  seconds = plan.flops_per_step / (mfu * plan.peak_flops)
  return {
    "mfu": mfu,
    "seconds_per_step": seconds,
    "pairs_per_second": plan.pairs / seconds,
  }


def advice(config: ConfigDict) -> list[str]:
  """Notes about time that a plan does not include."""
  if config.reference != "cached" or config.objective.name == "sft":
    return []
  notes = [
    "reference=cached: before step 0 the reference runs once over all data. "
    "This time is not included here; it is about what the cache saves in one "
    "epoch, so for one epoch reference=online is as fast"
  ]
  if config.epochs > 1 and not config.steps and config.noise.per_epoch:
    notes.append(
      f"epochs={config.epochs:g}: an objective with noise needs "
      "noise.per_epoch=False with reference=cached, or reference=online"
    )
  return notes


def text(plan: Plan, mfu: float, searched: bool = True) -> str:
  """Lines to print; `searched`: for settings that fit."""
  mesh = ", ".join(f"{name} {size}" for name, size in plan.mesh.items())
  lines = [
    f"{plan.devices} devices (mesh {mesh}), {plan.pairs} pairs a step"
    f" in {plan.grad_accum}, P={plan.prefix}, C={plan.branch}" + _answers(plan),
    f"remat {plan.remat}, attention {plan.attention}, "
    f"head_chunk {plan.head_chunk}",
    "",
    f"{'bytes of one device':<28}{'GB':>8}",
  ]
  for kind, label in _KINDS.items():
    lines.append(f"  {label:<26}{plan.bytes[kind] / 1e9:>8.2f}")
  lines.append(
    f"  {'total':<26}{plan.bytes_per_device / 1e9:>8.2f}  of "
    f"{plan.memory_per_device / 1e9:.2f}: "
    + ("fits" if plan.fits else "DOES NOT FIT")
    + (" (estimated)" if plan.estimated else "")
  )
  lines += ["", *_speed(plan, mfu)]
  if plan.compile_seconds is not None:
    lines.append(f"compiled in {plan.compile_seconds:.0f} s")
  lines += [f"note: {note}" for note in plan.notes]
  if searched and not plan.fits:
    lines += _suggested(plan)
  return "\n".join(lines)


def _answers(plan: Plan) -> str:
  """What is said of the answers: data with more of them need more memory."""
  if plan.branches < 2:
    return ""
  if plan.branches == 2:
    return ", one rejected answer a row (--rejected)"
  return (
    f", {plan.branches - 1} rejected answers a row, {plan.batch_pairs} rows"
  )


def _speed(plan: Plan, mfu: float) -> list[str]:
  again = plan.hardware_flops_per_step / plan.flops_per_step - 1
  ridge = f" (ridge {plan.ridge:.0f})" if plan.ridge else ""
  lines = [
    f"FLOPs of a step: {plan.flops_per_step:.3g}, and {again:.0%} more for "
    "rematerialisation",
    f"arithmetic intensity: {plan.arithmetic_intensity:.0f} FLOPs/byte{ridge}",
  ]
  speed = rates(plan, mfu)
  pairs, seconds = speed["pairs_per_second"], speed["seconds_per_step"]
  if pairs is not None and seconds is not None:
    lines.append(
      f"at {mfu:.0%} MFU: {digits(pairs, 2)} pairs/s, {digits(seconds, 2)} s a "
      "step"
    )
  if plan.roofline is not None:
    found = plan.roofline
    lines.append(
      f"no faster than {digits(found.seconds, 2)} s a step by data sheet: "
      f"arithmetic {digits(found.arithmetic, 2)} s, "
      f"memory {digits(found.memory, 2)} s, links {digits(found.links, 2)} s "
      f"for {sum(found.sent.values()) / 1e9:.1f} GB of collectives; the "
      f"{found.limit} is the limit"
    )
  return lines


def _suggested(plan: Plan) -> list[str]:
  if not plan.suggestions:
    return ["no similar mesh, remat or batch size fits: use more devices"]
  lines = []
  for suggestion in plan.suggestions:
    fields = " ".join(
      f"--config.{name}={value}" for name, value in suggestion["set"].items()
    )
    size = suggestion["bytes_per_device"] / 1e9
    lines.append(f"this fits ({size:.2f} GB): {fields}")
  return lines
