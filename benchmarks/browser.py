"""The Chromium of this system, driven by Playwright: for what is measured and tried in a page."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from typing import Any

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")


def browser_path() -> str | None:
    """$TINYGPT_BROWSER, else the first Chromium on the path; None if there is none."""
    return os.environ.get("TINYGPT_BROWSER") or next(filter(None, map(shutil.which, BROWSERS)), None)


@contextlib.contextmanager
def chromium(path: str) -> Iterator[Any]:
    """The browser at this path, without a window."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()
