"""Everything that a plan may ask of the tower, for the tests' tiny CLIP of four blocks."""

from __future__ import annotations

from dataclasses import replace

import torch

from headlens.backbone import LocalStream
from headlens.detectors import HeadCLIP


class Leaky:
    """A residual adapter, matched to the token's norm; linear where its mask and norms are held."""

    def __init__(self, width: int, seed: int, mix: float = 0.1) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.weight = torch.randn(width, width, generator=generator, dtype=torch.float64) / width**0.5
        self.mix = mix

    def _parts(self, x):
        hidden = x @ self.weight
        slope = torch.where(hidden > 0, 1.0, 0.01).to(x)
        scale = x.norm(dim=-1, keepdim=True) / (hidden * slope).norm(dim=-1, keepdim=True)
        return hidden, slope, scale

    def __call__(self, x):
        hidden, slope, scale = self._parts(x)
        return (1 - self.mix) * x + self.mix * scale * hidden * slope

    def push(self, x, written):
        """What a part of the stream ``x`` is behind the adapter, the mask and both norms being those of ``x``."""
        _, slope, scale = self._parts(x)
        return (1 - self.mix) * written + self.mix * scale * slope * (written @ self.weight)

    def pull(self, x, covector):
        _, slope, scale = self._parts(x)
        return (1 - self.mix) * covector + self.mix * scale * ((covector * slope) @ self.weight.T)


def extra_tokens(width: int, *shape: int):
    return torch.randn(*shape, width, dtype=torch.float64, generator=torch.Generator().manual_seed(5))


def plans(width: int):
    """Changes of the tiny detector's plan, by name."""
    adapters = {"global": {0: Leaky(width, 0), 2: Leaky(width, 1)}}
    local_adapters = {"local": {1: Leaky(width, 2), 3: Leaky(width, 3)}}
    tokens = {0: extra_tokens(width, 2), 2: extra_tokens(width, 3)}
    return {
        "as it is": {},
        "adapters": {"adapters": adapters},
        "local adapters": {"adapters": local_adapters},
        "both adapters": {"adapters": adapters | local_adapters},
        "adapter at the end": {"adapters": {"global": {3: Leaky(width, 4)}}},
        "local MLP": {"local": LocalStream(1, ("vv",), mlp=True)},
        "replaced": {"local": LocalStream(1, ("vv", "kk"), mode="replace")},
        "replaced, with MLP": {"local": LocalStream(2, ("vv",), mode="replace", mlp=True)},
        "no local stream": {"local": None},
        "tokens": {"tokens": tokens},
        "tokens of each image": {"tokens": {1: extra_tokens(width, 3, 2), 3: extra_tokens(width, 1, 4)}},
        "tokens, adapters, local MLP": {"tokens": tokens, "adapters": adapters, "local": LocalStream(1, mlp=True)},
    }


PLANS = list(plans(32))


def planned(detector: HeadCLIP, changes: dict) -> HeadCLIP:
    """The detector with fields of its plan changed."""

    class Planned(HeadCLIP):
        @property
        def plan(self):
            plan = super().plan
            streams = ("global",) if changes.get("local", plan.local) is None else ("global", "local")
            changed = replace(plan, **changes)
            kept = {s: w for s, w in plan.head_weights.items() if s in streams and s in changed.streams}
            return replace(changed, head_weights=kept)

    detector.__class__ = Planned
    return detector
