"""What an ablated head writes instead of its own output: the mean over a reference set, another image's, its twin's."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256
from itertools import product

import torch
from torch import Tensor

from headlens.backbone.plan import STREAMS
from headlens.data import Batch, DataSet, Record
from headlens.detectors.detector import Detector
from headlens.errors import ConfigError, DataError
from headlens.heads.clean import CleanRun, clean_forward
from headlens.heads.response import Kind, Replacement
from headlens.heads.sweep import Images, categories


@torch.no_grad()
def mean_heads(parts: Iterable[CleanRun]) -> dict[str, list[Tensor | None]]:
    """Heads before weighting, averaged over images and patches, CLS and extra tokens by themselves.

    Args:
        parts: clean runs of a reference set, of images of one size; none is kept.

    Returns:
        ``{stream: L tensors [1, T, H, d]}``.

    Raises:
        DataError: no part.
    """
    sums: dict[tuple[str, int], Tensor] = {}  # over images: of CLS, of all patches, of each extra token
    images, template = 0, None
    for clean in parts:
        images, template, at = images + len(clean), clean, clean.patches
        for stream, layer in product(STREAMS, range(len(clean.mid))):
            if (z := clean.z[stream][layer]) is not None:
                wide = z.cpu().double()  # not every device has float64
                total = torch.cat([wide[:, :1].sum(0), wide[:, at].sum((0, 1))[None], wide[:, at.stop :].sum(0)])
                sums[stream, layer] = sums[stream, layer] + total if (stream, layer) in sums else total
    if template is None:
        raise DataError("there is no image to take the mean of")

    def mean(stream: str, layer: int, z: Tensor | None) -> Tensor | None:
        if z is None:
            return None
        total, patches = sums[stream, layer], z[0, template.patches].shape[0]
        patch = (total[1:2] / (images * max(1, patches))).expand(patches, -1, -1)
        return torch.cat([total[:1] / images, patch, total[2:] / images])[None].to(z)  # (1, T, H, d)

    return {stream: [mean(stream, *each) for each in enumerate(template.z[stream])] for stream in STREAMS}


def donors(dataset: DataSet, pool: DataSet | None = None, seed: int = 0) -> list[int]:
    """For each image of ``dataset`` the number of another in ``pool``: normal, of the same category, drawn by seed.

    The draw depends on seed and names alone: neither on batches nor on what else is in ``dataset``; a larger pool only
    changes donors to its new images.

    Args:
        dataset: whose heads are ablated.
        pool: where donors come from; ``dataset`` itself by default. No image is its own donor, and no frame that of
            another of its clip, which shows nearly the same.
        seed: of the draw.

    Raises:
        DataError: a category without another normal image.
    """
    pool = dataset if pool is None else pool
    normal: dict[str, list[int]] = {}
    for number, record in enumerate(pool.records):
        if record.anomalous is False:
            normal.setdefault(record.category, []).append(number)
    chosen = []
    for record in dataset.records:
        others = [i for i in normal.get(record.category, []) if not _together(pool.records[i], record)]
        if not others:
            raise DataError(
                f"{record.name}: {pool.name} has no other normal image of category {record.category!r} to resample "
                "from; choose another kind, or give a reference set that has one"
            )
        prefix = f"{seed}/{record.name}/"
        chosen.append(min(others, key=lambda i: sha256(f"{prefix}{pool.records[i].name}".encode()).digest()))
    return chosen


def _together(one: Record, other: Record) -> bool:
    return one.name == other.name or (one.clip != "" and one.clip == other.clip)


def twins(dataset: DataSet, reference: DataSet | None) -> list[int]:
    """For each image of ``dataset`` the number of the one of that name in ``reference``.

    Raises:
        ConfigError: no reference.
        DataError: an image without a twin, or with several.
    """
    if reference is None:
        raise ConfigError(
            "kind 'paired' takes what heads write for the same image of a reference set: give it, reference=..."
        )
    numbers: dict[str, list[int]] = {}
    for number, record in enumerate(reference.records):
        numbers.setdefault(record.name, []).append(number)
    for record in dataset.records:
        if len(these := numbers.get(record.name, [])) != 1:
            many = f"has {len(these)} images" if these else "has no image"
            raise DataError(f"{reference.name} {many} of the name {record.name!r}, whose twin was asked for")
    return [numbers[record.name][0] for record in dataset.records]


class Replacements:
    """What ablated heads write instead, batch by batch, for every kind of ablation.

    Args:
        data: the images that are ablated.
        reference: of ``mean``, ``resample`` and ``paired``; for the first two the normal images of ``data`` when None.
        seed: of the donors.

    Raises:
        DataError: no image to take a mean of, or to be a donor.
        ConfigError: ``paired`` without a reference.
    """

    def __init__(
        self, detector: Detector, data: DataSet, kind: Kind, reference: DataSet | None, seed: int, size: int, batch: int
    ) -> None:
        self.kind, self._external = kind, reference is not None
        self.pool = data.where(lambda record: record.anomalous is False) if reference is None else reference
        if kind == "mean" and not len(self.pool):
            raise DataError(f"{data.name} has no normal image to take the mean of; give a reference set")
        self._donors: list[int] = []
        if kind == "resample":
            self._donors = donors(data, self.pool, seed)
        elif kind == "paired":
            self._donors = twins(data, reference)
        self._images = Images(detector, self.pool, size, batch)
        self._mean: Replacement | None = None

    @property
    def about(self) -> dict[str, str] | None:
        """Which images heads are replaced from, where any are."""
        if self.kind not in ("mean", "resample", "paired"):
            return None
        return {"name": self.pool.name, "fingerprint": self.pool.fingerprint}

    def of(self, detector: Detector, part: Batch) -> Replacement | None:
        """Heads before weighting, for the images of a batch; ``detector`` in the precision of the sweep.

        Raises:
            DataError: a donor that cannot be read.
        """
        if self.kind == "mean":
            if self._mean is None:
                runs = (clean_forward(detector, images, categories(batch)) for batch, images in self._images)
                self._mean = mean_heads(runs)
            return self._mean
        if self._donors:
            numbers = [self._donors[i] for i in part.index.tolist()]
            them = self._images.at_once(numbers)
            donated = [clean_forward(detector, images, categories(batch)) for batch, images in them]
            if unread := self._images.unread:
                raise DataError(f"{unread[0]} cannot be read, and is a donor; leave it out of the reference")
            return donated[0].z
        return None

    def unread(self) -> dict[str, str]:
        """Images of a reference set that have no part in its mean, and why; all ranks must ask."""
        return self._images.notes()["skipped"] if self.kind == "mean" and self._external else {}
