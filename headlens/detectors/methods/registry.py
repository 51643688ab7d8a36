"""Methods by name, and presets: methods with their settings."""

from __future__ import annotations

import inspect
import reprlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from headlens.backbone import Backbone
from headlens.detectors.detector import Detector, MethodConfig
from headlens.detectors.methods.aa_clip import AACLIP, AACLIPConfig
from headlens.detectors.methods.adaclip import AdaCLIP, AdaCLIPConfig
from headlens.detectors.methods.anoclip import AnoCLIP, AnoCLIPConfig
from headlens.detectors.methods.april_gan import APRILGAN, APRILGANConfig
from headlens.detectors.methods.c2p import C2PCLIP, C2PConfig
from headlens.detectors.methods.crane import Crane, CraneConfig
from headlens.detectors.methods.headclip import HeadCLIP, HeadCLIPConfig
from headlens.detectors.methods.kanoclip import KAnoCLIP, KAnoCLIPConfig
from headlens.detectors.methods.sc_clip import SCCLIP, SCCLIPConfig
from headlens.detectors.methods.vadclip import VADCLIP_PRESETS, VadCLIP, VadCLIPConfig
from headlens.detectors.methods.winclip import WinCLIP, WinCLIPConfig
from headlens.detectors.stages import TrainingConfig
from headlens.errors import ConfigError
from headlens.printing import unknown_name

METHODS: dict[str, tuple[Callable[..., Detector], type[MethodConfig]]] = {
    "headclip": (HeadCLIP, HeadCLIPConfig),
    "april-gan": (APRILGAN, APRILGANConfig),
    "aa-clip": (AACLIP, AACLIPConfig),
    "crane": (Crane, CraneConfig),
    "anoclip": (AnoCLIP, AnoCLIPConfig),
    "winclip": (WinCLIP, WinCLIPConfig),
    "adaclip": (AdaCLIP, AdaCLIPConfig),
    "sc-clip": (SCCLIP, SCCLIPConfig),
    "kanoclip": (KAnoCLIP, KAnoCLIPConfig),
    "c2p-clip": (C2PCLIP, C2PConfig),
    "vadclip": (VadCLIP, VadCLIPConfig),
}
"""Of each method by name, what makes its detector of backbone, settings and seed; and its settings."""

_HEADCLIP = HeadCLIPConfig()
_ANOMALYCLIP = replace(_HEADCLIP, head_weights="none", alpha=0.0)
PRESETS = {
    "headclip": _HEADCLIP,
    "anomalyclip": _ANOMALYCLIP,
    "anomalyclip-published": replace(_ANOMALYCLIP, taps=(23,), cls_norm=False),
    "crane": CraneConfig(),
    "clip": replace(_ANOMALYCLIP, prompts="ensemble"),
    "april-gan": APRILGANConfig(),
    "aa-clip": AACLIPConfig(),
    "aa-clip-medical": AACLIPConfig(sigma=1.5, kernel=9, alpha=1.0),
    "anoclip": AnoCLIPConfig(),
    "anoclip-plus": AnoCLIPConfig(steps=5),
    "anoclip-plus-visa": AnoCLIPConfig(steps=5, adapter="linear", loss_at="pixels"),
    "winclip": WinCLIPConfig(),
    "adaclip": AdaCLIPConfig(),
    "sc-clip": SCCLIPConfig(),
    "kanoclip": KAnoCLIPConfig(),
    "c2p-clip": C2PConfig(),
    **VADCLIP_PRESETS,
}
"""Settings by name."""
TITLES = {
    "headclip": "HeadCLIP (arXiv 2505.22259): learned prompts, head weights, a joint score",
    "anomalyclip": "AnomalyCLIP (arXiv 2310.18961) with several taps: HeadCLIP without head weights and joint score",
    "anomalyclip-published": "AnomalyCLIP (arXiv 2310.18961) as its scripts run it: last tap, CLS without ln_post",
    "crane": "Crane (arXiv 2504.11055) without its second backbone: prompts shown the image, E-Attn patches",
    "clip": "CLIP with hand-written prompts; patches of a V-V stream",
    "april-gan": "APRIL-GAN (arXiv 2305.17382): a linear map for every tap",
    "aa-clip": "AA-CLIP (arXiv 2503.06661): adapters in both towers; as its scripts score industrial sets",
    "aa-clip-medical": "AA-CLIP (arXiv 2503.06661): adapters in both towers; as its scripts score medical sets",
    "anoclip": "AnoCLIP (arXiv 2308.15939): V-V patches from the first block, words of the domain",
    "anoclip-plus": "AnoCLIP+ (arXiv 2308.15939): adapts to every image, as its scripts do on MVTec AD",
    "anoclip-plus-visa": "AnoCLIP+ (arXiv 2308.15939): adapts to every image, as its scripts do on VisA",
    "winclip": "WinCLIP (arXiv 2303.14814) without shots: every window read by itself",
    "adaclip": "AdaCLIP (arXiv 2407.15795): prompts of each image in both towers",
    "sc-clip": "SC-CLIP (arXiv 2411.15869): patches calibrated by each other, against hand-written prompts",
    "kanoclip": "KAnoCLIP (arXiv 2501.03786) as headlens reads it: prompts near a knowledge base, attention to patches",
    "c2p-clip": "C2P-CLIP (arXiv 2408.09647): generated images, by a linear head on the image feature and LoRA",
    "vadclip": "VadCLIP (arXiv 2308.11681): frames of clips, learned from labels of clips; for short clips",
    "vadclip-ucf": "VadCLIP (arXiv 2308.11681): as its scripts train it on UCF-Crime",
    "vadclip-xd": "VadCLIP (arXiv 2308.11681): as its scripts train it on XD-Violence",
}
"""What each preset is, in one line."""


def preset(name: str, **changes: Any) -> MethodConfig:
    """One of ``PRESETS``, with fields changed.

    Raises:
        ConfigError: an unknown preset or field.
    """
    if name not in PRESETS:
        raise ConfigError(unknown_name("preset", name, PRESETS))
    return _changed(PRESETS[name], changes)


def title(name: str) -> str:
    """What a preset is, in one line: its entry of ``TITLES``, or else the first line of what its settings say.

    >>> title("april-gan")
    'APRIL-GAN (arXiv 2305.17382): a linear map for every tap'
    """
    return TITLES.get(name) or inspect.cleandoc(type(PRESETS[name]).__doc__ or name).splitlines()[0]


def build(backbone: Backbone, method: str | MethodConfig = "headclip", seed: int = 0, **changes: Any) -> Detector:
    """An untrained detector: a preset by name, with fields changed, or a method's settings.

    Args:
        backbone: it stays as it is.
        method: one of ``PRESETS``, or settings such as ``HeadCLIPConfig()``.
        seed: of what is initialised at random.
        **changes: fields of the settings.

    Raises:
        ConfigError: an unknown preset or field, or settings that this backbone cannot have.

    >>> from headlens.backbone import load
    >>> build(load("mini"), "crane", taps=(23,)).config.score_pooling
    0.5
    """
    config = preset(method, **changes) if isinstance(method, str) else _changed(method, changes)
    return METHODS[method_of(config)][0](backbone, config, seed)


def _changed(config: MethodConfig, changes: Mapping[str, Any]) -> MethodConfig:
    return type(config).of(config.table() | dict(changes))


def method_of(config: MethodConfig) -> str:
    """The name of the method that has such settings."""
    return next(name for name, (_, settings) in METHODS.items() if type(config) is settings)


def table_of(config: MethodConfig) -> dict[str, Any]:
    """The settings as table ``detector`` of a run's ``config.toml``: the method's name comes first."""
    return {"method": method_of(config), **config.table()}


def config_of(table: Mapping[str, Any]) -> MethodConfig:
    """The settings in table ``detector`` of a run's ``config.toml``; without ``method`` they are HeadCLIP's.

    Raises:
        ConfigError: an unknown method or field, or a value of another type.

    >>> config_of(table_of(PRESETS["crane"])) == PRESETS["crane"]
    True
    """
    fields = dict(table)
    method = fields.pop("method", "headclip")
    if not isinstance(method, str) or method not in METHODS:
        raise ConfigError(
            f"method is {reprlib.repr(method)}; this headlens has {', '.join(METHODS)}: install one that has it"
        )
    return METHODS[method][1].of(fields)


def check_training(config: MethodConfig, training: TrainingConfig) -> None:
    """Raises ConfigError for a setting of training that the method does not read, and that was changed in vain."""
    for name, instead in config.INSTEAD.items():
        if (value := getattr(training, name)) != getattr(TrainingConfig(), name):
            raise ConfigError(
                f"{name} is {value}, but {method_of(config)} does not read it: it has {instead} (at a shell in a TOML "
                "file, --config)"
            )
