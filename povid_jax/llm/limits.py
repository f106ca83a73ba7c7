"""How fast a server may be asked: token buckets, pauses and back-off."""

import asyncio
import datetime
import email.utils
import math
import random
import time
from collections.abc import Callable, Mapping
from typing import Any

from povid_jax.errors import UserError

# Refusals of the key in a row before the run stops: one may be a short failure
# of the server, three mean a wrong key.
_AUTH_LIMIT = 3


class TokenBucket:
  """Lets through `rate` units a minute, in bursts of at most a second's worth.

  A request larger than the bucket passes when the bucket is full and leaves a
  debt that later ones wait for.
  """

  def __init__(
    self, rate: float | None, clock: Callable[[], float] = time.monotonic
  ):
    self._rate = rate / 60 if rate else None
    self._capacity = max(1.0, self._rate or 1.0)
    self._level = self._capacity
    self._clock = clock
    self._then = clock()

  def _refill(self) -> None:
    now = self._clock()
    gained = (now - self._then) * (self._rate or 0)
    self._level = min(self._capacity, self._level + gained)
    self._then = now

  def take(self, amount: float) -> float:
    """Takes `amount` now and returns 0, or returns the seconds to wait."""
    if self._rate is None:
      return 0.0
    self._refill()
    missing = min(amount, self._capacity) - self._level
    if missing > 1e-9:
      return missing / self._rate
    self._level -= amount
    return 0.0

  def give_back(self, amount: float) -> None:
    """Corrects an estimate: what was taken and not used."""
    self._level += amount


class Limits:
  """Requests and tokens a minute, and pauses that the server asks for."""

  def __init__(self, rpm: float | None, tpm: float | None):
    self._requests = TokenBucket(rpm)
    self._tokens = TokenBucket(tpm)
    self._resume = 0.0
    self._turn = asyncio.Lock()

  async def enter(self, tokens: int) -> None:
    """Waits until a request of that many tokens may go out."""
    async with self._turn:  # in order: a large request is not overtaken
      while (wait := self._resume - time.monotonic()) > 0:
        await asyncio.sleep(wait)
      for bucket, amount in ((self._requests, 1), (self._tokens, tokens)):
        while (wait := bucket.take(amount)) > 0:
          await asyncio.sleep(wait)

  def used(self, estimate: int, tokens: int) -> None:
    self._tokens.give_back(estimate - tokens)

  def pause(self, seconds: float) -> None:
    """Holds back every request: the limit is the account's, not one's own."""
    self._resume = max(self._resume, time.monotonic() + seconds)


def retry_after(headers: Mapping[str, str]) -> float | None:
  """Seconds of a Retry-After header, given as a number or as a date."""
  for name, unit in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
    value = headers.get(name)
    if value is None:
      continue
    try:
      wait = float(value) * unit
    except ValueError:
      wait = _until(value)
    if math.isfinite(wait):
      return max(0.0, wait)
  return None


def _until(date: str) -> float:
  """Seconds until an HTTP date, which is in UTC; NaN for other text."""
  try:
    then = email.utils.parsedate_to_datetime(date)
  except (ValueError, OverflowError):
    return math.nan
  if then.tzinfo is None:
    then = then.replace(tzinfo=datetime.UTC)
  return then.timestamp() - time.time()


def backoff(attempt: int, base: float, most: float = 60.0) -> float:
  """Seconds before attempt `attempt` (1, 2, ...): doubling, with jitter, so
  that requests that failed together do not come back together."""
  return random.uniform(0.5, 1.0) * min(most, base * 2 ** (attempt - 1))


class Breaker:
  """Stops the run when the key is refused again and again."""

  def __init__(self, key_name: str):
    self._key_name = key_name
    self._refused = 0

  def success(self) -> None:
    self._refused = 0

  def refused(self, failure: Any) -> None:
    """Counts one refusal (a `Failure`); UserError at the third in a row."""
    self._refused += 1
    if self._refused >= _AUTH_LIMIT:
      raise UserError(
        f"the server refused the key {self._refused} times in a row "
        f"(status {failure.status}: {failure.detail[:200]}); check "
        f"{self._key_name} and its permissions"
      )
