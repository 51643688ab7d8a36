"""How a detector is trained. The values are AnomalyCLIP's where the HeadCLIP abstract says nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from headlens.detectors.settings import Settings
from headlens.errors import ConfigError

_LARGEST_SEED = 2**32
Precision = Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class TrainingConfig(Settings):
    """Settings of one training run.

    Args:
        epochs: passes over the auxiliary set.
        batch: images of one step on each device.
        accumulate: steps whose gradients are added up before the weights move.
        lr: of the prompts.
        lr_heads: of the head weights.
        betas: of Adam.
        pixel_weight: of the pixel terms against the image term.
        size: images are resized to this square; 0 is the backbone's own size.
        precision: of the forward pass; what is learned stays float32.
        seed: of the initial prompts and of the order of images.
        save_every: steps between two states that a killed run goes on from.

    Raises:
        ConfigError: a value that makes no training.
    """

    epochs: int = 5
    batch: int = 8
    accumulate: int = 1
    lr: float = 1e-3
    lr_heads: float = 5e-3
    betas: tuple[float, float] = (0.5, 0.999)
    pixel_weight: float = 4.0
    size: int = 0
    precision: Precision = "float32"
    seed: int = 0
    save_every: int = 50

    def __post_init__(self) -> None:
        super().__post_init__()
        least = {"epochs": 1, "batch": 1, "accumulate": 1, "lr": 0, "lr_heads": 0, "pixel_weight": 0, "size": 0}
        for name, low in {**least, "save_every": 1}.items():
            if not getattr(self, name) >= low:
                raise ConfigError(f"{name} is {getattr(self, name)!r}; it is at least {low}")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ConfigError(f"betas are {self.betas}; each is at least 0 and below 1")
        if abs(self.seed) > _LARGEST_SEED:
            raise ConfigError(f"seed is {self.seed}; it is at most {_LARGEST_SEED}")
