"""What scoring an image costs published code of a method, and what it costs headlens.

    git clone https://github.com/caoyunkang/AdaCLIP .peers/adaclip
    python analyses/family_speed.py adaclip .peers/adaclip
    python analyses/family_speed.py crane .peers/crane
    python analyses/family_speed.py anoclip .peers/anovl
    python analyses/family_speed.py anoclip-plus .peers/anovl         # adaptation and 22 views, as on MVTec AD
    python analyses/family_speed.py winclip .peers/winclip            # or anomalib's
    python analyses/family_speed.py adaclip .peers/adaclip --real --device cuda --precision float16

Clones are those of ``family_parity.py``. Weights and images are random and the same for both: AnoCLIP and WinCLIP on
ViT-B-16-plus-240 at 240 px, AdaCLIP and Crane on ViT-B-16 at 336 px, or with ``--real`` on ViT-L-14-336 at 518 px.
Theirs compute in float32, as published; ``--precision`` is of ours. An image goes from normalised pixels to a map and a
score; text that is the same for all images is encoded before. AdaCLIP and AnoCLIP are given one image at once, as by
their scripts, and the others as many as ours. The two take turns in one process; the ratio is the median of the rounds'
ratios. One pass of CLIP's image tower over the same images shows how much of ours is CLIP itself.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import MagicMock

import peer_adaclip
import peer_anoclip
import peer_crane
import peer_winclip
import torch
import torch.nn.functional as F
from common import environment, paired
from peer_code import CATEGORIES, LARGE, PLUS, REAL, SMALL, importable, saved_weights, script
from scipy.ndimage import gaussian_filter
from torch import Tensor

from headlens.backbone import Backbone
from headlens.backbone.checkpoint import read_checkpoint
from headlens.backbone.config import architecture_from_config
from headlens.backbone.loading import assemble
from headlens.detectors import Detector, build
from headlens.detectors.methods.published_adaclip import read_conditioned
from headlens.detectors.precision import at_precision

BASE: dict[str, Any] = {
    "embed_dim": 512,
    "vision_cfg": {"image_size": 224, "layers": 12, "width": 768, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 512, "heads": 8, "layers": 12},
}
THING = CATEGORIES[0]


class Place(NamedTuple):
    """What both sides run on: config of the towers, pixels along a side of an image, device, and a folder of files."""

    config: dict[str, Any]
    side: int
    device: torch.device
    folder: Path

    @property
    def weights(self) -> Path:
        """The file of random weights."""
        return self.folder / "weights.pt"

    @property
    def taps(self) -> list[int]:
        """The end of each quarter of the image tower, counted from 1."""
        return [self.config["vision_cfg"]["layers"] // 4 * number for number in (1, 2, 3, 4)]


class Sides(NamedTuple):
    """Both sides of a comparison: what scores images [B, 3, h, w], and how many theirs is given at once; 0: as ours."""

    theirs: Callable[[Tensor], object]
    ours: Detector
    at_once: int = 0


def adaclip(clone: Path, place: Place, backbone: Backbone) -> Sides:
    """As their ``evaluation`` scores."""
    with peer_adaclip.vocabulary():
        trainer = peer_adaclip.built(place.config, place.weights, place.side, str(place.device))
    trainer.save(place.folder / "adaclip.pth")

    @torch.no_grad()
    def theirs(images: Tensor) -> None:
        maps, _ = trainer.clip_model(images, [THING], aggregation=True)
        gaussian_filter(maps[0].cpu().numpy(), sigma=4)

    return Sides(theirs, read_conditioned(place.folder / "adaclip.pth").on(backbone), at_once=1)


def crane(clone: Path, place: Place, backbone: Backbone) -> Sides:
    """As ``process_dataset`` of their test.py scores, with E-Attn in as large a part of 12 blocks as of 24."""
    from models.prompt_ensemble import PromptLearner

    test = script(clone, "test")
    blocks, options = place.taps[-1], peer_crane.options_of(place.side, features_list=place.taps)
    test.args, start = options, {24: 5, 12: 2}[blocks]
    model = peer_crane.built(options, place.weights, double=False, e_attn=blocks - start + 1)
    learner = PromptLearner(model, peer_crane.details_of(options))
    model, learner = model.to(place.device), learner.to(place.device)
    calculator = test.ScoreCalculator(model, None, options, learner, test.Crane.ScoreBasePooling()).to(place.device)
    prompts, tokens, deep, _ = learner()
    with torch.no_grad():
        pair = model.encode_text_learn(prompts, tokens, deep)
    calculator.text_features = F.normalize(torch.stack(torch.chunk(pair, dim=0, chunks=2), dim=1), dim=-1)

    @torch.no_grad()
    def theirs(images: Tensor) -> None:
        _, maps = calculator(images)
        [gaussian_filter(one.cpu().numpy(), sigma=4) for one in maps]

    return Sides(theirs, build(backbone, "crane", local_start=start, taps=(blocks - 1,)))


def anoclip(clone: Path, place: Place, backbone: Backbone, plus: bool = False) -> Sides:
    """As ``test`` of their vl_test.py scores; what it does between its functions is written again."""
    import open_clip
    import utils
    from model import LinearLayer, TextAdapter

    code = script(clone, "vl_test")
    utils.K = peer_anoclip.KORNIA if isinstance(utils.K, MagicMock) else utils.K
    model, _, _ = open_clip.create_model_and_transforms(SMALL.name, place.side, pretrained=str(place.weights))
    model = model.to(place.device)
    ours = build(backbone, "anoclip-plus", views=True) if plus else build(backbone, "anoclip")
    with torch.no_grad():
        pair = ours.text([THING]).mT  # [1, d, 2]; theirs are the same, and take minutes
    sentences = F.normalize(torch.randn(462, pair.shape[1], 2), dim=1)  # any do for their adapter
    adapter = TextAdapter(sentences.to(place.device)).to(place.device)
    optimiser = torch.optim.AdamW(adapter.parameters(), 1e-3)
    widths = PLUS["vision_cfg"]["width"], PLUS["embed_dim"]
    layer, taps = LinearLayer(*widths, len(place.taps), SMALL.name, model).to(place.device), place.taps

    def theirs(image: Tensor) -> None:
        with torch.no_grad():
            cls, tokens = model.encode_image(image, taps)
            if plus:
                cls, _ = model.encode_image(utils.aug(image.cpu()).to(place.device), taps)  # views by the CPU
            (F.normalize(cls, dim=-1) @ pair[0]).softmax(-1)
            found = code.resize_tokens(layer(tokens)[peer_anoclip.LAST])
        if plus:
            adapter.apply(code.weight_reset)
            for _ in range(peer_anoclip.STEPS):
                loss = code.loss_func((F.normalize(adapter(found), dim=-1) @ pair).softmax(-1))
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
        with torch.no_grad():
            found = adapter(found, is_test=True) if plus else found
            maps = (F.normalize(found, dim=-1) @ pair).softmax(-1)[..., 1][:, None]
            maps = F.avg_pool2d(F.pad(maps, (1, 1, 1, 1), "replicate"), 3, stride=1)
            F.interpolate(maps, size=place.side, mode="bilinear", align_corners=True)

    return Sides(theirs, ours, at_once=1)


def winclip(clone: Path, place: Place, backbone: Backbone) -> Sides:
    """As the implementation in the clone scores."""
    peer = peer_winclip.peer_of(clone, PLUS, place.weights, place.side, device=place.device)
    peer.told(THING)
    return Sides(torch.no_grad()(peer.scored), build(backbone, "winclip", **peer.settings))


METHODS: dict[str, tuple[Callable[..., Sides], str]] = {
    "adaclip": (adaclip, "ViT-B-16"),
    "crane": (crane, "ViT-B-16"),
    "anoclip": (anoclip, SMALL.name),
    "anoclip-plus": (partial(anoclip, plus=True), SMALL.name),
    "winclip": (winclip, SMALL.name),
}
TOWERS = {"ViT-B-16": (BASE, 336), SMALL.name: (PLUS, SMALL.size), LARGE.name: (REAL, LARGE.size)}
"""Configs, and pixels along a side."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("method", choices=METHODS)
    parser.add_argument("clone", type=Path, help="of the peer's repository")
    parser.add_argument("--batch", type=int, default=8, help="images at once, of ours")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--real", action="store_true", help="AdaCLIP and Crane on ViT-L-14-336 at 518 px")
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--precision", choices=("float32", "tf32", "float16", "bfloat16"), default="float32")
    args = parser.parse_args()
    made, towers = METHODS[args.method]
    towers = LARGE.name if args.real and towers == "ViT-B-16" else towers
    config, side = TOWERS[towers]
    with tempfile.TemporaryDirectory() as name:
        place = Place(config, side, args.device, Path(name))
        saved_weights(config, place.weights, openai=towers != SMALL.name)
        state = read_checkpoint(place.weights).state
        backbone = assemble(architecture_from_config(config), state, device=args.device)
        backbone.tokenizer([THING])
        for module in [module for module in sys.modules if module.split(".")[0] == "open_clip"]:
            del sys.modules[module]  # ours has it; theirs may have another
        importable(args.clone)
        sides = made(args.clone, place, backbone)
    images = torch.randn(args.batch, 3, side, side, generator=torch.Generator().manual_seed(0)).to(args.device)
    at_once, things = sides.at_once or args.batch, [THING] * args.batch

    with at_precision(sides.ours, args.precision) as detector:  # one copy for all calls
        pass

    def ours() -> None:
        with at_precision(detector, args.precision), torch.no_grad():
            detector(images, things)

    def theirs() -> None:
        sides.theirs(images[:at_once])

    def tower() -> None:
        with at_precision(detector, args.precision), torch.no_grad():
            detector.backbone.encode_image(images)

    contenders = {"theirs": theirs, "ours": ours, "one pass of CLIP alone": tower}
    seconds = paired(contenders, args.rounds, args.device)
    counts = {"theirs": at_once, "ours": args.batch, "one pass of CLIP alone": args.batch}
    each = {name: [time / count for time in seconds[name]] for name, count in counts.items()}
    ratios = [slow / fast for slow, fast in zip(each["theirs"], each["ours"], strict=True)]
    for name, count in counts.items():
        print(f"{name}, {count} at once: {statistics.median(each[name]):.3f} s an image")
    print(f"ratio: {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f} in {args.rounds} rounds)")
    print(f"{args.method}: {towers} at {side} px, ours in {args.precision}. {environment(args.device)}")


if __name__ == "__main__":
    main()
