"""APRIL-GAN's published code (github.com/ByChelsea/VAND-APRIL-GAN) on given weights and images, step by step.

    python analyses/peer_april_gan.py CLONE WORK --size 518 [--tiny] [--double]

``family_parity.py`` calls it, with ``WORK`` made by it, and reads ``WORK/theirs.pt``. The scripts test.py and train.py
run as they are; what their steps hold is taken at their seams: arguments and results of the functions they call.
"""

from __future__ import annotations

import json
from argparse import Namespace
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from peer_code import CATEGORIES, REAL, TINY, WithoutCuda, arguments, importable, recorded_losses, script
from PIL import Image
from torch import Tensor, nn


def with_weights(stack: ExitStack, config: dict[str, Any], weights: Path, double: bool) -> None:
    """Their loader of OpenAI's models reads this file, for this architecture."""
    import open_clip
    from open_clip import factory, openai

    make = open_clip.create_model_and_transforms

    def made(*args: Any, **kwargs: Any) -> Any:
        model, *transforms = make(*args, **kwargs)
        return (model.double() if double else model), *transforms

    stack.enter_context(patch.object(openai, "download_pretrained_from_url", lambda *_, **__: str(weights)))
    stack.enter_context(patch.dict(factory._MODEL_CONFIGS, {"ViT-L-14-336": config}))
    stack.enter_context(patch.object(open_clip, "create_model_and_transforms", made))


def recorded_items(stack: ExitStack, module: Any, double: bool) -> dict[int, dict[str, Any]]:
    """The images and masks that the script's data set gives, by number."""
    items: dict[int, dict[str, Any]] = {}

    class Recorded(module.MVTecDataset):  # type: ignore[misc]
        def __getitem__(self, number: int) -> dict[str, Any]:
            item = super().__getitem__(number)
            if double:
                item["img"] = item["img"].double()
            return items.setdefault(number, item)

    stack.enter_context(patch.object(module, "MVTecDataset", Recorded))
    return items


def tested(test: Any, options: dict[str, Any], config: dict[str, Any], double: bool) -> dict[str, Any]:
    """test.py from files to scores: text, projected patches, maps, image scores."""
    texts: dict[str, Tensor] = {}
    taps: list[Tensor] = []
    maps: list[Tensor] = []
    scores: list[Tensor] = []
    ensemble, auroc, layer = test.encode_text_with_prompt_ensemble, test.roc_auc_score, test.LinearLayer

    def encoded(*args: Any) -> dict[str, Tensor]:
        texts.update(ensemble(*args))
        return texts

    def made(*args: Any) -> nn.Module:
        linear = layer(*args)
        linear.register_forward_hook(lambda _, __, out: taps.append(torch.cat([tap.clone() for tap in out])))
        return linear.double() if double else linear

    def regions(_: Any, values: Any) -> float:
        maps.append(torch.from_numpy(values))
        return 0.0

    def ranked(labels: Any, values: Any) -> float:
        scores.append(torch.as_tensor(values))
        return float(auroc(labels, values))

    with ExitStack() as stack:
        items = recorded_items(stack, test, double)
        replaced = {"encode_text_with_prompt_ensemble": encoded, "LinearLayer": made, "cal_pro_score": regions}
        replaced |= {"roc_auc_score": ranked, "apply_ad_scoremap": lambda *_: None}
        stack.enter_context(patch.multiple(test, **replaced))
        test.test(Namespace(**options, mode="zero_shot", few_shot_features=[], k_shot=0))
    ordered = [items[number] for number in sorted(items)]
    return {
        "images": torch.stack([item["img"] for item in ordered]),
        "categories": [item["cls_name"] for item in ordered],
        "text": torch.stack([texts[category] for category in CATEGORIES]),
        "taps": torch.stack(taps),
        "map": torch.cat(maps),
        "image score": torch.cat(scores[1::2]),  # of each category, those of pixels come first
    }


def trained(train: Any, options: dict[str, Any], text: dict[str, Tensor], double: bool) -> dict[str, Any]:
    """A step of train.py on all images, with text that test.py has made: the weights, the loss, the gradients."""
    step: dict[str, Any] = {}

    class Recorded(torch.optim.Adam):
        def step(self, *args: Any) -> None:  # type: ignore[override]
            learned = self.param_groups[0]["params"]
            step["weights"] = [parameter.detach().clone() for parameter in learned]
            step["gradients"] = [parameter.grad.clone() for parameter in learned]
            super().step(*args)

    layer = train.LinearLayer
    with ExitStack() as stack:
        items = recorded_items(stack, train, double)
        losses = stack.enter_context(recorded_losses())
        stack.enter_context(patch.object(torch.optim, "Adam", Recorded))
        stack.enter_context(patch.object(train, "encode_text_with_prompt_ensemble", lambda *_: text))
        if double:
            stack.enter_context(patch.object(train, "LinearLayer", lambda *args: layer(*args).double()))
        sizes = {"epoch": 1, "batch_size": 4, "learning_rate": 1e-3, "aug_rate": -1, "print_freq": 1, "save_freq": 9}
        train.train(Namespace(**options, **sizes, train_data_path=options["data_path"]))
    masks = torch.cat([items[number]["img_mask"] for number in sorted(items)]) > 0.5
    return {"loss": losses[-1], "masks": masks, **step}


def main() -> None:
    args = arguments(__doc__ or "")
    importable(args.clone)
    from model import LinearLayer

    config, side = TINY if args.tiny else REAL, args.size
    (args.work / "config.json").write_text(json.dumps(config))
    torch.manual_seed(1)
    linear = LinearLayer(config["vision_cfg"]["width"], config["embed_dim"], 4, "ViT-L-14-336")
    torch.save({"trainable_linearlayer": linear.state_dict()}, args.work / "linear.pth")
    options = {
        "dataset": "mvtec",
        "data_path": str(args.work),
        "save_path": str(args.work),
        "config_path": str(args.work / "config.json"),
        "checkpoint_path": str(args.work / "linear.pth"),
        "model": "ViT-L-14-336",
        "pretrained": "openai",
        "features_list": [6, 12, 18, 24],
        "image_size": side,
    }
    with ExitStack() as stack:
        if not torch.cuda.is_available():
            stack.enter_context(WithoutCuda())
        with_weights(stack, config, args.work / "weights.pt", args.double)
        plain = Image.fromarray  # which used to read their masks of zeros, float64, as bytes: zeros as well
        stack.enter_context(patch.object(Image, "fromarray", lambda values, **_: plain(values.astype(np.uint8))))
        theirs = tested(script(args.clone, "test"), options, config, args.double)
        print("APRIL-GAN: scored", flush=True)
        text = dict(zip(dict.fromkeys(theirs["categories"]), theirs["text"], strict=True))
        theirs["step"] = trained(script(args.clone, "train"), options, text, args.double)
        print("APRIL-GAN: a training step", flush=True)
    torch.save(theirs | {"linear": linear.state_dict()}, args.work / "theirs.pt")


if __name__ == "__main__":
    main()
