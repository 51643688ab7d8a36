"""All methods by name, and what each promises."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from headlens.attribution import attention, pixels
from headlens.attribution.targets import SCORES, Target
from headlens.errors import ConfigError
from headlens.printing import unknown_name


@dataclass(frozen=True)
class Method:
    """A way of attributing.

    Args:
        name: how it is called.
        function: ``(target, images [B, 3, h, w], **options)`` to a map [B, h, w].
        complete: whether the map adds up to the target's difference between image and baseline.
        targets: the only ones it takes; heads count as ``head``. Any when empty.
        control: a bad method on purpose, that every check must tell from the others.
        quantity: what the map is made of, where that is no part of the target.
        sign: whether the map has one: blue speaks against the target. Else no value is below 0.
        gradients: whether it differentiates the target, which float16 is too coarse for.
    """

    name: str
    function: Callable[..., Tensor]
    complete: bool = False
    targets: tuple[str, ...] = ()
    control: bool = False
    quantity: str = ""
    sign: bool = True
    gradients: bool = True

    @property
    def options(self) -> dict[str, Any]:
        """What can be set, and how it is by default."""
        named = inspect.signature(self.function).parameters.values()
        return {one.name: one.default for one in named if one.kind is one.KEYWORD_ONLY}

    def settings(self, **options: Any) -> dict[str, Any]:
        """All options, with those given in place of the defaults.

        Raises:
            ConfigError: an option that the method has not.
        """
        if unknown := sorted(set(options) - set(self.options)):
            known = ", ".join(self.options) or "none"
            raise ConfigError(f"{self.name} has no option {unknown[0]!r}; it has {known}")
        if options.get("heads") is not None:
            options["heads"] = list(options["heads"])  # every image asks for them, an iterator has them once
        return self.options | options

    def takes(self, target: Target) -> bool:
        """Whether it can attribute that target."""
        return not self.targets or (target.name if target.name in SCORES else "head") in self.targets

    def __call__(self, target: Target, images: Tensor, **options: Any) -> Tensor:
        """The map of every image, [B, h, w]; its sum over pixels is what was attributed.

        Raises:
            ConfigError: an option or a target that the method has not.
        """
        return self.function(target, images, **self.settings(**options)).detach()


METHODS = {
    method.name: method
    for method in (
        Method("integrated_gradients", pixels.integrated_gradients, complete=True),
        Method("gradient_shap", pixels.gradient_shap, complete=True),
        Method("input_x_gradient", pixels.input_x_gradient),
        Method("smooth_grad", pixels.smooth_grad),
        Method("occlusion", pixels.occlusion, gradients=False),
        Method("patch_ablation", pixels.patch_ablation, gradients=False),
        Method("rollout", attention.rollout, targets=SCORES, quantity="attention", sign=False),
        Method("relevance", attention.relevance, targets=SCORES, quantity="relevance", sign=False),
        Method("legrad", attention.legrad, quantity="positive gradient", sign=False),
        Method(
            "contributions", attention.contributions, targets=("image_margin", "map_margin", "head"), gradients=False
        ),
        Method("edges", pixels.edges, control=True, quantity="edge strength", sign=False, gradients=False),
    )
}
"""By their names."""


def method_of(name: str) -> Method:
    """The method of that name.

    Raises:
        ConfigError: an unknown one.

    >>> method_of("smooth_grad").options["samples"]
    16
    """
    if name not in METHODS:
        raise ConfigError(unknown_name("method", name, METHODS))
    return METHODS[name]
