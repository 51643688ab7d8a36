"""A detector as one file that needs no headlens: ONNX, or an archive of ``torch.export``; a card in JSON goes with it.

    pixels [B, 3, s, s] in 0..1  ->  normalised, tower, read-outs, scoring  ->  score [B], map [B, s, s] if there is one

Sentences are encoded beforehand, so that the text tower is not in the file: it is of one category, and of one size.
What a method computes from each image before it reads it is no part of a graph, and such a method is refused by name.
"""

from __future__ import annotations

import json
import math
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from headlens.data import DataSet, Preprocess, as_set
from headlens.data.preprocess import CLIP_MEAN, CLIP_STD
from headlens.detectors.detector import Detector, HasDetector, check_size, detector_of
from headlens.detectors.reading import Reading
from headlens.errors import ConfigError, IdentityError, RunError
from headlens.files import sha256_of, write
from headlens.predict import predict
from headlens.provenance import detector_provenance, versions

PACKAGES = {".onnx": ("onnx", "onnxscript", "onnxruntime"), ".pt2": ()}
"""Formats by suffix, and what each takes besides torch."""
EQUAL = 1e-5
"""By which a graph may differ from its detector; of logits beyond 1, relative to the largest."""
_BATCHES = (1, 2)  # compared; the batch that is traced is one of them


@dataclass(frozen=True)
class Exported:
    """What was written.

    Args:
        model: the graph.
        card: how to use it, in JSON; it is called as ``model``, and ``.json``.
        about: what the card says.
    """

    model: Path
    card: Path
    about: dict[str, Any]


class Graph(nn.Module):
    """What is exported: pixels [B, 3, h, w] of RGB, in 0..1, to the joint score [B] and the anomaly map [B, h, w].

    A method that reads no patch has no map.

    Args:
        detector: on the CPU.
        reading: of one image of that category and size; its text, and all else in it, is in the graph as it is.
        size: height and width.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, detector: Detector, reading: Reading, size: tuple[int, int]) -> None:
        super().__init__()
        self.vision = detector.backbone.vision
        for name, of_channels in (("mean", CLIP_MEAN), ("std", CLIP_STD)):
            self.register_buffer(name, torch.tensor(of_channels)[:, None, None])
        self._held = (detector, reading)  # in a tuple: learned tensors are constants of the graph, by no names
        self.size, self.grid = size, self.vision.grid(*size)

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of what it returns."""
        return ("score", "map") if self._held[0].reads_map else ("score",)

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """Joint score and anomaly map."""
        detector, reading = self._held
        features = reading.features(self.vision((pixels - self.mean) / self.std, reading.plan, hooked=False))
        text = reading.text if reading.follow is None else reading.follow(features)
        prediction = detector.scoring(replace(reading, text=text).margins(features), self.grid, self.size)
        return (prediction.joint_score, prediction.anomaly_map)[: len(self.outputs)]


def export(
    run: Detector | HasDetector,
    path: str | Path,
    *,
    category: str | None = None,
    size: int | None = None,
    threshold: float | None = None,
    normal: DataSet | str | Path | None = None,
    rate: float = 0.01,
    force: bool = False,
) -> Exported:
    """Writes a detector as ``path`` and a card next to it; its scores and maps are compared with the detector's first.

    Args:
        run: a run or a detector, on the CPU.
        path: ends with ``.onnx`` or with ``.pt2``.
        category: what all images show, for methods whose sentences say it; ``object`` when None.
        size: pixels along a side, fixed; the detector's when None. The number of images is not fixed.
        threshold: joint scores above it count as anomalous; when None that of the run, which is one of its own size.
        normal: a data set whose normal images give the threshold instead.
        rate: at most this share of them lies above it.
        force: overwrite what is there.

    Raises:
        ConfigError: a method that cannot be exported, and why; another suffix; a package that is missing; a category
            that no sentence says; two thresholds, or no normal image.
        IdentityError: the graph differs from the detector; nothing is written then.
        RunError: a file that is there already, or cannot be written.

    ``export(headlens.load("mini-industrial"), "model.onnx").card`` is ``model.onnx.json``.

    >>> import headlens
    >>> export(headlens.load("mini-industrial"), "model.bin")
    Traceback (most recent call last):
    headlens.errors.ConfigError: model.bin: the name of an exported file ends in .onnx or .pt2, such as model.onnx
    """
    detector = detector_of(run)
    model, card = check_paths(path, force)
    side = size or detector.image_size
    check_size(side, detector.backbone.vision.cfg)
    if category is not None and normal is None and not detector.reads_categories:
        raise ConfigError(f"category {category!r}: the sentences of this {detector.method} name none; leave it out")
    named = category or "object"
    graph = graph_of(detector, named, side)
    decision = _threshold(run, detector, threshold, normal, rate, category, side)
    program = _traced(graph, side)
    model.parent.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(dir=model.parent, prefix=f".{model.stem}.") as folder:
            compute = _SAVE[model.suffix](program, graph.outputs, part := Path(folder, model.name))
            difference = _difference(graph, detector, compute, named, side)
            digest = sha256_of(part)
            for file in Path(folder).iterdir():  # weights of more than 2 GiB are a file of their own
                file.replace(model.parent / file.name)
    except OSError as error:
        raise RunError(f"{model}: cannot be written ({error}); name another place, or make room") from error
    about = {
        "model": model.name,
        "sha256": digest,
        **_interface(graph, detector, side),
        "category": named if detector.reads_categories else None,
        "threshold": decision,
        "difference": difference,
        "provenance": detector_provenance(
            detector, **_of_run(run), versions=versions("torch", *PACKAGES[model.suffix])
        ),
    }
    write(card, (json.dumps(about, indent=1) + "\n").encode())
    return Exported(model, card, about)


def check_paths(path: str | Path, force: bool = False) -> tuple[Path, Path]:
    """Where model and card go; what is raised is that of ``export``."""
    path = Path(path)
    if path.suffix not in PACKAGES:
        raise ConfigError(f"{path}: the name of an exported file ends in .onnx or .pt2, such as {path.stem}.onnx")
    if missing := [name for name in PACKAGES[path.suffix] if find_spec(name) is None]:
        raise ConfigError(f"{path}: {', '.join(missing)} is not installed: pip install 'headlens[export]'")
    card = path.with_name(f"{path.name}.json")
    if there := [file for file in (path, card) if file.exists() and not force]:
        raise RunError(
            f"{there[0]} exists already; name another file, or overwrite it with --force, in Python force=True"
        )
    return path, card


@torch.no_grad()
def graph_of(detector: Detector, category: str, size: int) -> Graph:
    """What is exported of a detector, for square images of that size.

    Raises:
        ConfigError: a detector that computes something from each image that is not in the graph, or that has hooks; one
            that is not on the CPU.
    """
    if detector.device.type != "cpu":
        raise ConfigError(f"a detector is exported on the CPU, not on {detector.device}: load it with device='cpu'")
    if hooks := detector.hooks:
        raise ConfigError(f"the hook at {hooks[0]} is no part of a graph: remove it first, by reset_hooks()")
    pixels = torch.zeros(1, 3, size, size)
    reading = detector.reading(Preprocess(size).normalise(pixels.to(torch.uint8)), [category])
    before = dict.fromkeys([*reading.beforehand, *(r.beforehand for r in reading.taps.values() if r.beforehand)])
    reasons = [f"no graph has what it computes of images beforehand ({', '.join(before)})"] if before else []
    if reading.pooling.loops:
        reasons.append(reading.pooling.loops)
    if opaque := reading.image_contrast.opaque:
        reasons.append(f"its scores go through {opaque}, and a graph scores images one by one")
    graph = Graph(detector, reading, (size, size)).eval()
    with _calls(detector.backbone.text) as texts:
        graph(pixels)
    if texts:
        reasons.append("its sentences depend on the image, and the text tower is not in the graph")
    if reasons:
        raise ConfigError(f"{detector.method} cannot be exported with these settings: {'; '.join(reasons)}")
    return graph


@contextmanager
def _calls(module: nn.Module) -> Iterator[list[str]]:
    """A list that has an entry for each time that a module is called meanwhile."""
    calls: list[str] = []
    handle = module.register_forward_pre_hook(lambda *_: calls.append("called"))
    try:
        yield calls
    finally:
        handle.remove()


@torch.no_grad()
def _traced(graph: Graph, size: int) -> torch.export.ExportedProgram:
    """The graph of any number of images; nothing in it says where on this machine its source lies."""
    batch = {"pixels": {0: torch.export.Dim("batch", min=1)}}
    program = torch.export.export(graph, (torch.zeros(max(_BATCHES), 3, size, size),), dynamic_shapes=batch)
    for module in program.graph_module.modules():  # there are graphs within the graph
        for node in module.graph.nodes if isinstance(module, torch.fx.GraphModule) else ():
            node.meta.pop("stack_trace", None)
    return program


_Compute = Callable[[Tensor], tuple[Tensor, ...]]


def _save_onnx(program: torch.export.ExportedProgram, outputs: tuple[str, ...], path: Path) -> _Compute:
    import onnxruntime

    with warnings.catch_warnings():  # of torch, about itself
        warnings.simplefilter("ignore")
        made = torch.onnx.export(program, input_names=["pixels"], output_names=outputs, dynamo=True, verbose=False)
    assert made is not None
    inputs: Any = made.model.graph.inputs
    made.rename_axes({inputs[0].shape[0]: "batch"})
    made.save(path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda pixels: tuple(map(torch.from_numpy, session.run(list(outputs), {"pixels": pixels.numpy()})))


def _save_pt2(program: torch.export.ExportedProgram, outputs: tuple[str, ...], path: Path) -> _Compute:
    with warnings.catch_warnings():  # of constants that are views of others, and are written as they should be
        warnings.filterwarnings("ignore", "No complete tensor")
        torch.export.save(program, path)
    return program.module()  # the file is not read: torch reads it by pickle


_SAVE = {".onnx": _save_onnx, ".pt2": _save_pt2}


@torch.no_grad()
def _difference(graph: Graph, detector: Detector, compute: _Compute, category: str, size: int) -> dict[str, float]:
    """By how much scores and maps of random images differ at most; raises IdentityError where that is too much."""
    made, worst = torch.Generator().manual_seed(0), dict.fromkeys(graph.outputs, 0.0)
    for count in _BATCHES:
        pixels = torch.randint(256, (count, 3, size, size), generator=made, dtype=torch.uint8)
        expected = detector(Preprocess(size).normalise(pixels), [category] * count)
        both = (expected.joint_score, expected.anomaly_map)
        for name, computed, right in zip(graph.outputs, compute(pixels / 255), both, strict=False):
            off = float((computed - right).abs().max())
            if not off <= EQUAL * max(1.0, float(right.abs().max())):
                raise IdentityError(
                    f"{detector.method}: the {name} of the exported graph differs from the detector's by {off:.2g} for "
                    f"{count} images; nothing was written"
                )
            worst[name] = max(worst[name], off)
    return worst


def _threshold(
    run: object,
    detector: Detector,
    given: float | None,
    normal: DataSet | str | Path | None,
    rate: float,
    category: str | None,
    size: int,
) -> dict[str, Any] | None:
    """What the card says of the threshold."""
    if normal is None:
        of_run = getattr(run, "threshold", None) if size == detector.image_size else None
        value, of = (of_run, "the run") if given is None else (given, "the user")
        return None if value is None else {"value": value, "from": of}
    if given is not None:
        raise ConfigError("a threshold is given, and images that give one: leave one of them out")
    if not 0 <= rate < 1:
        raise ConfigError(f"rate is {rate}: the share of normal images above the threshold is from 0 to below 1")
    images = as_set(normal).where(lambda record: record.anomalous is False)
    if not len(images):
        raise ConfigError(f"{images.name} has no normal image, of which a threshold could be taken")
    scores = predict(detector, images, size=size, category=category or "object").joint_score
    value = threshold_at(scores, rate)
    above = float((scores > value).double().mean())
    return {"value": value, "from": f"normal images of {images.name}", "images": len(images), "above": above}


def threshold_at(scores: Tensor, rate: float) -> float:
    """The lowest of the scores [n] that at most that share of them lies above.

    >>> threshold_at(torch.tensor([0.5, 0.25, 0.75, 1.0]), 0.25)
    0.75
    """
    return float(scores.sort(descending=True).values[math.floor(rate * len(scores) + 1e-9)])


def _interface(graph: Graph, detector: Detector, size: int) -> dict[str, Any]:
    """What goes in and comes out, for people who have nothing but the card."""
    unit = detector.scoring.unit
    outputs = {
        "score": {"shape": ["batch"], "unit": unit, "is": "joint score, higher is more anomalous"},
        "map": {"shape": ["batch", size, size], "unit": unit, "is": "anomaly map, higher is more anomalous"},
    }
    return {
        "input": {
            "name": "pixels",
            "shape": ["batch", 3, size, size],
            "values": "float32, RGB, 0 to 1; CLIP's mean and deviation are in the graph",
            "resize": f"both sides to {size} by PIL's bicubic filter, Image.Resampling.BICUBIC, whatever the shape",
        },
        "outputs": {name: outputs[name] for name in graph.outputs},
    }


def _of_run(run: object) -> dict[str, Any]:
    """Which run it is, and what it was trained on; nothing of a bare detector."""
    card, folder = getattr(run, "card", None), getattr(run, "folder", None)
    if not isinstance(card, dict) or not isinstance(folder, Path):
        return {}
    known = {"run": folder.name, **{name: card.get(name) for name in ("trained_on", "seed", "model_sha256")}}
    return {name: value for name, value in known.items() if value is not None}
