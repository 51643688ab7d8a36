"""``open``: from a folder, a file or the name of a procedural set to a data set."""

from __future__ import annotations

import logging
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from headlens.clips import runs
from headlens.data.folders import FileSet
from headlens.data.images import MAX_PIXELS, UNREAD
from headlens.data.readers import LAYOUTS, Layout, Root
from headlens.data.readers.colours import coloured
from headlens.data.readers.known import domain_of, generic, known
from headlens.data.samples import DataSet, Pixels, Record
from headlens.errors import DataError, HeadlensWarning
from headlens.files import open_regular
from headlens.printing import did_you_mean, unknown_name

if TYPE_CHECKING:
    from headlens.data.procedural import ClipWorld, World

_LOG = logging.getLogger(__name__)
SPLITS = ("test", "train", "valid", "all")
_DEEP = 3  # archives unpack into a folder in a folder
_FEW_UNUSED = 1 / 10  # of the images of a folder: an image of the set, or of its makers
_WORLD = ("per_category", "size", "seed")


class ProceduralSet(DataSet):
    """A procedural world as a data set, equal in names, families, pixels and masks to the folder it is written to.

    Args:
        world: what is generated.
        domain: overrides the world's.
        which: indices of the samples; all by default.
    """

    def __init__(self, world: World, domain: str = "", which: Iterable[int] | None = None) -> None:
        self.world = world
        self._which = tuple(range(len(world)) if which is None else which)
        super().__init__(world.spec, domain or world.domain, map(self._record, self._which))

    def _record(self, i: int) -> Record:
        category, family, _ = self.world.place(i)
        return Record(self.world.name(i), category.name, family != "good", family, caption=self.world.caption(i))

    @property
    def has_masks(self) -> bool:
        """Every anomaly has a mask, which is generated, too; but generated images have none."""
        return self.world.masked and any(record.anomalous for record in self.records)

    @property
    def fingerprint(self) -> str:
        """Of the world, which decides what is generated, and of the samples."""
        world = (self.world.spec, self.world.per_category, self.world.size, self.world.seed, self._which)
        return sha256(repr((world, super().fingerprint)).encode()).hexdigest()

    def pixels(self, i: int) -> Pixels:
        """Generates record ``i``."""
        sample = self.world[self._which[i]]
        return Pixels(sample.image, sample.mask if self.world.masked else None)

    def where(self, keep: Callable[[Record], bool]) -> ProceduralSet:
        """The same set with only the records for which ``keep`` is true."""
        which = (i for i, record in zip(self._which, self.records, strict=True) if keep(record))
        return ProceduralSet(self.world, self.domain, which)


class ProceduralClips(DataSet):
    """Frames of procedural clips as a data set, equal to the folder that they are written to.

    Args:
        world: what is generated.
        domain: overrides the world's.
        which: indices of the frames; all by default.
    """

    def __init__(self, world: ClipWorld, domain: str = "", which: Iterable[int] | None = None) -> None:
        self.world = world
        self._which = tuple(range(len(world.frames)) if which is None else which)
        super().__init__(world.spec, domain or world.domain, map(self._record, self._which))

    def _record(self, i: int) -> Record:
        clip, number = self.world.frames[i]
        place = self.world.places[clip]
        anomalous = bool(place.anomalous[number])
        family = place.kind if anomalous else "good"
        return Record(f"{place.name}/{number:03d}", place.category, anomalous, family, clip=place.name)

    @property
    def fingerprint(self) -> str:
        """Of the world, which decides what is generated, and of the frames."""
        world = (self.world.spec, self.world.per_category, self.world.size, self.world.seed, self._which)
        return sha256(repr((world, super().fingerprint)).encode()).hexdigest()

    def pixels(self, i: int) -> Pixels:
        """Generates record ``i``, and with it its clip. There are no masks."""
        clip, number = self.world.frames[self._which[i]]
        image = self.world.clip(clip).frames[number].clone()
        normal = not self.records[i].anomalous
        return Pixels(image, torch.zeros(image.shape[1:], dtype=torch.bool) if normal else None)

    def where(self, keep: Callable[[Record], bool]) -> ProceduralClips:
        """The same set with only the records for which ``keep`` is true."""
        which = (i for i, record in zip(self._which, self.records, strict=True) if keep(record))
        return ProceduralClips(self.world, self.domain, which)


def layouts() -> dict[str, str]:
    """The names of the layouts that can be read, each with a line about it, in the order in which they are tried.

    >>> layouts()["mvtec"]
    'MVTec AD: {train,test}/family and ground_truth'
    """
    return {layout.name: layout.about for layout in LAYOUTS}


def as_set(given: DataSet | str | Path) -> DataSet:
    """A data set itself, or what ``open`` makes of its name; every function that measures a set calls this on it.

    Raises:
        DataError: neither.

    >>> as_set("procedural:medical").name
    'procedural:medical'
    """
    if isinstance(given, DataSet):
        return given
    if isinstance(given, str | Path):
        return open(given)
    kind = type(given).__name__
    raise DataError(f"{kind} is not a data set; give headlens.data.open(...), its name, or a part, such as images[:4]")


def open(
    spec: str | Path,
    layout: str | None = None,
    domain: str | None = None,
    category: str | None = None,
    split: str = "test",
    root: str | Path | None = None,
    *,
    refuse: Callable[[DataError], object] | None = None,
    follow_links: bool = False,
    max_pixels: int = MAX_PIXELS,
    every: int = 1,
    **world: int,
) -> DataSet:
    """The data set that ``spec`` names.

    Args:
        spec: a folder (a set, or one category of it), a file (a listing, or one image), or a procedural set such as
            ``procedural:industrial``.
        layout: one of ``layouts()``; the first that fits when None.
        domain: ``industrial``, ``medical`` or any other; when None, guessed from folder and category names, or empty.
        category: only this category. If the layout has no categories, the name of what the images show.
        split: ``test`` (what zero-shot methods are tested on and, of another set, trained on), ``train``, ``valid``,
            ``all``.
        root: the folder that the paths of a listing are relative to; the folder of the listing when None.
        refuse: called with a ``DataError`` for everything that is left out (a path outside the root, an invalid label),
            which is raised by default; and for every mask that belongs to no image, which is raised by default only if
            no mask has an image. By default the ``notes`` of the set are also given as warnings.
        follow_links: whether symbolic links may lead out of the root.
        max_pixels: images with more pixels are refused.
        every: of clips, only every so many frames; those of a video in one second differ little.
        world: ``per_category`` (images, or clips), ``size`` and ``seed`` of a procedural set.

    Raises:
        DataError: no such folder or file, no layout fits, no records, or an unknown layout, category or split.

    >>> open("procedural:medical", category="head_ct", per_category=4, size=56)
    ProceduralSet('procedural:medical', medical, 1 categories, 2 normal + 2 anomalous, masks)
    """
    if split not in SPLITS:
        raise DataError(unknown_name("split", split, SPLITS))
    data: DataSet
    if str(spec).startswith("procedural:"):
        from headlens.data.procedural import ClipWorld, world_of

        if layout or root:
            raise DataError(f"{spec} is generated, not read: layout and root do not apply to it")
        for key, value in world.items():
            if key not in _WORLD or not isinstance(value, int):
                raise DataError(f"{key}={value!r}: procedural sets have {', '.join(_WORLD)}, which are whole numbers")
        if str(spec).startswith("procedural:clips"):
            data = ProceduralClips(ClipWorld(str(spec), **world), domain or "")
        else:
            data = ProceduralSet(world_of(str(spec), **world), domain or "")
    else:
        if world:
            raise DataError(f"{', '.join(world)}: only procedural sets have that, {str(spec)!r} is a path")
        data = _read(spec, layout, domain, category, root, Root(Path(), refuse, follow_links, max_pixels))
        for line in data.notes if refuse is None else ():
            warnings.warn(line, HeadlensWarning, stacklevel=2)
    if every < 1:
        raise DataError(f"every is {every}; it is 1, for every frame, or more")
    if every > 1:
        clips = runs([record.clip for record in data.records])
        chosen = {data.records[i].name for clip in clips for i in clip[::every]}
        data = data.where(lambda record: record.name in chosen)
    if category is not None:
        if category not in data.categories:
            known = f"{', '.join(data.categories)}{did_you_mean(category, data.categories)}"
            raise DataError(f"{data.name} has no category {category!r}; available: {known}")
        data = data.where(lambda record: record.category == category)
    if split != "all":
        splits = sorted({record.split for record in data.records})
        if split not in splits:
            raise DataError(f"{data.name} has no images of the split {split!r}, only of {', '.join(splits)}")
        data = data.where(lambda record: record.split == split)
    _LOG.debug("read %s: %r", spec, data)
    return data


def _read(
    spec: str | Path, layout: str | None, domain: str | None, category: str | None, root: str | Path | None, base: Root
) -> FileSet:
    path = _path(spec)
    where = _path(root) if root is not None else path if path.is_dir() else path.parent
    if not where.is_dir():
        raise DataError(f"root {where} is not a folder")
    base = base.within(where)
    if layout is None:
        reader, base, path = _recognised(base, path)
    else:
        if layout not in layouts():
            raise DataError(unknown_name("layout", layout, layouts()))
        reader = next(reader for reader in LAYOUTS if reader.name == layout)
        if root is not None and path.is_dir() and not reader.listing:
            why = f"only a listing can lie elsewhere, {path} is read as {layout}"
            raise DataError(f"root={root}: {why}; leave root out")
    guess, shows = known(_names(where, base.path))
    name = where.absolute().name
    records = list(reader.read(base, path))
    if layout is None and not reader.listing and len(_unused(base, records)) > len(records):
        reader, base, records = _better(reader, base, records)
    if not records:
        raise DataError(f"{path}: no images, read as {reader.name} ({reader.about}); name another layout= or folder")
    records = [replace(r, category=r.category or category or shows or name) for r in coloured(base, records)]
    _report_unpaired(base, records)
    if path.is_dir():
        _note_unused(base, records, reader.name)
    domain = domain if domain is not None else reader.domain or guess or domain_of(r.category for r in records)
    opened = base.path.resolve() if path.is_dir() and root is None else None  # of a listing, where its images are
    return FileSet(name, domain, _unique(records), reader.name, base.max_pixels, opened, base.notes)


def _unused(base: Root, records: Sequence[Record]) -> list[Path]:
    """Images in a folder that no record is made of, without those that are left out on purpose."""
    used = {file for record in records for file in record.files} | {*base.unpaired}
    left = {image for folder in base.left for image in base.below(folder)}
    return [image for image in base.below(base.path) if image not in used and image not in left]


def _better(reader: Layout, base: Root, records: list[Record]) -> tuple[Layout, Root, list[Record]]:
    """Another layout that fits and makes use of far more of the images, if there is one, instead of ``reader``."""
    best = reader, base, records
    for other in LAYOUTS:
        if other is reader or other.listing or other.name == "images":
            continue
        tried = base.within(base.path, quiet=True)
        with suppress(DataError):
            others = list(other.read(tried, base.path)) if other.fits(tried, base.path) else []
            if len(others) > 2 * len(best[2]):
                best = other, base.within(base.path), others
    return best if best[0] is reader else (best[0], best[1], list(best[0].read(best[1], best[1].path)))


def _note_unused(base: Root, records: list[Record], layout: str) -> None:
    """A reader that passes over images may have taken something else for the set; and no reader takes all formats."""
    unused, total = _unused(base, records), sum(1 for _ in base.below(base.path))
    if len(unused) > _FEW_UNUSED * total:
        used = f"{total - len(unused)} of {total} images are used; the others are e.g. {unused[0]}"
        base.notes.append(f"{base.path}: read as {layout}: {used}; name another layout or folder if they are meant")
    if unread := [path for folder in base.walk(base.path) for path in base.files(folder, *UNREAD)]:
        what = f"images in formats that are not read: {len(unread)}, such as {unread[0]}"
        base.notes.append(f"{base.path}: {what}; save them as PNG, TIFF or JPEG")


def _names(where: Path, base: Path) -> list[str]:
    """What the set is called, by itself first: a folder around it counts only where its own names say nothing."""
    inner, outer = base.absolute(), where.absolute()
    names = [folder.name for folder in [inner, *inner.parents] if folder.is_relative_to(outer)]
    return [*names, outer.parent.name] if all(map(generic, names)) else names


def _report_unpaired(base: Root, records: list[Record]) -> None:
    """A mask without an image is a mistake; if all are, it is one of names."""
    masks = base.unpaired
    if masks and not any(record.mask for record in records):
        what = f"{masks[0]}: none of {len(masks)} masks belongs to exactly one image by its name"
        way = "name them like the images (003_mask.png is the mask of 003.*), or move them elsewhere"
        base.refuse(DataError(f"{what}; {way}"))
    if masks and base.silent:
        what = f"{len(masks)} masks belong to no image, or to several"
        base.notes.append(f"{what}; `headlens data check` names them: {masks[0]}")
    for mask in masks:
        base.tell(
            DataError(f"{mask}: a mask that belongs to no image, or to several; name it like its image, or remove it")
        )


def _path(spec: str | Path) -> Path:
    try:
        path = Path(spec).expanduser()
        if path.exists():
            if not path.is_dir():
                open_regular(path).close()
            return path if path.name not in ("", "..") else path.resolve()
        names = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    except (OSError, RuntimeError, ValueError) as error:  # no permission, a name that no file can have, no such user
        why = (error.strerror if isinstance(error, OSError) else None) or error
        raise DataError(f"{str(spec)[:200]}: cannot be opened ({why})") from error
    raise DataError(f"{path}: no such folder or file{did_you_mean(path.name, names)}")


def _recognised(base: Root, path: Path) -> tuple[Layout, Root, Path]:
    """The first layout that fits, here or in the only folder that there is."""
    top, whole = path, base
    images: tuple[Layout, Root, Path] | None = None  # what says least: an image of a set can lie next to the set
    for _ in range(_DEEP):
        if reader := _fitting(base, path):
            if reader.name != "images":
                return reader, base, path
            images = images or (reader, base, path)
        inner = base.folders(path) if path.is_dir() else []
        if len(inner) != 1 or base.path != path:
            break
        path, base = inner[0], base.within(inner[0])
    if images:
        return images
    looked = "; ".join(f"{name} ({about})" for name, about in layouts().items())
    fitting = [f"{inner} ({reader.name})" for inner, reader in islice(_inner_sets(whole, top), 5)]
    what = "no layout fits. " + (f"Open one of these: {', '.join(fitting)}. " if fitting else "")
    raise DataError(f"{top}: {what}Looked for: {looked}. Name one with layout=, or list images in a csv file")


def _inner_sets(base: Root, top: Path) -> Iterator[tuple[Path, Layout]]:
    """Folders in a folder that could be opened, those further down after those further up, as far as one would look."""
    waiting = [(top, 0)] if top.is_dir() else []
    for folder, deep in islice(waiting, 300):  # more would take long
        reader = None
        with suppress(DataError):
            reader = _fitting(base.within(folder, quiet=True), folder) if deep else None
        if reader:
            yield folder, reader
        elif deep < _DEEP:
            waiting += [(inner, deep + 1) for inner in base.folders(folder)]


def _fitting(base: Root, path: Path) -> Layout | None:
    here = path.is_file() or path == base.path
    return next((layout for layout in LAYOUTS if (layout.listing or here) and layout.fits(base, path)), None)


def _unique(records: list[Record]) -> Iterator[Record]:
    """Images that differ only in their suffix keep it; an image that is listed again gets a number."""
    names = Counter(record.name for record in records)
    taken: set[str] = set()
    numbers: Counter[str] = Counter()
    for record in records:
        name = record.name
        if names[name] > 1 and record.image is not None and record.crop is None:
            name += record.image.suffix
        free = name
        while free in taken:
            numbers[name] += 1
            free = f"{name}#{numbers[name] + 1}"
        taken.add(free)
        yield replace(record, name=free)
