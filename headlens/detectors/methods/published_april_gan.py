"""Published linear maps of APRIL-GAN (arXiv 2305.17382).

A file keeps a state dict under ``trainable_linearlayer``: ``fc.{i}.weight`` [d_e, D] and ``fc.{i}.bias`` [d_e] of the
i-th tap. Nothing in it tells which CLIP they were learned on, or at which blocks.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from torch import Tensor

from headlens.backbone import Backbone
from headlens.backbone.checkpoint import read_checkpoint
from headlens.detectors.detector import Detector
from headlens.detectors.methods.april_gan import APRILGANConfig
from headlens.detectors.methods.plain_gelu import check_activation, loading_rules
from headlens.detectors.methods.registry import build
from headlens.errors import CheckpointError, RunError

INSIDE = "trainable_linearlayer"
_MAPS = "APRIL-GAN's maps"
TAPS = (5, 11, 17, 23)
_KNOWN = re.compile(r"fc\.(\d+)\.(weight|bias)")
_EXPECTED = "expected fc.0.weight [d_e, D], fc.0.bias [d_e], fc.1.weight, …"


@dataclass(frozen=True)
class PublishedMaps:
    """What such a checkpoint holds: weights [d_e, D] and biases [d_e] in the order of taps, and the file's SHA-256."""

    weights: tuple[Tensor, ...]
    biases: tuple[Tensor, ...]
    sha256: str
    preset: ClassVar[str] = "april-gan"
    not_taken: ClassVar[str] = ""
    rules: ClassVar[Mapping[str, str]] = loading_rules(_MAPS)

    @property
    def contents(self) -> str:
        """What was read, for people."""
        return f"linear maps of {len(self.weights)} taps"

    def on(self, backbone: Backbone) -> Detector:
        """As ``mapped_detector``, at the authors' taps."""
        return mapped_detector(self, backbone)


def read_maps(path: str | Path) -> PublishedMaps:
    """Reads a ``.pth`` file of linear maps; nothing in it is executed.

    Raises:
        CheckpointError: missing, damaged, something else, or more than these maps.
    """
    file = read_checkpoint(path)
    what = f"{path} holds no linear maps of APRIL-GAN: {_EXPECTED}"
    if file.inside != INSIDE:
        raise CheckpointError(f"{what} under {INSIDE}; it holds {', '.join(list(file.state)[:3])}")
    if more := [name for name in file.state if not _KNOWN.fullmatch(name)] + list(file.others):
        raise CheckpointError(f"{path} holds {', '.join(more[:5])}, which APRIL-GAN has not: nothing was imported")
    count = (len(file.state) + 1) // 2
    names = [f"fc.{i}.{part}" for i in range(count) for part in ("weight", "bias")]
    if missing := [name for name in names if name not in file.state]:
        raise CheckpointError(f"{what}; there is no {missing[0]}")
    d_embed, width = (*file.state["fc.0.weight"].shape, 0, 0)[:2]
    for name in file.state:
        expected, value = [d_embed, width] if name.endswith("weight") else [d_embed], file.state[name]
        if list(value.shape) != expected or len(file.state["fc.0.weight"].shape) != 2:
            raise CheckpointError(f"{what}; {name} is {list(value.shape)}")
        if not value.is_floating_point() or not value.float().isfinite().all():
            raise CheckpointError(f"{path}: {name} has NaN, infinity, or whole numbers; nothing was imported")
    state = {name: value.float() for name, value in file.state.items()}
    weights, biases = (tuple(state[f"fc.{i}.{part}"] for i in range(count)) for part in ("weight", "bias"))
    return PublishedMaps(weights, biases, file.sha256)


def mapped_detector(maps: PublishedMaps, backbone: Backbone, taps: Sequence[int] = TAPS) -> Detector:
    """The detector that its authors evaluate, on ``backbone``.

    Args:
        maps: of ``read_maps``.
        backbone: computed with GELU, as theirs, or with another activation and a reason.
        taps: the blocks after which patches are read, counted from 0; the authors' by default.

    Raises:
        RunError: a backbone of another width or activation, or another number of taps.
        ConfigError: a tap that the backbone does not have.
    """
    made, vision = backbone.provenance, backbone.vision.cfg
    check_activation(backbone, _MAPS)
    if len(taps) != len(maps.weights):
        raise RunError(f"the file has maps of {len(maps.weights)} taps, not {len(taps)}; name their blocks with taps=")
    theirs, ours = list(maps.weights[0].shape), [vision.d_embed, vision.d_model]
    if theirs != ours:
        raise RunError(
            f"the maps are {theirs}, those of {made.name} are {ours}: load the CLIP that they were learned on "
            "(ViT-L-14-336-quickgelu with weights openai)"
        )
    detector = build(backbone, APRILGANConfig(taps=tuple(taps)))
    state = {f"projections.{tap}.weight": weight for tap, weight in zip(taps, maps.weights, strict=True)}
    state |= {f"projections.{tap}.bias": bias for tap, bias in zip(taps, maps.biases, strict=True)}
    detector.load_state_dict(state)
    return detector.requires_grad_(False).eval()
