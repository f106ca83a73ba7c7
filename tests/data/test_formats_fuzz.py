"""Any JSON under any format's keys becomes samples or errors that name it."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from povid_jax.data import formats
from povid_jax.data.pairs import to_json
from povid_jax.data.samples import Layout, read_samples
from povid_jax.errors import UserError
from tests.data.format_rows import ROWS

INNER = ["from", "value", "role", "content", "type", "text", "bytes", "path",
         "response", "annotations", "Rating", "question", "chosen", "rejected",
         "conversations", "weight"]  # fmt: skip
KEYS = sorted({key for f in formats.FORMATS.values() for key in f.reads})
TEXTS = ["human", "gpt", "user", "assistant", "system", "text", "image", "",
         "<image>\nWhat?", "A dog.", "a.jpg",
         '{"question": "q", "rejected": 3}',
         "../a", "http://x", "\ud800", "data:image/png;base64,x"]  # fmt: skip
SIMPLE = st.none() | st.booleans() | st.integers() | st.floats()
LEAF = SIMPLE | st.sampled_from(TEXTS)
JSON = st.recursive(
  LEAF,
  lambda inner: (
    st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(INNER), inner, max_size=4)
  ),
  max_leaves=10,
)
TURN = st.fixed_dictionaries(
  {"from": st.sampled_from(TEXTS[:5]), "value": st.sampled_from(TEXTS)}
)
CHAT = st.lists(TURN, max_size=4)
ANY = JSON | st.sampled_from(TEXTS) | CHAT
GOOD = [row for rows in ROWS.values() for row in rows]
ROW = st.dictionaries(st.sampled_from(KEYS), ANY, max_size=7)
# A row as it should be, with a few other values in it.
BENT = st.builds(
  lambda row, changes: row | {k: v for k, v in changes.items() if k in row},
  st.sampled_from(GOOD),
  st.dictionaries(st.sampled_from(KEYS), ANY, max_size=6),
)


@pytest.mark.parametrize("name", [None, *formats.FORMATS])
@settings(
  max_examples=40,
  deadline=None,
  suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(rows=st.lists(ROW | BENT, min_size=1, max_size=3))
def test_any_row_is_read_or_named(
  name: str | None, rows: list[dict[str, Any]], tmp_path: Path
) -> None:
  path = tmp_path / "x.jsonl"
  path.write_text("\n".join(map(json.dumps, rows)))
  errors: list[UserError] = []
  layout = Layout(str(tmp_path), name)
  for sample in read_samples(path, errors.append, layout):
    assert len(sample.turns) % 2 == 0 and all(t.strip() for t in sample.turns)
    assert json.dumps(to_json(sample))
  assert all(str(error).startswith(f"{path}, line ") for error in errors)
