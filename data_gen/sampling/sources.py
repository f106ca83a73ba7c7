"""Sources of candidates: a checkpoint on local devices, or servers."""

import argparse
import dataclasses
import hashlib
import zlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from data_gen.sampling import sentences
from data_gen.sampling.pairs import Candidate
from povid_jax.data.picture import Picture
from povid_jax.errors import UserError
from povid_jax.llm import Options, Reply, Request, ask_all, image_part
from povid_jax.llm import log as log_lib

if TYPE_CHECKING:  # JAX is imported when it is used, not for --help
  from povid_jax.generate.answering import Policy


@dataclasses.dataclass(frozen=True)
class Task:
  """One context whose candidates are wanted.

  Attributes:
    name: of the sample, for errors.
    key: names picture, question and context.
    pictures: of the question.
    question: without <image>.
    context: the answer so far.
    system: the system's words of the sample, if it has its own.
    known: numbers of the candidates that are there already.
  """

  name: str
  key: str
  pictures: tuple[Picture, ...]
  question: str
  context: str = ""
  system: str | None = None
  known: frozenset[int] = frozenset()


class Source(Protocol):
  """Writes `count` candidates for every task."""

  @property
  def label(self) -> str: ...

  def settings(self) -> dict[str, Any]: ...

  def write(
    self, tasks: Sequence[Task]
  ) -> Iterator[tuple[Task, list[Candidate]]]:
    """Candidates as they come, some of a task at a time; those in `known` may
    come again. Where a server gave none, they are missing."""
    ...


def seed_of(key: str, number: int) -> int:
  """The random stream of one candidate: its own, whatever else is written."""
  return zlib.crc32(f"{key}/{number}".encode())


class OwnDecoder:
  """The checkpoint, all candidates of a context from one prefill."""

  def __init__(self, args: argparse.Namespace):
    from povid_jax.generate import answering

    self._args = args
    self._policy: Policy = answering.load_policy(args.checkpoint, args.dtype)
    self._how = answering.Decoding(
      max_new_tokens=args.max_new_tokens,
      temperature=args.temperature,
      top_p=args.top_p,
      top_k=args.top_k,
      seed=args.seed,
      batch_size=args.batch_size,
    )

  @property
  def label(self) -> str:
    return self._policy.fingerprint

  def settings(self) -> dict[str, Any]:
    from povid_jax.generate import answering

    return answering.facts(self._how)

  def write(
    self, tasks: Sequence[Task]
  ) -> Iterator[tuple[Task, list[Candidate]]]:
    from povid_jax.data.questions import Question
    from povid_jax.generate import answering, writing

    by_sentence = self._args.unit == "sentence"
    prompts, asked = [], []
    numbers = range(self._args.candidates)
    for task in tasks:
      question = Question(
        task.name, task.pictures, task.question, system=task.system
      )
      seeds = tuple(seed_of(task.key, n) for n in numbers)
      try:
        prompt = answering.to_prompt(
          self._policy, question, seeds, context=task.context
        )
      except UserError:
        if not task.context:
          raise
        # the answer has filled the model's positions: it ends here
        yield task, [Candidate(n, "", "length") for n in numbers]
        continue
      prompts.append(prompt)
      asked.append(task)
    decode = self._policy.tokenizer.decode
    for found in writing.write(
      self._policy, prompts, self._how, sentence=by_sentence
    ):
      for i, branches in found:
        yield (
          asked[i],
          [
            Candidate(n, decode(branch.ids).strip(), branch.end)
            for n, branch in enumerate(branches)
          ],
        )


class Servers:
  """Any OpenAI-compatible servers of one model, asked side by side.

  Sentence by sentence, the answer so far goes out as an assistant's message
  that is to be continued (`continue_final_message`, which vLLM and SGLang
  know). Each reply is kept in a file beside the output before it is used, so
  that no candidate is paid for twice.
  """

  def __init__(self, args: argparse.Namespace, logs: Path):
    self._args = args
    self._logs = logs
    if not args.model:
      raise UserError(
        "--base-url needs --model, the name of the model on the server"
      )
    self._servers = [
      Options(
        model=args.model,
        base_url=url,
        key_env=args.key_env,
        concurrency=args.concurrency,
        timeout=args.timeout,
        retries=args.retries,
        backoff=args.backoff,
        temperature=args.temperature,
        max_tokens=args.max_new_tokens,
      )
      for url in args.base_url
    ]

  @property
  def label(self) -> str:
    return self._args.model

  def settings(self) -> dict[str, Any]:
    args = self._args
    return {
      "temperature": args.temperature,
      "top_p": args.top_p,
      "max_new_tokens": args.max_new_tokens,
      "seed": args.seed,
      "image_size": args.image_size,
    }

  def write(
    self, tasks: Sequence[Task]
  ) -> Iterator[tuple[Task, list[Candidate]]]:
    requests = [request for task in tasks for request in self._requests(task)]
    replies = self._ask(requests)
    found: dict[str, tuple[Task, list[Candidate]]] = {}
    for request in requests:
      task, number = request.context
      reply = replies.get(request.key)
      if reply is not None:
        _, held = found.setdefault(task.key, (task, []))
        held.append(self._candidate(number, reply))
    yield from found.values()

  def _requests(self, task: Task) -> Iterator[Request]:
    try:
      size = self._args.image_size
      parts = [image_part(p.read(), size) for p in task.pictures]
    except UserError as error:
      raise UserError(f"{task.pictures[0].name}: {error}") from error
    content = [part for part, _, _ in parts]
    content.append({"type": "text", "text": task.question})
    messages: list[Mapping[str, Any]] = [{"role": "user", "content": content}]
    if task.system is not None:
      messages.insert(0, {"role": "system", "content": task.system})
    extra: dict[str, Any] = {}
    if self._args.top_p < 1:
      extra["top_p"] = self._args.top_p
    if task.context:
      messages.append({"role": "assistant", "content": task.context})
      extra |= {"continue_final_message": True, "add_generation_prompt": False}
    price = self._servers[0].price
    tokens = sum(price.image_tokens(w, h) for _, w, h in parts)
    for number in range(self._args.candidates):
      if number in task.known:
        continue
      seed = seed_of(f"{self._args.seed}/{task.key}", number) & 0x7FFFFFFF
      yield Request(
        key=f"{task.key}/{number}",
        messages=messages,
        image_tokens=tokens,
        context=(task, number),
        extra={**extra, "seed": seed},
        any_reply=True,  # a sentence is cut out of what was cut off
      )

  def _ask(self, requests: Sequence[Request]) -> dict[str, Reply]:
    """Every request at one server; what any of them has answered before, also
    under another list of servers, is not asked again."""
    known: dict[str, Reply] = {}
    options = self._servers[0]
    wanted = {(r.key, log_lib.fingerprint(r, options)) for r in requests}
    pattern = f"{self._logs.name}.replies-*.jsonl"
    for path in sorted(self._logs.parent.glob(pattern)):
      for mark, reply in log_lib.read(path).items():
        if mark in wanted:
          known[reply.key] = reply
    shares: list[list[Request]] = [[] for _ in self._servers]
    for request in requests:
      if request.key not in known:
        share = zlib.crc32(request.key.encode()) % len(shares)
        shares[share].append(request)

    def ask(place: int) -> dict[str, Reply]:
      server = self._servers[place]
      name = hashlib.sha256(str(server.base_url).encode()).hexdigest()[:8]
      log = self._logs.with_name(f"{self._logs.name}.replies-{name}.jsonl")
      return ask_all(shares[place], server, log, desc="sample")

    busy = [i for i, share in enumerate(shares) if share]
    if busy:
      with ThreadPoolExecutor(len(busy)) as pool:
        for replies in pool.map(ask, busy):
          known |= replies
    return known

  def _candidate(self, number: int, reply: Reply) -> Candidate:
    """A whole answer, or the first sentence of what came."""
    text = reply.text.strip()
    if reply.declined:
      return Candidate(number, "", "length")
    end = "stop" if reply.whole else "length"
    if self._args.unit == "sentence":
      head, whole = sentences.first(text)
      if whole and head != text:
        return Candidate(number, head, "sentence")
    return Candidate(number, text, end)
