"""The run folder: ``config.toml``, ``model.safetensors`` (learned tensors only), ``card.json`` and ``log.csv``."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from safetensors.torch import save

from headlens import html
from headlens.backbone import Backbone, architecture
from headlens.backbone import load as load_backbone
from headlens.data import DataSet
from headlens.detectors.detector import Detector, check_size
from headlens.detectors.methods.registry import build, table_of
from headlens.detectors.scoring import Prediction
from headlens.detectors.stages import TrainingConfig
from headlens.devices import device_of
from headlens.errors import ConfigError, HeadlensError, RunError
from headlens.files import write
from headlens.locking import locked
from headlens.predict import Image, predict
from headlens.provenance import versions
from headlens.training.reading import (
    CARD,
    CONFIG,
    FORMAT,
    LOG,
    MODEL,
    BackboneTable,
    Description,
    exists,
    read_description,
    read_tensors,
)
from headlens.training.shipped import folders
from headlens.units import with_unit

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Run(html.Shown):
    """A trained detector and its records.

    Args:
        folder: its path.
        detector: ready to score.
        training: settings of its training; None if unknown.
        card: of ``card.json``: backbone and weight hash, training set, selection rule, threshold, versions, metrics.
    """

    folder: Path
    detector: Detector
    training: TrainingConfig | None
    card: dict[str, Any]

    @property
    def size(self) -> int:
        """Pixels along a side that images are resized to, as in training."""
        return self.detector.image_size

    @property
    def seed(self) -> int | None:
        """Seed of its training; None if unknown."""
        return self.training.seed if self.training is not None else None

    @property
    def facts(self) -> dict[str, object]:
        """What it was trained on and how, and facts about its detector, for display."""
        card = self.card
        limit = None if self.threshold is None else with_unit(f"{self.threshold:.3f}", self.detector.scoring.unit)
        facts = {
            "trained on": f"{card.get('trained_on', 'unknown')}, {card.get('images', 'unknown')} images",
            "steps": card.get("steps"),
            "seed": card.get("seed"),
            "selection": card.get("selection"),
            "threshold of the joint score": limit,
        }
        return facts | self.detector.facts

    def _repr_html_(self) -> str:
        return html.card(f"Run {self.folder.name}", self.facts)

    def predict(
        self, images: Image | DataSet | Iterable[Image], *, batch: int = 8, category: str | None = None
    ) -> Prediction:
        """Scores of one image or several, a data set, or a folder; see ``headlens.predict``."""
        return predict(self.detector, images, batch=batch, category=category)

    def changed(self, folder: str | Path, **changes: Any) -> Run:
        """Writes a new run with the same learned tensors and other settings: ``alpha``, ``pool``, ``taps``, ...

        Its joint scores differ, so it has no threshold.

        Args:
            folder: a new one.
            **changes: as in ``Detector.with_config``.

        Raises:
            ConfigError: a field that decides what is learned.
            RunError: the folder contains a run, is in use, or cannot be written.

        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     load_run("mini-industrial").changed(Path(folder, "new"), alpha=0.25).detector.config.alpha
        0.25
        """
        detector, folder = self.detector.with_config(**changes), Path(folder)
        about = {**self.card, "threshold": None, "metrics": None}
        about["changed"] = {"from": self.folder.name, "model_sha256": self.card.get("model_sha256"), **changes}
        with new_run(folder):
            save_run(folder, detector, self.training, about)
        return load_run(folder, self.detector.backbone)

    @property
    def threshold(self) -> float | None:
        """Joint scores above it count as anomalous; calibrated on the auxiliary set."""
        return self.card.get("threshold")


@contextmanager
def new_run(folder: Path) -> Iterator[None]:
    """Locks ``folder`` to write a run in it; raises RunError if it contains one, is in use, or cannot be written."""
    with locked(folder):
        if exists(folder / CONFIG):
            raise RunError(f"{folder} holds a finished run; name another folder")
        yield


def save_run(
    folder: Path,
    detector: Detector,
    training: TrainingConfig | None,
    about: Mapping[str, Any],
    log: Sequence[Mapping[str, float]] = (),
) -> dict[str, Any]:
    """Writes configuration, learned tensors and card; never a partial file.

    Args:
        folder: made if need be.
        detector, training: what was trained, and how; None if unknown.
        about: more entries of the card: training set, selection, threshold, metrics.
        log: rows of ``log.csv``, one for each step.

    Returns:
        The card.

    Raises:
        RunError: learned values that are not finite; the folder cannot be written.
    """
    import tomli_w

    provenance = asdict(detector.backbone.provenance)
    tables = {
        "backbone": BackboneTable.in_card(provenance).table(),
        "detector": table_of(detector.config),
        **({"training": training.table()} if training is not None else {}),
    }
    learned = {name: value.detach().float().cpu().contiguous() for name, value in detector.state_dict().items()}
    if broken := [name for name, value in learned.items() if not value.isfinite().all()]:
        raise RunError(f"{folder}: {broken[0]} has NaN or infinity, and is not saved; train with a smaller lr")
    weights = save(learned)
    card = {
        "format": FORMAT,
        **about,
        "backbone": provenance,
        **{name: table for name, table in tables.items() if name != "backbone"},
        **({"seed": training.seed} if training is not None else {}),
        "model_sha256": sha256(weights).hexdigest(),
        "versions": versions("torch", "open_clip_torch", "transformer-lens", "accelerate"),
    }
    write(folder / MODEL, weights)
    write(folder / CARD, (json.dumps(card, indent=1) + "\n").encode())
    if log:
        write(folder / LOG, pd.DataFrame(log).to_csv(index=False, lineterminator="\n").encode())
    write(folder / CONFIG, tomli_w.dumps(tables).encode())  # last: it says that the run is finished
    return card


def find_run(name: str | Path) -> Path:
    """The folder ``name``, or that of the shipped run of that name (the first seed if it names several)."""
    return _folders(name)[0]


def _folders(name: str | Path) -> list[Path]:
    return ([] if exists(Path(name)) else folders(name)) or [Path(name)]


def load_run(
    folder: str | Path,
    backbone: Backbone | None = None,
    *,
    weights: str | Path | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
) -> Run:
    """Loads a run; its predictions equal those of the trained detector to the bit.

    Args:
        folder: a folder written by ``headlens train``, or the name of a shipped run (``mini-captions-industrial`` is
            its first seed).
        backbone: the backbone it was trained on, if already loaded.
        weights: weight file of the backbone, if it is not the one in the card.
        device, dtype: of the backbone that is loaded; torch's default device and float32 when None.

    Raises:
        RunError: no run; edited or damaged weights; a backbone with other weights than the run was trained on.
        CheckpointError: the backbone's file is missing or damaged.
        ConfigError: a device that does not exist on this machine.
    """
    return _load(read_description(find_run(folder)), backbone, weights, device, dtype or torch.float32)


def load_runs(
    *names: str | Path, weights: str | Path | None = None, device: str | torch.device | None = None
) -> list[Run]:
    """Loads several runs: folders, shipped runs, or all seeds of a shipped run. Runs on the same backbone share it.

    See ``load_run`` for ``weights`` and ``device``, and for what is raised.

    >>> [run.folder.name for run in load_runs("mini-medical")]
    ['mini-medical-0', 'mini-medical-1', 'mini-medical-2']
    """
    return load_groups({"": names}, weights=weights, device=device)[""]


def load_groups(
    groups: Mapping[str, Sequence[str | Path]],
    *,
    weights: str | Path | None = None,
    device: str | torch.device | None = None,
) -> dict[str, list[Run]]:
    """The runs of several groups, named as in ``load_runs``; all of them share their backbone."""
    loaded, backbones = dict[str, list[Run]](), dict[str, Backbone]()
    for group, names in groups.items():
        loaded[group] = []
        for folder in [folder for name in names for folder in _folders(name)]:
            described = read_description(folder)
            about = json.dumps(described.card["backbone"], sort_keys=True)  # activations may differ
            loaded[group].append(_load(described, backbones.get(about), weights, device))
            backbones[about] = loaded[group][-1].detector.backbone
    return loaded


def _load(
    described: Description,
    backbone: Backbone | None,
    weights: str | Path | None,
    device: str | torch.device | None,
    dtype: torch.dtype = torch.float32,
) -> Run:
    """The run that the files describe; what cannot be is refused before a backbone is loaded."""
    folder, about, config, training = described.folder, described.backbone, described.config, described.training
    card = described.card
    if backbone is not None:
        _check_backbone(folder, backbone, card)
        vision, text = backbone.vision.cfg, backbone.text.cfg
    else:
        with _trained_on(folder, about):
            arch = architecture(about.name)
        vision, text = arch.vision, arch.text
    try:
        for side in about.image_size:
            check_size(side, vision, "image_size")
        if training is not None and training.size:
            check_size(training.size, vision)
        config.check_fits(vision, text, about.name)
    except ConfigError as error:
        raise ConfigError(f"{folder / CONFIG}: {error}") from error
    tensors = read_tensors(folder, card["model_sha256"], config.learned_shapes(vision, text))
    if backbone is None:
        device = device_of(device)
        with _trained_on(folder, about):
            backbone = _backbone(about, card["backbone"], weights, device, dtype)
        _check_backbone(folder, backbone, card)
    detector = build(backbone, config)
    detector.load_state_dict(tensors)
    detector.size = (training.size if training is not None else 0) or about.image_size[0]
    if "imported" in card:  # older versions wrote settings of training, which were not those of its authors
        training = None
    _LOG.debug("loaded run %s on backbone %s", folder, backbone.provenance.name)
    return Run(folder, detector.requires_grad_(False).eval(), training, card)


def _check_backbone(folder: Path, backbone: Backbone, card: Mapping[str, Any]) -> None:
    """Raises RunError for another one than the card has."""
    ours, theirs = backbone.provenance, card["backbone"]
    alike = ("name", "sha256", "position_rule", "act_fn", *(() if ours.sha256 else ("weights",)))
    if any(getattr(ours, name) != theirs.get(name) for name in alike):
        raise RunError(
            f"{folder} was trained on {theirs.get('name')} ({theirs.get('weights')}, SHA-256 {theirs.get('sha256')}, "
            f"{theirs.get('position_rule')} positions, {theirs.get('act_fn')}), not on {ours.name} ({ours.weights}, "
            f"SHA-256 {ours.sha256}, {ours.position_rule}, {ours.act_fn}); give it the backbone that it was trained on"
        )


@contextmanager
def _trained_on(folder: Path, about: BackboneTable) -> Iterator[None]:
    """Errors of the backbone say whose it is."""
    try:
        yield
    except HeadlensError as error:
        raise type(error)(
            f"{folder} was trained on {about.name} with weights {about.weights!r}, which cannot be loaded "
            f"({error}); name their file with --weights, in Python weights="
        ) from error


def _backbone(
    about: BackboneTable,
    card: Mapping[str, Any],
    weights: str | Path | None,
    device: str | torch.device | None,
    dtype: torch.dtype,
) -> Backbone:
    """As tables ``backbone`` of ``config.toml`` and of ``card.json`` say."""
    stored = about.weights
    random = re.fullmatch(r"random \(seed (-?\d{1,18})\)", stored)
    embedded = stored.startswith("embedded")
    return load_backbone(
        about.name,
        weights if weights is not None else None if random or embedded else stored,
        about.image_size,
        position_rule=about.position_rule,
        act_fn=card.get("act_fn") if card.get("act_fn_known") is True else None,
        because=card.get("because") or None,
        device=device,
        dtype=dtype,
        seed=int(random[1]) if random else 0,
    )
