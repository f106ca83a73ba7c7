"""One row of every format, as its project lays it out; all values made up."""

import json
from typing import Any

from povid_jax.data.pairs import Sample
from povid_jax.data.samples import Layout, read_samples

Q, C, R = "What is on the table?", "A red cup.", "A red cup and a knife."
ASKED = f"<image>\n{Q}"


def human(text: str) -> dict[str, Any]:
  return {"from": "human", "value": text}


def gpt(text: str) -> dict[str, Any]:
  return {"from": "gpt", "value": text}


def user(content: Any) -> dict[str, Any]:
  return {"role": "user", "content": content}


def assistant(content: Any) -> dict[str, Any]:
  return {"role": "assistant", "content": content}


def parts(text: str) -> list[dict[str, Any]]:
  return [{"type": "text", "text": text}]


PAIR = [human(ASKED), gpt(C)], [human(ASKED), gpt(R)]
HUB = {"ds_name": "made_up", "origin_dataset": "x", "origin_split": "{}"}
ROWS: dict[str, list[dict[str, Any]]] = {
  "povid": [
    {
      "id": "7",
      "image": "0.jpg",
      "conversations": PAIR[0],
      "rejected_conversations": PAIR[1],
    },
    {
      "image": ["0.jpg"],
      "conversations": PAIR[0],
      "rejected_conversations": PAIR[1],
    },
    {
      "id": "7",
      "images": ["0.jpg"],
      "conversations": [human(f"<ImageHere>{Q}"), gpt(C)],
      "rejected_conversations": [human(f"<ImageHere>{Q}"), gpt(R)],
    },
  ],
  "rlhf_v": [
    {
      "image": {"bytes": None, "path": "0.jpg"},
      "text": json.dumps({"question": Q, "chosen": C, "rejected": R}),
      "idx": 3,
      "image_path": "0.jpg",
      **HUB,
    }
  ],
  "rlaif_v": [
    {
      "image": {"bytes": None, "path": "0.jpg"},
      "question": Q,
      "chosen": C,
      "rejected": R,
      "idx": 3,
      **HUB,
    },
    {
      "image": None,
      "image_path": "0.jpg",
      "question": Q,
      "chosen": C,
      "rejected": R,
      **HUB,
    },
  ],
  "spa_vl": [{"image": "0.jpg", "question": Q, "chosen": C, "rejected": R}],
  "mmpr": [
    {
      "image": "0.jpg",
      "question": ASKED,
      "chosen": C,
      "rejected": R,
      "answer_gt": "cup",
    },
    {
      "image": ["0.jpg"],
      "question": Q,
      "chosen": C,
      "rejected": R,
      "image_wh": [[8, 8]],
    },
  ],
  "ha_dpo": [
    {"image_id": 0, "question": Q, "chosen": C, "reject": R, "correct": False}
  ],
  "sentinel": [
    {"image_id": 0, "question": Q, "context": None, "y_win": C, "y_lose": R}
  ],
  "trl": [
    {
      "images": ["0.jpg"],
      "prompt": [user([{"type": "image"}, *parts(Q)])],
      "chosen": [assistant(parts(C))],
      "rejected": [assistant(parts(R))],
    },
    {
      "images": ["0.jpg"],
      "prompt": [user(Q)],
      "chosen": [assistant(C)],
      "rejected": [assistant(R)],
    },
    {
      "images": ["0.jpg"],
      "chosen": [user(Q), assistant(C)],
      "rejected": [user(Q), assistant(R)],
      "score_chosen": 1.0,
    },
    {"image": "0.jpg", "prompt": Q, "chosen": C, "rejected": R},
    {
      "image": "0.jpg",
      "prompt": user(Q),
      "chosen": assistant(C),
      "rejected": assistant(R),
    },
  ],
  "llama_factory": [
    {
      "conversations": [human(ASKED)],
      "chosen": gpt(C),
      "rejected": gpt(R),
      "images": ["0.jpg"],
    },
    {
      "messages": [user(ASKED)],
      "chosen": assistant(C),
      "rejected": assistant(R),
      "images": ["0.jpg"],
    },
    {
      "instruction": ASKED,
      "input": "",
      "chosen": C,
      "rejected": R,
      "images": ["0.jpg"],
    },
  ],
  "ms_swift": [
    {
      "messages": [user(ASKED), assistant(C)],
      "rejected_response": R,
      "images": ["0.jpg"],
    },
    {
      "messages": [user(ASKED), assistant(C)],
      "rejected_messages": [user(ASKED), assistant(R)],
      "images": ["0.jpg"],
      "rejected_images": ["0.jpg"],
    },
  ],
}
CASES = [(name, row) for name, rows in ROWS.items() for row in rows]


def read(tmp_path, rows, said=None, **layout) -> list[Sample]:
  path = tmp_path / "in.json"
  path.write_text(json.dumps(rows))
  (tmp_path / "images").mkdir(exist_ok=True)
  (tmp_path / "images/0.jpg").write_bytes(b"picture")
  layout = Layout(str(tmp_path / "images"), **layout)
  return read_samples(path, layout=layout, announce=said)
