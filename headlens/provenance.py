"""Where a result came from: which backbone, which learned tensors, which data, which software."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, is_dataclass
from functools import cache
from hashlib import sha256
from importlib.metadata import version
from typing import Any

import torch

from headlens.data import DataSet
from headlens.detectors.detector import Detector
from headlens.detectors.scoring import Scorer
from headlens.precision import rounding_unit
from headlens.version import __version__


def provenance(scorer: Scorer, dataset: DataSet, **settings: Any) -> dict[str, Any]:
    """Which detector, data and software made a result; all of it fits into JSON.

    Args:
        scorer: a detector; or another, which says what it is by its type, and by its fields where it is a dataclass.
        dataset: the images' set.
        **settings: whatever else the result depends on.
    """
    names = sha256("\n".join(record.name for record in dataset.records).encode())
    images = {
        "name": dataset.name,
        "domain": dataset.domain,
        "images": len(dataset),
        "names_sha256": names.hexdigest(),
        "fingerprint": dataset.fingerprint,
    }
    settings = {"dataset": images, "seed": None, **settings}
    if isinstance(scorer, Detector):
        return detector_provenance(scorer, **settings)
    fields: dict[str, Any] = asdict(scorer) if is_dataclass(scorer) and not isinstance(scorer, type) else {}
    fields.pop("device", None)
    about = {"detector": {"method": type(scorer).__name__, **fields}, "versions": versions("torch"), **settings}
    return json.loads(json.dumps(about, default=str))


def together(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What several results have in common, and as ``parts`` what each says; of one result, that as it is.

    >>> together([{"seed": 0, "size": 56}, {"seed": 1, "size": 56}])
    {'size': 56, 'parts': [{'seed': 0, 'size': 56}, {'seed': 1, 'size': 56}]}
    """
    first, *others = parts
    if not others:
        return dict(first)
    common = {name: value for name, value in first.items() if all(other.get(name) == value for other in others)}
    return {**common, "parts": [dict(part) for part in parts]}


def learned_sha256(detector: Detector) -> str:
    """Of everything that was learned."""
    learned = sha256()
    for name, value in sorted(detector.state_dict().items()):
        learned.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
    return learned.hexdigest()


def detector_provenance(detector: Detector, **settings: Any) -> dict[str, Any]:
    """The same of a result that no image has a part in."""
    about = {
        "backbone": asdict(detector.backbone.provenance),
        "detector": {"method": detector.method, **detector.config.table()},
        "learned_sha256": learned_sha256(detector),
        **({"hooks": hooks} if (hooks := detector.hooks) else {}),
        "versions": versions("torch", "open_clip_torch", "transformer-lens"),
        **settings,
    }
    return json.loads(json.dumps(about))


_version = cache(version)  # it reads and parses a file, which takes longer than a small result


def versions(*packages: str) -> dict[str, str]:
    """Of headlens, Python and some packages."""
    known = {"headlens": __version__, "python": sys.version.split()[0]}
    return known | {name: _version(name) for name in packages}


def computed(scorer: Scorer, precision: str | None = None) -> dict[str, str]:
    """Where a detector runs and how finely: parts of a sweep that was interrupted must agree on it."""
    if not isinstance(scorer, Detector):
        return {"device": scorer.device.type}
    scale = scorer.backbone.logit_scale
    rounded = scale.dtype == torch.float32 and rounding_unit(scale.dtype, scale.device) > torch.finfo(scale.dtype).eps
    as_it_is = f"{scale.dtype}, products in TF32" if rounded else str(scale.dtype)  # a setting of torch's, on GPUs
    return {"device": scale.device.type, "precision": precision or as_it_is}
