"""A real browser, without a window."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By

__all__ = ["browser", "needs_browser", "see", "started"]

needs_browser = pytest.mark.skipif(
    shutil.which("chromium") is None or shutil.which("chromedriver") is None,
    reason="Debian's packages chromium and chromium-driver are not installed",
)


@contextmanager
def started(profile: Path, *, any_certificate: bool = False) -> Iterator[webdriver.Chrome]:
    """A browser with a profile of its own.

    Args:
        profile: its folder.
        any_certificate: whether it takes one of an authority that it does not know.
    """
    options = webdriver.ChromeOptions()
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
        f"--user-data-dir={profile}",
    ):
        options.add_argument(argument)
    options.accept_insecure_certs = any_certificate
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    try:
        yield driver
    finally:
        driver.quit()


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    with started(tmp_path_factory.mktemp("browser")) as driver:
        yield driver


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
