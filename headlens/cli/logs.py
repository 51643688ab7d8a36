"""``--quiet`` and ``--verbose`` of every verb: how much stands on standard error besides warnings and errors."""

from __future__ import annotations

import contextlib
import functools
import inspect
import logging
import time
from collections.abc import Callable, Iterator
from typing import Annotated, Any

import typer

from headlens.errors import ConfigError
from headlens.printing import printable

LOGGER = logging.getLogger("headlens")
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print results, warnings and errors only: no progress.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Also say what is read and written, and when.")]


class _OnStandardError(logging.Handler):
    """Lines as other messages of the command; the stream is looked up for each, as it may be replaced."""

    def emit(self, record: logging.LogRecord) -> None:
        seconds = record.relativeCreated / 1000
        typer.echo(f"headlens: {seconds:.1f} s: {printable(record.getMessage())}", err=True)


@contextlib.contextmanager
def heard(quiet: bool, verbose: bool) -> Iterator[None]:
    """Within it the logger ``headlens`` writes to standard error from a level on; before and after it is untouched.

    Raises:
        ConfigError: both are asked for.
    """
    if quiet and verbose:
        raise ConfigError("--quiet and --verbose: choose one")
    before = LOGGER.level, LOGGER.propagate
    handler = _OnStandardError()
    LOGGER.addHandler(handler)
    LOGGER.setLevel(logging.WARNING if quiet else logging.DEBUG if verbose else logging.INFO)
    LOGGER.propagate = False
    begun = time.monotonic()
    try:
        yield
        LOGGER.debug("done after %.1f s", time.monotonic() - begun)
    finally:
        LOGGER.removeHandler(handler)
        LOGGER.setLevel(before[0])
        LOGGER.propagate = before[1]


def is_quiet() -> bool:
    """Whether only results, warnings and errors are wanted."""
    return LOGGER.level > logging.INFO


def with_volume(verb: Callable[..., Any]) -> Callable[..., Any]:
    """A verb with the two options."""
    signature = inspect.signature(verb, eval_str=True)
    parameters = [
        *signature.parameters.values(),
        inspect.Parameter("quiet", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Quiet),
        inspect.Parameter("verbose", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Verbose),
    ]

    @functools.wraps(verb)
    def run(*args: Any, quiet: bool = False, verbose: bool = False, **given: Any) -> Any:
        with heard(quiet, verbose):
            return verb(*args, **given)

    run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run
