"""The table of a comparison with published code: how far apart values and gradients are, and may be."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from headlens.detectors.parts.adapters import LeakyProjection, ResidualAdapter
from headlens.detectors.stages import Answers, Stage

LIMIT, OF_GRADIENTS = 1e-5, 1e-4


class Report:
    """Lines of a table; ``right`` as long as no difference is above its limit."""

    def __init__(self) -> None:
        self.right = True
        print("| step | largest relative difference | limit | |\n|---|---:|---:|---|")

    def line(self, what: str, ours: Sequence[Tensor], theirs: Sequence[Tensor], limit: float = LIMIT) -> None:
        """The largest of several tensors."""
        pairs = [(a.detach().double(), b.double()) for a, b in zip(ours, theirs, strict=True)]
        if odd := [(tuple(a.shape), tuple(b.shape)) for a, b in pairs if a.shape != b.shape]:
            raise ValueError(f"{what}: shapes are {odd[0][0]} and {odd[0][1]}")
        off = float(torch.stack([(a - b).abs().max() / b.abs().max() for a, b in pairs]).max())  # NaN goes on
        self.right &= off <= limit
        print(f"| {what} | {off:.1e} | {limit:.0e} | {'' if off <= limit else 'above'} |", flush=True)

    def step(
        self, what: str, stage: Stage, seen: Any, answers: Answers, theirs: dict[str, Any], kinks: Kinks | None = None
    ) -> None:
        """Loss and gradients of a training step that has seen its images; theirs are in the order of the parameters."""
        terms = stage.loss(seen, answers)
        loss = torch.stack([stage.weights.get(name, 1.0) * term for name, term in terms.items()]).sum()
        learned = [parameter for group in stage.groups for parameter in group["params"]]
        self.line(f"{what}: loss", [loss], [theirs["loss"]])
        gradients, left_out = torch.autograd.grad(loss, learned, retain_graph=True), 0
        if kinks is not None:
            decided = [kinks.decided(parameter) for parameter in learned]
            gradients = tuple(own[rows] for own, rows in zip(gradients, decided, strict=True))
            theirs = {"gradients": [own[rows] for own, rows in zip(theirs["gradients"], decided, strict=True)]}
            left_out = sum(int((~rows).sum()) for rows in decided)
        what += f": gradients{f', but of {left_out} units at a kink' if left_out else ''}"
        self.line(what, gradients, theirs["gradients"], OF_GRADIENTS)


class Kinks:
    """Units of LeakyReLU whose input is 0 up to rounding for some token: which slope they take is left to chance.

    Such a unit's row of the gradient differs by that token's share, and by nothing in the code.
    """

    def __init__(self, detector: nn.Module) -> None:
        self._near: dict[int, Tensor] = {}
        for module in detector.modules():
            if isinstance(module, ResidualAdapter | LeakyProjection):
                module.register_forward_hook(self._look)

    def _look(self, module: Any, inputs: tuple[Tensor], _: Tensor) -> None:
        weight = module.linear.weight.detach()
        hidden = F.linear(inputs[0].detach(), weight.to(inputs[0])).flatten(0, -2)
        near = (hidden.abs() < 1e-5 * hidden.std()).any(0)
        known = self._near.get(id(module.linear.weight), torch.zeros_like(near))
        self._near[id(module.linear.weight)] = known | near

    def decided(self, parameter: nn.Parameter) -> Tensor:
        """The rows of a parameter whose units are decided for every token, [rows] bool."""
        near = self._near.get(id(parameter))
        return torch.ones(len(parameter), dtype=torch.bool) if near is None else ~near


def answers_of(masks: Tensor) -> Answers:
    """What a set says whose images are anomalous where their masks are."""
    return Answers(masks.flatten(1).any(1).long(), masks, torch.ones(len(masks), dtype=torch.bool))
