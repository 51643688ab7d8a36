"""AA-CLIP at full size on one device: training steps and scoring against its authors' code, and the sweep of its heads.

    git clone https://github.com/Mwxinnn/AA-CLIP .peers/aa-clip
    python analyses/full_family.py .peers/aa-clip --out full-family.md

ViT-L-14-336 at 518 px with plain GELU; weights and images are random, made on the device, and the same for both. Theirs
are the functions of train.py and test.py: as published, in float32 with gradients for all of CLIP, which nothing reads;
the same under autocast; and with CLIP frozen, too. What they write to disk is left out, and so are the deterministic
algorithms that their scripts switch on. Tables go to ``--out``, and their rows to a ``.json`` next to it.
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from copy import deepcopy
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal
from unittest.mock import patch

import torch
from common import environment, written
from full_rows import Rows, our_scores, our_step
from peer_aa_clip import adapted
from peer_code import CATEGORIES, REAL, TINY, importable, script
from torch import Tensor, nn

from headlens.backbone.config import architecture_from_config
from headlens.backbone.loading import assemble
from headlens.detectors import Detector, build
from headlens.detectors.methods.aa_clip import AACLIPConfig
from headlens.detectors.methods.published_aa_clip import PublishedAdapters, adapted_detector, read_adapters
from headlens.detectors.precision import at_precision
from headlens.heads import clean_forward, heads_of, single_heads
from headlens.heads.measuring import measure

PRECISIONS = {"float32": None, "bfloat16": torch.bfloat16}


@contextmanager
def half(device: torch.device, dtype: torch.dtype | None) -> Iterator[None]:
    """Autocast; arrays, which have no bfloat16, get float32."""
    plain = Tensor.numpy
    autocast = torch.autocast(device.type, dtype) if dtype else nullcontext()
    with autocast, patch.object(Tensor, "numpy", lambda values: plain(values.float())):
        yield


class Theirs:
    """Their modules and functions on random weights."""

    def __init__(self, clone: Path, config: dict[str, Any], side: int, device: torch.device) -> None:
        importable(clone)
        from dataset.constants import REAL_NAMES
        from forward_utils import get_adapted_single_class_text_embedding
        from model.model import CLIP

        self.train, self.test, self.side, self.device = script(clone, "train"), script(clone, "test"), side, device
        self.phrases = tuple((category, REAL_NAMES["MVTec"][category]) for category in CATEGORIES)
        torch.manual_seed(0)
        sized = config | {"vision_cfg": config["vision_cfg"] | {"image_size": side}}
        with torch.device(device):
            self.clip = CLIP(**sized).eval()
            self.model = adapted(self.clip, config)
        with torch.no_grad():
            embedding = partial(get_adapted_single_class_text_embedding, self.model, "MVTec", device=device)
            self.text = {category: embedding(category) for category in CATEGORIES}
        self.always = {
            "device": device,
            "start_epoch": 0,
            "img_size": side,
            "save_path": "",
            "logger": logging.getLogger(),
        }

    def adapters(self, folder: Path) -> PublishedAdapters:
        """What is learned, by way of the files that train.py writes."""
        files = {part: folder / f"{part}.pth" for part in ("image_adapter", "text_adapter")}
        for part, file in files.items():
            torch.save({"epoch": 1, part: getattr(self.model, part).state_dict()}, file)
        return read_adapters(*files.values())

    def step(self, learned: nn.Module, train: Callable[..., Any], batch: dict[str, Any], dtype: Any) -> Tensor:
        """A step of one of their training functions, at a rate of 0 so that losses stay the same."""
        losses: list[Tensor] = []
        optimizer = torch.optim.Adam(learned.parameters(), lr=0.0, betas=(0.5, 0.999))
        backward = Tensor.backward

        def recorded(loss: Tensor) -> None:
            losses.append(loss.detach())
            backward(loss)

        unsaved, seen = patch.object(torch, "save", lambda *_: None), patch.object(Tensor, "backward", recorded)
        with half(self.device, dtype), unsaved, seen:
            train(train_loader=[batch], optimizer=optimizer, **self.always)
        return losses[-1]

    def teacher(self) -> nn.Module:
        """The frozen CLIP of the first stage."""
        surgery = deepcopy(self.clip)
        surgery.visual.DAPM_replace(DPAM_layer=20)
        return surgery.to(self.device)

    def first_stage(self, surgery: nn.Module, batch: dict[str, Any], dtype: Any) -> Tensor:
        """A step of the text adapters."""
        train = partial(self.train.train_text_adapter, self.model, surgery, 0.1, text_epoch=1, dataset_name="MVTec")
        return self.step(self.model.text_adapter, train, batch, dtype)

    def second_stage(self, batch: dict[str, Any], dtype: Any) -> Tensor:
        """A step of the image adapters."""
        still = torch.optim.lr_scheduler.MultiStepLR(
            torch.optim.SGD(self.model.image_adapter.parameters(), 0.0), [16000]
        )
        train = partial(self.train.train_image_adapter, self.model, self.text, scheduler=still, image_epoch=1)
        return self.step(self.model.image_adapter, train, batch, dtype)

    @torch.no_grad()
    def score(self, batch: dict[str, Any], dtype: Any) -> None:
        """Maps and scores of images of one category, on the CPU in the end."""
        batch = batch | {"class_name": [CATEGORIES[0]] * len(batch["image"])}
        with half(self.device, dtype):
            self.test.get_predictions(self.model, self.text[CATEGORIES[0]], [batch], self.device, self.side, "MVTec")


@torch.no_grad()
def sweep(detector: Detector, images: Tensor, heads: Literal["none", "all"]) -> None:
    """The clean forward of images, with every activation stored, and every global head's effect on them."""
    clean = clean_forward(detector, images, [CATEGORIES[0]] * len(images))
    if heads == "all":
        measure(clean, single_heads(heads_of(detector, streams=("global",))))


def measure_theirs(theirs: Theirs, rows: Rows, args: argparse.Namespace) -> None:
    """In both precisions as published, and in bfloat16 with CLIP frozen."""
    ways = {"theirs, float32": (None, False), "theirs, bfloat16": (torch.bfloat16, False)}
    ways |= {"theirs, bfloat16, CLIP frozen": (torch.bfloat16, True)}
    for way, (dtype, frozen) in ways.items():
        if not frozen:
            rows.add("scoring", way, args.score_batch, partial(theirs.score, rows.batch(args.score_batch), dtype))
        theirs.clip.requires_grad_(not frozen)
        for size in args.batches:
            rows.add("second stage", way, size, partial(theirs.second_stage, rows.batch(size), dtype))
            theirs.clip.zero_grad()
        work = partial(theirs.first_stage, theirs.teacher(), rows.batch(args.text_batch), dtype)
        rows.add("first stage", way, args.text_batch, work)
        theirs.clip.zero_grad()


def measure_ours(made: Callable[[AACLIPConfig], Detector], published: AACLIPConfig, rows: Rows, args: Any) -> None:
    """The same, as published; and the first stage where nothing goes across a batch, and features can be kept."""
    for name, dtype in PRECISIONS.items():
        way = f"ours, {name}"
        with at_precision(made(published), name) as lowered:
            rows.add("scoring", way, args.score_batch, partial(our_scores, lowered, rows.batch(args.score_batch)))
        del lowered
        for size in args.batches:
            rows.add("second stage", way, size, our_step(made(published), 1, dtype, rows.batch(size)))
        batch = rows.batch(args.text_batch)
        rows.add("first stage", way, args.text_batch, our_step(made(published), 0, dtype, batch))
    for way, stored in {"ours, bfloat16, within images": False, "ours, bfloat16, features kept": True}.items():
        detector = made(replace(published, across_batch=False, augment=False))
        rows.add("first stage", way, args.text_batch, our_step(detector, 0, torch.bfloat16, batch, stored))


def measure_sweeps(detector: Detector, rows: Rows, size: int) -> None:
    """Every global head of AA-CLIP, and of HeadCLIP on the same backbone."""
    images = rows.batch(size)["image"]
    for name, one in {"AA-CLIP": detector, "HeadCLIP": build(detector.backbone, "headclip")}.items():
        with at_precision(one.requires_grad_(False), "bfloat16") as lowered:
            rows.add("clean forward", f"{name}, bfloat16", size, partial(sweep, lowered, images, "none"))
            rows.add("all global heads", f"{name}, bfloat16", size, partial(sweep, lowered, images, "all"), rounds=1)
        del lowered


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clone", type=Path, help="of AA-CLIP's repository")
    parser.add_argument("--tiny", action="store_true", help="narrow, at 84 px: whether it runs")
    parser.add_argument("--batches", type=int, nargs="*", default=[2, 8], help="of the second stage")
    parser.add_argument("--text-batch", type=int, default=16, help="of the first stage")
    parser.add_argument("--score-batch", type=int, default=32)
    parser.add_argument("--sweep-batch", type=int, default=8)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    device, (config, side) = torch.device(args.device), (TINY, 84) if args.tiny else (REAL, 518)
    rows = Rows(device, side)

    theirs = Theirs(args.clone, config, side, device)
    state = {name: value.cpu().clone() for name, value in theirs.clip.state_dict().items()}
    with tempfile.TemporaryDirectory() as folder:
        adapters = theirs.adapters(Path(folder))
    published = AACLIPConfig(phrases=theirs.phrases, across_batch=True, last_tap=True)
    measure_theirs(theirs, rows, args)
    del theirs
    if device.type == "cuda":
        torch.cuda.empty_cache()
    sized = config | {"vision_cfg": config["vision_cfg"] | {"image_size": side}}
    backbone = assemble(architecture_from_config(sized), state, device=device)
    measure_ours(partial(adapted_detector, adapters, backbone), published, rows, args)
    measure_sweeps(adapted_detector(adapters, backbone, published), rows, args.sweep_batch)
    about = f"ViT-L-14-336 with GELU at {side} px{', narrow' if args.tiny else ''}. {environment(device)}."
    written(f"{rows.table()}\n\n{about}", args.out)
    if args.out is not None:
        args.out.with_suffix(".json").write_text(json.dumps({"rows": rows.rows, "about": about}, indent=1))


if __name__ == "__main__":
    main()
