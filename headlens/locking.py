"""Folders that one process has for itself while it writes in them."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from headlens.errors import RunError
from headlens.files import UNFINISHED, read_regular

LOCK = ".lock"


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Has ``folder``, which is made if need be, for this process alone; what killed writers left in it is removed.

    The lock dies with the process, however that ends. File systems without locks give none.

    Raises:
        RunError: another process, or another thread of this one, has it; or it cannot be written.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder, locked(Path(folder)):
    ...     with locked(Path(folder)):
    ...         pass
    Traceback (most recent call last):
    headlens.errors.RunError: ... is in use by another headlens (process ...): wait for it, or name another folder
    """
    path, made = folder / LOCK, not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = _lock(path)
    except BlockingIOError:
        owner = ""
        with suppress(OSError):
            owner = read_regular(path, 100).decode("ascii", "replace")
        known = f"process {owner or 'unknown'}"
        raise RunError(
            f"{folder} is in use by another headlens ({known}): wait for it, or name another folder"
        ) from None
    except OSError as error:
        raise RunError(f"{folder}: cannot be written ({error}); name another folder, or make room") from error
    try:
        for left in folder.glob(f".*{UNFINISHED}"):
            with suppress(OSError):
                left.unlink()
        yield
    finally:
        if os.name == "nt":  # where no open file can be removed
            os.close(descriptor)
        with suppress(OSError):
            path.unlink()
        if os.name != "nt":
            os.close(descriptor)
        if made:
            with suppress(OSError):  # it is not empty, and that is as it should be
                folder.rmdir()


def _lock(path: Path) -> int:
    """The descriptor of a locked file; raises BlockingIOError where another has locked it."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o644)
        try:
            _exclusively(descriptor)
            # The process that had it before may have removed the file that was just opened.
            if os.path.samestat(os.fstat(descriptor), path.stat()):
                os.ftruncate(descriptor, 0)
                os.write(descriptor, str(os.getpid()).encode())
                return descriptor
        except FileNotFoundError:
            pass
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _exclusively(descriptor: int) -> None:
    if sys.platform == "win32":
        import msvcrt

        os.lseek(descriptor, 1 << 30, os.SEEK_SET)  # beyond what is written, which others may then read
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError:
            raise BlockingIOError from None
        os.lseek(descriptor, 0, os.SEEK_SET)
        return
    import fcntl

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS):
            raise
