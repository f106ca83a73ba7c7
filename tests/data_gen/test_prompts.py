"""What is asked, and how replies of every shape are read."""

import json

import pytest

from data_gen.injectors import prompts
from data_gen.items import Item
from povid_jax.data.pairs import Sample
from povid_jax.llm.prices import Price
from povid_jax.llm.wire import Options, body, read_reply


def item(*answers: str, category: str = "captioning", variant: int = 0) -> Item:
  turns = [t for a in answers for t in ("<image>\nWhat is it?", a)]
  return Item("k", Sample("s", ("a.jpg",), tuple(turns)), category, variant)


def reply(text, asked: Item, structured: bool = True, **message):
  request = prompts.request(asked, [], 0)
  data = {
    "choices": [
      {
        "message": {"content": text} | message,
        "finish_reason": message.pop("finish", "stop"),
      }
    ],
    "usage": {"prompt_tokens": 10, "completion_tokens": 5},
  }
  return read_reply(request, data, structured, Price(1, 2))


def good(*texts: str) -> str:
  edit = {"turn": 0, "span": "cat", "original": "dog", "kind": "object",
          "change": "animal"}  # fmt: skip
  return json.dumps({"rejected": list(texts), "edits": [edit]})


def test_two_tasks():
  describe = prompts.task(item("A dog."), True)
  reason = prompts.task(item("A dog.", category="vqa"), True)
  assert "describe the image" in describe and "wrong conclusion" in reason
  for text in (describe, reason):
    assert '"answer": "A dog."' in text and "<image>" not in text


def test_new_tries_and_variants_ask_for_something_else():
  texts = {
    prompts.request(item("A.", variant=v), [], t).messages[1]["content"][0][
      "text"
    ]
    for v in range(2)
    for t in range(3)
  }
  assert len(texts) == 6


def test_structured_body_has_a_schema_and_plain_has_not():
  request = prompts.request(item("A dog."), [], 0)
  with_schema = body(request, Options("m", base_url="http://x"), True)
  schema = with_schema["response_format"]["json_schema"]
  assert schema["strict"] and schema["schema"] == prompts.SCHEMA
  plain = body(request, Options("m"), False)
  assert "response_format" not in plain
  assert "JSON" not in str(plain["messages"])


def test_a_structured_reply():
  asked = item("A dog.")
  found = prompts.read(asked, reply(good("A cat."), asked))
  assert found.rejected == ["A cat."] and found.refused is None
  assert found.edits == [
    {"span": "cat", "original": "dog", "kind": "object", "change": "animal"}
  ]


def test_edits_of_a_conversation_name_their_turn():
  asked = item("A dog.", "Yes.")
  found = prompts.read(asked, reply(good("A cat.", "No."), asked))
  assert found.edits[0]["turn"] == 0


@pytest.mark.parametrize(
  "text",
  [
    '{"answer": 42}', "[]", "null", "no json", good(), good("a", "b"),
    '{"rejected": [1], "edits": []}', '{"rejected": {}, "edits": []}',
    '{"rejected": ["a"], "edits": 3}', '{"rejected": ["a"], "edits": [3]}',
    good("A cat.")[:-4],
  ],
)  # fmt: skip
def test_what_is_not_in_the_asked_form(text):
  asked = item("A dog.")
  assert prompts.read(asked, reply(text, asked)).refused.reason == "schema"


def test_refusals_and_cut_replies():
  asked = item("A dog.")
  cases = [
    (reply(None, asked, refusal="I can't."), "refusal"),
    (reply("", asked, finish="content_filter"), "refusal"),
    (reply(good("A cat."), asked, finish="length"), "schema"),
  ]
  for got, reason in cases:
    assert prompts.read(asked, got).refused.reason == reason


def test_json_in_a_fence_is_read():
  asked = item("A dog.")
  got = reply(f"```json\n{good('A cat.')}\n```", asked, structured=False)
  assert prompts.read(asked, got).rejected == ["A cat."]


def test_plain_text_and_its_edits():
  asked = item("A brown dog lies there.")
  got = reply("A brown cat sits there.", asked, structured=False)
  found = prompts.read(asked, got)
  assert found.rejected == ["A brown cat sits there."]
  assert [(e["original"], e["span"]) for e in found.edits] == [
    ("dog lies", "cat sits")
  ]


def test_plain_text_of_a_conversation():
  asked = item("A dog.", "Yes.")
  text = "[[answer 0]]\nA cat.\n\n[[answer 1]]\nNo."
  found = prompts.read(asked, reply(text, asked, structured=False))
  assert found.rejected == ["A cat.", "No."]
  lost = prompts.read(asked, reply("A cat. No.", asked, structured=False))
  assert lost.refused.reason == "schema"


@pytest.mark.parametrize(
  ("old", "new", "edits"),
  [
    ("a b c", "a x c", [("b", "x")]),
    ("a b c", "a c", [("b", "")]),
    ("a c", "a, b c", [("", ", b")]),
    ("same", "same", []),
  ],
)
def test_differences(old, new, edits):
  found = prompts.differences(old, new)
  assert [(e["original"], e["span"]) for e in found] == edits


def test_a_reply_without_edits_is_compared_word_by_word():
  asked = item("A dog runs.", "No.")
  text = json.dumps({"rejected": ["A cat runs.", "Yes."], "edits": []})
  found = prompts.read(asked, reply(text, asked))
  assert [(e["turn"], e["original"], e["span"]) for e in found.edits] == [
    (0, "dog", "cat"),
    (1, "No", "Yes"),
  ]


def test_new_tries_have_more_room():
  rooms = [prompts.request(item("A dog."), [], t).max_tokens for t in range(4)]
  assert rooms == [518, 1036, 2072, 2072]
  assert prompts.request(item("A dog."), [], 0, 4000).max_tokens == 4006
