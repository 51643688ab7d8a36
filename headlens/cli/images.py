"""Image files as arguments name them: one rule for what files, folders, patterns and listings stand for."""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import typer

from headlens.errors import DataError
from headlens.printing import alike, printable

_SHOWN = 6  # reasons that a line gives; the file has all


@dataclass
class Images:
    """What arguments stand for.

    Args:
        files: each once, in the order of the arguments, those of a folder by name.
        passed_over: how many files were not taken on purpose, by what they are.
        left_out: of images that cannot be read, the name of the file and the reason.
        follow_links: whether links may lead out of a folder.

    >>> images = Images()
    >>> for name in ("a.png", "b.png"):
    ...     images.leave_out(f"{name}: damaged or cut short; copy it again")
    >>> print(images.unread)
    2 left out: a.png: damaged or cut short; copy it again (and 1 more like it)
    """

    files: list[Path] = field(default_factory=list)
    passed_over: Counter[str] = field(default_factory=Counter)
    left_out: list[str] = field(default_factory=list)
    follow_links: bool = False

    def leave_out(self, reason: object) -> None:
        """An image, for a reason that begins with the name of its file."""
        self.left_out.append(printable(str(reason)))

    @property
    def passed(self) -> str:
        """A line on what was passed over; empty if nothing was."""
        kinds = ", ".join(f"{kind} ({count})" for kind, count in self.passed_over.items())
        return f"skipped: {kinds}" if kinds else ""

    @property
    def unread(self) -> str:
        """A line on what was left out; empty if nothing was."""
        groups = alike(self.left_out)
        said = [group[0] + (f" (and {len(group) - 1} more like it)" if group[1:] else "") for group in groups[:_SHOWN]]
        if others := sum(map(len, groups[_SHOWN:])):
            said.append(f"{others} for other reasons")
        return f"{len(self.left_out)} left out: {' | '.join(said)}" if said else ""

    def finish(self, path: Path, say: Callable[[str], object] = typer.echo) -> None:
        """Says what was passed over, and what was left out, in a line each; ``path`` names all that was left out.

        Raises:
            Exit: with status 1, if something was left out.
        """
        if self.passed:
            say(self.passed)
        try:
            if not self.left_out:
                path.unlink(missing_ok=True)  # of an earlier run
                return
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(f"{reason}\n" for reason in self.left_out), encoding="utf-8")
            where = f" | all are named in {printable(str(path))}" if len(self.left_out) > 1 else ""
        except OSError:  # the line is what matters
            where = ""
        typer.echo(f"{self.unread}{where}", err=True)
        raise typer.Exit(1)


def find_images(arguments: list[str], follow_links: bool = False, limit: int | None = None) -> Images:
    """The image files that arguments name, the first ``limit`` of them.

    - A file is taken whatever it is called. A table or JSON stands for the images that it lists.
    - Of a folder, all files with an image's suffix in it and in the folders below, as data sets read them: hidden
      files and what file managers leave behind are passed over; so are masks, by the names of their folders or their
      own; links are followed that stay in the folder, and all if ``follow_links``.
    - A pattern stands for what it matches, without what a folder would pass over: that in front of its first ``*``.
    - What headlens itself has written (overlays, figures, maps) is passed over everywhere.

    Raises:
        DataError: an argument that names nothing, no image, or something that is no file, such as a pipe.
    """
    images = Images()
    for given in arguments:
        single = Images(follow_links=follow_links)
        _take_argument(given, single)
        if not single.files:
            instead = "; ".join(line for line in (single.passed, single.unread) if line)
            raise DataError(f"{given}: no image in it" + (f" that can be read ({instead})" if instead else ""))
        images.files += single.files
        images.passed_over += single.passed_over
        images.left_out += single.left_out
    once: dict[str, Path] = {}
    for path in images.files:
        once.setdefault(os.path.abspath(path), path)  # noqa: PTH100  links are not resolved
    images.files = list(once.values())[:limit]
    return images


def _take_argument(given: str, images: Images) -> None:
    try:
        path = Path(given).expanduser()
        mode = path.stat().st_mode
    except FileNotFoundError:
        _take_matches(path, images)
    except (OSError, RuntimeError) as error:  # no permission, a name too long, no such user
        raise DataError(f"{given}: cannot be opened ({getattr(error, 'strerror', None) or error})") from error
    else:
        if stat.S_ISDIR(mode):
            _take_folder(path, images)
        elif not stat.S_ISREG(mode):
            raise DataError(f"{path}: is a pipe, a socket or a device, not a file; save the image to a file first")
        elif path.suffix.lower() in (".csv", ".tsv", ".json", ".jsonl"):
            from headlens.data import open

            listing = open(path, split="all", refuse=images.leave_out, follow_links=images.follow_links)
            images.files += dict.fromkeys(record.image for record in listing.records if record.image is not None)
        else:
            _take_file(path, images)


def _take_matches(pattern: Path, images: Images) -> None:
    from glob import glob, has_magic

    from headlens.data.images import SUFFIXES, UNREAD
    from headlens.data.readers import Root
    from headlens.data.readers.contents import is_mask
    from headlens.data.readers.tree import is_junk

    matches = sorted(map(Path, glob(str(pattern), recursive=True))) if has_magic(str(pattern)) else []  # noqa: PTH207
    if not matches:
        raise DataError(f"{pattern}: no such file, folder or pattern")
    folder = next(parent for parent in pattern.parents if not has_magic(str(parent)))
    root = Root(folder, lambda error: None, images.follow_links)
    for path in matches:
        if any(map(is_junk, path.relative_to(folder).parts)):
            continue
        is_folder, suffix = path.is_dir(), path.suffix.lower()
        if (is_folder or suffix in SUFFIXES) and is_mask(root, path):
            images.passed_over["masks"] += sum(1 for _ in root.below(path)) if is_folder else 1
        elif is_folder:
            _take_folder(path, images)
        elif suffix in SUFFIXES:
            _take_file(path, images)
        elif suffix in UNREAD:
            _leave_out(path, images)
    images.passed_over += Counter()  # without zeros


def _take_file(path: Path, images: Images) -> None:
    from headlens.files import is_result

    if is_result(path):
        images.passed_over["results of headlens"] += 1
    else:
        images.files.append(path)


def _leave_out(path: Path, images: Images) -> None:
    images.leave_out(f"{path}: images in {path.suffix.lower()} files are not read; save it as PNG, TIFF or JPEG")


def _take_folder(path: Path, images: Images) -> None:
    from headlens.data.images import UNREAD
    from headlens.data.readers import Root
    from headlens.data.readers.contents import contents

    root = Root(path, images.leave_out, images.follow_links)
    for inside in contents(root, path):
        masks = len(inside.masks) + sum(1 for folder in inside.mask_folders for _ in root.below(folder))
        images.passed_over["masks"] += masks
        for file in inside.images:
            _take_file(file, images)
        for file in root.files(inside.folder, *UNREAD):
            _leave_out(file, images)
    images.passed_over += Counter()  # without zeros
