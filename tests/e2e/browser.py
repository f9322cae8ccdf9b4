"""A real browser, without a window."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By

__all__ = ["browser", "needs_browser", "options", "see"]

needs_browser = pytest.mark.skipif(
    shutil.which("chromium") is None or shutil.which("chromedriver") is None,
    reason="Debian's packages chromium and chromium-driver are not installed",
)


def options(data: Path) -> webdriver.ChromeOptions:
    """A browser that starts with nothing, keeps what it has in this folder, and asks nobody for news."""
    found = webdriver.ChromeOptions()
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--window-size=1400,2400",
        f"--user-data-dir={data}",
    ):
        found.add_argument(argument)
    found.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    return found


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    chosen = options(tmp_path_factory.mktemp("browser"))
    driver = webdriver.Chrome(options=chosen, service=Service(shutil.which("chromedriver")))
    yield driver
    driver.quit()


def see(browser: webdriver.Chrome, address: str, *words: str) -> str:
    """Open the page and wait until its text holds the words."""
    browser.get(address)
    end = time.monotonic() + 600
    while True:
        text = browser.find_element(By.TAG_NAME, "body").text
        if all(word in text for word in words):
            return text
        assert time.monotonic() < end, f"{address} does not show {words}:\n{text[:3000]}"
        time.sleep(0.5)
