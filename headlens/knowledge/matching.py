"""Rows held against data sets: what they name that is not there, and how much they say of what is."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from headlens.knowledge.reading import Fault, Placed, plain_category
from headlens.knowledge.rows import ANY, Row, plain
from headlens.printing import did_you_mean

if TYPE_CHECKING:
    import pandas as pd

    from headlens.data import DataSet, Record

_LIKE = 0.8  # of two names, of which one may be a slip: breast_ultrasound is none of thyroid_ultrasound


def image_of(record: Record) -> str:
    """What rows call the image of a record: its name with the suffix of its file, ``.png`` for one that is made.

    >>> from headlens.data import Record
    >>> image_of(Record("screw/test/bent/003", "screw", True))
    'screw/test/bent/003.png'
    """
    suffix = ".png" if record.image is None else record.image.suffix
    return record.name if suffix and record.name.endswith(suffix) else record.name + suffix


def against(placed: Sequence[Placed], datasets: Sequence[DataSet]) -> list[Fault]:
    """What rows say of these data sets that is not so.

    A warning: a domain or a category that none has; a base may be meant for more sets than these. An error: an image
    that none has, that is of another category, or whose label is the other state.

    >>> import headlens.data
    >>> row = Row("industrial", "screws", "normal", "The screw is straight.", "me")
    >>> print(*against([Placed(1, row)], [headlens.data.open("procedural:industrial", per_category=2)]))
    line 1: no data set given has the category 'screws'; did you mean screw?
    """
    records: dict[str, list[Record]] = defaultdict(list)
    for dataset in datasets:
        for record in dataset.records:
            records[image_of(record)].append(record)
    faults = [fault for one in placed if one.row.image for fault in _image(one, records[one.row.image])]
    general = [one for one in placed if not one.row.image]
    domains = {plain(dataset.domain) for dataset in datasets}
    if "" not in domains:
        unknown = [one for one in general if plain(one.row.domain) not in domains]
        told = ", ".join(f"{dataset.name} is {dataset.domain}" for dataset in datasets)
        for name, lines in _by(unknown, "domain"):
            faults.append(_warning(lines, f"no data set given has the domain {name!r} ({told})"))
        general = [one for one in general if plain(one.row.domain) in domains]
    categories = {plain(name): name for dataset in datasets for name in dataset.categories}
    strange = [one for one in general if one.row.category != ANY and plain(one.row.category) not in categories]
    others = {}
    for name, lines in _by(strange, "category"):
        if hint := did_you_mean(name, categories.values(), _LIKE):
            faults.append(_warning(lines, f"no data set given has the category {name!r}{hint}"))
        else:
            others[name] = lines
    if others:
        said = ", ".join(f"{name!r} (line {lines[0]})" for name, lines in others.items())
        first = min(lines[0] for lines in others.values())
        faults.append(Fault(first, f"no data set given has the categories {said}", "warning"))
    return sorted(faults, key=lambda fault: fault.line)


def coverage(rows: Iterable[Row], datasets: Sequence[DataSet] = ()) -> pd.DataFrame:
    """How many sentences there are of each category: of these data sets, or else of the rows themselves.

    Columns: ``domain``, ``category``, ``normal`` and ``anomalous`` (general sentences), ``of images`` (sentences of
    single images) and ``images`` (how many they are about). ``*`` is what holds for all of a domain.

    >>> rows = [Row("medical", "*", "normal", "The tissue is even.", "me")]
    >>> print(coverage(rows).to_string(index=False))
     domain category  normal  anomalous  of images  images
    medical        *       1          0          0       0
    """
    import pandas as pd

    groups: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in rows:
        groups[plain(row.domain), plain_category(row)].append(row)
    names = {key: (there[0].domain, there[0].category) for key, there in groups.items()}
    if datasets:
        names = {
            (plain(dataset.domain), name if name == ANY else plain(name)): (dataset.domain, name)
            for dataset in datasets
            for name in (ANY, *dataset.categories)
        }
    table = []
    for key, (domain, category) in names.items():
        there = groups.get(key, [])
        counts = {
            state: sum(row.state == state and not row.image for row in there) for state in ("normal", "anomalous")
        }
        images = [row.image for row in there if row.image]
        table.append(
            {"domain": domain, "category": category, **counts, "of images": len(images), "images": len({*images})}
        )
    return pd.DataFrame(table)


def _image(one: Placed, records: Sequence[Record]) -> Iterator[Fault]:
    row = one.row
    if not records:
        yield Fault(one.line, f"no data set given has the image {row.image!r}")
        return
    same = [record for record in records if plain(record.category) == plain(row.category)]
    if not same:
        what = f"the image {row.image!r} is of the category {records[0].category!r}, not {row.category!r}"
        yield Fault(one.line, what)
        return
    labels = {record.anomalous for record in same} - {None}
    if labels and (row.state == "anomalous") not in labels:
        label = "normal" if row.state == "anomalous" else "anomalous"
        yield Fault(one.line, f"is {row.state}, but the label of the image {row.image!r} is {label}")


def _by(placed: Iterable[Placed], key: str) -> Iterable[tuple[str, list[int]]]:
    lines: dict[str, list[int]] = defaultdict(list)
    for one in placed:
        lines[getattr(one.row, key)].append(one.line)
    return lines.items()


def _warning(lines: Sequence[int], message: str) -> Fault:
    more = f" (the first of {len(lines)} such lines)" if len(lines) > 1 else ""
    return Fault(lines[0], message + more, "warning")
