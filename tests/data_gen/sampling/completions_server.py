"""A server on loopback that goes on with answers, and fails on demand.

What it says depends on the seed and the context alone. 30% of the requests
fail, each in one of five ways; `paid` counts the replies that were sent whole.
"""

import collections
import http.server
import json
import random
import threading
import zlib

_WORDS = ("dog", "cat", "car", "bus", "tree", "sky")


def sentence(seed: int, context: str) -> str:
  rng = random.Random(f"{seed}/{context}")
  return f"A {rng.choice(_WORDS)} is near the {rng.choice(_WORDS)}."


class Server:
  """Use as a context manager; `url` is its address."""

  def __init__(self, faults: float = 0.3, seed: int = 0):
    self.faults = faults
    self.paid: collections.Counter = collections.Counter()
    self.asked = 0
    self.bodies: list[dict] = []
    self._rng = random.Random(seed)
    self._turn = threading.Lock()
    server = self

    class Handler(http.server.BaseHTTPRequestHandler):
      protocol_version = "HTTP/1.1"

      def do_POST(self):
        length = int(self.headers["content-length"])
        server.answer(self, json.loads(self.rfile.read(length)))

      def log_message(self, *_):
        pass

    self._http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    self._http.daemon_threads = True
    self.url = f"http://127.0.0.1:{self._http.server_port}/v1"

  def __enter__(self):
    threading.Thread(target=self._http.serve_forever, daemon=True).start()
    return self

  def __exit__(self, *_):
    self._http.shutdown()
    self._http.server_close()

  def answer(self, handler, body: dict) -> None:
    with self._turn:
      self.asked += 1
      fails = self._rng.random() < self.faults
      fault = self._rng.choice(("429", "500", "503", "drop", "torn"))
      self.bodies.append(body)
    if fails and fault == "drop":
      handler.close_connection = True
      handler.connection.close()
      return
    if fails and fault != "torn":
      return self._send(handler, int(fault), {"error": {"message": "no"}})
    *_, last = body["messages"]
    context = last["content"] if last["role"] == "assistant" else ""
    text = " " + sentence(body["seed"], context)
    if len(context.split(".")) > 3:  # the third sentence is the last one
      finish = "stop"
    else:
      finish, text = "length", text + " And so"
    with self._turn:
      if not fails:
        self.paid[zlib.crc32(context.encode()), body["seed"]] += 1
    choice = {"message": {"content": text}, "finish_reason": finish}
    reply = {
      "choices": [choice],
      "usage": {"prompt_tokens": 9, "completion_tokens": 9},
    }
    self._send(handler, 200, reply, torn=fails)

  def _send(self, handler, status: int, reply: dict, torn: bool = False):
    data = json.dumps(reply).encode()
    data = data[:-20] if torn else data
    handler.send_response(status)
    handler.send_header("content-type", "application/json")
    handler.send_header("content-length", str(len(data)))
    handler.end_headers()
    handler.wfile.write(data)
