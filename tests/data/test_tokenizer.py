import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import tokenizers

from povid_jax.data import text
from povid_jax.errors import UserError
from povid_jax.weights.tokenizers import export_tokenizer

TEXTS = [
  "What is in the picture?",
  "  two  spaces and a tail ",
  "\nDescribe it.\n\nNow.",
  "Ein Bär 🐻 猫",
  "",
  " ",
  "USER: a ASSISTANT: b",
]


def to_json(folder: Path, legacy: bool) -> dict[str, Any]:
  """The SentencePiece model as the tokenizer.json that Llamas come with."""
  model = sentencepiece.SentencePieceProcessor(
    model_file=str(folder / "tokenizer.model")
  )
  pieces = [model.id_to_piece(i) for i in range(model.vocab_size())]
  vocab = {piece: i for i, piece in enumerate(pieces)}
  merges = [
    (piece[:cut], piece[cut:])
    for piece in pieces[3 + 256 :]
    for cut in range(1, len(piece))
    if piece[:cut] in vocab and piece[cut:] in vocab
  ]
  bpe = tokenizers.models.BPE(
    vocab, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True
  )
  made = tokenizers.Tokenizer(bpe)
  if legacy:
    made.normalizer = tokenizers.normalizers.Sequence(
      [
        tokenizers.normalizers.Prepend("▁"),
        tokenizers.normalizers.Replace(" ", "▁"),
      ]
    )
  else:
    made.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace(
      prepend_scheme="first", split=False
    )
  made.decoder = tokenizers.decoders.Sequence(
    [
      tokenizers.decoders.Replace("▁", " "),
      tokenizers.decoders.ByteFallback(),
      tokenizers.decoders.Fuse(),
      tokenizers.decoders.Strip(" ", 1, 0),
    ]
  )
  made.add_special_tokens(["<unk>", "<s>", "</s>"])
  return json.loads(made.to_str())


def write(folder: Path, spec: dict[str, Any], **settings: Any) -> Path:
  folder.mkdir(parents=True, exist_ok=True)
  (folder / "tokenizer.json").write_text(json.dumps(spec))
  (folder / "tokenizer_config.json").write_text(json.dumps(settings))
  return folder


def toy(*special: str) -> dict[str, Any]:
  """A word-level tokenizer, such as a toy world may have."""
  words = [*special, "a", "dog", "cat", "USER", "ASSISTANT", ":", "."]
  made = tokenizers.Tokenizer(
    tokenizers.models.WordLevel(
      {word: i for i, word in enumerate(words)}, unk_token=special[0]
    )
  )
  made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
  made.add_special_tokens(list(special))
  return json.loads(made.to_str())


@pytest.mark.parametrize("legacy", [True, False])
def test_json_and_model_agree(
  legacy: bool, llama_folder: Path, new_llama_folder: Path, tmp_path: Path
) -> None:
  slow = text.load_tokenizer(llama_folder if legacy else new_llama_folder)
  fast = text.load_tokenizer(write(tmp_path, to_json(llama_folder, legacy)))
  assert (fast.bos_id, fast.eos_id, fast.pad_id) == (1, 2, 0)
  assert (slow.bos_id, slow.eos_id, slow.pad_id) == (1, 2, 0)
  assert fast.vocab_size == slow.vocab_size == 460
  for line in TEXTS:
    ids = slow.encode(line, bos=True)
    assert fast.encode(line, bos=True) == ids
    assert fast.decode(ids) == slow.decode(ids) == line
    after = slow.encode(line, continues=True)
    assert fast.encode(line, continues=True) == after
  turns = ("<image>\nWhat?", "A cat.", "USER?")
  want = text.encode(turns, [("Yes.",)], slow, "vicuna_v1", 3)
  got = text.encode(turns, [("Yes.",)], fast, "vicuna_v1", 3)
  assert got.prefix_ids.tolist() == want.prefix_ids.tolist()
  assert got.branch_ids[0].tolist() == want.branch_ids[0].tolist()


def test_an_export_keeps_the_space_behind_a_picture(
  llama_folder: Path, tmp_path: Path
) -> None:
  """What transformers 5 saves has a space at the very start only."""
  source = write(tmp_path / "source", to_json(llama_folder, legacy=False))
  target = tmp_path / "target"
  target.mkdir()
  vocab = text.load_tokenizer(source).vocab_size
  image = export_tokenizer(source, target, vocab).image
  theirs = tokenizers.Tokenizer.from_file(str(target / "tokenizer.json"))
  ours = text.load_tokenizer(source)
  want = text.encode_prompt(("<image>\nWhat?",), ours, "vicuna_v1", 1)
  got = theirs.encode(
    text.TEMPLATES["vicuna_v1"].first.replace("{text}", "<image>\nWhat?")
  )
  assert got.ids == [image if i == text.IMAGE_TOKEN else i for i in want]
  # and in again: after </s> there is still no space
  again = text.load_tokenizer(target)
  turns = ("<image>\nWhat?", "A cat.", "USER?")
  one, two = (text.encode(turns, (), t, "vicuna_v1", 1) for t in (ours, again))
  assert one.prefix_ids.tolist() == two.prefix_ids.tolist()


def test_only_new_llamas_drop_the_space_after_a_special_token(
  llama_folder: Path, new_llama_folder: Path
) -> None:
  old, new = map(text.load_tokenizer, (llama_folder, new_llama_folder))
  assert old.encode("dog") == new.encode("dog")
  assert old.encode("dog", continues=True) == old.encode("dog")
  assert new.encode("dog", continues=True) != old.encode("dog")
  assert new.encode(" dog", continues=True) == old.encode("dog")


@pytest.mark.parametrize("marker", ["</s>", "<s>", "<unk>", "<image>"])
def test_markers_are_text(
  marker: str, llama_folder: Path, tmp_path: Path
) -> None:
  spec = to_json(llama_folder, legacy=True)
  # As some exports do, <image> is an added token that is not special.
  image = {
    "id": 460, "content": "<image>", "special": False, "single_word": False,
    "lstrip": False, "rstrip": False, "normalized": False,
  }  # fmt: skip
  spec["added_tokens"].append(image)
  tokenizer = text.load_tokenizer(write(tmp_path, spec))
  ids = tokenizer.encode(f"a {marker} b")
  assert not {1, 2, 460} & set(ids)
  assert tokenizer.decode(ids) == f"a {marker} b"


def test_toy_tokenizer(tmp_path: Path) -> None:
  folder = write(tmp_path, toy("<unk>", "<pad>", "<s>", "</s>"))
  tokenizer = text.load_tokenizer(folder)
  assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id) == (2, 3, 1)
  encoded = text.encode(
    ("<image>\na dog",), [("a cat.",)], tokenizer, "short", 2
  )
  assert encoded.prefix_ids.tolist() == [2, 7, 9, -200, -200, 4, 5, 8, 9]
  assert encoded.branch_ids[0].tolist() == [4, 6, 10, 3]
  assert tokenizer.decode([2, -200, 4, 6, 10, 3, 9999]) == "a cat ."


def test_names_in_the_settings_win(tmp_path: Path) -> None:
  spec = toy("<unk>", "<go>", "<stop>", "</s>", "<hole>")
  folder = write(
    tmp_path,
    spec,
    bos_token="<go>",
    eos_token={"content": "<stop>", "lstrip": False},
    pad_token="<hole>",
  )
  tokenizer = text.load_tokenizer(folder)
  assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id) == (1, 2, 4)
  (folder / "tokenizer_config.json").unlink()
  names = {"bos_token": "<go>", "eos_token": "<stop>", "pad_token": "<hole>"}
  (folder / "special_tokens_map.json").write_text(json.dumps(names))
  assert text.load_tokenizer(folder).eos_id == 2


def test_padding_and_added_tokens_of_llava_hf(
  llama_folder: Path, tmp_path: Path
) -> None:
  model = (llama_folder / "tokenizer.model").read_bytes()
  (tmp_path / "tokenizer.model").write_bytes(model)
  settings = {
    "pad_token": "<pad>",
    "added_tokens_decoder": {
      "2": {"content": "</s>"},
      "460": {"content": "<image>"},
      "461": {"content": "<pad>"},
    },
  }
  (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
  tokenizer = text.load_tokenizer(tmp_path)
  assert tokenizer.pad_id == 461 and tokenizer.vocab_size == 462
  assert tokenizer.token_id("<image>") == 460
  assert tokenizer.token_id("no such") is None
  assert tokenizer.decode([1, 461, *tokenizer.encode("dog"), 460, 2]) == "dog"


def test_travels_to_workers(llama_folder: Path, tmp_path: Path) -> None:
  for folder in (llama_folder, write(tmp_path, toy("<unk>", "<s>", "</s>"))):
    tokenizer = text.load_tokenizer(folder)
    other = pickle.loads(pickle.dumps(tokenizer))
    assert other.encode("a dog") == tokenizer.encode("a dog")


def _with_added(folder: Path, kind: str) -> None:
  """A tokenizer with the added token <box>."""
  if kind == "slow":
    (folder / "added_tokens.json").write_text('{"<box>": 5000}')
    return
  spec = toy("<unk>", "<s>", "</s>")
  spec["added_tokens"].append(
    {"id": 5000, "content": "<box>", "special": False, "single_word": False,
     "lstrip": False, "rstrip": False, "normalized": False}
  )  # fmt: skip
  write(folder, spec)


@pytest.mark.parametrize("kind", ["slow", "fast"])
def test_ids_that_the_model_has_no_row_for(
  kind: str, llama_folder: Path, tmp_path: Path
) -> None:
  folder = tmp_path / "words"
  shutil.copytree(llama_folder, folder)
  if kind == "fast":
    (folder / "tokenizer.model").unlink()
  _with_added(folder, kind)
  box = text.load_tokenizer(folder).token_id("<box>")
  assert box is not None
  tokenizer = text.load_tokenizer(folder, box)
  tokenizer = pickle.loads(pickle.dumps(tokenizer))
  assert tokenizer.encode("a dog")
  message = f"'<box>' has id {box}, the model's embedding has {box} rows"
  with pytest.raises(UserError, match=message):
    tokenizer.token_id("<box>")
  if kind == "fast":  # a slow one takes its characters
    with pytest.raises(UserError, match=message):
      tokenizer.encode("a <box>")
  assert text.load_tokenizer(folder, box + 1).token_id("<box>") == box
  with pytest.raises(UserError, match="has id 2, .* has 2 rows"):
    text.load_tokenizer(folder, 2)


def _no_end(folder: Path) -> None:
  write(folder, toy("<unk>", "<s>"))


def _no_end_model(folder: Path) -> None:
  with open(folder / "tokenizer.model", "wb") as file:
    sentencepiece.SentencePieceTrainer.train(
      sentence_iterator=iter(["a b c d"]), model_writer=file, vocab_size=10,
      hard_vocab_limit=False, eos_id=-1, minloglevel=2,
    )  # fmt: skip


def _nothing(folder: Path) -> None:
  pass


def _file(name: str, content: bytes) -> Any:
  return lambda folder: (folder / name).write_bytes(content)


@pytest.mark.parametrize(
  ("make", "message"),
  [
    (_nothing, "want tokenizer.model or tokenizer.json"),
    (_no_end, "tokenizer.json: no end-of-text token; want one with </s>"),
    (_no_end_model, "tokenizer.model: no end-of-text token"),
    (_file("tokenizer.model", b"junk"), "not a SentencePiece model"),
    (_file("tokenizer.model", b""), "not a SentencePiece model"),
    (_file("tokenizer.json", b"{"), "tokenizer.json: not JSON"),
    (_file("tokenizer.json", b"\xff"), "tokenizer.json: not JSON"),
    (_file("tokenizer.json", b"[]"), "not a tokenizer.json"),
    (_file("tokenizer.json", b"{}"), "not a tokenizer.json"),
  ],
)
def test_what_is_no_tokenizer_is_said(
  make: Any, message: str, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
  make(tmp_path)
  capfd.readouterr()
  with pytest.raises(UserError, match=message):
    text.load_tokenizer(tmp_path)
  # the packages' own complaints would stand beside our one line
  assert capfd.readouterr().err == ""


@pytest.mark.parametrize("content", ["[1]", "{", '{"added_tokens_decoder": 3}'])
def test_broken_settings_are_said(
  content: str, llama_folder: Path, tmp_path: Path
) -> None:
  model = (llama_folder / "tokenizer.model").read_bytes()
  (tmp_path / "tokenizer.model").write_bytes(model)
  (tmp_path / "tokenizer_config.json").write_text(content)
  with pytest.raises(UserError, match="tokenizer_config.json"):
    text.load_tokenizer(tmp_path)
