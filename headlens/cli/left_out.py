"""What a verb leaves out of what it was given: each with its reason, and all in one line."""

from __future__ import annotations

from pathlib import Path

import typer

from headlens.printing import alike, printable

_SHOWN = 6  # reasons that the line gives; the file has all


class LeftOut:
    """Files that were not read, and why.

    >>> left_out = LeftOut()
    >>> for name in ("a.png", "b.png"):
    ...     left_out.add(f"{name}: damaged or cut short; copy it again")
    >>> print(left_out)
    2 left out: a.png: damaged or cut short; copy it again (and 1 more like it)
    """

    def __init__(self) -> None:
        self.reasons: list[str] = []

    def add(self, reason: object) -> None:
        """A message that begins with the name of the file."""
        self.reasons.append(printable(str(reason)))

    def __str__(self) -> str:
        groups = alike(self.reasons)
        said = [group[0] + (f" (and {len(group) - 1} more like it)" if group[1:] else "") for group in groups[:_SHOWN]]
        if others := sum(map(len, groups[_SHOWN:])):
            said.append(f"{others} for other reasons")
        return f"{len(self.reasons)} left out: {' | '.join(said)}" if said else ""

    def finish(self, path: Path) -> None:
        """Says what was left out, writes all of it to ``path``, and ends the verb with exit status 1; else nothing.

        Raises:
            Exit: something was left out.
        """
        try:
            if not self.reasons:
                path.unlink(missing_ok=True)  # of an earlier run
                return
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(f"{reason}\n" for reason in self.reasons), encoding="utf-8")
            where = f" | all are named in {printable(str(path))}" if len(self.reasons) > 1 else ""
        except OSError:  # the line is what matters
            where = ""
        typer.echo(f"{self}{where}", err=True)
        raise typer.Exit(1)
