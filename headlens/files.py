"""Files that are written whole or not at all, and files that are read only if they are regular and not too large."""

from __future__ import annotations

import errno
import logging
import os
import stat
import sys
import tempfile
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO

from headlens.errors import DataError, RunError

_LOG = logging.getLogger(__name__)
UNFINISHED = ".unfinished"
"""Ends the names of temporary files."""
MOST_TEXT = 64 * 2**20
"""Bytes of the largest table, listing or configuration that is read."""
MAX_PIXELS = 2**28 // 3
"""Pixels of the largest image that is decoded, unless a caller says otherwise: a quarter of a GiB as RGB."""
SOFTWARE = "headlens"
"""What images that verbs write name as their software, so that they are not taken for a user's."""
_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def open_regular(path: Path, most: int | None = None) -> BinaryIO:
    """The regular file ``path``, or the one that it links to, open for reading bytes; of ``most`` bytes if not None.

    A pipe would block until something is written to it, and a device may never end: neither is opened.

    Raises:
        OSError: missing, not readable, not a regular file, or larger than ``most``.

    >>> open_regular(Path(os.devnull))
    Traceback (most recent call last):
    OSError: [Errno 22] is a device, not a regular file
    """
    if sys.platform == "win32":  # O_NONBLOCK is POSIX's, and so are named pipes in folders
        descriptor = os.open(path, os.O_RDONLY | os.O_BINARY)
    else:
        if path.is_socket():  # opening one is refused with an error that says nothing of sockets
            raise OSError(errno.EINVAL, "is a socket, not a regular file")
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        about = os.fstat(descriptor)
        if not stat.S_ISREG(about.st_mode):
            kind = _KINDS.get(stat.S_IFMT(about.st_mode), "something else")
            raise OSError(errno.EINVAL, f"is {kind}, not a regular file")
        if most is not None and about.st_size > most:
            size, limit = about.st_size / 2**20, most / 2**20
            raise OSError(errno.EFBIG, f"has {size:,.1f} MiB, more than the {limit:,.1f} MiB that it may have")
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_regular(path: Path, most: int | None = None) -> bytes:
    """The bytes of a regular file; arguments and errors are those of ``open_regular``."""
    with open_regular(path, most) as file:
        return file.read(-1 if most is None else most)


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    digest = sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 22):
            digest.update(piece)
    return digest.hexdigest()


def read_text(path: Path, most: int = MOST_TEXT) -> str:
    """The text of a regular file in UTF-8, or in UTF-16 or UTF-8 with the mark that editors put before it.

    Raises:
        OSError: see ``open_regular``.
        ValueError: text in another encoding, or binary.

    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "table.csv"
    ...     _ = path.write_bytes("name,Größe".encode("utf-16"))
    ...     read_text(path)
    'name,Größe'
    """
    content = read_regular(path, most)
    marked = {b"\xef\xbb\xbf": "utf-8-sig", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}
    encoding = next((name for mark, name in marked.items() if content.startswith(mark)), "utf-8")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        raise ValueError(f"byte {error.start} is not {error.encoding}; save it as UTF-8") from None
    if "\0" in text:
        raise ValueError("holds zero bytes, so it is not text; save it as UTF-8")
    return text


def empty_folder(path: Path) -> None:
    """Makes a folder, if it is not there.

    Raises:
        DataError: there is something in it already, or a file of that name.
    """
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise DataError(f"{path} is not an empty folder; name another, or empty it")
    path.mkdir(parents=True, exist_ok=True)


def is_result(path: Path) -> bool:
    """Whether an image file says of itself that headlens wrote it: an overlay, a figure, a map as TIFF.

    >>> from PIL import Image, PngImagePlugin
    >>> about = PngImagePlugin.PngInfo()
    >>> about.add_text("Software", SOFTWARE)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "overlay.png"
    ...     Image.new("L", (4, 2)).save(path, pnginfo=about)
    ...     is_result(path)
    True
    """
    try:
        with open_regular(path) as file:
            head = file.read(4096)
    except OSError:
        return False
    tiff = head.startswith((b"II*\0", b"MM\0*")) and f"\0{SOFTWARE}\0".encode() in head
    return tiff or (head.startswith(b"\x89PNG") and f"tEXtSoftware\0{SOFTWARE}".encode() in head)


def write_atomically(path: Path, content: bytes) -> None:
    """Writes ``content`` to a temporary file in the same folder and renames it: a killed process leaves the old file.

    The content is on the disk before the name is: a machine that loses its power leaves the old file, too.

    Raises:
        OSError: no room, or no permission; ``path`` is as it was.
    """
    # The temporary name is longer than the final one, which may have all of the 255 bytes that there are.
    name = os.fsdecode(os.fsencode(path.name)[:200])
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{name}.", suffix=UNFINISHED, delete=False) as file:
        part = Path(file.name)
        try:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())  # 4 ms on a solid-state disk
            part.chmod(0o644)
            part.replace(path)
            _LOG.debug("wrote %s, %d bytes", path, len(content))
        except BaseException:
            part.unlink(missing_ok=True)
            raise


def write(path: Path, content: bytes) -> None:
    """Writes a file and the folders above it; raises RunError where that cannot be done."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, content)
    except OSError as error:
        raise RunError(f"{path}: cannot be written ({error}); name another place, or make room") from error
