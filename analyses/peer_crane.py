"""Crane's published code (github.com/AlirezaSalehy/Crane, commit 39181f9) on given weights and images, step by step.

    python analyses/peer_crane.py CLONE WORK --size 518 [--tiny] [--double]

``family_parity.py`` calls it, with ``WORK`` made by it, and reads ``WORK/theirs.pt``. Their towers see each image once,
with a random network in place of DINOv2, which cannot be downloaded here: features of Crane and of Crane+ are both in
what they give. The scores of test.py and a step of train.py are then made of these by their own functions.
"""

from __future__ import annotations

from argparse import Namespace
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock, patch

import torch
from peer_code import CATEGORIES, arguments, importable, recorded_losses, script
from PIL import Image
from torch import Tensor, nn
from tqdm import tqdm

TAPS = [6, 12, 18, 24]


class Network(nn.Module):
    """Random features of 14 x 14 pixels, under the name that DINOv2's have."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.patches = nn.Conv2d(3, 64, 14, 14)

    def forward(self, images: Tensor) -> Tensor:
        """[B, 3, h, w] to [B, 64, rows, columns]; without what all patches have in common."""
        features = self.patches(images)
        return features - features.mean((2, 3), keepdim=True)

    def get_intermediate_layers(self, images: Tensor, reshape: bool) -> list[Tensor]:
        """The same."""
        return [self(images)]


def options_of(size: int, **others: Any) -> Namespace:
    """Of their scripts, as ``test.sh`` and ``reproduce.sh`` have them."""
    known = {"image_size": size, "features_list": TAPS, "dino_model": "none", "both_eattn_dattn": True, "n_ctx": 12}
    known |= {"depth": 9, "t_n_ctx": 4, "train_with_img_cls_prob": 0, "train_with_img_cls_type": "pad_suffix"}
    known |= {"use_scorebase_pooling": True, "soft_mean": True, "attn_type": "qq+kk+vv", "interpolation": "nearest"}
    known |= {"epoch": 1, "learning_rate": 0.001, "batch_size": 8, "seed": 111, "save_freq": 99, "save_path": ""}
    return Namespace(**known | {"train_data_path": "", "dataset": "mvtec"} | others)


def details_of(options: Namespace) -> dict[str, Any]:
    """What their classes are told of it."""
    depth, length = options.depth, options.t_n_ctx
    sizes = {"learnabel_text_embedding_depth": depth, "learnabel_text_embedding_length": length}
    return {"Prompt_length": options.n_ctx, **sizes, "others": options}


def built(options: Namespace, weights: Path, double: bool, e_attn: int = 20) -> Any:
    """Their CLIP from the file of weights, with E-Attn in one block less than that, the last ones."""
    import models
    from models import model_load

    no_archive = MagicMock(side_effect=RuntimeError)  # it is a state dict
    with patch.object(model_load, "_download", lambda *_: str(weights)), patch.object(torch.jit, "load", no_archive):
        model, _ = models.load("ViT-L/14@336px", "cpu", details_of(options))
    model = model.double() if double else model
    model.visual.replace_with_EAttn(to_layer=e_attn, type=options.attn_type)
    model.visual.replace_with_EAttn = lambda **_: None  # which their scripts do again
    return model.requires_grad_(False).eval()


def seen_by(model: Any, images: Tensor, network: Network) -> dict[str, Tensor]:
    """CLS and patches of E-Attn and D-Attn after the last block, image by image; and four taps of the first image."""
    parts: dict[str, list[Tensor]] = {"cls": [], "patches": [], "more": []}
    _, taps = model.encode_image(images[:1], TAPS, self_cor_attn_layers=20)
    model.vfm, model.vfm_model = network, "dinov2"
    for image in images[:, None]:  # D-Attn's mean is over a batch: here it is one image
        cls, (more, patches) = model.encode_image(image, [24], self_cor_attn_layers=20)
        for name, value in (("cls", cls), ("patches", patches), ("more", more)):
            parts[name].append(value)
    return {name: torch.cat(values) for name, values in parts.items()} | {"taps": torch.stack(taps)}


def remembered(model: Any, cls: Tensor, patches: list[Tensor]) -> Any:
    """The same model, which has seen its images already."""
    model.encode_image = lambda *_, **__: (cls.clone(), [one.clone() for one in patches])
    return model


def scored(test: Any, model: Any, learner: Any, options: Namespace, given: Tensor) -> dict[str, Tensor]:
    """test.py's scores and maps, before its Gaussian, and the text that they are of, [B or 1, 2, d]."""
    import torch.nn.functional as F

    texts: list[Tensor] = []
    logits = test.calc_similarity_logits

    def compared(features: Tensor, text: Tensor, *args: Any) -> Tensor:
        texts.append(text)
        return logits(features, text, *args)

    test.args = options  # which it reads where the script would have put it
    calculator = test.ScoreCalculator(model, None, options, learner, test.Crane.ScoreBasePooling())
    if options.train_with_img_cls_prob == 0:
        prompts, tokens, deep, _ = learner()
        with torch.no_grad():
            pair = model.encode_text_learn(prompts, tokens, deep).to(given.dtype)
        calculator.text_features = F.normalize(torch.stack(torch.chunk(pair, dim=0, chunks=2), dim=1), dim=-1)
    with torch.no_grad(), patch.object(test, "calc_similarity_logits", compared):
        score, anomaly_map = calculator(given)
    return {"score": score, "map": anomaly_map, "text": texts[0]}


def step(
    train: Any, model: Any, options: Namespace, state: dict[str, Tensor], batch: dict[str, Tensor]
) -> dict[str, Any]:
    """A step of train.py: the loss and the gradients of its prompts, by their names."""
    made: list[Any] = []
    learner = train.PromptLearner

    def learning(*args: Any) -> Any:
        made.append(learner(*args).to(batch["img"].dtype))
        made[-1].load_state_dict(state)
        return made[-1]

    with ExitStack() as stack:
        stack.enter_context(patch.object(train.models, "load", lambda *_, **__: (model, None)))
        for name, value in {
            "PromptLearner": learning,
            "Dataset": lambda **_: [],
            "DataLoader": lambda *_, **__: [batch],
            "get_logger": MagicMock(),
            "tqdm": partial(tqdm, disable=True),
        }.items():
            stack.enter_context(patch.object(train, name, value))
        # Prompts are of half precision already; rounding would round their gradients as well.
        stack.enter_context(patch.object(Tensor, "half", lambda prompts: prompts))
        losses = stack.enter_context(recorded_losses())
        train.train(options)
    return {"loss": losses[-1], "gradients": {name: p.grad.clone() for name, p in made[-1].named_parameters()}}


def main() -> None:
    args = arguments(__doc__ or "")
    importable(args.clone)
    from models.prompt_ensemble import PromptLearner
    from utils.transform import get_transform

    test, train = script(args.clone, "test"), script(args.clone, "train")
    options, dtype = options_of(args.size), torch.float64 if args.double else torch.float32
    model, network = built(options, args.work / "weights.pt", args.double), Network().to(dtype).requires_grad_(False)
    transform, of_masks = get_transform(options)
    images, masks = [], []
    for category in CATEGORIES:
        for kind in ("good", "scratch"):
            path = args.work / category / "test" / kind / "000.png"
            images.append(transform(Image.open(path)))
            masks.append(torch.zeros(1, args.size, args.size))
            with suppress(FileNotFoundError):
                masks[-1] = (
                    of_masks(Image.open(args.work / category / f"ground_truth/{kind}/000_mask.png")) > 0.5
                ) * 1.0
    given, truth = torch.stack(images).to(dtype), torch.stack(masks)

    torch.manual_seed(1)
    learner = PromptLearner(model, details_of(options)).to(dtype)
    with torch.no_grad():
        for parameter in learner.parameters():
            parameter.mul_(2)
        for prompt in learner.compound_prompts_text:
            prompt.copy_(prompt.half())  # as they round it
    state = {name: value.clone() for name, value in learner.state_dict().items()}
    torch.save({"prompt_learner": state}, args.work / "epoch_5.pth")

    seen = seen_by(model, given, network)
    print("Crane: features", flush=True)
    theirs: dict[str, Any] = {"images": given, "masks": truth[:, 0] > 0.5, "network": network.state_dict(), **seen}
    four = [seen["patches"]] * 4  # which four taps are in their code: the first image's are compared
    more = [seen["more"], seen["patches"]]
    batch = {"img": given, "anomaly": truth.flatten(1).amax(1).long(), "abnorm_mask": truth}
    for name, patches, of in (("crane", four, {}), ("crane-plus", more, {"features_list": [24]})):
        for shown in (0, 1):
            learner = PromptLearner(model, details_of(options_of(args.size, train_with_img_cls_prob=shown)))
            learner.to(dtype).load_state_dict(state)
            chosen = options_of(args.size, train_with_img_cls_prob=shown, **of)
            theirs[name, shown] = scored(test, remembered(model, seen["cls"], patches), learner, chosen, given)
        chosen = options_of(args.size, train_with_img_cls_prob=1, **of)
        theirs[name, "step"] = step(train, model, chosen, state, batch)
        print(f"Crane: scores and a step of {name}", flush=True)
    torch.save(theirs, args.work / "theirs.pt")


if __name__ == "__main__":
    main()
