"""Every method and preset on a tiny CLIP of four blocks in float64: one line for each."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from headlens.backbone import Backbone
from headlens.detectors import Detector, build
from tests.methods.lens import LENS
from tests.tiny import clip

SIZES = [(32, 40), (32, 32)]
PLUS = "crane, second network"


class Network(torch.nn.Module):
    """A random network that has features of 8 x 8 pixels, as DINOv2 has of 14 x 14; they see the image around them."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(5)
            self.patches = torch.nn.Conv2d(3, 12, 8, 8)
            self.around = torch.nn.Conv2d(12, 12, 3, padding=1)
        self.double().requires_grad_(False)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.around(self.patches(pixels).relu())


def preset_of(case: str) -> str:
    """The preset that a case is made of."""
    return case.split(",")[0]


def clip_of(case: str) -> Backbone:
    """The tiny CLIP of a case: Crane shows embeddings of images to the text tower."""
    return clip(even=preset_of(case) == "crane")


def completed(case: str, detector: Detector) -> Detector:
    """With what a run folder has not in it."""
    return detector.with_second(Network()) if case == PLUS else detector


def made(preset: str, noise: float = 0.5, **changes: object) -> Detector:
    """A detector of that preset whose learned tensors are as large as they become by training."""
    detector = build(clip_of(preset), preset, seed=1, **changes)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in detector.named_parameters():
            drawn = torch.randn(parameter.shape, generator=generator, dtype=torch.float64).to(parameter)
            parameter.add_((0.2 if parameter.ndim == 2 and "raw" in name else noise) * drawn)
    return detector.requires_grad_(False)


def images(size: tuple[int, int] = SIZES[0], count: int = 3) -> Tensor:
    """Normalised images; not square, so that rows and columns are not mixed up."""
    return torch.randn(count, 3, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


PROMPTS = {"context": 5, "deep": 2, "deep_tokens": 3}
TAPS = {"taps": (1, 3), "local_start": 1}
LAST = {"taps": (3,), "local_start": 1}
ADAPTED = {"taps": (1, 3), "adapt_image": 2, "adapt_text": 2, "teacher_start": 1, "mix": 0.3}
PROMPTED = {"taps": (1, 3), "depth": 3, "length": 3, "clusters": 3, "patches": 12}
FRAMES = {"length": 8, "window": 4, "layers": 2, "context": 3, "kinds": ("normal", "fighting", "car accident")}
CASES: dict[str, Callable[[], Detector]] = {
    "headclip": partial(made, "headclip", streams=("global", "local"), **TAPS, **PROMPTS),
    "anomalyclip": partial(made, "anomalyclip", **TAPS, **PROMPTS),
    "anomalyclip-published": partial(made, "anomalyclip-published", **LAST, **PROMPTS),
    "clip": partial(made, "clip", **TAPS),
    "crane": partial(made, "crane", conditioned=True, **LAST, **PROMPTS),
    PLUS: lambda: made("crane", conditioned=True, **LAST, **PROMPTS).with_second(Network()),
    "april-gan": partial(made, "april-gan", taps=(1, 3), head_weights="free"),
    "aa-clip": partial(made, "aa-clip", head_weights="sigmoid", **ADAPTED),
    "winclip": partial(made, "winclip"),
    "adaclip": partial(made, "adaclip", head_weights="free", share=0.4, temperature=0.1, **PROMPTED),
    "sc-clip": partial(made, "sc-clip", alpha=0.25, outlying=0.2, neighbours=5),
    "anoclip": partial(made, "anoclip", taps=(1, 3), temperature=0.1),
    "anoclip-plus": partial(made, "anoclip-plus", taps=(3,), temperature=0.1, local_start=1),
    "vadclip": partial(made, "vadclip", noise=0.1, **FRAMES),
    "kanoclip": partial(made, "kanoclip", prompt_count=2, cross_heads=2, conv_width=6, reduce="max", **TAPS, **PROMPTS),
    "c2p-clip": partial(made, "c2p-clip", rank=2, head_weights="free"),
}
"""A method joins by one line; ``REFUSALS`` then says what the lens cannot do with it."""


CLIP = {"prompts": "ensemble", "head_weights": "none", "local_start": -1, "taps": (3,), "alpha": 0.0}
UNADAPTED = {"taps": (3,), "local_start": -1, "steps": 0, "side": 1}
PLAIN: dict[str, dict[str, object]] = {
    "headclip": CLIP,
    "anomalyclip": CLIP,
    "anomalyclip-published": CLIP | {"cls_norm": True},
    "clip": CLIP,
    "crane": {"prompts": "ensemble", "local_start": -1, "taps": (3,), "score_pooling": 0.0},
    PLUS: {"prompts": "ensemble", "local_start": -1, "taps": (3,), "score_pooling": 0.0},
    "april-gan": {"class_aware": False, "taps": (3,), "temperature": 0.07},
    "aa-clip": ADAPTED | {"taps": (3,), "mix": 0.0, "alpha": 0.0},
    "anoclip": UNADAPTED,
    "winclip": {"windows": ()},
    "adaclip": {"class_aware": False, "taps": (3,), "temperature": 0.07, "prompted": (), "share": 0.0},
    "sc-clip": {"calibrated": False, "class_aware": False},
    "anoclip-plus": UNADAPTED,
    "kanoclip": {"prompt_count": 1, "deep": 2, "local_start": -1, "taps": (3,), "alpha": 0.0},  # gates begin at 0
    "c2p-clip": {"rank": 0},
}
"""What switches every part of a method off, so that plain CLIP is left, once ``projected_as_clip``."""


@torch.no_grad()
def projected_as_clip(detector: Detector) -> Detector:
    """The detector with the tower's projection in place of every one that it has learned, in its precision.

    What maps the joint space to itself leaves it as it is.
    """
    projection = detector.backbone.vision.proj.T
    for layer in detector.double().modules():
        if isinstance(layer, torch.nn.Linear) and layer.weight.shape in (projection.shape, projection.shape[:1] * 2):
            same = torch.eye(len(projection)).to(projection)
            layer.weight.copy_(projection if layer.weight.shape == projection.shape else same)
            if layer.bias is not None:
                layer.bias.zero_()
    return detector


@torch.no_grad()
def pair_of(detector: Detector) -> Tensor:
    """The normal and the abnormal prompt, [2, d_e]; of a linear head two unit vectors, whose difference it becomes."""
    if not hasattr(detector, "head"):
        return detector.text()[0]
    pair = torch.eye(2, detector.head.in_features, dtype=torch.float64)
    detector.head.weight.copy_((pair[1:] - pair[:1]) / 0.07)
    return pair


NOTHING_LEARNED = {
    "weights": "has no head weights",
    "compare": "has no head weights",
    "ablate, revert": "kind 'revert' sets learned head weights back to 1, but this detector has none",
}
FOLLOWS = {"ablate, text follows": "the text of .* does not depend on what is ablated"}
ONE_STREAM = {name: "this detector has no local stream" for name in LENS if name.endswith("/local")}
TANH = "margins of patches at tap 3 are not sums over heads: .* tanh"
ATTENTION_OF_PATCHES = tuple(
    name
    for name in LENS
    if name.startswith(("attribute rollout", "attribute relevance", "attribute legrad"))
    if not name.endswith((", image_margin", ", L3H0"))
)
ATTENTION_OF_IMAGES = tuple(f"attribute {name}, image_margin" for name in ("rollout", "relevance", "legrad"))
MAP_SUMS = ("contributions", "capture", "map_parts", "attribute contributions, map_margin")
MAP_SUMS += tuple(name for name in LENS if name.endswith(", L3H0/local"))
MAPS = ("map_parts", *(name for name in LENS if name.endswith(", map_margin")))
ABOVE_FRAMES = ("contributions", "attribute contributions, image_margin")
ABOVE_FRAMES += tuple(name for name in LENS if name.endswith(", L3H0"))
REFUSALS: dict[str, dict[str, str]] = {
    "headclip": FOLLOWS,
    "anomalyclip": FOLLOWS | NOTHING_LEARNED,
    "anomalyclip-published": FOLLOWS | NOTHING_LEARNED,
    "clip": FOLLOWS | NOTHING_LEARNED,
    "crane": NOTHING_LEARNED,
    PLUS: NOTHING_LEARNED | dict.fromkeys(ATTENTION_OF_PATCHES + ATTENTION_OF_IMAGES, "no attention matrix of theirs"),
    "april-gan": FOLLOWS | ONE_STREAM,
    "aa-clip": FOLLOWS | ONE_STREAM,
    "winclip": FOLLOWS | NOTHING_LEARNED | ONE_STREAM,
    "adaclip": FOLLOWS | ONE_STREAM,
    "sc-clip": FOLLOWS | NOTHING_LEARNED | dict.fromkeys(ATTENTION_OF_PATCHES, "no attention matrix of theirs"),
    "anoclip": FOLLOWS | NOTHING_LEARNED,
    "anoclip-plus": FOLLOWS | NOTHING_LEARNED | dict.fromkeys(MAP_SUMS, TANH),
    "kanoclip": NOTHING_LEARNED,
    "c2p-clip": FOLLOWS | ONE_STREAM | dict.fromkeys(MAPS, "needs an anomaly map, and this detector reads none"),
    "vadclip": FOLLOWS
    | NOTHING_LEARNED
    | dict.fromkeys(MAPS, "needs an anomaly map, and this detector reads none")
    | dict.fromkeys(ABOVE_FRAMES, "it is read through a transformer and graphs over the frames of a clip")
    | ONE_STREAM,
}
"""What the lens cannot do with a method, by the names of ``tests.methods.lens.LENS``, and what it says then."""
