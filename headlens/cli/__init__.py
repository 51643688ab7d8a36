"""The ``headlens`` command. One file per verb; arguments are parsed before anything heavy is imported."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from typing import Any

import typer

from headlens import HeadlensError
from headlens.cli.ablate import ablate
from headlens.cli.attribute import attribute
from headlens.cli.compare import compare
from headlens.cli.contributions import contributions
from headlens.cli.data import data
from headlens.cli.demo import demo
from headlens.cli.docs import docs
from headlens.cli.doctor import doctor
from headlens.cli.ending import Verb, Verbs, forgiving
from headlens.cli.eval import eval_
from headlens.cli.examples import epilog
from headlens.cli.export import export
from headlens.cli.figures import figures
from headlens.cli.import_ import import_
from headlens.cli.importance import importance
from headlens.cli.knowledge import knowledge
from headlens.cli.logs import with_volume
from headlens.cli.methods import methods
from headlens.cli.name import name
from headlens.cli.report import report
from headlens.cli.score import score
from headlens.cli.train import train
from headlens.cli.transfer import transfer
from headlens.cli.verify import verify
from headlens.cli.weights import weights
from headlens.errors import ConfigError, HeadlensWarning
from headlens.launch import by_torchrun, unset_command
from headlens.printing import printable
from headlens.version import __version__

SHARED = ("train", "eval", "ablate", "importance", "contributions", "name", "weights", "transfer")
"""Verbs that several processes do together: those that ``headlens.cli.common.shared`` wraps."""

app = typer.Typer(
    cls=Verbs,
    help="CLIP-based zero-shot anomaly detection, one attention head at a time. `headlens docs` is the documentation.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # its formatting would be imported for every --help, and takes longer than all else
)
_VERBS: list[Callable[..., None]] = [demo, train, eval_, score, weights, ablate, importance, contributions]
_VERBS += [attribute, compare, transfer, name, report, export, figures, methods, import_, verify, doctor, docs]
for verb in _VERBS:
    app.command(verb.__name__.rstrip("_"))(verb)
app.add_typer(data, name="data")
app.add_typer(knowledge, name="knowledge")
for group, of_group in (("", app), ("data ", data), ("knowledge ", knowledge)):
    for info in of_group.registered_commands:
        assert info.callback is not None
        info.cls = Verb
        info.epilog = epilog(group + (info.name or info.callback.__name__))
        info.callback = with_volume(info.callback)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"headlens {__version__}")
        raise typer.Exit


@app.callback()
def _top(
    context: typer.Context,
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version."),
) -> None:
    verb = context.invoked_subcommand or ""
    if by_torchrun() and verb not in SHARED:
        raise ConfigError(
            f"{verb} runs in one process: start it without torchrun, which is for {', '.join(SHARED)}; "
            f"otherwise run `{unset_command()}` first"
        )


def main() -> None:
    """Run the command; an error made for people is printed as one line, without a traceback."""
    with forgiving():
        warnings.showwarning = _warn
        try:
            app()
        except HeadlensError as error:
            typer.echo(f"headlens: {printable(str(error))}", err=True)
            sys.exit(1)


def _warn(message: Warning | str, category: type[Warning], *where: Any, **options: Any) -> None:
    """Warnings made for people are one line; those of other packages say where they come from."""
    if issubclass(category, HeadlensWarning):
        typer.echo(f"headlens: {printable(str(message))}", err=True)
    else:
        _SHOW(message, category, *where, **options)


_SHOW = warnings.showwarning
