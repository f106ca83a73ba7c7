"""How fast `data_gen write` is, and what the floor is.

  python benchmarks/data_write.py [--records 2000]

Real photographs (from scikit-image) at 640x480. Each part of a record with a
stored noisy picture is measured alone: decode the JPEG, draw and add the noise,
encode, write to disk. The command must come within 1.3 times their sum, or
reach 40 pictures a second per core. CPU seconds are given beside the clock's:
on a machine with other work only the former can be compared.
"""

import argparse
import io
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from data_gen import shards
from data_gen.encode import Options, stored_png
from povid_jax.data import noise, records

ANSWER = "Two cats lie on a red couch next to a remote control. " * 8
NAMES = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg")


def make_input(root: Path, count: int) -> Path:
  import skimage

  source = Path(skimage.__file__).parent / "data"
  (root / "images").mkdir()
  for i in range(64):
    with Image.open(source / NAMES[i % 4]) as image:
      image = image.convert("RGB").resize((640, 480), box=(0, 0, 300 + i, 300))
      image.save(root / f"images/{i}.jpg", quality=90)
  ask = {"from": "human", "value": "<image>\nDescribe this image in detail."}
  talk = lambda text: [ask, {"from": "gpt", "value": text}]
  rows = [
    {
      "id": str(i),
      "image": f"{i % 64}.jpg",
      "conversations": talk(ANSWER),
      "rejected_conversations": talk(ANSWER.replace("red", "blue")),
    }
    for i in range(count)
  ]
  (root / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
  return root / "pairs.jsonl"


def spent(work: Callable[[int], object], times: int) -> tuple[float, float]:
  """(clock, CPU) milliseconds per call."""
  clock, cpu = time.perf_counter(), time.process_time()
  for i in range(times):
    work(i)
  return (
    1e3 * (time.perf_counter() - clock) / times,
    1e3 * (time.process_time() - cpu) / times,
  )


def webp(pixels: np.ndarray) -> bytes:
  out = io.BytesIO()
  Image.fromarray(pixels).save(out, "WEBP", lossless=True, method=0, quality=0)
  return out.getvalue()


def parts(root: Path, times: int) -> dict[str, tuple[float, float]]:
  jpegs = [(root / f"images/{i}.jpg").read_bytes() for i in range(64)]
  decode = lambda i: np.asarray(
    Image.open(io.BytesIO(jpegs[i % 64])).convert("RGB")
  )
  pixels = [decode(i) for i in range(64)]
  distort = lambda i: noise.distort(pixels[i % 64], 500, i)
  noisy = [distort(i) for i in range(64)]
  encoded = [jpegs[i] + stored_png(noisy[i]) for i in range(64)]
  with records.RecordWriter(root / "floor") as writer:
    return {
      "decode JPEG": spent(decode, times),
      "noise": spent(distort, times),
      "encode PNG, stored": spent(lambda i: stored_png(noisy[i % 64]), times),
      "frame and write": spent(lambda i: writer.write(encoded[i % 64]), times),
      "(WebP, lossless, method 0)": spent(lambda i: webp(noisy[i % 64]), 64),
    }


def whole(root: Path, name: str, **changes: Any) -> tuple[float, float]:
  """(clock, CPU) milliseconds per record of one worker."""
  options = Options(
    str(root / "pairs.jsonl"), str(root / "images"), shards=1, **changes
  )
  clock, cpu = time.perf_counter(), time.process_time()
  samples, skipped = shards.load(options)
  plan = shards.make_plan(samples, skipped, options, {})
  shards.write_shard(plan.shards[0], options, root / name)
  return (
    1e3 * (time.perf_counter() - clock) / len(samples),
    1e3 * (time.process_time() - cpu) / len(samples),
  )


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--records", type=int, default=2000)
  count = parser.parse_args().records
  with tempfile.TemporaryDirectory() as folder:
    root = Path(folder)
    make_input(root, count)
    table = parts(root, min(count, 400))
    floor = [
      sum(row[i] for name, row in table.items() if name[0] != "(")
      for i in (0, 1)
    ]
    table["floor: sum of the first four"] = (floor[0], floor[1])
    table["write, noise stored"] = whole(root, "noisy", store_noisy=True)
    table["write, nothing stored"] = whole(root, "plain")
  print(f"{'per record':<32}{'clock ms':>10}{'CPU ms':>10}{'per CPU s':>12}")
  for name, (clock, cpu) in table.items():
    print(f"{name:<32}{clock:>10.2f}{cpu:>10.2f}{1e3 / cpu:>12,.0f}")
  ratio = table["write, noise stored"][1] / floor[1]
  print(f"write with noise / floor: {ratio:.2f} (CPU)")


if __name__ == "__main__":
  main()
