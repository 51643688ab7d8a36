"""Several data sets as one, to train on them together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from hashlib import sha256

from headlens.data.samples import DataSet, Pixels, Record
from headlens.errors import DataError

AND = " + "
"""What stands between the names of sets in that of all together."""


class JoinedSet(DataSet):
    """The images of several sets, one set after the other; each image's name begins with that of its set.

    Its domain is that of all sets, or empty where they differ.

    Args:
        sets: one or more, of different names.

    Raises:
        DataError: no set, or two of one name.

    >>> from headlens.data import open
    >>> screw, ct = (open(f"procedural:{d}", category=c) for d, c in (("industrial", "screw"), ("medical", "head_ct")))
    >>> JoinedSet([screw, ct]).name, len(JoinedSet([screw, ct])) == len(screw) + len(ct)
    ('procedural:industrial + procedural:medical', True)
    """

    def __init__(self, sets: Sequence[DataSet]) -> None:
        self._sets = tuple(sets)
        names, domains = Counter(one.name for one in sets), {one.domain for one in sets}
        if not names or max(names.values()) > 1:
            what = f"{names.most_common(1)[0][0]} twice" if names else "no set"
            raise DataError(f"sets to join: {what}; give sets of different names")
        self._places = [(one, number) for one in self._sets for number in range(len(one))]
        records = [replace(one.records[number], name=_name(one, one.records[number])) for one, number in self._places]
        super().__init__(AND.join(names), domains.pop() if len(domains) == 1 else "", records)

    @property
    def parts(self) -> tuple[DataSet, ...]:
        """The sets."""
        return self._sets

    @property
    def has_masks(self) -> bool:
        """Whether one of them has."""
        return any(one.has_masks for one in self._sets)

    @property
    def fingerprint(self) -> str:
        """Of theirs."""
        return sha256(" ".join(one.fingerprint for one in self._sets).encode()).hexdigest()

    def pixels(self, i: int) -> Pixels:
        """As of the set that it is of."""
        one, number = self._places[i]
        return one.pixels(number)

    def where(self, keep: Callable[[Record], bool]) -> JoinedSet:
        """The sets with only the records for which ``keep`` is true, by their names here; those left empty are gone.

        Raises:
            DataError: nothing is left.
        """
        chosen = {record.name for record in self.records if keep(record)}

        def part(one: DataSet) -> DataSet:
            return one.where(lambda record: _name(one, record) in chosen)

        return JoinedSet([left for left in map(part, self._sets) if len(left)])


def _name(dataset: DataSet, record: Record) -> str:
    return f"{dataset.name}/{record.name}"
