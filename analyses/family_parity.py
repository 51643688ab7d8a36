"""headlens against the published code of the methods that it has: the same weights, adapters and images, step by step.

    git clone https://github.com/Mwxinnn/AA-CLIP .peers/aa-clip
    python analyses/family_parity.py aa-clip .peers/aa-clip
    git clone https://github.com/ByChelsea/VAND-APRIL-GAN .peers/april-gan
    python analyses/family_parity.py april-gan .peers/april-gan --tiny
    git clone https://github.com/caoyunkang/AdaCLIP .peers/adaclip
    python analyses/family_parity.py adaclip .peers/adaclip
    git clone https://github.com/AlirezaSalehy/Crane .peers/crane
    python analyses/family_parity.py crane .peers/crane
    git clone https://github.com/hq-deng/AnoVL .peers/anovl
    python analyses/family_parity.py anoclip .peers/anovl
    git clone https://github.com/caoyunkang/WinClip .peers/winclip
    python analyses/family_parity.py winclip .peers/winclip

Weights are random, in the format of OpenAI's file of ViT-L-14-336, or for the last two of open_clip's of
ViT-B-16-plus-240. Images are noise, four in two categories, a sixth larger than they are read.
Theirs is run in a process of its own and its steps are written to ``--work``, where a second call finds them. A
difference is the largest one over the reference's largest value. Limits are 1e-5, 1e-4 for gradients, and larger by as
much as a step enlarges rounding: where large logits are subtracted, or scores brought to 0 and 1 between close ends.
The exit status is 1 where a difference is above its limit.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from common import environment
from parity_report import LIMIT, Kinks, Report, answers_of
from parity_untrained import anoclip, winclip
from peer_code import CATEGORIES, LARGE, SMALL, Towers, saved_images, saved_weights
from peer_crane import Network
from scipy.ndimage import gaussian_filter
from torch import Tensor

from headlens.backbone import Backbone, load
from headlens.backbone.checkpoint import read_checkpoint
from headlens.backbone.config import architecture_from_config
from headlens.backbone.loading import assemble
from headlens.data import Loader, Preprocess
from headlens.data import open as data_of
from headlens.detectors import Detector, preset
from headlens.detectors.clusters import ClusterPooled
from headlens.detectors.methods.aa_clip import AACLIPConfig
from headlens.detectors.methods.april_gan import APRILGAN
from headlens.detectors.methods.crane import Crane, Embedded
from headlens.detectors.methods.importing import Published, read_published
from headlens.detectors.methods.published_aa_clip import PublishedAdapters, adapted_detector
from headlens.detectors.methods.published_adaclip import PublishedConditioned, renamed
from headlens.detectors.reading import Features
from headlens.detectors.scoring import Margins
from headlens.detectors.stages import TrainingConfig
from headlens.detectors.text import Pair

OF_HALVES = 1e-4  # numbers between two of half precision, which is 5e-4 apart, may be rounded either way
AA_CLIP = {
    "taps": "patches at the taps, of unit length",
    "token": "detection token",
    "coarse": "maps of the taps, before smoothing",
    "image score": "image score",
}
ADACLIP = {
    "text": "text of each image, prompts rounded to half precision",
    "taps": "patches at the taps, of unit length",
    "cls": "CLS through both maps, of unit length",
    "margins": "margins of the patches",
    "clusters": "mean of the clusters' centres, of unit length",
    "raw": "anomaly map, before smoothing",
    "map": "anomaly map, smoothed by SciPy",
    "score": "image score",
}
APRIL_GAN = {"taps": "patches at the taps, projected", "map": "anomaly map", "image score": "image score"}


def read(work: Path, size: int) -> Tensor:
    """The images as headlens reads, resizes and normalises them, in the order of the peers' lists."""
    data = data_of(work, layout="mvtec")
    (batch,) = Loader(data, Preprocess(size), len(data))
    order = sorted(range(len(data)), key=lambda i: (batch.records[i].category, batch.records[i].anomalous))
    return batch.images[order]


def aa_clip(adapters: Published, backbone: Backbone, theirs: dict[str, Any], report: Report) -> None:
    """Every step of AA-CLIP, and both quirks of its code on and off."""
    assert isinstance(adapters, PublishedAdapters)
    config = AACLIPConfig(phrases=tuple(theirs["phrases"]))
    detector, categories = adapted_detector(adapters, backbone, config), theirs["categories"]
    ours: dict[str, list[Tensor]] = {name: [] for name in ("taps", "token", "coarse", "image score")}
    every: list[Margins] = []
    with torch.no_grad():
        text = detector.text_of(CATEGORIES)
        for image, category in zip(theirs["images"][:, None], categories, strict=True):
            reading = detector.reading(image, [category])
            features = reading.features(detector.see(image, reading))
            margins = reading.margins(features)
            found = detector.score(margins, (image.shape[2], image.shape[3]))
            ours["taps"].append(F.normalize(torch.stack([*features.taps.values()], 1), dim=-1))
            ours["token"].append(reading.pooling(features.cls, features.of_image, margins.taps))
            ours["coarse"].append((torch.stack([*found.tap_margins.values()], 1) + 1) / 2)
            ours["image score"].append(found.image_score)
            every.append(margins)
    report.line("text, through its adapters", [text], [theirs["text"]])
    of_images = theirs["text"][[CATEGORIES.index(category) for category in categories]]
    logits = 100 * torch.einsum("btnd,bsd->btns", theirs["taps"], of_images)
    cancelled = float(logits.abs().max() / theirs["coarse"].abs().max())  # a map is what is left of two logits
    for name, values in ours.items():
        limit = cancelled * LIMIT if name == "coarse" else LIMIT
        report.line(AA_CLIP[name], [torch.cat(values)], [theirs[name]], limit)
    medical = preset("aa-clip-medical", phrases=config.phrases)
    aa_clip_scores(detector, every, theirs, report, "")
    aa_clip_scores(detector.on(backbone, medical), every, theirs, report, "medical ")
    pair = [0, -1]
    images, of_pair = theirs["images"][pair], [categories[number] for number in pair]
    answers = answers_of(theirs["masks"][pair])
    kinks = Kinks(detector)
    _, second = detector.requires_grad_(True).stages(TrainingConfig())
    report.step("second stage", second, second.see(images, of_pair), answers, theirs["second stage"], kinks)
    for across in (True, False):
        detector.config = replace(config, across_batch=across)
        first, _ = detector.stages(TrainingConfig())
        seen = first.see(images, of_pair)
        for last in (True, False):
            detector.config = replace(detector.config, last_tap=last)
            what = f"first stage, attention {'across the batch' if across else 'within an image'}, "
            what += "last tap" if last else "all taps"
            report.step(what, first, seen, answers, theirs["first stage", across, last], kinks)


def aa_clip_scores(
    detector: Detector, every: list[Margins], theirs: dict[str, Any], report: Report, domain: str
) -> None:
    """Maps, and joint scores of images whose scores go from 0 to 1 over the test images of their category."""
    maps, joint, narrow = [], [], 1.0
    size = (theirs["images"].shape[2], theirs["images"].shape[3])
    for margins, category in zip(every, theirs["categories"], strict=True):
        here = torch.tensor([own == category for own in theirs["categories"]])
        ends = {"map_ends": theirs[f"{domain}map"][here].aminmax()}
        if detector.config.alpha < 1:
            ends["image_ends"] = theirs["image score"][here].aminmax()
        narrow = max(narrow, *(float(high.abs() / (high - low)) for low, high in ends.values()))  # rounding grows
        ended = detector.with_config(**{name: tuple(map(float, pair)) for name, pair in ends.items()})
        maps.append(detector.score(margins, size).anomaly_map)
        joint.append(ended.score(margins, size).joint_score)
    report.line(f"{domain}anomaly map", [torch.cat(maps)], [theirs[f"{domain}map"]])
    what = f"{domain}score, between the ends of the category"
    report.line(what, [torch.cat(joint)], [theirs[f"{domain}joint"]], narrow * LIMIT)


def april_gan(maps: Published, backbone: Backbone, theirs: dict[str, Any], report: Report) -> None:
    """Every step of APRIL-GAN; their map is the sum over taps, which is ours times their number."""
    detector, categories = maps.on(backbone), theirs["categories"]
    assert isinstance(detector, APRILGAN)
    ours: dict[str, list[Tensor]] = {name: [] for name in APRIL_GAN}
    with torch.no_grad():
        text = detector.text_of(CATEGORIES)
        for image, category in zip(theirs["images"][:, None], categories, strict=True):
            reading = detector.reading(image, [category])
            features = reading.features(detector.see(image, reading))
            found = detector.score(reading.margins(features), (image.shape[2], image.shape[3]))
            ours["taps"].append(torch.stack([*features.taps.values()], 1))
            ours["map"].append(len(features.taps) * found.anomaly_map)
            ours["image score"].append(found.image_score)
    report.line("text", [text], [theirs["text"].transpose(1, 2)])
    for name, values in ours.items():
        report.line(APRIL_GAN[name], [torch.cat(values)], [theirs[name]])
    learned = dict(zip(detector.state_dict(), theirs["step"]["weights"], strict=True))
    detector.load_state_dict(learned)
    (stage,) = detector.requires_grad_(True).stages(TrainingConfig())
    answers = answers_of(theirs["step"]["masks"])
    report.step("training", stage, stage.see(theirs["images"], categories), answers, theirs["step"])


@torch.no_grad()
def adaclip_steps(detector: Detector, images: Tensor, categories: Sequence[str]) -> dict[str, Tensor]:
    """What AdaCLIP makes of all images at once, by the names of ``ADACLIP``."""
    reading, size = detector.reading(images, categories), (images.shape[2], images.shape[3])
    features = reading.features(detector.see(images, reading))
    margins, taps = reading.margins(features), F.normalize(torch.stack([*features.taps.values()], 1), dim=-1)
    assert isinstance(reading.text, Pair) and isinstance(reading.pooling, ClusterPooled)
    weights = reading.pooling.patch_weights(features.taps, margins.taps)
    raw = detector.with_config(sigma=0.0).score(margins, size).anomaly_map
    smooth = [torch.from_numpy(gaussian_filter(one.numpy(), sigma=4)) for one in raw]  # it counts the edge pixel twice
    return {
        "text": reading.text.text,
        "taps": taps,
        "cls": F.normalize(features.cls, dim=-1),
        "margins": torch.stack([*margins.taps.values()], 1),
        "clusters": F.normalize(torch.einsum("bn,btnd->bd", weights, taps), dim=-1),
        "raw": raw,
        "map": torch.stack(smooth),
        "score": detector.score(margins, size).image_score,
    }


def adaclip(published: Published, backbone: Backbone, theirs: dict[str, Any], report: Report) -> None:
    """Every step of AdaCLIP, and a training step with its Dice of rows; theirs takes one image, ours all at once."""
    assert isinstance(published, PublishedConditioned)
    detector = published.on(backbone).with_config(half_prompts=True)
    logits = theirs["logits"]
    theirs["margins"] = logits[..., 1] - logits[..., 0]
    limits = {"margins": float(logits.abs().max() / theirs["margins"].abs().max()) * LIMIT}  # two logits' difference
    limits["text"] = OF_HALVES
    for name, values in adaclip_steps(detector, theirs["images"], theirs["categories"]).items():
        report.line(ADACLIP[name], [values], [theirs[name]], limits.get(name, LIMIT))
    detector.requires_grad_(True).config = replace(detector.config, row_dice=True, half_prompts=False)
    with torch.no_grad():
        text = detector.text(theirs["categories"], theirs["images"])
    report.line("text of each image, prompts not rounded", [text], [theirs["plain text"]])
    (stage,) = detector.stages(TrainingConfig())
    gradients = renamed(replace(published, state=theirs["step"]["gradients"]), detector.config)
    ordered = [gradients[name] for name, _ in detector.named_parameters()]
    seen = stage.see(theirs["images"][-1:], theirs["categories"][-1:])
    report.step("training", stage, seen, answers_of(theirs["masks"][-1:]), theirs["step"] | {"gradients": ordered})


@torch.no_grad()
def crane_features(plus: Crane, images: Tensor) -> tuple[Tensor, Tensor]:
    """CLS [B, d], and both copies of the patches [B, 2 N, d], image by image."""
    seen = []
    for image in images[:, None]:
        reading = plus.reading(image)
        seen.append(reading.features(plus.see(image, reading)))
    return torch.cat([one.cls for one in seen]), torch.cat([tokens for one in seen for tokens in one.taps.values()])


def crane(published: Published, backbone: Backbone, theirs: dict[str, Any], report: Report) -> None:
    """Every step of Crane and of Crane+, with the image in the prompts and without, and a training step of both."""
    detector, images = published.on(backbone), theirs["images"]
    assert isinstance(detector, Crane)
    network = Network().to(images.dtype).requires_grad_(False)
    network.load_state_dict(theirs["network"])
    plus, size = detector.with_second(network), (images.shape[2], images.shape[3])
    cls, both = crane_features(plus, images)
    copies = both.chunk(2, 1)
    first = theirs["patches"][:1]
    report.line("their four taps are the last block", list(theirs["taps"]), [first] * 4, 0.0)
    unit = [F.normalize(one, dim=-1) for one in (cls, *copies, theirs["cls"], theirs["patches"], theirs["more"])]
    for what, ours, own in zip(("CLS", "patches of E-Attn", "patches of D-Attn"), unit[:3], unit[3:], strict=True):
        report.line(f"{what}, of unit length", [ours], [own])
    with torch.no_grad():
        texts = (detector.text()[0].expand(len(images), -1, -1), detector.shown(cls))
    for shown, text in enumerate(texts):
        own = theirs["crane", shown]["text"].expand_as(text)
        report.line(f"text{', shown the image' if shown else ''}", [text], [own])
    answers = answers_of(theirs["masks"])
    for name, one, patches in (("crane", detector, copies[0]), ("crane-plus", plus, both)):
        raw, reading = one.with_config(sigma=0.0), one.reading(images)
        for shown, text in enumerate(texts):
            read = replace(reading, text=Pair(text, one.config.temperature))
            found = raw.score(read.margins(Features(cls, {23: patches})), size)
            what = f"{name}{', shown the image' if shown else ''}"
            report.line(f"{what}: map before smoothing", [found.anomaly_map], [theirs[name, shown]["map"]])
            report.line(f"{what}: image score", [found.image_score], [theirs[name, shown]["score"]])
        weight = 8.0 if one is detector else 2.0  # Crane's pixel losses are those of the last block, four times
        one = one.on(backbone, replace(one.config, pixel_weight=weight)).requires_grad_(True)
        (stage,) = one.stages(TrainingConfig())
        embedded = Embedded(cls, {23: patches}, backbone.vision.grid(*size))
        gradients = theirs[name, "step"]["gradients"]
        deep = [value for key, value in gradients.items() if key.startswith("compound")]
        context = torch.stack([gradients["ctx_pos"][0, 0], gradients["ctx_neg"][0, 0]])
        own = theirs[name, "step"] | {"gradients": [context, *deep]}
        report.step(f"{name}, training", stage, stage.see_features(embedded, [""] * len(images)), answers, own)


def backbone_of(
    work: Path, towers: Towers, tiny: bool, size: int, dtype: torch.dtype, rules: Mapping[str, Any]
) -> Backbone:
    """The file of weights, as the method's authors load it."""
    quick = towers.openai and "act_fn" not in rules  # OpenAI's own activation, unless the authors take another
    if tiny:
        arch = architecture_from_config(towers.tiny | {"quick_gelu": quick})
        arch = replace(arch, vision=replace(arch.vision, position_rule=rules.get("position_rule", "bicubic")))
        return assemble(arch, read_checkpoint(work / "weights.pt").state, dtype=dtype)
    name = f"{towers.name}{'-quickgelu' * quick}"
    return load(name, work / "weights.pt", image_size=size, dtype=dtype, **rules)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("method", choices=METHODS)
    parser.add_argument("clone", type=Path, help="of the peer's repository")
    parser.add_argument("--tiny", action="store_true", help="towers as deep and narrow, small images")
    parser.add_argument("--double", action="store_true", help="everything in float64")
    parser.add_argument("--size", type=int, help="pixels along a side; as the authors have it, or few with --tiny")
    parser.add_argument("--work", type=Path, help="keep what theirs gave here, or take it from here")
    args = parser.parse_args()
    method = METHODS[args.method]
    towers = method.towers
    size = args.size or (towers.tiny_size if args.tiny else towers.size)
    with ExitStack() as stack:
        work = args.work or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        work.mkdir(parents=True, exist_ok=True)
        if not (work / "theirs.pt").exists():
            saved_weights(towers.tiny if args.tiny else towers.real, work / "weights.pt", openai=towers.openai)
            saved_images(work, 7 * size // 6)
            options = [f"--{name}" for name in ("tiny", "double") if getattr(args, name)]
            command = [sys.executable, str(Path(__file__).with_name(method.script)), str(args.clone), str(work)]
            command += ["--size", str(size), *options]
            subprocess.run(command, check=True, stdout=sys.stderr)
        theirs = torch.load(work / "theirs.pt", weights_only=True)
        published = read_published(*(work / file for file in method.files)) if method.files else None
        dtype = torch.float64 if args.double else torch.float32
        rules = published.rules if published else {}
        backbone = backbone_of(work, towers, args.tiny, size, dtype, rules)
        report = Report()
        if method.bicubic:
            report.line("images, read and resized", [read(work, size)], [theirs["images"]])
        method.compare(published, backbone, theirs, report)
    print(f"\n{args.method}, {size} px. {environment(torch.device('cpu'))}")
    sys.exit(not report.right)


class Method(NamedTuple):
    """A comparison: what runs the peer's code, what runs ours, on which towers.

    Args:
        script: beside this one.
        compare: is given what the files hold, the backbone, theirs, and the report.
        files: of learned tensors, that theirs writes; none of a method that learns nothing.
        towers: what both are run on.
        bicubic: they resize images as headlens does.
    """

    script: str
    compare: Callable[[Any, Backbone, dict[str, Any], Report], None]
    files: tuple[str, ...] = ()
    towers: Towers = LARGE
    bicubic: bool = True


METHODS = {
    "aa-clip": Method("peer_aa_clip.py", aa_clip, ("image_adapter.pth", "text_adapter.pth")),
    "adaclip": Method("peer_adaclip.py", adaclip, ("adaclip.pth",)),
    "crane": Method("peer_crane.py", crane, ("epoch_5.pth",)),
    "april-gan": Method("peer_april_gan.py", april_gan, ("linear.pth",)),
    "winclip": Method("peer_winclip.py", winclip, towers=SMALL),
    "anoclip": Method("peer_anoclip.py", anoclip, towers=SMALL, bicubic=False),
}

if __name__ == "__main__":
    main()
