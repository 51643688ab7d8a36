"""WinCLIP in two implementations, on given weights and images; its authors have published none.

    python analyses/peer_winclip.py CLONE WORK --size 240 [--tiny] [--double]

``CLONE`` is of github.com/caoyunkang/WinClip (commit 06f61d4), or of github.com/open-edge-platform/anomalib (commit
b723368, or 0a34c1d, which is older). anomalib needs open_clip before 2.26, whose towers have tokens before
images: put it into the clone. ``family_parity.py`` calls this, with ``WORK`` made by it, and reads ``WORK/theirs.pt``.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
import torch.nn.functional as F
from peer_code import CATEGORIES, PLUS, SMALL, TINY_PLUS, arguments, importable
from PIL import Image
from torch import Tensor
from torchvision import transforms

MEAN, SPREAD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


class Batch(NamedTuple):
    """anomalib's ``InferenceBatch``: importing it takes all of that package."""

    pred_score: Tensor
    anomaly_map: Tensor


class Peer(NamedTuple):
    """An implementation.

    Args:
        name: of its repository.
        settings: of headlens that correspond to it.
        own_words: its sentences are others.
        told: of a category, from then on.
        text: of that category, [2, d_e], of unit length.
        windows: of images [B, 3, h, w], embeddings of the windows of each size [B, W, d_e].
        scored: of images, their maps [B, h, w] and, where it has any, image scores [B].
    """

    name: str
    settings: dict[str, Any]
    own_words: bool
    told: Callable[[str], object]
    text: Callable[[], Tensor]
    windows: Callable[[Tensor], list[Tensor]]
    scored: Callable[[Tensor], tuple[Tensor, Tensor | None]]


def filled(model: Any, weights: Path, double: bool) -> Any:
    """A CLIP with the weights of a file, that nothing is learned in."""
    model.load_state_dict(torch.load(weights, weights_only=True))
    return (model.double() if double else model).requires_grad_(False).eval()


def anomalib(
    clone: Path, config: dict[str, Any], weights: Path, size: int, double: bool = False, device: Any = "cpu"
) -> Peer:
    """anomalib's model, without the rest of that package."""
    package = clone / "src" / "anomalib"
    for name in ("", ".data", ".models", ".models.components", ".models.components.base", ".models.image"):
        sys.modules[f"anomalib{name}"] = module = ModuleType(f"anomalib{name}")
        module.__path__ = [str(package.joinpath(*name.split(".")))]
    sys.modules["anomalib.models.image.winclip"] = module = ModuleType("anomalib.models.image.winclip")
    module.__path__ = [str(package / "models" / "image" / "winclip")]
    sys.modules["anomalib.data"].InferenceBatch = Batch  # type: ignore[attr-defined]
    new = (package / "models" / "components" / "base" / "buffer_list.py").exists()
    for file, name in (("buffer_list", "BufferListMixin"), ("dynamic_buffer", "DynamicBufferMixin")) if new else ():
        mixin = getattr(importlib.import_module(f"anomalib.models.components.base.{file}"), name)
        setattr(sys.modules["anomalib.models.components"], name, mixin)
    from open_clip.model import CLIP

    clip = filled(CLIP(**config), weights, double)
    code = importlib.import_module("anomalib.models.image.winclip.torch_model")
    with (
        patch.object(code.open_clip, "create_model_and_transforms", lambda *_, **__: (clip, None, None)),
        patch.object(code.open_clip, "create_model", lambda *_, **__: clip),
    ):
        model = code.WinClipModel().to(device)
    if not new:
        model.prepare_masks()
    return Peer(
        "anomalib",
        {"templates": "anomalib"},
        own_words=False,
        told=model.setup if new else model.collect_text_embeddings,
        text=lambda: F.normalize(model.text_embeddings, dim=-1),
        windows=lambda images: model.encode_image(images)[1],
        scored=lambda images: (model(images)[1], model(images)[0]),
    )


def caoyunkang(
    clone: Path, config: dict[str, Any], weights: Path, size: int, double: bool = False, device: Any = "cpu"
) -> Peer:
    """caoyunkang's model, in the precision of the weights, where it has half on every device."""
    from WinCLIP import CLIPAD
    from WinCLIP import model as code

    def created(scales: tuple[int, ...], **_: Any) -> tuple[Any, None, None]:
        return filled(CLIPAD.model.CLIP(**config, scales=scales), weights, double), None, None

    about = {"img_resize": size, "img_cropsize": size, "out_size_h": size, "out_size_w": size, "device": device}
    about |= {"backbone": SMALL.name, "pretrained_dataset": "laion400m_e32", "scales": (2, 3)}
    with patch.object(CLIPAD, "create_model_and_transforms", created):
        model = code.WinClipAD(**about)
    model.precision = "fp32"

    def windows(images: Tensor) -> list[Tensor]:
        every, ends = torch.stack(model.encode_image(images), 1), [*model.scale_begin_indx[1:], None]
        return [every[:, a:b] for a, b in zip(model.scale_begin_indx, ends, strict=True)]

    return Peer(
        "caoyunkang",
        {"temperature": 0.01, "of_normal": True, "with_image": False, "alpha": 1.0},
        own_words=True,
        told=model.build_text_feature_gallery,
        text=lambda: model.text_features,
        windows=windows,
        # Without shots theirs is the harmonic sum of a map and itself, which is half of it.
        scored=lambda images: (2 * torch.stack([torch.from_numpy(one) for one in model(images)]), None),
    )


def peer_of(
    clone: Path, config: dict[str, Any], weights: Path, size: int, double: bool = False, device: Any = "cpu"
) -> Peer:
    """The implementation that a clone has."""
    make = anomalib if (clone / "src" / "anomalib").exists() else caoyunkang
    return make(clone, config, weights, size, double, device)


def main() -> None:
    args = arguments(__doc__ or "")
    importable(args.clone)
    config = TINY_PLUS if args.tiny else PLUS
    peer = peer_of(args.clone, config, args.work / "weights.pt", args.size, args.double)
    steps = (transforms.Resize((args.size, args.size), transforms.InterpolationMode.BICUBIC), transforms.ToTensor())
    read = transforms.Compose([*steps, transforms.Normalize(MEAN, SPREAD)])
    seen: dict[str, list[Any]] = {name: [] for name in ("images", "text", "windows", "map", "score")}
    for category in CATEGORIES:
        files = [args.work / category / "test" / kind / "000.png" for kind in ("good", "scratch")]
        images = torch.stack([read(Image.open(file).convert("RGB")) for file in files])
        images = images.double() if args.double else images
        with torch.no_grad():
            peer.told(category)
            found, score = peer.scored(images)
            for name, value in {"images": images, "map": found, "score": score}.items():
                seen[name] += [] if value is None else [value]
            seen["text"].append(peer.text()[None])
            seen["windows"].append(peer.windows(images))
        print(f"WinCLIP of {peer.name}: {category}", flush=True)
    theirs: dict[str, Any] = {name: torch.cat(values) for name, values in seen.items() if values and name != "windows"}
    theirs["windows"] = [torch.cat(of_size) for of_size in zip(*seen["windows"], strict=True)]
    theirs |= {"categories": [category for category in CATEGORIES for _ in range(2)], "settings": peer.settings}
    torch.save(theirs | {"own words": peer.own_words}, args.work / "theirs.pt")


if __name__ == "__main__":
    main()
