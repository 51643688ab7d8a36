"""The lens: contributions, ablation, importance, comparison and naming of attention heads.

Each question takes a detector and a data set and answers with a result that has a ``frame``:

    contributions(detector, data)                           direct effects, exact in sum
    ablate(detector, data, single_heads(heads_of(...)))     total effects, by taking heads away
    importance(detector, data)                              gate gradients
"""

from typing import TYPE_CHECKING

from headlens.lazily import lazily

if TYPE_CHECKING:
    from headlens.heads.ablation import Ablation, ablate
    from headlens.heads.capture import Capture, capture
    from headlens.heads.clean import CleanRun, clean_forward
    from headlens.heads.comparison import Comparison, compare
    from headlens.heads.contributions import Contributions, contributions
    from headlens.heads.direct import head_maps, source_maps
    from headlens.heads.importance import Importance, gate_gradients, importance
    from headlens.heads.map_parts import MapParts, map_parts
    from headlens.heads.naming import Naming, name_heads
    from headlens.heads.phrases import read_phrases
    from headlens.heads.screening import Screen, screen
    from headlens.heads.variants import Head, Variant, cumulative, heads_of, shuffled, single_heads, whole_layers
    from headlens.heads.weights import Weights, weights

__all__ = [
    "Ablation",
    "Capture",
    "CleanRun",
    "Comparison",
    "Contributions",
    "Head",
    "Importance",
    "MapParts",
    "Naming",
    "Screen",
    "Variant",
    "Weights",
    "ablate",
    "capture",
    "clean_forward",
    "compare",
    "contributions",
    "cumulative",
    "gate_gradients",
    "head_maps",
    "heads_of",
    "importance",
    "map_parts",
    "name_heads",
    "read_phrases",
    "screen",
    "shuffled",
    "single_heads",
    "source_maps",
    "weights",
    "whole_layers",
]

lazily(
    __name__,
    {
        "ablation": ("Ablation", "ablate"),
        "clean": ("CleanRun", "clean_forward"),
        "capture": ("Capture", "capture"),
        "comparison": ("Comparison", "compare"),
        "contributions": ("Contributions", "contributions"),
        "direct": ("head_maps", "source_maps"),
        "importance": ("Importance", "gate_gradients", "importance"),
        "map_parts": ("MapParts", "map_parts"),
        "naming": ("Naming", "name_heads"),
        "phrases": ("read_phrases",),
        "screening": ("Screen", "screen"),
        "variants": ("Head", "Variant", "cumulative", "heads_of", "shuffled", "single_heads", "whole_layers"),
        "weights": ("Weights", "weights"),
    },
)
