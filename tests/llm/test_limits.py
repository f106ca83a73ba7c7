"""Token buckets on a clock of our own; back-off; Retry-After; the breaker."""

import asyncio
import email.utils
import time

import pytest

from povid_jax.errors import UserError
from povid_jax.llm.failures import Failure
from povid_jax.llm.limits import (
  Breaker,
  Limits,
  TokenBucket,
  backoff,
  retry_after,
)


class Clock:
  now = 100.0

  def __call__(self) -> float:
    return self.now


def spend(
  bucket: TokenBucket, clock: Clock, amount: float, until: float
) -> int:
  """How many requests pass by the time `until`, waiting as told."""
  passed = 0
  while clock.now < until:
    wait = bucket.take(amount)
    if wait:
      clock.now += wait
    else:
      passed += 1
  return passed


@pytest.mark.parametrize("amount", [1, 30, 200])
def test_the_rate_is_kept(amount):
  clock = Clock()
  bucket = TokenBucket(6000, clock)  # 100 a second
  passed = spend(bucket, clock, amount, clock.now + 60)
  assert passed * amount == pytest.approx(6000, rel=0.04)


def test_a_request_larger_than_the_bucket_passes_and_leaves_a_debt():
  clock = Clock()
  bucket = TokenBucket(600, clock)  # 10 a second
  assert bucket.take(50) == 0
  assert bucket.take(1) == pytest.approx((40 + 1) / 10)
  bucket.give_back(50)  # it took less than was thought
  assert bucket.take(1) == 0


def test_no_limit_never_waits():
  bucket = TokenBucket(None)
  assert all(bucket.take(1e9) == 0 for _ in range(5))


def test_a_pause_holds_everybody():
  async def enter() -> float:
    limits = Limits(None, None)
    limits.pause(0.1)
    start = time.monotonic()
    await asyncio.gather(*(limits.enter(1) for _ in range(5)))
    return time.monotonic() - start

  assert asyncio.run(enter()) >= 0.1


@pytest.mark.parametrize(
  ("headers", "seconds"),
  [
    ({"retry-after": "3"}, 3),
    ({"retry-after": "0.5"}, 0.5),
    ({"retry-after-ms": "250", "retry-after": "9"}, 0.25),
    ({"retry-after": "-1"}, 0),
    ({"retry-after": "soon"}, None),
    ({"retry-after": "inf"}, None),
    ({"retry-after": "nan"}, None),
    ({"retry-after": "Mon, 32 Jan 99999 00:00:00 GMT"}, None),
    ({}, None),
  ],
)
def test_retry_after(headers, seconds):
  assert retry_after(headers) == seconds


def test_retry_after_as_a_date(monkeypatch):
  date = email.utils.formatdate(time.time() + 20, usegmt=True)
  assert 18 <= retry_after({"retry-after": date}) <= 20
  # "-0000" says nothing about the zone; HTTP dates are in UTC.
  monkeypatch.setenv("TZ", "Asia/Tokyo")
  time.tzset()
  date = email.utils.formatdate(time.time() + 20)
  assert 18 <= retry_after({"retry-after": date}) <= 20


def test_backoff_doubles_with_jitter_up_to_a_bound():
  for attempt, most in ((1, 1.0), (2, 2.0), (5, 16.0), (30, 60.0)):
    waits = [backoff(attempt, 1.0) for _ in range(200)]
    assert most / 2 <= min(waits) < max(waits) <= most


def test_the_breaker_wants_three_in_a_row():
  breaker = Breaker("MY_KEY")
  for _ in range(2):
    breaker.refused(Failure("auth", status=401))
  breaker.success()
  for _ in range(2):
    breaker.refused(Failure("auth", status=401))
  with pytest.raises(UserError, match="MY_KEY"):
    breaker.refused(Failure("auth", status=401))
