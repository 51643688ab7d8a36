"""What holds of every method whatever it is made of: sums of parts, ways to take a head away, gradients, plain CLIP."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from headlens.backbone.vision import replace_extra
from headlens.detectors import Detector, Margins, build
from headlens.errors import ConfigError
from headlens.heads import Variant, clean_forward, gate_gradients, heads_of, single_heads
from headlens.heads.direct import check_streams, image_parts, tap_parts
from headlens.heads.measuring import PROBES, measure
from tests.backbone.models import close, random_clip
from tests.heads.oracles import HOOKS
from tests.methods.cases import PLAIN, clip_of, pair_of, preset_of, projected_as_clip
from tests.tiny import EVEN, SENTENCES

STEP = 1e-6


def same(found: Margins, expected: Margins, tolerance: float = 1e-10) -> None:
    """Raises AssertionError for margins of images or patches that differ."""
    close(found.image, expected.image, tolerance)
    assert found.taps.keys() == expected.taps.keys()
    for tap, margins in expected.taps.items():
        close(found.taps[tap], margins, tolerance)


def few(detector: Detector) -> list[Variant]:
    """Heads from the first layer to the last, in every stream."""
    return single_heads(heads_of(detector)[::5])


@torch.no_grad()
def test_parts_add_up_to_both_margins(detector, shown):
    margins, clean = detector.margins(shown), clean_forward(detector, shown)
    if clean.reading.image_contrast.opaque:
        with pytest.raises(ConfigError, match="not a sum over heads"):
            image_parts(clean)
    else:
        close(image_parts(clean).total, margins.image)
    for tap, expected in margins.taps.items():
        if (tail := clean.reading.taps[tap].tail) is not None and tail.opaque:
            with pytest.raises(ConfigError, match="not sums over heads"):
                tap_parts(clean, tap)
        else:
            close(tap_parts(clean, tap).total, expected)
    check_streams(clean, torch.float64)


@torch.no_grad()
def test_what_is_written_adds_up_to_the_streams(detector, shown):
    """By hooks alone: heads, biases, MLPs, adapters and extra tokens of every block, of both streams."""
    vision, plan = detector.backbone.vision, detector.reading(shown).plan
    _, cache = vision.run_with_cache(shown, plan, names_filter=lambda name: True)
    for stream in plan.streams:
        infix = "local_" if stream == "local" else ""
        layers = range(plan.beside.start if stream == "local" else 0, len(vision.blocks))
        x = cache[f"blocks.{layers[0]}.hook_resid_pre"]
        if stream == "local" and plan.source is not None:
            seen = {block: cache[f"blocks.{block}.hook_resid_pre"] for block in plan.past}
            x = plan.source(vision.blocks[layers[0]], seen).begin
        for layer in layers:
            at = f"blocks.{layer}."
            if layer in plan.tokens:
                x = replace_extra(x, shown[0, 0].numel() // vision.cfg.patch_size**2, plan.tokens[layer])
            written = cache[f"{at}attn.hook_{infix}result"].sum(2) + vision.blocks[layer].attn.b_O
            x = written + torch.nn.functional.pad(x, (0, 0, 0, written.shape[1] - x.shape[1]))  # more tokens begin at 0
            x = x + cache[f"{at}hook_{infix}mlp_out"] if plan.has_mlp(stream, layer) else x
            adapter = plan.adapter(stream, layer)
            x = x if adapter is None else adapter(x)
            close(cache[f"{at}hook_{infix}resid_post"], x)


def by_hook(detector: Detector, images: Tensor, variant: Variant) -> Margins:
    """A head's output is set to zero as it is written."""
    head = variant.heads[0]

    def zero(z, hook):
        return torch.cat([z[:, :, : head.head], 0 * z[:, :, head.head : head.head + 1], z[:, :, head.head + 1 :]], 2)

    reading = detector.reading(images)
    with detector.backbone.vision.hooks([(HOOKS[head.stream].format(head.layer), zero)]):
        return reading.margins(reading.features(detector.see(images, reading)))


def by_gate(detector: Detector, images: Tensor, variant: Variant) -> Margins:
    """Its gate is shut."""
    return detector.margins(images, gates=shut(detector, variant))


def by_restart(detector: Detector, images: Tensor, variant: Variant) -> Margins:
    """The tower goes on at the head's block, from what entered it; what lies below stays as it was."""
    vision, reading, layer = detector.backbone.vision, detector.reading(images), variant.heads[0].layer
    out, cache = vision.run_with_cache(images, reading.plan)
    local = cache.cache_dict.get(f"blocks.{layer - 1}.hook_local_resid_post")
    past = {block: cache["resid_pre", block] for block in reading.plan.past if block < layer}
    options = {"start_at": layer, "local_resid": local, "past": past, "gates": shut(detector, variant)}
    again = vision(cache["resid_pre", layer], reading.plan, **options)
    return reading.margins(reading.features(replace(again, tapped=out.tapped | again.tapped)))


def shut(detector: Detector, variant: Variant) -> dict[str, Tensor]:
    """Gates that are open but for one head."""
    cfg, head = detector.backbone.vision.cfg, variant.heads[0]
    gates = torch.ones(1, cfg.n_layers, cfg.n_heads, dtype=torch.float64)
    gates[:, head.layer, head.head] = 0
    return {head.stream: gates}


@torch.no_grad()
def test_hook_gate_restart_and_wavefront_take_a_head_away_alike(detector, shown):
    variants, plain = few(detector), detector.margins(shown)
    clean = clean_forward(detector, shown)
    swept = measure(clean, [*variants, *(PROBES[stream] for stream in clean.plan.streams)])
    moved = 0.0
    for row, variant in enumerate(variants):
        expected = by_hook(detector, shown, variant)
        for way in (by_gate, by_restart):
            same(way(detector, shown, variant), expected)
        close(swept.image_margin[row], expected.image)
        close(swept.patch_map[row], detector.scoring.patch_maps(expected, clean.grid))
        close(swept.joint_score[row], detector.score(expected, clean.size).joint_score)
        moved = max(moved, float((expected.image - plain.image).abs().max()))
    assert moved > 1e-3, "heads must do something"
    for row in range(len(variants), len(swept.image_margin)):  # what ablates nothing
        close(swept.image_margin[row], plain.image)


def test_gradients_by_gates_are_finite_differences(detector, shown):
    _, gradients = gate_gradients(detector, shown, "image_margin")
    shape = gradients["global"].shape
    for variant in few(detector):
        head, ends = variant.heads[0], []
        for step in (-STEP, STEP):
            gates = torch.ones(shape, dtype=torch.float64)
            gates[:, head.layer, head.head] += step
            ends.append(detector.margins(shown, gates={head.stream: gates}).image)
        close(gradients[head.stream][:, head.layer, head.head], (ends[1] - ends[0]) / (2 * STEP), 1e-6)


@torch.no_grad()
def test_parts_switched_off_leave_plain_clip(case, shown):
    """open_clip's own embeddings, against the two prompts."""
    if case not in PLAIN:
        pytest.skip("what is above frames is never switched off")
    detector = projected_as_clip(build(clip_of(case), preset_of(case), **PLAIN[case]))
    theirs = random_clip(EVEN if preset_of(case) == "crane" else SENTENCES)
    (normal, abnormal), shown = pair_of(detector), shown[..., :32]
    margins, reading = detector.margins(shown), detector.reading(shown)
    temperature = getattr(reading.text, "temperature", 0.07)
    if detector.reads_map:
        normed = reading.taps[3].norm is not None
        last = theirs.visual.forward_intermediates(shown, indices=1, normalize_intermediates=normed, output_fmt="NLC")
        patches = torch.nn.functional.normalize(last["image_intermediates"][0] @ theirs.visual.proj, dim=-1)
        close(margins.taps[3], (patches @ abnormal - patches @ normal) / temperature)
    if reading.pooling.reads_cls:
        embedding = torch.nn.functional.normalize(theirs.encode_image(shown), dim=-1)
        close(margins.image, (embedding @ abnormal - embedding @ normal) / temperature)
    else:
        close(margins.image, patches.mean(1) @ abnormal)
    close(detector(shown).joint_score, detector.scoring.image_score(margins.image))


@torch.no_grad()
def test_one_image_is_as_good_as_many(detector, shown):
    together = detector(shown)
    for i in range(len(shown)):
        alone = detector(shown[i : i + 1])
        for name in ("anomaly_map", "image_score", "joint_score", "image_margin"):
            close(getattr(alone, name), getattr(together, name)[i : i + 1], 1e-12)
    clean = [measure(clean_forward(detector, some), few(detector)) for some in (shown, shown[1:2])]
    close(clean[1].joint_margin, clean[0].joint_margin[:, 1:2])


@torch.no_grad()
def test_gates_of_one_and_hooks_that_only_look_change_nothing(detector, shown):
    cfg, expected = detector.backbone.vision.cfg, detector.margins(shown)
    for stream in detector.plan.streams:
        gates = {stream: torch.ones(len(shown), cfg.n_layers, cfg.n_heads, dtype=torch.float64)}
        same(detector.margins(shown, gates=gates), expected, 0.0)
        with detector.backbone.vision.hooks([(HOOKS[stream].format(3), lambda z, hook: None)]):
            same(detector.margins(shown), expected, 1e-12)
