"""Errors of requests: one set of rules for live requests and batches.

The user reads the server's message in one line, without the key. Where a list
of causes would have to be closed (states, reasons, codes), what is not known
counts as the harmless case: asked again, not given up, not paid for.
"""

import dataclasses
import json
import os
import re
import unicodedata
import urllib.parse
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from povid_jax.errors import UserError
from povid_jax.llm.limits import retry_after

if TYPE_CHECKING:
  from povid_jax.llm.wire import Options

_PROXIES = ("ALL_PROXY", "HTTPS_PROXY", "HTTP_PROXY")
_CERTIFICATES = ("SSL_CERT_FILE", "SSL_CERT_DIR")


@dataclasses.dataclass(eq=False)
class Failure(Exception):
  """A request without a usable reply.

  Attributes:
    kind: "429", "500", "timeout", "connection", "auth", "bad_json",
      "bad_request", ...
    detail: for people, of one line; never holds the key.
    final: the same request again cannot help.
    stop: why no other request can help either, "" where one may.
    wait: seconds the server wants us to wait, or None.
    usage, cost: tokens and dollars of a reply that came, was paid for, and is
      of no use; estimated where it does not say.
  """

  kind: str
  detail: str = ""
  final: bool = False
  stop: str = ""
  wait: float | None = None
  status: int = 0
  usage: Mapping[str, int] = dataclasses.field(default_factory=dict)
  cost: float = 0.0

  @property
  def facts(self) -> dict[str, Any]:
    """For the record: why, and what it cost if it did."""
    paid = {"usage": dict(self.usage), "cost": self.cost} if self.usage else {}
    told = {"detail": self.detail[:200]} if self.detail else {}
    return {"reason": self.kind, **told, **paid}

  @property
  def words(self) -> str:
    """Kind and detail, for an error message."""
    return f"{self.kind}: {self.detail[:300]}" if self.detail else self.kind


def api_key(options: "Options") -> str:
  """The key from the environment.

  Raises:
    UserError: it is not set, and the server is OpenAI's own; or it holds a
      character that no HTTP header can carry. The message never shows it.
  """
  name = options.key_env
  key = os.environ.get(name, "")
  if not key:
    if options.base_url is None:
      raise UserError(
        f"no API key: set the environment variable {name} (the key is read "
        "only from there)"
      )
    return "none"  # local servers need no key
  for place, char in enumerate(key, 1):
    if not "!" <= char <= "~":
      raise UserError(
        f"{name}: character {place} of {len(key)} is {_char_name(char)}, "
        "which is not valid in a key or an HTTP header; set the variable "
        "again without this character (a file or .env with Windows line ends "
        "leaves one at the end)"
      )
  return key


def _char_name(char: str) -> str:
  known = {"\n": "a line end", "\r": "a carriage return", " ": "a space",
           "\t": "a tab"}  # fmt: skip
  return known.get(char) or (
    f"{unicodedata.name(char, 'a control character')} (U+{ord(char):04X})"
  )


def check_address(options: "Options") -> None:
  """UserError for a --base-url that is not an address."""
  url = options.base_url
  if url is None:
    return
  try:
    parts = urllib.parse.urlsplit(url)
    good = parts.scheme in ("http", "https") and bool(parts.hostname)
    good = good and parts.port != 0
  except ValueError:  # a port that is no number, half an IPv6 address
    good = False
  if not good:
    raise UserError(
      f"--base-url {hidden(url, options)}: want an address like "
      "http://localhost:8000/v1"
    )


def hidden(text: str, options: "Options") -> str:
  """The words of a server or a library in one line, without the key and what
  is secret in the address, which some of them repeat in one form or another."""
  key = os.environ.get(options.key_env, "")
  address = options.base_url or ""
  forms = {key, key.strip()}
  for found in _IN_ADDRESS.finditer(address):
    forms.add(found[1] or found[2])
  forms |= {urllib.parse.unquote(form) for form in forms}
  for _ in range(2):  # a text within a text: JSON in a repr, a repr in JSON
    forms |= {escape(form) for form in forms for escape in _ESCAPES}
  for form in sorted(forms, key=len, reverse=True):
    if len(form) > 3:
      text = text.replace(form, "[key]")
  return one_line(text)


# the password of user:password@host, and ?api-key=..., &sig=..., ...
_IN_ADDRESS = re.compile(
  r"//[^/@\s]*?:([^/@\s]+)@"
  r"|[?&][^=&\s]*(?:key|token|secret|sig|password|pwd|code)[^=&\s]*=([^&#\s]+)",
  re.IGNORECASE,
)
_ESCAPES = (
  lambda text: repr(text)[1:-1],
  lambda text: repr(text.encode("utf-8", "backslashreplace"))[2:-1],
  lambda text: json.dumps(text)[1:-1],
  lambda text: text.replace("\\", "\\\\").replace("'", "\\'"),
  lambda text: (
    text.replace("\\", "\\\\").replace("'", "\\'").replace('"', '\\"')
  ),
  lambda text: urllib.parse.quote(text, safe="", errors="replace"),
)


def one_line(text: str) -> str:
  """The text without line ends and control characters."""
  text = "".join(
    " " if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp") else c
    for c in text
  )
  return " ".join(text.split())


def cannot_connect(error: Exception, options: "Options") -> UserError:
  """For whatever the client's construction raises: proxies of unknown kinds,
  certificates that are gone, missing libraries."""
  where = options.base_url or "OpenAI's server"
  names = [n for n in (*_PROXIES, *_CERTIFICATES) if _variable(n)]
  hint = f"; check {', '.join(names)} in the environment" if names else ""
  words = f"{type(error).__name__}: {error}"
  return UserError(
    hidden(
      f"no connection to {where} can be set up ({words[:300]}){hint}", options
    )  # fmt: skip
  )


def _variable(name: str) -> str:
  return os.environ.get(name, "") or os.environ.get(name.lower(), "")


def connection_failure(error: Exception, options: "Options") -> Failure:
  """For a request that never reached the server, or lost it."""
  cause = error.__cause__ or error
  words = str(cause) or type(cause).__name__
  where = options.base_url or "OpenAI's server"
  host = urllib.parse.urlsplit(options.base_url or "").hostname or ""
  proxies = [name for name in _PROXIES if _variable(name)]
  hint = ""
  if proxies and (host == "localhost" or host.startswith("127.")):
    hint = (
      f"; {', '.join(proxies)} is set: set NO_PROXY={host} to connect "
      "without the proxy"
    )
  return Failure("connection", hidden(f"{where}: {words}{hint}", options)[:500])


def error_words(data: Any) -> tuple[str, str] | None:
  """(code, message) of an error body in any of the forms that servers send,
  None for a body that is no error."""
  if not isinstance(data, Mapping):
    return None
  if data.get("choices") and data.get("object") != "error":
    return None  # the body contains a reply, so it is not an error
  error = data.get("error")
  if not error:
    named = next((k for k in ("message", "detail", "msg") if data.get(k)), None)
    if named is None:
      return None
    error = {"message": data[named], "code": data.get("code")}
  if not isinstance(error, Mapping):
    return "", _text(error)
  message = error.get("message") or error.get("detail") or error.get("msg")
  code = error.get("code") or error.get("status") or error.get("type") or ""
  return str(code), _text(message or error)


def _text(value: Any) -> str:
  return value if isinstance(value, str) else json.dumps(value)[:500]


def failure_of(
  status: int,
  code: str,
  message: str,
  options: "Options",
  headers: Mapping[str, str] | None = None,
) -> Failure:
  """The one rule for errors: of a live request, of a row in a batch, of an
  error body that came with status 200.

  Args:
    status: of HTTP; 0: not known, and the code may say it.
    code: the server's own, "" for none.
    message: its words.
  """
  if status in (0, 200):
    status = int(code) if re.fullmatch(r"[45]\d\d", code) else 0
  detail = hidden(message, options)[:500]
  if code and code not in detail and not code.isdigit():
    detail = f"{hidden(code, options)}: {detail}" if detail else code
  wait = retry_after(headers) if headers is not None else None
  made = lambda kind, **more: Failure(kind, detail, status=status, **more)
  quota = "insufficient_quota"
  if status == 402 or code == quota or (status == 429 and quota in detail):
    why = "quota is used up" if quota in code + detail else "has no credit left"
    return made("no_credit", stop=f"the account's {why}" if "quota" in why
                else f"the account {why}")  # fmt: skip
  if status in (401, 403):
    return made("auth")
  if status == 404:
    return made("not_found", stop="the server has no such model or path")
  if status == 429:
    return made("429", wait=wait)
  if not status:  # no code that we know: it may pass
    return made("error_body", wait=wait)
  if (status >= 500 and status != 501) or status in (408, 409, 425):
    return made(str(status), wait=wait)
  return made("bad_request", final=True)


def status_failure(error: Any, options: "Options") -> Failure:
  """The failure for an error that the client library raised for a status."""
  found = error_words(error.body) or error_words({"error": error.body})
  code, message = found or ("", "")
  return failure_of(
    error.status_code,
    code,
    f"Error code: {error.status_code} - {message or error.message}",
    options,
    error.response.headers,
  )
