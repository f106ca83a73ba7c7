"""A language-model server on loopback that answers, and fails, on demand.

  python fake_provider.py '{"latency": 0.2, "faults": {"429": 0.1}}'

prints its port. It speaks POST /v1/chat/completions, /v1/files, /v1/batches,
their GETs, and two paths of its own: GET /stats and POST /config. A "wrong
answer" exchanges one word of the correct one, found in the prompt as JSON.
"""

import asyncio
import json
import random
import re
import sys
import time

COMPLETIONS = "/v1/chat/completions"
OPEN = ("validating", "in_progress")

# Faults that stand for a reply that was generated, and is paid for.
PAID = ("truncated", "wrong_schema", "refusal", "apology", "same", "elsewhere")


class Provider:
  """The state of one server: settings, counts, files and batches."""

  def __init__(self, config: dict):
    self.config = {
      "latency": 0.0, "faults": {}, "seed": 0, "hang": 30.0,
      "retry_after": 0.02, "structured": True, "key": "secret",
      "batch_delay": 0.05, "batch_faults": [], "row_faults": {},
      "upload_faults": 0, "schema_words": "Unknown parameter: response_format",
      "limit": "", "ignores_schema": False, "states": None, "room": 0,
    } | config  # fmt: skip
    self.rng = random.Random(self.config["seed"])
    self.served: dict[str, int] = {}
    self.counts: dict[str, int] = {}
    self.in_flight = self.most_in_flight = 0
    self.files: dict[str, bytes] = {}
    self.batches: dict[str, dict] = {}
    self.bodies: list[dict] = []
    self.starts: list[float] = []

  def count(self, name: str) -> None:
    self.counts[name] = self.counts.get(name, 0) + 1

  def draw_fault(self, table: dict[str, float]) -> str:
    point = self.rng.random()
    for name, share in table.items():
      point -= share
      if point < 0:
        return name
    return ""

  async def handle(self, method: str, path: str, headers: dict, body: bytes):
    """Returns (status, headers, content), or None to drop the connection."""
    path, _, query = path.partition("?")
    if query:
      self.count(f"?{query} api-key {headers.get('api-key') == 'secret'}")
    if path == "/stats":
      return 200, {}, self.stats()
    if path == "/config":
      self.config |= json.loads(body)
      return 200, {}, {}
    if headers.get("authorization") != f"Bearer {self.config['key']}":
      self.count("401")
      return error(401, "Incorrect API key provided")
    if path == COMPLETIONS:
      return await self.complete(json.loads(body))
    return self.batch_call(method, path, headers, body)

  def stats(self) -> dict:
    return {
      "served": self.served,
      "counts": self.counts,
      "most_in_flight": self.most_in_flight,
      "batches": {k: v["status"] for k, v in self.batches.items()},
      "last_body": self.bodies[-1] if self.bodies else None,
      "starts": self.starts,
    }

  async def complete(self, body: dict):
    self.bodies[:] = [body]
    self.starts.append(time.monotonic())
    self.in_flight += 1
    self.most_in_flight = max(self.most_in_flight, self.in_flight)
    try:
      return await self.respond(body)
    finally:
      self.in_flight -= 1

  async def respond(self, body: dict):
    fault = self.draw_fault(self.config["faults"])
    if fault:
      self.count(fault)
    if fault == "429":
      headers = {"retry-after": str(self.config["retry_after"])}
      return *error(429, "Rate limit reached")[:1], headers, {"error": {}}
    if fault == "quota":
      message = {"message": "Quota!", "code": "insufficient_quota"}
      return 429, {}, {"error": message}
    if fault.isdigit():
      return error(int(fault), "The server had an error")
    await asyncio.sleep(self.config["latency"])
    if fault == "hang":
      await asyncio.sleep(self.config["hang"])
    if fault in ("hang", "drop"):
      return None
    if not self.config["structured"] and "response_format" in body:
      self.count("no_schema")
      return error(400, self.config["schema_words"])
    wanted = self.config["limit"]
    if wanted and wanted not in body:
      self.count("limit")
      return error(400, f"'max_tokens' is not supported; use '{wanted}'")
    completion = self.completion(body, fault)
    if fault == "truncated":
      return 200, {}, json.dumps(completion)[:-25].encode()
    if fault not in (*PAID, "error200"):
      self.serve(body)
    if fault == "error200":
      return 200, {}, {"error": {"message": "Upstream failed", "code": 429}}
    if fault == "odd_usage":
      completion["usage"] = {"prompt_tokens": -1, "completion_tokens": "many"}
    return 200, {}, completion

  def serve(self, body: dict) -> None:
    key = prompt_text(body)
    if "Conversation:" in key:
      key = json.dumps([turn["answer"] for turn in conversation(body)])
    self.served[key] = self.served.get(key, 0) + 1

  def completion(self, body: dict, fault: str = "") -> dict:
    if self.config["ignores_schema"]:
      body = {k: v for k, v in body.items() if k != "response_format"}
    message = {"role": "assistant", "content": content(body, fault)}
    if fault == "thinks":
      message["content"] = f"<think>{{dog}}?</think>\n{message['content']}"
    if fault == "elsewhere":
      message |= {"content": "", "reasoning_content": message["content"]}
    if fault == "parts":
      message["content"] = [{"type": "text", "text": message["content"]}]
    if fault == "refusal":
      message |= {"content": None, "refusal": "I can't help with that."}
    return {
      "id": "x",
      "object": "chat.completion",
      "created": 0,
      "model": body["model"],
      "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
      "usage": {
        "prompt_tokens": 1000,
        "completion_tokens": 100,
        "total_tokens": 1100,
      },
    }

  # Files and batches.

  def batch_call(self, method: str, path: str, headers: dict, body: bytes):
    parts = path.split("?")[0].strip("/").split("/")[1:]
    if parts == ["files"] and method == "POST":
      return self.upload(headers, body)
    if parts == ["batches"] and method == "POST":
      return self.create_batch(json.loads(body))
    if parts == ["batches"]:
      rows = [self.view(b) for b in reversed(self.batches.values())]
      return 200, {}, {"object": "list", "data": rows, "has_more": False}
    if parts[0] == "batches" and parts[1] in self.batches:
      batch = self.batches[parts[1]]
      self.advance(batch)
      return 200, {}, self.view(batch)
    if parts[0] == "files" and parts[1] in self.files:
      if parts[2:] == ["content"]:
        return 200, {}, self.files[parts[1]]
      return 200, {}, self.file(parts[1])
    return error(404, f"no such thing: {path}")

  def file(self, name: str) -> dict:
    return {
      "id": name, "object": "file", "bytes": len(self.files[name]),
      "created_at": 0, "filename": name, "purpose": "batch",
      "status": "processed",
    }  # fmt: skip

  def upload(self, headers: dict, body: bytes):
    if self.config["upload_faults"] > 0:
      self.config["upload_faults"] -= 1
      return error(500, "upload failed")
    boundary = headers["content-type"].split("boundary=")[1].encode()
    for part in body.split(b"--" + boundary):
      head, _, data = part.partition(b"\r\n\r\n")
      if b"filename=" in head:
        self.count("uploads")
        return 200, {}, self.file(self.store(data[:-2]))
    return error(400, "no file")

  def store(self, data: bytes) -> str:
    name = f"file-{len(self.files)}"
    self.files[name] = data
    return name

  def create_batch(self, body: dict):
    name = f"batch-{len(self.batches)}"
    faults = self.config["batch_faults"]
    busy = [b for b in self.batches.values() if b["status"] in OPEN]
    crowded = 0 < self.config["room"] <= len(busy)
    self.batches[name] = {
      "id": name,
      "status": "validating",
      "input_file_id": body["input_file_id"],
      "metadata": body.get("metadata"),
      "fault": "crowded" if crowded else faults.pop(0) if faults else "",
      "ready": time.monotonic() + self.config["batch_delay"],
    }
    self.count("batches")
    return 200, {}, self.view(self.batches[name])

  def view(self, batch: dict) -> dict:
    hidden = ("fault", "ready")
    return (
      {
        "object": "batch",
        "endpoint": COMPLETIONS,
        "completion_window": "24h",
        "created_at": int(time.time()),
      }
      | {k: v for k, v in batch.items() if k not in hidden}
      | self.odd(batch)
    )

  def odd(self, batch: dict) -> dict:
    """A gateway's own words for the states of a batch."""
    names = self.config["states"] or {}
    return {"status": names.get(batch["status"], batch["status"])}

  def advance(self, batch: dict) -> None:
    if batch["status"] not in OPEN:
      return
    batch["status"] = "in_progress"
    if batch["fault"] == "crowded":
      batch["status"] = "failed"
      problem = {"code": "token_limit_exceeded", "message": "Enqueued"}
      batch["errors"] = {"data": [problem]}
      return
    if time.monotonic() < batch["ready"]:
      return
    if batch["fault"] == "failed":
      batch["status"] = "failed"
      batch["errors"] = {"data": [{"code": "bad", "message": "not valid"}]}
      return
    rows = self.files[batch["input_file_id"]].decode().splitlines()
    if batch["fault"] in ("expired", "partial"):
      rows = rows[: len(rows) // 2]
    good, bad = [], []
    for row in map(json.loads, rows):
      self.run_row(row, good, bad)
    batch["status"] = "expired" if batch["fault"] == "expired" else "completed"
    for name, lines in (("output_file_id", good), ("error_file_id", bad)):
      if lines:
        batch[name] = self.store("\n".join(lines).encode())

  def run_row(self, row: dict, good: list[str], bad: list[str]) -> None:
    fault = self.draw_fault(self.config["row_faults"])
    result = {"id": "r", "custom_id": row["custom_id"], "error": None}
    if fault:
      self.count(fault)
    if fault.isdigit():
      body = {"error": {"message": "The server had an error"}}
      result["response"] = {"status_code": int(fault), "body": body}
      bad.append(json.dumps(result))
      return
    if fault not in PAID:
      self.serve(row["body"])
    body = self.completion(row["body"], fault)
    result["response"] = {"status_code": 200, "body": body}
    good.append(json.dumps(result)[: -25 if fault == "truncated" else None])


def error(status: int, message: str):
  return status, {}, {"error": {"message": message, "type": "x", "code": None}}


def prompt_text(body: dict) -> str:
  parts = body["messages"][-1]["content"]
  if isinstance(parts, str):
    return parts
  return next(part["text"] for part in parts if part["type"] == "text")


def conversation(body: dict) -> list[dict]:
  text = prompt_text(body)
  start = text.index("[\n", text.index("Conversation:"))
  return json.JSONDecoder().raw_decode(text, start)[0]


def content(body: dict, fault: str) -> str:
  """A reply in the asked form; a fault makes it an unusable one."""
  if "Conversation:" not in prompt_text(body):
    return f"echo {prompt_text(body)}"
  answers = [turn["answer"] for turn in conversation(body)]
  if fault == "wrong_schema":
    return json.dumps({"answer": 42})
  if fault == "apology":
    answers = ["I'm sorry, but I can't assist with that request."] * len(
      answers
    )
    return json.dumps({"rejected": answers, "edits": []})
  wrong = [a if fault == "same" else exchange(a) for a in answers]
  if "correct what" in str(body["messages"][0]["content"]):
    return json.dumps({"corrected": wrong})
  if "response_format" not in body:
    marks = [f"[[answer {i}]]\n{text}" for i, text in enumerate(wrong)]
    return wrong[0] if len(wrong) == 1 else "\n".join(marks)
  edits = [
    {"turn": i, "span": "zebra", "original": "dog", "kind": "object",
     "change": "another animal"}
    for i in range(len(wrong))
  ]  # fmt: skip
  return json.dumps({"rejected": wrong, "edits": edits})


def exchange(answer: str) -> str:
  changed = re.sub(r"\bdog\b", "zebra", answer)
  return changed if changed != answer else f"zebra {answer}"


# HTTP/1.1, just enough of it.


async def serve_connection(provider: Provider, reader, writer) -> None:
  try:
    while True:
      head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
      first, *lines = head.split("\r\n")
      method, path, _ = first.split(" ", 2)
      pairs = (line.split(": ", 1) for line in lines if line)
      headers = {name.lower(): value for name, value in pairs}
      body = await reader.readexactly(int(headers.get("content-length", 0)))
      answer = await provider.handle(method, path, headers, body)
      if answer is None:
        break
      writer.write(encode(*answer))
      await writer.drain()
  except (asyncio.IncompleteReadError, ConnectionError):
    pass
  finally:
    writer.close()


def encode(status: int, headers: dict, data) -> bytes:
  payload = data if isinstance(data, bytes) else json.dumps(data).encode()
  lines = [
    f"HTTP/1.1 {status} X",
    "content-type: application/json",
    f"content-length: {len(payload)}",
    *(f"{name}: {value}" for name, value in headers.items()),
  ]
  return ("\r\n".join(lines) + "\r\n\r\n").encode() + payload


async def main(config: dict) -> None:
  provider = Provider(config)
  server = await asyncio.start_server(
    lambda r, w: serve_connection(provider, r, w),
    "127.0.0.1",
    0,
    limit=1 << 26,
    backlog=1024,
  )
  print(server.sockets[0].getsockname()[1], flush=True)
  await server.serve_forever()


if __name__ == "__main__":
  asyncio.run(main(json.loads(sys.argv[1]) if len(sys.argv) > 1 else {}))
