"""Published adapters of AA-CLIP (arXiv 2503.06661): two files, ``image_adapter_{epoch}.pth`` and ``text_adapter.pth``.

The first keeps a state dict under ``image_adapter``: ``layer_adapters.{i}.fc.0.weight`` [D, D] of image block i,
``seg_proj.{i}.fc.weight`` [d_e, D] of the i-th tap, and ``det_proj.fc.weight`` [d_e, D] of the image. The second keeps
one under ``text_adapter``: ``{i}.fc.0.weight`` [D_t, D_t] of text block i, and last the new projection, [d_e, D_t].
Nothing in them tells which CLIP they were learned on, at which blocks, or how things were called.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from torch import Tensor

from headlens.backbone import Backbone
from headlens.backbone.checkpoint import read_checkpoint
from headlens.detectors.detector import Detector
from headlens.detectors.methods.aa_clip import AACLIP, AACLIPConfig
from headlens.detectors.methods.plain_gelu import check_activation, loading_rules
from headlens.errors import CheckpointError, RunError

IMAGE, TEXT = "image_adapter", "text_adapter"
_ADAPTERS = "AA-CLIP's adapters"
_OF_TRAINING = {"epoch", "text_optimizer", "image_optimizer"}


@dataclass(frozen=True)
class PublishedAdapters:
    """What both files hold; several in the order of blocks or taps."""

    image_adapters: tuple[Tensor, ...]
    patches: tuple[Tensor, ...]
    image: Tensor
    text_adapters: tuple[Tensor, ...]
    text_projection: Tensor
    sha256: str  # of the file of image adapters
    preset: ClassVar[str] = "aa-clip"
    not_taken: ClassVar[str] = ""
    rules: ClassVar[Mapping[str, str]] = loading_rules(_ADAPTERS)

    @property
    def contents(self) -> str:
        """What was read, for people."""
        text, image, taps = map(len, (self.text_adapters, self.image_adapters, self.patches))
        return f"adapters in {text} text and {image} image blocks, projections of {taps} taps"

    def on(self, backbone: Backbone) -> Detector:
        """As ``adapted_detector``, at the authors' taps."""
        return adapted_detector(self, backbone)


def read_adapters(image: str | Path, text: str | Path) -> PublishedAdapters:
    """Reads both files; nothing in them is executed.

    Raises:
        CheckpointError: a file that is missing, damaged, something else, or holds more than these adapters.
    """
    of_image, sha256 = _read(image, IMAGE)
    of_text, _ = _read(text, TEXT)
    if "det_proj.fc.0.weight" in of_image:
        raise CheckpointError(
            f"{image} was trained with --relu, which puts LeakyReLU behind the projections of patches; headlens has "
            "AA-CLIP as its authors run it, without"
        )
    adapters = _numbered(of_image, "layer_adapters.{}.fc.0.weight")
    patches = _numbered(of_image, "seg_proj.{}.fc.weight", image)
    maps = _numbered(of_text, "{}.fc.0.weight", text)
    (whole,) = _numbered(of_image, "det_proj.fc.weight", image)
    for path, more in ((image, of_image), (text, of_text)):
        if more:
            raise CheckpointError(f"{path} holds {min(more)}, which AA-CLIP has not, or not without those before it")
    return PublishedAdapters(adapters, patches, whole, maps[:-1], maps[-1], sha256)


def _read(path: str | Path, inside: str) -> tuple[dict[str, Tensor], str]:
    """The matrices of one file by its names, float32, and its SHA-256."""
    file = read_checkpoint(path)
    if file.inside != inside:
        held = file.inside or ", ".join(list(file.state)[:3])
        raise CheckpointError(f"{path} holds no {inside} of AA-CLIP, but {held}")
    if more := [name for name in file.others if name not in _OF_TRAINING]:
        raise CheckpointError(f"{path} holds {more[0]}, which AA-CLIP has not: nothing was imported")
    for name, value in file.state.items():
        if value.ndim != 2 or not value.is_floating_point() or not value.float().isfinite().all():
            raise CheckpointError(
                f"{path}: {name} is {list(value.shape)}, {value.dtype}; it is a matrix without NaN and infinity, and "
                "nothing was imported"
            )
    return {name: value.float() for name, value in file.state.items()}, file.sha256


def _numbered(state: dict[str, Tensor], form: str, needed_in: str | Path | None = None) -> tuple[Tensor, ...]:
    """Takes those from a state that are called so with 0, 1, ...; raises CheckpointError where a file needs one."""
    taken: list[Tensor] = []
    while (name := form.format(len(taken))) in state:
        taken.append(state.pop(name))
    if not taken and needed_in is not None:
        raise CheckpointError(f"{needed_in} holds no adapters of AA-CLIP: there is no {form.format(0)}")
    return tuple(taken)


def adapted_detector(adapters: PublishedAdapters, backbone: Backbone, config: AACLIPConfig | None = None) -> AACLIP:
    """The detector that its authors evaluate, on ``backbone``; scores have no ends, which they take from a test set.

    Args:
        adapters: of ``read_adapters``.
        backbone: computed with GELU, as theirs, or with another activation and a reason.
        config: how it is read, such as its phrases; how many adapters there are is said by the files.

    Raises:
        RunError: a backbone of another width or activation, or another number of taps.
        ConfigError: a block that the backbone does not have.
    """
    made, config = backbone.provenance, config or AACLIPConfig()
    check_activation(backbone, _ADAPTERS)
    if len(config.taps) != len(adapters.patches):
        raise RunError(f"the files have projections of {len(adapters.patches)} taps, not {len(config.taps)}")
    text, image = len(adapters.text_adapters), len(adapters.image_adapters)
    detector = AACLIP(backbone, replace(config, adapt_text=text, adapt_image=image))
    state = {"text_projection.linear.weight": adapters.text_projection, "image.weight": adapters.image}
    state |= {f"patches.{tap}.weight": matrix for tap, matrix in zip(config.taps, adapters.patches, strict=True)}
    for side in ("text_adapters", "image_adapters"):
        state |= {f"{side}.{i}.linear.weight": matrix for i, matrix in enumerate(getattr(adapters, side))}
    for name, ours in detector.state_dict().items():
        if name in state and state[name].shape != ours.shape:
            raise RunError(
                f"{name} is {list(state[name].shape)} in the files, and {list(ours.shape)} on {made.name}: load the "
                "CLIP that they were learned on (ViT-L-14-336-quickgelu with weights openai)"
            )
    detector.load_state_dict(state)
    return detector.requires_grad_(False).eval()
