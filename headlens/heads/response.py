"""What a detector says when heads are ablated and everything downstream responds: exact, by prefix restart.

Nothing before an ablated head changes, so a variant starts from the clean residual stream at its first layer. Variants
are rows of one growing batch: the walk through the blocks appends those that begin at a block and takes the others
along. Given the heads of one layer this is the prefix restart of that layer; given all heads, the wavefront.

What an ablation does to one head's output, [B, T, H, d], with ``w`` its weight and ``r`` its replacement:

    zero     - w z            the head writes nothing
    mean     w (r - z)        it writes what it writes on average over a reference set, CLS and patches apart
    resample w (r - z)        it writes what it writes for another image
    revert   (1 - w) z        it writes what it wrote before its weight was learned
    none                      nothing is ablated, but the stream is moved by one more rounding: the noise floor
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from headlens.backbone.plan import STREAMS
from headlens.heads.clean import Clean, local_here, read_cls, read_patches, step
from headlens.heads.measures import Margins
from headlens.heads.variants import Variant
from headlens.precision import rounding_unit

Kind = Literal["zero", "mean", "resample", "revert", "none"]
Replacement = Mapping[str, Sequence[Tensor | None]]
"""``{stream: L tensors [B or 1, T, H, d]}``: heads before weighting, that stand in for the image's own."""


def change(clean: Clean, kind: Kind, stream: str, layer: int, replacement: Replacement | None = None) -> Tensor:
    """What ablating each head of a layer adds to its output, [B, T, H, d]; see the module's table."""
    z, weight = clean.z[stream][layer], clean.weights[stream][layer][:, None]
    assert z is not None
    if kind == "zero":
        return -weight * z
    if kind == "revert":
        return (1 - weight) * z
    if kind == "none":
        return nudge(clean, z)
    return weight * (_stand_in(replacement, stream, layer) - z)


def nudge(clean: Clean, stream: Tensor) -> Tensor:
    """What one more rounding of a stream [B, T, ...] may add to it: at random, the same every time and for all images.

    What is computed twice in the same way is the same to the bit, whatever the precision; what was moved by so little
    shows how far two computations may end apart.
    """
    generator = torch.Generator(stream.device).manual_seed(0)
    away = torch.rand(stream.shape[1:], generator=generator, device=stream.device) - 0.5
    return stream * (away * rounding_unit(clean.detector.backbone.vision.proj.dtype, stream.device)).to(stream.dtype)


def _stand_in(replacement: Replacement | None, stream: str, layer: int) -> Tensor:
    found = None if replacement is None else replacement[stream][layer]
    assert found is not None
    return found


class _Cut:
    """Variants as masks {stream: [V, L, H]}, and what they do to a block's heads."""

    def __init__(self, clean: Clean, variants: Sequence[Variant], kind: Kind, replacement: Replacement | None) -> None:
        self.clean, self.kind, self.replacement = clean, kind, replacement
        self.probes = [not variant.heads for variant in variants]
        shape = clean.weights["global"].shape
        self.mask = {stream: torch.zeros(len(variants), *shape, dtype=torch.bool) for stream in STREAMS}
        for row, variant in enumerate(variants):
            for head in variant.heads:
                self.mask[head.stream][row, head.layer, head.head] = True
        # A second copy where the streams are, so that nobody waits for the device to know what is to be done.
        self._there = {s: mask.to(clean.text.device, non_blocking=True) for s, mask in self.mask.items()}

    def shift(self, stream: str, layer: int, rows: slice) -> Tensor | None:
        """What variants ``rows`` add to the clean stream in ``layer``, [V, B, T, D]; None for nothing."""
        moved = None
        if self.mask[stream][rows, layer].any():
            delta = change(self.clean, self.kind, stream, layer, self.replacement)
            moved = self._write(delta, self._there[stream][rows, layer], layer)
        if stream == "global" and any(probes := self.probes[rows]):
            nudged = nudge(self.clean, self.clean.mid[layer])
            own = torch.stack([nudged if probe else torch.zeros_like(nudged) for probe in probes])
            moved = own if moved is None else moved + own
        return moved

    def edit(self, stream: str, layer: int, rows: slice) -> tuple[Tensor | None, Tensor | None]:
        """Weights [V B, H] (or [1, H], or None, for all), and what is put beside, [V B, T, D], of running ``rows``."""
        if not self.mask[stream][rows, layer].any():
            return self.clean.weight(stream, layer), None
        weight, mask = self.clean.weights[stream][layer][None], self._there[stream][rows, layer]
        instead = 1.0 if self.kind == "revert" else 0.0
        rows_weight = weight.masked_fill(mask, instead).repeat_interleave(len(self.clean), 0)
        if self.kind in ("zero", "revert"):
            return rows_weight, None
        other = weight[..., None] * _stand_in(self.replacement, stream, layer)  # (B or 1, T, H, d)
        put = self._write(other.expand(len(self.clean), -1, -1, -1), mask, layer)
        return rows_weight, put.flatten(0, 1)

    def _write(self, z: Tensor, mask: Tensor, layer: int) -> Tensor:
        """What the heads in ``mask`` [V, H] write of ``z`` [B, T, H, d], [V, B, T, D]."""
        out = self.clean.detector.backbone.vision.blocks[layer].attn.W_O.flatten(0, 1)  # (H d, D)
        return (z[None] * mask.to(z)[:, None, None, :, None]).flatten(3) @ out

    def idle(self) -> Tensor:
        """[V, B] bool: ablated heads wrote exactly what replaces them, so that nothing can change."""
        device = self.clean.text.device
        still = torch.ones(len(self.mask["global"]), len(self.clean), dtype=torch.bool, device=device)
        some = torch.zeros(len(still), 1, dtype=torch.bool, device=device)
        for stream, mask in self._there.items():
            some |= mask.any(2).any(1, keepdim=True)
            for layer in self.mask[stream].any(2).any(0).nonzero().flatten().tolist():
                delta = change(self.clean, self.kind, stream, layer, self.replacement)
                moved = (delta != 0).any(3).any(1)  # (B, T, H, d) -> (B, H)
                still &= ~(mask[:, layer, None] & moved).any(2)
        return still & some  # the probe of the noise floor ablates nothing, and is computed all the same


@torch.no_grad()
def respond(
    clean: Clean,
    variants: Sequence[Variant],
    kind: Kind = "zero",
    replacement: Replacement | None = None,
    lowest: int | None = None,
) -> Margins:
    """Margins of V variants of B images, [V, B] and {tap: [V, B, N]}.

    Local heads feed nothing but the local stream: where only they are ablated, no block is run. A variant without heads
    restarts at block ``lowest``, from a stream that is moved by one rounding.

    Args:
        clean: the images' clean forward.
        variants: which heads. All states are held together: give as many as fit into memory.
        kind: what an ablated head writes instead.
        replacement: of ``mean`` and ``resample``.
        lowest: by default where the lowest of the other variants restarts.
    """
    detector, vision, batch = clean.detector, clean.detector.backbone.vision, len(clean)
    order, begins = _order(variants, vision.cfg.n_layers, lowest)
    cut = _Cut(clean, [variants[i] for i in order], kind, replacement)
    text = clean.text.expand(batch, -1, -1).repeat(len(variants), 1, 1)  # (V B, 2, d_e)
    streams = batch * sum(begin < vision.cfg.n_layers for begin in begins)
    xs = clean.x[0].new_empty(streams, *clean.x[0].shape[1:])  # (n B, T, D); variants that have begun come first
    ys: Tensor | None = None
    shift: Tensor | None = None  # what ablated local heads add to a stream that is clean otherwise, [V, B, T, D]
    found: dict[int, Tensor] = {}
    running = 0
    for layer, block in enumerate(vision.blocks):
        begun, beside = running * batch, clean.y[layer]
        attention, last = local_here(detector, layer), clean.mid[layer].shape[1]  # T, or CLS alone in the last block
        if attention is not None:
            moved = cut.shift("local", layer, slice(None))
            shift = moved if shift is None else shift if moved is None else shift + moved
            if ys is None:
                ys = torch.empty_like(xs)
                ys[:begun] = xs[:begun]
        if begun:
            weight, put = cut.edit("global", layer, slice(running))
            local_weight, local_put = (
                cut.edit("local", layer, slice(running)) if attention is not None else (None, None)
            )
            step(
                block,
                xs[:begun],
                None if ys is None else ys[:begun],
                attention=attention,
                weight=weight,
                local_weight=local_weight,
                put=put,
                local_put=local_put,
                cls_only=last == 1,
                in_place=True,
            )
        rows = slice(running, sum(begin <= layer for begin in begins))  # those that begin here
        if rows.stop > running:
            count, new = rows.stop - running, slice(begun, rows.stop * batch)
            mid = _begun(clean.mid[layer], cut.shift("global", layer, rows), count)
            torch.add(mid, block.mlp(block.ln2(mid)), out=xs[new, :last])
            if beside is not None and ys is not None:
                ys[new] = _begun(beside, None if shift is None else shift[rows], count)
        running = rows.stop
        if layer in detector.config.taps:
            tokens = (xs if beside is None or ys is None else ys)[: running * batch]
            if beside is not None and shift is not None and running < len(variants):
                tokens = torch.cat(
                    [tokens, _begun(beside, shift[running:])]
                )  # not begun: the local stream alone differs
            found[layer] = clean.margins.taps[layer].repeat(len(variants), 1)
            if len(tokens):
                found[layer][: len(tokens)] = read_patches(detector, tokens, text[: len(tokens)])[:, 1:]
    image = clean.margins.image.repeat(len(variants))
    if streams:
        image[:streams] = read_cls(detector, xs[:, 0], text[:streams])
    back = torch.tensor(order).argsort().to(image.device, non_blocking=True)
    idle = cut.idle()

    def settled(rows: Tensor, before: Tensor) -> Tensor:
        """Rows as [V, B, ...] in the order of ``variants``; where nothing can change, as they were, to the bit."""
        rows = rows.unflatten(0, (len(variants), batch))
        return torch.where(idle[(...,) + (None,) * (rows.ndim - 2)], before, rows)[back]

    before = clean.margins
    return Margins(settled(image, before.image), {tap: settled(own, before.taps[tap]) for tap, own in found.items()})


def _order(variants: Sequence[Variant], depth: int, lowest: int | None) -> tuple[list[int], list[int]]:
    """Variants in the order in which they begin, and the layers where they do; ``depth`` where no block is run."""
    begins = [begin_of(variant, depth) for variant in variants]
    if lowest is None:
        lowest = min(begins) if min(begins) < depth else 0
    begins = [begin if variant.heads else lowest for begin, variant in zip(begins, variants, strict=True)]
    order = sorted(range(len(variants)), key=begins.__getitem__)
    return order, [begins[i] for i in order]


def begin_of(variant: Variant, depth: int) -> int:
    """The lowest layer of its global heads, where it restarts; ``depth`` without any."""
    return min((head.layer for head in variant.heads if head.stream == "global"), default=depth)


def _begun(stream: Tensor, moved: Tensor | None, variants: int = 0) -> Tensor:
    """A clean stream [B, T, D] as it is for n variants, [n B, T, D]: moved [n, B, T, D], or not at all."""
    return stream.repeat(variants, 1, 1) if moved is None else (stream + moved).flatten(0, 1)
