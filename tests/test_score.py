"""povid_jax.score against the released trainer's functions in PyTorch."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch")
peft = pytest.importorskip("peft")

from povid_jax import convert, score  # noqa: E402
from povid_jax.data.image import open_image  # noqa: E402
from povid_jax.data.pairs import Sample  # noqa: E402
from povid_jax.errors import UserError  # noqa: E402
from tests import small_tokenizer, torch_models  # noqa: E402
from tests.released_trainer import Released  # noqa: E402

pytestmark = pytest.mark.filterwarnings(
  "ignore::DeprecationWarning", "ignore::FutureWarning"
)
PAIRS = [
  (
    "a",
    "Describe this image in detail.",
    "Two cats look at a table.",
    "Three cats sit on a red bus.",
  ),
  ("b", "Is there a car?", "No, there is no car.", "Yes, there is a car."),
  # the model's head is its embedding, so that it likes to repeat itself: here
  # the argmax is often the true token
  ("c", "Say it.", "a a a a a a a a", "car car"),
]


@dataclasses.dataclass(frozen=True)
class World:
  """Two pairs, their pictures, a base, an adapter; ours and PyTorch's."""

  root: Path
  released: Released

  def run(self, *flags: str) -> list[dict[str, Any]]:
    out = self.root / "scores.jsonl"
    flags = (
      f"--checkpoint={self.root / 'base'}",
      f"--pairs={self.root / 'pairs.json'}",
      f"--image-dir={self.root / 'images'}",
      f"--out={out}",
      *flags,
    )
    assert score.main(flags) == 0
    return [json.loads(line) for line in out.read_text().splitlines()]

  def oracle(self, i: int, **options: Any) -> dict[str, Any]:
    _, question, chosen, rejected = PAIRS[i]
    human = "<image>\n" + question
    images = self.root / "images"
    return self.released.pair(
      [human, chosen],
      [human, rejected],
      images / f"{i}.png",
      images / f"{i}_noisy.png",
      **options,
    )


def _write_pairs(root: Path) -> None:
  rng = np.random.default_rng(0)
  (root / "images").mkdir()
  rows = []
  for i, (name, question, *answers) in enumerate(PAIRS):
    shape = (37, 20 + 30 * i, 3)
    for suffix in ("", "_noisy"):
      picture = Image.fromarray(rng.integers(0, 256, shape, np.uint8))
      picture.save(root / "images" / f"{i}{suffix}.png")
    turns = [
      [
        {"from": "human", "value": f"<image>\n{question}"},
        {"from": "gpt", "value": answer},
      ]
      for answer in answers
    ]
    rows.append(
      {
        "id": name,
        "image": f"{i}.png",
        "image_noisy": f"{i}_noisy.png",
        "conversations": turns[0],
        "rejected_conversations": turns[1],
      }
    )
  (root / "pairs.json").write_text(json.dumps(rows))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
  root = tmp_path_factory.mktemp("score")
  _write_pairs(root)
  model = torch_models.llava(
    "gqa", vocab_size=small_tokenizer.VOCAB, tie_word_embeddings=True
  )
  model.save_pretrained(root / "hf")
  small_tokenizer.write(root / "hf")
  lora = peft.LoraConfig(
    r=4,
    lora_alpha=8,
    target_modules=r".*language_model.*\.(q|k|v|o|gate|up|down)_proj",
    task_type="CAUSAL_LM",
  )
  wrapped = peft.get_peft_model(model, lora)
  torch_models.randomise_lora(wrapped)
  wrapped.save_pretrained(root / "adapter")
  convert.main(
    ["from-torch", str(root / "hf"), str(root / "base"), "--dtype=float32"]
  )
  size = torch_models.VISION["image_size"]
  return World(root, Released(wrapped.eval(), root / "hf", size))


def _compare(row: dict[str, Any], want: dict[str, Any]) -> None:
  for model in ("policy", "reference"):
    for name in ("chosen_logps", "rejected_logps", "noise_logps"):
      assert row[model][name] == pytest.approx(
        float(want[model][name]), abs=1e-3
      ), f"{model} {name}"
    assert row["noise_tokens"][model] == want[model]["tokens"]


def test_the_released_numbers(world: World) -> None:
  rows = world.run(f"--adapter={world.root / 'adapter'}")
  assert [row["id"] for row in rows] == ["a", "b", "c"]
  for i, row in enumerate(rows):
    want = world.oracle(i)
    _compare(row, want)
    assert row["loss"]["dpo"] == pytest.approx(want["stage_1"], abs=1e-3)
    assert row["loss"]["povid"] == pytest.approx(want["stage_2"], abs=1e-3)
    # the adapter does something, and so do the distorted pictures
    assert abs(row["loss"]["dpo"] - np.log(2)) > 1e-2
    assert row["policy"]["noise_logps"] != row["policy"]["chosen_logps"]
    scored = len(want["policy"]["tokens"])
    assert row["num_tokens"]["chosen"] == scored
    _check_shared(row, want)


def _check_shared(row: dict[str, Any], want: dict[str, Any]) -> None:
  """The reference's log-probs of the policy's noise tokens, and their loss."""
  clean, targets = (want["reference"][k] for k in ("clean", "targets"))
  logps = clean[:, :-1].log_softmax(-1)[targets[:, 1:] != -100]
  tokens = torch.tensor(want["policy"]["tokens"])
  shared = float(logps.gather(1, tokens[:, None]).sum())
  assert row["reference"]["policy_noise_logps"] == pytest.approx(
    shared, abs=1e-3
  )
  ratio = lambda name: row["policy"][name] - row["reference"][name]
  worse = [
    ratio("rejected_logps"),
    row["policy"]["noise_logps"] - row["reference"]["policy_noise_logps"],
  ]
  margins = [ratio("chosen_logps") - other for other in worse]
  loss = np.mean([np.log1p(np.exp(-0.1 * margin)) for margin in margins])
  assert row["loss"]["povid_shared"] == pytest.approx(loss, abs=1e-5)


@pytest.mark.slow
def test_the_february_rule(world: World) -> None:
  """Where the argmax is the true token, the runner-up is taken."""
  adapter = f"--adapter={world.root / 'adapter'}"
  plain = world.run(adapter)
  rows = world.run(adapter, "--token-rule=argmax_exclude_gold")
  for i, row in enumerate(rows):
    _compare(row, world.oracle(i, exclude_gold=True))
  assert rows[2]["noise_tokens"] != plain[2]["noise_tokens"]


def test_without_an_adapter_policy_is_reference(world: World) -> None:
  rows = world.run("--objective=dpo", "--noise-step=999")
  for row in rows:
    assert row["policy"].items() <= row["reference"].items()
    assert row["loss"] == {"dpo": pytest.approx(np.log(2), abs=1e-6)}


def test_distorted_pictures_by_name(world: World, tmp_path: Path) -> None:
  """One name for the first picture, or one for each; nothing is guessed."""
  names = ["0.png", "1.png"]
  pictures = [open_image(world.root / "images" / name) for name in names]
  options = score.Options(("dpo",), 500, "wrap", 0, "argmax")
  noisy = lambda value: [
    np.asarray(image).tolist()
    for image in score._noisy(
      Sample(
        "a", tuple(names), ("q", "a"), extra={"image_noisy": value}
      ).within(world.root / "images"),
      pictures,
      options,
    )
  ]
  read = lambda name: np.asarray(
    open_image(world.root / "images" / name)
  ).tolist()
  assert noisy("0_noisy.png") == [read("0_noisy.png"), read("1.png")]
  twins = ["0_noisy.png", "1_noisy.png"]
  assert noisy(twins) == [read(name) for name in twins]
  for value, message in (
    (3, "image_noisy is 3; want a file name"),
    ("", "image_noisy is ''; want a file name"),
    (["0.png"] * 3, r"3 names in image_noisy and 2 image\(s\)"),
  ):
    with pytest.raises(UserError, match=message):
      noisy(value)


def test_nothing_to_score_and_nowhere_to_write(
  world: World, tmp_path: Path
) -> None:
  (tmp_path / "pairs.json").write_text("[]")
  with pytest.raises(UserError, match="pairs.json: the file holds no pairs"):
    world.run(f"--pairs={tmp_path / 'pairs.json'}")
  with pytest.raises(UserError, match="a folder has that name"):
    world.run(f"--out={tmp_path}")
  weights = shutil.copytree(world.root / "base", tmp_path / "base")
  described = json.loads((weights / "model.json").read_text())
  described["decoder"]["hidden_size"] *= 2
  (weights / "model.json").write_text(json.dumps(described))
  with pytest.raises(UserError, match=r"has shape \(.*, want \("):
    world.run(f"--checkpoint={weights}")


def test_a_bad_pair_is_named(world: World, tmp_path: Path) -> None:
  rows = json.loads((world.root / "pairs.json").read_text())
  rows[1]["image"] = "pairs.json"
  (world.root / "images" / "pairs.json").write_text("{}")
  (tmp_path / "pairs.json").write_text(json.dumps(rows))
  out = tmp_path / "scores.jsonl"
  with pytest.raises(
    UserError, match="pair 'b': .*pairs.json.*not an image|pair 'b'"
  ):
    score.main(
      [
        f"--checkpoint={world.root / 'base'}",
        f"--pairs={tmp_path / 'pairs.json'}",
        f"--image-dir={world.root / 'images'}",
        f"--out={out}",
      ]
    )
  assert not out.exists()


_LONG = "Describe this image in detail."
SENTINEL = {
  "1": [
    (_LONG, None, "Two cats look at a table.", "Three cats sit on a red bus."),
    (
      _LONG,
      "Two cats look at a table.",
      "A man holds a phone.",
      "There is a car in the picture.",
    ),
    (
      _LONG,
      "Two cats look at a table. A man holds a phone.",
      "Three birds sit on the roof.",
      "Yes, the bus.",
    ),
  ],
  "2": [
    (
      "Is there a car?",
      "No, there is no car.",
      "There is a bus.",
      "There are three birds on the roof of a bus.",
    )
  ],
}
# From SENTINEL's own data set, collator, forward pass and dpo_loss (Apache-2.0,
# julyanghar/SENTINEL at 905c13d) on these rows, pictures and weights:
# (chosen and rejected tokens scored, loss at beta 0.1).
SENTINEL_FOUND = [
  (15, 16, 0.0668962),
  (11, 13, 1.7385031),
  (15, 7, 0.1524643),
  (8, 22, 1.1549611),
]


@pytest.mark.parametrize("ending", [".json", ".jsonl"])
def test_losses_of_sentinels_own_code(
  world: World, tmp_path: Path, ending: str
) -> None:
  """A first sentence ends with </s>, and what follows a context does not."""
  keys = ("question", "context", "y_win", "y_lose")
  rows = {
    number: [dict(zip(keys, row, strict=True)) for row in several]
    for number, several in SENTINEL.items()
  }
  lines = [{"image_id": k} | row for k, many in rows.items() for row in many]
  path = tmp_path / f"pairs{ending}"
  path.write_text(
    json.dumps(rows) if ending == ".json" else "\n".join(map(json.dumps, lines))
  )
  rng = np.random.default_rng(0)
  for i, number in enumerate(SENTINEL):
    folder = tmp_path / ("VG_100K", "VG_100K_2")[i % 2]
    folder.mkdir()
    pixels = rng.integers(0, 256, (37, 20 + 30 * i, 3), np.uint8)
    Image.fromarray(pixels).save(folder / f"{number}.jpg", format="PNG")
  scored = world.run(
    f"--adapter={world.root / 'adapter'}",
    f"--pairs={path}",
    f"--image-dir={tmp_path}",
    "--objective=dpo",
  )
  for row, (chosen, rejected, loss) in zip(scored, SENTINEL_FOUND, strict=True):
    assert row["num_tokens"]["chosen"] == chosen
    assert row["num_tokens"]["rejected"] == rejected
    assert row["loss"]["dpo"] == pytest.approx(loss, abs=1e-4)


@pytest.mark.slow
def test_weights_and_more_rejected_answers(world: World) -> None:
  """Weights multiply; each rejected answer has a number of its own."""
  (row,) = json.loads((world.root / "pairs.json").read_text())[:1]
  held = world.root / "weighted.json"

  def numbers(**more: Any) -> dict[str, Any]:
    held.write_text(json.dumps([row | more]))
    flags = [f"--adapter={world.root / 'adapter'}", f"--pairs={held}"]
    (made,) = world.run(*flags, "--objective=dpo")
    return made

  plain = numbers()
  others = [
    {"conversations": row["conversations"][:1]
     + [{"from": "gpt", "value": "A red bus."}], "weight": 2.0}
  ]  # fmt: skip
  made = numbers(rejected_weight=0.25, more_rejected=others)
  other = numbers(
    rejected_conversations=others[0]["conversations"], rejected_weight=2.0
  )
  losses = []
  for model in ("policy", "reference"):
    assert made[model]["chosen_logps"] == pytest.approx(
      plain[model]["chosen_logps"], abs=1e-3
    )
    want = [
      0.25 * plain[model]["rejected_logps"],
      other[model]["rejected_logps"],
    ]
    assert made[model]["rejected_logps"] == pytest.approx(want, abs=1e-3)
  mine, theirs = made["policy"], made["reference"]
  for i in range(2):
    margin = mine["chosen_logps"] - theirs["chosen_logps"]
    margin -= mine["rejected_logps"][i] - theirs["rejected_logps"][i]
    losses.append(np.log1p(np.exp(-0.1 * margin)))
  assert made["loss"]["dpo"] == pytest.approx(np.mean(losses), abs=1e-4)
  assert abs(losses[0] - losses[1]) > 1e-2
