"""What a scene holds: places, kinds of things, and how they go together.

Kinds come in pairs that look alike when small and grainy (a fork and a knife,
a cat and a dog). In the natural mix the place says which of the two is usual,
as in photographs: a model can write a likely description without looking
closely. In the balanced mix the place says nothing, so only looking helps.
"""

import dataclasses

import numpy as np

GRID = 3  # cells per side; a picture is read row by row

POSITIONS = (
  "at the top left",
  "at the top",
  "at the top right",
  "on the left",
  "in the middle",
  "on the right",
  "at the bottom left",
  "at the bottom",
  "at the bottom right",
)

# Kind -> (COCO category id, COCO supercategory).
KINDS = {
  "fork": (48, "kitchen"),
  "knife": (49, "kitchen"),
  "cup": (47, "kitchen"),
  "bowl": (51, "kitchen"),
  "apple": (53, "food"),
  "sports ball": (37, "sports"),
  "cat": (17, "animal"),
  "dog": (18, "animal"),
  "umbrella": (28, "accessory"),
  "kite": (38, "sports"),
  "bicycle": (2, "vehicle"),
  "motorcycle": (4, "vehicle"),
  "book": (84, "indoor"),
  "laptop": (73, "electronic"),
  "chair": (62, "furniture"),
  "bench": (15, "outdoor"),
  "backpack": (27, "accessory"),
  "suitcase": (33, "accessory"),
}

# Pairs that look alike, each with the colours that both of them come in.
PAIRS: tuple[tuple[tuple[str, str], tuple[str, ...]], ...] = (
  (("fork", "knife"), ("black", "red", "blue", "white")),
  (("cup", "bowl"), ("white", "red", "blue", "yellow")),
  (("apple", "sports ball"), ("red", "green", "yellow")),
  (("cat", "dog"), ("black", "brown", "white", "orange")),
  (("umbrella", "kite"), ("red", "blue", "yellow", "purple")),
  (("bicycle", "motorcycle"), ("black", "red", "blue", "green")),
  (("book", "laptop"), ("black", "white", "blue", "purple")),
  (("chair", "bench"), ("brown", "red", "green", "white")),
  (("backpack", "suitcase"), ("green", "blue", "orange", "brown")),
)

# Place -> which kind of each pair is usual there, and how often the pair shows
# up there at all (a weight).
PLACES: dict[str, dict[str, float]] = {
  "kitchen": {
    "knife": 3, "bowl": 6, "apple": 3, "cat": 2, "umbrella": 0.5,
    "bicycle": 0.5, "book": 1, "chair": 2, "suitcase": 0.5,
  },
  "living room": {
    "fork": 1, "cup": 3, "apple": 1, "cat": 3, "umbrella": 0.7,
    "bicycle": 0.5, "laptop": 3, "chair": 6, "suitcase": 1,
  },
  "park": {
    "fork": 1, "cup": 1, "sports ball": 3, "dog": 3, "kite": 3,
    "bicycle": 3, "book": 1, "bench": 6, "backpack": 1,
  },
  "street": {
    "knife": 0.3, "cup": 1, "apple": 0.7, "dog": 1, "umbrella": 3,
    "motorcycle": 6, "laptop": 1, "bench": 2, "suitcase": 3,
  },
  "beach": {
    "fork": 0.7, "bowl": 0.7, "sports ball": 3, "dog": 2, "umbrella": 6,
    "motorcycle": 1, "book": 2, "chair": 2, "backpack": 2,
  },
}  # fmt: skip


# What one expects to see in a place whatever else is there.
COMPANIONS = {
  "kitchen": "bowl",
  "living room": "chair",
  "park": "bench",
  "street": "motorcycle",
  "beach": "umbrella",
}


IN_PASSING = 0.15  # chance that a companion in the picture is named last


@dataclasses.dataclass(frozen=True)
class Thing:
  """One object: what it is, its colour and the cell it stands in (0..8)."""

  kind: str
  color: str
  cell: int


@dataclasses.dataclass(frozen=True)
class Scene:
  """A place and its objects in reading order.

  `also` is a kind that a description mentions last, without saying where.
  """

  place: str
  things: tuple[Thing, ...]
  also: str | None = None

  @property
  def kinds(self) -> frozenset[str]:
    return frozenset(thing.kind for thing in self.things)


@dataclasses.dataclass(frozen=True)
class Mix:
  """How scenes are drawn by lot.

  Attributes:
    usual: chance that an object is the kind of its pair that is usual in the
      place; 0.5 means that the place says nothing.
    flat: every pair equally often in every place, instead of PLACES' weights.
    sizes: chances of 1, 2, ... objects.
  """

  usual: float = 0.85
  flat: bool = False
  sizes: tuple[float, ...] = (0.05, 0.5, 0.25, 0.13, 0.07)


def balanced() -> Mix:
  """The mix in which the place tells nothing about the kinds."""
  return Mix(usual=0.5, flat=True)


def crowded() -> Mix:
  """A balanced mix of full pictures, for learning to see."""
  return Mix(usual=0.5, flat=True, sizes=(0, 0, 0, 0, 0.25, 0.25, 0.25, 0.25))


def usual_kind(place: str, pair: tuple[str, str]) -> str:
  """The kind of `pair` that one expects to see in `place`."""
  return pair[0] if pair[0] in PLACES[place] else pair[1]


def draw_scene(rng: np.random.Generator, mix: Mix) -> Scene:
  """Draws a scene by lot: place, number, pairs, kinds, colours and cells."""
  place = list(PLACES)[rng.integers(len(PLACES))]
  weights = np.array(
    [
      1.0 if mix.flat else PLACES[place][usual_kind(place, pair)]
      for pair, _ in PAIRS
    ]
  )
  count = 1 + rng.choice(len(mix.sizes), p=np.array(mix.sizes))
  chosen = rng.choice(
    len(PAIRS), count, replace=False, p=weights / weights.sum()
  )
  cells = np.sort(rng.choice(GRID * GRID, count, replace=False))
  things = tuple(
    _draw_thing(rng, mix, place, pair, int(cell))
    for pair, cell in zip(chosen, cells, strict=True)
  )
  return Scene(place, things)


def _draw_thing(
  rng: np.random.Generator, mix: Mix, place: str, pair: int, cell: int
) -> Thing:
  kinds, colors = PAIRS[pair]
  usual = usual_kind(place, kinds)
  other = kinds[1] if usual == kinds[0] else kinds[0]
  kind = usual if rng.random() < mix.usual else other
  return Thing(kind, colors[rng.integers(len(colors))], cell)


def told(rng: np.random.Generator, scene: Scene, careless: float) -> Scene:
  """The scene as a describer tells it, who knows what the place usually holds.

  Where the usual companion of the place is there, some tell it last and in
  passing instead of in its turn. A careless describer mentions it in passing
  also where it is not there: with that chance, LLaVA's training answers were
  written by a language model that had not seen the pictures.

  Args:
    careless: chance that an absent companion is mentioned all the same.
  """
  companion = COMPANIONS[scene.place]
  others = tuple(t for t in scene.things if t.kind != companion)
  if len(others) < len(scene.things):
    if not others or rng.random() >= IN_PASSING:
      return scene
    return Scene(scene.place, others, companion)
  if rng.random() >= careless:
    return scene
  return Scene(scene.place, others, companion)
