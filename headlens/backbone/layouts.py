"""Names of weights: whatever a file calls them, and what open_clip calls them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from headlens.errors import CheckpointError

_WRAPPERS = ("module.", "_orig_mod.", "model.", "clip.")
"""What training scripts, compilers and larger models put before every name."""
_TOWERS = {"vision_model.": "visual.", "text_model.": ""}
_PARTS = (  # of both towers, transformers' CLIPModel to open_clip; what is not here has the same name
    ("embeddings.class_embedding", "class_embedding"),
    ("embeddings.patch_embedding.weight", "conv1.weight"),
    ("embeddings.position_embedding.weight", "positional_embedding"),
    ("embeddings.token_embedding.", "token_embedding."),
    ("pre_layrnorm.", "ln_pre."),  # so they spell it
    ("post_layernorm.", "ln_post."),
    ("final_layer_norm.", "ln_final."),
    ("encoder.layers.", "transformer.resblocks."),
    (".self_attn.{q,k,v}_proj.", ".attn.in_proj_"),
    (".self_attn.out_proj.", ".attn.out_proj."),
    (".layer_norm1.", ".ln_1."),
    (".layer_norm2.", ".ln_2."),
    (".mlp.fc1.", ".mlp.c_fc."),
    (".mlp.fc2.", ".mlp.c_proj."),
)
_TURNED = {"visual_projection.weight": "visual.proj", "text_projection.weight": "text_projection"}
"""Linear maps there, matrices that are multiplied from the right in open_clip."""
_ONE_OF_THREE = re.compile(r"(?<=\.self_attn\.)[qkv](?=_proj\.)")


@dataclass(frozen=True)
class Names:
    """What a file calls the weights that open_clip calls otherwise.

    Args:
        transformers: whether its names are those of transformers' ``CLIPModel``, else open_clip's.
        wrapped: what stands before every name.
        known: of weights that it holds, by open_clip's names.
    """

    transformers: bool = False
    wrapped: str = ""
    known: Mapping[str, str] = field(default_factory=dict)

    def of(self, name: str) -> str:
        """The file's own name of a weight, whether it holds it or lacks it.

        >>> Names(transformers=True).of("visual.transformer.resblocks.3.attn.in_proj_weight")
        'vision_model.encoder.layers.3.self_attn.{q,k,v}_proj.weight'
        >>> Names(wrapped="module.").of("text_projection")
        'module.text_projection'
        """
        return self.known.get(name, self.wrapped + (_transformers(name) if self.transformers else name))


def open_clip_names(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Names]:
    """A state dict by open_clip's names, and what the file that it came from calls them.

    Args:
        state: with open_clip's names or those of transformers' ``CLIPModel``, behind whatever wrapped it when saved.

    Raises:
        CheckpointError: two names for one weight, or queries, keys and values that are no three of a kind.
    """
    wrapped = ""
    while one := next((w for w in _WRAPPERS if state and all(n.startswith(wrapped + w) for n in state)), None):
        wrapped += one
    plain = {name.removeprefix(wrapped): value for name, value in state.items()}
    transformers = any(name.startswith(tuple(_TOWERS)) for name in plain)
    if transformers:
        plain = _joined({name: value for name, value in plain.items() if not name.endswith("embeddings.position_ids")})
        ours = {name: _TURNED.get(name) or _open_clip(name) for name in plain}
        plain = {name: value.T if name in _TURNED and value.ndim == 2 else value for name, value in plain.items()}
    else:  # open_clip's CustomTextCLIP keeps the text tower under "text."
        ours = {name: name.removeprefix("text.") for name in plain}
    renamed = {ours[name]: value for name, value in plain.items()}
    if len(renamed) < len(plain):
        twice = next(name for name in plain if ours[name] != name and ours[name] in plain)
        raise CheckpointError(f"{wrapped}{twice} and {wrapped}{ours[twice]} are two names for one weight")
    return renamed, Names(transformers, wrapped, {new: wrapped + old for old, new in ours.items()})


def _joined(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Queries, keys and values of a head, three weights in transformers, as the one that open_clip has."""
    joined: dict[str, Tensor] = {}
    for name, value in state.items():
        together = _ONE_OF_THREE.sub("{q,k,v}", name)
        if together == name:
            joined[name] = value
        elif together not in joined:
            three = [together.replace("{q,k,v}", letter) for letter in "qkv"]
            if missing := [other for other in three if other not in state]:
                raise CheckpointError(f"{name} stands alone: {', '.join(missing)} missing")
            parts = [state[other] for other in three]
            if len({(part.shape, part.dtype) for part in parts}) > 1 or not value.ndim:
                shapes = ", ".join(f"{other} {tuple(state[other].shape)}" for other in three)
                raise CheckpointError(f"queries, keys and values are not of one shape and type: {shapes}")
            joined[together] = torch.cat(parts)
    return joined


def _open_clip(name: str) -> str:
    tower = next((tower for tower in _TOWERS if name.startswith(tower)), None)
    return name if tower is None else _TOWERS[tower] + replaced(name.removeprefix(tower), _PARTS)


def _transformers(name: str) -> str:
    alone = {ours: theirs for theirs, ours in _TURNED.items()} | {"logit_scale": "logit_scale"}
    tower = "vision_model." if name.startswith("visual.") else "text_model."
    back = [(ours, theirs) for theirs, ours in _PARTS]
    return alone.get(name) or tower + replaced(name.removeprefix("visual."), back)


def replaced(name: str, pairs: Iterable[tuple[str, str]]) -> str:
    """A name with every first text of ``pairs`` in it replaced by the second, one pair after the other."""
    for old, new in pairs:
        name = name.replace(old, new)
    return name
