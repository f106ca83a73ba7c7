"""Makes the clients of the openai package; problems in the environment
(proxies, certificates, ports) become an error of one line.
"""

import sys
import urllib.parse
from typing import Any

from povid_jax.errors import UserError
from povid_jax.llm.failures import api_key, cannot_connect, check_address
from povid_jax.llm.wire import Options


def library() -> Any:
  """The openai package; UserError without it."""
  try:
    import openai
  except ImportError as error:
    raise UserError(
      "requests to a server need the openai package, which is not installed: "
      "pip install 'povid_jax[data]'"
    ) from error
  return openai


def make_client(options: Options) -> Any:
  """One synchronous client."""
  openai, key = library(), checked_key(options)
  try:
    return openai.OpenAI(
      api_key=key,
      **_address(options, key),
      timeout=max(options.timeout, 600),  # 200 MB take a while
      max_retries=0,  # ours are counted, written down and limited
    )
  except Exception as error:
    raise cannot_connect(error, options) from error


def make_clients(options: Options, count: int) -> list[Any]:
  """Asynchronous clients, one for each request in flight.

  The pool of a client looks at all its connections for every request, so each
  has its connection to itself. The certificates, which are expensive to load,
  are shared.
  """
  openai, key = library(), checked_key(options)
  try:
    http = openai.DefaultAsyncHttpxClient
    # what the HTTP library under the client would make for each of them
    name = http.__mro__[1].__module__.partition(".")[0]
    certificates = sys.modules[name].create_ssl_context()
    return [
      openai.AsyncOpenAI(
        api_key=key,
        **_address(options, key),
        timeout=options.timeout,
        max_retries=0,
        http_client=http(verify=certificates),
      )
      for _ in range(count)
    ]
  except Exception as error:
    raise cannot_connect(error, options) from error


def _address(options: Options, key: str) -> dict[str, Any]:
  """Where requests go: what follows a "?" is sent with each of them.

  Azure's addresses end in ?api-version=..., and it takes the key in a header
  of its own.
  """
  url, _, query = (options.base_url or "").partition("?")
  if not query:
    return {"base_url": options.base_url}
  fields = dict(urllib.parse.parse_qsl(query))
  headers = {"api-key": key} if "api-version" in fields else {}
  return {"base_url": url, "default_query": fields, "default_headers": headers}


def checked_key(options: Options) -> str:
  """The key, after checks of the key and the address.

  Raises:
    UserError: see `failures.api_key` and `failures.check_address`.
  """
  check_address(options)
  return api_key(options)
