"""What scripts that measure methods at full size share: random batches, timed rows, and a training step of ours."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from common import best, peak
from peer_code import CATEGORIES
from torch import Tensor

from headlens.detectors import Detector
from headlens.detectors.stages import Answers, TrainingConfig


class Rows:
    """Measured rows, printed as they come, for a Markdown table and for JSON; and the batches that are measured."""

    def __init__(self, device: torch.device, side: int) -> None:
        self.device, self.side = device, side
        self.rows: list[dict[str, Any]] = []

    def add(self, what: str, way: str, batch: int, work: Callable[[], Any], rounds: int = 3) -> None:
        """Times ``work`` on so many images; what it returns, a loss, goes along."""
        row: dict[str, Any] = {"what": what, "way": way, "batch": batch}
        last: list[Any] = [None]

        def timed() -> None:
            last[0] = work()

        try:
            seconds = best(timed, self.device, rounds=rounds)
            row |= {"images/s": batch / seconds, "peak GiB": peak(self.device)}
            row["loss"] = None if last[0] is None else float(last[0])
        except torch.OutOfMemoryError:
            row["images/s"] = None
        self.rows.append(row)
        print(json.dumps(row), flush=True)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def batch(self, size: int) -> dict[str, Any]:
        """Noise with a square anomaly in every second image, as their loaders give it, on the device."""
        side, generator = self.side, torch.Generator(self.device.type).manual_seed(size)
        images = torch.randn(size, 3, side, side, generator=generator, device=self.device)
        masks = torch.zeros(size, 1, side, side, device=self.device)
        masks[1::2, :, side // 4 : side // 2, side // 4 : side // 2] = 1
        names = [CATEGORIES[number // 2 % 2] for number in range(size)]
        labels = masks.flatten(1).any(1).long()
        return {"image": images, "mask": masks, "label": labels, "class_name": names, "file_name": names}

    def table(self) -> str:
        """All of them."""
        lines = ["| | | batch | images/s | peak GiB | loss |", "|---|---|---:|---:|---:|---:|"]
        for row in self.rows:
            cells = "- | out of memory | |"
            if row["images/s"] is not None:
                loss = "" if row["loss"] is None else f"{row['loss']:.4f}"
                cells = f"{row['images/s']:.2f} | {row['peak GiB']:.1f} | {loss} |"
            lines.append(f"| {row['what']} | {row['way']} | {row['batch']} | {cells}")
        return "\n".join(lines)


def our_step(
    detector: Detector, number: int, dtype: Any, batch: dict[str, Any], stored: bool = False
) -> Callable[[], Tensor]:
    """A step of a stage, at a rate of 0; from features that it keeps after the first epoch, or from images."""
    stage = detector.requires_grad_(True).stages(TrainingConfig())[number]
    learned = [parameter for group in stage.groups for parameter in group["params"]]
    for parameter in detector.parameters():
        parameter.requires_grad_(any(parameter is one for one in learned))
    optimizer = torch.optim.Adam(learned, lr=0.0)
    masks = batch["mask"][:, 0] > 0
    answers = Answers(batch["label"].cpu(), masks, torch.ones(len(masks), dtype=torch.bool))
    read, given = stage.see, batch["image"]
    if stored:
        assert stage.keep is not None and stage.see_features is not None
        read, given = stage.see_features, stage.keep(batch["image"])

    def work() -> Tensor:
        with torch.autocast(masks.device.type, dtype) if dtype else nullcontext():
            terms = stage.loss(read(given, batch["class_name"]), answers)
        loss = torch.stack([stage.weights.get(name, 1.0) * term for name, term in terms.items()]).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.detach()

    return work


@torch.no_grad()
def our_scores(detector: Detector, batch: dict[str, Any]) -> None:
    """Maps and scores on the CPU."""
    scores = detector(batch["image"], [CATEGORIES[0]] * len(batch["image"]))
    scores.anomaly_map.cpu(), scores.joint_score.cpu()
