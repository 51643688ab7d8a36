"""AdaCLIP's published code (github.com/caoyunkang/AdaCLIP, commit e27ee32) on given weights and images, step by step.

    python analyses/peer_adaclip.py CLONE WORK --size 518 [--tiny] [--double]

``family_parity.py`` calls it, with ``WORK`` made by it, and reads ``WORK/theirs.pt``. Evaluation and a training step
are the functions of its trainer, one image at a time, as they take no more. What the steps hold is taken at their
seams: arguments and results. Their k-means has no seed: it begins here with the centres that headlens begins with.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from peer_code import CATEGORIES, REAL, TINY, WithoutCuda, arguments, importable, masks_of_bytes, recorded_losses
from sklearn.cluster import KMeans
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from torch.utils.data import default_collate

from headlens.detectors.clusters import first_centres

CLUSTERS = 20
SIZES = {"prompting_length": 5, "prompting_depth": 4, "prompting_branch": "VL", "prompting_type": "SD"}
PREFIX = "clip_model."


@contextmanager
def vocabulary() -> Iterator[None]:
    """Their tokenizer's file is kept apart from the repository: where a clone lacks it, open_clip's is the same."""
    from open_clip.tokenizer import default_bpe

    plain = gzip.open

    def opened(path: Any, *args: Any, **kwargs: Any) -> Any:
        missing = str(path).endswith("bpe_simple_vocab_16e6.txt.gz") and Path(path).stat().st_size < 1000
        return plain(default_bpe() if missing else path, *args, **kwargs)

    with patch.object(gzip, "open", opened):
        yield


def built(config: dict[str, Any], weights: Path, side: int, device: str = "cpu") -> Any:
    """Their trainer with its model, from the file of weights, for images of that side; it reads each quarter's end."""
    from method import AdaCLIP_Trainer, custom_clip

    torch.manual_seed(1)
    with (
        patch.dict(custom_clip._MODEL_CONFIGS, {"ViT-L-14-336": config}),
        patch.object(custom_clip, "download_pretrained_from_url", lambda *_, **__: str(weights)),
    ):
        widths = {"input_dim": config["vision_cfg"]["width"], "output_dim": config["embed_dim"]}
        about = {"learning_rate": 0.01, "device": device, "image_size": side, "use_hsf": True, "k_clusters": CLUSTERS}
        taps = [config["vision_cfg"]["layers"] // 4 * number for number in (1, 2, 3, 4)]
        trainer = AdaCLIP_Trainer("ViT-L-14-336", taps, **widths, **about, **SIZES).eval()
    trainer.clip_model.freeze_clip.requires_grad_(False)  # of which the optimiser has nothing
    return trainer


def clustered(points: np.ndarray) -> np.ndarray:
    """scikit-learn's clusters of points [n, d], from centres that are told."""
    tensor = torch.from_numpy(points)[None]
    start = first_centres(tensor @ tensor.mT, CLUSTERS, seed=0)[0]
    return KMeans(len(start), init=points[start], n_init=1).fit_predict(points)


def items_of(work: Path, trainer: Any, double: bool) -> list[dict[str, Any]]:
    """What their data set reads; it ends with its length alone."""
    from dataset.base_dataset import BaseDataset

    with masks_of_bytes():
        data = BaseDataset(CATEGORIES, trainer.preprocess, trainer.transform, str(work), training=False)
        items = [data[number] for number in range(len(data))]
    return [item | {"img": item["img"].double()} for item in items] if double else items


def evaluated(trainer: Any, items: list[dict[str, Any]]) -> dict[str, Tensor]:
    """``evaluation``, image by image: features, logits, clusters, maps before and after smoothing, scores."""
    from method import trainer as module

    model, names = trainer.clip_model, ("cls", "taps", "text", "logits", "clusters", "raw", "map")
    seen: dict[str, list[Tensor]] = {name: [] for name in names}
    plain_features, plain_clusters, plain_blur = model.extract_feat, model.HSF.forward, module.gaussian_filter

    def features(*args: Any) -> Any:
        cls, taps, text = plain_features(*args)
        for name, value in (("cls", cls), ("taps", torch.stack(taps, 1)), ("text", text.mT)):
            seen[name].append(value.clone())
        return cls, taps, text

    def fused(taps: Any, logits: list[Tensor]) -> Tensor:
        seen["logits"].append(torch.stack(logits, 1))
        seen["clusters"].append(plain_clusters(taps, logits))
        return seen["clusters"][-1]

    def blurred(raw: Any, **options: Any) -> Any:
        smooth = plain_blur(raw, **options)
        for name, value in (("raw", raw), ("map", smooth)):
            seen[name].append(torch.from_numpy(value)[None].clone())
        return smooth

    results: dict[str, Any] = {}
    with (
        patch.object(model, "extract_feat", features),
        patch.object(model.HSF, "forward", fused),
        patch.object(module, "gaussian_filter", blurred),
        patch.object(module, "calculate_metric", lambda given, _: results.update(given)),
        patch.object(module, "calculate_average_metric", lambda _: None),
    ):
        trainer.evaluation([default_collate([item]) for item in items], CATEGORIES, False)
    scores = torch.from_numpy(np.stack(results["anomaly_scores"]))
    return {name: torch.cat(values) for name, values in seen.items()} | {"score": scores}


@torch.no_grad()
def plain_text(trainer: Any, items: list[dict[str, Any]]) -> Tensor:
    """Text of each image [B, 2, d_e], of prompts that are not rounded to half precision."""
    model, texts = trainer.clip_model, []
    for item in items:
        with patch.object(Tensor, "half", lambda prompts: prompts):
            model.generate_and_set_dynamic_promtps(item["img"][None])
            texts.append(model.text_embedding_layer(model, [item["cls_name"]], "cpu").mT)
    return torch.cat(texts)


def step(trainer: Any, item: dict[str, Any]) -> dict[str, Any]:
    """``train_one_batch`` of one image: the loss, and gradients by the names that files have.

    Prompts are not rounded to half precision here, which would round each sentence's gradient as well.
    """
    learned = dict(trainer.named_parameters())
    with recorded_losses() as losses, ExitStack() as stack:
        stack.enter_context(WithoutCuda())
        stack.enter_context(patch.object(Tensor, "half", lambda prompts: prompts))
        for block in (*trainer.clip_model.visual.transformer.resblocks, *trainer.clip_model.transformer.resblocks):
            again = partial(checkpoint, block.forward, use_reentrant=False)  # the same numbers with less memory
            stack.enter_context(patch.object(block, "forward", again))
        trainer.train_one_batch(default_collate([item]))
    gradients = {
        name.removeprefix(PREFIX): torch.zeros_like(own) if own.grad is None else own.grad.clone()
        for name, own in learned.items()
        if any(part in name for part in trainer.learnable_paramter_list)
    }
    return {"loss": losses[-1], "gradients": gradients}


def main() -> None:
    args = arguments(__doc__ or "")
    with vocabulary():
        importable(args.clone)
        trainer = built(TINY if args.tiny else REAL, args.work / "weights.pt", args.size)
    trainer = trainer.double() if args.double else trainer
    trainer.clip_model.HSF.cluster_performer.fit_predict = clustered
    trainer.save(args.work / "adaclip.pth")
    items = items_of(args.work, trainer, args.double)
    theirs: dict[str, Any] = {
        "images": torch.stack([item["img"] for item in items]),
        "categories": [item["cls_name"] for item in items],
        "masks": torch.cat([item["img_mask"] for item in items]) > 0.5,
        **evaluated(trainer, items),
        "plain text": plain_text(trainer, items),
    }
    print("AdaCLIP: scored", flush=True)
    theirs["step"] = step(trainer, items[-1])
    print("AdaCLIP: a training step", flush=True)
    torch.save(theirs, args.work / "theirs.pt")


if __name__ == "__main__":
    main()
