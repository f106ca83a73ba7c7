"""The vision tower that a checkpoint names, against the one that was given."""

import re
from pathlib import Path
from typing import Any

from povid_jax.errors import UserError
from povid_jax.models.config import VisionConfig

_NAME = re.compile(r"patch(\d+)(?:-(\d+))?", re.IGNORECASE)
_DEFAULT = 224  # pixels, where a name has none
# Sizes that towers are published at. A tower of another size is somebody's
# own, whatever name its config.json has kept.
_PUBLISHED = (224, 256, 336, 378, 384, 448)


def check(named: Any, given: VisionConfig, tower: Path, where: Path) -> None:
  """Refuses a tower of other sizes than those in the checkpoint's name for it.

  The widths of CLIP-L at 224 and at 336 pixels are equal, so that no shape
  would complain: only positions and pictures differ.

  Args:
    named: `mm_vision_tower` of the checkpoint.
    given: dimensions of the tower in --vision-tower.
    tower: that folder.
    where: config.json of the checkpoint.

  Raises:
    UserError: names both.
  """
  found = _NAME.search(Path(named).name) if isinstance(named, str) else None
  if found is None:
    return
  patch, size = int(found[1]), int(found[2] or _DEFAULT)
  siglip = "siglip" in str(named).lower()
  same = patch == given.patch_size and siglip == (not given.class_token)
  if given.image_size in _PUBLISHED:
    same &= size == given.image_size
  if not same:
    kind = "CLIP" if given.class_token else "SigLIP"
    raise UserError(
      f"{where}: mm_vision_tower is {named}, and --vision-tower={tower} is a "
      f"{kind} of patches of {given.patch_size} at {given.image_size} pixels; "
      f"use the tower that mm_vision_tower names: `hf download {named}`"
    )
