"""Attribution maps for a target score, and how faithful they are.

attribute(detector, image, "integrated_gradients", "joint_margin")    a signed map at the image's size
faithfulness(detector, data)                                            methods by measures, with intervals
"""

from typing import TYPE_CHECKING

from headlens.lazily import lazily

if TYPE_CHECKING:
    from headlens.attribution.attribute import Attribution, attribute
    from headlens.attribution.faithfulness import MEASURES, Faithfulness, faithfulness
    from headlens.attribution.methods import METHODS, Method, method_of
    from headlens.attribution.targets import SCORES, Target, target_of

__all__ = [
    "MEASURES",
    "METHODS",
    "SCORES",
    "Attribution",
    "Faithfulness",
    "Method",
    "Target",
    "attribute",
    "faithfulness",
    "method_of",
    "target_of",
]

lazily(
    __name__,
    {
        "attribute": ("Attribution", "attribute"),
        "faithfulness": ("MEASURES", "Faithfulness", "faithfulness"),
        "methods": ("METHODS", "Method", "method_of"),
        "targets": ("SCORES", "Target", "target_of"),
    },
)
