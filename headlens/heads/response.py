"""What a detector says when heads are ablated and everything downstream responds: exact, by prefix restart.

Nothing before an ablated head changes, so a variant starts from the clean residual stream at its first layer. Variants
are rows of one growing batch: the walk through the blocks appends those that begin at a block and takes the others
along. Given the heads of one layer this is the prefix restart of that layer; given all heads, the wavefront.

What an ablation does to one head's output, [B, T, H, d], with ``w`` its weight and ``r`` its replacement:

    zero     - w z            the head writes nothing
    mean     w (r - z)        it writes what it writes on average over a reference set: CLS, patches, each extra token
    resample w (r - z)        it writes what it writes for another image
    paired   w (r - z)        it writes what it writes for the image's twin in another set
    revert   (1 - w) z        it writes what it wrote before its weight was learned
    none                      nothing is ablated, but the stream is perturbed by one more rounding: the noise floor
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from headlens.backbone.plan import STREAMS
from headlens.backbone.vision import replace_extra
from headlens.detectors.reading import Features
from headlens.detectors.scoring import Margins
from headlens.heads.clean import CleanRun
from headlens.heads.variants import Variant
from headlens.precision import rounding_unit

Kind = Literal["zero", "mean", "resample", "paired", "revert", "none"]
Replacement = Mapping[str, Sequence[Tensor | None]]
"""``{stream: L tensors [B or 1, T, H, d]}``: heads before weighting, that replace those of the image."""


def change(clean: CleanRun, kind: Kind, stream: str, layer: int, replacement: Replacement | None = None) -> Tensor:
    """What ablating each head of a layer adds to its output, [B, T, H, d]; see the module's table."""
    z, weight = clean.z[stream][layer], clean.weights[stream][layer][:, None]
    assert z is not None
    if kind == "zero":
        return -weight * z
    if kind == "revert":
        return (1 - weight) * z
    if kind == "none":
        return perturbation(clean, z)
    return weight * (_replacing(replacement, stream, layer) - z)


def perturbation(clean: CleanRun, stream: Tensor) -> Tensor:
    """What one more rounding of a stream [B, T, ...] may add to it: at random, the same every time and for all images.

    What is computed twice in the same way is the same to the bit, whatever the precision; what was perturbed by so
    little shows how far two computations may end apart.
    """
    generator = torch.Generator(stream.device).manual_seed(0)
    away = torch.rand(stream.shape[1:], generator=generator, device=stream.device) - 0.5
    return stream * (away * rounding_unit(clean.tower.proj.dtype, stream.device)).to(stream.dtype)


def _replacing(replacement: Replacement | None, stream: str, layer: int) -> Tensor:
    heads = None if replacement is None else replacement[stream][layer]
    assert heads is not None
    return heads


class _Interventions:
    """Variants as masks {stream: [V, L, H]}, and what they do to a block's heads."""

    def __init__(
        self, clean: CleanRun, variants: Sequence[Variant], kind: Kind, replacement: Replacement | None
    ) -> None:
        self.clean, self.kind, self.replacement = clean, kind, replacement
        self.probes = [not variant.heads for variant in variants]
        shape = clean.weights["global"].shape
        self.mask = {stream: torch.zeros(len(variants), *shape, dtype=torch.bool) for stream in STREAMS}
        for row, variant in enumerate(variants):
            for head in variant.heads:
                self.mask[head.stream][row, head.layer, head.head] = True
        # A second copy where the streams are: what is to be done is then known without waiting for the device.
        device = clean.x[0].device
        self._on_device = {s: mask.to(device, non_blocking=True) for s, mask in self.mask.items()}

    def added(self, stream: str, layer: int, rows: slice) -> Tensor | None:
        """What variants ``rows`` add to the clean stream in ``layer``, [V, B, T, D]; None for nothing."""
        added = None
        if self.mask[stream][rows, layer].any():
            delta = change(self.clean, self.kind, stream, layer, self.replacement)
            added = self._write(delta, self._on_device[stream][rows, layer], layer)
        if stream == "global" and any(self.probes[rows]):
            perturbed = self.perturbed(self.clean.mid[layer], rows)
            added = perturbed if added is None else added + perturbed
        return added

    def perturbed(self, stream: Tensor, rows: slice) -> Tensor:
        """What is added to a clean stream [B, T, D] for probes among variants ``rows``, [V, B, T, D]."""
        once = perturbation(self.clean, stream)
        return torch.stack([once if probe else torch.zeros_like(once) for probe in self.probes[rows]])

    def edit(self, stream: str, layer: int, rows: slice) -> tuple[Tensor | None, Tensor | None]:
        """Weights of running ``rows``, [V B, H] (or [1, H], or None, for all), and what is added, [V B, T, D]."""
        if not self.mask[stream][rows, layer].any():
            return self.clean.weight(stream, layer), None
        weight, mask = self.clean.weights[stream][layer][None], self._on_device[stream][rows, layer]
        instead = 1.0 if self.kind == "revert" else 0.0
        rows_weight = weight.masked_fill(mask, instead).repeat_interleave(len(self.clean), 0)
        if self.kind in ("zero", "revert"):
            return rows_weight, None
        other = weight[..., None] * _replacing(self.replacement, stream, layer)  # (B or 1, T, H, d)
        added = self._write(other.expand(len(self.clean), -1, -1, -1), mask, layer)
        return rows_weight, added.flatten(0, 1)

    def _write(self, z: Tensor, mask: Tensor, layer: int) -> Tensor:
        """What the heads in ``mask`` [V, H] write of ``z`` [B, T, H, d], [V, B, T, D]."""
        out = self.clean.tower.blocks[layer].attn.W_O.flatten(0, 1)  # (H d, D)
        return (z[None] * mask.to(z)[:, None, None, :, None]).flatten(3) @ out

    def unchanged(self) -> Tensor:
        """[V, B] bool: ablated heads wrote exactly what replaces them, so that nothing can change."""
        device = self.clean.x[0].device
        same = torch.ones(len(self.mask["global"]), len(self.clean), dtype=torch.bool, device=device)
        ablates = torch.zeros(len(same), 1, dtype=torch.bool, device=device)
        for stream, mask in self._on_device.items():
            ablates |= mask.any(2).any(1, keepdim=True)
            for layer in self.mask[stream].any(2).any(0).nonzero().flatten().tolist():
                delta = change(self.clean, self.kind, stream, layer, self.replacement)
                moved = (delta != 0).any(3).any(1)  # (B, T, H, d) -> (B, H)
                same &= ~(mask[:, layer, None] & moved).any(2)
        return same & ablates  # the probe of the noise floor ablates nothing, and is computed all the same


class _Rows:
    """Both residual streams of V variants of B images, row by row; variants that have begun come first.

    ``begins`` has the layer where each does; the number of layers for those that move the local stream alone.
    """

    def __init__(self, clean: CleanRun, cut: _Interventions, begins: Sequence[int]) -> None:
        self.clean, self.cut, self.begins, self.batch = clean, cut, begins, len(clean)
        count = sum(begin < len(clean.tower.blocks) for begin in begins)
        self.xs = clean.x[0].new_empty(count * self.batch, *clean.x[0].shape[1:])  # (n B, T, D)
        self.ys: Tensor | None = None
        self.shift: Tensor | None = None  # what ablated local heads add to a clean local stream, [V, B, T, D]
        self.past: dict[int, Tensor] = {}  # of blocks that are looked back at: xs of what had begun by then
        self.running = 0

    @property
    def cls(self) -> Tensor:
        """CLS of the variants that have begun, raw, [n B, D]."""
        return self.xs[:, 0]

    def through(self, layer: int) -> None:
        """Takes all rows through a block, and those along that begin at it."""
        plan, linear = self.clean.plan, self.clean.plan.local_is_linear
        joined = plan.copies > 1 and layer in plan.taps  # more tokens, which are made of this block's attention
        if layer in plan.tokens:
            self._replace_tokens(plan.tokens[layer])
        if not linear or joined:
            self._begin_before(layer)
        if plan.attention("local", layer) is not None:
            moved = self.cut.added("local", layer, slice(None)) if linear else None
            if joined and self.shift is not None:
                self.shift = F.pad(self.shift, (0, 0, 0, self.clean.patches.stop - 1))
            self.shift = moved if self.shift is None else self.shift if moved is None else self.shift + moved
            if self.ys is None:
                self.ys = self.xs.clone()  # the local stream begins as the global one
        if self.running:
            if layer in plan.past:
                self.past[layer] = self.xs[: self.running * self.batch].clone()
            self._step(layer)
        y = self.clean.y[layer]
        if joined and y is not None and not self.running:
            self.ys = y[:0]
        if linear and not joined:
            self._begin_after(layer)

    def tapped(self, tap: int) -> Tensor:
        """The stream that is read at a tap, [n B, T, D], of the first n variants; the others' is clean."""
        y = self.clean.y[tap]
        begun = slice(self.running * self.batch)
        if y is None or self.ys is None:
            return self.xs[begun]
        tokens = self.ys[begun]
        if self.shift is not None and self.running < len(self.begins):
            tokens = torch.cat([tokens, _moved(y, self.shift[self.running :])])  # their local stream alone differs
        return tokens

    def _step(self, layer: int) -> None:
        clean, plan, begun = self.clean, self.clean.plan, slice(self.running * self.batch)
        weight, add = self.cut.edit("global", layer, slice(self.running))
        local_weight = local_add = None
        if plan.attention("local", layer) is not None:
            local_weight, local_add = self.cut.edit("local", layer, slice(self.running))
        done = clean.tower.blocks[layer].step(
            self.xs[begun],
            None if self.ys is None else self.ys[begun],
            local=plan.local_at(layer),
            weight=weight,
            local_weight=local_weight,
            adapter=plan.adapter("global", layer),
            local_adapter=plan.adapter("local", layer),
            add=add,
            local_add=local_add,
            cls_only=clean.mid[layer].shape[1] == 1,
            in_place=True,
            passes=clean.passes,
            past={block: self._looked_back(block) for block in plan.past if block <= layer},
        )
        if plan.adapter("global", layer) is not None:
            self.xs[begun] = done.x
        moved = plan.adapter("local", layer) is not None or done.begin is not None
        if moved and self.ys is not None and done.y is not None:
            self.ys[begun] = done.y
        if plan.copies > 1 and layer in plan.taps:
            self.ys = done.y  # it has more tokens now, and is not read above

    def _looked_back(self, block: int) -> Tensor:
        """The global stream that entered a block, of all that runs now: what has begun since then had the clean one."""
        had, count = self.past.get(block), self.running * self.batch
        missing = count - (0 if had is None else len(had))
        clean = self.clean.x[block].repeat(missing // self.batch, 1, 1)
        return clean if had is None else torch.cat([had, clean])

    def _begin_after(self, layer: int) -> None:
        """Variants that begin at a block: its attention is clean but for what they add, and is not computed again."""
        clean, block, plan = self.clean, self.clean.tower.blocks[layer], self.clean.plan
        rows, new = self._beginning(layer)
        if rows.start == rows.stop:
            return
        mid = _moved(clean.mid[layer], self.cut.added("global", layer, rows), rows.stop - rows.start)
        x, adapter = self.xs[new, : mid.shape[1]], plan.adapter("global", layer)
        if plan.has_mlp("global", layer):
            torch.add(mid, block.mlp(block.ln2(mid)), out=x)
        else:
            x.copy_(mid)
        if adapter is not None:
            x.copy_(adapter(x.clone()))
        y = clean.y[layer]
        if y is not None and self.ys is not None:
            shift = None if self.shift is None else self.shift[rows]
            self.ys[new] = _moved(y, shift, rows.stop - rows.start)

    def _begin_before(self, layer: int) -> None:
        """The same where more of the local stream depends on it: the block they begin at is computed as a whole."""
        rows, new = self._beginning(layer)
        if rows.start == rows.stop:
            return
        x, y = self.clean.x[layer], self.clean.y[layer - 1] if layer else None
        self.xs[new] = (x + self.cut.perturbed(x, rows)).flatten(0, 1)
        if y is not None and self.ys is not None:
            tokens = self.clean.plan.tokens.get(layer)
            y = y if tokens is None else replace_extra(y, self.clean.patches.stop - 1, tokens)
            shift = None if self.shift is None else self.shift[rows]
            self.ys[new] = _moved(y, shift, rows.stop - rows.start)

    def _beginning(self, layer: int) -> tuple[slice, slice]:
        """The variants that begin at a layer, and their rows; they run from now on."""
        first, self.running = self.running, sum(begin <= layer for begin in self.begins)
        return slice(first, self.running), slice(first * self.batch, self.running * self.batch)

    def _replace_tokens(self, tokens: Tensor) -> None:
        n_patches, variants = self.clean.patches.stop - 1, len(self.xs) // self.batch
        rows = tokens if tokens.ndim == 2 else tokens.expand(self.batch, -1, -1).repeat(variants, 1, 1)
        self.xs = replace_extra(self.xs, n_patches, rows)
        if self.ys is not None:
            self.ys = replace_extra(self.ys, n_patches, rows)
        if self.shift is not None:  # extra tokens are the same for all
            self.shift = F.pad(self.shift[:, :, : 1 + n_patches], (0, 0, 0, tokens.shape[-2]))


class _Answers:
    """Margins of V variants of B images, as their streams come by; with ``follow`` the text follows."""

    def __init__(self, clean: CleanRun, variants: int, follow: bool) -> None:
        self.clean, self.variants, self.follow = clean, variants, follow
        self.taps: dict[int, Tensor] = {}
        # Where the image feature has patches in it, or the text is not known before the end, embeddings are kept.
        self.features = clean.features if follow or clean.reading.pooling.reads_patches else None
        self.embedded: dict[int, Tensor] = {}
        self.pooled: dict[int, Tensor] = {}

    def read(self, tap: int, tokens: Tensor) -> None:
        """Takes the tapped stream [n B, T, D] of the first n variants; the others' is clean."""
        clean, first = self.clean, len(tokens)
        tokens = tokens[:, clean.read_at]
        embedded = clean.reading.taps[tap](tokens) if first else None
        if self.features is not None:
            self.embedded[tap] = self._rows(self.features.taps[tap], embedded)
            if tap in self.features.pooled:
                self.pooled[tap] = self._rows(self.features.pooled[tap], clean.reading.image(tokens) if first else None)
            return
        self.taps[tap] = clean.margins.taps[tap].repeat(self.variants, 1)
        if embedded is not None:
            text = clean.reading.rows(first // len(clean)).text
            self.taps[tap][:first] = text.margin(embedded)

    def _rows(self, before: Tensor, embedded: Tensor | None) -> Tensor:
        """Embeddings of what is read of all rows; but for the first, they are clean."""
        rows = before.repeat(self.variants, 1, 1)
        if embedded is not None:
            rows[: len(embedded)] = embedded
        return rows

    def margins(self, cls: Tensor) -> Margins:
        """Of all V B rows; ``cls`` [n B, D], raw, is that of the first n variants, the others' is clean."""
        clean, first = self.clean, len(cls)
        if self.features is None:
            image = clean.margins.image.repeat(self.variants)
            if first:
                rows = clean.reading.rows(first // len(clean))
                image[:first] = rows.image_contrast.margin(rows.image(cls))
            return Margins(image, self.taps)
        embedding, reading = self.features.cls.repeat(self.variants, 1), clean.reading.rows(self.variants)
        embedding[:first] = reading.image(cls)
        features = Features(embedding, self.embedded, self.pooled)
        if self.follow and reading.follow is not None:
            reading = replace(reading, text=reading.follow(features))
        return reading.margins(features)


@torch.no_grad()
def respond(
    clean: CleanRun,
    variants: Sequence[Variant],
    kind: Kind = "zero",
    replacement: Replacement | None = None,
    lowest: int | None = None,
    follow: bool = False,
) -> Margins:
    """Margins of V variants of B images, [V, B] and {tap: [V, B, N]}.

    A linear local stream feeds nothing: where only its heads are ablated, no block is run. A variant without heads
    restarts at block ``lowest``, from a stream that is perturbed by one rounding.

    Args:
        clean: the images' clean run.
        variants: which heads. All states are held together: give as many as fit into memory.
        kind: what an ablated head writes instead.
        replacement: of ``mean`` and ``resample``.
        lowest: by default where the lowest of the other variants restarts.
        follow: recompute a text that depends on the images (``Reading.follow``); otherwise it is held.
    """
    batch, depth = len(clean), len(clean.tower.blocks)
    begins = [begin_of(variant, depth, clean.plan.local_is_linear) for variant in variants]
    if lowest is None:
        lowest = min(begins) if min(begins) < depth else 0
    begins = [begin if variant.heads else lowest for begin, variant in zip(begins, variants, strict=True)]
    order = sorted(range(len(variants)), key=begins.__getitem__)  # in which variants begin
    cut = _Interventions(clean, [variants[i] for i in order], kind, replacement)
    rows, answers = _Rows(clean, cut, [begins[i] for i in order]), _Answers(clean, len(variants), follow)
    for layer in range(depth):
        rows.through(layer)
        if layer in clean.plan.taps:
            answers.read(layer, rows.tapped(layer))
    margins, before = answers.margins(rows.cls), clean.margins
    back = torch.tensor(order).argsort().to(before.image.device, non_blocking=True)
    unchanged = cut.unchanged()

    def in_order(values: Tensor, clean_values: Tensor) -> Tensor:
        """Rows as [V, B, ...] in the order of ``variants``; where nothing can change, the clean ones to the bit."""
        values = values.unflatten(0, (len(variants), batch))
        return torch.where(unchanged[(...,) + (None,) * (values.ndim - 2)], clean_values, values)[back]

    taps = {tap: in_order(margins.taps[tap], before.taps[tap]) for tap in before.taps}
    return Margins(in_order(margins.image, before.image), taps)


def begin_of(variant: Variant, depth: int, linear: bool = True) -> int:
    """The lowest layer at which a block must be run again; ``depth`` for none: local heads of a linear local stream."""
    layers = (head.layer for head in variant.heads if head.stream == "global" or not linear)
    return min(layers, default=depth)


def _moved(stream: Tensor, added: Tensor | None, variants: int = 0) -> Tensor:
    """A clean stream [B, T, D] as it is for n variants, [n B, T, D]: with [n, B, T, D] added, or just repeated."""
    return stream.repeat(variants, 1, 1) if added is None else (stream + added).flatten(0, 1)
