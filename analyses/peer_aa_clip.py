"""AA-CLIP's published code (github.com/Mwxinnn/AA-CLIP, commit 53db195) on given weights and images, step by step.

    python analyses/peer_aa_clip.py CLONE WORK --size 518 [--tiny] [--double]

``family_parity.py`` calls it, with ``WORK`` made by it, and reads ``WORK/theirs.pt``. Test and both stages of training
are the functions of the published scripts. What the steps hold is taken at their seams: arguments and results.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from peer_code import CATEGORIES, REAL, TINY, arguments, importable, recorded_losses, script
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torch.utils.data import default_collate


def built(config: dict[str, Any], weights: Path, side: int, double: bool) -> nn.Module:
    """Their CLIP from the file of weights, for images of that side, without gradients of its own."""
    from model import clip

    files, configs = {"ViT-L-14-336": weights}, {"ViT-L-14-336": config}
    with patch.object(clip, "_MODEL_CKPT_PATHS", files), patch.object(clip, "_MODEL_CONFIGS", configs):
        model = clip.create_model("ViT-L-14-336", side, pretrained="openai").eval().requires_grad_(False)
    return model.double() if double else model


def adapted(clip_model: nn.Module, config: dict[str, Any]) -> nn.Module:
    """Their adapters on it, as train.py makes them; widths, which they write as numbers, are those of ``config``."""
    from model import adapter

    widths = {1024: config["vision_cfg"]["width"], 768: config["embed_dim"]}

    def narrow(kind: type[nn.Module], c_in: int, c_out: int, *args: Any, **kwargs: Any) -> nn.Module:
        return kind(widths[c_in], widths[c_out], *args, **kwargs)

    kinds = {name: partial(narrow, getattr(adapter, name)) for name in ("SimpleAdapter", "SimpleProj")}
    with patch.multiple(adapter, **kinds):
        return adapter.AdaptedCLIP(clip_model, relu=False).eval().to(clip_model.logit_scale.dtype)


def lighter(clip_model: nn.Module) -> None:
    """The same numbers with less memory: activations of a block are computed again in the backward pass."""
    for block in clip_model.visual.transformer.resblocks:
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)


def predicted(model: nn.Module, text: dict[str, Tensor], items: list[dict[str, Any]], clone: Path) -> dict[str, Any]:
    """test.py: features, maps before and after smoothing, image scores, and the scores that metrics are made of.

    Maps and scores are those of an industrial set, and those of a medical one.
    """
    import forward_utils
    from dataset.constants import DOMAINS
    from sklearn.metrics import roc_auc_score

    test, blur, side = script(clone, "test"), forward_utils.gaussian_blur2d, items[0]["image"].shape[-1]
    names = ("taps", "token", "coarse", "map", "image score", "joint", "medical map", "medical joint")
    parts: dict[str, list[Any]] = {name: [] for name in names}
    coarse: list[Tensor] = []
    ranked: list[Tensor] = []

    def blurred(maps: Tensor, *args: Any) -> Tensor:
        coarse.append(maps.clone())
        return blur(maps, *args)

    def auroc(labels: Any, scores: Any) -> float:
        ranked.append(torch.from_numpy(scores))
        return float(roc_auc_score(labels, scores))

    def scored(see: Any, category: str, batch: dict[str, Any], dataset: str) -> tuple[Tensor, ...]:
        masks, labels, *scores, _ = test.get_predictions(see, text[category], [batch], "cpu", side, dataset)
        test.metrics_eval(masks, labels, *scores, category, DOMAINS[dataset])
        return torch.from_numpy(scores[0]), torch.from_numpy(scores[1]), ranked[-1]  # those of pixels come first

    for category in CATEGORIES:
        coarse.clear()
        batch = default_collate([item for item in items if item["class_name"] == category])
        with (
            torch.no_grad(),
            patch.object(forward_utils, "gaussian_blur2d", blurred),
            patch.object(forward_utils, "roc_auc_score", auroc),
        ):
            seen = model(batch["image"])
            taps, token = torch.stack(seen[0], 1), seen[1]
            industrial = scored(lambda _, seen=seen: seen, category, batch, "MVTec")
            grids = torch.cat(coarse, 1)
            maps, _, joint = scored(lambda _, seen=seen: seen, category, batch, "Brain")
        for name, value in zip(names, (taps, token, grids, *industrial, maps, joint), strict=True):
            parts[name].append(value)
    return {name: torch.cat(values) for name, values in parts.items()}


def step(train: Any, learned: nn.Module, lr: float, batch: dict[str, Any]) -> dict[str, Any]:
    """One step of a published training function: the loss and its gradients; weights are as before."""
    before = {name: value.clone() for name, value in learned.state_dict().items()}
    optimizer = torch.optim.Adam(learned.parameters(), lr=lr, betas=(0.5, 0.999))
    with recorded_losses() as losses:
        train(train_loader=[batch], optimizer=optimizer)
    gradients = [parameter.grad.clone() for parameter in learned.parameters()]
    learned.load_state_dict(before)
    return {"loss": losses[-1], "gradients": gradients}


def remembered(model: nn.Module) -> nn.Module:
    """The same, which encodes the one batch that it is given once."""
    encode, known = model.encode_image, []

    def encoded(*args: Any) -> Any:
        if not known:
            known.append(encode(*args))
        return known[0]

    model.encode_image = encoded  # type: ignore[assignment]
    return model


def within_an_image(attention: nn.Module) -> nn.Module:
    """Their attention on batches first, as it is written, where their blocks give it tokens first."""
    forward = attention.forward

    def turned(q: Tensor, k: Tensor, v: Tensor, **mask: Any) -> list[Tensor]:
        out, weights = forward(q.transpose(0, 1), k, v, **mask)
        return [out.transpose(0, 1), weights]

    attention.forward = turned  # type: ignore[method-assign]
    return attention


@contextmanager
def all_taps(train: Any) -> Iterator[None]:
    """The loss of a tap counts those before it as well, so that the last one, which is minimised, counts all."""
    of_one, losses = train.calculate_seg_loss, []

    def summed(*args: Any) -> Tensor:
        losses.append(of_one(*args))
        return torch.stack(losses).sum()

    with patch.object(train, "calculate_seg_loss", summed):
        yield


def main() -> None:
    args = arguments(__doc__ or "")
    importable(args.clone)
    from dataset import BaseSingleClassDataset
    from dataset.constants import REAL_NAMES
    from forward_utils import get_adapted_single_class_text_embedding

    config, side = TINY if args.tiny else REAL, args.size
    sources = (str(args.work), str(args.work / "full-shot.jsonl"), side)
    items = [item for category in CATEGORIES for item in list_of(BaseSingleClassDataset(*sources, category))]
    if args.double:
        items = [item | {"image": item["image"].double()} for item in items]
    batch = default_collate([items[0], items[-1]])
    make = partial(built, config, args.work / "weights.pt", side, args.double)
    clip_model = make()
    torch.manual_seed(1)
    model = adapted(clip_model, config)
    for part in ("text_adapter", "image_adapter"):  # as train.py writes them
        torch.save({"epoch": 1, part: getattr(model, part).state_dict()}, args.work / f"{part}.pth")
    with torch.no_grad():
        text = {c: get_adapted_single_class_text_embedding(model, "MVTec", c, "cpu") for c in CATEGORIES}
    theirs: dict[str, Any] = {
        "images": torch.stack([item["image"] for item in items]),
        "categories": [item["class_name"] for item in items],
        "masks": torch.cat([item["mask"] for item in items]) > 0.5,
        "labels": torch.tensor([item["label"] for item in items]),
        "phrases": [(category, REAL_NAMES["MVTec"][category]) for category in CATEGORIES],
        "text": torch.stack([text[category].T for category in CATEGORIES]),
        **predicted(model, text, items, args.clone),
    }
    print("AA-CLIP: scored", flush=True)

    train = script(args.clone, "train")
    always = {"device": "cpu", "start_epoch": 0, "img_size": side, "logger": logging.getLogger()}
    always["save_path"] = str(args.work / "trained")
    (args.work / "trained").mkdir(exist_ok=True)
    lighter(clip_model)
    still = torch.optim.lr_scheduler.MultiStepLR(torch.optim.SGD(model.image_adapter.parameters(), 0.0), [16000])
    second = partial(train.train_image_adapter, model, text, scheduler=still, image_epoch=1, **always)
    theirs["second stage"] = step(second, model.image_adapter, 5e-4, batch)
    print("AA-CLIP: a step of the second stage", flush=True)
    remembered(clip_model)
    for across in (True, False):
        surgery = make()
        surgery.visual.DAPM_replace(DPAM_layer=20)
        if not across:
            for block in surgery.visual.transformer.resblocks[-19:]:
                within_an_image(block.attn)
        first = partial(
            train.train_text_adapter, model, remembered(surgery), 0.1, text_epoch=1, dataset_name="MVTec", **always
        )
        for last in (True, False):
            with nullcontext() if last else all_taps(train):
                theirs["first stage", across, last] = step(first, model.text_adapter, 1e-5, batch)
            print(f"AA-CLIP: a step of the first stage, across the batch: {across}, last tap: {last}", flush=True)
    torch.save(theirs, args.work / "theirs.pt")


def list_of(items: Any) -> list[dict[str, Any]]:
    """What their data sets hold; they end with their length alone."""
    return [items[number] for number in range(len(items))]


if __name__ == "__main__":
    main()
