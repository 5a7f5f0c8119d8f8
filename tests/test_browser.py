"""The explorer of notebook 04 and the slice viewer as a reader uses them: JupyterLab on loopback, headless Chromium."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request

import nbformat
import pytest

from camhelpers.files import ROOT

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(not CHROMIUM, reason="Chromium is not installed (apt-get install chromium); CI installs it"),
]


VIEWER = """
import numpy as np
from camhelpers.show.viewer import VolumeViewer
z, y, x = np.indices((12, 16, 20)) / 20
heats = {"gradcam": z.astype("float32"), "layercam": (x * x).astype("float32")}
VolumeViewer((x * y).astype("float32"), heats, (0.1, 0.1, 0.1))
"""


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """JupyterLab over a copy of the notebooks, so that running one leaves the committed file alone."""
    folder = tmp_path_factory.mktemp("lab")
    shutil.copytree(ROOT / "notebooks", folder / "notebooks", ignore=shutil.ignore_patterns(".*"))
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    viewing = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(VIEWER)], metadata={"kernelspec": kernel})
    nbformat.write(viewing, folder / "notebooks" / "viewer.ipynb")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    names = ("JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR", "JUPYTERLAB_SETTINGS_DIR")
    home = {name: str(folder / name) for name in names}
    settings = {
        # Cells out of sight are otherwise not in the page, and a kernel may be asked for in a dialog.
        "notebook-extension/tracker": {"windowingMode": "none", "autoStartDefaultKernel": True},
        "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
    }
    for name, values in settings.items():
        path = folder / "JUPYTERLAB_SETTINGS_DIR/@jupyterlab" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values))
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={port}"]
    options = ["--IdentityProvider.token=", "--ServerApp.password=", f"--ServerApp.root_dir={folder}"]
    options += ["--LabApp.expose_app_in_browser=True", "--LabApp.news_url="]
    log = (folder / "lab.log").open("w")
    server = subprocess.Popen([*command, *options], env={**os.environ, **home}, stdout=log, stderr=log)
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(120):
            try:
                urllib.request.urlopen(f"{address}/api/status", timeout=2).close()
                break
            except OSError:
                assert server.poll() is None, (folder / "lab.log").read_text()[-2000:]
                time.sleep(0.5)
        else:
            pytest.fail("JupyterLab did not start: " + (folder / "lab.log").read_text()[-2000:])
        yield address
    finally:
        server.terminate()
        server.wait(20)


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield browser
        browser.close()


def running(browser, lab, name: str):
    """A page with that notebook, all of whose cells were set running."""
    page = browser.new_page(viewport={"width": 1400, "height": 1500})
    page.goto(f"{lab}/lab/tree/notebooks/{name}.ipynb?reset", timeout=90_000)
    page.wait_for_selector(".jp-Notebook", timeout=90_000)
    page.wait_for_function("window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel", timeout=90_000)
    page.evaluate("() => { window.jupyterapp.commands.execute('notebook:run-all-cells'); }")
    return page


@pytest.fixture(scope="module")
def page(browser, lab):
    page = running(browser, lab, "04_hybrid")
    yield page
    page.close()


def picture(page) -> str:
    """What the explorer's image shows now: a short account of its pixels."""
    return page.evaluate(
        """() => {
            const image = document.querySelector('img.widget-image');
            if (!image || !image.complete || !image.naturalWidth) return null;
            const canvas = document.createElement('canvas');
            [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
            const context = canvas.getContext('2d');
            context.drawImage(image, 0, 0);
            const data = context.getImageData(0, 0, canvas.width, canvas.height).data;
            let sum = 0;
            for (let i = 0; i < data.length; i += 4)
                sum = (sum * 31 + data[i] + 7 * data[i + 1] + 13 * data[i + 2]) % 1e9;
            return `${canvas.width}x${canvas.height}:${sum}`;
        }"""
    )


def changed(page, before: str, seconds: float = 20) -> str:
    """Wait until the picture differs from `before`, and return it."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        now = picture(page)
        if now and now != before:
            return now
        time.sleep(0.1)
    pytest.fail(f"The explorer's picture did not change from {before!r} in {seconds} s.")


def test_toggling_the_method_and_moving_alpha_changes_the_picture(page, tmp_path):
    page.wait_for_selector(".widget-toggle-buttons", timeout=240_000)
    waiting = "[...document.querySelectorAll('.jp-InputPrompt')].some(prompt => prompt.innerText.includes('*'))"
    page.wait_for_function(f"!{waiting}", timeout=240_000)  # a kernel that runs cells answers no toggle
    page.locator("img.widget-image").scroll_into_view_if_needed()
    first = changed(page, "", seconds=60)

    page.locator(".widget-toggle-button", has_text="LayerCAM").first.click()
    second = changed(page, first)
    page.locator(".widget-toggle-button", has_text="Hybrid").first.click()
    assert changed(page, second) == first, "the same choice must give the same picture"

    slider = page.locator(".widget-slider", has_text="alpha").locator(".noUi-handle")
    slider.focus()
    for _ in range(4):
        slider.press("ArrowLeft")
    page.wait_for_function("document.body.innerText.includes('alpha 0.50')", timeout=20_000)
    third = changed(page, first)

    page.locator(".widget-dropdown", has_text="colours").locator("select").select_option("viridis")
    changed(page, third)
    page.screenshot(path=os.environ.get("CAMHELPERS_SCREENSHOT", str(tmp_path / "explorer.png")))


def test_no_cell_ended_in_an_error(page):
    state = json.dumps(
        page.locator(".jp-OutputArea-output[data-mime-type='application/vnd.jupyter.error']").all_inner_texts()
    )
    assert state == "[]", state


def test_the_slice_viewer_goes_slice_by_slice_with_the_arrow_keys(browser, lab, tmp_path):
    page = running(browser, lab, "viewer")
    page.wait_for_selector(".widget-toggle-buttons", timeout=120_000)
    first = changed(page, "", seconds=60)
    page.wait_for_function("document.body.innerText.includes('Voxel (z 11,')", timeout=20_000)  # the hottest
    slider = page.locator(".widget-slider", has_text="slice z").locator(".noUi-handle")
    slider.focus()
    for _ in range(3):
        slider.press("ArrowLeft")
    page.wait_for_function("document.body.innerText.includes('Voxel (z 8,')", timeout=20_000)
    second = changed(page, first)
    page.locator(".widget-toggle-button", has_text="LayerCAM").click()
    changed(page, second)
    page.screenshot(path=os.environ.get("CAMHELPERS_SCREENSHOT", str(tmp_path / "viewer.png")))
    page.close()
