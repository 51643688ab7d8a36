"""What a run folder says, checked before anything is made of it: its files may be anybody's.

``config.toml`` has tables ``backbone``, ``detector`` and ``training``, the last one not where nobody knows how it was
trained. ``card.json`` says the same and more, and has the hash of the learned tensors.
"""

from __future__ import annotations

import json
import reprlib
import sys
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from headlens.backbone.config import POSITION_RULES
from headlens.detectors.detector import MethodConfig
from headlens.detectors.methods.registry import config_of
from headlens.detectors.stages import TrainingConfig
from headlens.errors import ConfigError, RunError
from headlens.files import MOST_TEXT, read_regular, read_text
from headlens.printing import reason
from headlens.training.shipped import NAMES, expected_sha256

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

CONFIG, MODEL, CARD, LOG = "config.toml", "model.safetensors", "card.json", "log.csv"
_MOST_CONFIG = 2**20  # bytes
_TABLES = ("backbone", "detector", "training")
_BACKBONE = ("name", "weights", "image_size", "position_rule")
_CARD: dict[str, tuple[type | tuple[type, ...], str]] = {
    **dict.fromkeys(
        ("backbone", "detector", "training", "metrics", "painted", "imported", "versions"), (dict, "a table")
    ),
    **dict.fromkeys(("seed", "images", "steps", "processes"), (int, "a whole number")),
    **dict.fromkeys(("model_sha256", "trained_on", "domain", "preset", "selection"), (str, "text")),
    "skipped": ((list, dict), "names of images, with reasons"),
    **dict.fromkeys(("unmasked", "adjusted"), (dict, "names of images, with reasons")),
}


def read_config(folder: Path) -> tuple[dict[str, Any], MethodConfig, TrainingConfig | None]:
    """``config.toml``: its table ``backbone``, and the other two; None where it does not say how it was trained.

    Raises:
        RunError: no run, or not readable.
        ConfigError: a setting that does not exist, or cannot be what it is.
    """
    path = folder / CONFIG
    if not exists(path):
        what = f"no {CONFIG} in it" if exists(folder) else "no such folder"
        raise RunError(
            f"{folder}: {what}; a run is a folder that `headlens train` has written, or one of those that ship: "
            f"{', '.join(NAMES)}"
        )
    _check_shipped(path)
    try:
        tables = tomllib.loads(read_text(path, _MOST_CONFIG))
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(f"{path}: damaged ({reason(error)}); copy the run again, or train again") from error
    try:
        if unknown := sorted(tables.keys() - set(_TABLES)):
            raise ConfigError(f"{unknown[0]!r} is none of its tables, {', '.join(_TABLES)}")
        if absent := [name for name in _TABLES[:2] if name not in tables]:
            raise ConfigError(f"there is no table [{absent[0]}]")
        training = TrainingConfig.of(tables["training"]) if "training" in tables else None
        return _backbone(tables["backbone"]), config_of(tables["detector"]), training
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def read_card(folder: Path) -> dict[str, Any]:
    """``card.json``.

    Raises:
        RunError: missing, damaged, or with something that a card has not.
    """
    path = folder / CARD
    _check_shipped(path)
    try:
        card = json.loads(read_text(path))
        json.dumps(card, ensure_ascii=False).encode()  # refuses halves of letters, which nothing can print
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(f"{path}: {reason(error)}; a run without its card cannot be checked, copy it again") from error
    if not isinstance(card, dict):
        raise RunError(f"{path}: holds {reprlib.repr(card)}, not a card; copy the run again")
    for name, (kind, what) in _CARD.items():
        if card.get(name) is not None and (not isinstance(card[name], kind) or isinstance(card[name], bool)):
            raise RunError(f"{path}: {name} is {reprlib.repr(card[name])}; it is {what}: copy the run again")
    if absent := [name for name in ("backbone", "detector", "model_sha256") if card.get(name) is None]:
        raise RunError(f"{path}: there is no {absent[0]}; copy the run again")
    threshold = card.get("threshold")
    if threshold is not None:
        number = isinstance(threshold, int | float) and not isinstance(threshold, bool)
        if not (number and 0 <= threshold <= 1):  # which NaN is not
            raise RunError(
                f"{path}: threshold is {reprlib.repr(threshold)}; a joint score is 0 to 1: copy the run again"
            )
    return card


def check_same(folder: Path, card: Mapping[str, Any], about: Mapping[str, Any], *tables: Any) -> None:
    """Whether ``config.toml`` says what the card says: one that was edited by hand describes no run that ever was.

    Args:
        folder: of both.
        card: as it was read.
        about: the table ``backbone`` of ``config.toml``.
        *tables: the other two. A card of an older version has no settings of training but their seed.

    Raises:
        RunError: naming what differs, and both values.
    """
    detector, training = tables
    try:
        pairs = [
            (about, {name: card["backbone"].get(name) for name in _BACKBONE}),
            (detector.table(), config_of(card["detector"]).table()),
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
    for ours, theirs in pairs:
        for name in ours:
            if ours[name] != theirs[name]:
                raise RunError(
                    f"{folder}: {name} is {reprlib.repr(ours[name])} in {CONFIG} and {reprlib.repr(theirs[name])} in "
                    f"{CARD}: one of them was edited, put it back; in Python, run.changed(folder, alpha=…) makes a new "
                    "run of the same learned tensors"
                )


def read_tensors(folder: Path, digest: str, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """``model.safetensors``, if it is the one of the card, and holds tensors of these shapes, float32 and finite.

    Raises:
        RunError: it does not.
    """
    path = folder / MODEL
    most = sum(4 * int(torch.Size(shape).numel()) for shape in shapes.values()) + 2**20  # and a header
    try:
        content = read_regular(path, most)
        found = sha256(content).hexdigest()
        if found != digest:
            raise RunError(f"{path}: its SHA-256 is {found}, the card says {digest}: edited or damaged; copy it again")
        tensors = load(content)
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise RunError(f"{path}: {reason(error)}; copy the run again") from error
    for name in sorted(shapes.keys() | tensors.keys()):
        if name not in tensors or name not in shapes:
            what = f"there is no {name}" if name in shapes else f"{name} is unknown"
        elif tuple(tensors[name].shape) != shapes[name]:
            what = f"{name} is {list(tensors[name].shape)}, not {list(shapes[name])}"
        elif tensors[name].dtype != torch.float32:
            what = f"{name} is {tensors[name].dtype}, not float32"
        elif not tensors[name].isfinite().all():
            what = f"{name} has NaN or infinity"
        else:
            continue
        raise RunError(f"{path} does not hold what {CONFIG} describes: {what}; copy the run again")
    return tensors


def _backbone(table: Any) -> dict[str, Any]:
    """The table ``backbone``, if it is one."""
    if not isinstance(table, Mapping) or set(table) != set(_BACKBONE):
        raise ConfigError(f"[backbone] has {', '.join(_BACKBONE)}, and nothing else")
    for name in ("name", "weights"):
        if not isinstance(table[name], str):
            raise ConfigError(f"{name} is {reprlib.repr(table[name])}; it is text")
    size = table["image_size"]
    if not isinstance(size, list) or [type(side) for side in size] != [int, int]:
        raise ConfigError(f"image_size is {reprlib.repr(size)}; it is height and width")
    if table["position_rule"] not in POSITION_RULES:
        rule = reprlib.repr(table["position_rule"])
        raise ConfigError(f"position_rule is {rule}; it can be {', '.join(POSITION_RULES)}")
    return dict(table)


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
