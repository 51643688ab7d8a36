"""Training and test sets: the published pairs, and the rule that they must not overlap."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from headlens.data.checking import contents, several
from headlens.data.joined import AND
from headlens.data.samples import DataSet
from headlens.errors import DataError
from headlens.printing import did_you_mean

_SETS: dict[str, tuple[str, ...]] = {  # name: other names, as they are spelt in folders and tables
    "mvtec": ("mvtec_ad", "mvtec_anomaly_detection"),
    "visa": ("visa_20220922", "visa_pytorch"),
    "mpdd": (),
    "btad": ("btech", "btech_dataset_transformed"),
    "sdd": ("ksdd", "kolektorsdd", "sdd_anomaly_detection"),
    "dagm": ("dagm2007", "dagm_kaggleupload", "dagm_anomaly_detection"),
    "dtd": ("dtd_synthetic", "dtdsynthetic"),
    "headct": ("head_ct", "headct_anomaly_detection"),
    "brainmri": ("brain_mri", "brain_tumor_dataset"),
    "br35h": ("br35h_anomaly_detection",),
    "covid19": ("covid_19", "covid_19_radiography_dataset"),
    "isic": ("isic2016", "isic_2016"),
    "colondb": ("cvc_colondb",),
    "clinicdb": ("cvc_clinicdb",),
    "kvasir": ("kvasir_seg",),
    "endo": ("endotect", "endotect_2020_segmentation_test_dataset"),
    "tn3k": (),
    "cvc300": ("cvc_300",),
    "brain": ("brain_ad",),
    "liver": ("liver_ad",),
    "retina": ("retina_resc", "retina_resc_ad"),
}
_KNOWN = {other: name for name, others in _SETS.items() for other in (name, *others)}
_INDUSTRIAL = ("mvtec", "visa", "mpdd", "btad", "sdd", "dagm", "dtd")
_MEDICAL = ("headct", "brainmri", "br35h", "covid19", "isic", "colondb", "clinicdb", "kvasir", "endo", "tn3k")
_EVERYDAY = {"brain", "endo", "liver", "retina"}  # no sign of a published set when a parent folder is called so


def canonical(name: str) -> str:
    """One name for each published set, whatever the spelling of its folder; other names are unchanged.

    >>> canonical("MVTec-AD"), canonical("CVC-ColonDB"), canonical("my_parts")
    ('mvtec', 'colondb', 'my_parts')
    """
    plain = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")
    return _KNOWN.get(plain, name)


def canonical_names(name: str) -> set[str]:
    """One name for each set that ``name`` joins; see ``headlens.data.joined``.

    >>> sorted(canonical_names("MVTec-AD + CVC-ColonDB"))
    ['colondb', 'mvtec']
    """
    return set(map(canonical, name.split(AND)))


@dataclass(frozen=True)
class Protocol:
    """The training and test sets of an experiment, by name.

    Args:
        name: its name in results. train: training sets, used together.
        test: test sets, one after the other.
        train_split: split of the training sets. In the literature it is ``test``, because ``train`` has no anomalous
            images.
        about: what to know before comparing numbers.

    >>> for protocol in published("anomalyclip"):
    ...     print(protocol.name, protocol.train, len(protocol.test))
    anomalyclip/mvtec ('mvtec',) 16
    anomalyclip/visa ('visa',) 1
    """

    name: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    train_split: str = "test"
    about: str = ""

    def __post_init__(self) -> None:
        """A protocol that tests what it trains on is none."""
        both = {canonical(name) for name in self.train} & {canonical(name) for name in self.test}
        if both or not self.train or not self.test:
            what = f"{', '.join(sorted(both))} in both" if both else "nothing to train on, or nothing to test"
            raise DataError(f"protocol {self.name!r} has {what}: train {self.train}, test {self.test}")

    def verify(self, train: DataSet | Iterable[DataSet], test: DataSet | Iterable[DataSet]) -> None:
        """Refuses sets that this protocol does not pair, another training split, and any overlap of training and test.

        Unpublished sets may take the place of those of the protocol; the rules for splits and overlap apply to them
        too.

        Raises:
            DataError: naming the sets, or the records that are on both sides.
        """
        trained, tested = (_parts((sets,) if isinstance(sets, DataSet) else sets) for sets in (train, test))
        for sets, named, verb in ((trained, self.train, "trains on"), (tested, self.test, "tests")):
            for dataset in sets:
                name = _published_as(dataset)
                if name and name not in map(canonical, named):
                    alias = "" if name == canonical(dataset.name) else f", a part of {name}"
                    raise DataError(f"protocol {self.name!r} {verb} {', '.join(named)}, not {dataset.name}{alias}")
        for dataset in trained:
            if other := {record.split for record in dataset.records} - {self.train_split}:
                others = f"{', '.join(sorted(other))}: open it with split={self.train_split!r}"
                rule = f"protocol {self.name!r} trains on the split {self.train_split!r}"
                raise DataError(f"{rule}; {dataset.name} has records of {others}")
        refuse_overlap(trained, tested)


def refuse_overlap(train: Iterable[DataSet], test: Iterable[DataSet]) -> None:
    """Refuses any overlap between training and test data.

    That is: one set on both sides (a published one by any of its names, one folder, or a folder and another inside it);
    one file, or one content (SHA-256), in both; procedural sets that share a category, whatever their seeds.

    Raises:
        DataError: with every overlap, and the first records of each.
    """
    trained, tested = _parts(train), _parts(test)
    content = contents(record.image for dataset in (*trained, *tested) for record in dataset.records if record.image)
    overlaps = [line for a in trained for b in tested for line in _overlap(a, b, content)]
    if overlaps:
        raise DataError("training and test overlap, which makes the test worthless: " + "; ".join(overlaps))


def _parts(sets: Iterable[DataSet]) -> tuple[DataSet, ...]:
    """The sets, and in place of a set that joins several, these."""
    return tuple(part for dataset in sets for part in dataset.parts)


def _overlap(train: DataSet, test: DataSet, content: dict[Path, str]) -> Iterator[str]:
    name = _published_as(test)
    roots = [root for root in (_root(train), _root(test)) if root]
    outer = min(roots, key=lambda root: len(root.parts), default=None)
    if name and name == _published_as(train):
        yield f"{test.name} is the same set as {train.name}" + ("" if name == canonical(test.name) else f", {name}")
    elif outer and len(roots) == 2 and all(root.is_relative_to(outer) for root in roots):
        yield f"{test.name} and {train.name} are in the same folder, {outer}"
    made = [{record.category for record in dataset.records if record.image is None} for dataset in (train, test)]
    if both := sorted(made[0] & made[1]):
        yield f"{test.name} and {train.name} both have the made categories {', '.join(both)}"
    owner = {content[record.image]: record.name for record in train.records if record.image in content}
    images = [(record.name, content[record.image]) for record in test.records if record.image in content]
    if shared := [f"{name} = {owner[text]}" for name, text in images if text in owner]:
        yield f"{len(shared)} images of {test.name} are in {train.name} too: {several(shared)}"


def _published_as(dataset: DataSet) -> str | None:
    """The published or procedural set that this one is or is a part of, by its name, its folder or the one above."""
    if (name := canonical(dataset.name)) in _SETS or name.startswith("procedural:"):
        return name
    root = dataset.root
    above = (root.name, root.parent.name) if root else ()
    return next((canonical(name) for name in above if canonical(name) in _SETS and name.lower() not in _EVERYDAY), None)


def _root(dataset: DataSet) -> Path | None:
    """Without links, which would make two folders of one; None for images that are made."""
    try:
        return dataset.root and Path(os.path.realpath(dataset.root))
    except ValueError:  # bytes that no file system has
        return dataset.root


def published(name: str) -> tuple[Protocol, ...]:
    """The protocols called ``name``: one, as in ``anomalyclip/mvtec``, or all of a paper, as in ``anomalyclip``.

    Raises:
        DataError: there is none; the message lists the protocols.
    """
    protocols = tuple(protocol for protocol in PROTOCOLS if name in (protocol.name, protocol.name.partition("/")[0]))
    if not protocols:
        names = [protocol.name for protocol in PROTOCOLS]
        hint = did_you_mean(name, names, 0.5)
        raise DataError(f"unknown protocol {name!r}; available: {', '.join(names)}{hint}")
    return protocols


def _others(*train: str, among: tuple[str, ...] = _INDUSTRIAL + _MEDICAL) -> tuple[str, ...]:
    return tuple(name for name in among if name not in train)


_AACLIP = ("mvtec", "visa", "mpdd", "btad", "brain", "liver", "retina", "clinicdb", "colondb", "kvasir", "cvc300")
_ADACLIP = (*_INDUSTRIAL, "headct", "brainmri", "br35h", "isic", "colondb", "clinicdb", "tn3k")
_SHARED = "also APRIL-GAN, FAPrompt, Crane and AF-CLIP, each on its own choice of test sets"
_TWO = "the published commands and the published table of weights contradict each other about the colon sets"
_WORLDS = {domain: (f"procedural:{domain}", f"procedural:{domain}/novel") for domain in ("industrial", "medical")}

PROTOCOLS = (
    Protocol("anomalyclip/mvtec", ("mvtec",), _others("mvtec"), about=_SHARED),
    Protocol("anomalyclip/visa", ("visa",), ("mvtec",), about=_SHARED),
    Protocol(
        "aaclip/visa",
        ("visa",),
        _others("visa", among=_AACLIP),
        about="also Bayes-PFL; rows other than MVTec's and VisA's do not compare with those of anomalyclip",
    ),
    Protocol("aaclip/mvtec", ("mvtec",), ("visa",), about="also Bayes-PFL"),
    Protocol("adaclip/commands-mvtec", ("mvtec", "colondb"), _others("mvtec", "colondb", among=_ADACLIP), about=_TWO),
    Protocol("adaclip/commands-visa", ("visa", "clinicdb"), ("mvtec", "colondb"), about=_TWO),
    Protocol("adaclip/weights-mvtec", ("mvtec", "clinicdb"), _others("mvtec", "clinicdb", among=_ADACLIP), about=_TWO),
    Protocol("adaclip/weights-visa", ("visa", "colondb"), ("mvtec", "clinicdb"), about=_TWO),
    Protocol(
        "medical-finetune",
        ("colondb", "endo_classification"),
        _others("colondb", among=_MEDICAL),
        about="AnomalyCLIP's second medical experiment: masks of ColonDB, image labels of EndoTect's classification",
    ),
    *(
        Protocol(
            f"procedural/{source}" if source == target else f"procedural/{source}-to-{target}",
            (f"procedural:{source}/aux",),
            _WORLDS[target],
            about="one domain" if source == target else "across domains",
        )
        for source in _WORLDS
        for target in _WORLDS
    ),
    Protocol("procedural/clips", ("procedural:clips/aux",), ("procedural:clips",), about="frames of clips"),
)
"""The pairs of the literature, and those of the procedural worlds, where categories of training are never tested."""
