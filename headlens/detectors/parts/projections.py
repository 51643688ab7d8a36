"""Trained linear maps from tapped tokens to the joint space, one for every tap, in place of the tower's projection."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, cast

import torch
from torch import nn

from headlens.backbone.vision import VisionTower
from headlens.detectors.readout import Readout

Init = Literal["fan_in", "xavier"]


def seeded_linear(
    width: int,
    d_embed: int,
    *,
    bias: bool = True,
    init: Init = "fan_in",
    generator: torch.Generator,
    device: torch.device | None = None,
) -> nn.Linear:
    """A float32 ``nn.Linear`` whose initial values follow from the generator, the same on every device.

    Args:
        width, d_embed: D and d_e.
        bias: whether it has one.
        init: uniform weights, ``fan_in`` up to 1 / √D, which is torch's default and the bias' in either case;
            ``xavier`` up to √(6 / (D + d_e)).
        generator: on the CPU.
        device: where the layer goes.
    """
    layer = nn.Linear(width, d_embed, bias=bias, device="meta").to_empty(device="cpu")
    bound = width**-0.5
    with torch.no_grad():
        layer.weight.uniform_(-1, 1, generator=generator)
        layer.weight.mul_(bound if init == "fan_in" else (6 / (width + d_embed)) ** 0.5)
        if bias:
            layer.bias.uniform_(-bound, bound, generator=generator)
    return layer.to(device)


class TapProjections(nn.ModuleDict):
    """A linear map [D -> d_e] for every tap; its parameters are called ``5.weight``, ``5.bias``, ...

    Args:
        taps: those that have one.
        tower: whose tokens they read.
        bias, init: as in ``seeded_linear``.
        seed: of the initial values.

    >>> from headlens.backbone import load
    >>> projections = TapProjections((5, 11), load("mini").vision)
    >>> [(name, tuple(parameter.shape)) for name, parameter in projections.named_parameters()][:2]
    [('5.weight', (128, 128)), ('5.bias', (128,))]
    """

    def __init__(
        self, taps: Sequence[int], tower: VisionTower, *, bias: bool = True, init: Init = "fan_in", seed: int = 0
    ) -> None:
        generator, device = torch.Generator().manual_seed(seed), tower.proj.device

        def layer() -> nn.Linear:
            width, d_embed = tower.cfg.d_model, tower.cfg.d_embed
            return seeded_linear(width, d_embed, bias=bias, init=init, generator=generator, device=device)

        super().__init__({str(tap): layer() for tap in taps})

    def readouts(self, tower: VisionTower, norm: bool = False) -> dict[int, Readout]:
        """How each tap is read, through the tower's ``ln_final`` first with ``norm``."""
        return {int(tap): Readout.linear(cast(nn.Linear, layer), tower, norm) for tap, layer in self.items()}
