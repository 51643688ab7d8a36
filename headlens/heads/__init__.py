"""The lens: contributions, ablation, importance, comparison and naming of attention heads.

Each question takes a detector and a data set and answers with a result that has a ``frame``:

    contributions(detector, data)                           direct effects, exact in sum
    ablate(detector, data, single_heads(heads_of(...)))     total effects, by taking heads away
    importance(detector, data)                              gate gradients
"""

from headlens.heads.ablation import Ablation, ablate
from headlens.heads.cache import Clean, clean_forward
from headlens.heads.direct import contributions, head_maps, source_maps
from headlens.heads.gates import Importance, gate_gradients, importance
from headlens.heads.results import Result
from headlens.heads.screening import Screen, screen
from headlens.heads.variants import Head, Variant, cumulative, heads_of, shuffled, single_heads, whole_layers
from headlens.heads.weighing import Weights, weights

__all__ = [
    "Ablation",
    "Clean",
    "Head",
    "Importance",
    "Result",
    "Screen",
    "Variant",
    "Weights",
    "ablate",
    "clean_forward",
    "contributions",
    "cumulative",
    "gate_gradients",
    "head_maps",
    "heads_of",
    "importance",
    "screen",
    "shuffled",
    "single_heads",
    "source_maps",
    "weights",
    "whole_layers",
]
