"""Hooks around a detector, of both kinds and at both towers: every verb calls them, or refuses and names them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch

from headlens import attribution, heads
from headlens.attribution.measures import with_random_blocks
from headlens.backbone.hooks import hooked
from headlens.detectors.precision import at_precision
from headlens.detectors.stages import TrainingConfig
from headlens.errors import ConfigError
from headlens.heads.importance import gate_gradients
from headlens.lab.view import HeadView
from headlens.predict import predict
from headlens.training.evaluation import evaluate
from headlens.training.trainer import train

HEEDING = ("predict", "eval", "importance", "gate_gradients", "legrad", "integrated_gradients")
REFUSING = (
    "ablate",
    "capture",
    "contributions",
    "map_parts",
    "map_agreement",
    "name",
    "head_maps",
    "head target",
    "head view",
    "screen",
    "transfer",
)


def verbs(detector, pictures, folder) -> dict[str, Callable[[], np.ndarray]]:
    """Every way to ask a detector about pictures, as numbers."""
    few, image = pictures.where(lambda record: record.category == "nut"), pictures.pixels(0).image
    one = heads.single_heads(heads.heads_of(detector, [1], [0]))
    brief = {"keep": [1], "random": 0, "shuffles": 0, "metrics": ("image_auroc",), "metric": "image_auroc", "size": 32}

    def attributed(method: str, target: str = "image_margin", **options) -> np.ndarray:
        return attribution.attribute(detector, image, method, target, size=32, **options).map

    def importance() -> heads.Importance:
        return heads.importance(detector, few, metrics=["image_margin"], size=32)

    return {
        "predict": lambda: predict(detector, image, size=32).anomaly_map.numpy(),
        "eval": lambda: evaluate(detector, few, size=32).scores[["image", "map", "joint"]].to_numpy(float),
        "importance": lambda: importance().frame["value"].to_numpy(),
        "gate_gradients": lambda: gate_gradients(detector, batch(detector))[1]["global"].numpy(),
        "legrad": lambda: attributed("legrad"),
        "integrated_gradients": lambda: attributed("integrated_gradients", steps=2),
        "ablate": lambda: heads.ablate(detector, few, one, metrics=(), size=32).frame["baseline"].to_numpy(),
        "capture": lambda: heads.capture(detector, few, folder, size=32).frame["value"].to_numpy(),
        "contributions": lambda: heads.contributions(detector, few, size=32).frame["value"].to_numpy(),
        "map_parts": lambda: heads.map_parts(detector, image, size=32).margin,
        "map_agreement": lambda: heads.map_agreement(detector, detector, few, size=32).frame["others"].to_numpy(),
        "name": lambda: heads.name_heads(detector, few, size=32).frame["variance"].to_numpy(),
        "head_maps": lambda: heads.head_maps(detector, batch(detector))[3]["local"].numpy(),
        "head target": lambda: attributed("integrated_gradients", "L1H0", steps=2),
        "head view": lambda: HeadView({"here": detector}, image, size=32).contribution("here", 0, "L1H0"),
        "screen": lambda: heads.screen(detector, few, importance(), 1, 0, size=32).frame["magnitude"].to_numpy(),
        "transfer": lambda: heads.transfer(detector, few, detector, **brief).frame["baseline"].to_numpy(),
    }


def batch(detector) -> torch.Tensor:
    numbers = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(5))
    return numbers.to(detector.backbone.vision.proj)


@contextmanager
def hook_point(tower) -> Iterator[str]:
    with tower.hooks(
        [("blocks.2.hook_resid_post", lambda tensor, hook: tensor * torch.linspace(0, 2, tensor.shape[-1]))]
    ):
        yield "blocks.2.hook_resid_post"


@contextmanager
def torch_hook(tower) -> Iterator[str]:
    """On a part of a block, plain torch."""
    handle = tower.blocks[2].mlp.register_forward_hook(lambda module, given, out: 5 * out.flip(-1))
    yield "blocks.2.mlp"
    handle.remove()


@contextmanager
def another_forward(tower) -> Iterator[str]:
    """What some libraries do instead of hooks."""
    mlp = tower.blocks[2].mlp
    before = mlp.forward
    mlp.forward = lambda x: 5 * before(x).flip(-1)
    yield "blocks.2.mlp"
    del mlp.forward


KINDS = [hook_point, torch_hook, another_forward]


@pytest.mark.parametrize("around", KINDS)
def test_every_verb_calls_hooks_at_the_image_tower_or_refuses(around, make, pictures, tmp_path):
    detector = make(torch.float32)
    ask = verbs(detector, pictures, tmp_path)
    assert ask.keys() == {*HEEDING, *REFUSING}
    plain = {name: ask[name]() for name in HEEDING}
    with around(detector.backbone.vision) as point:
        for name in HEEDING:
            assert float(np.abs(ask[name]() - plain[name]).max()) > 1e-3 * float(np.abs(plain[name]).max()), name
        for name in REFUSING:
            with pytest.raises(ConfigError, match=rf"not call the hook at vision\.{point}"):
                ask[name]()
    assert not hooked(detector.backbone.vision)
    for name in HEEDING:  # nothing of it stays
        np.testing.assert_array_equal(ask[name](), plain[name], err_msg=name)


@pytest.mark.parametrize("around", KINDS[:2])
@pytest.mark.parametrize("name", ["predict", "importance", "ablate", "map_parts"])
def test_hooks_at_the_text_tower_are_called(around, name, make, pictures, tmp_path):
    """Though its answers are kept for as long as nothing changes."""
    detector = make(torch.float32)
    ask = verbs(detector, pictures, tmp_path)[name]
    plain = ask()
    with around(detector.backbone.text):
        assert float(np.abs(ask() - plain).max()) > 1e-3 * float(np.abs(plain).max())
    np.testing.assert_array_equal(ask(), plain)


def test_what_a_hook_changes_is_what_an_independent_forward_says(detector, images):
    """Twice what a head writes, by a hook and by a gate."""
    gates = {"global": torch.ones(1, 4, 4, dtype=torch.float64)}
    gates["global"][0, 1, 2] = 2

    def twice(z: torch.Tensor, hook: object) -> torch.Tensor:
        return torch.cat([z[:, :, :2], 2 * z[:, :, 2:3], z[:, :, 3:]], 2)

    with detector.backbone.vision.hooks([("blocks.1.attn.hook_z", twice)]):
        by_hook = detector.margins(images)
    by_gate = detector.margins(images, gates=gates)
    torch.testing.assert_close(by_hook.image, by_gate.image)
    for tap, patches in by_gate.taps.items():
        torch.testing.assert_close(by_hook.taps[tap], patches)


def test_a_hook_at_the_detector_itself(make, pictures, tmp_path):
    detector = make(torch.float32)
    ask = verbs(detector, pictures, tmp_path)
    handle = detector.register_forward_hook(lambda *_: None)
    ask["predict"]()
    for name in ("importance", "legrad", *REFUSING):
        with pytest.raises(ConfigError, match="the hook at detector: remove it, or take predict or eval"):
            ask[name]()
    handle.remove()


@pytest.mark.parametrize("where", ["blocks.1.mlp.fc", "blocks.3.mlp.proj", "ln_final"])
def test_a_hook_where_no_forward_would_call_it_is_refused(where, make, images):
    for way in ("hook", "forward"):
        detector = make()
        module = detector.backbone.vision.get_submodule(where)
        if way == "hook":
            module.register_forward_hook(lambda *_: None)
        else:
            module.forward = torch.zeros_like
        with pytest.raises(ConfigError, match=f"a forward takes the weights of {where}"):
            detector(images)


def test_copies_and_kept_parts_are_refused(make, pictures, tmp_path):
    detector = make(torch.float32)
    with hook_point(detector.backbone.vision):
        for asked in (
            lambda: heads.importance(detector, pictures, size=32, out=tmp_path),
            lambda: heads.importance(detector, pictures, size=32, precision="bfloat16"),
            lambda: evaluate(detector, pictures, size=32, precision="bfloat16"),
            lambda: with_random_blocks(detector),
            lambda: train(detector, pictures, TrainingConfig(), tmp_path / "run", cpu=True),
        ):
            with pytest.raises(ConfigError, match=r"the hook at vision\.blocks\.2\.hook_resid_post"):
                asked()
        with at_precision(detector, "float32") as same:  # no copy
            assert same is detector
    assert not any(tmp_path.iterdir())


def test_a_result_says_which_hooks_it_was_made_under(make, pictures):
    detector = make(torch.float32)
    few = pictures.where(lambda record: record.category == "nut")
    with hook_point(detector.backbone.vision):
        made = heads.importance(detector, few, size=32).provenance
    assert made["hooks"] == ["vision.blocks.2.hook_resid_post"]
    assert "hooks" not in heads.importance(detector, few, size=32).provenance
