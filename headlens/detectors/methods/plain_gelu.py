"""What was learned on OpenAI's weights with plain GELU, though they were trained with QuickGELU: it fits only that."""

from __future__ import annotations

from headlens.backbone import Backbone
from headlens.errors import RunError

_ACT_FN = "gelu"


def loading_rules(what: str, position_rule: str = "bicubic") -> dict[str, str]:
    """How the CLIP is loaded that ``what`` was learned on: options of ``headlens.backbone.load``."""
    because = f"{what} were trained with it, on OpenAI's weights"
    return {"position_rule": position_rule, "act_fn": _ACT_FN, "because": because}


def check_activation(backbone: Backbone, what: str) -> None:
    """Raises RunError where the backbone computes another activation without a reason."""
    made = backbone.provenance
    if made.act_fn != _ACT_FN and not made.because:
        raise RunError(
            f"{what} were learned on a CLIP with plain GELU, and {made.name} computes {made.activation}: load it with "
            f"act_fn={_ACT_FN!r} and because, a reason"
        )
