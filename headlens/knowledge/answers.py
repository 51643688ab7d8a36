"""Answers of models, written to a file one by one, so that what was interrupted goes on where it was."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from headlens.errors import RunError
from headlens.files import open_regular
from headlens.printing import reason


@dataclass(frozen=True)
class Asked:
    """All that an answer depends on.

    Args:
        model, revision: who answered.
        tokens: of the longest answer that it could give.
        prompt: the question, as it was put.
        image: SHA-256 of the image's pixels; empty where there is none.
    """

    model: str
    revision: str
    tokens: int
    prompt: str
    image: str = ""


class Answers:
    """A file of answers, a JSON object on each line. What a killed process left of its last line is cut off.

    Raises:
        RunError: a line that is no answer, or a file that cannot be read or written.

    >>> import tempfile
    >>> asked = Asked("tiny", "1", 20, "What is wrong?")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     Answers(Path(folder) / "answers.jsonl").add(asked, "It is cracked.")
    ...     Answers(Path(folder) / "answers.jsonl").known[asked]
    'It is cracked.'
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.known: dict[Asked, str] = {}
        try:
            content = b""
            if path.exists():
                with open_regular(path) as file:
                    content = file.read()
            whole = content.rfind(b"\n") + 1
            for number, line in enumerate(content[:whole].splitlines(), 1):
                asked, answer = _parsed(line, f"{path}: line {number}")
                self.known[asked] = answer
            if whole < len(content):
                os.truncate(path, whole)
        except OSError as error:
            raise RunError(f"{path}: {reason(error)}; it is a file of answers that is read and written") from error

    def add(self, asked: Asked, answer: str) -> None:
        """Keeps an answer; it is on the disk when this returns."""
        line = json.dumps({**asdict(asked), "answer": answer}) + "\n"
        try:
            with self.path.open("ab") as file:
                file.write(line.encode("ascii"))
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise RunError(f"{self.path}: cannot be written ({reason(error)}); make room, then go on") from error
        self.known[asked] = answer


def _parsed(line: bytes, where: str) -> tuple[Asked, str]:
    wrong = RunError(f"{where}: is not an answer of a model; remove this line to ask again")
    try:
        table = json.loads(line)
        answer = table.pop("answer")
        asked = Asked(**table)
    except (ValueError, RecursionError, TypeError, AttributeError, KeyError) as error:
        raise wrong from error
    texts = (answer, asked.model, asked.revision, asked.prompt, asked.image)
    if not all(isinstance(text, str) for text in texts) or not isinstance(asked.tokens, int):
        raise wrong
    return asked, answer
