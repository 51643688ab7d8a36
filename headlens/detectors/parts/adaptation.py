"""Test-time adaptation of AnoCLIP+ (arXiv 2308.15939): a small adapter that every image adapts for itself.

    x <- x / 2 + F(x / |x|) / 2        F(u) = E^T tanh(W u + b)  with the sentences' embeddings E,  or  W u + b

A few steps of AdamW move W and b so that patches make up their minds, and that what noise is added to is anomalous:

    loss = mean over patches of  entropy(p) - (log q_abnormal + log p_normal) / 2        p: clean, q: with noise

Every image begins with the same W, b and optimiser, and meets the same noise: no other image has a part in what it
becomes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from headlens.detectors.parts.projections import seeded_linear
from headlens.detectors.readout import Pulled
from headlens.precision import full_precision

_LR, _DECAY, _NOISE = 1e-3, 0.01, 0.055


@dataclass(frozen=True)
class Adapted:
    """What the adapters of B images make of their embeddings; a ``Tail`` of read-outs.

    Args:
        weight: W of each image, [B, k, d_e].
        bias: b, [B, k].
        sentences: E, [B, k, d_e]; without them k is d_e, and there is no tanh.
    """

    residual: ClassVar[bool] = False
    weight: Tensor
    bias: Tensor
    sentences: Tensor | None = None

    @property
    def opaque(self) -> str:
        """The tanh, where there is one."""
        return "" if self.sentences is None else "the tanh of a test-time adapter, which steps = 0 leaves out"

    def __call__(self, embeddings: Tensor) -> Tensor:
        """Embeddings [V B, n, d_e], variant by variant, to the same shape."""
        rows = F.normalize(embeddings, dim=-1).unflatten(0, (-1, len(self.weight)))  # (V, B, n, d)
        with full_precision(embeddings.device):
            made = rows @ self.weight.mT + self.bias[:, None]
            made = made if self.sentences is None else made.tanh() @ self.sentences
        return (embeddings + made.flatten(0, 1)) / 2

    def pull(self, embeddings: Tensor, u: Tensor) -> tuple[list[Pulled], Tensor]:
        """``v`` and ``rest`` with ``<adapted(e), u> = <e, v> + rest``, |e| held; only without tanh."""
        through = u @ self.weight / embeddings.norm(dim=-1, keepdim=True)
        rest = (self.bias[:, None] * u).sum(-1) / 2
        return [(None, (u + through) / 2)], rest.expand(embeddings.shape[:2])


def adapt(
    embeddings: Tensor,
    text: Tensor,
    *,
    steps: int,
    seed: int,
    temperature: float = 1.0,
    sentences: Tensor | None = None,
    enlarge: Callable[[Tensor], Tensor] = lambda logits: logits,
) -> Adapted:
    """Adapters of B images after so many steps.

    Args:
        embeddings: of their patches, [B, N, d_e], at least float32.
        text: the normal and the abnormal prompt of each, [B, 2, d_e], of unit length.
        steps: of the optimiser.
        seed: of the initial adapter and of the noise, the same for every image and on every device.
        temperature: of the softmax over the two prompts.
        sentences: [B, k, d_e], of unit length, as of ``Adapted``.
        enlarge: logits [R, N] to those that the loss is taken of, [R, any number].
    """
    device, width = embeddings.device, embeddings.shape[-1]
    made = torch.Generator().manual_seed(seed)
    layer = seeded_linear(width, width if sentences is None else sentences.shape[1], generator=made)
    # Ordinary tensors even inside inference_mode, and gradients whatever is going on around.
    with full_precision(device), torch.inference_mode(False), torch.enable_grad():
        x, pair = embeddings.detach().clone(), text.detach().to(embeddings).clone()
        sentences = None if sentences is None else sentences.detach().to(embeddings).clone()
        weight, bias = (
            p.detach().to(embeddings).repeat(len(x), *(1,) * p.ndim).requires_grad_() for p in layer.parameters()
        )
        adapted = Adapted(weight, bias, sentences)
        optimiser = torch.optim.AdamW([weight, bias], lr=_LR, weight_decay=_DECAY)
        for _ in range(steps):
            noise = _NOISE * torch.randn(x.shape[1:], generator=made).to(x)
            optimiser.zero_grad()
            _loss(adapted, torch.cat([x, x + noise]), pair, temperature, enlarge).backward()
            optimiser.step()
    return Adapted(weight.detach(), bias.detach(), sentences)


def _loss(
    adapted: Adapted, both: Tensor, pair: Tensor, temperature: float, enlarge: Callable[[Tensor], Tensor]
) -> Tensor:
    """The sum over images of each one's loss; ``both``: clean embeddings of all, then with noise, [2 B, N, d_e]."""
    unit = F.normalize(adapted(both), dim=-1)
    cosines = unit @ pair.repeat(2, 1, 1).mT / temperature  # (2 B, N, 2)
    clean, noisy = enlarge(cosines.mT.flatten(0, 1)).unflatten(0, (2, -1, 2)).log_softmax(2)  # (B, 2, pixels)
    entropy = -(clean.exp() * clean).sum(1)
    return (entropy - (noisy[:, 1] + clean[:, 0]) / 2).mean(1).sum()
