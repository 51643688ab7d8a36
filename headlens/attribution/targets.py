"""What is attributed: one number for each image, as a function of the image that can be differentiated.

    image_margin   abnormal minus normal logit of the image                                    logits
    joint_score    (1 - alpha) sigmoid(image margin) + alpha pool(anomaly map)                 0 to 1
    joint_margin   log(joint score / (1 - joint score))                                        logits
    map_margin     mean over taps of the patches' margins, mean over a region                  logits
    L18H7          direct effect of that head on the image margin                              logits
    L18H7/local    direct effect of that local head on the map margin                          logits

A head's direct effect is its part of a sum that is exact with the read-out's scale and norm as they are in that image
(``headlens.heads.direct``). As a function of the image they change with it, so they are differentiated like all else:
what is attributed is the number that ``contributions`` reports, not one with the scale of some other image.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from headlens.backbone.vision import VisionExtensions, VisionOutput
from headlens.detectors.detector import Detector
from headlens.detectors.methods.headclip import Features
from headlens.errors import ConfigError, ShapeError
from headlens.heads.closed_form import Fold
from headlens.heads.measures import (
    Margins,
    check_linear,
    check_unhooked,
    enlarge,
    joint,
    logit,
    margins,
    patch_maps,
    wide,
)
from headlens.heads.variants import Head, heads_of

SCORES = ("joint_margin", "joint_score", "image_margin", "map_margin")


@dataclass(frozen=True)
class Target(ABC):
    """Images [B, 3, h, w], normalised, to one number each, [B]; no image has a part in another's.

    Args:
        detector: any whose image margin is a function of CLS.
        name: see the table above.
        thing: what all images show; it only matters to class-aware prompts.
        region: [h, w], where a map is read, 0 to 1; all of it when None.
    """

    detector: Detector
    name: str
    thing: str = "object"
    region: Tensor | None = None

    @abstractmethod
    def __call__(self, images: Tensor, hooked: bool = False) -> Tensor:
        """The number of every image, [B]; ``hooked`` lets hooks at the image tower see the forward."""

    @cached_property
    @torch.no_grad()
    def text(self) -> Tensor:
        """The normal and the abnormal prompt, [2, d_e]."""
        return self.detector.text([self.thing.replace("_", " ")])[0]

    def share(self, size: tuple[int, int]) -> Tensor:
        """How much of the region lies in each patch of an image of that size, [N]; adds up to 1.

        Raises:
            ShapeError: a region of another size, or one that no patch meets.
        """
        vision = self.detector.backbone.vision
        grid, patch = vision.grid(*size), vision.cfg.patch_size
        if self.region is None:
            return wide(vision.proj).new_full((grid[0] * grid[1],), 1 / (grid[0] * grid[1]))
        if tuple(self.region.shape) != size:
            raise ShapeError(f"the region has shape {tuple(self.region.shape)}; images are {size}, and it must be too")
        region = self.region.to(wide(vision.proj))[None, None, : grid[0] * patch, : grid[1] * patch]
        covered = F.avg_pool2d(region, patch).flatten()
        if not covered.sum() > 0:
            raise ShapeError("the region is empty, or lies where no patch does; mark at least one pixel")
        return covered / covered.sum()

    def forward(self, images: Tensor, hooked: bool, **options: Any) -> tuple[Margins, VisionOutput]:
        """Margins of the images and of their patches, and what they were made of."""
        detector, vision = self.detector, self.detector.backbone.vision
        out = vision(
            images,
            taps=detector.config.taps,
            local=detector.local,
            head_weights=detector.head_weights() or None,
            hooked=hooked or vision.must_call_hooks(),
            **options,
        )
        cls = wide(out.embedding if detector.config.cls_norm else out.cls @ vision.proj)
        patches = {tap: wide(tokens) for tap, tokens in out.patches.items()}
        return margins(detector, Features(cls, patches, (images.shape[2], images.shape[3])), self.text), out


class ScoreTarget(Target):
    """One of ``SCORES``."""

    def __call__(self, images: Tensor, hooked: bool = False) -> Tensor:
        """[B, 3, h, w] to [B]."""
        return self.read(self.forward(images, hooked)[0], (images.shape[2], images.shape[3]))

    def read(self, found: Margins, size: tuple[int, int]) -> Tensor:
        """Margins of images of that size to the target, [B]."""
        if self.name == "image_margin":
            return found.image
        if self.name == "map_margin":
            return torch.stack(list(found.taps.values())).mean(0) @ self.share(size)
        maps = enlarge(self.detector, patch_maps(found, self.detector.backbone.vision.grid(*size)), size)
        score = joint(self.detector, found.image, maps)
        return score if self.name == "joint_score" else logit(score)


class HeadTarget(Target):
    """The direct effect of one head: ``z · u_h / (σ |e|)`` at CLS, or at the patches of every tap above a local one."""

    @cached_property
    def head(self) -> Head:
        """Which."""
        return Head.of(self.name)

    def __call__(self, images: Tensor, hooked: bool = False) -> Tensor:
        """[B, 3, h, w] to [B]; always hooked, for that is how the head is read."""
        head, vision, config = self.head, self.detector.backbone.vision, self.detector.config
        local = head.stream == "local"
        written: dict[str, Tensor] = {}

        def keep(z: Tensor, *, hook: Any) -> None:
            written["z"] = z[:, :, head.head]  # (B, T, d), weighted

        raw = VisionExtensions(projections={"raw": dict.fromkeys(config.taps, _same)} if local else {})
        point = f"blocks.{head.layer}.attn.hook_{'local_' if local else ''}z"
        with vision.hooks([(point, keep)]):
            _, out = self.forward(images, True, extensions=raw)
        fold = Fold.of(vision, local or config.cls_norm)
        u = (self.text[1] - self.text[0]).to(fold.matrix) / config.temperature
        u_h = wide(vision.blocks[head.layer].attn.W_O)[head.head] @ fold.matrix @ u  # (d)

        def part(z: Tensor, read: Tensor) -> Tensor:
            embedding, scale = fold.embed(wide(read))
            return (wide(z) @ u_h) / (scale[..., 0] * embedding.norm(dim=-1))

        if not local:
            return part(written["z"][:, 0], out.cls)
        above = [tokens for tap, tokens in out.projected["raw"].items() if tap >= head.layer]
        drawn = torch.stack([part(written["z"][:, 1:], tokens) for tokens in above]).sum(0) / len(config.taps)
        return drawn @ self.share((images.shape[2], images.shape[3]))


def target_of(
    detector: Detector, name: str = "joint_margin", thing: str = "object", region: Tensor | None = None
) -> Target:
    """The target of that name; see the table above.

    Raises:
        ConfigError: an unknown target, a region for one that reads no map, or a detector whose image margin is no
            function of CLS.
        ShapeError: a head that does not exist.

    >>> from headlens.backbone import load

    >>> from headlens.detectors import HeadCLIP
    >>> detector, images = HeadCLIP(load("mini")), torch.zeros(2, 3, 28, 42)
    >>> [target_of(detector, name)(images).shape for name in ("joint_margin", "L18H7/local")]
    [torch.Size([2]), torch.Size([2])]
    """
    check_linear(detector)
    check_unhooked(detector, "attribution", calls_tower=True)
    if name in SCORES:
        made: Target = ScoreTarget(detector, name, thing, region)
    elif name.startswith("L"):
        head = Head.of(name)
        heads_of(detector, [head.layer], [head.head], [head.stream])  # raises where there is no such head
        check_unhooked(detector, f"the direct effect of {head}")
        made = HeadTarget(detector, str(head), thing, region)
    else:
        raise ConfigError(f"unknown target {name!r}: there are {', '.join(SCORES)}, and heads such as L18H7")
    if region is not None and not (name == "map_margin" or name.endswith("/local")):
        raise ConfigError(f"{name} reads no region; only map_margin and local heads do: leave region out")
    return made


def _same(tokens: Tensor) -> Tensor:
    return tokens
