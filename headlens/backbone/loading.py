"""``load``: a CLIP by name, with published weights, from a local file or folder, or with random weights."""

from __future__ import annotations

import gzip
import warnings
from collections.abc import Callable, Mapping
from functools import cache, partial
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from headlens.backbone.checkpoint import NOT_WEIGHTS
from headlens.backbone.clip import Backbone, Provenance, init_random
from headlens.backbone.config import Activation, Architecture, PositionRule
from headlens.backbone.layouts import Names, replaced
from headlens.backbone.weights import ACTIVATIONS, find_weights, twin
from headlens.devices import device_of
from headlens.errors import CheckpointError, HeadlensWarning, ShapeError

_CLIP_VOCABULARY = 49408
_RENAMED = (
    ("transformer.resblocks.", "blocks."),
    (".ln_1.", ".ln1."),
    (".ln_2.", ".ln2."),
    (".attn.in_proj_", ".attn.qkv."),
    (".attn.out_proj.", ".attn.out."),
    (".mlp.c_fc.", ".mlp.fc."),
    (".mlp.c_proj.", ".mlp.proj."),
    ("ln_post.", "ln_final."),
    ("text_projection", "proj"),
)


def load(
    name: str | Path,
    pretrained: str | Path | None = None,
    image_size: int | tuple[int, int] | None = None,
    *,
    position_rule: PositionRule = "bicubic",
    act_fn: Activation | None = None,
    because: str | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    cache_dir: str | Path | None = None,
) -> Backbone:
    """A CLIP by its open_clip name, frozen and in eval mode.

    Args:
        name: ``"mini"`` or ``"mini-captions"``, the embedded backbones, which need no network and have seen procedural
            images only, the first with masks of anomalies, the second with sentences; or a plain ViT of open_clip:
            ViT-B-32, ViT-B-16, ViT-B-16-plus-240, ViT-L-14, ViT-L-14-336, their ``-quickgelu`` forms, and their kin.
            OpenAI's weights need the ``-quickgelu`` form. Or a folder or file with a config, as written by transformers
            or open_clip, without ``pretrained``.
        pretrained: a tag of open_clip (downloaded once, with a progress bar); or a local file: safetensors, open_clip's
            .pt/.bin, OpenAI's archive, with open_clip's names or those of transformers' ``CLIPModel``; or a folder with
            such a file in it; or None for random weights (for an embedded backbone, its weights). Positions for another
            image size are resized as in open_clip.
        image_size: the size that ``preprocess`` resizes to, a square or (height, width); the trained size when None.
            The vision tower takes any size.
        position_rule: how positions are resized: ``"bicubic"`` with antialiasing, as in open_clip; ``"bicubic-plain"``
            without, as in AdaCLIP; or ``"bilinear"`` without, as in AnomalyCLIP and related methods.
        act_fn: the activation the weights were trained with, ``"gelu"`` or ``"quick_gelu"``, if nothing else records
            it. It must match the name of the architecture.
        because: a reason for using ``act_fn`` whatever name and weights say. Some published methods were trained like
            that, with plain GELU on OpenAI's weights. The provenance and displays of the backbone repeat it.
        device, dtype: of the weights.
        seed: seed of random weights.
        cache_dir: of the Hugging Face hub.

    Warns:
        HeadlensWarning: the activation of the weights is unknown, and the name decides.

    Raises:
        ArchitectureError: an unknown name, a model that the towers cannot reproduce, weights of another activation
            without a reason, or a reason without an activation.
        CheckpointError: a file that is missing, broken, unsafe or of another shape.
        DownloadError: a tag that is not on this machine and cannot be downloaded.
        ConfigError: a device that does not exist on this machine.

    >>> load("ViT-S-32").provenance.weights
    'random (seed 0)'
    """
    device = device_of(device)
    rules: dict[str, Any] = {"position_rule": position_rule, "act_fn": act_fn, "because": because}
    weights = find_weights(name, pretrained, **rules, seed=seed, cache_dir=cache_dir)
    arch, rule = weights.arch, weights.arch.vision.position_rule
    size = arch.vision.image_size if image_size is None else image_size
    height, width = (size, size) if isinstance(size, int) else size
    if min(height, width) < arch.vision.patch_size:
        raise ShapeError(f"image_size {height}x{width} is smaller than one patch of {arch.vision.patch_size} px")
    source = (arch.name, weights.label, weights.sha256, arch.act_fn, weights.act_fn_known, rule)
    provenance = Provenance(*source, (height, width), weights.positions_from, arch.because)
    options: dict[str, Any] = {"recipe": weights.recipe, "device": device, "dtype": dtype, "seed": seed}
    try:
        backbone = assemble(arch, weights.state, provenance, names=weights.names, **options)
    except CheckpointError as error:
        raise CheckpointError(f"{weights.path or weights.label}: {error}") from None
    if not weights.act_fn_known:
        computed, other = ACTIVATIONS[arch.act_fn == "quick_gelu"], ACTIVATIONS[arch.act_fn != "quick_gelu"]
        other_name = twin(arch.name)
        way = f"load {other_name!r} for {other}" if other_name else f"no name of open_clip's has it with {other}"
        warnings.warn(
            f"it is unknown which activation {weights.label} was trained with: {arch.name} computes {computed}, "
            "weights "
            f"fine-tuned from OpenAI's need QuickGELU; {way}, or pass act_fn={arch.act_fn!r} if it is right",
            HeadlensWarning,
            stacklevel=2,
        )
    return backbone


def assemble(
    arch: Architecture,
    state: Mapping[str, Tensor] | None,
    provenance: Provenance | None = None,
    *,
    recipe: Mapping[str, Any] | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    names: Names | None = None,
) -> Backbone:
    """A backbone from an architecture and a state dict with open_clip's names (None: random weights).

    Args:
        arch: from ``architecture`` or ``architecture_from_config``.
        state: for instance ``model.state_dict()`` of an open_clip model.
        provenance: what results will say made them.
        recipe: ``mean``, ``std``, ``interpolation`` of the preprocessing; CLIP's own by default.
        device, dtype, seed: as in ``load``.
        names: what the state's file calls its weights, where it is open_clip's names no more.

    Raises:
        CheckpointError: naming tensors that are missing, unknown, or of another shape.
    """
    given = f"random (seed {seed})" if state is None else "state dict"
    provenance = provenance or Provenance(
        arch.name,
        given,
        None,
        arch.act_fn,
        state is None or bool(arch.because),
        arch.vision.position_rule,
        arch.vision.image_size,
        because=arch.because,
    )
    with torch.device("meta"):  # nothing is allocated, or initialised for nothing, before the weights are there
        preprocess = partial(_preprocess, provenance.image_size, recipe or {})
        backbone = Backbone(arch, provenance, partial(_tokenizer, arch.text.n_ctx, arch.text.d_vocab), preprocess)
    backbone = backbone.to(dtype)
    if state is None:
        backbone = backbone.to_empty(device=device_of(device))
        init_random(backbone, seed)
    else:
        weights = [key for key in state if key not in NOT_WEIGHTS]
        theirs = {tower_name(key): key for key in weights}
        if twice := [key for key in weights if theirs[tower_name(key)] != key]:
            raise CheckpointError(f"{twice[0]} and {theirs[tower_name(twice[0])]} are two names for one weight")
        _check_state(backbone, state, theirs, arch.name, names or Names())
        device = device_of(device)
        # Copies: the caller's model, or the file that safetensors maps, may change without the backbone changing.
        fitted = {ours: state[key].detach().to(device, dtype, copy=True).contiguous() for ours, key in theirs.items()}
        backbone.load_state_dict(fitted, assign=True)
    return backbone.requires_grad_(False).eval()


def tower_name(key: str) -> str:
    """open_clip's parameter name to ours."""
    if key.startswith("visual."):
        key = "vision." + key.removeprefix("visual.")
    elif key != "logit_scale":
        key = "text." + key
    return replaced(key, _RENAMED)


def open_clip_name(ours: str) -> str:
    """Our parameter name to open_clip's.

    >>> open_clip_name("vision.blocks.3.attn.qkv.weight"), open_clip_name("text.proj")
    ('visual.transformer.resblocks.3.attn.in_proj_weight', 'text_projection')
    """
    tower, _, name = ours.partition(".")
    if (tower, name) == ("text", "proj"):
        return "text_projection"
    back = [(new, old) for old, new in _RENAMED if new != "proj" and (new != "ln_final." or tower == "vision")]
    return {"vision": "visual.", "text": ""}[tower] + replaced(name, back) if name else ours


def _check_state(
    backbone: Backbone, state: Mapping[str, Tensor], theirs: Mapping[str, str], name: str, names: Names
) -> None:
    """Strict: the same names (``theirs``: ours to open_clip's), the same shapes, finite floating point."""
    ours = backbone.state_dict()
    missing = [names.of(open_clip_name(key)) for key in ours if key not in theirs]
    unknown = [names.of(theirs[key]) for key in theirs if key not in ours]
    wrong = [
        f"{names.of(theirs[key])} is {tuple(state[theirs[key]].shape)}, expected {tuple(value.shape)}"
        for key, value in ours.items()
        if key in theirs and state[theirs[key]].shape != value.shape
    ]
    wrong += [f"{names.of(key)} is {state[key].dtype}" for key in theirs.values() if not state[key].is_floating_point()]
    if parts := [
        f"{len(keys)} {what} ({'; '.join(sorted(keys)[:3])}{'; …' if len(keys) > 3 else ''})"
        for what, keys in (("of another shape or type", wrong), ("missing", missing), ("unknown", unknown))
        if keys
    ]:
        headlens_names = any(key.startswith("vision.blocks.") for key in unknown)
        hint = " These are a headlens state dict's names: give it to load_state_dict." if headlens_names else ""
        raise CheckpointError(f"the weights do not fit {name}: {', '.join(parts)}.{hint}")
    if broken := [names.of(key) for key in theirs.values() if not _finite(state[key])]:
        raise CheckpointError(f"the weights of {name} hold NaN or infinity in {', '.join(broken[:3])}")


def _finite(weight: Tensor) -> bool:
    """By its extremes, which are NaN where there is one: isfinite() of everything takes ten times as long."""
    return bool(torch.stack(weight.aminmax()).isfinite().all())


@cache
def _tokenizer(n_ctx: int, d_vocab: int) -> Callable[..., Tensor]:
    """CLIP's BPE at the tower's context length; for a smaller vocabulary, its first merges only.

    Every sentence can still be said: a rare word is spelt in more, shorter pieces.
    """
    from open_clip.tokenizer import SimpleTokenizer, default_bpe

    if d_vocab >= _CLIP_VOCABULARY:
        return SimpleTokenizer(context_length=n_ctx)
    merges = gzip.decompress(Path(default_bpe()).read_bytes()).split(b"\n")
    first = merges[: 1 + d_vocab - 514]  # a comment; 2 x 256 bytes and 2 special tokens are no merges
    return SimpleTokenizer(bpe_path=BytesIO(gzip.compress(b"\n".join(first))), context_length=n_ctx)


def _preprocess(size: tuple[int, int], recipe: Mapping[str, Any]) -> Callable[[Any], Tensor]:
    """PIL image to [3, h, w]: the whole image resized to ``size``, aspect ratio not kept, as the field does."""
    from open_clip.transform import PreprocessCfg, image_transform_v2

    given = {key: recipe[key] for key in ("mean", "std", "interpolation") if key in recipe}
    config = PreprocessCfg(size=size, resize_mode="squash", **given)
    return image_transform_v2(config, is_train=False)
