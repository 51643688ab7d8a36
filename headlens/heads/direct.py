"""Exact direct effects: what every head writes straight into the image margin and into every tap's margin map.

What is read of a token is one covector ``r``. Walked down from where it is read, it meets everything that was ever
written into the residual stream; no part is left out and none is counted twice:

    r at the top        <token, r> + readout = margin, with the norm's scale and the embedding's norm held
    at an adapter       r becomes adapter.pull(stream before it, r); what that leaves over is the adapter's part
    at each block       heads <z W_O, r>, bias <b_O, r>, MLP <its output, r>
    at the bottom       <embedding, r>; or <stream, r> below an adapter that has no pull

The local stream begins as the global one, so the walk goes on there, but for one that is made of other tokens: what it
begins with is then the bottom. The image margin is that of CLS, and of patches,
where the pooling reads them, each times its weight, which is held, too. A part is a *direct* effect: what would really
happen without the head is asked of ``headlens.heads.ablation``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from headlens.detectors.detector import Detector, HasDetector
from headlens.detectors.readout import Covector, Readout
from headlens.detectors.text import Contrast
from headlens.errors import IdentityError, ShapeError
from headlens.heads.clean import CleanRun, clean_forward
from headlens.heads.exactness import check_image_summed, check_reached, check_reads_cls, check_summed, check_tap
from headlens.precision import full_precision, rounding_unit, wide

KINDS = ("head", "mlp", "bias", "adapter", "embedding", "below", "readout")
"""Of parts. ``adapter``: what is no linear function of the stream before it; ``below``: the stream before an adapter
that cannot be walked through, as it comes out of it, or what a local stream with a source begins with; there is no
embedding then."""


class Part(NamedTuple):
    """What wrote it: one of ``KINDS``, and of which stream and layer, where it is of one."""

    kind: str
    stream: str = ""
    layer: int = -1


@dataclass(frozen=True)
class Parts:
    """A margin, part by part. ``...`` is [B] for the image and [B, N] for the patches of a tap.

    Args:
        terms: [..., H] for the heads of a layer, [...] for all others, in the order of ``KINDS``.
    """

    terms: Mapping[Part, Tensor]

    @cached_property
    def layers(self) -> dict[str, range]:
        """The layers whose heads are read, by stream."""
        numbers: dict[str, list[int]] = {}
        for part in self.terms:
            if part.kind == "head":
                numbers.setdefault(part.stream, []).append(part.layer)
        return {stream: range(layers[0], layers[-1] + 1) for stream, layers in numbers.items()}

    @cached_property
    def heads(self) -> dict[str, Tensor]:
        """``{stream: [..., layers, H]}``; 0 where an adapter without pull stands between a layer and what is read."""
        heads = {}
        for stream, layers in self.layers.items():
            nothing = torch.zeros_like(self.terms[Part("head", stream, layers[0])])
            heads[stream] = torch.stack([self.terms.get(Part("head", stream, n), nothing) for n in layers], -2)
        return heads

    @property
    def rest(self) -> Tensor:
        """What no head wrote, [...]."""
        return sum((value for part, value in self.terms.items() if part.kind != "head"), torch.zeros(()))

    @property
    def total(self) -> Tensor:
        """Their sum, the margin: [...]."""
        return sum((value.sum(-1) for part, value in self.terms.items() if part.kind == "head"), self.rest)


class _Read(NamedTuple):
    """Tokens that are read: which, through which covector, what no token has a part in, and which layers write them."""

    tokens: slice | Tensor
    covector: Covector
    rest: Tensor
    writers: Mapping[str, range]

    def at(self, stream: Tensor) -> Tensor:
        """Tokens of a stream, or of heads, [B, T, ...], that are read, [B, n, ...]: 0 where it has no such token."""
        return self.filled(stream[:, self.tokens])

    def filled(self, tokens: Tensor) -> Tensor:
        """Tokens [B, at most n, ...] to n of them; those that are missing are 0."""
        missing = self.covector.scale.shape[1] - tokens.shape[1]
        if not missing:
            return tokens
        return torch.cat([tokens, tokens.new_zeros(len(tokens), missing, *tokens.shape[2:])], 1)

    def times(self, weight: Tensor) -> _Read:
        """Each token so many times, [B, n]."""
        covector = self.covector._replace(scale=self.covector.scale * weight)
        return self._replace(covector=covector, rest=self.rest * weight)


@torch.no_grad()
def image_parts(clean: CleanRun) -> Parts:
    """The image margins of B images, part by part; of both streams where the pooling reads patches."""
    terms: dict[Part, Tensor] = {}
    for reads in _image(clean).values():
        for part, value in _summed(clean, reads).items():
            terms[part] = terms.get(part, 0) + value.sum(1)
    terms[Part("readout")] = terms[Part("readout")] + clean.reading.image_contrast.offset
    return Parts(_in_order(terms))


@torch.no_grad()
def pooled_parts(clean: CleanRun) -> dict[int, Parts]:
    """What every patch has of the image margin, part by part, ``{tap: parts [B, N]}``; empty where none is read."""
    return {tap: Parts(_in_order(_summed(clean, reads))) for tap, reads in _image(clean).items() if tap is not None}


@torch.no_grad()
def tap_parts(clean: CleanRun, tap: int) -> Parts:
    """The margin of every patch at ``tap``, part by part.

    Raises:
        ShapeError: a tap that the detector does not read.
        ConfigError: a read-out that no sum goes through.
    """
    check_tap(clean.plan, tap)
    check_summed(clean.reading.taps[tap], f"margins of patches at tap {tap}")
    terms = _summed(clean, _patches(clean, tap, clean.reading.taps[tap], clean.reading.text))
    terms[Part("readout")] = terms[Part("readout")] + clean.reading.text.offset
    return Parts(_in_order(terms))


def _image(clean: CleanRun) -> dict[int | None, list[_Read]]:
    """What the image margin reads: CLS (None), and patches of each tap, where the pooling has weights for them."""
    reading, text = clean.reading, clean.reading.image_contrast
    check_image_summed(reading)
    reads: dict[int | None, list[_Read]] = {}
    if reading.pooling.reads_cls:
        every = {"global": range(len(clean.mid))}
        reads[None] = _read(slice(0, 1), clean.x[-1][:, :1], reading.image, text, every)
    if not reading.pooling.reads_patches:
        return reads
    of_cls, of_patches = reading.weights(clean.features, clean.margins.taps)
    for tap in of_patches:
        reads[tap] = _patches(clean, tap, reading.patches_of_image(tap), text)
    weights = {tap: of_cls[:, None] if tap is None else of_patches[tap] for tap in reads}
    return {tap: [read.times(weights[tap]) for read in each] for tap, each in reads.items()}


def _patches(clean: CleanRun, tap: int, readout: Readout, text: Contrast) -> list[_Read]:
    return _read(clean.read_at, clean.tapped(tap), readout, text, clean.plan.writers(tap))


def _read(
    tokens: slice | Tensor, raw: Tensor, readout: Readout, text: Contrast, writers: Mapping[str, range]
) -> list[_Read]:
    """What is read of the tokens themselves, with all of the rest, and of others that a tail mixes with them."""
    with full_precision(raw.device):
        held = readout.held(raw, text)
        numbers = torch.arange(tokens.stop, device=raw.device)[tokens] if isinstance(tokens, slice) else tokens
        none = torch.zeros_like(held.rest)
        return [
            _Read(tokens, covector, held.rest, writers) if at is None else _Read(numbers[at], covector, none, writers)
            for at, covector in held.reads
        ]


def _walk(clean: CleanRun, read: _Read) -> tuple[dict[tuple[str, int], Covector], dict[Part, Tensor]]:
    """The covector of what each block hands to its adapter, from the top down, and the parts that no block wrote."""
    covector, terms = read.covector, {Part("readout"): read.rest}
    reached: dict[tuple[str, int], Covector] = {}
    for stream, layer in reversed([(stream, layer) for stream, layers in read.writers.items() for layer in layers]):
        adapter = clean.plan.adapter(stream, layer)
        if adapter is not None:
            after, before = _after(clean, stream, layer), clean.written[stream, layer]
            total, pull = covector.of(read.at(after)), getattr(adapter, "pull", None)
            direction = torch.zeros_like(wide(before))
            direction[:, read.tokens] = covector.direction
            pulled = None if pull is None else pull(wide(before), direction)
            if pulled is None:
                return reached, terms | {Part("below"): total}
            covector = covector._replace(direction=pulled[:, read.tokens])
            terms[Part("adapter", stream, layer)] = total - covector.of(read.at(before))
        reached[stream, layer] = covector
    if "global" not in read.writers:
        (layer,) = read.writers["local"]
        return reached, terms | {Part("below"): covector.of(read.at(clean.begin[layer]))}
    return reached, terms | {Part("embedding"): covector.of(read.at(clean.x[0]))}


def _summed(clean: CleanRun, reads: Sequence[_Read]) -> dict[Part, Tensor]:
    """Parts of all reads together."""
    terms: dict[Part, Tensor] = {}
    for read in reads:
        for part, value in _terms(clean, read).items():
            terms[part] = terms.get(part, 0) + value
    return terms


def _terms(clean: CleanRun, read: _Read) -> dict[Part, Tensor]:
    """Parts of the margins of the tokens that are read, [B, n], and [B, n, H] of heads."""
    with full_precision(read.rest.device):
        reached, terms = _walk(clean, read)
        terms[Part("bias")] = torch.zeros_like(read.rest)
        for (stream, layer), covector in reached.items():
            attn, z = clean.tower.blocks[layer].attn, clean.z[stream][layer]
            assert z is not None
            weight = wide(clean.weights[stream][layer])  # multiplies the parts, which are fewer than the channels of z
            terms[Part("head", stream, layer)] = covector.of_heads(read.at(z), attn.W_O) * weight
            bias = attn.b_O.expand(*z.shape[:2], -1)  # where the block writes at all
            terms[Part("bias")] = terms[Part("bias")] + covector.of(read.at(bias))
            if clean.plan.has_mlp(stream, layer):
                mid, before = _mid(clean, stream, layer, read.tokens), _before(clean, stream, layer)[:, read.tokens]
                terms[Part("mlp", stream, layer)] = covector.of(read.filled(wide(before) - wide(mid)))
    return terms


def _in_order(terms: Mapping[Part, Tensor]) -> dict[Part, Tensor]:
    return dict(sorted(terms.items(), key=lambda item: (KINDS.index(item[0].kind), *item[0][1:])))


def _after(clean: CleanRun, stream: str, layer: int) -> Tensor:
    """A stream as it leaves a block."""
    after = clean.x[layer + 1] if stream == "global" else clean.y[layer]
    assert after is not None
    return after


def _before(clean: CleanRun, stream: str, layer: int) -> Tensor:
    """The same before the block's adapter."""
    written = clean.written.get((stream, layer))
    return _after(clean, stream, layer) if written is None else written


def _mid(clean: CleanRun, stream: str, layer: int, tokens: slice | Tensor) -> Tensor:
    """The same between attention and MLP; of the local stream it is made again."""
    return clean.mid[layer][:, tokens] if stream == "global" else _attended(clean, stream, layer, tokens)


def _attended(clean: CleanRun, stream: str, layer: int, tokens: slice | Tensor) -> Tensor:
    """A stream as it enters a block, and what the block's heads and bias write into it, [B, n, D]."""
    before = clean.y[layer - 1] if stream == "local" and layer else None
    before = clean.begin.get(layer, before) if stream == "local" else None
    into = clean.x[layer] if before is None else before  # it begins as the global one
    return into[:, tokens] + clean.tower.blocks[layer].attn.out(clean.wrote(stream, layer)[:, tokens].flatten(2))


def check(parts: Parts, margin: Tensor, what: str, precision: torch.dtype) -> None:
    """Raises IdentityError where parts do not add up to the margin, beyond what rounding in ``precision`` explains."""
    size = sum(v.abs().sum(-1) if part.kind == "head" else v.abs() for part, v in parts.terms.items())
    _compare(parts.total, margin, f"parts of the {what} miss it", float(torch.as_tensor(size).max()), precision)


@torch.no_grad()
def check_streams(clean: CleanRun, precision: torch.dtype) -> None:
    """Each term by its name: heads and bias, MLP and adapter of every block make the stream that leaves it.

    A sum of parts cannot show a stream that something else has changed: it would be in the part of the MLP above.

    Raises:
        IdentityError: a term that the stream does not have, beyond what rounding in ``precision`` explains.
    """
    for layer, block in enumerate(clean.tower.blocks):
        for stream in clean.plan.streams:
            if clean.z[stream][layer] is None:
                continue
            adapter = clean.plan.adapter(stream, layer)
            after, before = _after(clean, stream, layer), _before(clean, stream, layer)
            tokens = slice(0, min(clean.patches.stop + clean.plan.in_views, before.shape[1]))
            made = _attended(clean, stream, layer, tokens)
            terms = [("attention", made, clean.mid[layer][:, tokens])] if stream == "global" else []
            if clean.plan.has_mlp(stream, layer):
                mid = _mid(clean, stream, layer, tokens)
                terms.append(("MLP", mid + block.mlp(block.ln2(mid)), before[:, tokens]))
            else:
                terms.append(("attention", made, before[:, tokens]))
            if adapter is not None:
                terms.append(("adapter", adapter(before)[:, tokens], after[:, tokens]))
            for term, expected, actual in terms:
                what = f"the {stream} stream after the {term} of layer {layer} is not what that writes: it is off"
                _compare(actual, expected, what, float(expected.abs().max()), precision)


def _compare(actual: Tensor, expected: Tensor, what: str, size: float, precision: torch.dtype) -> None:
    off, allowed = float((actual - expected).abs().max()), 16 * rounding_unit(precision, actual.device) * size
    if not off <= allowed:
        raise IdentityError(f"{what} by {off:.3g}; rounding explains {allowed:.3g}")


@torch.no_grad()
def source_maps(clean: CleanRun, layer: int) -> Tensor:
    """Where CLS takes each global head's direct effect from, [B, H, T]: ``w A[CLS, t] <v_t W_O, r>``.

    Its sum over source tokens t is the head's part of the image margin by way of CLS: all of it, but where the pooling
    reads patches, too; CLS then counts as much as its pooling weight.

    Raises:
        ShapeError: a layer that does not exist.
        ConfigError: one below an adapter that has no pull; an image feature without CLS.
    """
    check_reads_cls(clean.reading)
    blocks, attention = clean.tower.blocks, clean.plan.attention("global", layer) or ("qk",)
    if layer not in range(len(blocks)):
        raise ShapeError(f"layer {layer} does not exist; layers are 0..{len(blocks) - 1}")
    block = blocks[layer]
    (read,) = _image(clean)[None]  # no tail mixes a single token with others
    with full_precision(read.rest.device):
        reached, _ = _walk(clean, read)
        check_reached(reached, "global", layer)
    q, k, v = block.attn.project(block.ln1(clean.x[layer]), hooked=False)
    asking = q[:, :1] if attention == ("qk",) and not clean.plan.views else q  # other matrices need every token
    pattern = wide(block.attn.pattern(asking, k, v, attention, clean.passes))[:, :, 0]  # (B, H, T)
    with full_precision(read.rest.device):
        of_values = reached["global", layer].of_heads(v, block.attn.W_O)  # (B, T, H)
    return pattern * (of_values * wide(clean.weights["global"][layer])).mT


@torch.no_grad()
def head_maps(
    detector: Detector | HasDetector, images: Tensor, categories: Sequence[str] = ()
) -> dict[int, dict[str, Tensor]]:
    """What every head draws into every tap's margin map, ``{tap: {stream: [B, layers, H, rows, columns]}}``.

    ``tap_parts`` says which layers, and what else the map is made of.

    >>> from headlens.backbone import load
    >>> from headlens.detectors import build
    >>> maps = head_maps(build(load("mini")), torch.zeros(1, 3, 28, 42))
    >>> {stream: tuple(heads.shape) for stream, heads in maps[11].items()}
    {'global': (1, 5, 16, 2, 3), 'local': (1, 7, 16, 2, 3)}
    """
    clean = clean_forward(detector, images, categories)
    return {
        tap: {
            stream: clean.scoring.on_patches(heads.permute(0, 2, 3, 1), clean.grid).unflatten(
                -1, clean.grid
            )  # (B, N, l, H) -> (B, l, H, rows, columns)
            for stream, heads in tap_parts(clean, tap).heads.items()
        }
        for tap in clean.plan.taps
    }
