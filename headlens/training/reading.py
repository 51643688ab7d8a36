"""What a run folder says, checked before anything is made of it: its files may come from anywhere.

``config.toml`` has tables ``backbone``, ``detector`` and ``training``, the last one not where it is unknown how it was
trained. ``card.json`` says the same and more, and has the hash of the learned tensors and the format of the folder.

Format 2 names the method in table ``detector``. Format 1 has neither a method, which is HeadCLIP, nor a format.
"""

from __future__ import annotations

import json
import reprlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from headlens.backbone.config import PositionRule
from headlens.detectors.detector import MethodConfig
from headlens.detectors.methods.registry import config_of, table_of
from headlens.detectors.stages import TrainingConfig
from headlens.errors import ConfigError, RunError
from headlens.files import MOST_TEXT, read_regular, read_text
from headlens.printing import did_you_mean, reason
from headlens.settings import Settings
from headlens.training.shipped import METHODS, NAMES, expected_sha256
from headlens.version import __version__

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FORMAT = 2
CONFIG, MODEL, CARD, LOG = "config.toml", "model.safetensors", "card.json", "log.csv"
_TABLES = ("backbone", "detector", "training")
_CARD: dict[str, tuple[type | tuple[type, ...], str]] = {
    **dict.fromkeys(
        ("backbone", "detector", "training", "metrics", "procedural", "imported", "versions"), (dict, "a table")
    ),
    **dict.fromkeys(("format", "seed", "images", "steps", "processes"), (int, "a whole number")),
    **dict.fromkeys(("model_sha256", "trained_on", "domain", "preset", "selection"), (str, "text")),
    "stages": (list, "a list"),
    "skipped": ((list, dict), "names of images, with reasons"),
    **dict.fromkeys(("unmasked", "adjusted"), (dict, "names of images, with reasons")),
}


@dataclass(frozen=True)
class BackboneTable(Settings):
    """Table ``backbone`` of ``config.toml``: of the CLIP, its weights, height and width of images, and positions."""

    name: str
    weights: str
    image_size: tuple[int, int]
    position_rule: PositionRule

    @classmethod
    def in_card(cls, backbone: Mapping[str, Any]) -> BackboneTable:
        """The same of what ``card.json`` says of a backbone, which is more."""
        return cls.of({name: value for name, value in backbone.items() if name in cls.__annotations__})


@dataclass(frozen=True)
class Description:
    """What the files of a run say, but for its learned tensors."""

    folder: Path
    backbone: BackboneTable
    config: MethodConfig
    training: TrainingConfig | None  # where it is known how it was trained
    card: dict[str, Any]


def read_description(folder: Path) -> Description:
    """``config.toml`` and ``card.json``, where both say the same.

    Raises:
        RunError: no run, damaged, of an unknown format, or edited by hand.
        ConfigError: a method or a setting that does not exist, or a value that it cannot have.
    """
    if not exists(folder / CONFIG):
        what = f"no {CONFIG} in it" if exists(folder) else "no such folder"
        there = [path.name for path in folder.parent.iterdir()] if folder.parent.is_dir() else []
        hint = "" if exists(folder) else did_you_mean(folder.name, [*METHODS, *NAMES, *there])
        raise RunError(
            f"{folder}: {what}{f'{hint} A' if hint else '; a'} run is a folder that `headlens train` has written, or "
            f"one of those that ship: {', '.join(METHODS)}; a number behind is the seed, such as {NAMES[0]}"
        )
    card = _read_card(folder / CARD)
    described = Description(folder, *_read_config(folder / CONFIG), card)
    _check_same(described)
    _check_threshold(described)
    return described


def _read_config(path: Path) -> tuple[BackboneTable, MethodConfig, TrainingConfig | None]:
    _check_shipped(path)
    try:
        tables = tomllib.loads(read_text(path, 2**20))
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(f"{path}: damaged ({reason(error)}); copy the run again, or train again") from error
    try:
        if unknown := sorted(tables.keys() - set(_TABLES)):
            raise ConfigError(f"{unknown[0]!r} is not one of its tables, {', '.join(_TABLES)}")
        if absent := [name for name in _TABLES[:2] if name not in tables]:
            raise ConfigError(f"there is no table [{absent[0]}]")
        training = TrainingConfig.of(tables["training"]) if "training" in tables else None
        return BackboneTable.of(tables["backbone"]), config_of(tables["detector"]), training
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def _read_card(path: Path) -> dict[str, Any]:
    """The card, of a known format, and with nothing in it that a card has not."""
    _check_shipped(path)
    try:
        card = json.loads(read_text(path))
        json.dumps(card, ensure_ascii=False).encode()  # refuses halves of letters, which nothing can print
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(f"{path}: {reason(error)}; a run without its card cannot be checked, copy it again") from error
    if not isinstance(card, dict):
        raise RunError(f"{path}: holds {reprlib.repr(card)}, not a card; copy the run again")
    if "painted" in card:
        card["procedural"] = card.pop("painted")  # as earlier versions called it
    for name, (kind, what) in _CARD.items():
        if card.get(name) is not None and (not isinstance(card[name], kind) or isinstance(card[name], bool)):
            raise RunError(f"{path}: {name} is {reprlib.repr(card[name])}; it is {what}: copy the run again")
    if card.get("format") is not None and not 1 <= card["format"] <= FORMAT:
        raise RunError(
            f"{path}: format is {card['format']}, and headlens {__version__} reads formats 1 to {FORMAT}: install the "
            "headlens that wrote this run"
        )
    if absent := [name for name in ("backbone", "detector", "model_sha256") if card.get(name) is None]:
        raise RunError(f"{path}: there is no {absent[0]}; copy the run again")
    return card


def _check_same(described: Description) -> None:
    """Whether both files say the same: a ``config.toml`` that was edited by hand describes no run that ever was.

    A card of an older version has no settings of training but their seed.
    """
    folder, card, training = described.folder, described.card, described.training
    try:
        pairs = [
            (described.backbone.table(), BackboneTable.in_card(card["backbone"]).table()),
            (table_of(described.config), table_of(config_of(card["detector"]))),
        ]
        if training is not None and "training" in card:
            pairs.append((training.table(), TrainingConfig.of(card["training"]).table()))
    except ConfigError as error:
        raise RunError(f"{folder / CARD}: {error}; copy the run again") from error
    if training is not None and "imported" not in card:
        pairs.append(({"seed": training.seed}, {"seed": card.get("seed")}))
    elif training is None and ("training" in card or "imported" not in card):
        raise RunError(
            f"{folder / CONFIG}: there is no table [training], but {CARD} is of a training; copy the run again"
        )
    for in_config, in_card in pairs:
        for name, value in in_config.items():
            if value != in_card[name]:  # the method comes first, and with it all names
                raise RunError(
                    f"{folder}: {name} is {reprlib.repr(value)} in {CONFIG} and {reprlib.repr(in_card[name])} in "
                    f"{CARD}: one of them was edited, put it back; in Python, run.changed(folder, alpha=…) makes a new "
                    "run of the same learned tensors"
                )


def _check_threshold(described: Description) -> None:
    """Whether a joint score of this method can be where the card has its threshold."""
    threshold, probability = described.card.get("threshold"), described.config.UNIT == "probability"
    if threshold is None:
        return
    number = isinstance(threshold, int | float) and not isinstance(threshold, bool)
    most = 1 if probability else sys.float_info.max
    if not (number and (0 if probability else -most) <= threshold <= most):  # which NaN is not
        what = "0 to 1" if probability else "a finite number"
        raise RunError(
            f"{described.folder / CARD}: threshold is {reprlib.repr(threshold)}; a joint score is {what}: copy the run "
            "again"
        )


def read_tensors(folder: Path, digest: str, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """``model.safetensors`` in float32, read from float32 or, as large runs ship, from float16.

    Raises:
        RunError: it is not the card's, or has other shapes, another type, or values that are not finite.
    """
    path = folder / MODEL
    most = sum(4 * int(torch.Size(shape).numel()) for shape in shapes.values()) + 2**20  # and a header
    try:
        content = read_regular(path, most)
        actual = sha256(content).hexdigest()
        if actual != digest:
            raise RunError(f"{path}: its SHA-256 is {actual}, the card says {digest}: edited or damaged; copy it again")
        tensors = load(content)
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise RunError(f"{path}: {reason(error)}; copy the run again") from error
    for name in sorted(shapes.keys() | tensors.keys()):
        if name not in tensors or name not in shapes:
            what = f"there is no {name}" if name in shapes else f"{name} is unknown"
        elif tuple(tensors[name].shape) != shapes[name]:
            what = f"{name} is {list(tensors[name].shape)}, not {list(shapes[name])}"
        elif tensors[name].dtype not in (torch.float32, torch.float16):
            what = f"{name} is {tensors[name].dtype}, not float32 or float16"
        elif not tensors[name].isfinite().all():
            what = f"{name} has NaN or infinity"
        else:
            continue
        raise RunError(f"{path} does not hold what {CONFIG} describes: {what}; copy the run again")
    return {name: tensor.float() for name, tensor in tensors.items()}


def _check_shipped(path: Path) -> None:
    """A file that ships is as it was shipped."""
    expected = expected_sha256(path)
    try:
        if expected is not None and sha256(read_regular(path, MOST_TEXT)).hexdigest() != expected:
            raise RunError(f"{path}: not as it ships, its SHA-256 differs: edited or damaged; install headlens again")
    except OSError as error:
        raise RunError(f"{path}: {reason(error)}; install headlens again") from error


def exists(path: Path) -> bool:
    """Whether anything has that name, a link to nothing included."""
    try:
        return path.exists() or path.is_symlink()
    except (OSError, ValueError):  # a name that is too long, for instance
        return False
