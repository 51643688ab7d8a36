"""Every figure of the paper from tiny runs: files, fonts, captions, and what cannot be made."""

from __future__ import annotations

import importlib
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from scipy import stats

from headlens import heads
from headlens.attribution import pixels
from headlens.errors import ConfigError, DataError, HeadlensError
from headlens.figures import FIGURES, FigureContext, chosen, grouped, importance, joint, make
from headlens.figures.context import CachedImages, examples, first_of_each, mean_and_interval
from headlens.figures.spec import with_interval
from headlens.plots.style import COLUMN, PAGE

NAMES = [spec.name for spec in FIGURES]


def all_made(context: FigureContext, out, names=()) -> dict[str, list]:
    found = {spec.name: made for spec, made in make(context, out, names)}
    assert not [(name, made) for name, made in found.items() if isinstance(made, HeadlensError)]
    return found


def test_all_figures_are_made_and_made_again_from_what_is_kept(context, domains, tmp_path, monkeypatch):
    monkeypatch.setattr("headlens.figures.spec.DPI", 40)
    monkeypatch.setattr("headlens.figures.atlas.MOST", 2)
    out = tmp_path / "figures"
    found = all_made(context, out)
    assert list(found) == NAMES and context.cache.reused.count("importance-industrial-industrial-0") == 1
    for name, files in found.items():
        assert {"pdf", "png", "md"} <= {path.suffix[1:] for path in files}
        pdf = (out / f"{name}.pdf").read_bytes()
        assert b"/Type3" not in pdf and b"/FontFile2" in pdf  # outlines of text are TrueType's
        assert b"/CreationDate" not in pdf and len(pdf) < 500_000
        width, _ = Image.open(out / f"{name}.png").size
        assert width in (round(COLUMN * 40), round(PAGE * 40))
        page = (out / f"{name}.md").read_text()
        assert f"`headlens figures {name}`" in page and "backbone tiny" in page.lower() and "industrial-0 (0000" in page
        assert "nan" not in re.sub(r"[a-z]+nan|nan[a-z]+", "", page.lower())
    table = (out / "method.tex").read_text()
    assert table.count(r"\\") == 1 + 2 * 6 and r"\pm" in table and "nan" not in table
    values = pd.read_csv(out / "method.csv").groupby(["domain", "metric"])["value"]
    bold = sorted(re.findall(r"\\mathbf\{([\d.]+)\}", table))
    assert sorted(set(bold)) == sorted({f"{best:.1f}" for best in values.max().dropna()})
    assert "without deep prompts (industrial)" in (out / "method.md").read_text()  # there is no such run

    def never(*arguments, **options):
        raise AssertionError("computed again")

    for target in ("headlens.heads.ablate", "headlens.heads.importance", "headlens.figures.context.evaluate"):
        monkeypatch.setattr(target, never)
    monkeypatch.setattr("headlens.figures.gallery.attribute", never)
    again = FigureContext(domains, out / "data")
    several = ["importance", "ablation", "gallery", "method"]
    before = {path: path.read_bytes() for name in several for path in found[name]}
    all_made(again, out, several)
    assert before == {path: path.read_bytes() for path in before}  # the same bytes


def test_gradients_are_taken_of_the_first_runs_and_the_caption_says_of_which(context, tmp_path, monkeypatch):
    monkeypatch.setattr("headlens.figures.importance.FIRST", 1)
    out = tmp_path / "figures"
    all_made(context, out, ["importance"])
    page = (out / "importance.md").read_text()
    assert "means over the first 1 of 2 industrial runs and the first 1 of 2 medical runs" in page
    assert "| runs | industrial-0 (0000" in page and "industrial-1" not in page


def test_what_was_made_of_something_else_is_computed_again(context, domains, made, tmp_path):
    domain = domains[0]
    run = domain.run
    first = context.importance(domain, run)
    other = replace(made(str(run.folder), 5), folder=run.folder)  # trained again, under the same name
    again = FigureContext(domains, context.cache.folder)
    changed = again.importance(domain, other)
    assert not again.cache.reused and not np.allclose(first["importance"], changed["importance"])
    fewer = FigureContext(domains, context.cache.folder, batch=4)
    fewer.importance(domain, other)
    assert not fewer.cache.reused
    last = FigureContext(domains, context.cache.folder, batch=4)
    pd.testing.assert_frame_equal(last.importance(domain, other), fewer.importance(domain, other))
    assert len(last.cache.reused) == 1
    damaged = context.cache.folder / f"importance-industrial-{run.folder.name}.parquet"
    damaged.write_bytes(damaged.read_bytes()[:100])
    assert len(FigureContext(domains, context.cache.folder, batch=4).importance(domain, other)) == len(changed)
    fresh = FigureContext(domains, context.cache.folder, batch=4, fresh=True)
    fresh.importance(domain, other)
    assert not fresh.cache.reused


def test_an_interrupted_sweep_goes_on(domains, tmp_path, monkeypatch):
    module = importlib.import_module("headlens.heads.importance")  # the function has its name
    measured, calls = module.gate_gradients, []

    def stopped(*arguments, **options):
        calls.append(0)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return measured(*arguments, **options)

    monkeypatch.setattr(module, "gate_gradients", stopped)
    with pytest.raises(KeyboardInterrupt):
        FigureContext(domains, tmp_path, batch=2).importance(domains[0], domains[0].run)
    assert len(list(tmp_path.glob("*.parts/part-*"))) == 1
    FigureContext(domains, tmp_path, batch=2).importance(domains[0], domains[0].run)
    assert len(calls) == 3 and not list(tmp_path.glob("*.parts"))


def test_a_figure_is_not_written_over_by_one_of_something_else(alone, made, tmp_path):
    first = all_made(alone, tmp_path, ["weights"])["weights"]
    before = {path: path.read_bytes() for path in first}
    other = grouped([made("industrial-0", 7)])  # another run of that name
    for changed in (FigureContext([replace(alone.domains["industrial"], runs=other)]), FigureContext([*alone], seed=3)):
        ((_, refused),) = make(changed, tmp_path, ["weights"])
        assert "belongs to other runs, images or settings" in str(refused)
    assert before == {path: path.read_bytes() for path in before}
    (tmp_path / "joint.md").write_text("my notes")
    ((_, refused),) = make(alone, tmp_path, ["joint"])
    assert "joint.md" in str(refused) and (tmp_path / "joint.md").read_text() == "my notes"
    all_made(alone, tmp_path, ["weights"])


def test_images_that_cannot_be_read_are_in_the_caption_also_when_kept(domains, tmp_path):
    class Torn(CachedImages):
        def pixels(self, i):
            if self.records[i].name == domains[0].images.records[1].name:
                raise DataError("torn")
            return super().pixels(i)

    torn = replace(domains[0], images=Torn(domains[0].images), subset=Torn(domains[0].subset))
    for _ in range(2):
        context = FigureContext([torn], tmp_path / "data")
        assert isinstance(all_made(context, tmp_path, ["joint"])["joint"], list)
        assert "1 unread and left out" in (tmp_path / "joint.md").read_text()
        assert context.left_out == {"procedural:industrial": {torn.images.records[1].name: "torn"}}


def test_a_run_counts_once(made):
    with pytest.raises(ConfigError, match="industrial-1 are the same run; a run counts once"):
        grouped([made("industrial-0", 3), made("industrial-1", 3)])


def test_what_cannot_be_made_says_why_and_the_others_are_made(alone, made, tmp_path):
    found = {spec.name: made for spec, made in make(alone, tmp_path, ["difference", "joint"])}
    assert "takes two domains or more; here is industrial" in str(found["difference"])
    assert isinstance(found["joint"], list)
    assert "±" not in (tmp_path / "joint.md").read_text().partition("In percent")[2].partition("|")[0].replace(
        "± 95 %", ""
    )  # one run has no interval
    weightless = grouped([made("industrial-plain", head_weights="none")])
    plain = FigureContext([replace(alone.domains["industrial"], runs=weightless)])
    found = {spec.name: made for spec, made in make(plain, tmp_path, ["weights", "layers"])}
    assert "has learned no head weights" in str(found["weights"]) and isinstance(found["layers"], list)


class Unlabelled(CachedImages):
    """The same images, and nobody says what is wrong with them."""

    has_masks = False

    def __init__(self, own):
        super().__init__(own)
        self.records = [replace(record, anomalous=None, mask=None) for record in own.records]

    def pixels(self, i):
        return replace(super().pixels(i), mask=None)


def test_without_labels_curves_are_values_where_there_are_values(domains):
    from headlens.figures.ablation import SPEC, _grown, label_of, metrics_of

    domain = replace(domains[0], subset=Unlabelled(domains[0].subset))
    context = FigureContext([domain])
    metrics = metrics_of(context)
    assert metrics == ("joint_margin", "anomaly_map")
    own = _grown(context, domain, metrics).groupby("metric")
    margin, change = own.get_group("joint_margin"), own.get_group("anomaly_map")
    whole = heads.ablate(domain.run.detector, domain.subset, metrics=(), replicates=1, size=domain.run.size).summary
    expected = whole[(whole["metric"] == "joint_margin") & (whole["category"] == "mean")]["baseline"].iloc[0]
    assert np.allclose(margin["baseline"], expected) and abs(expected) > 0.01
    assert ((margin["low"] <= margin["effect"] + 1e-9) & (margin["effect"] <= margin["high"] + 1e-9)).all()
    assert (change["baseline"] == 0).all() and label_of("anomaly_map").startswith("change of ")
    assert f"all heads {expected:.1f}" in SPEC.draw(context).caption


def test_attributions_are_made_again_when_a_default_has_changed(alone, tmp_path, monkeypatch):
    from headlens.figures import gallery

    (domain,), subset = alone, 1
    shown = examples(alone.domains["industrial"].subset, subset, domain.run.size)
    monkeypatch.setattr(gallery, "METHODS", {"occlusion": ("joint_margin", {})})
    for default, reused in ((4, 0), (4, 1), (2, 0)):
        monkeypatch.setitem(pixels.occlusion.__kwdefaults__, "cells", default)
        again = FigureContext([domain], tmp_path)
        gallery._attributed(again, domain, shown)
        assert len(again.cache.reused) == reused


def test_the_joint_figure_says_what_each_domain_does(domains, made):
    runs = grouped([made("medical-top", alpha=0.2, pool="top", top=0.1)])
    caption = joint.SPEC.draw(FigureContext([domains[0], replace(domains[1], runs=runs)])).caption
    assert (
        "α maximum of the map, α = 0.5 (industrial); mean of the highest 10 % of the map, α = 0.2 (medical)" in caption
    )
    assert "maximum of the map, α = 0.5. Above" in joint.SPEC.draw(FigureContext(domains)).caption


def test_names_are_checked():
    assert [spec.name for spec in chosen()] == NAMES
    with pytest.raises(ConfigError, match=r"unknown figure 'wieghts'; available: weights, difference"):
        chosen(["layers", "wieghts"])


def test_runs_are_grouped_by_what_they_lack(made):
    runs = [
        made("a-0"),
        made("a-1", 1),
        made("a-plain", head_weights="none", alpha=0.0),
        made("a-shallow", deep=0),
        made("a-both", deep=0, head_weights="none"),
        made("a-taps", taps=(1,)),
        made("b-0", 2),
        made("a-read", 3, alpha=0.2),
    ]
    group = grouped(runs)
    assert [run.folder.name for run in group.whole] == ["a-0", "a-1", "a-read"]
    assert {part: [run.folder.name for run in own] for part, own in group.without.items()} == {
        "head weights": ["a-plain"],
        "deep prompts": ["a-shallow"],
    }
    assert group.left_out == {
        "a-both": "differs from a-0 in deep, head_weights",
        "a-taps": "differs from a-0 in taps",
        "b-0": "differs from a-0 in trained_on",
    }
    with pytest.raises(ConfigError, match="two runs are called 'a-0'"):
        grouped([made("a-0"), made("x/a-0", 1)])
    with pytest.raises(ConfigError, match="no run"):
        grouped([])


def test_runs_of_other_methods_have_their_place_beside_the_method(made, other):
    group = grouped(
        [made("a-0"), other("april-0"), other("april-1", 1), other("april-tap", 2, taps=(3,)), other("far", 3, "b")]
    )
    names = {method: [run.folder.name for run in runs] for method, runs in group.methods.items()}
    assert names == {"headclip": ["a-0"], "april-gan": ["april-0", "april-1"]}
    assert [run.folder.name for run in group.every] == ["a-0"] and len(group.placed) == 3
    assert group.left_out["april-tap"] == "differs from april-0 in taps"
    assert "trained_on" in group.left_out["far"]
    with pytest.raises(ConfigError, match="are the same run"):
        grouped([made("a-0"), other("april-0"), other("april-copy")])


def test_importance_and_weights_are_correlated_run_by_run(context):
    from headlens.figures.importance import _joined, correlations

    domain = context.domains["industrial"]
    run = domain.run
    rows = _joined(context, domain).query("run == @run.folder.name").set_index(["stream", "layer", "head"])
    slopes = context.importance(domain, run).set_index(["stream", "layer", "head"])["importance"].loc[rows.index]
    learned = [float(run.detector.head_weights()[stream][layer, head]) for stream, layer, head in rows.index]
    found = correlations(rows.reset_index())
    assert np.isclose(found["weight"], stats.spearmanr(learned, slopes).statistic)
    assert np.isclose(found["unit"], stats.spearmanr(learned, slopes / np.abs(learned)).statistic)
    layers = rows.index.get_level_values("layer")
    each = [stats.spearmanr(np.array(learned)[layers == at], slopes[layers == at]).statistic for at in set(layers)]
    assert np.isclose(found["within"], np.mean(each))
    caption = importance.SPEC.draw(context).caption
    assert f"In industrial: {with_interval(_of_runs(context, domain)['weight'])} (" in caption


def _of_runs(context, domain):
    from headlens.figures.importance import _joined, correlations

    return _joined(context, domain).groupby("run")[["layer", "weight", "importance"]].apply(correlations)


def test_differences_of_the_method_are_paired_by_seed(context):
    from headlens.figures.method import _measured

    domain = context.domains["medical"]
    frame = _measured(context, domain).set_index(["row", "metric"])
    plain = domain.runs.without["head weights"]
    whole = {run.training.seed: context.evaluation(domain, run).table("joint").frame for run in domain.runs.whole}
    differences = []
    for run in plain:
        own = context.evaluation(domain, run).table("joint").frame
        auroc = [
            frame.query("metric == 'image_auroc' and category != 'mean'")["value"].mean()
            for frame in (own, whole[run.training.seed])
        ]
        differences.append(100 * (auroc[0] - auroc[1]))
    row = frame.loc["without LHW", "image_auroc"]
    assert np.allclose((row["difference"], row["difference_interval"]), mean_and_interval(differences))
    assert frame.loc[("without JAS", "pixel_auroc"), "difference"] == 0  # the same maps


def test_mixtures_meet_the_parts_and_the_joint_score(context):
    from headlens.figures.joint import _mixed

    domain = context.domains["industrial"]
    run = domain.run
    frame = _mixed(context, domain).query("run == @run.folder.name").set_index("alpha")["auroc"]
    evaluation = context.evaluation(domain, run)
    for alpha, score in ((0.0, "image"), (0.5, "joint"), (1.0, "map")):
        rows = evaluation.frame
        own = rows[(rows["score"] == score) & (rows["metric"] == "auroc")]["value"].mean()
        assert np.isclose(frame[alpha], 100 * own)


def test_few_images_are_the_first_of_each_category(domains):
    images = domains[0].images
    subset = first_of_each(images, 3)
    assert [record.name for record in subset.records] == [
        record.name for record in images.records if not record.name.endswith("003")
    ]
    assert len(first_of_each(images, 100)) == len(images)
    anomalous = first_of_each(images.where(lambda record: bool(record.anomalous)), 2)
    assert len(anomalous) == 4  # no normal ones: anomalous ones take their place
    assert isinstance(subset, CachedImages) and subset.fingerprint != images.fingerprint
    assert torch.equal(subset.pixels(1).image, subset.pixels(1).image)


def test_examples_are_the_first_flawed_of_each_category(domains):
    images = domains[1].images
    found = examples(images, 2, 16)
    assert [one.record.category for one in found] == list(images.categories)
    assert all(one.record.anomalous and one.mask.shape == (16, 16) for one in found)
    with pytest.raises(HeadlensError, match="no image is known to be anomalous"):
        examples(images.where(lambda record: not record.anomalous), 2, 16)
