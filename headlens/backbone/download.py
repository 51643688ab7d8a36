"""Published weights by tag, through open_clip's registry and the Hugging Face hub."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

from headlens.errors import CheckpointError, DownloadError
from headlens.printing import brief

_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
_PATIENCE = 5.0  # seconds to wait for the hub's first answer

PLAIN = {"mean": (0.48145466, 0.4578275, 0.40821073), "std": (0.26862954, 0.26130258, 0.27577711)}
"""CLIP's own image statistics, used where a tag names no others."""


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
    return repository, (filename,) if filename else _FILES


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
        raise DownloadError(
            f"the weights {tag!r} of {name} are not on this machine, and {repository} cannot be reached "
            f"({brief(error)}). Where there is a network, fetch {candidates[0]} from that repository; then "
            f"load({name!r}, pretrained='path/to/{candidates[0]}')."
        ) from error


def _exists(repository: str, filename: str) -> bool:
    """One question with a short patience: the hub's client asks five times over half a minute."""
    from huggingface_hub import get_session, hf_hub_url
    from huggingface_hub.utils import build_hf_headers

    answer = get_session().head(hf_hub_url(repository, filename), headers=build_hf_headers(), timeout=_PATIENCE)
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
