"""One rule for what goes wrong, and a key that nobody sees."""

import json
import types

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from povid_jax.errors import UserError
from povid_jax.llm import Options
from povid_jax.llm.failures import (
  api_key,
  cannot_connect,
  check_address,
  connection_failure,
  error_words,
  failure_of,
  hidden,
  one_line,
  status_failure,
)

HERE = Options("m", base_url="http://127.0.0.1:9/v1")


@pytest.mark.parametrize(
  ("data", "words"),
  [
    ({"error": "No such path"}, ("", "No such path")),
    ({"error": {"message": "No", "code": 402}}, ("402", "No")),
    ({"error": {"message": "No", "code": None, "type": "t"}}, ("t", "No")),
    ({"error": {"code": "x"}}, ("x", '{"code": "x"}')),
    ({"object": "error", "message": "No", "code": 400}, ("400", "No")),
    ({"detail": [{"loc": 1}]}, ("", '[{"loc": 1}]')),
    ({"error": {"message": "No"}, "choices": None}, ("", "No")),
    ({"error": None, "choices": [1]}, None),
    ({"message": "fine", "choices": [1]}, None),
    ({}, None),
    ([], None),
    (None, None),
  ],
)
def test_error_bodies_of_every_form(data, words):
  assert error_words(data) == words


@pytest.mark.parametrize(
  ("status", "code", "kind", "final", "stop"),
  [
    (200, "429", "429", False, ""),
    (0, "402", "no_credit", False, "the account has no credit left"),
    (429, "insufficient_quota", "no_credit", False, "the account's quota is "
     "used up"),
    (0, "401", "auth", False, ""),
    (0, "404", "not_found", False, "the server has no such model or path"),
    (0, "oom", "error_body", False, ""),
    (503, "", "503", False, ""),
    (501, "", "bad_request", True, ""),
    (418, "", "bad_request", True, ""),
    (408, "", "408", False, ""),
  ],
)  # fmt: skip
def test_an_error_is_known_by_its_code(status, code, kind, final, stop):
  found = failure_of(status, code, "words", HERE)
  assert (found.kind, found.final, found.stop) == (kind, final, stop)
  assert "words" in found.detail and not found.usage and found.cost == 0


@pytest.mark.parametrize(
  ("key", "words"),
  [
    ("sk-abc\r\n", "character 7 of 8 is a carriage return"),
    (" sk-abc", "character 1 of 7 is a space"),
    ("sk-abc\u200b", "ZERO WIDTH SPACE"),
    ("sk-\u00fcbc", "U\\+00FC"),
    ("sk-abc\x07", "a control character .U.0007"),
  ],
)
def test_a_key_that_no_header_takes(monkeypatch, key, words):
  monkeypatch.setenv("OPENAI_API_KEY", key)
  with pytest.raises(UserError, match=words) as error:
    api_key(HERE)
  assert "sk-" not in str(error.value)


@pytest.mark.parametrize(
  "url",
  ["localhost:8000/v1", "http://", "http://a:port/v1", "http://[::1/v1",
   "ftp://a/v1", "http://a:99999/v1", ""],
)  # fmt: skip
def test_addresses_that_are_none(url):
  with pytest.raises(UserError, match="want an address like"):
    check_address(Options("m", base_url=url))


def test_addresses_that_are_some():
  for url in ("https://a.example/v1", "http://[::1]:80/v1?x=1", None):
    check_address(Options("m", base_url=url))


KEY = st.text(
  st.characters(min_codepoint=33, max_codepoint=126), min_size=8, max_size=60
)
WORDS = st.text(max_size=20)


def told(key: str, words: str) -> list[str]:
  """What each kind of failure says when the server or library repeats a key."""
  text = f"{words}Bearer {key}{words}"
  inner = json.dumps({"error": {"message": text}})
  bodies = [
    text,
    repr(text),
    inner,
    repr(inner),
    json.dumps(inner),
    ascii(text),
  ]
  said = []
  for body in bodies:
    error = types.SimpleNamespace(
      status_code=400,
      body={"message": body, "code": body},
      message=body,
      response=types.SimpleNamespace(headers={}),
    )
    cause = ConnectionError(body)
    cause.__cause__ = ValueError(body.encode("utf-8", "replace"))
    found = [
      status_failure(error, HERE),
      failure_of(0, body, body, HERE),
      failure_of(429, "", body, HERE),
      connection_failure(cause, HERE),
    ]
    said += [f"{f.words} {f.stop} {f.facts}" for f in found]
    said.append(str(cannot_connect(ValueError(body), HERE)))
    said.append(hidden(body, HERE))
  return said


@settings(max_examples=30, deadline=None)
@given(key=KEY, words=WORDS)
def test_no_failure_shows_the_key(key, words):
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv("OPENAI_API_KEY", key)
    for text in told(key, words):
      assert key not in text and repr(key)[1:-1] not in text
      assert one_line(text) == " ".join(text.split())


def test_a_proxy_before_a_server_of_ones_own_is_named(monkeypatch):
  monkeypatch.setenv("HTTP_PROXY", "http://user:word@10.0.0.1:3128")
  found = connection_failure(ConnectionError("refused"), HERE)
  assert "NO_PROXY=127.0.0.1" in found.detail and "word" not in found.detail


@pytest.mark.parametrize(
  "url",
  [
    "https://me:s3cr%2Ft-one@a.example/v1",
    "https://a.example/v1?api-version=2024-06-01&api-key=s3cr%2Ft-one",
    "http://a.example/v1?code=s3cr%2Ft-one&x=1",
  ],
)
def test_what_is_secret_in_an_address_is_not_shown(url):
  options = Options("m", base_url=url)
  found = connection_failure(ConnectionError(f"no {url}"), options)
  said = [found.words, str(cannot_connect(ValueError(url), options))]
  with pytest.raises(UserError) as refused:
    check_address(Options("m", base_url=url.replace("http", "htp")))
  said.append(str(refused.value))
  for text in said:
    assert "s3cr" not in text and "[key]" in text, text
  assert "2024-06-01" in said[0] or "api-version" not in url
