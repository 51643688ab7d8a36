"""A report in Chromium: tables are sorted, images compared, both themes read, and it prints."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from headlens import data, plots, report
from headlens.report import page as parts
from headlens.training.run import Run
from tests import tiny
from tests.browser.conftest import contrast, seen

FRAME = pd.DataFrame({"head": ["L10H0", "L2H0", "L1H0"], "effect": [-0.5, np.nan, 3.25]})


@pytest.fixture(scope="module")
def html(tmp_path_factory):
    run = Run(tmp_path_factory.mktemp("runs") / "mine", tiny.headclip(), None, {"threshold": 0.5})
    images = data.open("procedural:industrial/aux", per_category=4, size=32, category="nut")
    with pytest.MonkeyPatch.context() as patches:  # heat maps take longer than all else
        patches.setattr(plots, "grids", lambda *_, **__: plots.Figure(Figure(figsize=(1, 1)), None))
        return report(run, images, worst=2, size=32).html


@pytest.fixture
def shown(html, open_page, tmp_path):
    """The report as a file, opened as a reader does."""
    file = tmp_path / "report.html"
    file.write_text(html, "utf-8")

    def shown(**options):
        page = open_page(**options)
        page.goto(file.as_uri())
        return page

    return shown


def column(table, number):
    return [row.split("\t")[number] for row in table.locator("tbody").inner_text().splitlines()]


def test_a_click_sorts_a_table_and_so_does_a_key(open_page):
    page = open_page()
    page.set_content(parts.document("Heads", [parts.section("Table", parts.table(FRAME))]))
    table, (head, effect) = page.locator("table"), page.locator("th").all()
    effect.get_by_role("button").click()
    assert column(table, 1) == ["3.25", "-0.5", "-"] and effect.get_attribute("aria-sort") == "descending"
    page.keyboard.press("Enter")
    assert column(table, 1) == ["-0.5", "3.25", "-"] and effect.get_attribute("aria-sort") == "ascending"
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Space")
    assert column(table, 0) == ["L1H0", "L2H0", "L10H0"] and effect.get_attribute("aria-sort") is None
    assert head.get_attribute("aria-sort") == "ascending"
    assert head.get_by_role("button").evaluate("(one) => getComputedStyle(one).outlineStyle") == "solid"


def test_every_table_of_a_report_can_be_sorted_and_loses_no_row(shown):
    page = shown()
    for table in page.locator(".table table").all():
        before = sorted(table.locator("tbody tr").all_inner_texts())
        table.locator("th button").last.click()
        assert sorted(table.locator("tbody tr").all_inner_texts()) == before and before


def test_the_slider_lays_the_chosen_map_over_the_image(shown):
    page = shown()
    case, choice, slider = (page.locator(place).first for place in (".case", ".case select", ".case input"))
    views = [case.locator(".view").nth(number) for number in range(3)]
    images = []
    for at in ("0", "100", "50"):
        slider.fill(at)
        case.scroll_into_view_if_needed()
        images.append(seen(page)(views[0]).astype(float))
    covered, bare, half = images
    middle = bare.shape[1] // 2
    assert abs(covered - bare).max() > 20
    assert abs(half[:, : middle - 2] - bare[:, : middle - 2]).max() < 3
    assert abs(half[:, middle + 2 :] - covered[:, middle + 2 :]).max() < 3
    slider.focus()
    page.keyboard.press("ArrowRight")
    assert slider.input_value() == "51"
    choice.select_option(index=1)
    assert not views[1].is_visible() and views[2].is_visible()


def test_outlines_can_be_switched_off(shown):
    page = shown()
    outline, switch = page.locator(".outline").first, page.locator("#outlines")
    assert outline.is_visible() and switch.is_checked()
    switch.focus()
    page.keyboard.press("Space")
    assert outline.is_hidden()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_in_both_themes(shown, scheme):
    page = shown(color_scheme=scheme)
    ground = page.locator("body").evaluate("(one) => getComputedStyle(one).backgroundColor")
    assert (contrast(ground, "rgb(255, 255, 255)") > 10) == (scheme == "dark")
    for place in ("h1", "p", "dt", "td", "small", "nav a", ".wrong", ".right"):
        for one in page.locator(place).all()[:1]:
            assert contrast(one.evaluate("(one) => getComputedStyle(one).color"), ground) > 4.5, place


def test_it_fits_a_telephone(shown):
    page = shown(viewport={"width": 390, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_on_paper_nothing_waits_for_a_mouse(shown, open_page):
    page = shown(color_scheme="dark")
    page.emulate_media(media="print")
    assert page.locator("nav").is_hidden() and page.locator(".controls").first.is_hidden()
    assert all(view.is_visible() for view in page.locator(".case").first.locator(".view").all())
    assert page.locator("body").evaluate("(one) => getComputedStyle(one).backgroundColor") == "rgb(255, 255, 255)"
    pages = len(re.findall(rb"/Type\s*/Page\b", page.pdf(format="A4")))
    assert 2 <= pages <= 12
    long = open_page()
    rows = pd.DataFrame({"head": range(60), "effect": range(60)})
    long.set_content(parts.document("Heads", [parts.section("Table", parts.table(rows))]))
    long.emulate_media(media="print")
    assert "The first 24 of 60 rows" in long.locator(".print").inner_text()
    assert long.locator("tbody tr:visible").count() == 24
