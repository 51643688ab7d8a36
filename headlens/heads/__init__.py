"""The lens: contributions, ablation, importance, comparison and naming of attention heads.

Each question takes a detector and a data set and answers with a result that has a ``frame``:

    contributions(detector, data)                           direct effects, exact in sum
    ablate(detector, data, single_heads(heads_of(...)))     total effects, by taking heads away
    importance(detector, data)                              gate gradients
    transfer(detector, data, rankings)                      the best heads alone, head weights of other runs
"""

from typing import TYPE_CHECKING

from headlens.lazily import lazily

if TYPE_CHECKING:
    from headlens.heads.ablation import Ablation as Ablation
    from headlens.heads.ablation import ablate as ablate
    from headlens.heads.capture import Capture as Capture
    from headlens.heads.capture import capture as capture
    from headlens.heads.clean import CleanRun as CleanRun
    from headlens.heads.clean import clean_forward as clean_forward
    from headlens.heads.comparison import Comparison as Comparison
    from headlens.heads.comparison import check_groups as check_groups
    from headlens.heads.comparison import compare as compare
    from headlens.heads.contributions import Contributions as Contributions
    from headlens.heads.contributions import contributions as contributions
    from headlens.heads.direct import head_maps as head_maps
    from headlens.heads.direct import source_maps as source_maps
    from headlens.heads.importance import Importance as Importance
    from headlens.heads.importance import gate_gradients as gate_gradients
    from headlens.heads.importance import importance as importance
    from headlens.heads.map_agreement import MapAgreement as MapAgreement
    from headlens.heads.map_agreement import map_agreement as map_agreement
    from headlens.heads.map_parts import MapParts as MapParts
    from headlens.heads.map_parts import map_parts as map_parts
    from headlens.heads.naming import Naming as Naming
    from headlens.heads.naming import name_heads as name_heads
    from headlens.heads.per_head import head_values as head_values
    from headlens.heads.phrases import read_phrases as read_phrases
    from headlens.heads.prompt_parts import PromptParts as PromptParts
    from headlens.heads.prompt_parts import prompt_parts as prompt_parts
    from headlens.heads.ranking import Overlap as Overlap
    from headlens.heads.ranking import overlap_of as overlap_of
    from headlens.heads.screening import Screen as Screen
    from headlens.heads.screening import screen as screen
    from headlens.heads.transfer import Transfer as Transfer
    from headlens.heads.transfer import transfer as transfer
    from headlens.heads.variance import Variance as Variance
    from headlens.heads.variance import check_design as check_design
    from headlens.heads.variance import variance as variance
    from headlens.heads.variants import Head as Head
    from headlens.heads.variants import Variant as Variant
    from headlens.heads.variants import cumulative as cumulative
    from headlens.heads.variants import growing as growing
    from headlens.heads.variants import heads_of as heads_of
    from headlens.heads.variants import shuffled as shuffled
    from headlens.heads.variants import single_heads as single_heads
    from headlens.heads.variants import whole_layers as whole_layers
    from headlens.heads.weights import Weights as Weights
    from headlens.heads.weights import weights as weights

lazily(__name__)
