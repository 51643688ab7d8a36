"""Embeddings of things in two states, made once while what they depend on stays as it is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn

from headlens.backbone import Backbone
from headlens.backbone.hooks import hooked
from headlens.precision import full_precision


class KnownTexts:
    """Where nothing is differentiated, a thing is encoded once, by itself, until what it is encoded with changes.

    But through ``.data``, which torch does not notice. It is as fine as weights are, whatever autocast says. Under
    hooks at the text tower or at a learned part nothing is kept.
    """

    def __init__(self) -> None:
        self._made_with: tuple[object, ...] = ()
        self._known: dict[str, Tensor] = {}

    def of(
        self,
        things: Sequence[str],
        encode: Callable[[Sequence[str]], Tensor],
        backbone: Backbone,
        parts: Iterable[nn.Module] = (),
    ) -> Tensor:
        """The normal and the abnormal embedding of each thing, [things, 2, d_e].

        Args:
            things: some may be named several times.
            encode: different things to their embeddings.
            backbone: that encodes them.
            parts: learned, that they depend on.
        """
        parts, different = list(parts), list(dict.fromkeys(things))
        learned = [parameter for part in parts for parameter in part.parameters()]
        differentiated = torch.is_grad_enabled() and any(parameter.requires_grad for parameter in learned)
        if differentiated or backbone.text.must_call_hooks() or any(map(hooked, parts)):
            return encode(different)[[different.index(thing) for thing in things]]
        made_with = tuple((p.data_ptr(), p._version) for p in (*learned, backbone.text.proj))
        if made_with != self._made_with:
            self._made_with, self._known = made_with, {}
        for thing in different:
            if thing not in self._known:
                # Ordinary tensors even inside inference_mode, so that a later step may differentiate past them.
                with full_precision(backbone.logit_scale.device), torch.inference_mode(False), torch.no_grad():
                    self._known[thing] = encode([thing])[0]
        return torch.stack([self._known[thing] for thing in things])
