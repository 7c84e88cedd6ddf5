"""A page as headless Chromium shows it on a phone: what does not fit, is broken, or comes from elsewhere."""

import dataclasses
import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

_CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
# Chromium's own window is never narrower than 500 px, a frame in it is.
_WRAPPER = """<!doctype html><title>not loaded</title>
<iframe src="{name}" style="width: {width}px; height: 800px; border: 0"></iframe>
<script>
const errors = [];
frames[0].addEventListener("error", event => errors.push(event.message));
addEventListener("load", async () => {{
  const page = frames[0], root = page.document.documentElement, images = [...page.document.images];
  const width = root.scrollWidth;  // before a filter hides what is wide
  for (const button of page.document.querySelectorAll("[data-filter]")) button.click();
  const shown = [...page.document.querySelectorAll(".card")].filter(card => !card.hidden);
  shown.sort((a, b) => a.style.order - b.style.order);
  document.title = JSON.stringify({{
    is_narrow: page.matchMedia("(max-width: 640px)").matches,
    width,
    num_images: images.length,
    num_broken: images.filter(image => !image.naturalWidth).length,
    requests: page.performance.getEntriesByType("resource").map(entry => entry.name).filter(
      name => !name.startsWith("data:")),
    shown: shown.map(card => card.querySelector("h3").innerText),
    errors,
  }});
}});
</script>"""


@dataclasses.dataclass(frozen=True)
class Shown:
    """A page in a window: the `width` in px that its content takes, its pictures and how many of them are broken, the
    addresses it asked for, its script's errors, and the cards that are left by its last filter.
    """

    is_narrow: bool
    width: int
    num_images: int
    num_broken: int
    requests: list[str]
    shown: list[str]
    errors: list[str]


def show(page: Path, *, width: int) -> Shown:
    """Opens a page and clicks through its filters; skips the test where there is no Chromium."""
    if _CHROMIUM is None:
        pytest.skip("no Chromium here to look at the page with")
    wrapper = page.with_name(f"wrapper_of_{page.name}")
    wrapper.write_text(_WRAPPER.format(name=page.name, width=width))
    profile = page.parent / "profile"
    flags = (
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--hide-scrollbars",
        "--allow-file-access-from-files",
        "--dump-dom",
    )
    done = subprocess.run(
        [_CHROMIUM, *flags, f"--user-data-dir={profile}", wrapper.resolve().as_uri()],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    title = re.search(r"<title>(.*?)</title>", done.stdout, re.DOTALL)
    assert done.returncode == 0, done.stderr
    assert title, done.stdout
    return Shown(**json.loads(html.unescape(title[1])))


def check_on_phone(page: Path) -> Shown:
    """A page fits 390 px, needs nothing but itself, and all its pictures can be seen."""
    shown = show(page, width=390)
    assert shown.is_narrow
    assert (shown.width, shown.num_broken, shown.requests, shown.errors) == (390, 0, [], []), shown
    return shown
