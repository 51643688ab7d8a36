"""Chromium: pages as they are seen, with real clicks and keys. Where there is none, these tests are skipped."""

from __future__ import annotations

import io
import re
import shutil
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page

ARGUMENTS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--force-color-profile=srgb"),
)


@pytest.fixture(autouse=True)
def threads(one_torch_thread):
    """One for each test."""


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """Of one module: while it runs, no other code of this process can start an event loop."""
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("no Chromium on the PATH")
    api = pytest.importorskip("playwright.sync_api")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def open_page(chromium) -> Iterator[Callable[..., Page]]:
    """Opens a page; its arguments are those of a browser's context. A page that complains in its console fails."""
    contexts, complaints = [], []

    def opened(**options: object) -> Page:
        contexts.append(chromium.new_context(**{"viewport": {"width": 1200, "height": 900}, **options}))
        page = contexts[-1].new_page()
        page.set_default_timeout(10_000)
        page.on("console", lambda said: complaints.append(said.text) if said.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda asked: complaints.append(asked.url) if asked.url.startswith("http") else None)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert not complaints


def seen(page: Page) -> Callable[[Locator], np.ndarray]:
    """What stands on the screen now, in the place of an element: [height, width, 3], in device pixels."""
    screen = np.asarray(Image.open(io.BytesIO(page.screenshot())).convert("RGB"))
    scale = page.evaluate("devicePixelRatio")

    def within(place: Locator) -> np.ndarray:
        box = place.bounding_box()
        left, top, right, bottom = (
            round(scale * edge) for edge in (box["x"], box["y"], box["x"] + box["width"], box["y"] + box["height"])
        )
        return screen[top:bottom, left:right]

    return within


def contrast(one: str, other: str) -> float:
    """Of two colours as browsers say them, as WCAG 2 defines it."""

    def luminance(colour: str) -> float:
        parts = np.array([float(part) for part in re.findall(r"[\d.]+", colour)[:3]])
        share = parts if colour.startswith("color(srgb") else parts / 255
        linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    dark, light = sorted(map(luminance, (one, other)))
    return (light + 0.05) / (dark + 0.05)
