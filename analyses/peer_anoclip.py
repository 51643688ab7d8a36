"""AnoCLIP's published code, AnoVL (github.com/hq-deng/AnoVL, commit 3a70bfd), on given weights and images.

    python analyses/peer_anoclip.py CLONE WORK --size 240 [--tiny] [--double]

``family_parity.py`` calls it, with ``WORK`` made by it, and reads ``WORK/theirs.pt``. ``test`` of both scripts is run
as it is, on one image at a time, because an image's adaptation begins where the one before it has left the optimiser.
What they draw at random, the adapter and the noise, is drawn as headlens draws it.
"""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock, patch

import numpy as np
import torch
from peer_code import CATEGORIES, PLUS, SMALL, TINY_PLUS, arguments, importable, masks_of_bytes, script
from torch import Tensor
from torch.utils.data import Subset

from headlens.detectors.methods.anoclip import OBJECTS
from headlens.detectors.parts.projections import seeded_linear

STEPS, SEED = 5, 0
LAST = 6  # of the streams after blocks 3, 6, 9 and 12, two each, the one that they read
SCRIPTS = {"mvtec": "vl_test", "visa": "vis_test"}


def turned(images: Tensor, angle: Tensor, padding_mode: str) -> Tensor:
    """kornia's ``rotate`` by quarter turns, as it is documented: counter-clockwise."""
    return torch.rot90(images, round(float(angle) / 90), (2, 3))


def grey(images: Tensor) -> Tensor:
    """kornia's ``rgb_to_grayscale`` as it is documented, [B, 3, h, w] to [B, 1, h, w]."""
    red, green, blue = images.split(1, 1)
    return 0.299 * red + 0.587 * green + 0.114 * blue


KORNIA = SimpleNamespace(
    geometry=SimpleNamespace(transform=SimpleNamespace(hflip=lambda images: images.flip(-1), rotate=turned)),
    color=SimpleNamespace(rgb_to_grayscale=grey),
)
"""For machines without it."""


class Draws:
    """What an adaptation draws, as headlens does: W and b, then the noise of each step.

    Args:
        order: of their sentences, the numbers that headlens gives to them.
    """

    def __init__(self, order: list[int]) -> None:
        self.generator, self.order = torch.Generator(), order

    def reset(self, module: Any) -> None:
        """In place of ``weight_reset``, which is given every part of an adapter; rows may belong to sentences."""
        if isinstance(module, torch.nn.Linear):
            precision, generator = torch.get_default_dtype(), self.generator.manual_seed(SEED)
            torch.set_default_dtype(torch.float32)  # in which headlens draws, whatever it computes in
            state = seeded_linear(module.in_features, module.out_features, generator=generator).state_dict()
            torch.set_default_dtype(precision)
            if module.out_features == len(self.order):
                state = {name: values[self.order] for name, values in state.items()}
            module.load_state_dict(state)

    def normal(self, mean: float, spread: float, shape: torch.Size) -> Tensor:
        """In place of ``torch.normal``; both tiles of a square image are that image, and given the same noise."""
        return mean + spread * torch.randn(shape[1:], generator=self.generator, dtype=torch.float32).expand(shape)


def options(size: int, work: Path, dataset: str, adapter: bool) -> Namespace:
    """Of their scripts, as ``test_zero_shot.sh`` has them."""
    known = {"mode": "zero_shot", "data_path": str(work), "save_path": str(work / "logs"), "model": SMALL.name}
    known |= {"features_list": [3, 6, 9, 12], "few_shot_features": [], "pretrained": str(work / "weights.pt")}
    known |= {"config_path": str(work / "config.json"), "epoch": STEPS, "image_size": size}
    return Namespace(**known, dataset=dataset, adapter=adapter)


class Run:
    """One of their scripts, image by image.

    Args:
        clone: of their repository.
        name: of the script, without suffix.
        text: their function of prompts, for both scripts.
        draws: what is drawn.
    """

    def __init__(self, clone: Path, name: str, text: Callable[..., Any], draws: Draws) -> None:
        self.module, self.text, self.draws = script(clone, name), text, draws

    def __call__(self, number: int, given: Namespace, views: bool = False) -> dict[str, Tensor]:
        """The image [3, h, w], embeddings of its patches [N, d_e], its map [h, w] and its score."""
        module, seen, scores = self.module, dict[str, Tensor](), list[np.ndarray]()
        data, layer, one = module.MVTecDataset, module.LinearLayer, np.ones(2)

        def only(**about: Any) -> Any:
            whole = data(**{"aug_rate": -1} | about)
            seen["image"] = whole[number]["img"]
            part: Any = Subset(whole, [number])
            part.get_cls_names = whole.get_cls_names
            return part

        def projected(*about: Any) -> Any:
            made = layer(*about)

            def forward(tokens: list[Tensor]) -> list[Tensor]:
                found = layer.forward(made, tokens)
                seen["patches"] = found[LAST][0].clone()
                return found

            made.forward = forward
            return made

        def scored(_: Any, values: np.ndarray) -> float:
            scores.extend([values] if len(values) else [])  # of the other category there is no image
            return 0.0

        names = {"roc_auc_score": scored, "MVTecDataset": only, "VisaDataset": only, "LinearLayer": projected}
        names |= dict.fromkeys(("average_precision_score", "auc", "cal_pro_score"), lambda *_: 0.0)
        names |= {"precision_recall_curve": lambda *_: (one, one, one), "weight_reset": self.draws.reset}
        names |= {"encode_text_with_prompt_ensemble": self.text} | ({} if views else {"aug": lambda images: images})
        with ExitStack() as stack:
            for name, value in names.items():
                stack.enter_context(patch.object(module, name, value))
            stack.enter_context(patch.object(torch, "normal", self.draws.normal))
            stack.enter_context(masks_of_bytes())
            module.test(given)
        pixels, score = (torch.from_numpy(values.copy()) for values in scores)
        return seen | {"map": pixels.view(given.image_size, -1), "score": score[0]}


def main() -> None:
    args = arguments(__doc__ or "")
    importable(args.clone)
    from open_clip import factory

    config = TINY_PLUS if args.tiny else PLUS
    factory._MODEL_CONFIGS[SMALL.name] = config
    (args.work / "config.json").write_text(json.dumps(config))
    import utils
    from prompt_ensemble import encode_text_with_prompt_ensemble

    utils.K = KORNIA if isinstance(utils.K, MagicMock) else utils.K
    torch.set_default_dtype(torch.float64 if args.double else torch.float32)
    text, order = cache_of_one(encode_text_with_prompt_ensemble), order_of(encode_text_with_prompt_ensemble)
    theirs: dict[str, Any] = {"categories": [category for category in CATEGORIES for _ in range(2)]}
    for dataset, name in SCRIPTS.items():
        run = Run(args.clone, name, text, Draws(order))
        ways = {"plain": partial(options, adapter=False), "adapted": partial(options, adapter=True)}
        for way, made in ways.items():
            # Their views are of float32, whatever the image is.
            views = dataset == "mvtec" and way == "adapted" and not args.double
            given = made(args.size, args.work, dataset)
            each = [run(number, given, views) for number in range(len(theirs["categories"]))]
            theirs[dataset, way] = {key: torch.stack([one[key] for one in each]) for key in each[0]}
            print(f"AnoCLIP: {name}, {way}", flush=True)
    prompts, _ = text()
    theirs["text"] = torch.stack([prompts[category].mT for category in CATEGORIES])
    torch.save(theirs | {"images": theirs["mvtec", "plain"]["image"]}, args.work / "theirs.pt")


def order_of(prompts: Callable[..., Any]) -> list[int]:
    """Their sentences of an object, in their order, by their numbers in headlens: normal ones, then abnormal ones."""
    theirs: list[str] = []
    ours = [sentence for state in OBJECTS.sentences(CATEGORIES[0]) for sentence in state]
    model = MagicMock(encode_text=lambda tokens: torch.ones(1, 1))
    prompts(model, CATEGORIES[:1], lambda sentences: theirs.extend(sentences) or torch.ones(1), "cpu")
    return [ours.index(sentence) for sentence in theirs]


def cache_of_one(function: Callable[..., Any]) -> Callable[..., Any]:
    """What a function returned at its first call, always: their prompts take longer than their images."""
    made: list[Any] = []

    def first(*args: Any) -> Any:
        made.extend([] if made else [function(*args)])
        return made[0]

    return first


if __name__ == "__main__":
    main()
