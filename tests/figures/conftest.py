"""Tiny detectors with trained head weights as runs of two domains, seeds and all, and painted images for them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from headlens import data
from headlens.backbone import Backbone
from headlens.detectors.methods.headclip import HeadCLIP
from headlens.detectors.methods.registry import build, preset
from headlens.detectors.stages import TrainingConfig
from headlens.devices import one_thread
from headlens.figures import Domain, FigureContext, grouped
from headlens.training.run import Run
from tests.tiny import SMALL
from tests.tiny import clip as tiny_clip


@pytest.fixture(autouse=True, scope="session")
def threads():
    with one_thread():
        yield


@pytest.fixture(scope="session")
def clip() -> Backbone:
    return tiny_clip(torch.float32)


@pytest.fixture(scope="session")
def made(clip):
    """Builds a run: of which name, seed and config."""

    def run(name: str, seed: int = 0, **changes) -> Run:
        detector = HeadCLIP(clip, preset("headclip", **(SMALL | changes)), seed=seed)
        detector.size = 32
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for raw in detector.weights.raw.values() if detector.weights else ():
                raw.add_(torch.rand(raw.shape, generator=generator) - 0.5)
        card = {"trained_on": name.split("-")[0], "images": 4, "threshold": 0.5, "model_sha256": f"{seed}" * 64}
        return Run(Path(name), detector.requires_grad_(False), TrainingConfig(size=32, seed=seed), card)

    return run


@pytest.fixture(scope="session")
def other(clip):
    """Builds a run of APRIL-GAN, which has no local heads: of which name, seed, domain and config."""

    def run(name: str, seed: int = 0, trained_on: str = "a", **changes) -> Run:
        detector = build(clip, "april-gan", seed, **{"taps": (1, 3), **changes})
        card = {"trained_on": trained_on, "images": 4, "threshold": 0.5, "model_sha256": "1" * 64}
        return Run(Path(name), detector.requires_grad_(False), TrainingConfig(size=32, seed=seed), card)

    return run


@pytest.fixture(scope="session")
def domains(made, other) -> list[Domain]:
    found = []
    for number, name in enumerate(("industrial", "medical")):
        seeds = (10 * number, 10 * number + 1)
        runs = [made(f"{name}-{seed}", seed) for seed in seeds]
        runs += [made(f"{name}-plain-{seed}", seed, head_weights="none", alpha=0.0) for seed in seeds]
        runs += [other(f"{name}-april-{seed}", seed, trained_on=name) for seed in seeds]
        images = data.open(f"procedural:{name}", per_category=4, size=32)
        two = images.where(lambda record, own=images.categories[:2]: record.category in own)
        found.append(Domain.of(name, grouped(runs), two, 2))
    return found


@pytest.fixture
def context(domains, tmp_path) -> FigureContext:
    return FigureContext(domains, tmp_path / "figures" / "data")


@pytest.fixture
def alone(domains) -> FigureContext:
    """One domain with one run, nothing else, and nothing kept."""
    domain = domains[0]
    return FigureContext([replace(domain, runs=grouped(domain.runs.whole[:1]))])
