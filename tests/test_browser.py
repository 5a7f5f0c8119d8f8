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
PICTURE = """async () => {
    const image = document.querySelector('img.widget-image');
    if (!image?.naturalWidth) return null;
    const data = new Uint8Array(await (await fetch(image.src)).arrayBuffer());
    return data.reduce((sum, byte) => (31 * sum + byte) % 1e9, data.length).toString();
}"""
SETTINGS = {
    # Cells out of sight are otherwise not in the page, and a kernel may be asked for in a dialog.
    "notebook-extension/tracker": {"windowingMode": "none", "autoStartDefaultKernel": True},
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
}


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
    address = f"http://127.0.0.1:{port}"
    names = ("JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR", "JUPYTERLAB_SETTINGS_DIR")
    for name, values in SETTINGS.items():
        path = folder / "JUPYTERLAB_SETTINGS_DIR/@jupyterlab" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values))
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={port}"]
    command += ["--LabApp.news_url=", "--LabApp.expose_app_in_browser=True", f"--ServerApp.root_dir={folder}"]
    command += ["--IdentityProvider.token=", "--ServerApp.password="]
    home, log = {name: str(folder / name) for name in names}, folder / "lab.log"
    with log.open("w") as said:
        server = subprocess.Popen(command, env={**os.environ, **home}, stdout=said, stderr=said)
    try:
        for _ in range(120):
            try:
                urllib.request.urlopen(f"{address}/api/status", timeout=2).close()
                break
            except OSError:
                assert server.poll() is None, log.read_text()[-2000:]
                time.sleep(0.5)
        else:
            pytest.fail("JupyterLab did not start: " + log.read_text()[-2000:])
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
    """A page with that notebook, once all of its cells have run: before, the kernel answers no toggle."""
    page = browser.new_page(viewport={"width": 1400, "height": 1500})
    page.goto(f"{lab}/lab/tree/notebooks/{name}.ipynb?reset", timeout=90_000)
    page.wait_for_selector(".jp-Notebook", timeout=90_000)
    page.wait_for_function("window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel", timeout=90_000)
    page.evaluate("() => { window.jupyterapp.commands.execute('notebook:run-all-cells'); }")
    page.wait_for_selector(".widget-toggle-buttons", timeout=240_000)
    waiting = "[...document.querySelectorAll('.jp-InputPrompt')].some(prompt => prompt.innerText.includes('*'))"
    page.wait_for_function(f"!{waiting}", timeout=240_000)
    page.locator("img.widget-image").first.scroll_into_view_if_needed()
    return page


def changed(page, before: str, seconds: float = 60) -> str:
    """Wait until the picture differs from `before`, and return it."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        now = page.evaluate(PICTURE)
        if now and now != before:
            return now
        time.sleep(0.1)
    pytest.fail(f"The picture did not change from {before!r} in {seconds} s.")


def press(page, slider: str, key: str, times: int) -> None:
    handle = page.locator(".widget-slider", has_text=slider).locator(".noUi-handle").first
    handle.focus()
    for _ in range(times):
        handle.press(key)


def test_toggling_the_method_and_moving_alpha_changes_the_picture(browser, lab):
    page = running(browser, lab, "04_hybrid")
    first = changed(page, "")
    page.locator(".widget-toggle-button", has_text="LayerCAM").first.click()
    second = changed(page, first)
    page.locator(".widget-toggle-button", has_text="Hybrid").first.click()
    assert changed(page, second) == first, "the same choice must give the same picture"
    press(page, "alpha", "ArrowLeft", 4)
    page.wait_for_function("document.body.innerText.includes('alpha 0.50,')", timeout=20_000)
    third = changed(page, first)
    page.locator(".widget-dropdown", has_text="colours").first.locator("select").select_option("viridis")
    fourth = changed(page, third)
    page.locator(".widget-dropdown", has_text="beside").first.locator("select").select_option("Grad-CAM++")
    changed(page, fourth)
    page.locator("button", has_text="save").first.click()
    page.wait_for_function("document.body.innerText.includes('Written: ')", timeout=20_000)
    errors = page.locator(".jp-OutputArea-output[data-mime-type='application/vnd.jupyter.error']")
    assert errors.all_inner_texts() == []
    page.close()


def test_the_slice_viewer_goes_slice_by_slice_with_the_arrow_keys(browser, lab):
    page = running(browser, lab, "viewer")
    first = changed(page, "")
    page.wait_for_function("document.body.innerText.includes('Voxel (z 12,')", timeout=20_000)  # the hottest
    press(page, "slice z", "ArrowLeft", 3)
    page.wait_for_function("document.body.innerText.includes('Voxel (z 9,')", timeout=20_000)
    second = changed(page, first)
    page.locator(".widget-toggle-button", has_text="LayerCAM").click()
    changed(page, second)
    page.close()
