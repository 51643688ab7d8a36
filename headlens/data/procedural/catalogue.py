"""What there is in the worlds, and which split may see it. Fixed: figures hold only as long as this."""

from __future__ import annotations

from typing import Literal

from headlens.data.procedural import textures
from headlens.data.procedural.defects import DEFECT_WORDS, DEFECTS
from headlens.data.procedural.lesions import LESION_WORDS, LESIONS
from headlens.data.procedural.medical import MEDICAL
from headlens.data.procedural.objects import INDUSTRIAL_OBJECTS
from headlens.data.procedural.scene import Category, FlawPainter

Role = Literal["aux", "seen", "unseen"]

_CLOTH = ("fabric", "carpet", "leather", "mesh")  # what can be creased
_TEXTURE_WORDS: dict[str, tuple[str, ...]] = {
    "wood": ("wood", "wooden board", "timber"),
    "fabric": ("fabric", "woven cloth", "textile"),
    "leather": ("leather", "leather hide"),
    "metal": ("metal", "brushed metal plate", "steel sheet"),
    "concrete": ("concrete", "concrete wall", "cement"),
    "carpet": ("carpet", "rug"),
    "marble": ("marble", "stone slab"),
    "terrazzo": ("terrazzo", "terrazzo floor"),
    "mesh": ("mesh", "metal grid", "wire mesh"),
    "tile": ("tile", "tiled floor", "ceramic tile"),
    "brick": ("brick", "brick wall"),
    "cardboard": ("cardboard", "corrugated board"),
    "random_surface": ("patterned material", "abstract pattern"),
}


def _texture(name: str) -> Category:
    flaws = tuple(
        family for family in DEFECTS if family not in ("missing", "bubble") and (family != "fold" or name in _CLOTH)
    )
    if name not in (*_CLOTH, "random_surface"):
        flaws += ("bubble",)
    return Category(name, "industrial", _TEXTURE_WORDS[name], getattr(textures, name), flaws, texture=True)


CATEGORIES: dict[str, Category] = {
    category.name: category for category in (*map(_texture, _TEXTURE_WORDS), *INDUSTRIAL_OBJECTS, *MEDICAL)
}
"""Every category by name; textures, objects, then medical."""

FAMILIES: dict[str, dict[str, FlawPainter]] = {"industrial": DEFECTS, "medical": LESIONS}
FAMILY_WORDS: dict[str, tuple[str, ...]] = {**DEFECT_WORDS, **LESION_WORDS}

HELD_OUT = frozenset({"burn", "corrosion", "bubble", "fold", "ulcer", "calcification", "atrophy", "melanoma"})
"""Flaws that neither the backbone's pre-training nor any auxiliary set has ever shown or named."""

_AUX = (
    *("wood", "fabric", "concrete", "metal", "random_surface", "nut", "pill", "pcb", "gear", "part"),
    *("brain_mri", "chest_xray", "breast_ultrasound", "oct", "colonoscopy"),
)
_UNSEEN = (
    *("terrazzo", "mesh", "tile", "brick", "screw", "bottle_cap", "bearing", "cookie"),
    *("head_ct", "knee_mri", "thyroid_ultrasound", "mammography", "dermoscopy"),
)
ROLES: dict[str, Role] = {
    name: "aux" if name in _AUX else "unseen" if name in _UNSEEN else "seen" for name in CATEGORIES
}
"""``aux``: the auxiliary training of detectors, and pre-training; ``seen``: pre-training only; ``unseen``: neither."""
