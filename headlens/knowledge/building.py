"""Building a knowledge base with local models: questions about categories and images, answers as rows."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from headlens.errors import ConfigError, DataError
from headlens.knowledge.answers import Answers, Asked
from headlens.knowledge.matching import image_of
from headlens.knowledge.questions import Question, To, sentences_of
from headlens.knowledge.reading import CONTEXT, Placed, check_length, clashes, said
from headlens.knowledge.rows import ANY, Row, State

if TYPE_CHECKING:
    from torch import Tensor

    from headlens.data import DataSet


@dataclass(frozen=True)
class Model:
    """Who answers.

    Args:
        name: as ``source`` calls it.
        revision: which weights these are.
        answer: from a prompt, and an image [3, H, W] uint8 or None, to text; the same text each time.
        tokens: of the longest answer.
    """

    name: str
    revision: str
    answer: Callable[[str, Tensor | None], str]
    tokens: int = 256


@dataclass(frozen=True)
class Item:
    """One question to one model: about a category, or about one image of it."""

    question: Question
    category: str
    number: int | None = None


@dataclass(frozen=True)
class Built:
    """What was made of all answers.

    Args:
        rows: without a fault.
        left_out: a line for each sentence that is not in them, with the reason.
        unread: a line for each question about an image that cannot be read.
    """

    rows: tuple[Row, ...]
    left_out: tuple[str, ...]
    unread: tuple[str, ...]


def plan(dataset: DataSet, questions: Sequence[Question], to: Collection[To], images: int | None = None) -> list[Item]:
    """What is asked, in order: questions to models that there are.

    Args:
        dataset: its categories and images.
        questions: of which those to text come before those to images.
        to: ``text``, ``image`` or both: which models there are.
        images: at most so many of each category and state, the first; None for all.

    Raises:
        ConfigError: a set without a domain, or no question to any of these models.
    """
    if not dataset.domain:
        raise ConfigError(
            f"{dataset.name} does not say which domain it belongs to, and questions and rows need one; name it"
        )
    items = []
    for question in (one for one in questions if one.to == "text" and "text" in to):
        items += [Item(question, name) for name in ((ANY,) if question.of_domain else dataset.categories)]
    taken: dict[tuple[str, bool], int] = defaultdict(int)
    for number, record in enumerate(dataset.records if "image" in to else ()):
        if record.anomalous is None:
            continue
        taken[record.category, record.anomalous] += 1
        if images is None or taken[record.category, record.anomalous] <= images:
            state: State = "anomalous" if record.anomalous else "normal"
            fitting = (one for one in questions if one.to == "image" and one.state == state)
            items += [Item(question, record.category, number) for question in fitting]
    if not items:
        raise ConfigError(f"nothing to ask about {dataset.name}: no question to {' or '.join(to)}, or no labels")
    return items


def build(
    dataset: DataSet,
    items: Sequence[Item],
    models: Mapping[To, Model],
    answers: Answers,
    context: int = CONTEXT,
    progress: Callable[[], object] = lambda: None,
) -> Built:
    """Asks what has not been answered yet, and makes rows of all answers.

    Left out are images that cannot be read, sentences that are no rows or too long, and those that are said of both
    states; what is repeated stands once. Whether an answer is true is not looked at: read the rows.

    Args:
        dataset: what the questions are about.
        items: of ``plan``.
        models: by what they are asked about, ``text`` and ``image``.
        answers: those that there are, and where new ones go.
        context: tokens that the text encoder reads.
        progress: called after each item.

    >>> import tempfile
    >>> from pathlib import Path
    >>> import headlens.data
    >>> nuts = headlens.data.open("procedural:industrial/aux", category="nut", per_category=2)
    >>> items = plan(nuts, [Question("text", "anomalous", "What can be wrong with a {category}?")], ["text"])
    >>> models = {"text": Model("a parrot", "1", lambda prompt, image: "Its edge is chipped. Sure!")}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     built = build(nuts, items, models, Answers(Path(folder) / "answers.jsonl"))
    >>> built.rows[0].sentence, built.rows[0].source
    ('Its edge is chipped.', 'a parrot, revision 1: What can be wrong with a nut?')
    """
    rows: list[Row] = []
    left_out: list[str] = []
    unread: list[str] = []
    for item in items:
        try:
            image = None if item.number is None else dataset.pixels(item.number).image
        except DataError as error:
            unread.append(str(error))
        else:
            prompt = item.question.filled(dataset.domain, item.category)
            model = models[item.question.to]
            about: dict[str, Any] = {
                "domain": dataset.domain,
                "category": item.category,
                "state": item.question.state,
                "source": f"{model.name}, revision {model.revision}: {prompt}",
                "image": "" if item.number is None else image_of(dataset.records[item.number]),
            }
            for sentence in sentences_of(_answer(model, prompt, image, answers)):
                try:
                    row = Row(sentence=sentence, **about)
                    check_length(row, context)
                    rows.append(row)
                except DataError as error:
                    left_out.append(f"{sentence!r:.120}: {error}")
        progress()
    return _without_clashes(rows, left_out, unread)


def _answer(model: Model, prompt: str, image: Tensor | None, answers: Answers) -> str:
    digest = "" if image is None else sha256(repr(image.shape).encode() + image.numpy().tobytes()).hexdigest()
    asked = Asked(model.name, model.revision, model.tokens, prompt, digest)
    if asked not in answers.known:
        answers.add(asked, model.answer(prompt, image))
    return answers.known[asked]


def _without_clashes(rows: Sequence[Row], left_out: Sequence[str], unread: Sequence[str]) -> Built:
    """A sentence that contradicts itself goes with all rows that say it; of a repeated one the first row stays."""
    pairs = list(clashes([Placed(at, row) for at, row in enumerate(rows)]))
    contradicted = {said(rows[clash.line]) for clash in pairs if clash.contradicts}
    repeated = {clash.line for clash in pairs if not clash.contradicts}
    sound = tuple(row for at, row in enumerate(rows) if at not in repeated and said(row) not in contradicted)
    both = [row for row in rows if said(row) in contradicted]
    reasons = [f"{row.sentence!r:.120}: given for both normal and anomalous {row.category}" for row in both]
    return Built(sound, (*left_out, *dict.fromkeys(reasons)), tuple(unread))
