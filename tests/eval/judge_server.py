"""A judge on loopback: an OpenAI-compatible server that says what a test says.

Chat completions, files and batches, as far as the clients use them.
"""

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Reply = str | int  # the judge's words, or an error status


class JudgeServer:
  """Answers each request body with `say(body)`.

  Attributes:
    bodies: every chat body that was answered, batches included.
    uploads, batches: what is on the server.
    batch_say: as `say`, for rows of batches (default: `say`).
  """

  def __init__(self, say: Callable[[dict[str, Any]], Reply]):
    self.say = say
    self.batch_say: Callable[[dict[str, Any]], Reply] | None = None
    self.bodies: list[dict[str, Any]] = []
    self.uploads: dict[str, bytes] = {}
    self.batches: dict[str, dict[str, Any]] = {}
    self.polls = 0
    self._lock = threading.Lock()
    outer = self

    class Handler(BaseHTTPRequestHandler):
      protocol_version = "HTTP/1.1"
      disable_nagle_algorithm = True  # else 40 ms for each reply

      def do_POST(self) -> None:
        outer.serve(self, self.rfile.read(int(self.headers["content-length"])))

      def do_GET(self) -> None:
        outer.serve(self, b"")

      def log_message(self, *args: Any) -> None:
        del args

    self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    self._thread = threading.Thread(target=self._http.serve_forever)

  @property
  def url(self) -> str:
    return f"http://127.0.0.1:{self._http.server_address[1]}/v1"

  def __enter__(self) -> "JudgeServer":
    self._thread.start()
    return self

  def __exit__(self, *error: object) -> None:
    self._http.shutdown()
    self._http.server_close()
    self._thread.join()

  def serve(self, handler: BaseHTTPRequestHandler, content: bytes) -> None:
    with self._lock:
      status, data = self.route(handler, content)
    payload = data if isinstance(data, bytes) else json.dumps(data).encode()
    handler.send_response(status)
    handler.send_header("content-type", "application/json")
    handler.send_header("content-length", str(len(payload)))
    handler.end_headers()
    handler.wfile.write(payload)

  def route(
    self, handler: BaseHTTPRequestHandler, content: bytes
  ) -> tuple[int, Any]:
    parts = handler.path.split("?")[0].removeprefix("/v1/").split("/")
    if parts == ["chat", "completions"]:
      return self.complete(json.loads(content), self.say)
    if parts == ["files"]:
      name = f"file-{len(self.uploads)}"
      boundary = handler.headers["content-type"].split("boundary=")[1]
      for part in content.split(b"--" + boundary.encode()):
        head, _, body = part.partition(b"\r\n\r\n")
        if b"filename=" in head:
          self.uploads[name] = body[:-2]
      return 200, self.file(name)
    if parts[0] == "files":
      return 200, self.uploads[parts[1]]
    if parts == ["batches"] and content:
      return 200, self.submit(json.loads(content))
    if parts == ["batches"]:
      rows = list(self.batches.values())
      return 200, {"object": "list", "data": rows, "has_more": False}
    return 200, self.advance(self.batches[parts[1]])

  def complete(
    self, body: dict[str, Any], say: Callable[[dict[str, Any]], Reply]
  ) -> tuple[int, Any]:
    self.bodies.append(body)
    said = say(body)
    if isinstance(said, int):
      return said, {"error": {"message": "no", "type": "x", "code": None}}
    message = {"role": "assistant", "content": said}
    choice = {"index": 0, "finish_reason": "stop", "message": message}
    usage = {"prompt_tokens": 1000, "completion_tokens": 100}
    return 200, {
      "id": "x",
      "object": "chat.completion",
      "created": 0,
      "model": body["model"],
      "choices": [choice],
      "usage": usage | {"total_tokens": 1100},
    }

  def file(self, name: str) -> dict[str, Any]:
    return {
      "id": name,
      "object": "file",
      "bytes": len(self.uploads[name]),
      "created_at": 0,
      "filename": name,
      "purpose": "batch",
      "status": "processed",
    }

  def submit(self, body: dict[str, Any]) -> dict[str, Any]:
    name = f"batch-{len(self.batches)}"
    self.batches[name] = {
      "id": name,
      "object": "batch",
      "endpoint": "/v1/chat/completions",
      "completion_window": "24h",
      "created_at": 2**40,
      "status": "validating",
      "input_file_id": body["input_file_id"],
      "metadata": body.get("metadata"),
    }
    return self.batches[name]

  def advance(self, held: dict[str, Any]) -> dict[str, Any]:
    """The first look finds a batch at work, the second one finds it done."""
    self.polls += 1
    if held["status"] == "validating":
      held["status"] = "in_progress"
    elif held["status"] == "in_progress":
      held["status"] = "completed"
      rows = []
      for line in self.uploads[held["input_file_id"]].splitlines():
        row = json.loads(line)
        status, body = self.complete(row["body"], self.batch_say or self.say)
        response = {"status_code": status, "body": body}
        rows.append({"custom_id": row["custom_id"], "response": response})
      held["output_file_id"] = f"file-{len(self.uploads)}"
      lines = "\n".join(map(json.dumps, rows))
      self.uploads[held["output_file_id"]] = lines.encode()
    return held
