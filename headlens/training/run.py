"""The run folder: ``config.toml``, ``model.safetensors`` (learned tensors only), ``card.json`` and ``log.csv``."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from headlens import __version__, html
from headlens.backbone import Backbone
from headlens.backbone import load as load_backbone
from headlens.detectors.config import DetectorConfig
from headlens.detectors.headclip import Detector, Prediction
from headlens.detectors.predict import Picture, predict
from headlens.devices import device_of
from headlens.errors import HeadlensError, RunError
from headlens.files import write_atomically
from headlens.training.config import TrainingConfig
from headlens.training.shipped import NAMES, folders

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

CONFIG, MODEL, CARD, LOG = "config.toml", "model.safetensors", "card.json", "log.csv"
_PACKAGES = ("torch", "open_clip_torch", "transformer-lens", "accelerate")


@dataclass(frozen=True)
class Run:
    """A trained detector and everything that was written down about it.

    Args:
        folder: where it lies.
        detector: ready to score.
        training: how it was trained.
        card: of ``card.json``: backbone and weight hash, training set, selection rule, threshold, versions, metrics.
    """

    folder: Path
    detector: Detector
    training: TrainingConfig
    card: dict[str, Any]

    if not TYPE_CHECKING:  # which knows what a run has

        def __getattr__(self, name: str) -> Any:
            """Says what to do where a run is taken for its detector."""
            if hasattr(type(self), name):  # one of its own, which failed: by an error of its own
                return object.__getattribute__(self, name)
            raise AttributeError(f"a Run has no {name!r}; what asks for a detector takes this run's: run.detector")

    @property
    def size(self) -> int:
        """Pixels along a side that pictures are resized to, as in training."""
        return self.training.size or self.detector.image_size

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        card = self.card
        facts = {
            "trained on": f"{card.get('trained_on', 'unknown')}, {card.get('images', 'unknown')} pictures",
            "steps": card.get("steps"),
            "seed": card.get("seed"),
            "selection": card.get("selection"),
            "threshold of the joint score": None if self.threshold is None else f"{self.threshold:.3f}",
        }
        return html.card(f"Run {self.folder.name}", facts | self.detector.facts)

    def predict(self, pictures: Picture | Iterable[Picture], batch: int = 8, category: str = "object") -> Prediction:
        """Scores of one picture or several: paths, PIL images, arrays, tensors; see ``headlens.detectors.predict``."""
        return predict(self.detector, pictures, self.size, batch, category)

    @property
    def threshold(self) -> float | None:
        """Joint scores above it count as anomalous; calibrated on the auxiliary set."""
        return self.card.get("threshold")


def save_run(
    folder: Path,
    detector: Detector,
    training: TrainingConfig,
    about: Mapping[str, Any],
    log: Sequence[Mapping[str, float]] = (),
) -> dict[str, Any]:
    """Writes configuration, learned tensors and card; every file appears whole or not at all.

    Args:
        folder: made if need be.
        detector: what was trained.
        training: how.
        about: what else the card says: training set, selection, threshold, metrics.
        log: rows of ``log.csv``, one for each step.

    Returns:
        The card.

    Raises:
        RunError: the folder cannot be written.
    """
    import tomli_w

    provenance = asdict(detector.backbone.provenance)
    tables = {
        "backbone": {
            "name": provenance["name"],
            "weights": provenance["weights"],
            "image_size": list(provenance["image_size"]),
            "position_rule": provenance["position_rule"],
        },
        "detector": _plain(detector.config.table()),
        "training": _plain(training.table()),
    }
    weights = save({name: value.detach().cpu().contiguous() for name, value in detector.state_dict().items()})
    card = {
        "backbone": provenance,
        "detector": tables["detector"],
        "seed": training.seed,
        **about,
        "model_sha256": sha256(weights).hexdigest(),
        "versions": {
            "headlens": __version__,
            **{name: version(name) for name in _PACKAGES},
            "python": sys.version.split()[0],
        },
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / MODEL, weights)
        write_atomically(folder / CARD, (json.dumps(card, indent=1) + "\n").encode())
        if log:
            write_atomically(folder / LOG, pd.DataFrame(log).to_csv(index=False, lineterminator="\n").encode())
        write_atomically(folder / CONFIG, tomli_w.dumps(tables).encode())  # last: it says that the run is finished
    except OSError as error:
        raise RunError(f"{folder}: cannot be written ({error}); name another folder, or make room") from error
    return card


def find_run(name: str | Path) -> Path:
    """The folder that ``name`` is, or that of the shipped run of that name: the first seed where it names several."""
    own = [] if Path(name).exists() else folders(name)
    return own[0] if own else Path(name)


def read_config(folder: Path) -> tuple[dict[str, Any], DetectorConfig, TrainingConfig]:
    """``config.toml``: its table ``backbone``, and the other two.

    Raises:
        RunError: no run, or not readable.
        ConfigError: a setting that does not exist.
    """
    path = folder / CONFIG
    if not path.is_file():
        there = "no such folder" if not folder.exists() else f"no {CONFIG} in it"
        raise RunError(
            f"{folder}: {there}; a run is a folder that `headlens train` has written, or one of those that ship: "
            f"{', '.join(NAMES)}"
        )
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
        return tables["backbone"], DetectorConfig.of(tables["detector"]), TrainingConfig.of(tables["training"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, HeadlensError):
            raise
        raise RunError(f"{path}: damaged ({error}); train again, or copy the run again") from error


def load_run(
    folder: str | Path,
    backbone: Backbone | None = None,
    *,
    weights: str | Path | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype = torch.float32,
) -> Run:
    """A run as it was trained; its predictions are those of the trained detector, to the bit.

    Args:
        folder: what ``headlens train`` wrote, or the name of a shipped run (``mini-industrial``, its first seed).
        backbone: the one it was trained on, if it is loaded already.
        weights: the backbone's weight file, where it is another one than the card says.
        device, dtype: of the backbone that is loaded.

    Raises:
        RunError: no run; edited or damaged weights; a backbone with other weights than the run was trained on.
        CheckpointError: the backbone's file is missing or damaged.
        ConfigError: a device that does not exist, or that this machine has not.
    """
    folder = find_run(folder)
    about, config, training = read_config(folder)
    card = _card(folder)
    tensors = _tensors(folder / MODEL, card.get("model_sha256"))
    if backbone is None:
        device = device_of(device)
        try:
            backbone = _backbone(about, weights, device, dtype)
        except HeadlensError as error:
            raise type(error)(
                f"{folder} was trained on {about['name']} with weights {about['weights']!r}, which cannot be loaded "
                f"({error}); name their file with --weights, in Python weights="
            ) from error
    ours, theirs = backbone.provenance, card.get("backbone", {})
    alike = ("name", "sha256", "position_rule", *(() if ours.sha256 else ("weights",)))
    if any(getattr(ours, name) != theirs.get(name) for name in alike):
        raise RunError(
            f"{folder} was trained on {theirs.get('name')} ({theirs.get('weights')}, SHA-256 {theirs.get('sha256')}, "
            f"{theirs.get('position_rule')} positions), not on {ours.name} ({ours.weights}, SHA-256 {ours.sha256}, "
            f"{ours.position_rule}); give it the backbone that it was trained on"
        )
    detector = Detector(backbone, config)
    expected = {name: tuple(value.shape) for name, value in detector.state_dict().items()}
    if expected != {name: tuple(value.shape) for name, value in tensors.items()}:
        raise RunError(f"{folder}: {MODEL} does not hold what {CONFIG} describes; copy the run again")
    detector.load_state_dict(tensors)
    detector.size = training.size
    return Run(folder, detector.requires_grad_(False).eval(), training, card)


def load_runs(
    *names: str | Path, weights: str | Path | None = None, device: str | torch.device | None = None
) -> list[Run]:
    """The runs that names mean: folders, shipped runs, all seeds of a shipped one. Those of one backbone share it.

    Args:
        *names: of which runs.
        weights, device: as in ``load_run``.

    Raises:
        RunError, CheckpointError: as ``load_run``.

    >>> [run.folder.name for run in load_runs("mini-medical")]
    ['mini-medical-0', 'mini-medical-1', 'mini-medical-2']
    """
    loaded, clips = [], dict[str, Backbone]()
    for name in names:
        for folder in ([] if Path(name).exists() else folders(name)) or [Path(name)]:
            about = json.dumps(read_config(folder)[0])
            loaded.append(load_run(folder, clips.get(about), weights=weights, device=device))
            clips[about] = loaded[-1].detector.backbone
    return loaded


def _card(folder: Path) -> dict[str, Any]:
    try:
        return json.loads((folder / CARD).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"{folder / CARD}: {error}; a run without its card cannot be checked, copy it again") from error


def _tensors(path: Path, digest: str | None) -> dict[str, Tensor]:
    try:
        content = path.read_bytes()
        found = sha256(content).hexdigest()
        if found != digest:
            raise RunError(f"{path}: its SHA-256 is {found}, the card says {digest}: edited or damaged; copy it again")
        return load(content)
    except (OSError, SafetensorError) as error:
        raise RunError(f"{path}: {error}; copy the run again") from error


def _backbone(
    about: Mapping[str, Any], weights: str | Path | None, device: str | torch.device | None, dtype: torch.dtype
) -> Backbone:
    stored = str(about["weights"])
    random = stored.startswith("random (seed ")
    seed = int(stored.removeprefix("random (seed ").rstrip(")")) if random else 0
    embedded = stored.startswith("embedded")
    return load_backbone(
        about["name"],
        weights if weights is not None else None if random or embedded else stored,
        tuple(about["image_size"]),
        position_rule=about["position_rule"],
        device=device,
        dtype=dtype,
        seed=seed,
    )


def _plain(table: Mapping[str, Any]) -> dict[str, Any]:
    """Tuples as lists: TOML knows no other sequence."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in table.items()}
