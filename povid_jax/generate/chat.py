"""A conversation about a picture in the terminal."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from povid_jax.data.image import open_image
from povid_jax.data.questions import Question
from povid_jax.errors import UserError, printable
from povid_jax.generate import answering
from povid_jax.generate.answering import Decoding, Policy

HELP = (
  "/image PATH: start a new conversation about another picture; /reset: "
  "start a new conversation about the same picture; /quit: end"
)


def check_picture(path: Path) -> Path:
  """The path, if a picture opens there.

  Raises:
    UserError: no such file, or no picture.
  """
  if not path.is_file():
    raise UserError(f"{path}: no such file; want a picture")
  try:
    open_image(path)
  except UserError as error:
    raise UserError(f"{path}: {error}") from error
  return path


class Chat:
  """The turns so far, and the picture that they are about.

  Args:
    policy: who answers.
    decoding: lengths and sampling.
    picture: shown with the first question; None: text alone.
  """

  def __init__(self, policy: Policy, decoding: Decoding, picture: Path | None):
    self.policy, self.decoding, self.picture = policy, decoding, picture
    self.turns: tuple[str, ...] = ()

  def ask(self, text: str) -> str:
    """Answers a question and keeps question and answer as turns.

    Raises:
      UserError: the conversation is too long for the model, or the picture no
        longer exists; the question is not kept.
    """
    pictures = () if self.picture is None else (self.picture,)
    question = Question(
      f"turn {len(self.turns) // 2 + 1}", pictures, text, earlier=self.turns
    )
    (rows,) = answering.stream(self.policy, [question], self.decoding)
    answer = rows[0]["text"]
    self.turns = (*self.turns, text, answer)
    return answer

  def command(self, line: str) -> str:
    """Runs a command line that starts with "/"; returns the text to print.

    Raises:
      UserError: the command or the picture does not exist; the conversation is
        unchanged.
    """
    name, _, rest = line.partition(" ")
    if name == "/image":
      if not rest.strip():
        raise UserError("/image: want the path of a picture after it")
      self.picture = check_picture(Path(rest.strip()).expanduser())
    elif name != "/reset":
      raise UserError(f"{name}: no such command. {HELP}")
    self.turns = ()
    about = f"about {self.picture}" if self.picture else "without a picture"
    return f"(a new conversation {about})"


def run(chat: Chat, say: Callable[[str], None] = print) -> None:
  """Reads lines from standard input and answers, until /quit or its end."""
  say(HELP)
  for line in _lines():
    if line == "/quit":
      return
    try:
      said = chat.command(line) if line.startswith("/") else chat.ask(line)
      # an empty answer must not look like a program that waits
      say(said or "(an empty answer)")
    except UserError as error:
      say(f"error: {printable(str(error))}")


def _lines() -> Iterator[str]:
  """Lines that are not empty; Ctrl-C and Ctrl-D end them."""
  prompt = "> " if sys.stdin.isatty() else ""
  while True:
    try:
      line = input(prompt).strip()
    except (EOFError, KeyboardInterrupt):
      if prompt:
        print()
      return
    if line:
      yield line
