"""Ticks, numbers and paths as literal tables; every chart is valid XML."""

import xml.etree.ElementTree as ElementTree

import pytest

from povid_jax.report import charts, scatter
from povid_jax.report.charts import Dot, Series


@pytest.mark.parametrize(
  ("low", "high", "want"),
  [
    (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1.0]),
    (0, 119, [0, 25, 50, 75, 100]),
    (-1.3, 0.4, [-1, -0.5, 0]),
    (0.612, 0.694, [0.62, 0.64, 0.66, 0.68]),
    (0, 1e-7, [0, 2e-8, 4e-8, 6e-8, 8e-8, 1e-7]),
    (5, 5, [5]),
  ],
)
def test_ticks(low, high, want):
  assert charts.ticks(low, high) == pytest.approx(want)


@pytest.mark.parametrize(
  ("value", "step", "want"),
  [
    (0, None, "0"),
    (0.34567, None, "0.346"),
    (-1.1666, None, "−1.17"),
    (1234567, None, "1.2e+06"),
    (1e-7, None, "1e−7"),
    (1000, 250, "1,000"),
    (0.5, 0.25, "0.50"),
    (12.5, 2.5, "12.5"),
    (70.00000000000001, 9.999999999999998, "70"),
  ],
)
def test_number(value, step, want):
  assert charts.number(value, step) == want


def test_percent():
  assert charts.percent(0.0769) == "7.7%"
  assert charts.percent(0.2, 0.1) == "20%"
  assert charts.percent(0.125, 0.025) == "12.5%"


def test_smooth_and_thin_keep_gaps():
  assert charts.smooth([1, 2, 6, None, None, None], 3) == [
    1.5,
    3,
    4,
    6,
    None,
    None,
  ]
  assert charts.thin([0, 1, 2, 3], [1, 3, None, None], most=2) == (
    [0.5, 2.5],
    [2, None],
  )


def parse(figure):
  return ElementTree.fromstring(figure)


def test_line_chart_breaks_at_a_gap():
  figure = charts.line_chart(
    "T", [Series("loss", [0, 1, 2, 3], [1, 2, None, 4])], "loss"
  )
  path = parse(figure).find(".//path[@class='line a']").get("d")
  assert path.count("M") == 2 and path.count("L") == 1


def test_line_chart_says_names_units_and_last_values():
  figure = charts.line_chart(
    "Margins",
    [
      Series("injected", [0, 1], [0.0, 1.5], "a"),
      Series("noise", [0, 1], [0.0, -0.5], "b"),
    ],
    "nats × β",
    zero=True,
  )
  tree = parse(figure)
  text = "".join(tree.itertext())
  assert all(
    s in text for s in ("Margins", "nats × β", "step", "injected 1.50")
  )
  assert tree.find("svg").get("aria-label") == (
    "Margins over steps: injected ends at 1.50, noise ends at −0.500"
  )
  assert tree.find(".//path[@class='zero']") is not None


def test_one_outlier_does_not_flatten_a_chart():
  y = [0.5 + 0.001 * i for i in range(299)] + [1e9]
  figure = charts.line_chart("T", [Series("loss", range(300), y)], "loss")
  ticks = [
    t.text for t in parse(figure).iter("text") if "end" in t.get("class")
  ]
  assert ticks == ["0.5", "0.6", "0.7", "0.8"]


def test_nothing_to_draw():
  assert charts.line_chart("T", [Series("loss", [0], [1.0])], "loss") == ""
  assert charts.interval_chart("T", [], "better") == ""
  assert scatter.scatter("T", [], "x", "y") == ""


def test_constant_line_has_a_range():
  parse(charts.line_chart("T", [Series("lr", [0, 1], [0.0, 0.0])], "lr"))


def test_interval_chart_and_scatter():
  dots = [
    Dot("Base & co", 0.4, 0.35, 0.45),
    Dot("A very long name of a stage", 0.2, 0.2, 0.2, "b"),
  ]
  text = "".join(parse(charts.interval_chart("T", dots, "lower")).itertext())
  assert "40.0%" in text and "Base & co" in text and "A very long name…" in text
  pairs = list(zip(dots, dots, strict=True))
  tree = parse(scatter.scatter("T", pairs, "recall", "CHAIRi"))
  assert len(tree.findall(".//circle")) == 2


def test_numbers_of_close_dots_do_not_cover_each_other():
  dots = [Dot(f"stage {i}", 0.9 + i / 1e3, 0.88, 0.93) for i in range(10)]
  pairs = list(zip(dots, dots, strict=True))
  tree = parse(scatter.scatter("T", pairs, "x", "y"))
  assert [item.text for item in tree.iter("li")] == [d.name for d in dots]
  boxes = []
  for label in tree.iter("text"):
    if "row" in (label.get("class") or ""):
      x, y = float(label.get("x")), float(label.get("y"))
      width = 7 * len(label.text)
      left = x - width if "end" in label.get("class") else x
      assert charts.LEFT <= left and left + width <= charts.WIDTH
      boxes.append((left, y - 9, left + width, y))
  assert len(boxes) == len(dots)
  for i, a in enumerate(boxes):
    for b in boxes[:i]:
      apart = a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]
      assert apart, (a, b)
