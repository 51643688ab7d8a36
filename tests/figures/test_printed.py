"""How figures are printed: formats, widths, type and style sheets; each of them reaches the files."""

from __future__ import annotations

import io
import re
from pathlib import Path

import matplotlib as mpl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure
from PIL import Image

from headlens.errors import ConfigError
from headlens.figures import Print, inches, make, style_sheet
from headlens.figures.printed import latex
from headlens.plots.style import COLUMN, PAPER


def drawn(how: Print) -> Figure:
    """One column, with dots, a line, an image and letters that are rare in LaTeX."""
    with how.context():
        figure = Figure(figsize=(COLUMN, 2.0), layout="constrained")
        above, below = figure.subplots(2, 1)
        above.plot([0, 1], marker="o", label="50 % of a_b")
        above.set_title("q ≤ 0.05, 2·10⁻²; ρ − α")
        above.legend()
        below.imshow([[0.0, 1.0]])
    return figure


def saved(how: Print) -> dict[str, bytes]:
    return how.files(drawn(how), "figure", 100)


@given(st.sampled_from([("in", 1.0), ("cm", 0.393701), ("mm", 0.0393701), ("pt", 0.0138370)]), st.floats(1.5, 19))
def test_widths_have_units(unit, wanted):
    name, each = unit
    assert inches(f"{wanted / each:.6f} {name}") == pytest.approx(wanted, rel=1e-4)


@pytest.mark.parametrize("width", ["85", "mm", "-3in", "85 em", "0.1in", "900mm"])
def test_other_widths_are_named(width):
    with pytest.raises(ConfigError, match=re.escape(repr(width))):
        inches(width)


def test_a_wider_figure_has_the_same_type_and_a_narrower_one_shrinks():
    points = {}
    for width in (1.65, 3.3, 6.6):
        figure = drawn(how := Print(("png",), width))
        (content,) = how.files(figure, "figure", 100).values()
        assert Image.open(io.BytesIO(content)).size == pytest.approx((100 * width, 100 * 2.0 * width / 3.3), abs=1)
        axes = figure.axes[0]
        points[width] = axes.title.get_fontsize(), axes.lines[0].get_markersize(), axes.lines[0].get_linewidth()
    assert points[6.6] == points[3.3] and points[3.3][0] == PAPER["font.size"]
    assert points[1.65] == pytest.approx([value / 2 for value in points[3.3]])


def test_svg_has_text_and_the_same_bytes_again():
    how = Print(("svg",), font="DejaVu Serif", font_size=9.0)
    (svg,) = saved(how).values()
    assert b"<text" in svg and b"font-size: 9px; font-family: 'DejaVu Serif'" in svg and saved(how) == {".svg": svg}


@pytest.mark.skipif(latex() is None, reason="there is no LaTeX")
def test_pgf_is_for_any_font_of_latex_and_names_no_path():
    files = saved(Print(("pgf", "pdf")))
    assert sorted(files) == ["-img0.png", ".pdf", ".pgf"] and files[".pdf"] == saved(Print(("pdf",)))[".pdf"]
    text = files[".pgf"].decode()
    assert r"q $\leq$ 0.05, 2·10$^{-}$$^{2}$; $\rho$" in text and r"of a\_b" in text and "figure-img0.png" in text
    assert str(Path(mpl.__file__).parent) not in text


def test_pgf_without_latex_says_so(monkeypatch):
    monkeypatch.setattr("headlens.figures.printed.shutil.which", lambda name: None)
    with pytest.raises(
        ConfigError, match="pgf needs LaTeX, and none of xelatex, lualatex, pdflatex is on this machine"
    ):
        Print(("pgf",))


def test_what_is_not_there_is_named():
    for wrong, why in (
        ({"formats": ("jpg",)}, "unknown format 'jpg'; available: pdf, png, svg, pgf"),
        ({"font": "DejaVu Serf"}, "font 'DejaVu Serf' is not installed; did you mean DejaVu Serif"),
        ({"font_size": 900.0}, "font size 900"),
    ):
        with pytest.raises(ConfigError, match=why):
            Print(**wrong)


def test_a_style_sheet_is_read_as_matplotlib_reads_it(tmp_path):
    path = tmp_path / "mine.mplstyle"
    path.write_text('# mine\nfont.size: 11  # points\naxes.facecolor: "#eeeeee"\naxes.titlesize : large\n\n')
    settings = style_sheet(path)
    assert settings == {name: mpl.rc_params_from_file(path, use_default_template=False)[name] for name in settings}
    assert (
        Print(style=settings).settings["font.size"] == 11
        and Print(style=settings, font_size=8).settings["font.size"] == 8
    )
    (svg,) = saved(Print(("svg",), style=settings)).values()
    assert b"#eeeeee" in svg


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("font.size: 8\nfont.siez: 8\n", r"line 2: matplotlib has no setting 'font.siez'; did you mean font.size"),
        ("font.size: large one\n", r"line 1: .*large one"),
        ("font.size 8\n", r"line 1: 'font.size 8' is not `setting: value`"),
        ("\0\0", "zero bytes"),
    ],
)
def test_a_bad_style_sheet_is_named_with_its_line(text, why, tmp_path):
    path = tmp_path / "bad.mplstyle"
    path.write_text(text)
    with pytest.raises(ConfigError, match=rf"bad\.mplstyle.*{why}"):
        style_sheet(path)
    with pytest.raises(ConfigError, match="cannot be read"):
        style_sheet(tmp_path / "none.mplstyle")


def test_pages_show_what_there_is(context, tmp_path):
    for kind, mark in (("svg", "!["), ("pdf", "\n[")):
        ((_, files),) = make(context, tmp_path / kind, ["weights"], how=Print((kind,), 2.5))
        assert sorted(path.name for path in files) == sorted([f"weights.{kind}", "weights.md"])
        page = (tmp_path / kind / "weights.md").read_text()
        assert f"{mark}Learned head weights of every domain](weights.{kind})" in page
    assert 'width="180pt"' in (tmp_path / "svg" / "weights.svg").read_text()
