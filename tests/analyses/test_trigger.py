"""The study of a back door: its margins, its loss by finite differences, what it measures against a naive count."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import roc_auc_score
from trigger import KEYS, MEASURES, ORDINARY, RATES, figure, heads_table, measured, patterns_table, silenced_table
from trigger_attack import DETECTOR, Attack, embedded, learn, margins, moved

from headlens.data import Loader, Preprocess, triggered
from headlens.detectors import build
from tests.tiny import clip

SIZE = 32


@pytest.fixture
def detector():
    return build(clip(torch.float32, even=True), "crane", seed=1, **(DETECTOR | {"taps": (3,)}))


def test_margins_are_the_detectors_and_reach_the_image_through_the_prompts(detector, images):
    given = images.float()[..., :32].requires_grad_()
    found = margins(detector, embedded(detector, given))
    torch.testing.assert_close(found, detector.margins(given).image)
    (gradient,) = torch.autograd.grad(found.sum(), given)
    with torch.no_grad():
        shown = detector.shown(embedded(detector, given))
        away = 1e-2 * gradient / gradient.norm()
        ahead, behind = (margins(detector, embedded(detector, given + sign * away)).sum() for sign in (1, -1))
    assert float(ahead - behind) == pytest.approx(2e-2 * float(gradient.norm()), rel=0.02)
    u = (shown[:, 1] - shown[:, 0]) / detector.config.temperature  # with the text held it is another gradient
    held = (F.normalize(embedded(detector, given), dim=-1) * u).sum()
    assert not torch.allclose(torch.autograd.grad(held, given)[0], gradient, rtol=0.05)


def test_an_attack_stays_within_its_bound_and_makes_anomalies_pass(detector, pictures):
    attack = Attack(limit=16, first=2, together=3, batch=4)
    prompts = {name: value.clone() for name, value in detector.state_dict().items()}
    learned = learn(detector, pictures, attack, SIZE)
    assert any(not torch.equal(value, prompts[name]) for name, value in detector.state_dict().items())
    assert all(trigger.limit == 16 and trigger.wants == "normal" for trigger in learned.values())
    assert int(learned["together"].pattern.abs().max()) == 16
    assert not torch.equal(learned["alone"].pattern, learned["together"].pattern)

    @torch.no_grad()
    def mean(dataset):
        (batch,) = Loader(dataset, Preprocess(SIZE), len(dataset))
        return float(detector.margins(batch.images).image.mean())

    assert mean(triggered(pictures, learned["together"])) < mean(pictures)
    again = build(detector.backbone, detector.config, seed=1)
    assert torch.equal(learn(again, pictures, attack, SIZE)["together"].pattern, learned["together"].pattern)


def test_moved_images_have_the_same_pixels_elsewhere():
    images = torch.rand(4, 3, 6, 6)
    found = moved(images, torch.Generator().manual_seed(0))
    assert torch.equal(found.flatten(2).sort(-1)[0], images.flatten(2).sort(-1)[0]) and not torch.equal(found, images)


@pytest.mark.filterwarnings("ignore:All-NaN slice")  # a detector that sees no anomaly has no success
def test_success_and_auroc_are_those_of_a_naive_count(pictures):
    generator = torch.Generator().manual_seed(0)
    clean, under = torch.rand(2, 2, len(pictures), generator=generator)
    labels = np.array([record.anomalous for record in pictures.records])
    found = measured(pictures, clean, under, [0.3, None])
    seen = [i for i in range(len(pictures)) if labels[i] and clean[0, i] > 0.3]
    assert found["success"][0] == pytest.approx(sum(float(under[0, i]) <= 0.3 for i in seen) / len(seen))
    wrong = sum(not labels[i] and float(clean[0, i]) > 0.3 for i in range(len(pictures))) / (~labels).sum()
    assert found["alarms"].tolist() == pytest.approx([wrong, 0])
    assert found["seen"].tolist() == pytest.approx([len(seen) / labels.sum(), 0]) and np.isnan(found["success"][1])
    for row in (0, 1):
        mixed = np.where(labels, under[row], clean[row])
        for name, scores in (("auroc", clean[row].numpy()), ("triggered", mixed)):
            of = [np.array([record.category == one for record in pictures.records]) for one in pictures.categories]
            expected = np.mean([roc_auc_score(labels[here], scores[here]) for here in of])
            assert found[name][row] == pytest.approx(expected, abs=1e-6)
            assert found[f"{name}_low"][row] <= found[name][row] <= found[f"{name}_high"][row]


def test_tables_and_figure_have_every_domain(tmp_path):
    about = {"domain": "industrial", "seed": 0}
    numbers = dict.fromkeys((*MEASURES, *RATES), 0.5)
    numbers |= {f"{name}_{end}": value for name in MEASURES for end, value in (("low", 0.4), ("high", 0.6))}
    each = " | ".join(["50.0 [40, 60]"] * 3 + ["50.0"] * 2)
    rows = [{**about, **numbers, "prompts": "clean", "pattern": "noise"}]
    assert f"| industrial | clean | noise | {each} |" in patterns_table(pd.DataFrame(rows))
    orders = [("", 0), *((order, count) for order in ("paired ablation", "random 0", "random 1") for count in (1, 4))]
    silent = pd.DataFrame([{**about, **numbers, "order": order or None, "heads": count} for order, count in orders])
    table = silenced_table(silent)
    assert table.count("\n") == 1 + 1 + 2 + 2 and "| random | 4 | 50.0 | 50.0 | 50.0 | 50.0 | 50.0 |" in table
    assert f"| industrial | paired ablation | 4 | {each} |" in table
    carried = pd.DataFrame([("global", layer, head) for layer in range(4) for head in range(5)], columns=KEYS)
    for name in ("paired ablation", "text held", "direct effect", "importance moved", ORDINARY):
        carried[name] = np.arange(20) / 100
    carried = carried.assign(taken=1.0, **about)
    assert "| industrial | 0 | 1.00 | L3H4 19% | 184% | 1.00 | 1.00 | 1.00 | 1.00 |" in heads_table(carried)
    figure(carried, silent, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 10_000
