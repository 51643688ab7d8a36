"""What ``family_parity.py`` compares of methods that learn nothing: AnoCLIP and WinCLIP."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from parity_report import Report
from peer_code import CATEGORIES
from torch import Tensor

from headlens.backbone import Backbone
from headlens.detectors import Detector, build
from headlens.detectors.reading import Features
from headlens.detectors.text import Pair

ANOCLIP = {"mvtec": "anoclip-plus", "visa": "anoclip-plus-visa"}
"""Presets of what their two scripts do."""


@torch.no_grad()
def _features(detector: Detector, images: Tensor, categories: list[str]) -> Features:
    reading = detector.reading(images, categories)
    return reading.features(detector.see(images, reading))


def anoclip(_: None, backbone: Backbone, theirs: dict[str, Any], report: Report) -> None:
    """Text, patches, maps and scores of both scripts, without adaptation and with it; theirs sees one image at once."""
    images, categories, plain = theirs["images"], theirs["categories"], build(backbone, "anoclip")
    with torch.no_grad():
        text = plain.text_of(CATEGORIES)
    report.line("text", [text], [theirs["text"]])
    (patches,) = _features(plain, images, categories).taps.values()
    for dataset, preset in ANOCLIP.items():
        unadapted, adapted = theirs[dataset, "plain"], theirs[dataset, "adapted"]
        with torch.no_grad():
            found = plain(images, categories)
            steps = build(backbone, preset)(images, categories)
        report.line(f"{dataset}: patches of V-V attention", [patches], [unadapted["patches"]])
        report.line(f"{dataset}: anomaly map", [found.anomaly_map], [unadapted["map"]])
        report.line(f"{dataset}: image score", [found.image_score], [unadapted["score"]])
        report.line(f"{dataset}: anomaly map, adapted", [steps.anomaly_map], [adapted["map"]])
    if images.dtype == torch.float32:  # their views are of no other
        with torch.no_grad():
            score = plain.with_config(views=True)(images, categories).image_score
        report.line("mvtec: image score over 22 views", [score], [theirs["mvtec", "adapted"]["score"]])


def winclip(_: None, backbone: Backbone, theirs: dict[str, Any], report: Report) -> None:
    """Text, windows, margins, map and score, in the settings that an implementation has."""
    detector = build(backbone, "winclip", **theirs["settings"])
    images, categories = theirs["images"], theirs["categories"]
    if theirs["own words"]:
        text = theirs["text"]
    else:
        with torch.no_grad():
            text = detector.text_of(CATEGORIES)
        report.line("text", [text], [theirs["text"]])
    features = _features(detector, images, categories)
    (windows,) = features.taps.values()
    sides = windows.split([of_side.shape[1] for of_side in theirs["windows"]], 1)
    for side, ours, own in zip(detector.config.windows, sides, theirs["windows"], strict=True):
        units = [F.normalize(embeddings, dim=-1) for embeddings in (ours, own)]
        report.line(f"windows of {side} x {side}, of unit length", units[:1], units[1:])
    reading = detector.reading(images, categories)
    of_images = text[[CATEGORIES.index(category) for category in categories]]
    reading = replace(reading, text=Pair(of_images, detector.config.temperature))
    margins = reading.margins(features)
    scores = detector.score(margins, (images.shape[2], images.shape[3]))
    report.line("anomaly map", [scores.anomaly_map], [theirs["map"]])
    if "score" in theirs:
        report.line("image score", [scores.image_score], [theirs["score"]])
