"""The explorer in Chromium: Python and JavaScript as they ship, and between them a stub of a notebook's model."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import numpy as np
import pytest
from matplotlib import colormaps
from PIL import Image

from headlens import lab
from headlens.detectors import build
from headlens.errors import DataError
from headlens.heads import Head
from headlens.lab import explore
from headlens.plots.style import DIVERGING, RISING
from tests import tiny
from tests.browser.conftest import contrast, seen

PACKAGE = Path(lab.__file__).parent
LOCAL = Head("local", 2, 1)
KINDS = ("attention", "contribution", "heads")
# As a notebook does it: all that has changed is set first, and told then; Python answers later, if it answers.
STUB = """
const revive = (name, value) => value?.bytes === undefined ? value
  : new DataView(Uint8Array.from(atob(value.bytes), (c) => c.charCodeAt(0)).buffer);
class Model {
  constructor(state) { this.state = JSON.parse(state, revive); this.told = {}; this.asked = []; }
  get(name) { return this.state[name]; }
  set(name, value) { this.state[name] = value; this.fire([name]); }
  on(event, tell) { (this.told[event] ??= []).push(tell); }
  off(event, tell) { this.told[event] = this.told[event].filter((each) => each !== tell); }
  fire(names) { for (const name of names) for (const tell of this.told[`change:${name}`] ?? []) tell(); }
  save_changes() {
    this.asked.push(this.state.asked);
    answer(JSON.stringify(this.state.asked)).then((state) => this.receive(state));
  }
  receive(state) {
    const news = JSON.parse(state, revive), names = Object.keys(news);
    const changed = names.filter((name) => JSON.stringify(news[name]) !== JSON.stringify(this.state[name]));
    Object.assign(this.state, news);
    this.fire(changed);
  }
}
"""


def state(widget) -> str:
    """What a notebook sends to its page."""
    names = ("fixed", "picture", "scene", "asked", "answered", "error")
    return json.dumps(
        {name: getattr(widget, name) for name in names},
        default=lambda value: {"bytes": base64.b64encode(value).decode()},
    )


@pytest.fixture
def show(open_page):
    """Shows an explorer in a page."""

    def shown(explorer, **options):
        def answer(asked):
            explorer.widget.set_state({"asked": json.loads(asked)})  # as a message from the page does
            return state(explorer.widget)

        page = open_page(**options)
        page.expose_function("answer", answer)
        module, style = ((PACKAGE / f"explorer.{kind}").read_text("utf-8") for kind in ("js", "css"))
        page.set_content(f"<!DOCTYPE html><style>{style}</style><body style='margin: 0'><main></main>")
        source = base64.b64encode(module.encode()).decode()
        page.add_script_tag(content=STUB)
        page.evaluate(
            """async ([source, state]) => {
              const { default: widget } = await import(`data:text/javascript;base64,${source}`);
              window.model = new Model(state);
              window.end = widget.render({ model, el: document.querySelector("main") });
            }""",
            [source, state(explorer.widget)],
        )
        settled(page)
        return page

    return shown


@pytest.fixture
def explorer(detector, make, pictures):
    explorer = explore({"industrial": [detector, make()], "medical": make()}, pictures, size=32)
    explorer.head = LOCAL
    return explorer


def settled(page):
    """When Python has answered, and all is drawn."""
    page.wait_for_function("() => !document.querySelector('.headlens').classList.contains('busy')")
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")


def cell(page, canvas, row, column, rows, columns):
    """The middle of a cell on the page."""
    box = canvas.bounding_box()
    return box["x"] + box["width"] * (column + 0.5) / columns, box["y"] + box["height"] * (row + 0.5) / rows


def click(page, canvas, row, column, rows, columns):
    page.mouse.click(*cell(page, canvas, row, column, rows, columns))
    page.mouse.move(0, 0)
    settled(page)


def coloured(values, low, high, name):
    """Colours of cells as matplotlib has them, [rows, columns, 3]."""
    return colormaps[name]((values - low) / (high - low))[..., :3] * 255


def check_cells(screen, expected, edge, leave=()):
    """Every pixel of the screen has the colour of its cell: but so near to an edge, and in cells that are left out."""
    (height, width), (rows, columns) = screen.shape[:2], expected.shape[:2]
    y, x = (np.arange(height) + 0.5) / height * rows, (np.arange(width) + 0.5) / width * columns
    down, across = y.astype(int), x.astype(int)
    inner = (abs(y - y.round()) * height / rows > edge)[:, None] & (abs(x - x.round()) * width / columns > edge)[None]
    for row, column in leave:
        inner &= ~((down == row)[:, None] & (across == column)[None])
    off = abs(screen.astype(float) - expected[down][:, across]).max(-1)
    assert inner.mean() > 0.5 and off[inner].max() <= 3  # a step of 256 colours, and rounding


@pytest.mark.parametrize("scale", [1, 2])
def test_maps_have_the_colours_of_their_numbers_on_every_pixel_of_the_screen(show, explorer, scale):
    page, view = show(explorer, device_scale_factor=scale), explorer.view
    page.get_by_label("outline").uncheck()
    settled(page)
    image, looks = explorer.image, view.query(explorer.image, LOCAL)
    attention, added = (
        {domain: ask(domain, image, LOCAL) for domain in view.domains} for ask in (view.attention, view.contribution)
    )
    most, reach = (max(abs(values).max() for values in maps.values()) for maps in (attention, added))
    weights = {
        domain: np.mean([one.head_weights()["local"][1:].numpy() for one in view.detectors[domain]], 0)[::-1]
        for domain in view.domains
    }
    far = max(abs(values - 1).max() for values in weights.values())
    place = (len(view.layers("local")) - 1 - view.layers("local").index(2), 1)
    screen = seen(page)
    for at, domain in enumerate(view.domains):
        for kind, expected, edge, leave in (
            ("attention", coloured(attention[domain], 0, most, RISING), 3 * scale, [looks]),
            ("contribution", coloured(added[domain], -reach, reach, DIVERGING), 1, []),  # as sharp as the screen is
            ("heads", coloured(weights[domain], 1 - far, 1 + far, DIVERGING), 3 * scale, [place]),
        ):
            canvas = page.locator(f"canvas.{kind}").nth(at)
            check_cells(screen(canvas), expected, edge, leave)
            assert canvas.evaluate("(one) => [one.height, one.width]") == [*screen(canvas).shape[:2]]
    photo = screen(page.locator("canvas.photo"))
    given = Image.fromarray(explorer.view.pixels(image).image.permute(1, 2, 0).numpy())
    expected = np.asarray(given.resize(photo.shape[1::-1], Image.Resampling.BILINEAR)).astype(float)
    assert np.median(abs(photo - expected)) < 4 and np.ptp(expected) > 60


def test_a_click_looks_from_that_patch_and_escape_from_where_it_was_read(show, explorer):
    page, (rows, columns) = show(explorer), explorer.view.grid
    photo = page.locator("canvas.photo")
    click(page, photo, 2, 1, rows, columns)
    assert explorer.patch == (2, 1) and "row 2, column 1" in page.locator(".said").inner_text()
    screen = seen(page)(photo).astype(int)
    left, middle = round(screen.shape[1] / columns), round(screen.shape[0] * 2.5 / rows)
    assert (abs(screen[middle, left - 3 : left + 1] - [0, 0xE5, 0xFF]).max(-1) < 30).any()  # the line around the patch
    page.keyboard.press("Escape")
    settled(page)
    assert explorer.patch is None
    click(page, page.locator("canvas.contribution").nth(1), 0, 3, rows, columns)  # maps take clicks, too
    assert explorer.patch == (0, 3)


def test_arrow_keys_move_the_patch_and_only_the_last_is_computed(show, explorer):
    page, (rows, columns) = show(explorer), explorer.view.grid
    click(page, page.locator("canvas.photo"), 0, 0, rows, columns)
    before = page.evaluate("model.asked.length")
    page.evaluate(
        """() => { for (let press = 0; press < 3; press++) document.activeElement.dispatchEvent(
          new KeyboardEvent("keydown", { key: "ArrowRight", bubbles: true })); }"""
    )
    settled(page)
    assert explorer.patch == (0, 3) and page.evaluate("model.asked.length") == before + 2
    page.mouse.move(*cell(page, page.locator("canvas.photo"), rows - 1, 0, rows, columns))  # and rests there
    for key in ("ArrowDown", "ArrowUp", "ArrowUp", "ArrowLeft"):  # not over the edge
        page.keyboard.press(key)
    settled(page)
    assert explorer.patch == (0, 2) and page.locator("[aria-live]").inner_text().startswith("row 0, column 2")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "heads"


def test_a_head_is_opened_from_the_grid_by_click_key_and_name(show, explorer):
    page, layers = show(explorer), list(explorer.view.layers("local"))[::-1]
    grid, count = page.locator("canvas.heads").nth(1), len(explorer.view.heads)
    click(page, grid, 1, 3, len(layers), count)
    assert explorer.head == Head("local", layers[1], 3) and "L2H3, local" in page.locator(".said").inner_text()
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowLeft")
    settled(page)
    assert explorer.head == Head("local", layers[0], 2)
    name = page.get_by_label("head", exact=True)
    name.fill("L0H1")
    name.press("Enter")
    settled(page)
    assert explorer.head == Head("global", 0, 1) and page.get_by_label("global").is_checked()
    page.get_by_label("local").check()
    settled(page)
    assert explorer.head == Head("local", 1, 1)  # of the lowest layer that has local heads


def test_what_is_under_the_mouse_is_said(show, explorer):
    page, view = show(explorer), explorer.view
    page.mouse.move(*cell(page, page.locator("canvas.photo"), 1, 2, *view.grid))
    said = page.locator("[aria-live]").inner_text()
    assert said.startswith("row 1, column 2")
    for value in (
        view.attention("medical", explorer.image, LOCAL),
        view.contribution("medical", explorer.image, LOCAL),
    ):
        assert f"medical {value[1, 2]:+.3g}".replace("-", "−") in said.replace("medical 0", "medical +0")
    layers = list(view.layers("local"))[::-1]
    page.mouse.move(*cell(page, page.locator("canvas.heads").first, 0, 1, len(layers), len(view.heads)))
    mean = view.learned("industrial", "local")[:, -1, 1].mean()
    assert f"L{layers[0]}H1/local" in (said := page.locator("[aria-live]").inner_text())
    assert f"industrial {mean:.3g}" in said
    page.mouse.move(0, 0)
    assert page.locator("[aria-live]").inner_text() == ""


def test_images_follow_each_other_and_a_sign_says_that_python_computes(show, explorer):
    page = show(explorer)
    assert explorer.view.names[explorer.image] == page.locator("figcaption").first.inner_text()
    click(page, page.locator("canvas.photo"), 0, 0, *explorer.view.grid)
    busy = page.evaluate(
        """() => { document.querySelector("[aria-label='next image']").click();
          return [document.querySelector(".headlens").ariaBusy, document.querySelector("select").selectedIndex]; }"""
    )
    assert busy == ["true", 4]
    settled(page)
    assert (explorer.image, explorer.patch) == (4, None) and page.locator(".headlens").get_attribute(
        "aria-busy"
    ) == "false"
    page.get_by_label("image", exact=True).select_option(index=11)
    settled(page)
    assert explorer.image == 11 and page.get_by_label("next image").is_disabled()


def test_what_is_asked_meanwhile_does_not_repeat_a_mistake(show, explorer):
    page = show(explorer)
    page.get_by_label("head", exact=True).fill("L99H0")
    page.evaluate(
        """() => { document.activeElement.dispatchEvent(new KeyboardEvent("keydown", { key: "Enter" }));
          document.querySelector("[aria-label='next image']").click(); }"""
    )
    settled(page)
    assert (explorer.image, explorer.head) == (4, LOCAL) and page.get_by_role("alert").is_hidden()
    assert page.evaluate("model.asked.map((each) => each.head)") == ["L99H0", str(LOCAL)]


def test_a_silent_kernel_is_spoken_of(show, explorer):
    page = show(explorer)
    page.clock.install()
    page.evaluate("() => { model.save_changes = () => {}; }")
    page.get_by_label("next image").click()
    page.clock.run_for(5000)
    assert page.locator(".late").is_hidden()
    page.clock.run_for(2000)
    assert "kernel" in page.locator(".late").inner_text()


def test_an_error_looks_like_one_and_all_else_stays(show, explorer, monkeypatch):
    page, before = show(explorer), explorer.head
    name, alert = page.get_by_label("head", exact=True), page.get_by_role("alert")
    assert alert.is_hidden()
    name.fill("L99H0")
    name.press("Enter")
    settled(page)
    assert "layer 99 does not exist" in alert.inner_text() and explorer.head == before
    assert name.input_value() == "L99H0"  # to be mended
    look = "(one) => [getComputedStyle(one).color, getComputedStyle(one.closest('.headlens')).backgroundColor]"
    assert contrast(*alert.evaluate(look)) > 4.5

    def broken(self, number):
        raise DataError("<b>two.png</b>: cannot be read")

    explorer.view.pixels.cache_clear()
    monkeypatch.setattr(lab.gallery.Gallery, "pixels", broken)
    page.get_by_label("next image").click()
    settled(page)
    assert alert.inner_text() == "<b>two.png</b>: cannot be read"
    assert page.get_by_label("image", exact=True).evaluate("(one) => one.selectedIndex") == explorer.image == 3
    assert name.input_value() == str(before)
    click(page, page.locator("canvas.photo"), 1, 1, *explorer.view.grid)
    assert alert.is_hidden() and explorer.patch == (1, 1)


def test_what_a_method_does_not_have_it_says_in_its_place(show, detector, pictures):
    clip = build(tiny.clip(), "clip", taps=(1, 3), local_start=1)
    april_gan = build(tiny.clip(), "april-gan", taps=(1, 3))
    page = show(explore({"HeadCLIP": detector, "CLIP": clip, "APRIL-GAN": april_gan}, pictures, size=32))
    page.get_by_label("local").check()
    settled(page)
    hidden = [page.locator(f"canvas.{kind}").evaluate_all("(all) => all.map((one) => one.hidden)") for kind in KINDS]
    assert hidden == [[False, False, True], [False, False, True], [False, True, True]]
    why = [words for words in page.locator(".why").all_inner_texts() if words]
    assert sum("no local stream" in words for words in why) == 2 and sum("not learned" in words for words in why) == 2


def test_grids_are_called_what_they_show(show, pictures):
    learned = build(tiny.clip(), "headclip", taps=(1, 3), local_start=1, streams=("local",), prompts="ensemble")
    page = show(explore(learned, pictures, size=32))
    for stream, shown in (("local", "weights"), ("global", "effects"), ("local", "weights")):
        page.get_by_label(stream).check()
        settled(page)
        assert page.get_by_label("grids").input_value() == shown


def test_a_head_of_a_stream_that_is_not_there_is_an_error_and_no_more(show, pictures):
    explorer = explore(build(tiny.clip(), "april-gan", taps=(1, 3)), pictures, size=32)
    page = show(explorer)
    page.get_by_label("head", exact=True).fill("L1H0/local")
    page.keyboard.press("Enter")
    settled(page)
    assert "no local stream" in page.get_by_role("alert").inner_text()
    click(page, page.locator("canvas.heads"), 0, 1, 4, 4)
    assert explorer.head == Head("global", 3, 1)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_in_both_themes(show, explorer, scheme):
    page = show(explorer, color_scheme=scheme)
    ground = page.locator(".headlens").evaluate("(one) => getComputedStyle(one).backgroundColor")
    assert (contrast(ground, "rgb(255, 255, 255)") > 10) == (scheme == "dark")
    for place in (".said", "figcaption", ".help", ".scale span"):
        words = page.locator(place).first.evaluate("(one) => getComputedStyle(one).color")
        assert contrast(words, ground) > 4.5, place


def test_every_control_has_a_name_and_nothing_is_left_when_it_ends(show, explorer):
    page = show(explorer)
    unnamed = page.evaluate(
        """() => [...document.querySelectorAll("select, input, button, canvas")]
          .filter((one) => !(one.ariaLabel || one.labels?.[0]?.textContent.trim())).map((one) => one.outerHTML)"""
    )
    assert not unnamed
    page.evaluate("end()")
    assert page.evaluate("Object.values(model.told).flat().length") == 0
