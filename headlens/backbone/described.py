"""What lies beside a weight file and says what it is: open_clip's config, or that of transformers' ``CLIPModel``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from math import isfinite
from pathlib import Path
from typing import Any

from headlens.backbone.config import (
    Architecture,
    architecture,
    architecture_from_config,
    architecture_from_transformers,
)
from headlens.errors import ArchitectureError, CheckpointError
from headlens.files import read_text
from headlens.printing import brief

_WEIGHTS = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.bin",
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
_OPEN_CLIP, _TRANSFORMERS, _IMAGES = "open_clip_config.json", "config.json", "preprocessor_config.json"
_SIZES = ("n_layers", "n_heads", "d_model", "d_mlp", "d_embed", "eps", "patch_size", "n_ctx", "d_vocab")


@dataclass(frozen=True)
class Description:
    """What a config says of the weights next to it.

    Args:
        path: the config.
        quick: whether it was trained with QuickGELU.
        arch: the whole architecture, where the config has it.
        recipe: ``mean``, ``std``, ``interpolation`` of the images, those that it names.
    """

    path: Path
    quick: bool
    arch: Architecture | None = None
    recipe: dict[str, Any] = field(default_factory=dict)


def weight_file(path: Path) -> Path:
    """The weight file that a path means: itself, or of a folder the one that open_clip or transformers would take.

    Raises:
        CheckpointError: a folder without one.
    """
    if not path.is_dir():
        return path
    if file := next((path / name for name in _WEIGHTS if (path / name).is_file()), None):
        return file
    raise CheckpointError(f"no weight file in {path}; expected one of {', '.join(_WEIGHTS)}")


def described(path: Path) -> Description | None:
    """What the config beside a weight file says; None where there is none.

    Raises:
        CheckpointError: a config that cannot be read.
        ArchitectureError: transformers' config of a model that the towers cannot be true to.
    """
    config = path.with_name(_OPEN_CLIP)
    if config.exists():
        return _of_open_clip(config)
    config = path.with_name(_TRANSFORMERS)
    table = _table(config) if config.exists() else {}
    if not ("vision_config" in table and "text_config" in table):
        return None  # a config of something else
    arch = architecture_from_transformers(table, path.parent.name)
    images = path.with_name(_IMAGES)
    recipe = _transformers_recipe(_table(images), images) if images.exists() else {}
    return Description(config, arch.act_fn == "quick_gelu", arch, recipe)


def deduced(description: Description) -> str | None:
    """open_clip's name of an architecture, the one of that image size if there is one; None where it has none."""
    import open_clip

    wanted = description.arch
    alike = []
    for name in open_clip.list_models():
        try:
            arch = architecture(name)
        except ArchitectureError:
            continue
        if wanted is not None and arch.act_fn == wanted.act_fn and not differing(arch, wanted):
            alike.append((arch.vision.image_size != wanted.vision.image_size, len(name), name))
    return min(alike)[2] if alike else None


def differing(one: Architecture, other: Architecture) -> list[tuple[str, Any, Any]]:
    """Which sizes differ, image sizes apart: names, and what each has."""
    return [
        (f"{tower} {size.name}", *values)
        for tower in ("vision", "text")
        for size in fields(getattr(one, tower))
        if size.name in _SIZES
        and len(set(values := tuple(getattr(getattr(arch, tower), size.name) for arch in (one, other)))) > 1
    ]


def _table(path: Path) -> dict[str, Any]:
    try:
        table = json.loads(read_text(path, 2**20))  # no config is longer
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not a config that can be read: {brief(error)}") from error
    return table if isinstance(table, dict) else {}


def _of_open_clip(path: Path) -> Description:
    config = _table(path)
    try:
        model, recipe = config["model_cfg"], _recipe(dict(config.get("preprocess_cfg", {})))
        whole = {"embed_dim", "vision_cfg", "text_cfg"} <= model.keys()
        arch = architecture_from_config(model, path.parent.name) if whole else None
        return Description(path, bool(model.get("quick_gelu")), arch, recipe)
    except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError) as error:
        raise CheckpointError(f"{path} is not an open_clip config: {error!r}") from error


def _transformers_recipe(config: Mapping[str, Any], path: Path) -> dict[str, Any]:
    names = {"image_mean": "mean", "image_std": "std", "resample": "interpolation"}
    try:
        recipe = {new: config[old] for old, new in names.items() if old in config}
        if "resample" in config:  # as Pillow counts
            recipe["interpolation"] = {2: "bilinear", 3: "bicubic"}.get(config["resample"], config["resample"])
        return _recipe(recipe)
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{path} is not the config of an image processor: {error!r}") from error


def _recipe(config: dict[str, Any]) -> dict[str, Any]:
    for key in ("mean", "std"):
        if key in config:
            config[key] = tuple(float(number) for number in config[key])
            if len(config[key]) != 3 or not all(map(isfinite, config[key])) or (key == "std" and min(config[key]) <= 0):
                raise ValueError(f"{key} is {config[key]}")
    if config.get("interpolation", "bicubic") not in ("bicubic", "bilinear"):
        raise ValueError(f"interpolation is {config['interpolation']}")
    return config
