"""Two checkpoints side by side: what is marked, and the page in a browser."""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

import povid_jax
from povid_jax.demo import __main__ as demo
from povid_jax.demo import page as page_lib
from povid_jax.demo.page import Truth
from povid_jax.errors import UserError
from tests import small_world

ROOT = Path(povid_jax.__file__).parents[1]
BROWSER = shutil.which("chromium") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def annotations(tmp_path_factory):
  folder = tmp_path_factory.mktemp("annotations")
  instances = {
    "images": [{"id": 1, "file_name": "train/a.png"}],
    "annotations": [{"id": 1, "image_id": 1, "category_id": 17}],
    "categories": [{"id": 17, "name": "cat"}, {"id": 18, "name": "dog"}],
  }
  said = [{"id": 1, "image_id": 1, "caption": "A kitten beside two chairs."}]
  (folder / "instances_x.json").write_text(json.dumps(instances))
  (folder / "captions_x.json").write_text(json.dumps({"annotations": said}))
  return [folder / "instances_x.json", folder / "captions_x.json"]


def test_what_the_annotations_lack_is_marked(annotations):
  truth = Truth(annotations)
  known = truth.of(Path("/anywhere/a.png"), "")
  shown = truth.marked("A <cat> and a dog on a chair.", known)
  assert '<mark class="bad">dog</mark>' in shown
  assert shown.count("<mark") == 1 and "&lt;cat&gt;" in shown
  assert "3 objects named, 1 of them invented" in shown


def test_of_a_picture_that_nobody_knows_nothing_is_marked(annotations):
  truth = Truth(annotations)
  assert truth.of(Path("mine.jpg"), " ") is None
  assert "<mark" not in truth.marked("A dog.", None)


def test_typed_objects_count_with_their_synonyms(annotations):
  truth = Truth([])
  known = truth.of(Path("mine.jpg"), "puppy, dining table")
  assert "1 of them invented" in truth.marked("A dog and a bus.", known)
  with pytest.raises(UserError, match="'xyz'"):
    truth.of(Path("mine.jpg"), "dog, xyz")
  # beside the annotations, not in their place
  both = Truth(annotations).of(Path("a.png"), "dog")
  assert both == {"cat", "chair", "dog"}


def test_captions_alone_are_no_truth(annotations):
  with pytest.raises(UserError, match="instances_"):
    Truth(annotations[1:])


def test_without_gradio_the_extra_is_named(monkeypatch):
  monkeypatch.setitem(sys.modules, "gradio", None)
  with pytest.raises(UserError, match=r"povid_jax\[demo\]"):
    demo.main(["none", "none"])


def _free_port():
  with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    return free.getsockname()[1]


@pytest.fixture
def served(tmp_path):
  """The address of a page on two small models, and its picture."""
  pytest.importorskip("gradio")
  model = small_world.model_folder(tmp_path)
  small_world.picture(0, (64, 48)).save(tmp_path / "a.png")
  port = _free_port()
  process = subprocess.Popen(
    [sys.executable, "-m", "povid_jax.demo", str(model), str(model),
     f"--port={port}", "--max-new-tokens=12"],
    cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    env={**os.environ, "JAX_PLATFORMS": "cpu"},
  )  # fmt: skip
  try:
    for _ in range(240):
      assert process.poll() is None, process.stdout.read()
      with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", port)) == 0:
          break
      time.sleep(0.5)
    yield f"http://127.0.0.1:{port}", tmp_path / "a.png"
  finally:
    process.terminate()
    process.wait(20)
    process.stdout.close()


@contextlib.contextmanager
def _browser():
  playwright = pytest.importorskip("playwright.sync_api")
  if BROWSER is None:
    pytest.skip("no chromium here")
  with playwright.sync_playwright() as driver:
    browser = driver.chromium.launch(
      executable_path=BROWSER, args=["--no-sandbox"]
    )
    yield browser.new_page()
    browser.close()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_an_invented_object_is_red():
  """Gradio's own style of marked words is black."""
  pytest.importorskip("gradio")
  shown = page_lib.STYLE + Truth([]).marked("A dog and a bus.", {"dog"})
  blocks = page_lib.page(["a", "b"], lambda *given: [shown, shown])
  port = _free_port()
  blocks.launch(
    server_name="127.0.0.1", server_port=port, prevent_thread_lock=True
  )
  try:
    with _browser() as page:
      page.goto(f"http://127.0.0.1:{port}")
      page.get_by_role("button", name="Ask both").click()
      mark = page.locator("mark.bad").first
      mark.wait_for()
      colour = mark.evaluate("e => getComputedStyle(e).color")
  finally:
    blocks.close()
  assert colour == "rgb(179, 38, 30)"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_in_a_browser(served):
  address, picture = served
  with _browser() as page:
    page.goto(address)
    page.get_by_role("button", name="Ask both").click()
    page.get_by_text("choose a picture first").wait_for()
    page.locator("input[type=file]").set_input_files(str(picture))
    page.get_by_label("objects in the picture").fill("cat")
    page.wait_for_timeout(2000)  # the upload
    page.get_by_role("button", name="Ask both").click()
    answers = page.get_by_text("objects named")
    answers.first.wait_for(timeout=120_000)
    page.wait_for_timeout(500)
    # the same model twice: the same answer on both sides
    first, second = answers.all_inner_texts()
    assert first == second
    if os.environ.get("POVID_SCREENSHOT"):
      page.screenshot(path=os.environ["POVID_SCREENSHOT"])
