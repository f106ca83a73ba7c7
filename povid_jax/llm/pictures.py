"""Pictures as parts of chat messages."""

import base64
import contextlib
import io
import warnings

from PIL import Image

from povid_jax.data.image import is_complete, open_image


def image_part(data: bytes, size: int = 768, quality: int = 85) -> tuple:
  """A picture as a data URL of bounded size.

  Args:
    data: any encoded picture; whole JPEGs and PNGs within bounds are sent as
      they are.
    size: longest side in pixels; a file is within bounds up to two bytes for
      each pixel of a square of that side (1.2 MB for 768).
    quality: of the JPEG, where one has to be made.

  Returns:
    (part of a message's content, width, height).

  Raises:
    UserError: not a picture, or broken.
  """
  kind, width, height = _peek(data)
  if (
    kind not in ("JPEG", "PNG")
    or max(width, height) > size
    or len(data) > 2 * size * size
    or not is_complete(data, kind)  # `open_image` says what is wrong
  ):
    image = open_image(data)
    image.thumbnail((size, size))
    image.info.clear()  # Pillow would write a comment of megabytes out again
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    data, kind, (width, height) = buffer.getvalue(), "JPEG", image.size
  encoded = base64.b64encode(data).decode()
  url = f"data:image/{kind.lower()};base64,{encoded}"
  return {"type": "image_url", "image_url": {"url": url}}, width, height


def _peek(data: bytes) -> tuple[str, int, int]:
  """Format and size from the header; ("", 0, 0) where `open_image` must say."""
  with contextlib.suppress(Exception), warnings.catch_warnings():
    warnings.simplefilter("error")
    with Image.open(io.BytesIO(data)) as image:
      return image.format or "", *image.size
  return "", 0, 0
