"""The procedural worlds as data sets: fixed splits, samples by number, and an MVTec folder of them on request."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from headlens.data.procedural.captions import caption
from headlens.data.procedural.catalogue import CATEGORIES, FAMILIES, HELD_OUT, ROLES, Role
from headlens.data.procedural.draw import Draw
from headlens.data.procedural.render import COLOURS, PLACES, Rendered, as_bytes, colour_of, place_of, render
from headlens.data.procedural.scene import Category
from headlens.errors import DataError
from headlens.files import empty_folder
from headlens.printing import unknown_name

_SPLITS: dict[str, tuple[Role, bool]] = {
    "": ("unseen", False),
    "/novel": ("unseen", True),
    "/aux": ("aux", False),
    "/seen": ("seen", False),
}
SPECS = tuple(f"procedural:{domain}{split}" for domain in ("industrial", "medical") for split in _SPLITS)
"""Every set there is. Plain: categories nobody has seen; ``/novel``: those with flaws nobody has seen either;
``/aux``: what detectors are trained on; ``/seen``: categories that only the backbone's pre-training has seen."""


@dataclass(frozen=True)
class Sample:
    """One picture and all that is known about it.

    Args:
        image: [3, S, S] uint8.
        mask: [S, S] bool.
        category, family: names; the family of a normal picture is ``good``.
        severity: 0 (just visible) to 1 (obvious); 0 for normal pictures.
        caption: a sentence that is true of it.
        name: where ``write`` puts it, without suffix: ``bottle_cap/test/scratch/003``.
    """

    image: Tensor
    mask: Tensor
    category: str
    family: str
    severity: float
    caption: str
    name: str

    @property
    def anomalous(self) -> bool:
        """Whether it has a flaw."""
        return self.family != "good"


class World:
    """A procedural test or training set: on a CPU a sample has the same bytes whatever is asked before it.

    Half of every category is normal; the other half goes through the families of the split in turn.

    Args:
        spec: one of ``SPECS``.
        per_category: samples of each category.
        size: pixels along a side.
        seed: another seed is another set of the same kind.

    Raises:
        DataError: an unknown spec.

    >>> world = World("procedural:industrial", per_category=4, size=56)
    >>> world[2].image.shape, world[2].anomalous
    (torch.Size([3, 56, 56]), True)
    """

    specs: ClassVar[tuple[str, ...]] = SPECS
    masked: ClassVar[bool] = True  # whether it is known where anomalies are

    def __init__(self, spec: str, per_category: int = 80, size: int = 224, seed: int = 0) -> None:
        if spec not in self.specs:
            raise DataError(unknown_name("procedural set", spec, self.specs))
        if per_category < 2 or size < 14:
            raise DataError(f"per_category is {per_category} (at least 2), size {size} (at least 14)")
        self.spec, self.per_category, self.size, self.seed = spec, per_category, size, seed
        self.domain, _, split = spec.removeprefix("procedural:").partition("/")
        role, self.novel = _SPLITS["/" + split if split else ""]
        self.categories = self._categories(self.domain, role)

    def __len__(self) -> int:
        return len(self.categories) * self.per_category

    def _categories(self, domain: str, role: Role) -> tuple[str, ...]:
        return tuple(name for name, own in CATEGORIES.items() if own.domain == domain and ROLES[name] == role)

    def category(self, name: str) -> Category:
        """The category of that name."""
        return CATEGORIES[name]

    def name(self, i: int) -> str:
        """Of sample ``i``, as a path without suffix: ``bottle_cap/test/scratch/003``."""
        category, family, number = self.place(i)
        return f"{category.name}/test/{family}/{number:03d}"

    def caption(self, i: int) -> str:
        """What can be said of sample ``i`` without a look at it, anomalous or not; nothing."""
        return ""

    def families(self, category: str) -> tuple[str, ...]:
        """Flaws that samples of ``category`` have in this split."""
        return tuple(f for f in CATEGORIES[category].flaws if (f in HELD_OUT) == self.novel)

    def place(self, i: int) -> tuple[Category, str, int]:
        """Category, family and running number of sample ``i``."""
        if not -len(self) <= i < len(self):
            raise IndexError(f"sample {i} of {len(self)}")
        which, number = divmod(i % len(self), self.per_category)
        category = self.category(self.categories[which])
        normal = self.per_category // 2
        if number < normal:
            return category, "good", number
        families = self.families(category.name)
        return category, families[(number - normal) % len(families)], number

    def _render(
        self, category: Category, family: str, numbers: Sequence[int], device: torch.device | str | None = None
    ) -> Rendered:
        flaw = None if family == "good" else FAMILIES[category.domain][family]
        index = torch.tensor(numbers, dtype=torch.int32, device=device)
        return render(category, flaw, Draw.of(self.seed, f"{category.domain}/{category.name}", index), self.size)

    def __getitem__(self, i: int) -> Sample:
        return self.sample(i)

    def sample(self, i: int, device: torch.device | str | None = None) -> Sample:
        """Sample ``i``, made on ``device``. One at a time: what stands beside it must not change a bit of it."""
        category, family, number = self.place(i)
        made = self._render(category, family, [number], device)
        colour = COLOURS[int(colour_of(made.image, made.region))]
        where = int(place_of(made.mask))
        severity = round(float(made.severity), 4)
        place = PLACES[where] if where >= 0 else None
        words = self.caption(i) or caption(category, family, severity, colour, place)
        name = self.name(i)
        image, mask = as_bytes(made.image[0]).cpu(), made.mask[0, 0].cpu()
        return Sample(image, mask, category.name, family, severity, words, name)

    def twin(self, i: int) -> tuple[Tensor, Tensor, Tensor]:
        """The scene of sample ``i`` and of its normal twin, [3, S, S] each before distractors, and its mask [S, S]."""
        category, family, number = self.place(i)
        own, normal = self._render(category, family, [number]), self._render(category, "good", [number])
        return own.scene[0], normal.scene[0], own.mask[0, 0]

    def batch(self, indices: Sequence[int], device: torch.device | str | None = None) -> tuple[Tensor, Tensor]:
        """Images [n, 3, S, S] uint8 and masks [n, S, S] bool on ``device``, many at once: the fast way on a GPU.

        Equal to one at a time up to float rounding, which can move a pixel by one level (more inside a JPEG block).
        """
        images = torch.empty(len(indices), 3, self.size, self.size, dtype=torch.uint8, device=device)
        masks = torch.empty(len(indices), self.size, self.size, dtype=torch.bool, device=device)
        alike: dict[tuple[str, str], list[tuple[int, int]]] = {}
        for row, i in enumerate(indices):
            category, family, number = self.place(i)
            alike.setdefault((category.name, family), []).append((row, number))
        for (name, family), members in alike.items():
            made = self._render(self.category(name), family, [number for _, number in members], device)
            rows = torch.tensor([row for row, _ in members], device=device)
            images[rows], masks[rows] = as_bytes(made.image), made.mask[:, 0]
        return images, masks

    def __iter__(self) -> Iterator[Sample]:
        return (self[i] for i in range(len(self)))


def write(world: World, out: Path, progress: Callable[[], object] = lambda: None) -> int:
    """Writes samples by their names: in MVTec's layout (``category/test/family/000.png``), masks in ``ground_truth``.

    Generated images are in folders of their generators (``generator/wood/1_fake/000.png``), and have no masks.

    ``samples.csv`` beside the categories keeps what the layout has no place for: severity and caption. ``progress`` is
    called after every image.

    Returns:
        How many images were written.

    Raises:
        DataError: ``out`` has something in it already.
    """
    from PIL import Image

    empty_folder(out)
    rows = []
    for sample in world:
        path = out / f"{sample.name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(sample.image.permute(1, 2, 0).numpy()).save(path)
        if sample.anomalous and world.masked:
            mask = out / sample.category / "ground_truth" / sample.family / f"{path.stem}_mask.png"
            mask.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(sample.mask.numpy()).convert("L").save(mask)
        rows.append((f"{sample.name}.png", sample.category, sample.family, sample.severity, sample.caption))
        progress()
    with (out / "samples.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(("image", "category", "family", "severity", "caption"))
        table.writerows(rows)
    return len(rows)


def read(folder: Path) -> list[Sample]:
    """The samples that ``write`` put into ``folder``.

    Raises:
        DataError: no such folder, or files that are missing from it.
    """
    listing = folder / "samples.csv"
    if not listing.is_file():
        raise DataError(f"{folder} has no samples.csv: it was not written by `headlens data make`")
    samples = []
    with listing.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            path = folder / row["image"]
            mask = folder / row["category"] / "ground_truth" / row["family"] / f"{path.stem}_mask.png"
            image = _pixels(path, "RGB").permute(2, 0, 1)
            flaw = (
                _pixels(mask, "L") > 127 if row["family"] != "good" else torch.zeros(image.shape[1:], dtype=torch.bool)
            )
            name = row["image"].removesuffix(".png")
            samples.append(
                Sample(image, flaw, row["category"], row["family"], float(row["severity"]), row["caption"], name)
            )
    return samples


def _pixels(path: Path, mode: str) -> Tensor:
    import numpy as np
    from PIL import Image

    try:
        return torch.from_numpy(np.array(Image.open(path).convert(mode)))
    except OSError as error:
        raise DataError(f"{path}: the folder is not complete or damaged ({error}); make it again") from error
