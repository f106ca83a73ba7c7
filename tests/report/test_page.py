"""The page as a reader and a browser get it."""

import html.parser
import json
import re
import shutil

import pytest

from povid_jax.errors import UserError
from povid_jax.eval.bootstrap import Difference
from povid_jax.report import captions, scores, training
from povid_jax.report.__main__ import main
from povid_jax.report.load import Evaluation, Run, Score, load
from povid_jax.report.page import build
from povid_jax.report.pictures import Pictures

VOID = {"meta", "img", "br", "link", "input", "hr"}


class Checker(html.parser.HTMLParser):
  """Tags in balance, ids unique, no reference to another file."""

  def __init__(self):
    super().__init__()
    self.open, self.ids, self.links, self.outside = [], [], [], []

  def handle_starttag(self, tag, attrs):
    attrs = dict(attrs)
    if tag not in VOID:
      self.open.append(tag)
    if "id" in attrs:
      self.ids.append(attrs["id"])
    if tag == "a":
      self.links.append(attrs["href"])
    for name in ("src", "href", "srcset"):
      if not attrs.get(name, "#").startswith(("#", "data:")):
        self.outside.append(attrs[name])

  def handle_startendtag(self, tag, attrs):
    pass  # SVG's empty elements

  def handle_endtag(self, tag):
    assert self.open.pop() == tag


def check(text):
  checker = Checker()
  checker.feed(text)
  assert checker.open == []
  assert len(set(checker.ids)) == len(checker.ids)
  assert {link.removeprefix("#") for link in checker.links} <= set(checker.ids)
  assert checker.outside == []
  assert "<script" not in text and "url(" not in text and "@import" not in text
  return checker


@pytest.fixture
def page(run_folder):
  assert main([str(run_folder)]) == 0
  return (run_folder / "report.html").read_text()


def test_page_is_whole_and_needs_nothing_else(page):
  checker = check(page)
  assert checker.ids == [
    "results",
    "captions",
    "training",
    "noise",
    "pairs",
    "how",
  ]


def test_headline_and_table(page):
  # CHAIRs is 1 of 2 for the base and for stage 2
  assert (
    "<h1>No sure change in captions with an invented object: 50.0% → 50.0%</h1>"
  ) in page
  assert "seed 3 · 1 min 5 s in all" in page
  assert "<b>50.0%</b><small>[0, 100.0]</small>" in page
  assert re.search(
    r'<small class="">\+0\.0 \[−\d+\.0, \+\d+\.0\]</small>', page
  )


@pytest.mark.parametrize(
  ("before", "after", "gap", "want"),
  [
    (0.4, 0.24, (-0.2, -0.1), "40% fewer"),
    (0.4, 0.5, (0.05, 0.15), "25% more"),
    (0.4, 0.24, (-0.3, 0.01), "No sure change in"),
    (0.0, 0.0, None, "No sure change in"),
    (0.4, 0.3, None, "25% fewer"),
  ],
)
def test_headline_claims_no_chance(monkeypatch, before, after, gap, want):
  pair = [
    Evaluation(stage, "balanced", {"chair/CHAIRs": Score(value)}, {}, {}, {})
    for stage, value in (("sft", before), ("stage2", after))
  ]
  gaps = {}
  if gap is not None:
    gaps["chair/CHAIRs"] = Difference(before, after, *gap, p=0.01)
  monkeypatch.setattr(scores, "differences", lambda a, b: gaps)
  run = Run("r", [], pair, {}, [], None, [], Pictures([]))
  says = scores.headline(run)
  assert says.startswith(f"{want} captions with an invented object: ")


def test_verdicts():
  lower, higher = scores.METRICS[0], scores.METRICS[2]
  gap = lambda low, high: Difference(0.5, 0.5 + (low + high) / 2, low, high, 0)
  assert scores.verdict(lower, gap(-0.3, -0.1)) == "better"
  assert scores.verdict(lower, gap(0.1, 0.3)) == "worse"
  assert scores.verdict(higher, gap(0.1, 0.3)) == "better"
  assert scores.verdict(higher, gap(-0.3, 0.1)) == ""
  assert scores.points(gap(-0.3, -0.1), lower) == "−20.0 [−30.0, −10.0]"


def test_captions_are_marked_and_escaped(page):
  assert '&lt;b&gt;<mark class="bad">dog</mark>&lt;/b&gt;.' in page
  assert "left out: <span>chair</span>" in page
  assert "<b>1</b> inventions gone" in page
  assert "<b>1</b> newly invented" in page


def test_curves_ladder_pairs_commands(page):
  assert "Reward margins" in page and "Chosen drift" in page
  assert page.count('class="used"') == 1
  assert 'alt="step 999, clip"' in page
  assert 'A red <mark class="good">cat</mark>.' in page
  assert 'A red <mark class="bad">dog</mark>.' in page
  assert page.count('<span class="soft">So &amp; far.</span> ') == 2
  assert "rejected: every token weighs 0.5" in page
  assert '<span class="chip">object</span>' in page
  assert "Go &amp; see" in page and "--a=1 &lt;b&gt;" in page
  assert "<td>lr</td><td>0.25</td>" in page


def test_means_over_seeds(run_folder, tmp_path):
  other = tmp_path / "seed_1"
  shutil.copytree(run_folder / "eval", other / "eval")
  path = other / "eval" / "stage2" / "balanced" / "results.json"
  path.write_text(path.read_text().replace('"value": 0.5', '"value": 0.25'))
  run = load([run_folder, other])
  assert len(run.evaluations) == 3 and len(run.stages) == 3
  text = build(run)
  check(text)
  assert "The same over 2 runs" in text
  assert "<b>37.5%</b><small>50.0 · 25.0</small>" in text


def test_scores_during_training_are_drawn(run_folder):
  for step, value in ((10, 0.4), (20, 0.3)):
    folder = run_folder / "stage1" / "eval" / str(step)
    folder.mkdir(parents=True)
    row = {"benchmark": "chair", "metric": "CHAIRi", "value": value}
    (folder / "results.json").write_text(json.dumps({"results": [row]}))
  run = load([run_folder])
  assert {
    k: v["chair/CHAIRi"].value for k, v in run.stages[1].scored.items()
  } == {
    10: 0.4,
    20: 0.3,
  }
  text = build(run)
  check(text)
  assert "evaluated during training" in text
  assert "CHAIRi over steps: CHAIRi ends at 30.0%" in text


def test_ablations_are_folded(run_folder):
  (run_folder / "stage1").rename(run_folder / "noise_only")
  text = build(load([run_folder]))
  check(text)
  assert "<summary>Noise only<small>30 steps · 15 s</small></summary>" in text
  assert "<h3>Stage 2 (POVID) " in text


def test_a_run_with_only_a_log(run_folder, capsys):
  folder = run_folder / "stage1"
  assert main([str(folder), "--out", str(folder / "x.html")]) == 0
  checker = check((folder / "x.html").read_text())
  assert checker.ids == ["training"]
  assert "x.html" in capsys.readouterr().out


def test_a_picture_that_does_not_open(run_folder):
  picture = run_folder / "world" / "images" / "test" / "7.png"
  picture.write_bytes(picture.read_bytes()[:40])
  text = build(load([run_folder]))
  check(text)
  assert "test picture 7: picture cannot be opened" in text


def test_missing_pictures_are_said(run_folder, tmp_path):
  (run_folder / "world").rename(tmp_path / "elsewhere")
  text = build(load([run_folder]))
  check(text)
  assert "test picture 7: picture not found" in text
  found = build(load([run_folder], image_dirs=[tmp_path / "elsewhere"]))
  assert "picture not found" not in found


def test_same_seed_same_page(run_folder):
  assert build(load([run_folder]), examples=1) == build(
    load([run_folder]), examples=1
  )


def test_bad_folder_is_one_line(tmp_path):
  with pytest.raises(UserError, match="give a run directory"):
    main([str(tmp_path / "no")])


@pytest.mark.parametrize(
  ("spans", "want"),
  [
    ([], "a cup &amp; a dog"),
    ([(2, 5)], 'a <mark class="bad">cup</mark> &amp; a dog'),
    # out of order, overlapping, beyond the end, empty
    ([(10, 13), (2, 5)], 'a <mark class="bad">cup</mark> &amp; a '
     '<mark class="bad">dog</mark>'),
    ([(2, 5), (3, 8)], 'a <mark class="bad">cup</mark> &amp; a dog'),
    ([(10, 99), (4, 4)], "a cup &amp; a dog"),
  ],
)  # fmt: skip
def test_marked(spans, want):
  mentions = [{"start": a, "end": b, "hallucinated": True} for a, b in spans]
  assert captions.marked("a cup & a dog", mentions) == want


def test_only_hallucinations_are_marked():
  mentions = [{"start": 2, "end": 5, "hallucinated": False}]
  assert captions.marked("a cup", mentions) == "a cup"


@pytest.mark.parametrize(
  ("seconds", "want"),
  [(0.4, "0 s"), (59.6, "1 min 0 s"), (185, "3 min 5 s"), (7800, "2 h 10 min")],
)
def test_duration(seconds, want):
  assert training.duration(seconds) == want


def test_equal_recall_stands_beside_says_less(run_folder):
  """The base is cut to the recall of the last stage, pictures paired."""
  for stage, recall, wrong in (("sft", 0.5, 0.4), ("stage2", 0.4, 0.2)):
    path = run_folder / "eval" / stage / "balanced" / "results.json"
    content = json.loads(path.read_text())
    content["results"] += [
      {"benchmark": "chair", "metric": "recall", "value": recall, "n": 2},
      {"benchmark": "chair", "metric": "CHAIRi", "value": wrong, "n": 2},
    ]
    path.write_text(json.dumps(content))
    # a mention that is true, so that there is a recall to be equal at
    path = path.with_name("verdicts.jsonl")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows:
      named = row["objects"][0]
      row["mentions"].append(
        {"object": named, "hallucinated": False, "start": 0, "end": 1}
      )
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
  text = build(load([run_folder]))
  shown = re.search(r"At the same recall \((.*?)\).*?p [<=] [\d.]+", text)
  assert shown is not None
  # 3 true objects in two pictures, two of them named by both
  assert shown[1].startswith("66.7%")
  assert "33.3% against 33.3%" in shown[0]
