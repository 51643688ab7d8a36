"""Exported detectors beside the detectors themselves: every preset in both formats, or why it is refused.

    python analyses/export_parity.py                                        # a tiny tower of two blocks
    python analyses/export_parity.py ViT-B-16 --preset headclip --size 224  # an architecture of open_clip's, 12 blocks

Weights are random, and what a preset learns is as large as it becomes by training. Images are random, 1, 2 and 5 at
once; the number is the largest difference of any of their scores and pixels. ONNX is run by onnxruntime on the CPU, an
archive of torch.export is read again before it is run.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import onnxruntime
import open_clip
import torch
from common import environment
from torch import Tensor

import headlens
from headlens.backbone import Backbone, architecture_from_config, assemble, load
from headlens.data import Preprocess
from headlens.detectors import PRESETS, Detector, build
from headlens.errors import ConfigError

SIDE = 24
TINY = {
    "embed_dim": 24,
    "quick_gelu": True,
    "vision_cfg": {"image_size": SIDE, "layers": 2, "width": 32, "head_width": 8, "patch_size": 8},
    "text_cfg": {"context_length": 32, "vocab_size": 49408, "width": 24, "heads": 3, "layers": 2},
}
_PROMPTS = {"context": 4, "deep": 1, "deep_tokens": 2}
_TAPS = {"taps": (0, 1), "local_start": 1}
_LAST = {"taps": (1,), "local_start": 1}
_ADAPTED = {"taps": (0, 1), "adapt_image": 1, "adapt_text": 1, "teacher_start": 1}
EXPORTED: dict[str, dict[str, object]] = {
    "headclip": {"streams": ("global", "local"), "pool": "top", **_TAPS, **_PROMPTS},
    "anomalyclip": _TAPS | _PROMPTS,
    "anomalyclip-published": _LAST | _PROMPTS,
    "clip": _TAPS,
    "crane": _LAST | _PROMPTS,
    "april-gan": {"taps": (0, 1), "head_weights": "free"},
    "aa-clip": _ADAPTED,
    "aa-clip-medical": _ADAPTED,
    "anoclip": {"taps": (0, 1)},
    "winclip": {"windows": (2,)},
    "sc-clip": {"alpha": 0.25, "outlying": 0.2, "neighbours": 4},
    "c2p-clip": {"rank": 2},
    "kanoclip": {"prompt_count": 2, "conv_width": 4, "reduce": "max", **_TAPS, **_PROMPTS},
}
"""Presets that can be exported, with settings for a tower of two blocks."""
REFUSED: dict[str, dict[str, object]] = {
    "anoclip-plus": {"taps": (1,)},
    "anoclip-plus-visa": {"taps": (1,)},
    "adaclip": {"taps": (0, 1), "depth": 2},
    "vadclip": {},
    "vadclip-ucf": {},
    "vadclip-xd": {},
}
"""Those that cannot."""
Compute = Callable[[Tensor], Sequence[Tensor]]


def tiny_clip() -> Backbone:
    """A random CLIP of two blocks, with no bias at 0."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        model = open_clip.model.CLIP(**TINY)
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape) * (parameter.std() if parameter.ndim > 1 else 1))
    return assemble(architecture_from_config(TINY, "tiny"), model.state_dict())


def detector(clip: Backbone, preset: str, **settings: object) -> Detector:
    """A preset on a backbone, with learned tensors as large as they become by training."""
    made = build(clip, preset, seed=1, **settings)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return made.requires_grad_(False)


def reader(path: Path) -> Compute:
    """What runs a file that was written."""
    if path.suffix == ".pt2":
        return torch.export.load(path).module()
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda pixels: [torch.from_numpy(out) for out in session.run(None, {"pixels": pixels.numpy()})]


def difference(made: Detector, compute: Compute, size: int, counts: Sequence[int] = (1, 2, 5)) -> float:
    """The largest of scores and maps; nothing is tested where all of them are alike, and that is an error."""
    worst, generator = 0.0, torch.Generator().manual_seed(7)
    for count in counts:
        images = torch.randint(256, (count, 3, size, size), dtype=torch.uint8, generator=generator)
        expected = made(Preprocess(size).normalise(images), ["wood"] * count)
        right = [expected.joint_score, expected.anomaly_map] if made.reads_map else [expected.joint_score]
        assert count == 1 or right[-1].std() > 0
        pairs = zip(compute(images / 255), right, strict=True)
        worst = max(worst, *(float((out - one).abs().max()) for out, one in pairs))
    return worst


def row(preset: str, made: Detector, size: int) -> str:
    """One line of the table."""
    cells, why = [preset], ""
    for suffix in (".onnx", ".pt2"):
        with tempfile.TemporaryDirectory() as folder:
            started, category = time.perf_counter(), "wood" if made.reads_categories else None
            try:
                model = headlens.export(made, Path(folder, f"model{suffix}"), category=category, size=size).model
            except ConfigError as error:
                cells, why = [preset, "-", "-", "-", "-"], str(error).partition(": ")[2]
                break
            seconds, off = time.perf_counter() - started, difference(made, reader(model), size)
            cells += [f"{off:.1e}", f"{model.stat().st_size / 2**20:.1f} MiB in {seconds:.0f} s"]
    return f"| {' | '.join(cells)} | {why} |"


@torch.no_grad()
def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("architecture", nargs="?", help="of open_clip; a tiny one of two blocks by default")
    parser.add_argument("--preset", action="append", choices=PRESETS, help="may be repeated; all by default")
    parser.add_argument("--size", type=int, default=224, help="of images, with an architecture")
    args = parser.parse_args()

    print(environment(torch.device("cpu")), "\n\n| preset | ONNX | size | torch.export | size | refused because |")
    print("|---|---:|---|---:|---|---|")
    clip = tiny_clip() if args.architecture is None else load(args.architecture)
    blocks = clip.vision.cfg.n_layers
    for preset in args.preset or PRESETS:
        settings = {**EXPORTED, **REFUSED}[preset]
        if args.architecture is not None:  # the preset's own settings, but for taps of deeper towers
            quarters = tuple(blocks * part // 4 - 1 for part in (1, 2, 3, 4))
            settings = (
                {"taps": quarters if len(settings.get("taps", ())) > 1 else quarters[-1:]} if "taps" in settings else {}
            )
        print(
            row(preset, detector(clip, preset, **settings), SIDE if args.architecture is None else args.size),
            flush=True,
        )


if __name__ == "__main__":
    main()
