"""What requests to a language model cost, and how many tokens they are."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from povid_jax import files
from povid_jax.errors import UserError

DEFAULT = Path(__file__).with_name("prices.json")
# English text in current tokenizers, rounded up in cost.
_CHARACTERS_PER_TOKEN = 3.8
_TOKENS_PER_MESSAGE = 4
_PATCHES = 1536


@dataclasses.dataclass(frozen=True)
class Price:
  """Dollars per million tokens of one model.

  Attributes:
    input, output: of prompt and completion tokens.
    batch: factor on both for the Batch API.
    image: {base, tile} or {patch}, see prices.json.
    known: False for a model that is not in the table; it counts as free.
  """

  input: float = 0.0
  output: float = 0.0
  batch: float = 1.0
  image: Mapping[str, float] = dataclasses.field(
    default_factory=lambda: {"base": 85, "tile": 170}
  )
  known: bool = True

  def cost(
    self, prompt_tokens: int, completion_tokens: int, batch: bool = False
  ) -> float:
    """Dollars for so many tokens."""
    dollars = prompt_tokens * self.input + completion_tokens * self.output
    return dollars / 1e6 * (self.batch if batch else 1.0)

  def image_tokens(self, width: int, height: int) -> int:
    """Tokens of one picture of that many pixels."""
    if "patch" in self.image:
      patches = math.ceil(width / 32) * math.ceil(height / 32)
      return math.ceil(min(patches, _PATCHES) * self.image["patch"])
    scale = min(1.0, 768 / max(1, min(width, height)))
    tiles = math.ceil(width * scale / 512) * math.ceil(height * scale / 512)
    return math.ceil(self.image["base"] + self.image["tile"] * tiles)


def load_price(model: str, path: str | Path | None = None) -> Price:
  """The price of a model: the longest entry that its name starts with.

  Raises:
    UserError: the file cannot be read or is not in the form of
      prices.json.
  """
  path = Path(path or DEFAULT)
  try:
    table = files.load_json(path)["models"]
    names = [name for name in table if model.startswith(name)]
    if not names:
      return Price(known=False)
    return _checked(**table[max(names, key=len)])
  except (ValueError, KeyError, TypeError) as error:
    raise UserError(
      f"{path}: want {{models: {{name: {{input, output, batch, image}}}}}} "
      f"like {DEFAULT.name} ({error})"
    ) from error


def _checked(**fields: Any) -> Price:
  """Raises TypeError for a value that is not a number."""
  price = Price(**fields)
  if not isinstance(price.image, Mapping):
    raise TypeError(f"image is {price.image!r}")
  for value in (price.input, price.output, price.batch, *price.image.values()):
    if type(value) not in (int, float) or not 0 <= value < math.inf:
      raise TypeError(f"{value!r} is not a price; want a number of dollars")
  return price


def dollars(amount: float) -> str:
  """ "$1,234.50"; below a dollar two significant digits, "$0.0042"."""
  if not 0 < amount < 1:
    return f"${amount:,.2f}"
  digits = 1 - math.floor(math.log10(amount))
  return f"${amount:.{digits}f}"


def text_tokens(text: str) -> int:
  """About how many tokens a text is; not less than it will be, in English."""
  return math.ceil(len(text) / _CHARACTERS_PER_TOKEN)


def message_tokens(messages: Sequence[Mapping[str, Any]]) -> int:
  """About how many tokens the text of chat messages is, pictures left out."""
  total = 0
  for message in messages:
    content = message["content"]
    parts = [content] if isinstance(content, str) else content
    for part in parts:
      text = part if isinstance(part, str) else part.get("text", "")
      total += text_tokens(text)
    total += _TOKENS_PER_MESSAGE
  return total
