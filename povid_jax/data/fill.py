"""An encoded example and its pictures to a row of a batch.

All pictures reach a model through this module: they are opened, made noisy at
full size, cut and padded by the layout, and get their positions.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from povid_jax.data import batch as batch_lib
from povid_jax.data import layout as layouts
from povid_jax.data.batch import Batch
from povid_jax.data.layout import Extent, Layout
from povid_jax.data.text import IMAGE_TOKEN, Encoded
from povid_jax.models.pictures import pixels_of


def pack(layout: Layout, pictures: Sequence[Image.Image], room: Extent) -> Any:
  """The arrays of a row's pictures, padded to `room`."""
  return layout.pack(layout.cut(pictures), room)


def into(
  row: Batch,
  encoded: Encoded,
  layout: Layout,
  pictures: Sequence[Image.Image],
  room: Extent,
  noisy: Sequence[Image.Image] | None = None,
) -> Batch:
  """Puts one example into a row of zeros, see `batch.filler`.

  Args:
    row: its arrays are written to.
    room: that the row has for pictures.
    noisy: the noisy pictures, of the same sizes.
  """
  length = len(encoded.prefix_ids)
  row.prefix_ids[:length] = encoded.prefix_ids
  pairs = zip(encoded.branch_ids, encoded.loss_mask, strict=True)
  shift = row.num_chosen - encoded.num_chosen
  for at, (ids, mask) in enumerate(pairs):
    n = at + (shift if at >= encoded.num_chosen else 0)
    row.branch_ids[n, : len(ids)] = ids
    row.loss_mask[n, : len(ids)] = mask
    if row.branch_weight is not None:
      given = encoded.weights
      row.branch_weight[n, : len(ids)] = 1.0 if given is None else given[at]
  if row.chosen_of is not None:
    row.chosen_of[: len(encoded.chosen_of)] = encoded.chosen_of
  row = row._replace(
    prefix_len=np.int32(length), images=pack(layout, pictures, room)
  )
  if noisy is not None:
    # image tokens of both come from one map: only the pixels differ
    row = row._replace(images_noisy=pixels_of(pack(layout, noisy, room)))
  sizes = [picture.size for picture in pictures]
  found = layout.positions(encoded.prefix_ids == IMAGE_TOKEN, sizes)
  if found is None:
    return row
  positions, start = found
  assert row.positions is not None
  row.positions[: len(positions)] = positions
  return row._replace(position_start=np.int32(start))


def alone(
  encoded: Encoded,
  layout: Layout,
  pictures: Sequence[Image.Image],
  multiple: int,
  noisy: Sequence[Image.Image] | None = None,
) -> Batch:
  """A batch of one example, its lengths padded to a multiple.

  Args:
    noisy: see `into`.
  """
  padded = lambda ids: -(-len(ids) // multiple) * multiple
  room = layouts.room_of(layout, pictures, multiple)
  described = batch_lib.describe(
    prefix=padded(encoded.prefix_ids),
    branch=max(map(padded, encoded.branch_ids)),
    branches=len(encoded.branch_ids),
    pictures=layout.describe(room),
    noise=None if noisy is None else "image",
    weighted=encoded.weights is not None,
    position_axes=layout.position_axes,
    chosen=encoded.num_chosen,
  )
  row = batch_lib.filler(described)
  row = into(row, encoded, layout, pictures, room, noisy)
  return batch_lib.stack([row.for_model()])
