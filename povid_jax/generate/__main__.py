"""Answers of a checkpoint about pictures, as LLaVA writes them.

  python -m povid_jax.generate --checkpoint=RUN --images=photos \\
      --prompt="Describe this image." --out=answers.jsonl
  python -m povid_jax.generate --checkpoint=RUN --questions=questions.jsonl \\
      --image-dir=images --out=answers.jsonl
  python -m povid_jax.generate --checkpoint=RUN --chat --image=photo.jpg

Questions are LLaVA's JSON lines {question_id, image, text}; image may be a list
or absent. A killed run continues with the same command. --chat reads questions
from the terminal (several turns about one picture; /image PATH, /reset, /quit).
"""

import argparse
import dataclasses
import glob
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from povid_jax import bounds, errors, files, folders
from povid_jax.data.picture import add_follow_links, resolve_image
from povid_jax.data.questions import Question
from povid_jax.errors import UserError
from povid_jax.generate import answering, chat
from povid_jax.generate.answering import Decoding

PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif")


def about_pictures(where: str, prompt: str) -> list[Question]:
  """One question about every picture of a folder, or of a pattern.

  Args:
    where: a folder, searched with its subfolders, or a glob pattern.
    prompt: the question; "<image>" in it is left out, as it stands in front.

  Returns:
    Questions by name of picture; the id is the path inside the folder, or as
    the pattern finds it.

  Raises:
    UserError: no pictures there, or no prompt.
  """
  prompt = prompt.replace("<image>", "").strip()
  if not prompt:
    raise UserError("--prompt is empty; give the question about each picture")
  folder = Path(where)
  if folder.is_dir():
    found = [p for p in folder.rglob("*") if p.suffix.lower() in PICTURES]
    named = {p.relative_to(folder).as_posix(): p for p in found}
  else:
    matched = glob.glob(os.path.expanduser(where), recursive=True)
    named = {p: Path(p) for p in matched if Path(p).is_file()}
  if not named:
    raise UserError(
      f"--images={where}: no pictures found ({', '.join(PICTURES)}); want a "
      "folder or a pattern in quotes"
    )
  return [Question(name, (named[name],), prompt) for name in sorted(named)]


def read_questions(path: Path, image_dir: Path | None) -> list[Question]:
  """Questions of a LLaVA-style file, every picture in place.

  Raises:
    UserError: names the line, the field and what was expected.
  """
  questions = []
  for number, line in files.text_lines(path):
    try:
      questions.append(_question(line, image_dir))
    except UserError as error:
      raise UserError(f"{path} line {number}: {error}") from error
  if not questions:
    raise UserError(f"{path} contains no questions; want JSON lines")
  return questions


def _question(line: str, image_dir: Path | None) -> Question:
  row = files.decode_json(line, "question")
  if not isinstance(row, dict):
    raise UserError("want a JSON object {question_id, image, text}")
  asked, text = row.pop("question_id", None), row.pop("text", None)
  if not isinstance(asked, str | int) or isinstance(asked, bool):
    raise UserError(f"question_id: want a text or a number, got {asked!r}")
  if not isinstance(text, str) or not text.strip():
    raise UserError(f"question {asked!r}: text: want a question, got {text!r}")
  names = row.pop("image", None) or []
  names = [names] if isinstance(names, str) else names
  if not isinstance(names, list) or not all(isinstance(n, str) for n in names):
    raise UserError(f"question {asked!r}: image: want a name or a list of them")
  if names and image_dir is None:
    raise UserError(
      f"question {asked!r} has a picture; give its folder with --image-dir"
    )
  images = tuple(resolve_image(image_dir or "", name) for name in names)
  return Question(asked, images, text.replace("<image>", "").strip(), row)


def check_earlier(
  out: Path, questions: Sequence[Question], how: Decoding, model: str
) -> None:
  """Refuses to add to answers of another model, prompt or way of decoding.

  Raises:
    UserError: says which setting differs.
  """
  asked = {str(q.question_id): q.text for q in questions}
  for name, row in answering.read_answers(out).items():
    known = row.get("metadata")
    known = known if isinstance(known, dict) else {}
    now = {"checkpoint": model, **answering.facts(how)}
    before = {"checkpoint": row.get("model_id"), **known}
    if name in asked:
      now["prompt"], before["prompt"] = asked[name], row.get("prompt")
    for key, value in now.items():
      if before.get(key) != value:
        raise UserError(
          f"{out}: the answer {name!r} was made with "
          f"{key}={before.get(key)!r}, now it is {value!r}; choose another "
          "--out or remove the file"
        )


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog="povid_jax.generate",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  add = parser.add_argument
  add("--checkpoint", required=True, help="model folder, RUN or RUN@STEP")
  what = parser.add_mutually_exclusive_group(required=True)
  what.add_argument("--images", help="a folder, or a pattern in quotes")
  what.add_argument(
    "--questions", type=Path, help="questions, LLaVA's JSON lines"
  )
  what.add_argument("--chat", action="store_true",
                    help="start a conversation in the terminal")  # fmt: skip
  add("--image", type=Path, help="the picture of --chat")
  add("--prompt", default="", help="the question, with --images")
  add("--image-dir", type=Path, help="folder of the pictures of --questions")
  add_follow_links(parser)
  add(
    "--out",
    type=Path,
    help="file to write, JSON lines with one answer each (not with --chat)",
  )
  default = Decoding()
  add("--max-new-tokens", type=bounds.TOKENS,
      default=default.max_new_tokens,
      help="longest answer (default %(default)s)")  # fmt: skip
  add("--temperature", type=bounds.TEMPERATURE,
      default=default.temperature,
      help="0 is greedy (default)")  # fmt: skip
  add("--top-p", type=bounds.TOP_P, default=default.top_p,
      help="sample from the likeliest tokens up to this sum")  # fmt: skip
  add("--top-k", type=bounds.TOP_K, default=default.top_k,
      help="sample from the N likeliest (default 0: all)")  # fmt: skip
  add(
    "--seed",
    type=bounds.SEED,
    default=default.seed,
    help="seed of the sampling",
  )
  add("--batch-size", type=bounds.ROWS, default=default.batch_size,
      help="questions per batch (default %(default)s)")  # fmt: skip
  add("--limit", type=bounds.whole(1), help="only the first N questions")
  add("--dtype", choices=("float32", "bfloat16"),
      help="default: bfloat16 on accelerators, float32 on CPUs")  # fmt: skip
  return parser


def _questions(args: argparse.Namespace) -> list[Question]:
  if args.images is not None:
    asked = about_pictures(args.images, args.prompt)
  else:
    asked = read_questions(args.questions, args.image_dir)
  return asked[: args.limit]


def _write(out: Path, rows: Sequence[dict[str, Any]]) -> None:
  """All answers in the order of the questions, those of others at the end."""
  held = answering.read_answers(out)
  for row in rows:
    held.pop(str(row["question_id"]))
  with files.atomic_write(out) as file:
    for row in [*rows, *held.values()]:
      file.write(json.dumps(row, ensure_ascii=False) + "\n")


def _chat(args: argparse.Namespace, how: Decoding) -> int:
  """A conversation instead of a file of answers."""
  for name in ("prompt", "image_dir", "out", "limit"):
    if getattr(args, name):
      raise UserError(f"--{name.replace('_', '-')} cannot be used with --chat")
  picture = args.image and chat.check_picture(args.image)
  how = dataclasses.replace(how, batch_size=1)
  policy = answering.load_policy(args.checkpoint, args.dtype)
  chat.run(chat.Chat(policy, how, picture))
  return 0


def main(argv: Sequence[str] | None = None) -> int:
  """The command."""
  args = _parser().parse_args(sys.argv[1:] if argv is None else argv)
  folders.refuse_remote(vars(args), but=("prompt",))
  how = Decoding(
    max_new_tokens=args.max_new_tokens,
    temperature=args.temperature,
    top_p=args.top_p,
    top_k=args.top_k,
    seed=args.seed,
    batch_size=args.batch_size,
  )
  if args.chat:
    return _chat(args, how)
  if args.image is not None:
    raise UserError("--image is only for --chat; use --images")
  if args.out is None:
    raise UserError("--out is missing; give the file for the answers")
  questions = _questions(args)
  files.check_writable(args.out)
  policy = answering.load_policy(args.checkpoint, args.dtype)
  check_earlier(args.out, questions, how, policy.fingerprint)
  rows = answering.answer(policy, questions, how, args.out)
  _write(args.out, rows)
  print(f"{len(rows):,} answers: {args.out}")
  return 0


def command() -> None:
  """The entry point of the installed script."""
  errors.run(main)


if __name__ == "__main__":
  command()
