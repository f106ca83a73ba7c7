"""What the tests of the evaluation command share."""

import json
from pathlib import Path


def write_lines(path: Path, rows):
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def argv(world, out, **flags):
  made = [f"--data={world}", f"--out={out}", "--resamples=50"]
  return made + [f"--{k.replace('_', '-')}={v}" for k, v in flags.items()]


def root() -> Path:
  return Path(__file__).parents[3]
