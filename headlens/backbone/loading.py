"""``load``: a CLIP by name, from published weights, a local file, or nothing (random weights)."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache, partial
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from headlens.backbone import embedded
from headlens.backbone.checkpoint import NOT_WEIGHTS, Checkpoint, read_checkpoint
from headlens.backbone.clip import Backbone, Provenance, init_random
from headlens.backbone.config import Architecture, PositionRule, architecture
from headlens.backbone.download import PLAIN, download, published_as, tag_config
from headlens.devices import device_of
from headlens.errors import ArchitectureError, CheckpointError, ShapeError

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
    name: str,
    pretrained: str | Path | None = None,
    image_size: int | tuple[int, int] | None = None,
    *,
    position_rule: PositionRule = "bicubic",
    device: str | torch.device | None = None,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    cache_dir: str | Path | None = None,
) -> Backbone:
    """A CLIP by its open_clip name, frozen and in eval mode.

    Args:
        name: ``"mini"``, the embedded backbone, which needs no network and has seen procedural images only; or
            a plain ViT of open_clip: ViT-B-32, ViT-B-16, ViT-B-16-plus-240, ViT-L-14,
            ViT-L-14-336, their ``-quickgelu`` forms, and their kin. OpenAI's weights need the ``-quickgelu`` form.
        pretrained: a tag of open_clip (downloaded once, with a progress bar); or a local file: safetensors, open_clip's
            .pt/.bin, or OpenAI's archive; or None for random weights, which say nothing about any image (of an
            embedded backbone, its own weights).
        image_size: what ``preprocess`` resizes to, as a square or (height, width); the trained size when None. The
            vision tower itself takes any size.
        position_rule: how positions reach other sizes: ``"bicubic"`` with antialias, as open_clip does, or
            ``"bilinear"`` without, as AnomalyCLIP and its family do.
        device, dtype: where, and in which precision.
        seed: of random weights.
        cache_dir: of the Hugging Face hub.

    Raises:
        ArchitectureError: an unknown name, a model the towers cannot be true to, or weights of the other activation.
        CheckpointError: a file that is missing, broken, unsafe or of another shape.
        DownloadError: a tag that is not on this machine, and no network.
        ConfigError: a device that does not exist, or that this machine has not.

    >>> load("ViT-S-32").provenance.weights
    'random (seed 0)'
    """
    device, arch = device_of(device), architecture(name)
    arch = replace(arch, vision=replace(arch.vision, position_rule=position_rule))
    recipe: Mapping[str, Any] = {}
    checkpoint: Checkpoint | None = None
    known = True
    weights = f"random (seed {seed})"
    if pretrained is None and name in embedded.NAMES:
        checkpoint = read_checkpoint(embedded.weights(name))
        recipe = embedded.config(name)["preprocess_cfg"]
        weights = "embedded, trained on procedural images only"
    elif pretrained is not None:
        path = Path(pretrained).expanduser()
        if path.is_file():
            weights = path.name
        else:
            weights = str(pretrained)
            recipe = tag_config(name, weights)
            _check_activation(arch, bool(recipe.get("quick_gelu")), f"the pretrained tag {weights!r}")
            path = download(name, weights, cache_dir)
        checkpoint = read_checkpoint(path)
        if not recipe:
            recipe, known = _recipe_of_file(arch, path, checkpoint)
    size = arch.vision.image_size if image_size is None else image_size
    height, width = (size, size) if isinstance(size, int) else size
    if min(height, width) < arch.vision.patch_size:
        raise ShapeError(f"image_size {height}x{width} is smaller than one patch of {arch.vision.patch_size} px")
    provenance = Provenance(
        name,
        weights,
        checkpoint.sha256 if checkpoint else None,
        arch.act_fn,
        checkpoint is None or known,
        arch.vision.position_rule,
        (height, width),
    )
    state = checkpoint.state if checkpoint else None
    return assemble(arch, state, provenance, recipe=recipe, device=device, dtype=dtype, seed=seed)


def assemble(
    arch: Architecture,
    state: Mapping[str, Tensor] | None,
    provenance: Provenance | None = None,
    *,
    recipe: Mapping[str, Any] | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> Backbone:
    """A backbone from an architecture and a state dict with open_clip's names (None: random weights).

    Args:
        arch: from ``architecture`` or ``architecture_from_config``.
        state: for instance ``model.state_dict()`` of an open_clip model.
        provenance: what results will say made them.
        recipe: ``mean``, ``std``, ``interpolation`` of the preprocessing; CLIP's own by default.
        device, dtype, seed: as in ``load``.

    Raises:
        CheckpointError: naming tensors that are missing, unknown, or of another shape.
    """
    given = f"random (seed {seed})" if state is None else "state dict"
    provenance = provenance or Provenance(
        arch.name, given, None, arch.act_fn, state is None, arch.vision.position_rule, arch.vision.image_size
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
        _check_state(backbone, state, theirs, arch.name)
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
    for old, new in _RENAMED:
        key = key.replace(old, new)
    return key


def _check_state(backbone: Backbone, state: Mapping[str, Tensor], theirs: Mapping[str, str], name: str) -> None:
    """Strict: the same names (``theirs``: ours to open_clip's), the same shapes, finite floating point."""
    ours = backbone.state_dict()
    missing, unknown = sorted(ours.keys() - theirs.keys()), sorted(theirs[key] for key in theirs.keys() - ours.keys())
    wrong = [
        f"{theirs[key]} is {tuple(state[theirs[key]].shape)}, expected {tuple(value.shape)}"
        for key, value in ours.items()
        if key in theirs and state[theirs[key]].shape != value.shape
    ]
    wrong += [f"{key} is {state[key].dtype}" for key in theirs.values() if not state[key].is_floating_point()]
    if not (missing or unknown or wrong):
        broken = [key for key in theirs.values() if not state[key].isfinite().all()]
        if broken:
            raise CheckpointError(f"the weights of {name} hold NaN or infinity in {', '.join(broken[:3])}")
        return
    parts = [
        f"{len(keys)} {what} ({'; '.join(keys[:3])}{'; …' if len(keys) > 3 else ''})"
        for what, keys in (("of another shape or type", wrong), ("missing", missing), ("unknown", unknown))
        if keys
    ]
    hint = ""
    if any(key.startswith("vision_model.") for key in unknown):
        hint = " These are transformers' names; headlens reads open_clip's."
    elif any(key.startswith("vision.blocks.") for key in unknown):
        hint = " These are a headlens state dict's names: give it to load_state_dict."
    raise CheckpointError(f"the weights do not fit {name}: {', '.join(parts)}.{hint}")


def _recipe_of_file(arch: Architecture, path: Path, checkpoint: Checkpoint) -> tuple[dict[str, Any], bool]:
    """Preprocessing that goes with a local file, as far as anything tells, and whether its activation is known."""
    tag = published_as(arch.name, checkpoint.sha256)
    if tag is not None:
        recipe = tag_config(arch.name, tag)
        _check_activation(arch, bool(recipe.get("quick_gelu")), f"{path.name}, published as {tag!r},")
        return recipe, True
    if checkpoint.openai:
        _check_activation(arch, True, f"{path.name}, which has the marks of OpenAI's weights,")
        return {}, True
    beside = path.with_name("open_clip_config.json")
    if not beside.is_file():
        return {}, False
    try:
        config = json.loads(beside.read_text())
        quick, recipe = bool(config["model_cfg"].get("quick_gelu")), dict(config.get("preprocess_cfg", {}))
        for key in ("mean", "std"):
            if key in recipe:
                recipe[key] = tuple(float(number) for number in recipe[key])
                if len(recipe[key]) != 3:
                    raise ValueError(f"{key} is {recipe[key]}")
        if recipe.get("interpolation", "bicubic") not in ("bicubic", "bilinear"):
            raise ValueError(f"interpolation is {recipe['interpolation']}")
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{beside} is no open_clip config: {error!r}") from error
    _check_activation(arch, quick, f"{path.name}, by {beside.name} beside it,")
    return recipe, True


def _check_activation(arch: Architecture, trained_quick: bool, what: str) -> None:
    if trained_quick == (arch.act_fn == "quick_gelu"):
        return
    import open_clip

    other = arch.name.removesuffix("-quickgelu") if arch.name.endswith("-quickgelu") else f"{arch.name}-quickgelu"
    trained, built = ("QuickGELU", "GELU") if trained_quick else ("GELU", "QuickGELU")
    way = f": load {other!r} instead" if other in open_clip.list_models() else ""
    raise ArchitectureError(f"{what} needs {trained}, {arch.name} computes {built}{way}")


@cache
def _tokenizer(n_ctx: int, d_vocab: int) -> Callable[..., Tensor]:
    """CLIP's BPE at the tower's context length; for a smaller vocabulary, its first merges only.

    Every sentence can still be said: a rare word is spelt in more, shorter pieces.
    """
    from open_clip.tokenizer import SimpleTokenizer, default_bpe

    if d_vocab >= _CLIP_VOCABULARY:
        return SimpleTokenizer(context_length=n_ctx)
    merges = gzip.decompress(Path(default_bpe()).read_bytes()).split(b"\n")
    kept = merges[: 1 + d_vocab - 514]  # a comment; 2 x 256 bytes and 2 special tokens are no merges
    file = BytesIO(gzip.compress(b"\n".join(kept)))
    return SimpleTokenizer(bpe_path=file, context_length=n_ctx)


def _preprocess(size: tuple[int, int], recipe: Mapping[str, Any]) -> Callable[[Any], Tensor]:
    """PIL image to [3, h, w]: the whole image resized to ``size``, aspect ratio not kept, as the field does."""
    from open_clip.transform import PreprocessCfg, image_transform_v2

    kept = {key: recipe[key] for key in ("mean", "std", "interpolation") if key in recipe}
    return image_transform_v2(PreprocessCfg(**{**PLAIN, **kept, "size": size, "resize_mode": "squash"}), is_train=False)
