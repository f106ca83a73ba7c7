"""The page, and the known objects of its pictures."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from povid_jax.errors import UserError
from povid_jax.eval.benchmarks import chair_words, coco
from povid_jax.eval.benchmarks.chair_words import Vocabulary
from povid_jax.generate import answering, chat
from povid_jax.generate.answering import Decoding, Policy, Question
from povid_jax.report import captions, html

# gradio's own style of <mark> would hide the colour
STYLE = """<style>mark.bad { background: none !important;
color: #b3261e !important; text-decoration: underline wavy;
text-underline-offset: .2em; }</style>"""


class Truth:
  """What is in pictures, by annotations.

  Args:
    paths: COCO's instances_*.json and captions_*.json, or none.

  Raises:
    UserError: a file is of another kind.
  """

  def __init__(self, paths: Sequence[Path]):
    said = [path for path in paths if path.name.startswith("captions")]
    drawn = [path for path in paths if path not in said]
    if said and not drawn:
      raise UserError(
        "--annotations: one of the files must be an instances_*.json"
      )
    found = coco.read_instances(drawn)
    self.vocabulary: Vocabulary = chair_words.load(categories=found.categories)
    spoken = coco.read_captions(said)
    self._of: dict[str, set[str]] = {}
    for image, file in found.files.items():
      names = set(found.objects[image])
      held = {self.vocabulary.names[name] for name in names}
      held |= self._named(". ".join(spoken.get(image, ())))
      self._of[Path(file).name] = held

  def _named(self, text: str) -> set[str]:
    return {m.object for m in self.vocabulary.mentions(text)}

  def of(self, picture: Path, typed: str) -> set[str] | None:
    """Objects of a picture; None if they are not known.

    Raises:
      UserError: typed words that name no object of the vocabulary.
    """
    known = self._of.get(picture.name)
    for word in filter(None, (w.strip() for w in typed.split(","))):
      named = self._named(word)
      if not named:
        raise UserError(
          f"{word!r} is not a known object: want one of COCO's 80 objects, a "
          "synonym, or a category of --annotations"
        )
      known = (known or set()) | named
    return known

  def marked(self, answer: str, known: set[str] | None) -> str:
    """An answer as HTML, with its invented objects marked and counted."""
    if known is None:
      return f"<p>{html.escape(answer)}</p><p>(objects not known)</p>"
    mentions = [
      {"start": m.start, "end": m.end, "hallucinated": m.object not in known}
      for m in self.vocabulary.mentions(answer)
    ]
    wrong = sum(m["hallucinated"] for m in mentions)
    return (
      f"<p>{captions.marked(answer, mentions)}</p>"
      f"<p>{len(mentions)} objects named, {wrong} of them invented</p>"
    )


def answerer(
  policies: Sequence[Policy], truth: Truth, decoding: Decoding
) -> Callable[[str | None, str, str], list[str]]:
  """What the page's button does: a picture, a question and objects to HTML."""

  def answer(picture: str | None, question: str, objects: str) -> list[str]:
    if picture is None:
      raise UserError("choose a picture first")
    if not question.strip():
      raise UserError("the question is empty")
    path = chat.check_picture(Path(picture))
    known = truth.of(path, objects)
    asked = Question("question", (path,), question.strip())
    shown = []
    for policy in policies:
      (rows,) = answering.stream(policy, [asked], decoding)
      shown.append(STYLE + truth.marked(rows[0]["text"], known))
    return shown

  return answer


def page(names: Sequence[str], answer: Callable[..., list[str]]) -> Any:
  """The page, not yet served.

  Args:
    names: of the checkpoints.
    answer: from `answerer`.
  """
  gradio = library()

  def told(*inputs: Any) -> list[str]:
    try:
      return answer(*inputs)
    except UserError as error:  # gradio shows it and goes on
      raise gradio.Error(str(error), print_exception=False) from error

  with gradio.Blocks(title="povid_jax", analytics_enabled=False) as blocks:
    with gradio.Row():
      picture = gradio.Image(
        type="filepath", label="picture", sources=["upload", "clipboard"]
      )
      with gradio.Column():
        question = gradio.Textbox("Describe this image.", label="question")
        objects = gradio.Textbox(
          label="objects in the picture (optional: dog, chair, ...)"
        )
        button = gradio.Button("Ask both", variant="primary")
    with gradio.Row():
      shown = []
      for name in names:
        with gradio.Column():
          gradio.Markdown(f"### {html.escape(name)}")
          shown.append(gradio.HTML())
    button.click(told, [picture, question, objects], shown, api_name="ask")
  return blocks


def library() -> Any:
  """Gradio; raises UserError where it is not installed."""
  os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
  try:
    import gradio  # pyright: ignore[reportMissingImports]
  except ImportError as error:
    raise UserError(
      "the page needs gradio: pip install 'povid_jax[demo]'"
    ) from error
  return gradio
