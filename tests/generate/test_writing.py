"""Many branches of one prompt, and slots that are used again and again."""

import dataclasses
import functools
import zlib

import jax.numpy as jnp
import numpy as np
import pytest

from povid_jax.data import text
from povid_jax.generate import answering, slots, writing
from povid_jax.generate.decode import Decoding
from povid_jax.generate.slots import Marks
from povid_jax.generate.writing import Prompt
from povid_jax.models.attention import branch_attention, decode_attention
from tests import small_world

LENGTH = 11
HOW = Decoding(max_new_tokens=LENGTH, temperature=1.0, batch_size=6)


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
  folder = small_world.model_folder(tmp_path_factory.mktemp("writing"))
  with small_world.one_device():
    return answering.load_policy(str(folder))


@pytest.fixture(scope="module", autouse=True)
def small_blocks():
  """Answers reach over three blocks of own keys, and one token in eight ends
  them."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(slots, "BLOCK", {"cpu": 4})
    patch.setattr(text, "stop_ids", lambda *_: tuple(range(2, 392, 8)))
    yield


def _prompt(policy, i: int, branches: int = 3) -> Prompt:
  size = policy.config.vision.image_size
  image = np.asarray(small_world.picture(i, (size, size)))
  words = small_world.sentence(np.random.default_rng(i), 1 + i % 3)
  question = answering.Question(i, ("x",), words)
  return Prompt(
    name=str(i),
    ids=answering._prompt_ids(policy, question, [policy.config.image_tokens]),
    pictures=lambda: image[None],
    kind=1,
    seeds=tuple(zlib.crc32(f"{i}#{n}".encode()) for n in range(branches)),
  )


def _written(policy, prompts, how=HOW, **options):
  found = dict(
    row
    for rows in writing.write(policy, prompts, how, **options)
    for row in rows
  )
  return [found[i] for i in range(len(prompts))]


@pytest.fixture(scope="module")
def together(policy):
  prompts = [_prompt(policy, i) for i in range(7)]
  return prompts, _written(policy, prompts)


def test_branches_differ_and_end_where_they_end(policy, together):
  _, found = together
  lengths = {len(b.ids) for branches in found for b in branches}
  assert len(lengths) > 3
  for branches in found:
    assert len({tuple(b.ids) for b in branches}) == 3
    for branch in branches:
      assert (branch.end == "length") == (len(branch.ids) == LENGTH)


def test_a_branch_does_not_know_its_neighbours(policy, together):
  """Not the other prompts, their order, nor who held its slot before."""
  prompts, found = together
  assert _written(policy, prompts[::-1])[::-1] == found
  assert _written(policy, prompts[4:5]) == found[4:5]


def test_a_branch_is_what_it_is_alone(policy, together):
  prompts, found = together
  alone = [
    dataclasses.replace(prompts[2], seeds=(seed,)) for seed in prompts[2].seeds
  ]
  assert [branches[0] for branches in _written(policy, alone)] == found[2]


def test_a_sentence_ends_before_the_next_word(policy, together, monkeypatch):
  """Marks that split the whole answers as a loop over them does."""
  prompts, found = together
  vocabulary = policy.config.decoder.vocab_size
  random = np.random.default_rng(0)
  ends, begins = random.random((2, vocabulary)) < 0.5
  marks = Marks(jnp.asarray(ends), jnp.asarray(begins))
  monkeypatch.setattr(writing, "sentence_marks", lambda _: marks)
  got = _written(policy, prompts, sentence=True)
  cut = 0
  for whole, parts in zip(found, got, strict=True):
    for branch, part in zip(whole, parts, strict=True):
      ids = branch.ids
      border = next(
        (t for t in range(1, len(ids)) if ends[ids[t - 1]] & begins[ids[t]]),
        None,
      )
      assert part.ids == ids[:border]
      assert part.end == (branch.end if border is None else "sentence")
      cut += border is not None
  assert cut > 5


def test_token_texts_of_a_vocabulary(policy):
  texts = writing.token_texts(policy.tokenizer)
  assert len(texts) == policy.tokenizer.vocab_size
  for said in ("A cat. And dogs!", "3.5 cars", "cats"):
    ids = policy.tokenizer.encode(said)
    assert "".join(texts[i] for i in ids).strip() == said


@pytest.mark.parametrize("window", [None, 3, 9])
def test_decode_attention_is_branch_attention(window):
  """Of branches of several lengths, their own keys in blocks."""
  random = np.random.default_rng(0)
  slots_, branches, prefix, own, kv, group, dim = 2, 3, 5, 12, 2, 2, 4
  normal = lambda *shape: random.normal(size=shape).astype(np.float32)
  prefix_k, prefix_v = normal(2, slots_, prefix, kv, dim)
  own_k, own_v = normal(2, slots_, branches, own, kv, dim)
  q = normal(slots_, branches, kv * group, dim)
  written = np.array([[0, 3, 4], [5, 9, 11]], np.int32)
  prefix_len = np.array([5, 2], np.int32)
  row, branch = np.indices(written.shape)
  heads = functools.partial(np.moveaxis, source=-2, destination=-3)
  got = decode_attention(
    *(q, own_k[row, branch, written], own_v[row, branch, written]),
    (heads(prefix_k), heads(prefix_v)),
    (heads(own_k), heads(own_v)),
    *(prefix_len, written),
    block=4,
    window=window,
  )
  for n in range(branches):
    for s in range(slots_):
      want = branch_attention(
        q[s, n][None, None, None],
        *(prefix_k[s : s + 1], prefix_v[s : s + 1]),
        *(own_k[s : s + 1, n : n + 1], own_v[s : s + 1, n : n + 1]),
        prefix_len[s : s + 1],
        written[s, n][None],
        window,
      )
      np.testing.assert_allclose(got[s, n], want[0, 0, 0], rtol=2e-5, atol=1e-6)


def test_a_context_is_continued_as_training_scores_it(policy):
  """The prompt is the prefix of a context pair, for every border."""
  question = answering.Question(0, ("x",), "What?")
  for context in ("A cat.", "A cat", 'Cats "sit". Dogs,'):
    prompt = answering.to_prompt(policy, question, (1,), context=context)
    encoded = text.encode(
      ("<image>\nWhat?",),
      (("And a dog.",), ("Birds.",)),
      *(policy.tokenizer, policy.template, policy.config.image_tokens),
      context=context,
    )
    assert prompt.ids.tolist() == encoded.prefix_ids.tolist()
