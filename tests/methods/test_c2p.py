"""C2P-CLIP against its formula, written down on open_clip's modules: head, LoRA, losses; and what has no map."""

from __future__ import annotations

from copy import deepcopy

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from open_clip.model import CLIP
from sklearn.metrics import accuracy_score, average_precision_score

from headlens import data, evaluate, heads, lab, predict
from headlens.attribution import attribute
from headlens.attribution.measures import with_random_blocks
from headlens.baselines import LocalContrast
from headlens.detectors import C2PConfig, Detector, LinearHead, TrainingConfig, build
from headlens.detectors.losses import caption_contrast
from headlens.detectors.stages import Answers
from headlens.errors import ConfigError, ShapeError
from headlens.metrics import accuracy
from headlens.training.run import load_run
from headlens.training.trainer import train
from tests.backbone.models import close, random_clip
from tests.methods.cases import images, made
from tests.tiny import SENTENCES, clip


def tuned(detector: Detector) -> CLIP:
    """open_clip with U D added to queries, keys, values and outputs of every block."""
    theirs = deepcopy(random_clip(SENTENCES))
    with torch.no_grad():
        for layer, block in enumerate(theirs.visual.transformer.resblocks):
            change = [up @ down for up, down in zip(detector.lora.up[layer], detector.lora.down[layer], strict=True)]
            block.attn.in_proj_weight += torch.cat(change[:3]).double()
            block.attn.out_proj.weight += change[3].double()
    return theirs


@torch.no_grad()
def test_a_score_is_the_published_formula():
    detector, given = made("c2p-clip", rank=2), images((32, 32))
    feature = F.normalize(tuned(detector).encode_image(given), dim=-1)
    logit = feature @ detector.head.weight[0].double() + detector.head.bias.double()
    found = detector(given)
    close(found.image_margin, logit, 1e-9)
    close(found.joint_score, torch.sigmoid(logit), 1e-9)
    plain = F.normalize(random_clip(SENTENCES).encode_image(given), dim=-1)
    assert (feature - plain).abs().max() > 0.01, "LoRA must do something"
    assert found.anomaly_map.shape == (3, 0, 0) and not found.has_map and found.tap_margins == {}


@torch.no_grad()
def test_heads_are_those_of_the_tuned_tower():
    """What a head writes is v W_O of the weights with LoRA in them, and its effect that of taking this away."""
    detector, theirs = made("c2p-clip", rank=2), random_clip(SENTENCES)
    width, head = theirs.visual.transformer.width, heads.Head("global", 2, 1)
    block = detector.backbone.vision.blocks[2]
    changed = (
        theirs.visual.transformer.resblocks[2].attn.out_proj.weight + detector.lora.up[2, 3] @ detector.lora.down[2, 3]
    )
    close(block.attn.W_O.flatten(0, 1), changed.T, 1e-12)
    shown = images((32, 32))
    without = detector.margins(shown, gates={"global": gates_without(detector, head)}).image
    d = width // block.attn.heads
    detector.lora.down[2, 3] *= 0  # the head's rows of W_O become 0 by a change of the base, in another detector
    base = detector._backbone[0].vision.blocks[2].attn.out.weight
    base.copy_(changed)
    base[:, head.head * d : (head.head + 1) * d] = 0
    close(detector.margins(shown).image, without, 1e-9)


def gates_without(detector: Detector, head: heads.Head) -> torch.Tensor:
    cfg = detector.backbone.vision.cfg
    gates = torch.ones(1, cfg.n_layers, cfg.n_heads, dtype=torch.float64)
    gates[:, head.layer, head.head] = 0
    return gates


@torch.no_grad()
def test_the_tuned_tower_is_made_again_only_where_something_changed():
    detector, clips = made("c2p-clip", rank=2), clip()
    first, base = detector.backbone, detector.backbone.base
    assert detector.backbone is first and first.text is base.text and first.vision.proj is base.vision.proj
    before = detector(images()).image_score
    detector.lora.up += 0.1
    assert detector.backbone is not first and not torch.equal(detector(images()).image_score, before)
    other = detector.on(detector.backbone)  # which is not tuned twice
    assert torch.equal(other(images()).image_score, detector(images()).image_score)
    assert build(clips, "c2p-clip", rank=0).backbone is clips
    assert not torch.equal(with_random_blocks(detector, 1)(images()).image_score, detector(images()).image_score)
    for name, weight in (("blocks.9.attn.out.weight", torch.eye(2)), ("blocks.0.attn.out.weight", torch.eye(2))):
        with pytest.raises(ShapeError, match=f"{name} of shape"):
            clips.with_image_weights({name: weight})


def test_the_losses_are_their_formulas():
    detector, given = (
        made("c2p-clip", rank=2, real="a", generated="b", caption="c").requires_grad_(True),
        images((32, 32)),
    )
    (stage,) = detector.stages(TrainingConfig())
    captions = ("a nut", "", "a nut", "lost")
    labels, unmasked = torch.tensor([0, 1, 1, -1]), torch.zeros(4).bool()
    answers = Answers(labels, torch.zeros(4, 1, 1).bool(), unmasked, captions=captions)
    given = torch.cat([given, given[:1] + 1])
    terms = stage.loss(stage.see(given, ["x"] * 4), answers)
    theirs, tokenizer = tuned(detector), clip().tokenizer
    features = F.normalize(theirs.encode_image(given), dim=-1)[:3]
    logits = features @ detector.head.weight[0].double() + detector.head.bias.double()
    expected = F.binary_cross_entropy_with_logits(logits, torch.tensor([0.0, 1.0, 1.0], dtype=torch.float64))
    close(terms["image"], expected, 1e-9)
    said = F.normalize(theirs.encode_text(tokenizer(["a nut, a", "c, b", "a nut, b"])), dim=-1)
    scores = features @ said.T / 0.07
    close(
        terms["captions"],
        (F.cross_entropy(scores, torch.arange(3)) + F.cross_entropy(scores.T, torch.arange(3))) / 2,
        1e-9,
    )
    assert stage.weights["captions"] == 1.0 and [g["lr"] for g in stage.groups] == [0.05, 1e-3]
    sum(terms.values()).backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in detector.parameters())


def test_images_of_one_caption_share_it():
    generator = torch.Generator().manual_seed(0)
    features, captions = (F.normalize(torch.randn(n, 6, generator=generator), dim=-1) for n in (5, 2))
    which, logits = torch.tensor([0, 1, 0, 0, 1]), features @ captions.T / 0.5
    of_images = sum(-logits[i, which[i]] + logits[i].exp().sum().log() for i in range(5)) / 5
    of_captions = 0.0
    for u in (0, 1):
        own = [i for i in range(5) if which[i] == u]
        of_captions += sum(-logits[i, u] + logits[:, u].exp().sum().log() for i in own) / len(own) / 2
    torch.testing.assert_close(caption_contrast(features, captions, which, 0.5), (of_images + of_captions) / 2)


@pytest.mark.parametrize("changes", [{"rank": 2}, {"rank": 0}, {"rank": 0, "head_weights": "free"}])
def test_a_training_moves_what_is_learned_and_its_run_gives_the_same_bits(changes, tmp_path):
    dataset = data.open("procedural:generated/aux", category="nearest", per_category=8, size=32)
    detector = build(clip(torch.float32), "c2p-clip", **changes)
    before = {name: tensor.clone() for name, tensor in detector.state_dict().items()}
    card = train(detector, dataset, TrainingConfig(epochs=4, batch=8), tmp_path / "run", cpu=True)
    assert {
        name for name, tensor in detector.state_dict().items() if not torch.equal(tensor, before[name])
    } == before.keys()
    log = pd.read_csv(tmp_path / "run" / "log.csv")
    assert log["image"].iloc[-1] < log["image"].iloc[0] and ("captions" in log) == (changes != {"rank": 0})
    assert 0 <= card["threshold"] <= 1 and card["trained_on"] == "procedural:generated/aux"
    run = load_run(tmp_path / "run", clip(torch.float32))
    assert torch.equal(run.detector(images().float()).joint_score, detector(images().float()).joint_score)
    assert run.detector.config == detector.config


def test_metrics_are_of_images_alone():
    detector = made("c2p-clip", rank=2)
    dataset = data.open("procedural:generated", per_category=6, size=32)
    result = evaluate(detector, dataset, size=32)
    assert result.scores["map"].isna().all() and set(result.frame["score"]) == {"image", "map", "joint"}
    table = result.table().frame
    for name, rows in result.scores.groupby("category"):
        values = table[(table["category"] == name) & (table["metric"].isin(["image_ap", "image_accuracy"]))]
        labels, scores = rows["anomalous"].astype(bool), rows["joint"]
        expected = [average_precision_score(labels, scores), accuracy_score(labels, scores > 0.5)]
        np.testing.assert_allclose(values["value"], expected, atol=1e-9)
    assert "there is no anomaly map" in " ".join(result.undefined())
    masked = data.open("procedural:industrial", category="screw", per_category=4, size=32)
    assert "pixel" not in set(evaluate(detector, masked, size=32).frame["score"])
    assert "accuracy" not in set(evaluate(LocalContrast(), masked, size=32).frame["metric"])


@pytest.mark.parametrize("threshold", [0.2, 0.5, 0.9])
def test_accuracy_is_scikit_learns(threshold):
    generator = torch.Generator().manual_seed(1)
    scores, labels = torch.rand(2, 40, generator=generator), torch.randint(2, (40,), generator=generator)
    expected = [accuracy_score(labels, row > threshold) for row in scores]
    np.testing.assert_allclose(accuracy(scores, labels, threshold), expected)
    assert accuracy(torch.zeros(0), torch.zeros(0), 0.5).isnan()


def test_what_needs_a_map_says_why_there_is_none(painted_small):
    detector, image = (
        made("c2p-clip", rank=0),
        data.open("procedural:generated", per_category=2, size=32).pixels(0).image,
    )
    said = "needs an anomaly map, and this detector reads none"
    for ask in (
        lambda: heads.map_parts(detector, image),
        lambda: heads.map_agreement(detector, detector, data.open("procedural:generated", per_category=2, size=32)),
        lambda: heads.prompt_parts(detector, image),
        lambda: attribute(detector, image, "edges", "map_margin"),
        lambda: lab.show(detector, [image]),
        lambda: predict(detector, image).plot(),
    ):
        with pytest.raises(ConfigError, match=said):
            ask()
    assert list(predict(detector, image).frame) == ["joint score", "image score", "image margin (logits)"]
    assert "map" not in predict(detector, image)._repr_html_()
    _, axes = attribute(detector, image, "input_x_gradient", "image_margin").plot()
    assert [ax.get_title().split(":")[0] for ax in axes] == ["image", "input x gradient"]


def test_a_linear_head_has_no_prompts():
    head = LinearHead(torch.ones(3), torch.tensor(2.0))
    assert head.prompts == head.shares(torch.ones(1, 3)) == {} and head.rows(5) is head and head.offset == 2


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"rank": -1}, "rank is -1"),
        ({"contrast": -0.5}, "contrast is -0.5"),
        ({"generated": "camera"}, "generated is 'camera'"),
        ({"temperature": 0.0}, "temperature is 0.0"),
        ({"head_weights": "some"}, "head_weights is 'some'"),
        ({"taps": (1,)}, "C2PConfig has no field 'taps'"),
    ],
)
def test_settings_that_make_no_detector_are_named(fields, said):
    with pytest.raises(ConfigError, match=said):
        build(clip(), "c2p-clip", **fields)


def test_what_was_published_is_the_default():
    detector = build(clip(), "c2p-clip")
    assert detector.decides_at == 0.5 and detector.scoring.unit == "probability" and C2PConfig().rank > 0
    assert abs(float(detector.head.weight.detach().std()) - 0.02) < 0.01 and float(detector.head.bias.detach()) == 0
    with pytest.raises(ConfigError, match=r"lr is 0\.5, but c2p-clip does not read it"):
        train(detector, data.open("procedural:generated"), TrainingConfig(lr=0.5), "nowhere")
