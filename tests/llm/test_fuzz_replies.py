"""Whatever a server sends: a reply, a failure, and never a traceback."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_gen.injectors import prompts
from data_gen.items import make_items
from data_gen.verify import llm as verifier
from povid_jax import files
from povid_jax.data.pairs import Sample
from povid_jax.eval.benchmarks import llava_bench, mmhal, mmvet
from povid_jax.llm import batch, failures
from povid_jax.llm.failures import Failure
from povid_jax.llm.prices import Price
from povid_jax.llm.wire import Options, Request, read_reply
from tests import fuzzing

pytestmark = pytest.mark.slow
OPTIONS = Options(model="m", base_url="http://127.0.0.1:9/v1")
JSON = fuzzing.values(
  "stop", "length", "insufficient_quota", "429", "<think>", "</think>",
  '{"rejected": 3}', "```json\n{", "Rating: 9", "[[5]]", "7 8",
)  # fmt: skip
EDITED = {
  "rejected": "A cat sits.",
  "edits": [{"original": "dog", "replacement": "cat", "kind": "object"}],
}
BODIES = [
  {
    "id": "x", "object": "chat.completion",
    "choices": [{
      "index": 0, "finish_reason": "stop",
      "message": {"role": "assistant", "content": text, "refusal": None,
                  "reasoning_content": "so"},
    }],
    "usage": {"prompt_tokens": 5, "completion_tokens": 7},
  }
  for text in (json.dumps(EDITED), "A cat sits.", "8 7\nBoth are good.")
] + [
  {"error": {"message": "no", "type": "invalid", "code": "429"}},
  {"object": "error", "message": "no", "code": 400},
  {"detail": [{"loc": ["body"], "msg": "no"}]},
]  # fmt: skip
ROW = {"custom_id": "a", "response": {"status_code": 200, "body": BODIES[0]},
       "error": None}  # fmt: skip
(ITEM,) = make_items([Sample("a", (), ("What is there?", "A dog sits."))])
ASKED = [
  prompts.request(ITEM, (), 0),
  Request("a", [{"role": "user", "content": "q"}]),
]
RULES = (
  mmvet.reading, mmvet.clean_reading, mmhal.rating, mmhal.clean_rating,
  llava_bench.pair, llava_bench.clean_pair,
)  # fmt: skip


def _bent(data: Any, value: Any) -> Any:
  for _ in range(data.draw(st.integers(0, 2))):
    path = data.draw(st.sampled_from([(), *fuzzing.paths(value)]))
    value = fuzzing.put(value, path, data.draw(JSON))
  return value


@fuzzing.runs(1000)
@given(data=st.data(), structured=st.booleans())
def test_any_body(data, structured):
  body = _bent(data, data.draw(st.sampled_from(BODIES)))
  asked = data.draw(st.sampled_from(ASKED))
  found = failures.error_words(body)
  if found is not None:
    status = data.draw(st.sampled_from([0, 200, 400, 402, 404, 429, 501, 503]))
    assert failures.failure_of(status, *found, OPTIONS).words
  try:
    reply = read_reply(asked, body, structured, Price())
  except Failure as error:
    assert error.words.isprintable()
    return
  json.dumps(reply.parsed)
  assert isinstance(reply.defect, str)
  read = prompts.read(ITEM, reply)
  assert all(isinstance(text, str) for text in read.rejected)
  verifier._read(reply, ["dog", "cat"])
  for rule in RULES:
    rule(reply.text)


@fuzzing.runs(500)
@given(data=st.data())
def test_any_row_of_a_batch(data):
  raw = fuzzing.spoil(data, json.dumps(_bent(data, ROW)), JSON)
  row = batch.read_row(raw, OPTIONS)
  if row is not None:
    assert isinstance(row.custom_id, str)
    assert row.failure is None or row.failure.words


@fuzzing.runs(300)
@given(raw=st.binary(max_size=60), start=st.sampled_from([b"", b"{", b"data:"]))
def test_any_bytes(raw, start):
  try:
    files.parse_json(start + raw)
  except ValueError:
    pass
