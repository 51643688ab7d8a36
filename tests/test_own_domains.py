"""Domains that headlens has never heard of, from folders of images to a figure, as a user at a shell has them."""

from __future__ import annotations

import re

import pytest
from typer.testing import CliRunner

from headlens.cli import app
from headlens.data.procedural.worlds import World, write
from headlens.heads import Comparison

THINGS = {"food": "cookie", "wood": "tile", "cloth": "mesh"}  # generated categories that stand for them

pytestmark = pytest.mark.usefixtures("runs_share_backbones")


def typed(*arguments: object) -> str:
    done = CliRunner().invoke(app, list(map(str, arguments)), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def test_three_domains_of_a_user_from_training_to_a_figure(tmp_path, monkeypatch, one_torch_thread):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("headlens.figures.spec.DPI", 40)
    write(World("procedural:industrial", 4, 28), tmp_path / "generated")
    said, groups, data = "", [], []
    for domain, category in THINGS.items():
        (tmp_path / domain).mkdir()
        (tmp_path / "generated" / category).rename(tmp_path / domain / "thing")
        train = ["train", "--data", domain, "--domain", domain, "--out", f"runs/{domain}-0"]
        said += typed(*train, "--epochs", 1, "--batch", 4, "--size", 28, "--cpu")
        groups += ["--group", f"{domain}=runs/{domain}-*"]
        data += ["--data", f"{domain}={domain}"]
    compared = typed("compare", *groups, "--out", "compared", "--device", "cpu")
    said += compared
    path = next((tmp_path / "compared").glob("*.agreement.parquet"))
    result = Comparison.load(path.with_name(path.name.replace(".agreement", "")))
    assert result.groups == tuple(THINGS) and result.paragraph in compared
    assert [run["trained_on"] for run in result.provenance["runs"]["wood"]] == ["wood"]
    said += typed("figures", "difference", *groups, *data, "--out", "figures", "--device", "cpu")
    pages = [path.read_text() for path in [*tmp_path.glob("figures/*.md"), *tmp_path.glob("runs/*/c*")]]
    assert len(pages) == 1 + 2 * 3 and any("1 cloth run" in page for page in pages)
    assert not re.search("industrial|medical", said + "".join(pages))
