"""What readers see of a data set's folder: files by name, masks by stem, and nothing outside of it."""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from headlens.data.images import MAX_PIXELS, SUFFIXES
from headlens.data.mask_sources import MaskSource, files_of, united
from headlens.data.samples import Record
from headlens.errors import DataError

_NORMAL = (
    "good ok no normal normals healthy negative clean nondefective non_defective not_defective defect_free no_defect "
    "nodefect no_anomaly"
)
NORMAL = frozenset(_NORMAL.split())
"""Folders and labels that say that nothing is wrong, in lower case and with ``_`` between words."""

SPLITS = {
    "train": ("train", "training", "trainval"),
    "test": ("test", "testing"),
    "valid": ("valid", "validation", "val"),
}
"""Names of folders and words in listings, in lower case, that stand for a split."""

_JUNK = re.compile(  # hidden files, and what archives, file managers and tools leave behind
    r"(?is)\..*|__macosx|__pycache__|@eadir|\$recycle\.bin|system volume information|lost\+found|(eh)?thumbs\.db|"
    r"desktop\.ini|icon\r"
)
_ROLE = re.compile(r"(?i)[ ._-]+(mask|label|gt|seg|segmentation|ground[ _-]?truth|annotation|anno)s?(?:_\d+)?$")


def _raise(error: DataError) -> None:
    raise error


def _pass(error: DataError) -> None:
    """Nobody asked."""


def needed(path: Path | None, otherwise: str) -> Path:
    """The file without which a layout cannot be read; a DataError that says ``otherwise`` where it is missing."""
    if path is None:
        raise DataError(otherwise)
    return path


def is_normal(word: str) -> bool:
    """Whether a folder or a label of this name says that nothing is wrong.

    >>> is_normal("Good"), is_normal("no defect"), is_normal("Non-Defective"), is_normal("crack")
    (True, True, True, False)
    """
    return re.sub(r"[-_ ]+", "_", word.strip().lower()) in NORMAL


def is_junk(name: str) -> bool:
    """Whether a file or a folder of this name is passed over without a word: hidden, or left behind by a program.

    >>> is_junk("._000.png"), is_junk(".ipynb_checkpoints"), is_junk("Thumbs.db"), is_junk("000.png")
    (True, True, True, False)
    """
    return _JUNK.fullmatch(name) is not None


def split_of(word: str | None) -> str | None:
    """The split that a word stands for; None if it stands for none.

    >>> split_of("Training"), split_of("val"), split_of("bottle")
    ('train', 'valid', None)
    """
    return next((split for split, words in SPLITS.items() if word and word.lower() in words), None)


class Root:
    """A data set's folder. It may be a link itself; what is in it must be in it.

    Every entry is a folder or a file. What can be neither opened nor followed counts as a file: it is refused by name
    when it is read, if a reader has a use for it.

    Args:
        path: the folder.
        refuse: called with a ``DataError`` for everything that is left out; by default it is raised. ``tell`` is the
            same for what stops nothing: by default nobody hears of it.
        follow_links: whether links may lead out of the folder, as in stores that keep files elsewhere (DVC, git-annex).
        max_pixels: images with more are not read.
    """

    def __init__(
        self,
        path: Path,
        refuse: Callable[[DataError], object] | None = None,
        follow_links: bool = False,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        self.path, self.follow_links, self.max_pixels = path, follow_links, max_pixels
        self.refuse, self.tell = refuse or _raise, refuse or _pass
        self.unpaired: list[Path] = []  # masks that no image was found for
        self.left: list[Path] = []  # folders of images that a reader leaves out on purpose
        self.notes: list[str] = []  # what users should know of how the set was read
        self.real = os.path.realpath(path)
        self._refuse, self.silent = refuse, refuse is None
        self._seen: dict[Path, tuple[list[Path], list[Path]]] = {}
        self._inside: dict[str, bool] = {}
        self._stems: dict[tuple[Path, str], dict[str, Path]] = {}

    def within(self, path: Path, quiet: bool = False) -> Root:
        """A folder of this one as a root of its own, ``quiet`` where it is only tried."""
        return Root(path, _pass if quiet else self._refuse, self.follow_links, self.max_pixels)

    def name(self, path: Path) -> str:
        """What a record of this file is called: its path below the root without suffix."""
        return path.relative_to(self.path).with_suffix("").as_posix()

    def folders(self, at: Path) -> list[Path]:
        """Folders in ``at`` by name, without hidden ones."""
        return self._look(at)[0]

    def files(self, at: Path, *suffixes: str) -> list[Path]:
        """Files in ``at`` by name that end in one of ``suffixes``, in any case."""
        return [path for path in self._look(at)[1] if path.suffix.lower() in suffixes]

    def images(self, at: Path) -> list[Path]:
        """Images in ``at`` by name."""
        return self.files(at, *SUFFIXES)

    def split_of(self, path: Path) -> str:
        """The split of a file by the folders that it is in, or by a word in its name (``instances_val2017.json``)."""
        parts = path.relative_to(self.path).with_suffix("").parts
        words = [*parts[:-1], *re.split(r"[^A-Za-z]+|(?<=[a-z])(?=\d)", parts[-1])]
        return next((split for word in reversed(words) if (split := split_of(word))), "test")

    def beside(self, path: Path, suffix: str) -> Path | None:
        """The file with the name of ``path`` and another suffix, in its folder."""
        at = path.parent, suffix
        if at not in self._stems:
            self._stems[at] = {file.stem: file for file in self.files(*at)}
        return self._stems[at].get(path.stem)

    def below(self, at: Path) -> Iterator[Path]:
        """Images in ``at`` and in all folders of it, however deep."""
        return (image for folder in self.walk(at) for image in self.images(folder))

    def walk(self, at: Path, without: Callable[[Path], Sequence[Path]] = lambda folder: ()) -> Iterator[Path]:
        """``at`` and all folders of it, however deep, once, as links may lead in circles; not those ``without``."""
        seen: set[tuple[int, int]] = set()
        waiting = [at]
        while waiting:
            folder = waiting.pop()
            try:
                about = os.stat(folder)  # noqa: PTH116 a name can be too long, which Path raises
                same = about.st_dev, about.st_ino
            except OSError:
                same = -1, len(seen)
            if same not in seen:
                seen.add(same)
                yield folder
                passed = {*without(folder)}
                waiting += [inner for inner in reversed(self.folders(folder)) if inner not in passed]

    def find(self, at: Path, *names: str) -> Path | None:
        """The folder in ``at`` with the first of these (lower-case) names that there is, in any case."""
        return _first(self._look(at)[0], names)

    def find_file(self, at: Path, *names: str) -> Path | None:
        """The same for a file."""
        return _first(self._look(at)[1], names)

    def _look(self, at: Path) -> tuple[list[Path], list[Path]]:
        if at not in self._seen:
            folders: list[str] = []
            files: list[str] = []
            try:
                with os.scandir(at) as entries:
                    for entry in entries:
                        if is_junk(entry.name):
                            continue
                        if entry.is_symlink() and not self._contained(at / entry.name):
                            self.refuse(outside(at / entry.name, self.path, "a link that leads out of"))
                            continue
                        (folders if _is_folder(entry) else files).append(entry.name)
            except OSError as error:
                self.refuse(DataError(f"{at}: cannot be listed ({error.strerror}); make it readable, or remove it"))
            self._seen[at] = ([at / name for name in sorted(folders)], [at / name for name in sorted(files)])
        return self._seen[at]

    def _contained(self, path: Path) -> bool:
        real = os.path.realpath(path)
        return self.follow_links or real == self.real or real.startswith(self.real.rstrip(os.sep) + os.sep)

    def holds(self, path: Path) -> bool:
        """Whether what is called ``path`` in the root lies in it, or links may lead out."""
        if (folder := str(path.parent)) not in self._inside:
            self._inside[folder] = self._contained(path.parent)
        leads_on = os.path.islink(path)  # noqa: PTH114 a name can be too long, which Path raises
        return self._inside[folder] and (not leads_on or self._contained(path))


def _first(paths: list[Path], names: Sequence[str]) -> Path | None:
    by_name = {path.name.lower(): path for path in reversed(paths)}
    return next((by_name[name] for name in names if name in by_name), None)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself, a folder of folders that may not be entered
        return False


def records(root: Root, images: Sequence[Path], masks: Sequence[Path], **facts: Any) -> Iterator[Record]:
    """One record for each image, with its mask by name and the ``facts`` about all of them."""
    paired = pair(images, masks)
    root.unpaired += sorted({*masks} - {file for mask in paired for file in files_of(mask)})
    for image, mask in zip(images, paired, strict=True):
        yield Record(root.name(image), image=image, mask=mask, **facts)


def outside(what: object, root: Path, how: str) -> DataError:
    """The error for something that is not in the root."""
    way = "name the folder that holds it all (root=, --root), or let links lead out (follow_links=, --follow-links)"
    return DataError(f"{what}: {how} {root}; copy it in, {way}")


def stem(path: Path) -> str:
    """The name of a mask without what says that it is one: ``003_mask.png`` is about ``003``."""
    return _ROLE.sub("", path.stem)


def pair(images: Sequence[Path], masks: Sequence[Path]) -> list[Path | MaskSource | None]:
    """The mask of each image by name, never by position; None where there is none, or no telling which.

    Equal names come first, then equal stems, stems without ``_mask`` and the like, and the same in any case. A mask
    goes to one image only. Several that differ in a number (``_mask``, ``_mask_1``, ``_mask_2``) are parts of one.

    >>> masks = pair([Path("a.jpg"), Path("b.jpg"), Path("C.jpg")], [Path("c_mask.png"), Path("a.png")])
    >>> [mask and mask.name for mask in masks]
    ['a.png', None, 'c_mask.png']
    """
    paired: dict[Path, Path | MaskSource] = {}
    names: list[tuple[Callable[[Path], str], Callable[[Path], str]]] = [
        (lambda image: image.name, lambda mask: mask.name),
        (lambda image: image.stem, lambda mask: mask.stem),
        (lambda image: image.stem, stem),
        (lambda image: image.stem.casefold(), lambda mask: mask.stem.casefold()),
        (lambda image: image.stem.casefold(), lambda mask: stem(mask).casefold()),
    ]
    waiting, free = list(images), list(masks)
    for of_image, of_mask in names:
        named: dict[str, list[Path]] = defaultdict(list)
        for mask in free:
            named[of_mask(mask)].append(mask)
        asking = Counter(map(of_image, waiting))
        for image in waiting:
            key = of_image(image)
            if asking[key] == 1 and (one := _one_mask(named[key])):
                paired[image] = one
        taken = {file for one in paired.values() for file in files_of(one)}
        waiting = [image for image in waiting if image not in paired]
        free = [mask for mask in free if mask not in taken]
    return [paired.get(image) for image in images]


def _one_mask(masks: Sequence[Path]) -> Path | MaskSource | None:
    """All of these files as the mask of one image; None where they are not parts of one."""
    numbered = {(path.parent, re.sub(r"_\d+$", "", path.stem).casefold()) for path in masks}
    parts = len(numbered) == 1 and len({path.stem.casefold() for path in masks}) == len(masks)
    return united(sorted(masks)) if len(masks) == 1 or parts else None
