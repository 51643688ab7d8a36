"""Where weights come from: a name, a tag, a file or a folder, the hub; and whether they belong to an architecture."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from math import isqrt
from pathlib import Path
from typing import Any

from torch import Tensor

from headlens.backbone import embedded
from headlens.backbone.checkpoint import Checkpoint, read_checkpoint
from headlens.backbone.config import Activation, Architecture, PositionRule, architecture
from headlens.backbone.described import Description, deduced, described, differing, weight_file
from headlens.backbone.layouts import Names
from headlens.backbone.vision import resized_positions
from headlens.errors import ArchitectureError, CheckpointError, DownloadError
from headlens.printing import brief

ACTIVATIONS = ("GELU", "QuickGELU")
_POSITIONS = "visual.positional_embedding"
_ENLARGED = 256  # times as many positions as a file has: a config that asks for more is damaged


@dataclass(frozen=True)
class Weights:
    """Weights that were found for an architecture, and what is known of them.

    Args:
        state: by open_clip's names, as ``arch`` has them; None for random ones.
        names: what their file calls them.
        label: how people are told of them.
        sha256: of their file.
        recipe: of the images that they want.
        act_fn_known: whether anything says that their activation is the architecture's.
        positions_from: the grid of patches that their positions were made for, where that was another.
        path: of a local file.
    """

    arch: Architecture
    state: Mapping[str, Tensor] | None
    label: str
    names: Names = field(default_factory=Names)
    sha256: str | None = None
    recipe: Mapping[str, Any] = field(default_factory=dict)
    act_fn_known: bool = True
    positions_from: tuple[int, int] | None = None
    path: Path | None = None


def find_weights(
    name: str | Path,
    pretrained: str | Path | None = None,
    *,
    position_rule: PositionRule = "bicubic",
    act_fn: Activation | None = None,
    because: str | None = None,
    seed: int = 0,
    cache_dir: str | Path | None = None,
) -> Weights:
    """What ``load`` makes a backbone of; arguments and errors as there."""
    ruled = partial(_ruled, rule=position_rule, act_fn=act_fn, because=because)
    alone = Path(name).expanduser()
    if pretrained is None and alone.exists() and not (str(name) in embedded.NAMES or _in_open_clip(str(name))):
        file = weight_file(alone)
        about = described(file)
        if about is None or about.arch is None:
            what = f"no config next to {file} says which architecture it is for"
            raise ArchitectureError(f"{what}: load(NAME, {str(name)!r}), with open_clip's name of it")
        named = deduced(about)
        arch = replace(about.arch, name=alone.name) if named is None else architecture(named)
        return _of_file(ruled(arch), file, about, act_fn)
    name, tag = str(name), str(pretrained)
    path = None if pretrained is None else Path(pretrained).expanduser()
    if path is not None and path.exists() and not (path.is_dir() and _is_tag(name, tag)):
        file = weight_file(path)
        about = described(file)
        return _of_file(ruled(_named(name, about)), file, about, act_fn)
    arch = ruled(architecture(name))
    if path is not None:
        recipe = tag_config(name, tag)
        check_activation(arch, bool(recipe.get("quick_gelu")), f"the pretrained tag {tag!r}")
        return _fitted(arch, read_checkpoint(download(name, tag, cache_dir)), tag, recipe)
    if name not in embedded.NAMES:
        return Weights(arch, None, f"random (seed {seed})")
    checkpoint = read_checkpoint(embedded.weights(name))
    if checkpoint.sha256 != embedded.SHA256[name]:
        what = f"{embedded.weights(name)} is not the file that headlens ships (SHA-256 {checkpoint.sha256})"
        raise CheckpointError(f"{what}: install headlens again")
    return _fitted(arch, checkpoint, embedded.TRAINED_ON[name], embedded.config(name)["preprocess_cfg"])


def _named(name: str, about: Description | None) -> Architecture:
    """The architecture of that name, of open_clip's or of the config's; the two must be one if both say it."""
    try:
        arch = architecture(name)
    except ArchitectureError:
        if about is None or about.arch is None or _in_open_clip(name):
            raise
        return replace(about.arch, name=name)
    if about is not None and about.arch is not None and (odd := differing(arch, about.arch)):
        what, ours, theirs = odd[0]
        way = f": load {other!r} instead" if (other := deduced(about)) else ""
        raise ArchitectureError(f"{about.path} has {what} {theirs}, {name} has {ours}{way}")
    return arch


def _ruled(
    arch: Architecture, rule: PositionRule, act_fn: Activation | None, because: str | None = None
) -> Architecture:
    """With that rule of positions, and what the caller says of its activation: to be checked, or with a reason."""
    if act_fn not in (None, "gelu", "quick_gelu"):
        raise ArchitectureError(f"act_fn is {act_fn!r}; there are 'gelu' and 'quick_gelu'")
    if because is not None:
        if act_fn is None or not isinstance(because, str) or not because.strip():
            given = f"act_fn is {act_fn!r} and because is {because!r}"
            raise ArchitectureError(f"{given}; an activation whatever the weights say has a name and a reason in words")
        arch = arch.computing(act_fn, because.strip())
    elif act_fn is not None:
        check_activation(arch, act_fn == "quick_gelu", f"act_fn={act_fn!r}")
    return replace(arch, vision=replace(arch.vision, position_rule=rule))


def _of_file(arch: Architecture, path: Path, about: Description | None, act_fn: Activation | None) -> Weights:
    """Weights of a local file, under everything that says which activation and which images they were trained with."""
    known = act_fn is not None or about is not None or arch.name.endswith("-quickgelu")
    recipe: Mapping[str, Any] = {}
    if about is not None:
        recipe = about.recipe
        check_activation(arch, about.quick, f"{path.name}, by {about.path.name} next to it,")
    checkpoint = read_checkpoint(path)
    shipped = {digest: name for name, digest in embedded.SHA256.items()}.get(checkpoint.sha256, arch.name)
    if shipped != arch.name and arch.name in embedded.NAMES:  # of one shape: nothing else would tell them apart
        raise CheckpointError(f"{path} holds the weights of {shipped}, not of {arch.name}: load {shipped!r} instead")
    tag = published_as(arch.name, checkpoint.sha256)
    if tag is not None:
        recipe, known = tag_config(arch.name, tag), True
        check_activation(arch, bool(recipe.get("quick_gelu")), f"{path.name}, published as {tag!r},")
    elif checkpoint.openai:
        known = True
        check_activation(arch, True, f"{path.name}, which has the marks of OpenAI's weights,")
    trained = (0, 0) if about is None or about.arch is None else about.arch.vision.grid
    return replace(_fitted(arch, checkpoint, path.name, recipe, trained), act_fn_known=known, path=path)


def _fitted(
    arch: Architecture, checkpoint: Checkpoint, label: str, recipe: Mapping[str, Any], trained: tuple[int, int] = (0, 0)
) -> Weights:
    """A checkpoint with its positions for the architecture's grid of patches, as open_clip loads it.

    Its positions are those of the grid ``trained`` of its config or, where they are not as many, of a square.
    """
    state, grid = dict(checkpoint.state), arch.vision.grid
    positions, resized = state.get(_POSITIONS), None
    if positions is not None and positions.ndim == 2 and len(positions) != 1 + grid[0] * grid[1]:
        side = isqrt(max(0, len(positions) - 1))
        grids = [(r, c) for r, c in (trained, (side, side)) if r * c and len(positions) == 1 + r * c]
        patches, named = f"{grid[0]} x {grid[1]} patches", f"{label}: {checkpoint.names.of(_POSITIONS)}"
        if not grids or not positions.is_floating_point():
            ways = f"neither CLS and the {patches} of {arch.name}, nor CLS and a square of patches"
            raise CheckpointError(f"{named} has {len(positions)} positions, which are {ways}")
        resized = grids[0]
        if grid[0] * grid[1] > _ENLARGED * len(positions):
            which = f"{checkpoint.names.of(_POSITIONS)} is for {resized[0]} x {resized[1]}"
            raise CheckpointError(f"{label}: {arch.name} has {patches}, {which}: too few to resize")
        state[_POSITIONS] = resized_positions(positions.float(), resized, grid, arch.vision.position_rule)
    return Weights(arch, state, label, checkpoint.names, checkpoint.sha256, recipe, positions_from=resized)


def check_activation(arch: Architecture, trained_quick: bool, what: str) -> None:
    """Raises ArchitectureError where ``what`` was trained with the other activation, but for a reason."""
    if arch.because or trained_quick == (arch.act_fn == "quick_gelu"):
        return
    way = f": load {other!r} instead" if (other := twin(arch.name)) else ""
    needed, computed = ACTIVATIONS[trained_quick], ACTIVATIONS[not trained_quick]
    raise ArchitectureError(f"{what} needs {needed}, {arch.name} computes {computed}{way}")


def _is_tag(name: str, tag: str) -> bool:
    """Whether it is published under that tag: a folder of that name is then not meant."""
    import open_clip

    return bool(open_clip.get_pretrained_cfg(name, tag))


def _in_open_clip(name: str) -> bool:
    import open_clip

    return name in open_clip.list_models()


def twin(name: str) -> str | None:
    """The architecture that differs in its activation alone, where open_clip has it."""
    other = name.removesuffix("-quickgelu") if name.endswith("-quickgelu") else f"{name}-quickgelu"
    return other if _in_open_clip(other) else None


# Published weights by tag, through open_clip's registry and the Hugging Face hub.
def tag_config(name: str, tag: str) -> dict[str, Any]:
    """What open_clip knows of one tag: where it lies, its activation, its image statistics.

    Raises:
        CheckpointError: no such tag for that architecture; the message lists those there are.
    """
    import open_clip

    if config := open_clip.get_pretrained_cfg(name, tag):
        return dict(config)
    if Path(tag).suffix or len(Path(tag).parts) > 1:
        raise CheckpointError(f"no weight file at {tag}")
    tags = open_clip.list_pretrained_tags_by_model(name)
    near = difflib.get_close_matches(tag, tags, n=3)
    what = f"{name} has no pretrained tag {tag!r}" + (f" (near it: {', '.join(near)})" if near else "")
    raise CheckpointError(f"{what}, and no such file exists; tags: {', '.join(tags) or 'none'}")


def sought(name: str, tag: str) -> tuple[str, tuple[str, ...]]:
    """The hub repository of a tag, and the names that its weight file may have there.

    Raises:
        CheckpointError: as ``tag_config``.

    >>> sought("ViT-B-32-quickgelu", "openai")
    ('timm/vit_base_patch32_clip_224.openai', ('open_clip_model.safetensors', 'open_clip_pytorch_model.bin'))
    """
    repository, filename = tag_config(name, tag)["hf_hub"].rsplit("/", 1)
    return repository, (filename,) if filename else ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")


def cached(name: str, tag: str, cache_dir: str | Path | None = None) -> Path | None:
    """The weight file of a tag if it is on this machine, in the local hub cache. Asks nothing of the network."""
    from huggingface_hub import try_to_load_from_cache

    repository, files = sought(name, tag)
    paths = (try_to_load_from_cache(repository, file, cache_dir=cache_dir) for file in files)
    return next((Path(path) for path in paths if isinstance(path, str)), None)


def download(name: str, tag: str, cache_dir: str | Path | None = None) -> Path:
    """The weight file of a tag, from the local hub cache or, with a progress bar, from the hub.

    Raises:
        DownloadError: within seconds where there is no network; the message names the local-file way.
    """
    from huggingface_hub import hf_hub_download

    if here := cached(name, tag, cache_dir):
        return here
    repository, candidates = sought(name, tag)
    file = None
    try:
        file = next((c for c in candidates if _exists(repository, c)), candidates[0])
        return Path(hf_hub_download(repository, file, cache_dir=cache_dir))
    except Exception as error:  # the hub's client raises whatever its transport does
        if file is not None:
            raise DownloadError(f"{file} of {repository} could not be fetched and stored: {brief(error)}") from error
        what = f"the weights {tag!r} of {name} are not on this machine, and {repository} cannot be reached"
        way = f"fetch {candidates[0]} from that repository; then load({name!r}, pretrained='path/to/{candidates[0]}')."
        raise DownloadError(f"{what} ({brief(error)}). Where there is a network, {way}") from error


def _exists(repository: str, filename: str) -> bool:
    """One question with a short patience: the hub's client asks five times over half a minute."""
    from huggingface_hub import get_session, hf_hub_url
    from huggingface_hub.utils import build_hf_headers

    answer = get_session().head(hf_hub_url(repository, filename), headers=build_hf_headers(), timeout=5.0)
    return answer.status_code < 400


def published_as(name: str, sha256: str) -> str | None:
    """The tag under which a file with this hash was published for an architecture, where its address tells the hash."""
    import open_clip

    for tag in open_clip.list_pretrained_tags_by_model(name):
        url = tag_config(name, tag).get("url")  # open_clip 4 lists hub repositories alone
        # OpenAI's addresses end in <sha256>/<file>, open_clip's file names in -<first 8 digits>.pt
        if url and (sha256 in url or Path(url).stem.rsplit("-", 1)[-1] == sha256[:8]):
            return tag
    return None
