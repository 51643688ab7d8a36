"""What a verb says, whatever the terminal can show, and how it ends when interrupted, out of memory, or not read on."""

from __future__ import annotations

import contextlib
import errno
import io
import re
import sys
from collections.abc import Iterator
from typing import Any, TextIO

import typer
from typer.core import TyperCommand, TyperGroup

from headlens.errors import MemoryShortError

_GOES_ON = ("train", "ablate", "importance", "score", "weights", "compare", "figures", "build")
_SMALLER = ("batch", "memory", "max_pixels", "size", "per_category")
"""Options that bound memory, those first that cost nothing but time."""
_STATED = re.compile(
    r"out of memory|(can't|cannot|unable to) allocate|not enough memory|CUBLAS_STATUS_ALLOC_FAILED", re.IGNORECASE
)


def _without_pydantic(params: list[Any]) -> list[Any]:
    """Typer's own flags, which are off where they are not given: to find out it would import pydantic, for 0.1 s."""
    for param in params:
        if param.name in ("help", "install_completion", "show_completion") and param.default is None:
            param.default = False
    return params


class Verbs(TyperGroup):
    """A command of commands."""

    def get_params(self, ctx: Any) -> list[Any]:
        """As they are, but typer's own."""
        return _without_pydantic(super().get_params(ctx))


class Verb(TyperCommand):
    """A command that says in one line that it was interrupted, or out of memory."""

    def get_params(self, ctx: Any) -> list[Any]:
        """As they are, but typer's own."""
        return _without_pydantic(super().get_params(ctx))

    def invoke(self, ctx: Any) -> Any:
        """As it is, but for the two.

        Raises:
            MemoryShortError: there was too little memory, with the options of this verb that take less.
        """
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            typer.echo(f"headlens: {self.name} was interrupted{_finished(self.name or '', ctx.params)}", err=True)
            raise typer.Exit(130) from None
        except Exception as error:
            if (stated := memory_short(error)) is None:
                raise
            raise MemoryShortError(f"{stated}; {_advice(self, ctx.params)}") from error


def memory_short(error: BaseException) -> str | None:
    """What an error says where it is one of too little memory, of numpy, of torch on a CPU or a GPU; else None.

    >>> memory_short(MemoryError())
    'out of memory'
    >>> memory_short(RuntimeError("[enforce fail at x.cpp:1] DefaultCPUAllocator: can't allocate memory: 4 B."))
    "out of memory: can't allocate memory: 4 B"
    >>> memory_short(RuntimeError("shapes do not match"))
    """
    of_torch = type(error).__name__ == "OutOfMemoryError"  # without importing it
    short = isinstance(error, MemoryError) or of_torch
    short |= isinstance(error, OSError) and error.errno == errno.ENOMEM
    text = " ".join(str(error).split())
    if not short and not (isinstance(error, RuntimeError) and _STATED.search(text)):
        return None
    text = text.rpartition("DefaultCPUAllocator: ")[2]
    sentences = re.split(r"(?<=[.!?]) (?=[A-Z])", text)[:2]  # what follows is advice on torch's own settings
    return f"out of memory: {' '.join(sentences).rstrip('.')}" if text else "out of memory"


def _advice(verb: TyperCommand, given: dict[str, Any]) -> str:
    """The options of a verb that take less memory, and as they are set."""
    names = {param.name: param.opts[0] for param in verb.params}
    smaller = [
        names[name] + (f" (now {given[name]})" if given.get(name) is not None else "")
        for name in _SMALLER
        if name in names and names[name].startswith("--")
    ]
    return f"reduce {', '.join(smaller)}" if smaller else "close other programs, or use a larger machine"


def _finished(name: str, given: dict[str, Any]) -> str:
    out = given.get("out")
    if out is None or not out.exists():
        return ""
    goes_on = "; the same command resumes" if name in _GOES_ON else ""
    return f"; finished work was saved in {out}{goes_on}"


class _PipeWriter(io.FileIO):
    """A descriptor whose reader may leave, as ``| head`` does: what is written after that goes nowhere."""

    def write(self, content: Any) -> int:
        try:
            return super().write(content) or 0
        except BrokenPipeError:
            return memoryview(content).nbytes


@contextlib.contextmanager
def forgiving() -> Iterator[None]:
    """Within it printing stops no command, so that work that has begun is finished and saved.

    A character that the terminal's encoding has not is escaped, and a closed pipe is written to without an error.
    """
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (_forgiving(stream) for stream in before)
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        sys.stdout, sys.stderr = before


def _forgiving(stream: TextIO) -> TextIO:
    try:
        number = stream.fileno()
    except (AttributeError, OSError, ValueError):  # none, or one that a program has put in its place
        return stream
    stream.flush()
    return io.TextIOWrapper(
        io.BufferedWriter(_PipeWriter(number, "wb", closefd=False)),
        encoding=stream.encoding,
        errors="backslashreplace",
        line_buffering=stream.line_buffering if isinstance(stream, io.TextIOWrapper) else True,
    )
