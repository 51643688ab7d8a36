"""OFF-CLIP's term about normal images: against loops, as a part of any method's training, and its sentences."""

from __future__ import annotations

import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from headlens import data
from headlens.detectors import TrainingConfig, build
from headlens.detectors.losses import off_diagonal, off_diagonal_of_margins, with_off_diagonal
from headlens.detectors.stages import Answers
from headlens.errors import ConfigError
from headlens.training.run import load_run
from headlens.training.trainer import train
from tests.backbone.models import close, random_clip
from tests.methods.cases import CASES, images
from tests.tiny import SENTENCES, SMALL, clip

TAKES = ("headclip", "crane", "aa-clip", "adaclip", "kanoclip", "c2p-clip")


def answers(*labels: int) -> Answers:
    unmasked = torch.zeros(len(labels), dtype=torch.bool)
    return Answers(torch.tensor(labels), torch.zeros(len(labels), 32, 40, dtype=torch.bool), unmasked)


def by_loops(scores: torch.Tensor, sentences: list[int]) -> float:
    """Sentence by sentence, image by image."""
    exp, size = scores.double().exp(), len(sentences)
    groups: dict[bool, list[float]] = {}
    for i in range(size):
        right = [j for j in range(size) if sentences[j] == sentences[i]]
        row = sum(exp[i, j] for j in right) / sum(exp[i, j] for j in range(size))
        column = sum(exp[j, i] for j in right) / sum(exp[j, i] for j in range(size))
        groups.setdefault(sentences[i] == 0, []).append(float(-(row.log() + column.log()) / 2))
    return sum(sum(each) / len(each) for each in groups.values())


@given(st.lists(st.integers(0, 3), min_size=1, max_size=7), st.integers(0, 2**16), st.floats(0.1, 30))
def test_the_loss_is_its_formula(sentences, seed, scale):
    scores = scale * torch.randn(len(sentences), len(sentences), generator=torch.Generator().manual_seed(seed)).double()
    found, expected = off_diagonal(scores, torch.tensor(sentences)), by_loops(scores, sentences)
    assert float(found) == pytest.approx(expected, abs=1e-9)


def test_normal_images_are_not_pushed_from_each_others_sentences():
    """As CLIP's loss does, which takes the diagonal alone for right."""
    scores = torch.zeros(3, 3, requires_grad=True)
    sentences = torch.tensor([0, 0, 1])
    ours = torch.autograd.grad(off_diagonal(scores, sentences), scores)[0]
    theirs = torch.autograd.grad(F.cross_entropy(scores, torch.arange(3)), scores)[0]
    assert ours[0, 1] < 0 < theirs[0, 1] and ours[0, 2] > 0 and ours[2, 2] < 0


def test_margins_are_scores_with_one_sentence_for_each_state():
    margins, labels = torch.tensor([1.5, -2.0, 0.3, 9.0, -0.7]).double(), [0, 1, 1, -1, 0]
    known = [i for i, label in enumerate(labels) if label >= 0]
    scores = torch.stack([(labels[j] - 0.5) * margins[known] for j in known], 1)
    expected = by_loops(scores, [labels[i] for i in known])
    assert float(off_diagonal_of_margins(margins, answers(*labels))) == pytest.approx(expected, abs=1e-12)
    assert float(off_diagonal_of_margins(margins[:1], answers(-1))) == 0


@pytest.mark.parametrize("case", TAKES)
def test_a_method_takes_it_next_to_its_losses(case):
    detector = CASES[case]().requires_grad_(True)
    plain = detector.stages(TrainingConfig())[-1]
    stage = with_off_diagonal([plain], 0.5)[0]
    seen, known = stage.see(images(), ["wood"] * 3), answers(0, 1, 0)
    terms, before = stage.loss(seen, known), plain.loss(seen, known)
    assert terms.keys() - before.keys() == {"off_diagonal"} and stage.weights["off_diagonal"] == 0.5
    close(terms["off_diagonal"], off_diagonal_of_margins(stage.margins(seen), known), 0.0)
    if case != "aa-clip":  # which trains against both prompts, and scores against one
        image = detector.margins(images(), ["wood"] * 3).image
        assert torch.corrcoef(torch.stack([stage.margins(seen), image]).detach())[0, 1] > 0.99
    learned = [p for group in stage.groups for p in group["params"]]
    gradients = torch.autograd.grad(terms["off_diagonal"], learned, allow_unused=True)
    assert any(gradient is not None and gradient.abs().max() > 0 for gradient in gradients)


def test_a_run_says_that_it_was_trained_with_it(tmp_path):
    dataset = data.open("procedural:medical/aux", category="oct", per_category=8, size=32)
    detectors = [build(clip(torch.float32), "anomalyclip", **SMALL) for _ in range(2)]
    for detector, weight in zip(detectors, (0.0, 2.0), strict=True):
        config = TrainingConfig(epochs=3, batch=8, off_diagonal=weight, lr=0.01)
        train(detector, dataset, config, tmp_path / f"{weight}", cpu=True)
    log = pd.read_csv(tmp_path / "2.0" / "log.csv")
    assert log["off_diagonal"].iloc[-1] < log["off_diagonal"].iloc[0]
    assert "off_diagonal" not in pd.read_csv(tmp_path / "0.0" / "log.csv")
    assert load_run(tmp_path / "2.0", clip(torch.float32)).training.off_diagonal == 2.0
    assert not torch.equal(*(detector.text() for detector in detectors))


def test_what_cannot_take_it_says_so(tmp_path):
    detector = build(clip(), "april-gan", taps=(1, 3))
    with pytest.raises(ConfigError, match=r"off_diagonal is 1.0, but no stage of this method moves the margins"):
        train(detector, data.open("procedural:medical/aux"), TrainingConfig(off_diagonal=1.0), tmp_path)
    with pytest.raises(ConfigError, match=r"off_diagonal is -1.0; it is at least 0"):
        TrainingConfig(off_diagonal=-1.0)


@torch.no_grad()
def test_sentences_of_findings_are_open_clips():
    findings = ("a mass", "a cyst")
    said = random_clip(SENTENCES).encode_text(
        clip().tokenizer(["There is no finding.", *(f"There is {f}." for f in findings)])
    )
    unit = F.normalize(said, dim=-1)
    expected = torch.stack([unit[0], F.normalize(unit[1:].mean(0), dim=0)])
    hand = build(clip(), "clip", findings=findings, taps=(3,), local_start=1)
    close(hand.text(["object", "brain"]), expected.expand(2, -1, -1), 1e-12)
    learned = build(clip(), "headclip", findings=findings, **SMALL | {"context": 0, "deep": 0})
    close(learned.text()[0], expected, 1e-12)
    for wrong in ({"findings": ("",)}, {"findings": findings, "class_aware": True}):
        with pytest.raises(ConfigError, match="findings is"):
            build(clip(), "clip", **wrong)
