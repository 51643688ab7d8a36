"""What it takes to run a peer's published code as it is, from a clone of its repository.

A script that drives one runs in a process of its own: peers call their modules ``model``, ``utils`` or ``open_clip``.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple
from unittest.mock import MagicMock, patch

import numpy as np
import packaging.version
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torch.overrides import TorchFunctionMode

UNUSED = (
    *("ipdb", "cv2", "skimage", "pkg_resources", "tabulate", "seaborn", "torch.utils.tensorboard"),
    *("termcolor", "humanhash", "albumentations"),
)
"""What peers import and no step here calls, or calls in vain: a debugger, drawing, tables, versions."""

REAL: dict[str, Any] = {
    "embed_dim": 768,
    "vision_cfg": {"image_size": 336, "layers": 24, "width": 1024, "patch_size": 14},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 768, "heads": 12, "layers": 12},
}
TINY: dict[str, Any] = {
    "embed_dim": 128,
    "vision_cfg": {"image_size": 56, "layers": 24, "width": 192, "patch_size": 14},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 128, "heads": 2, "layers": 12},
}
"""As deep as the real one, which AA-CLIP's code counts on, and narrow."""

PLUS: dict[str, Any] = {
    "embed_dim": 640,
    "vision_cfg": {"image_size": 240, "layers": 12, "width": 896, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 640, "heads": 10, "layers": 12},
}
TINY_PLUS: dict[str, Any] = {
    "embed_dim": 64,
    "vision_cfg": {"image_size": 64, "layers": 12, "width": 128, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 12},
}
"""ViT-B-16-plus-240, which methods without training take, and as deep and narrow."""

CATEGORIES = ("bottle", "metal_nut")


class Towers(NamedTuple):
    """What a comparison is run on: open_clip's name, configs, pixels along a side, and the format of the file."""

    name: str
    real: dict[str, Any]
    tiny: dict[str, Any]
    size: int
    tiny_size: int
    openai: bool


LARGE = Towers("ViT-L-14-336", REAL, TINY, 518, 84, openai=True)
SMALL = Towers("ViT-B-16-plus-240", PLUS, TINY_PLUS, 240, 64, openai=False)


def blurred(maps: Tensor, kernel_size: tuple[int, int], sigma: tuple[float, float]) -> Tensor:
    """kornia's ``gaussian_blur2d`` as it is documented, for machines without it: [B, C, H, W], edges mirrored."""
    for axis, (size, spread) in enumerate(zip(kernel_size, sigma, strict=True), start=-2):
        steps = torch.arange(size, dtype=maps.dtype, device=maps.device) - size // 2
        kernel = torch.exp(-(steps**2) / (2 * spread**2))
        kernel = (kernel / kernel.sum()).view(1, 1, *((size, 1) if axis == -2 else (1, size)))
        room = (0, 0, size // 2, size // 2) if axis == -2 else (size // 2, size // 2, 0, 0)
        flat = F.pad(maps.flatten(0, 1)[:, None], room, mode="reflect")
        maps = F.conv2d(flat, kernel)[:, 0].unflatten(0, maps.shape[:2])
    return maps


def arguments(about: str) -> argparse.Namespace:
    """What ``family_parity.py`` gives to the process of a peer."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clone", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--size", type=int, required=True)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--double", action="store_true")
    return parser.parse_args()


def importable(clone: Path) -> None:
    """Makes a clone's modules importable in this process, with stand-ins for what is not installed."""
    if "open_clip" in sys.modules and (clone / "open_clip").exists():
        raise RuntimeError("open_clip is imported already: a peer with one of its own needs a process of its own")
    for name in UNUSED:
        sys.modules[name] = MagicMock(packaging=packaging, __spec__=ModuleSpec(name, None))
    if importlib.util.find_spec("kornia") is None:
        filters = ModuleType("kornia.filters")
        filters.gaussian_blur2d = blurred  # type: ignore[attr-defined]
        sys.modules |= {"kornia": MagicMock(), "kornia.filters": filters}
    sys.path.insert(0, str(clone))


def script(clone: Path, name: str) -> ModuleType:
    """A script at the root of the clone as a module of another name; torch's threads stay as many, no bar is drawn."""
    spec = importlib.util.spec_from_file_location(f"published_{name}", clone / f"{name}.py")
    if spec is None or spec.loader is None or not (clone / f"{name}.py").exists():
        raise FileNotFoundError(f"{clone} has no {name}.py: give the folder of a clone of the peer's repository")
    module, threads = importlib.util.module_from_spec(spec), torch.get_num_threads()
    spec.loader.exec_module(module)
    torch.set_num_threads(threads)
    module.tqdm = lambda steps: steps  # type: ignore[attr-defined]
    return module


class WithoutCuda(TorchFunctionMode):
    """Code that counts on CUDA and its autocast, on the CPU in full precision.

    Tensors sent to ``"cuda"`` stay; ``norm`` reads a copy, as autocast makes one: its input may be changed in place.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.Tensor.to and args[1:] == ("cuda",):
            args = (args[0], "cpu")
        if func is torch.Tensor.norm:
            args = (args[0].clone(), *args[1:])
        return func(*args, **(kwargs or {}))


@contextmanager
def recorded_losses() -> Iterator[list[Tensor]]:
    """The losses that ``backward`` is called on within the block."""
    losses: list[Tensor] = []
    plain = Tensor.backward

    def backward(loss: Tensor, *args: Any, **kwargs: Any) -> None:
        losses.append(loss.detach().clone())
        plain(loss, *args, **kwargs)

    with patch.object(Tensor, "backward", backward):
        yield losses


@contextmanager
def masks_of_bytes() -> Iterator[None]:
    """Pillow as it was when peers' data sets were written: an array of zeros, float64, is an image of bytes."""
    plain = Image.fromarray
    with patch.object(Image, "fromarray", lambda values, **_: plain(values.astype(np.uint8))):
        yield


def saved_weights(config: dict[str, Any], path: Path, seed: int = 0, openai: bool = True) -> None:
    """Random weights as OpenAI's files have them: names, marks, products in half precision; or as open_clip's."""
    from open_clip.model import CLIP

    torch.manual_seed(seed)
    model = CLIP(**config)
    state = model.state_dict()
    for name, value in state.items():
        if value.ndim == 1 and name != "visual.class_embedding":
            value += 0.1 * torch.randn(value.shape)
    if not openai:
        torch.save(state, path)
        return
    halved = ("in_proj_weight", "in_proj_bias", "out_proj.weight", "out_proj.bias", "c_fc.weight", "c_fc.bias")
    halved = (*halved, "c_proj.weight", "c_proj.bias", "conv1.weight", "visual.proj", "text_projection")
    state = {name: value.half() if name.endswith(halved) else value for name, value in state.items()}
    marks = {"input_resolution": config["vision_cfg"]["image_size"], "context_length": 77, "vocab_size": 49408}
    torch.save(state | {name: torch.tensor(value) for name, value in marks.items()}, path)


def saved_images(folder: Path, side: int, seed: int = 0) -> None:
    """A normal and an anomalous image of each category, in MVTec's layout, with the lists that the peers read."""
    draw, listed, lines = np.random.default_rng(seed), {}, []
    for category in CATEGORIES:
        listed[category] = []
        for label, kind in enumerate(("good", "scratch")):
            coarse = draw.integers(0, 256, (12, 12, 3), dtype=np.uint8)
            image = np.asarray(Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC))
            image = np.clip(image + draw.normal(0, 8, image.shape), 0, 255).astype(np.uint8)
            rows, columns = np.mgrid[:side, :side] / side
            mask = np.hypot(rows - draw.uniform(0.3, 0.7), columns - draw.uniform(0.3, 0.7)) < 0.15
            names = {"img_path": f"{category}/test/{kind}/000.png", "mask_path": ""}
            (folder / names["img_path"]).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(folder / names["img_path"])
            if label:
                names["mask_path"] = f"{category}/ground_truth/{kind}/000_mask.png"
                (folder / names["mask_path"]).parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(mask.astype(np.uint8) * 255).save(folder / names["mask_path"])
            listed[category].append(names | {"cls_name": category, "specie_name": kind, "anomaly": label})
            about = {"image_path": names["img_path"], "mask_path": names["mask_path"], "label": label}
            lines.append(json.dumps(about | {"class_name": category}))
    (folder / "meta.json").write_text(json.dumps({"train": listed, "test": listed}))
    (folder / "full-shot.jsonl").write_text("\n".join(lines))
