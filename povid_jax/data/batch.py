"""A batch of pairs: the one place that names and shapes its arrays.

B rows, P tokens of prefix, N branches of C tokens, R = N - 1 rejected answers.
Branch 0 is the chosen answer, where a row does not have several (`chosen_of`).
A training step takes every array with one more
axis in front, [A, B, ...]: A microbatches.

A new kind of input is a new field here with its shape in `describe`; what fills
it is `data.batches.Loader`, what reads it `objectives.logps`. Abstract shapes,
placement on devices, filler rows and splitting into microbatches follow from
`describe` and need no change.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from povid_jax.models.pictures import pixels_of

Array = Any  # a NumPy or JAX array, or a jax.ShapeDtypeStruct
FILLER = -1  # index of a row that only fills a batch


class Logps(NamedTuple):
  """Log-probs of one model: sums over scored tokens, nats, float32[B].

  Attributes:
    chosen: the preferred answer, clean image; like `noise` and `corrupted`
      [B, K] in a batch whose rows have K chosen answers.
    rejected: the dispreferred answer, clean image; [B, R] in a batch, one
      number for each pair where objectives work on it.
    noise: the tokens that a model prefers under the noisy image, position by
      position of the chosen answer, scored under the clean image.
    corrupted: the chosen answer under the noisy image (mdpo).
  """

  chosen: Array
  rejected: Array | None = None
  noise: Array | None = None
  corrupted: Array | None = None


class Batch(NamedTuple):
  """The arrays of a batch; a JAX pytree. An absent array is None.

  Attributes:
    prefix_ids: int32[B, P], right-padded; IMAGE_TOKEN where an image token
      belongs.
    prefix_len: int32[B], real tokens of the prefix, at least 1.
    branch_ids: int32[B, N, C], right-padded.
    loss_mask: bool[B, N, C], true where a token is scored.
    images: what the picture layout of the model makes, any pytree of arrays
      [B, ...]; LLaVA-1.5: uint8[B, I, S, S, 3].
    images_noisy: the pixels of the noisy pictures, see `models.pictures`
      (noise site `image`).
    noise_seed: uint32[B], draws the noise on the device (noise site `pixels`).
    branch_weight: float32[B, N, C], multiplies each log-prob before the sum,
      of policy and reference alike; None: 1.
    positions: int32[B, P, 3], of the prefix; None: 0 .. P - 1.
    position_start: int32[B], position of the first branch token; None:
      prefix_len.
    reference: cached log-probs of the reference; terms not cached are None.
    chosen_of: int32[B, R], the branch of each pair's chosen answer where a row
      has K of them: branches 0 .. K - 1 are chosen, the others rejected; None:
      K is 1.
    index: int32[B], number of the sample, FILLER for none. Host only.
    skipped: int32[B], 1 where a bad sample was left out. Host only.
  """

  prefix_ids: Array
  prefix_len: Array
  branch_ids: Array
  loss_mask: Array
  images: Any
  images_noisy: Any = None
  noise_seed: Array | None = None
  branch_weight: Array | None = None
  positions: Array | None = None
  position_start: Array | None = None
  reference: Logps | None = None
  chosen_of: Array | None = None
  index: Array | None = None
  skipped: Array | None = None

  @property
  def num_chosen(self) -> int:
    """K, chosen answers of a row."""
    if self.chosen_of is None:
      return 1
    return self.branch_ids.shape[-2] - self.chosen_of.shape[-1]

  def for_model(self) -> "Batch":
    """The batch without the fields that only the host reads."""
    return self._replace(index=None, skipped=None)


def describe(
  *,
  prefix: int,
  branch: int,
  branches: int,
  pictures: Any,
  noise: str | None = None,
  weighted: bool = False,
  position_axes: int = 0,
  reference: Sequence[str] = (),
  chosen: int = 1,
) -> Batch:
  """Shapes and dtypes (jax.ShapeDtypeStruct) of one row of a batch.

  Args:
    prefix: P.
    branch: C.
    branches: N.
    pictures: ShapeDtypeStructs of the pictures of one row, see
      `Layout.describe`.
    noise: "image" where noisy pictures come with the batch, "pixels" where
      they are drawn on the device, None where there are none.
    weighted: whether tokens have weights.
    position_axes: 3 where the host gives positions, 0 where it does not.
    reference: names of the cached terms, fields of Logps.
    chosen: K.
  """
  of = jax.ShapeDtypeStruct
  number = of((), np.int32)
  size = () if chosen == 1 else (chosen,)
  sizes: dict[str, tuple[int, ...]] = dict.fromkeys(reference, size)
  if "rejected" in sizes:
    sizes["rejected"] = (branches - chosen,)
  terms = {name: of(size, np.float32) for name, size in sizes.items()}
  return Batch(
    prefix_ids=of((prefix,), np.int32),
    prefix_len=number,
    branch_ids=of((branches, branch), np.int32),
    loss_mask=of((branches, branch), np.bool_),
    images=pictures,
    images_noisy=pixels_of(pictures) if noise == "image" else None,
    noise_seed=of((), np.uint32) if noise == "pixels" else None,
    branch_weight=of((branches, branch), np.float32) if weighted else None,
    positions=of((prefix, position_axes), np.int32) if position_axes else None,
    position_start=number if position_axes else None,
    reference=Logps(**terms) if terms else None,
    chosen_of=of((branches - chosen,), np.int32) if chosen > 1 else None,
    index=number,
    skipped=number,
  )


def filler(described: Batch) -> Batch:
  """A row of zeros that fills up a batch; its prefix has one token."""
  zeros: Batch = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), described)
  return zeros._replace(prefix_len=np.int32(1), index=np.int32(FILLER))


def stack(rows: Sequence[Batch]) -> Batch:
  """Rows to a batch [B, ...] of NumPy arrays."""
  return jax.tree.map(lambda *x: np.stack(x), *rows)
