"""Prices by name, tokens of texts and pictures."""

import json

import pytest

from povid_jax.errors import UserError
from povid_jax.llm.prices import (
  DEFAULT,
  Price,
  dollars,
  load_price,
  message_tokens,
)


def test_the_longest_name_counts():
  assert load_price("gpt-4o-mini-2024-07-18").input == 0.15
  assert load_price("gpt-4o-2024-08-06").input == 2.5
  unknown = load_price("my-own-model")
  assert not unknown.known and unknown.cost(1000, 1000) == 0


def test_every_entry_of_the_table_is_a_price():
  for name in json.loads(DEFAULT.read_text())["models"]:
    price = load_price(name)
    assert price.output > price.input > 0 and price.image_tokens(640, 480) > 0


def test_costs():
  price = Price(input=2.5, output=10, batch=0.5)
  assert price.cost(1_000_000, 100_000) == pytest.approx(3.5)
  assert price.cost(1_000_000, 100_000, batch=True) == pytest.approx(1.75)


@pytest.mark.parametrize(
  ("image", "size", "tokens"),
  [
    # The provider's own examples: 1024 x 1024 at high detail is four tiles.
    ({"base": 85, "tile": 170}, (1024, 1024), 765),
    ({"base": 85, "tile": 170}, (512, 512), 255),
    ({"base": 85, "tile": 170}, (2048, 4096), 1105),
    ({"base": 85, "tile": 170}, (640, 480), 425),
    ({"patch": 1.0}, (1024, 1024), 1024),
    ({"patch": 1.62}, (1024, 1024), 1659),
    ({"patch": 1.0}, (4000, 4000), 1536),
  ],
)
def test_tokens_of_pictures(image, size, tokens):
  assert Price(image=image).image_tokens(*size) == tokens


def test_tokens_of_messages_count_text_only():
  picture = {"type": "image_url", "image_url": {"url": "x" * 10_000}}
  parts = [picture, {"type": "text", "text": "a" * 380}]
  assert message_tokens([{"role": "user", "content": parts}]) == 104
  assert message_tokens([{"role": "user", "content": "a" * 38}]) == 14


@pytest.mark.parametrize(
  "text",
  [
    "",
    "[]",
    "{}",
    '{"models": {"m": {"price": 1}}}',
    '{"models": {"m": {"input": "1"}}}',
    '{"models": {"m": {"output": -1}}}',
    '{"models": {"m": {"image": 5}}}',
    '{"models": {"m": {"image": {"base": null}}}}',
    '{"models": []}',
  ],
)
def test_a_malformed_table_is_named(tmp_path, text):
  path = tmp_path / "prices.json"
  path.write_text(text)
  if text == '{"models": []}':
    assert not load_price("m", path).known
    return
  with pytest.raises(UserError, match="prices.json"):
    load_price("m", path)


@pytest.mark.parametrize(
  ("amount", "shown"),
  [
    (0.0, "$0.00"),
    (0.0042, "$0.0042"),
    (0.000123, "$0.00012"),
    (0.63, "$0.63"),
    (0.999, "$1.00"),
    (1234.5, "$1,234.50"),
  ],
)
def test_dollars(amount, shown):
  assert dollars(amount) == shown
