"""Chat completions in bulk from any OpenAI-compatible server.

Retries, rate limits, costs and a log that makes every request once only; used
by `data_gen inject` and by the LLM judges of `povid_jax.eval`. In short:

  options = Options(model="gpt-4o-mini", base_url=None, concurrency=16)
  requests = [Request(key="q1", messages=[{"role": "user", "content": "Hi"}])]
  replies = ask_all(requests, options, log=Path("judge.jsonl"))
  replies["q1"].text, replies["q1"].cost

`ask_all` shows a bar, appends each reply to `log` as it comes and never asks
again for a key whose reply (to the same messages) is there already: a run that
was killed continues, and nothing is paid for twice. Requests that failed after
all retries are missing from what it returns; run again to ask for them again.

Pictures: `content` may be a list of parts, as in OpenAI's API; `image_part`
makes one from a file. Structured output: `Request(schema=...)` asks for JSON of
that schema and `Reply.parsed` has it; a server that cannot do that is asked in
plain text (`plain` messages if given) and `parsed` is what could be read.

Live requests (`chat`) and batches (`batches`) have one store of what was paid
for (`store`), one rule for errors (`failures`), one for what a server takes
(`dialect`) and one for what is a reply (`wire.Reply.defect`).

The key comes from the environment (`Options.key_env`) and is never logged.
`chat.Chat` is the asynchronous core; `batch` speaks the Batch API.
"""

from povid_jax.llm.client import checked_key
from povid_jax.llm.failures import Failure
from povid_jax.llm.log import ask_all
from povid_jax.llm.pictures import image_part
from povid_jax.llm.prices import Price, load_price
from povid_jax.llm.wire import Options, Reply, Request

__all__ = [
  "Failure",
  "Options",
  "Price",
  "Reply",
  "Request",
  "ask_all",
  "checked_key",
  "image_part",
  "load_price",
]
