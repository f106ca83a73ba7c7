"""Replies in every form that servers have sent, usable or not."""

import json
import re

import pytest

from povid_jax.llm import Failure, Options, Price, Request
from povid_jax.llm.dialect import other_limit_name
from povid_jax.llm.wire import body, read_reply

REQUEST = Request("k", [{"role": "user", "content": "Hi"}], schema={})
PRICE = Price(input=10.0, output=100.0)
USAGE = {"prompt_tokens": 70, "completion_tokens": 9}


def reply(message: object, usage: object = USAGE, **choice: object) -> dict:
  return {"choices": [{"message": message, **choice}], "usage": usage}


@pytest.mark.parametrize(
  ("content", "text"),
  [
    ("a", "a"),
    (None, ""),
    ("", ""),
    ([], ""),
    ([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "ab"),
    ([{"type": "reasoning", "x": 1}, {"text": "b"}], "b"),
  ],
)
def test_contents(content, text):
  found = read_reply(REQUEST, reply({"content": content}), True, PRICE)
  assert found.text == text and found.finish == "stop"
  assert found.cost == pytest.approx((70 * 10 + 9 * 100) / 1e6)


@pytest.mark.parametrize(
  "data",
  [
    None,
    [],
    "text",
    {},
    {"choices": []},
    {"choices": None},
    {"choices": [None]},
    {"choices": [{"message": None}]},
    reply({"content": 7}),
    reply({"content": {"text": "a"}}),
    reply({"content": ["a"]}),
    reply({"content": [{"text": 3}]}),
  ],
)
def test_what_is_no_reply_has_been_paid_for(data):
  with pytest.raises(Failure) as failure:
    read_reply(REQUEST, data, True, PRICE)
  assert failure.value.kind == "bad_reply" and not failure.value.final
  told = isinstance(data, dict) and "usage" in data
  prompt = 70 if told else REQUEST.tokens
  assert failure.value.usage == {"prompt": prompt, "completion": 9 * told}
  assert failure.value.facts["cost"] > 0


@pytest.mark.parametrize(
  "usage",
  [
    None,
    [],
    "many",
    {"prompt_tokens": -3, "completion_tokens": None},
    {"prompt_tokens": float("inf"), "completion_tokens": float("nan")},
    {"prompt_tokens": "7", "completion_tokens": True},
  ],
)
def test_odd_usage_is_estimated(usage):
  found = read_reply(REQUEST, reply({"content": "x" * 40}, usage), True, PRICE)
  assert found.usage == {"prompt": REQUEST.tokens, "completion": 10}


def test_deep_and_fenced_json():
  deep = read_reply(REQUEST, reply({"content": "[" * 100_000}), True, PRICE)
  assert deep.parsed is None
  text = "Here:\n```json\n" + json.dumps({"a": [1]}) + "\n```"
  fenced = read_reply(REQUEST, reply({"content": text}), False, PRICE)
  assert fenced.parsed == {"a": [1]}


@pytest.mark.parametrize(
  ("sent", "detail", "other"),
  [
    (
      "max_tokens",
      "'max_tokens' is not supported with this model. Use "
      "'max_completion_tokens' instead.",
      "max_completion_tokens",
    ),
    ("max_completion_tokens", "Unrecognized: max_completion_tokens",
     "max_tokens"),
    ("max_tokens", "max_tokens is too large: 90000", None),
    ("max_tokens", "max_tokens or max_completion_tokens is too large", None),
    ("max_tokens", "Invalid image", None),
  ],
)  # fmt: skip
def test_the_other_name_of_the_limit(sent, detail, other):
  assert other_limit_name(sent, detail) == other


def test_the_limit_goes_by_the_name_asked_for():
  options = Options("m", base_url="http://localhost/v1", max_tokens=5)
  assert body(REQUEST, options, True)["max_tokens"] == 5
  renamed = body(REQUEST, options, True, "max_completion_tokens")
  assert renamed["max_completion_tokens"] == 5 and "max_tokens" not in renamed


@pytest.mark.parametrize(
  ("message", "finish", "words"),
  [
    ({"content": "A dog."}, "stop", ""),
    ({"content": "A dog."}, None, ""),
    ({"content": "A dog."}, "eos_token", ""),
    ({"content": "A do"}, "length", "cut off"),
    ({"content": "A do"}, "MAX_TOKENS", "cut off"),
    ({"content": "A do"}, "abort", "'abort' means"),
    ({"content": "A do"}, "error", "'error' means"),
    ({"content": ""}, "SAFETY", "declined: SAFETY"),
    ({"content": None, "refusal": "No."}, "stop", "declined: No."),
    ({"content": " "}, "stop", "content is empty"),
    ({"content": "", "reasoning": "Hm."}, "stop", "3 characters are in reason"),
    (
      {"content": None, "reasoning_content": "H"},
      "length",
      "reasoning_content",
    ),
    ({"content": "<think>Hm.</think>"}, "stop", "are thoughts"),
    ({"content": "<think>Hm."}, "length", "cut off.*are thoughts"),
    ({"content": "", "tool_calls": [1]}, "stop", "tool_calls"),
  ],
)
def test_what_is_no_whole_answer(message, finish, words):
  data = reply(message, finish_reason=finish)
  found = read_reply(Request("k", []), data, False, PRICE)
  assert re.search(words, found.defect) if words else found.defect == ""


def test_thoughts_are_neither_the_text_nor_the_json():
  text = '<think>A draft: {"a": 1}</think>\n{"a": 2}'
  found = read_reply(REQUEST, reply({"content": text}), True, PRICE)
  assert found.text == '{"a": 2}' and found.parsed == {"a": 2}
