"""What is known of public data sets by the names of their folders: the domain, and what the images show."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

_SETS = (  # a folder's name begins with this, or a word in it does; domain; category, where the layout has none
    ("mvtec(ad)?|mpdd|btad|btech|dtd|visa|real[-_]?iad", "industrial", ""),
    ("dagm|k?sdd2?|kolektor(sdd)?2?|rsdds?|aitex|elpv|bsd(ata)?|magnetic[-_]?tile|crack[-_]?forest", "industrial", ""),
    ("busi", "medical", "breast"),
    ("head[-_]?ct|brain[-_]?mri|br35h", "medical", "brain"),
    ("covid", "medical", "chest"),
    ("oct2017|resc", "medical", "retina"),
    ("histopathology|camelyon16", "medical", "tissue"),
    ("isic|isbi2016", "medical", "skin"),
    ("clinicdb|colondb|kvasir|endotect|endoscene|cvc|etis", "medical", "colon"),
    ("tn3k", "medical", "thyroid"),
    ("bmad", "medical", ""),
)
_ORGANS = {"brain", "chest", "liver", "retina", "skin", "colon", "thyroid", "breast"}
_ABOUT_ORGANS = re.compile(  # what else a name may say, so that ``retina_display`` or ``skin of fruit`` tell nothing
    r"\d+|ad|ct|mri?|oct|resc|us|xray|x|ray|ultrasound|scans?|images?|data|(data)?sets?|study|tumou?rs?|cancer|"
    "lesions?|polyps?|nodules?|segmentation|classification|detection|anomaly|test|train|medical"
)
_PATTERNS = [(re.compile(rf"(?<![a-z0-9])(?:{names})(?![a-z])"), domain, shows) for names, domain, shows in _SETS]
_INDUSTRIAL = re.compile(  # categories of MVTec AD, VisA and MPDD
    "bottle|cable|capsules?|carpet|grid|hazelnut|leather|metal_nut|pill|screw|tile|toothbrush|transistor|wood|zipper|"
    "candle|cashew|chewinggum|(pipe_)?fryum|macaroni[12]|pcb[1-4]|bracket_(black|brown|white)|connector|metal_plate|tubes"
)
_EITHER = {"capsule", "capsules", "pill", "tubes"}

_GENERIC = re.compile(  # what a folder is called that says nothing of what is in it
    r"\d*|data|(data)?sets?|archive|downloads?|all|raw|originals?|files|images?|imgs?|pictures?|photos?|frames?|png|"
    "tif|jpe?g|test(ing)?|train(ing)?|val(id(ation)?)?"
)


def generic(name: str) -> bool:
    """Whether a folder's name is about any set.

    >>> generic("images"), generic("01"), generic("widgets")
    (True, True, False)
    """
    return _GENERIC.fullmatch(name.lower()) is not None


def known(folders: Sequence[str]) -> tuple[str, str]:
    """Domain and category that the first telling one of these names stands for; empty where none does.

    >>> known(["images", "CVC-ClinicDB"])
    ('medical', 'colon')
    """
    for name in folders:
        for pattern, domain, shows in _PATTERNS:
            if pattern.search(name.lower()):
                return domain, shows
        words = re.findall(r"[^\W\d_]+|\d+", name.lower())
        organs = [word for word in words if word in _ORGANS]
        if len(organs) == 1 and all(word in _ORGANS or _ABOUT_ORGANS.fullmatch(word) for word in words):
            return "medical", organs[0]
    return "", ""


def domain_of(categories: Iterable[str]) -> str:
    """The domain that the categories known by name agree on; empty where they do not, or none is known.

    Capsules, pills and tubes are of either; alone they tell nothing.

    >>> domain_of(["bottle", "my_part"]), domain_of(["brain_mri"]), domain_of(["my_part"])
    ('industrial', 'medical', '')
    """
    from headlens.data.procedural.catalogue import CATEGORIES

    generated = {name: category.domain for name, category in CATEGORIES.items()}
    named = {*categories} - _EITHER
    domains = {"industrial" if _INDUSTRIAL.fullmatch(name) else generated.get(name, "") for name in named} - {""}
    return domains.pop() if len(domains) == 1 else ""
