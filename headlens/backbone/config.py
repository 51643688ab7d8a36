"""What a plain CLIP is made of, read from open_clip's model configs.

The towers are true to one family: a ViT with a class token and a causal text transformer, both pre-LayerNorm. Every
open_clip config key that would make a model something else is refused by name, so that no model is silently wrong.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Literal

from headlens.backbone import embedded
from headlens.errors import ArchitectureError, ShapeError

Activation = Literal["gelu", "quick_gelu"]
PositionRule = Literal["bicubic", "bicubic-plain", "bilinear"]
"""How positions reach another grid: with antialias, as open_clip does; without; and linearly, without."""
# A config that asks for more is damaged, and each layer takes memory before any weight is looked at.
_DEEPEST, _LARGEST = 512, 2**20
POSITION_RULES: tuple[PositionRule, ...] = ("bicubic", "bicubic-plain", "bilinear")


@dataclass(frozen=True)
class TransformerConfig:
    """Sizes that both towers share, in TransformerLens's words (its ``ActivationCache`` reads them)."""

    n_layers: int
    n_heads: int
    d_model: int
    d_mlp: int
    d_embed: int
    act_fn: Activation
    eps: float = 1e-5
    normalization_type: str = "LN"
    attn_only: bool = False

    def __post_init__(self) -> None:
        if type(self.n_layers) is int and self.n_layers > _DEEPEST:
            raise ArchitectureError(f"{self.n_layers} layers; no CLIP has more than {_DEEPEST}")
        for size in ("n_layers", "n_heads", "d_model", "d_mlp", "d_embed", "patch_size", "n_ctx", "d_vocab"):
            if type(value := getattr(self, size, 1)) is not int or not 0 < value <= _LARGEST:  # of either tower
                raise ArchitectureError(f"{size} is {value!r}; expected a whole number from 1 to {_LARGEST}")
        if self.d_model % self.n_heads:
            raise ArchitectureError(f"width {self.d_model} cannot be split over {self.n_heads} heads")

    @property
    def d_head(self) -> int:
        """Channels of one head."""
        return self.d_model // self.n_heads


@dataclass(frozen=True, kw_only=True)
class VisionConfig(TransformerConfig):
    """The vision tower: ``image_size`` is the (height, width) that the positional embedding was trained at."""

    patch_size: int
    image_size: tuple[int, int]
    position_rule: PositionRule = "bicubic"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not all(type(side) is int and self.patch_size <= side <= _LARGEST for side in self.image_size):
            expected = f"at least a patch, {self.patch_size} px, at most {_LARGEST}"
            raise ArchitectureError(f"image_size is {self.image_size}; expected {expected}")
        if self.position_rule not in POSITION_RULES:
            raise ArchitectureError(f"position rule {self.position_rule!r}: choose one of {', '.join(POSITION_RULES)}")

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches at the trained size."""
        return self.image_size[0] // self.patch_size, self.image_size[1] // self.patch_size


@dataclass(frozen=True, kw_only=True)
class TextConfig(TransformerConfig):
    """The text tower: prompts of ``n_ctx`` tokens out of ``d_vocab``, read at their highest token id (EOT)."""

    n_ctx: int
    d_vocab: int


@dataclass(frozen=True)
class Architecture:
    """A name and the two towers behind it; ``because``: why their activation is another than that of the weights."""

    name: str
    vision: VisionConfig
    text: TextConfig
    because: str = ""

    @property
    def act_fn(self) -> Activation:
        """The activation of both MLPs; it is part of what the weights mean."""
        return self.vision.act_fn

    def computing(self, act_fn: Activation, because: str) -> Architecture:
        """The same with another activation, for that reason."""
        towers = {name: dataclasses.replace(getattr(self, name), act_fn=act_fn) for name in ("vision", "text")}
        return dataclasses.replace(self, **towers, because=because)


# Keys the towers are built from, and keys that only matter while training; anything else must stand at its default.
_VISION_KEYS = {"layers", "width", "head_width", "mlp_ratio", "patch_size", "image_size", "patch_dropout"}
_TEXT_KEYS = {"context_length", "vocab_size", "width", "heads", "layers", "mlp_ratio"}
_TOP_KEYS = {"embed_dim", "quick_gelu", "vision_cfg", "text_cfg", "init_logit_scale", "custom_text"}

_WHY = {
    "timm_model_name": "a timm image tower",
    "attentional_pool": "attention pooling",
    "pool_type": "pooling other than the class token (image) or the end-of-text token (text)",
    "final_ln_after_pool": "the final LayerNorm after pooling",
    "no_ln_pre": "a tower without ln_pre",
    "pos_embed_type": "fixed sine-cosine positions",
    "scale_attn_inner": "a LayerNorm after the heads, before the output projection",
    "scale_attn": "a LayerNorm after attention",
    "scale_fc": "a LayerNorm inside the MLP",
    "scale_heads": "head scales trained into the checkpoint",
    "qk_norm": "normalised queries and keys",
    "ls_init_value": "LayerScale",
    "norm_kwargs": "LayerNorm settings",
    "act_kwargs": "activation settings",
    "hf_model_name": "a Hugging Face text tower",
    "hf_tokenizer_name": "a Hugging Face tokenizer",
    "no_causal_mask": "text attention without a causal mask",
    "embed_cls": "a class token in the text tower",
    "init_logit_bias": "a SigLIP logit bias",
    "multimodal_cfg": "a CoCa text decoder",
}


def architecture(name: str) -> Architecture:
    """The architecture behind an open_clip model name.

    Args:
        name: an open_clip model name of the plain ViT family, such as ``"ViT-L-14-336-quickgelu"``; or
            ``"mini"`` or ``"mini-captions"``, which ship with headlens.

    Raises:
        ArchitectureError: unknown name, or a model that the towers cannot be true to; the message says why.

    >>> architecture("ViT-B-16").vision.grid
    (14, 14)
    """
    if name in embedded.NAMES:
        return architecture_from_config(embedded.config(name)["model_cfg"], name)
    import open_clip

    # "hf-hub:" and "local-dir:" would make open_clip look elsewhere than among its own architectures.
    config = None if ":" in name else open_clip.get_model_config(name)
    if config is None:
        known = open_clip.list_models()
        near = difflib.get_close_matches(name, known, n=4, cutoff=0.4) or ["ViT-B-16", "ViT-L-14-336-quickgelu"]
        what = f"unknown architecture {name!r}; similar names: {', '.join(near)}"
        raise ArchitectureError(f"{what}. A file or tag is the second argument.")
    return architecture_from_config(config, name)


def architecture_from_config(config: Mapping[str, Any], name: str = "custom") -> Architecture:
    """The architecture that an open_clip model config describes (the JSON that ships with its models).

    Raises:
        ArchitectureError: naming every part of the config that the towers do not have.
    """
    vision, text = dict(config["vision_cfg"]), dict(config["text_cfg"])
    others = {key: value for key, value in config.items() if key not in _TOP_KEYS}
    missing = [_WHY.get(key, key) for key, value in others.items() if value is not None and value is not False]
    if not isinstance(vision.get("layers", 12), int):
        missing.append("a ResNet image tower")
        vision["layers"] = 12
    v, beyond = _filled(vision, "CLIPVisionCfg", _VISION_KEYS)
    t, more = _filled(text, "CLIPTextCfg", _TEXT_KEYS)
    if missing := [*missing, *beyond, *more]:
        what = f"{name} needs what the headlens towers do not have: {'; '.join(dict.fromkeys(missing))}"
        kin = "ViT-B-32, ViT-B-16, ViT-L-14, ViT-L-14-336 and their kin"
        raise ArchitectureError(f"{what}. They follow open_clip's plain ViTs ({kin}).")

    def shared(part: SimpleNamespace, heads: int) -> dict[str, Any]:
        return {
            "n_layers": part.layers,
            "n_heads": heads,
            "d_model": part.width,
            "d_mlp": int(part.width * part.mlp_ratio),
            "d_embed": config["embed_dim"],
            "act_fn": "quick_gelu" if config.get("quick_gelu") else "gelu",
        }

    size = v.image_size if isinstance(v.image_size, tuple | list) else (v.image_size, v.image_size)
    return Architecture(
        name,
        VisionConfig(**shared(v, v.width // v.head_width), patch_size=v.patch_size, image_size=(size[0], size[1])),
        TextConfig(**shared(t, t.heads), n_ctx=t.context_length, d_vocab=t.vocab_size),
    )


_TRANSFORMERS = (  # keys of transformers' CLIPModel, our names, and what stands for a missing one in either tower
    ("num_hidden_layers", "n_layers", 12, 12),
    ("num_attention_heads", "n_heads", 12, 8),
    ("hidden_size", "d_model", 768, 512),
    ("intermediate_size", "d_mlp", 3072, 2048),
    ("hidden_act", "act_fn", "quick_gelu", "quick_gelu"),
    ("layer_norm_eps", "eps", 1e-5, 1e-5),
)
_VISION_ALONE = {"num_channels": 3, "image_size": 224, "patch_size": 32}
_TEXT_ALONE = {"vocab_size": 49408, "max_position_embeddings": 77, "eos_token_id": 49407}
_OLD_EOS = 2  # what transformers wrote for years, and then reads prompts at their highest id, as the tower does


def architecture_from_transformers(config: Mapping[str, Any], name: str = "custom") -> Architecture:
    """The architecture that the config of transformers' ``CLIPModel`` describes (``config.json``).

    Raises:
        ArchitectureError: another model, a value that is none, or a part that the towers do not have.

    >>> arch = architecture_from_transformers({"vision_config": {}, "text_config": {}})
    >>> arch.act_fn, arch.vision.grid, arch.text.n_ctx
    ('quick_gelu', (7, 7), 77)
    """
    kind = config.get("model_type", "clip")
    if kind != "clip":
        raise ArchitectureError(f"{name} is a {kind} of transformers; the towers follow its clip, CLIPModel")
    parts = [config.get(f"{part}_config_dict") or config.get(f"{part}_config") or {} for part in ("vision", "text")]
    if not all(isinstance(part, Mapping) for part in parts):
        raise ArchitectureError(f"{name}: vision_config and text_config are not tables")
    v: dict[str, Any] = {key: default for key, _, default, _ in _TRANSFORMERS} | _VISION_ALONE
    t: dict[str, Any] = {key: default for key, _, _, default in _TRANSFORMERS} | _TEXT_ALONE
    counted = {*v, *t} - {"hidden_act", "layer_norm_eps", "eos_token_id"}
    v, t = v | dict(parts[0]), t | dict(parts[1])
    sizes = {f"{part}.{key}": of[key] for part, of in (("vision", v), ("text", t)) for key in of if key in counted}
    sizes["projection_dim"] = config.get("projection_dim", 512)
    if odd := [key for key, value in sizes.items() if type(value) is not int or not 0 < value <= _LARGEST]:
        raise ArchitectureError(f"{name}: {odd[0]} is {sizes[odd[0]]!r}; expected a whole number from 1 to {_LARGEST}")
    acts, eps = (v["hidden_act"], t["hidden_act"]), (v["layer_norm_eps"], t["layer_norm_eps"])
    if len(set(map(str, acts))) > 1 or acts[0] not in ("gelu", "quick_gelu"):
        raise ArchitectureError(f"{name}: activations are {acts[0]!r} and {acts[1]!r}; both must be gelu or quick_gelu")
    if not all(isinstance(number, float) and 0 < number < 1 for number in eps):
        raise ArchitectureError(f"{name}: layer_norm_eps is {eps[0]!r} and {eps[1]!r}; expected small numbers")
    if v["num_channels"] != 3:
        raise ArchitectureError(f"{name}: images of {v['num_channels']} channels; the tower reads 3")
    last = t["vocab_size"] - 1
    if (end := t["eos_token_id"]) not in (_OLD_EOS, last):
        raise ArchitectureError(f"{name}: prompts end with token {end}; the tower reads them at the highest, {last}")

    def shared(part: Mapping[str, Any]) -> dict[str, Any]:
        return {ours: part[key] for key, ours, *_ in _TRANSFORMERS} | {"d_embed": sizes["projection_dim"]}

    size = (v["image_size"], v["image_size"])
    return Architecture(
        name,
        VisionConfig(**shared(v), patch_size=v["patch_size"], image_size=size),
        TextConfig(**shared(t), n_ctx=t["max_position_embeddings"], d_vocab=t["vocab_size"]),
    )


def _filled(config: Mapping[str, Any], plain: str, known: set[str]) -> tuple[SimpleNamespace, list[str]]:
    """A config with the defaults of open_clip's class ``plain``, and the parts in it that the towers do not have.

    One that says all and nothing else is read without importing open_clip, which takes seconds.
    """
    defaults: dict[str, Any] = {}
    if config.keys() - known or not known - {"patch_dropout"} <= config.keys():
        import open_clip.model

        defaults = {field.name: field.default for field in dataclasses.fields(getattr(open_clip.model, plain))}
    others = {key: value for key, value in config.items() if key not in known}
    beyond = {key: value for key, value in others.items() if value != defaults.get(key, dataclasses.MISSING)}
    names = [_WHY.get(key, f"{key}={value!r}") for key, value in beyond.items()]
    return SimpleNamespace(**defaults | dict(config)), names


def check_blocks(blocks: Iterable[int], n_layers: int, what: str) -> None:
    """Raises ShapeError unless every block number lies in 0..n_layers-1."""
    if wrong := [block for block in blocks if not 0 <= block < n_layers]:
        raise ShapeError(f"{what}: block {wrong[0]} does not exist; blocks are 0..{n_layers - 1}")
