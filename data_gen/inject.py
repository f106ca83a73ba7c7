"""Make dispreferred answers: correct ones with plausible hallucinations put in.

  python -m data_gen inject --input train.json --out pairs.jsonl
  python -m data_gen inject --input train.json --image-dir images \\
    --out pairs.jsonl --injector openai --model gpt-4o-mini --max-cost 20

Reads LLaVA-Instruct or preference JSON / JSONL, or COCO captions_*.json, and
writes the released preference format (id, image, conversations,
rejected_conversations) with three keys more: injector, category and edits.

  rules         no network: likely objects from the corpus's own statistics,
                wrong attributes, numbers, positions and replies
  openai        a vision model behind any OpenAI-compatible server
  openai-batch  the same through the Batch API, at half the price

The key of the API is read from OPENAI_API_KEY. Everything is recorded in a
journal beside the output: the same command continues after any interruption
and pays for nothing twice.
"""

import argparse

from data_gen import inject_flags, injectors
from data_gen.drive import drive


def add_arguments(parser: argparse.ArgumentParser) -> None:
  parser.add_argument(
    "--injector",
    choices=injectors.INJECT,
    default="rules",
    help="what writes the rejected answers",
  )
  inject_flags.add_common(parser)
  inject_flags.add_gates(parser)
  for kind in injectors.of_inject():
    kind.add_flags(parser)


def main(args: argparse.Namespace) -> int:
  return drive(args, injectors.find(args.injector))
