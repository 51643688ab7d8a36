"""CLIP's vision transformer, numerically open_clip's, with every head readable, weighable and removable.

image [B, 3, h, w]
  -> embed                global stream x [B, T, D], T = 1 + (h // p)(w // p)
  -> blocks 0 .. L-1      x, and from its start block the local stream y; head weights and gates at z
  -> CLS of x             -> ln_final -> proj -> embedding [B, d_e]
  -> patches at each tap  -> ln_final -> proj -> {tap: [B, N, d_e]}, of y where there is one, else of x
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformer_lens.hook_points import HookPoint

from headlens.backbone.blocks import HookedLayerNorm
from headlens.backbone.config import PositionRule, VisionConfig, check_blocks
from headlens.backbone.norm import Norm
from headlens.backbone.plan import STREAMS, LocalStream, TokenMap, VisionPlan
from headlens.backbone.tower import HookedTower
from headlens.errors import ShapeError


@dataclass(frozen=True)
class VisionOutput:
    """What the vision tower says of a batch. Nothing in it is L2-normalised.

    Attributes:
        embedding: [B, d_e], open_clip's ``encode_image``: CLS through ln_final and proj.
        cls: [B, D], the same token raw: the global stream's CLS after the last block, before ln_final.
        tapped: ``{tap: [B, N, D]}``, patch tokens after that block, raw, row by row; ``VisionTower.grid`` tells rows
            and columns. Of a plan with views, the CLS of each.
    """

    embedding: Tensor
    cls: Tensor
    tapped: dict[int, Tensor]
    readout: TokenMap = field(repr=False)

    @property
    def patches(self) -> dict[int, Tensor]:
        """Patch tokens of each tap through ln_final and proj, ``{tap: [B, N, d_e]}``."""
        return {tap: self.readout(tokens) for tap, tokens in self.tapped.items()}


def resized_positions(positions: Tensor, old: tuple[int, int], new: tuple[int, int], rule: PositionRule) -> Tensor:
    """The positional embedding [1 + rows * columns, D] of CLS and a grid of patches, for another grid."""
    cls, patches = positions[:1], positions[1:]
    # Half precisions are resized in float32, as a checkpoint is before it is cast.
    image = patches.T.unflatten(1, old)[None]  # (N, D) -> (1, D, rows, columns)
    image = image.float() if image.dtype in (torch.float16, torch.bfloat16) else image
    mode = rule.removesuffix("-plain")
    image = F.interpolate(image, size=new, mode=mode, antialias=rule == "bicubic", align_corners=False)
    return torch.cat([cls, image[0].flatten(1).T.to(cls.dtype)])


class VisionTower(HookedTower):
    """CLIP's image encoder.

    Hook points, besides those of each block (``blocks.{l}.…``): ``hook_embed`` [B, T, D], the stream entering block 0,
    before views stand in it, and ``ln_final.hook_scale`` [B, T, 1], the scale in the way of CLS to the embedding; taps
    are read past it.

    >>> from headlens.backbone.config import architecture
    >>> tower = VisionTower(architecture("ViT-S-32").vision)
    >>> out = tower(torch.zeros(2, 3, 224, 224), VisionPlan(taps=(5, 11)))
    >>> out.embedding.shape, out.patches[5].shape
    (torch.Size([2, 384]), torch.Size([2, 49, 384]))
    """

    cfg: VisionConfig

    def __init__(self, cfg: VisionConfig) -> None:
        super().__init__(cfg, local=True)
        self.class_embedding = nn.Parameter(torch.empty(cfg.d_model))
        self.positional_embedding = nn.Parameter(torch.empty(1 + cfg.grid[0] * cfg.grid[1], cfg.d_model))
        self.conv1 = nn.Conv2d(3, cfg.d_model, cfg.patch_size, stride=cfg.patch_size, bias=False)
        self.ln_pre = nn.LayerNorm(cfg.d_model, eps=cfg.eps)
        self.ln_final = HookedLayerNorm(cfg.d_model, eps=cfg.eps)
        self.proj = nn.Parameter(torch.empty(cfg.d_model, cfg.d_embed))
        self.hook_embed = HookPoint()
        self.setup()

    @property
    def bypassed(self) -> tuple[str, ...]:
        """As of every tower, and ``ln_final``, whose weights alone read the taps out."""
        return (*super().bypassed, "ln_final")

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of patches for an image of that size; a remainder is left out, as in open_clip."""
        return height // self.cfg.patch_size, width // self.cfg.patch_size

    def positions(self, grid: tuple[int, int]) -> Tensor:
        """The positional embedding for a grid of patches, [1 + rows * columns, D].

        Other grids than the trained one are interpolated: ``bicubic`` with antialias (open_clip), ``bicubic-plain``
        without (AdaCLIP) or ``bilinear`` without (AnomalyCLIP's family), by ``cfg.position_rule``. The parameter itself
        is never changed.
        """
        if grid == self.cfg.grid:
            return self.positional_embedding
        return resized_positions(self.positional_embedding, self.cfg.grid, grid, self.cfg.position_rule)

    def embed(self, images: Tensor) -> Tensor:
        """Normalised images [B, 3, h, w] to the global stream before block 0, [B, 1 + N, D].

        Raises:
            ShapeError: not [B, 3, h, w], or smaller than one patch.
        """
        if not images.is_floating_point():
            raise ShapeError(f"images are {images.dtype}; expected normalised floating point, as preprocess returns")
        if images.ndim != 4 or images.shape[1] != 3 or min(images.shape[2:]) < self.cfg.patch_size:
            expected = f"[B, 3, h, w] with h, w >= {self.cfg.patch_size}"
            raise ShapeError(f"images have shape {tuple(images.shape)}; expected {expected}")
        x = self.conv1(images.to(self.conv1.weight.dtype)).flatten(2).transpose(1, 2)  # (B, D, r, c) -> (B, N, D)
        x = torch.cat([self.class_embedding.expand(x.shape[0], 1, -1), x], dim=1)
        x = self.ln_pre(x + self.positions(self.grid(images.shape[2], images.shape[3])))
        # Where autocast rounds products, the stream that they are added to stays as fine as it is on every device.
        return x.to(torch.promote_types(x.dtype, torch.float32)) if torch.is_autocast_enabled(x.device.type) else x

    def readout(self, tokens: Tensor) -> Tensor:
        """Tokens of a residual stream [..., D] to the joint space [..., d_e]: ln_final, then proj."""
        return Norm.forward(self.ln_final, tokens) @ self.proj  # without the hook at its scale

    def forward(
        self,
        images: Tensor,
        plan: VisionPlan = VisionPlan(),  # noqa: B008  # frozen
        *,
        gates: Mapping[str, Tensor] | None = None,
        start_at: int | None = None,
        local_resid: Tensor | None = None,
        past: Mapping[int, Tensor] | None = None,
        hooked: bool = True,
    ) -> VisionOutput:
        """Runs a batch of images, or resumes from a residual stream.

        Args:
            images: normalised images [B, 3, h, w]; with ``start_at``, the global stream [B, T, D] entering that block.
            plan: taps, local stream, head weights, adapters and extra tokens; with ``start_at``, taps before it are
                skipped.
            gates: analysis multipliers ``{stream: [B, L, H]}`` of heads, next to the head weights; [1, L, H] serves
                every image, and one image may meet any number of gates.
            start_at: restart at this block, from the value of its ``hook_resid_pre``, extra tokens
                included; ``n_layers`` only reads the CLS token out.
            local_resid: the local stream [B, T, D] entering block ``start_at``, when it exists by then.
            past: the global stream [B, T, D] entering blocks below ``start_at`` that the plan looks back at.
            hooked: False calls no hook point: for ``torch.compile`` and long sweeps. Hooks are then not seen.

        Raises:
            ShapeError: a tensor, stream or block number that does not fit this tower.
        """
        local, taps = plan.local, plan.taps
        self._check(plan)
        weights = self._multipliers("global", plan, gates, images.shape[0])
        local_weights = self._multipliers("local", plan, gates, images.shape[0])

        first, x, y = start_at or 0, images, local_resid
        if start_at is not None:
            self._check_restart(x, y, first, local)
            if missing := [block for block in plan.past if block < first and block not in (past or {})]:
                raise ShapeError(f"start_at={first} lies above block {missing[0]}, which is looked back at: give past")
        elif y is not None:
            raise ShapeError("local_resid goes with start_at")
        else:
            x = self.embed(images)
            x = self.hook_embed(x) if hooked else x
            x = x[:, plan.sources(x.shape[1] - 1)] if plan.views else x
        n_patches, passes = x.shape[1] - 1 - plan.in_views, plan.passes(x.shape[1])
        present = [block for block in plan.tokens if start_at is not None and block <= start_at]
        if present:
            n_patches -= plan.tokens[max(present)].shape[-2]

        # After the last block nobody needs the global stream's patches, unless somebody looks.
        last = self.cfg.n_layers - 1
        cls_only = not hooked and (plan.beside is not None or (local is None and last not in taps))
        cls_only = cls_only and plan.adapter("global", last) is None and not plan.views and plan.copies == 1
        tapped: dict[int, Tensor] = {}
        seen = dict(past or {})
        for number in range(first, last + 1):
            here = local if local is not None and number >= local.start else None
            here = plan.local_at(number) if plan.copies > 1 else here
            if number in plan.tokens:
                x = x if number in present else replace_extra(x, n_patches, plan.tokens[number])
                y = None if y is None else replace_extra(y, n_patches, plan.tokens[number])
            if number in plan.past:
                seen[number] = x
            x, y = self.blocks[number](
                x,
                y,
                local=here,
                weight=None if weights is None else weights[:, number],
                local_weight=None if local_weights is None else local_weights[:, number],
                adapter=plan.adapter("global", number),
                local_adapter=plan.adapter("local", number),
                cls_only=cls_only and number == last,
                hooked=hooked,
                passes=passes,
                past=seen,
            )
            if number in taps:
                tapped[number] = (x if y is None else y)[:, plan.read_at(n_patches)]  # (B, T, D) -> (B, N, D)

        embedding = self.ln_final(x)[:, 0] @ self.proj if hooked else self.readout(x[:, 0])
        return VisionOutput(embedding, x[:, 0].clone(), tapped, self.readout)  # a view would keep the whole stream

    def _multipliers(
        self, stream: str, plan: VisionPlan, gates: Mapping[str, Tensor] | None, batch: int
    ) -> Tensor | None:
        """Head weights times gates of one stream, [B or 1, L, H], or None where there is neither."""
        grid = (self.cfg.n_layers, self.cfg.n_heads)
        product: Tensor | None = None
        for what, given, shape in (("head_weights", plan.head_weights, "[L, H]"), ("gates", gates, "[B, L, H]")):
            given = {} if given is None else given
            if not isinstance(given, Mapping):
                raise ShapeError(f"{what} is {type(given).__name__}; expected a dict, such as {{'global': tensor}}")
            if unknown := set(given) - set(STREAMS):
                raise ShapeError(f"{what}: stream {sorted(unknown)[0]!r} does not exist; streams are {STREAMS}")
            if "local" in given and plan.beside is None:
                raise ShapeError(f"{what}['local'] given, but there is no local stream")
            if stream not in given:
                continue
            value = given[stream]
            if value.ndim != (2 if what == "head_weights" else 3) or value.shape[-2:] != grid:
                expected = f"{shape} with L, H = {grid}"
                raise ShapeError(f"{what}[{stream!r}] has shape {tuple(value.shape)}; expected {expected}")
            value = value[None] if value.ndim == 2 else value
            if value.shape[0] not in (1, batch) and batch != 1:
                raise ShapeError(f"{what}[{stream!r}] holds {value.shape[0]} gates for a batch of {batch} images")
            product = value if product is None else product * value
        return None if product is None else product.to(self.proj.dtype)  # learned in float32, used in the tower's

    def _check(self, plan: VisionPlan) -> None:
        depth = self.cfg.n_layers
        check_blocks(plan.taps, depth, "taps")
        if plan.local is not None:
            check_blocks([plan.local.start], depth, "local stream start")
        if "local" in plan.adapters and plan.beside is None:
            raise ShapeError("adapters['local'] given, but there is no local stream")
        if unknown := set(plan.adapters) - set(STREAMS):
            raise ShapeError(f"adapters: stream {sorted(unknown)[0]!r} does not exist; streams are {STREAMS}")
        for stream, adapters in plan.adapters.items():
            check_blocks(list(adapters), depth, f"{stream} adapters")
        check_blocks(list(plan.tokens), depth, "extra tokens")

    def _check_restart(self, x: Tensor, y: Tensor | None, start_at: int, local: LocalStream | None) -> None:
        depth = self.cfg.n_layers
        if not 0 <= start_at <= depth:
            raise ShapeError(f"start_at={start_at} does not exist; blocks are 0..{depth - 1}, and {depth} reads out")
        if x.ndim != 3 or x.shape[-1] != self.cfg.d_model:
            stream = f"a residual stream [B, T, {self.cfg.d_model}]"
            raise ShapeError(f"with start_at={start_at} the input is {stream}, not {tuple(x.shape)}")
        running = local is not None and local.mode == "beside" and local.start < start_at
        if running and (y is None or y.ndim != 3 or y.shape[::2] != x.shape[::2]):
            where = f"start_at={start_at} lies above the local stream's start {local.start if local else None}"
            shapes = f"{tuple(x.shape)}, not {None if y is None else tuple(y.shape)}"
            raise ShapeError(f"{where}: local_resid must have the shape {shapes}")
        if y is not None and not running:
            raise ShapeError(f"local_resid given, but no local stream is running before block {start_at}")


def replace_extra(stream: Tensor, n_patches: int, tokens: Tensor) -> Tensor:
    """The stream [B, 1 + N + old, D] with ``tokens`` [n, D] or [B, n, D] as its extra tokens."""
    batch, width = stream.shape[0], stream.shape[2]
    if tokens.ndim not in (2, 3) or tokens.shape[-1] != width or tokens.shape[:-2] not in ((), (1,), (batch,)):
        expected = f"[n, {width}] or [{batch}, n, {width}]"
        raise ShapeError(f"extra tokens have shape {tuple(tokens.shape)}; expected {expected}")
    patches = stream[:, : 1 + n_patches]
    return torch.cat([patches, tokens.to(patches).expand(patches.shape[0], -1, -1)], dim=1)
