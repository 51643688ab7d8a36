"""What scoring an image costs published code of a method without a GPU, and what it costs headlens.

    git clone https://github.com/caoyunkang/AdaCLIP .peers/adaclip
    python analyses/family_speed.py adaclip .peers/adaclip
    python analyses/family_speed.py crane .peers/crane
    python analyses/family_speed.py anoclip .peers/anovl
    python analyses/family_speed.py anoclip-plus .peers/anovl         # adaptation and 22 views, as on MVTec AD
    python analyses/family_speed.py winclip .peers/winclip            # or anomalib's

Clones are those of ``family_parity.py``. Weights and images are random and the same for both: ViT-B-16 at 336 px, or
ViT-B-16-plus-240 at 240 px, in float32. An image goes from normalised pixels to a map and a score; text that is the
same for all images is encoded before. AdaCLIP and AnoCLIP are given one image at once, as by their scripts, and the
others as many as ours. The two take turns in one process; the ratio is the median of the rounds' ratios.
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
from peer_code import CATEGORIES, PLUS, SMALL, importable, saved_weights, script
from scipy.ndimage import gaussian_filter
from torch import Tensor

from headlens.backbone import Backbone
from headlens.backbone.checkpoint import read_checkpoint
from headlens.backbone.config import architecture_from_config
from headlens.backbone.loading import assemble
from headlens.detectors import Detector, build
from headlens.detectors.methods.published_adaclip import read_conditioned

BASE: dict[str, Any] = {
    "embed_dim": 512,
    "vision_cfg": {"image_size": 224, "layers": 12, "width": 768, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 512, "heads": 8, "layers": 12},
}
THING = CATEGORIES[0]


class Sides(NamedTuple):
    """Both sides of a comparison: what scores images [B, 3, h, w], and how many theirs is given at once; 0: as ours."""

    theirs: Callable[[Tensor], object]
    ours: Detector
    at_once: int = 0


def adaclip(clone: Path, folder: Path, side: int, backbone: Backbone) -> Sides:
    """As their ``evaluation`` scores."""
    with peer_adaclip.vocabulary():
        trainer = peer_adaclip.built(BASE, folder / "weights.pt", side)
    trainer.save(folder / "adaclip.pth")

    @torch.no_grad()
    def theirs(images: Tensor) -> None:
        maps, _ = trainer.clip_model(images, [THING], aggregation=True)
        gaussian_filter(maps[0].numpy(), sigma=4)

    return Sides(theirs, read_conditioned(folder / "adaclip.pth").on(backbone), at_once=1)


def crane(clone: Path, folder: Path, side: int, backbone: Backbone) -> Sides:
    """As ``process_dataset`` of their test.py scores, with E-Attn in as large a part of 12 blocks as of 24."""
    from models.prompt_ensemble import PromptLearner

    test = script(clone, "test")
    options = test.args = peer_crane.options_of(side, features_list=[3, 6, 9, 12])
    model = peer_crane.built(options, folder / "weights.pt", double=False, e_attn=11)
    learner = PromptLearner(model, peer_crane.details_of(options))
    calculator = test.ScoreCalculator(model, None, options, learner, test.Crane.ScoreBasePooling())
    prompts, tokens, deep, _ = learner()
    with torch.no_grad():
        pair = model.encode_text_learn(prompts, tokens, deep)
    calculator.text_features = F.normalize(torch.stack(torch.chunk(pair, dim=0, chunks=2), dim=1), dim=-1)

    @torch.no_grad()
    def theirs(images: Tensor) -> None:
        _, maps = calculator(images)
        [gaussian_filter(one.numpy(), sigma=4) for one in maps]

    return Sides(theirs, build(backbone, "crane", local_start=2, taps=(11,)))


def anoclip(clone: Path, folder: Path, side: int, backbone: Backbone, plus: bool = False) -> Sides:
    """As ``test`` of their vl_test.py scores; what it does between its functions is written again."""
    import open_clip
    import utils
    from model import LinearLayer, TextAdapter

    code = script(clone, "vl_test")
    utils.K = peer_anoclip.KORNIA if isinstance(utils.K, MagicMock) else utils.K
    model, _, _ = open_clip.create_model_and_transforms(SMALL.name, side, pretrained=str(folder / "weights.pt"))
    ours = build(backbone, "anoclip-plus", views=True) if plus else build(backbone, "anoclip")
    with torch.no_grad():
        pair = ours.text([THING]).mT  # [1, d, 2]; theirs are the same, and take minutes
    sentences = F.normalize(torch.randn(462, pair.shape[1], 2), dim=1)  # any do for their adapter
    adapter = TextAdapter(sentences)
    optimiser = torch.optim.AdamW(adapter.parameters(), 1e-3)
    layer, taps = LinearLayer(PLUS["vision_cfg"]["width"], PLUS["embed_dim"], 4, SMALL.name, model), [3, 6, 9, 12]

    def theirs(image: Tensor) -> None:
        with torch.no_grad():
            cls, tokens = model.encode_image(image, taps)
            if plus:
                cls, _ = model.encode_image(utils.aug(image), taps)
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
            F.interpolate(maps, size=side, mode="bilinear", align_corners=True)

    return Sides(theirs, ours, at_once=1)


def winclip(clone: Path, folder: Path, side: int, backbone: Backbone) -> Sides:
    """As the implementation in the clone scores."""
    peer = peer_winclip.peer_of(clone, PLUS, folder / "weights.pt", side)
    peer.told(THING)
    return Sides(torch.no_grad()(peer.scored), build(backbone, "winclip", **peer.settings))


METHODS: dict[str, tuple[Callable[..., Sides], dict[str, Any], int]] = {
    "adaclip": (adaclip, BASE, 336),
    "crane": (crane, BASE, 336),
    "anoclip": (anoclip, PLUS, 240),
    "anoclip-plus": (partial(anoclip, plus=True), PLUS, 240),
    "winclip": (winclip, PLUS, 240),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("method", choices=METHODS)
    parser.add_argument("clone", type=Path, help="of the peer's repository")
    parser.add_argument("--batch", type=int, default=8, help="images at once, of ours")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    (made, config, side), device = METHODS[args.method], torch.device("cpu")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        saved_weights(config, folder / "weights.pt", openai=config is BASE)
        backbone = assemble(architecture_from_config(config), read_checkpoint(folder / "weights.pt").state)
        backbone.tokenizer([THING])
        for module in [module for module in sys.modules if module.split(".")[0] == "open_clip"]:
            del sys.modules[module]  # ours has it; theirs may have another
        importable(args.clone)
        sides = made(args.clone, folder, side, backbone)
    images = torch.randn(args.batch, 3, side, side, generator=torch.Generator().manual_seed(0))
    at_once, things = sides.at_once or args.batch, [THING] * args.batch

    @torch.no_grad()
    def ours() -> None:
        sides.ours(images, things)

    def theirs() -> None:
        sides.theirs(images[:at_once])

    seconds = paired({"theirs": theirs, "ours": ours}, args.rounds, device)
    counts = {"theirs": at_once, "ours": args.batch}
    each = {name: [time / count for time in seconds[name]] for name, count in counts.items()}
    ratios = [slow / fast for slow, fast in zip(*each.values(), strict=True)]
    for name, count in counts.items():
        print(f"{name}, {count} at once: {statistics.median(each[name]):.3f} s an image")
    print(f"ratio: {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f} in {args.rounds} rounds)")
    print(f"{args.method}: {'ViT-B-16' if config is BASE else SMALL.name} at {side} px. {environment(device)}")


if __name__ == "__main__":
    main()
