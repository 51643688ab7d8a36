"""More images of the clinic, for pre-training alone: sections, projections and photographs, none of the catalogue's.

All but the last one are endless: no two images share an anatomy.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from headlens.data.procedural.canvas import Canvas, blur, over
from headlens.data.procedural.clinical import camera, photograph
from headlens.data.procedural.draw import Draw
from headlens.data.procedural.fields import cells, colour, grain, noise, ramp, relief, smooth
from headlens.data.procedural.scans import bone, bright, film, grey, patient, walks
from headlens.data.procedural.scene import Category, Finish, Scene, ScenePainter
from headlens.data.procedural.sections import wobble

WINDOWS = torch.tensor([[40.0, 400.0], [60.0, 250.0], [-450.0, 1500.0], [350.0, 1800.0]])
"""Level and width in Hounsfield units, as readers set them for soft tissue, organs, lungs and bones."""
HOT = (
    ((0, 1), (0.3, 1.0), (0.0, 0.1)),
    ((0, 1), (0.6, 1.0), (0.2, 0.5)),
    ((0, 1), (0.4, 1.0), (0.6, 0.9)),
    ((0, 1), (0.0, 0.3), (0.9, 1.0)),
)
"""Hue, saturation and value of the colours that a tracer is shown in, from little of it to much."""


def _mixed(draw: Draw, one: Tensor, other: Tensor, p: float = 0.5) -> Tensor:
    """``one`` in a share ``p`` of the images, ``other`` in the rest."""
    return torch.where(draw.chance(p) > 0, one, other)


def _windowed(draw: Draw, density: Tensor) -> Tensor:
    """Tones 0..1 of a density in Hounsfield units, through one of the usual windows."""
    level, width = draw.pick(WINDOWS).split(1, 1)
    return ((density - level) / (width * draw.uniform(0.8, 1.25)) + 0.5).clamp(0, 1)


def random_joint(draw: Draw, at: Canvas) -> Scene:
    """MRI or CT of a joint that does not exist: bones that fit each other, cartilage, fluid, tendons, muscles, fat."""
    at = patient(draw, at, 3.1416, (0.8, 1.3), 0.05)
    gap, turn = draw.uniform(0.02, 0.06), draw.uniform(0, 6.2832)
    bones = torch.full_like(at.x, 9.0)
    for number in range(4):
        here = at.turned(turn).moved(0.0, draw.uniform(0.0, 0.08))
        half, long = draw.uniform(0.12, 0.3), draw.uniform(0.6, 2.6)
        knob = here.moved(0.0, half).ellipse(half * draw.uniform(0.9, 1.6), half * draw.uniform(0.8, 1.2))
        shaft = bone(here, 0.5 * half, long, half * draw.uniform(0.45, 0.9), half * draw.uniform(0.1, 0.7))
        form = torch.minimum(knob, shaft + 9 * draw.chance(0.3)) + 0.012 * noise(draw, at, 7, 2)
        form = torch.maximum(form, gap - bones)  # it fits what is there
        bones = torch.minimum(bones, form if number < 2 else form + 9 * draw.chance(0.5))
        turn = turn + draw.uniform(2.2, 4.0) if number == 0 else turn + draw.uniform(0.9, 2.5)
    limb = _mixed(draw, at.box(draw.uniform(0.6, 1.0), 2.5), at.ellipse(draw.uniform(0.8, 1.1), 0.9), 0.6)
    limb = torch.minimum(limb, bones - draw.uniform(0.08, 0.2))
    fat, flesh, marrow, fluid = (draw.uniform(*span) for span in ((0.1, 0.9), (0.2, 0.5), (0.1, 0.9), (0.05, 0.98)))
    bony = _mixed(draw, draw.uniform(0.85, 1.0), draw.uniform(0.0, 0.12), 0.3)  # compact bone: CT, or MRI
    along = at.turned(draw.uniform(-0.4, 0.4))
    tone = over(0.03 + 0 * at.x, fat + 0.07 * noise(draw, at, 8, 3), smooth(0.01, -0.01, limb))
    near, other, lot = cells(draw, wobble(draw, along, 0.06, 3).scaled(1.0, draw.uniform(0.8, 4.0)), 4.5, 0.9)
    belly = smooth(0.02, 0.1, other - near - draw.uniform(0, 0.15)) * smooth(0.0, -0.04, limb + draw.uniform(0.04, 0.2))
    streak = noise(draw, along, 16, 3, 0.7, stretch=6)
    tone = over(tone, flesh * (0.85 + 0.3 * lot) * (1 + 0.3 * streak), belly * (lot < draw.uniform(0.5, 1.0)))
    middle = at.disc(draw.uniform(0.3, 0.5))
    pouch = wobble(draw, at, 0.1, 4).ellipse(draw.uniform(0.1, 0.4), draw.uniform(0.05, 0.3))
    tone = over(tone, fluid, smooth(0.015, -0.01, pouch) * draw.chance(0.6))
    tone = over(tone, draw.uniform(0.2, 0.8), smooth(gap, 0.6 * gap, bones) * smooth(0.1, 0.0, middle))
    many = (4, 1, 1)
    x, y = draw.uniform(-0.4, 0.4, many), draw.uniform(-0.4, 0.4, many)
    cords = walks(draw, at, x, y, draw.uniform(0, 6.3, many), (0.4, 1.2), 0.25, 4).amin(1, keepdim=True)
    tone = over(tone, draw.uniform(0.02, 0.3), smooth(0.035, 0.02, cords) * smooth(0.0, 0.02, bones) * at.fill(limb))
    inner = marrow * (1 + draw.uniform(0.08, 0.25) * noise(draw, at, 26, 3, 0.8) + 0.08 * noise(draw, at, 4, 2))
    tone = over(tone, inner, smooth(0.008, -0.008, bones))
    rim = draw.uniform(0.008, 0.022)
    tone = over(tone, bony, 0.9 * smooth(rim, 0.4 * rim, (bones + 0.6 * rim).abs()))
    region = smooth(0.0, -0.03, torch.maximum(limb + 0.02, _mixed(draw, bones, middle)))
    return grey(draw, tone.clamp(0, 1), region, bright(draw) * (1 - 2 * draw.chance(0.5)))


def random_ct(draw: Draw, at: Canvas) -> Scene:
    """CT section of no region of the body: fat, wall, organs, lungs, gut with air, bones, vessels with dye, a table."""
    at = patient(draw, at, 0.5, (0.85, 1.2), 0.05)
    wide, tall = draw.uniform(0.6, 1.0), draw.uniform(0.5, 0.85)
    body = _mixed(draw, at.ellipse(wide, tall), at.box(wide, tall, 0.35), 0.7)
    fat, wall = draw.uniform(0.02, 0.2), draw.uniform(0.03, 0.14)
    inner, dye = body + fat + wall, draw.chance(0.6) * draw.uniform(40, 300)
    density = over(-1000 + 0 * at.x, -105 + 12 * noise(draw, at, 8, 2), at.fill(body))
    stripe = smooth(0.5, 0.8, noise(draw, at, 7, 2)) * draw.uniform(0, 1)
    density = over(density, 55 - 140 * stripe, at.fill(body + fat))
    density = over(density, draw.uniform(-110, 30) + 15 * noise(draw, at, 6, 3), at.fill(inner))
    x = torch.where(draw.chance(0.5) > 0, at.x.abs(), at.x)  # in half of them, what is on the left is on the right
    both = wobble(draw, Canvas(x, at.y, at.pixel), 0.04, 4)
    grains = 10 * noise(draw, at, 9, 3)
    near, other, lot = cells(draw, both.scaled(draw.uniform(0.7, 1.4)), 6, 0.9)
    filling = torch.where(lot < 0.3, -950.0, torch.where(lot < 0.5, 1.5 * dye, 20.0)) + grains
    gut = over(filling, 45 + grains, smooth(0.22, 0.14, other - near))
    part = at.turned(draw.uniform(0, 6.3)).x + draw.uniform(-0.3, 0.5)
    density = over(
        density, gut, at.fill(torch.maximum(part, inner + 0.02)) * draw.chance(0.5) * smooth(0.06, 0.1, other - near)
    )
    for number in range(6):
        here = both.moved(draw.uniform(-0.6, 0.6), draw.uniform(-0.5, 0.5)).turned(draw.uniform(0, 6.3))
        size = draw.uniform(0.12, 0.45)
        organ = torch.maximum(here.ellipse(size, size * draw.uniform(0.4, 1.0)), inner + 0.015)
        aired = draw.chance(0.5 if number < 2 else 0.05)
        value = draw.uniform(10, 90) + draw.uniform(0, 0.6) * dye + grains
        value = value + draw.uniform(-0.4, 0.6) * dye * smooth(-0.1, 0.0, organ)  # dye in its cortex, or in its core
        shown = draw.chance(0.7) * at.fill(organ)
        density = over(density, over(value, -850.0, aired), shown)
    many = (7, 1, 1)
    start = draw.uniform(-0.6, 0.6, many), draw.uniform(-0.5, 0.5, many)
    tree = walks(draw, both, *start, draw.uniform(0, 6.3, many), (0.1, 0.5), 0.8, 4)
    vessels = smooth(1.0, 0.6, (tree / draw.uniform(0.01, 0.03, many)).amin(1, keepdim=True))
    dots, _, lot = cells(draw, both, 5)
    vessels = torch.maximum(vessels, smooth(0.0, -0.04, dots - 0.4 * lot) * (lot < 0.6)) * at.fill(inner + 0.02)
    density = over(density, 40 + dye, vessels * draw.chance(0.8))
    row = torch.atan2(at.y, at.x) * (3 + draw.integers(8)) + 0.8 * noise(draw, at, 3, 2)
    ribs = smooth(0.2, 0.4, row.cos() + noise(draw, at, 2) - 0.3)
    ribs = ribs * at.line(body + fat + 0.5 * wall, draw.uniform(0.3, 0.7) * wall) * draw.chance(0.5)
    density = over(density, 350 + 500 * smooth(0.1, 0.3, ribs), ribs)
    for number in range(3):
        here = both.moved(draw.uniform(-0.6, 0.6), draw.uniform(-0.6, 0.6)).turned(draw.uniform(0, 6.3))
        size = draw.uniform(0.06, 0.2)
        form = _mixed(draw, here.ellipse(size, size * draw.uniform(0.4, 1.0)), here.box(0.25, 0.4 * size, 0.03), 0.7)
        form = torch.maximum(form, body + fat) + (9 * (1 - draw.chance(0.5)) if number else 0)
        cortex = smooth(0.035, 0.01, (form + 0.015).abs())
        density = over(density, draw.uniform(100, 350) + 60 * noise(draw, at, 30, 2) + 750 * cortex, at.fill(form))
    table = at.y - draw.uniform(0.85, 1.0) + draw.uniform(0, 0.25) * at.x.square()
    density = torch.where(body > 0, over(density, -200.0, at.line(table, 0.03) * draw.chance(0.5)), density)
    region = smooth(-0.01, -0.05, inner)
    return grey(draw, _windowed(draw, density), region, bright(draw) * (1 - 2 * draw.chance(0.5)))


def random_soft_xray(draw: Draw, at: Canvas) -> Scene:
    """Radiograph of soft tissue of no organ: strands and clouds that overlap, fat, septa, vessels, faint outlines."""
    at = patient(draw, at, 3.1416, (0.7, 1.3), 0.06)
    strip, blob = at.box(draw.uniform(0.45, 1.0), 2.5, 0.3), at.ellipse(draw.uniform(0.7, 1.1), draw.uniform(0.5, 1.0))
    flow = wobble(draw, at, 0.08, 3)
    flesh = _mixed(draw, strip, blob) + 0.06 * noise(draw, at, 3, 2) - 9 * draw.chance(0.4)
    depth = smooth(0.0, -draw.uniform(0.08, 0.6), flesh)
    share = draw.uniform(-0.4, 1.2)
    cloud = noise(draw, at, 3, 4, 0.65)
    tone = (
        draw.uniform(0.12, 0.3) * depth.sqrt()
        + draw.uniform(0.1, 0.45) * smooth(-0.7 - share, 1.5 - share, cloud) * depth
    )
    for _ in range(3):
        run = flow.turned(draw.uniform(0, 3.2))
        ridge = smooth(draw.uniform(0.08, 0.3), 0.0, noise(draw, run, 7, 2, 0.7, stretch=3).abs())
        tone = tone + draw.uniform(0.0, 0.16) * ridge * depth * smooth(-0.6, 0.6, noise(draw, at, 2.5, 2))
    near, other, lot = cells(draw, flow, 5, 1.0)
    septum = smooth(draw.uniform(0.06, 0.3), 0.0, other - near) - 0.5 * (lot < 0.3).float()
    tone = tone + draw.chance(0.45) * draw.uniform(0.02, 0.14) * septum * depth
    for _ in range(3):
        here = at.moved(draw.uniform(-0.7, 0.7), draw.uniform(-0.7, 0.7)).turned(draw.uniform(0, 6.3))
        form = here.ellipse(draw.uniform(0.2, 0.9), draw.uniform(0.15, 0.6)) + 0.03 * noise(draw, at, 5, 2)
        body = draw.uniform(-0.08, 0.12) * smooth(0.03, -draw.uniform(0.05, 0.3), form)
        tone = tone + draw.chance(0.6) * depth * (body + draw.uniform(0, 0.08) * smooth(0.02, 0.0, form.abs()))
    many = (8, 1, 1)
    x, y = draw.uniform(-1, 1, many), draw.uniform(-1, 1, many)
    width = draw.uniform(0.006, 0.03, many)
    threads = smooth(1.0, 0.3, walks(draw, at, x, y, draw.uniform(0, 6.3, many), (0.5, 1.6), 0.4, 4) / width)
    threads = (threads * draw.uniform(0.0, 0.15, many)).amax(1, keepdim=True)
    tone = tone + depth * (threads + 0.03 * noise(draw, at, 26, 3, 0.8))
    tone = tone + draw.chance(0.5) * draw.uniform(0.03, 0.12) * smooth(0.03, 0.0, (flesh + 0.02).abs())
    negative = draw.chance(0.25)
    tone = tone * draw.uniform(0.9, 1.5) + draw.uniform(0.0, 0.08)
    tone = tone.clamp(0, 1) + (1 - 2 * tone.clamp(0, 1)) * negative
    return grey(draw, tone, smooth(-0.04, -0.1, flesh), bright(draw) * (1 - 2 * negative))


def random_photograph(draw: Draw, at: Canvas) -> Scene:
    """Photograph of a surface of the body at no named place: pores, furrows, pigment, vessels, hairs, wet or dry."""
    at = at.posed(draw, 3.1416, (0.6, 1.4), 0.2)
    flow = wobble(draw, at, 0.06, 3)
    usual = colour(draw, (-0.06, 0.1), (0.15, 0.75), (0.4, 0.98))
    base = _mixed(draw, usual, colour(draw, (0, 1), (0.0, 0.6), (0.25, 0.95)), 0.75)
    tint = [draw.uniform(*span) for span in ((0.6, 1.0), (0.35, 0.95), (0.35, 0.95))]
    deep, pale = base * torch.cat(tint, 1), over(base, torch.ones_like(base), draw.uniform(0.0, 0.5))
    cloud, fine = noise(draw, flow, 3, 4, 0.65), noise(draw, at, 30, 3, 0.8)
    image = ramp(0.5 + draw.uniform(0.05, 0.4) * cloud + draw.uniform(0.0, 0.15) * fine, deep, base, pale)
    size = draw.uniform(0.4, 1.8)
    near, other, lot = cells(draw, flow.scaled(size, size * draw.uniform(0.5, 2.5)), 12, 0.9)
    furrow = smooth(draw.uniform(0.1, 0.4), 0.0, other - near) * draw.chance(0.5)
    pores = smooth(draw.uniform(0.15, 0.5), 0.05, near) * (lot < draw.uniform(0.2, 1.0)) * draw.chance(0.5)
    image = image * (1 - draw.uniform(0.0, 0.3) * furrow)
    image = over(image, _mixed(draw, pale, deep * 0.8), draw.uniform(0.0, 0.7) * pores)
    waves = draw.uniform(3, 16) * at.y + draw.uniform(0.5, 3) * noise(draw, flow, 2.5, 2)
    wrinkle = (1 - waves.sin().abs()) * draw.chance(0.4) * smooth(-0.8, 0.6, noise(draw, at, 2, 2))
    image = image * (1 - 0.35 * wrinkle.square())
    spot = smooth(0.5, draw.uniform(0.7, 1.6), noise(draw, flow, 5, 3))
    image = over(image, colour(draw, (-0.08, 0.12), (0.2, 0.8), (0.2, 0.95)), draw.chance(0.5) * 0.6 * spot)
    many = (9, 1, 1)
    x, y = draw.uniform(-1, 1, many), draw.uniform(-1, 1, many)
    width = draw.uniform(0.006, 0.03, many)
    tree = smooth(1.0, 0.2, walks(draw, flow, x, y, draw.uniform(0, 6.3, many), (0.4, 1.4), 0.7, 5) / width)
    vessel = (tree * draw.uniform(0.1, 0.7, many)).amax(1, keepdim=True) * draw.chance(0.55)
    image = over(image, _mixed(draw, deep * 0.75, colour(draw, (0.95, 1.02), (0.5, 0.8), (0.35, 0.7))), vessel)
    height = 0.1 * draw.uniform(0, 1) * noise(draw, flow, 2.5, 2) + 0.008 * draw.uniform(0, 1) * fine
    height = height - 0.015 * furrow - 0.03 * wrinkle + draw.uniform(-0.02, 0.03) * pores
    shade = relief(height, draw, draw.uniform(0.8, 2.0))
    image = image * (1 + 0.35 * shade)
    hairs = walks(draw, at, x.flip(1), y, draw.uniform(0, 1.5, many), (0.3, 1.5), 0.15, 4) - 0.008
    image = over(image, draw.uniform(0.05, 0.6) * base, draw.chance(0.25) * 0.8 * at.fill(hairs.amin(1, keepdim=True)))
    lamp = smooth(1.6, 0.2, at.moved(draw.uniform(-0.8, 0.8), draw.uniform(-0.8, 0.8)).disc(0.0))
    image = image * (1 - draw.uniform(0.0, 0.6) * (1 - lamp))
    glare = smooth(0.7, 1.6, shade + 0.6 * noise(draw, at, 14, 2) + 0.4 * lamp - 0.2) * draw.chance(0.5)
    image = over(image, torch.ones_like(image), glare * draw.uniform(0.3, 1.0))
    return photograph(draw, image.clamp(0, 1), torch.ones_like(at.x))


def bronchoscopy(draw: Draw, at: Canvas) -> Scene:
    """Airway through the endoscope: one to three dark openings, spurs between them, pale rings, slime, a frame."""
    frame = _mixed(draw, at.disc(draw.uniform(0.85, 1.1)), at.box(0.98, draw.uniform(0.85, 1.0), 0.15))
    flat, at = at, wobble(draw, at.turned(draw.uniform(0, 6.2832)), 0.08, 3)
    turn, far = draw.uniform(0, 6.2832), draw.uniform(0.3, 0.6)
    nearest, second = torch.full_like(at.x, 9.0), torch.full_like(at.x, 9.0)
    for number in range(3):
        here = at.moved(far * turn.cos(), far * turn.sin()).turned(draw.uniform(0, 3.2))
        reach = here.scaled(1.0, draw.uniform(0.6, 1.0)).disc(0.0) / draw.uniform(0.2, 0.55)
        reach = reach + (9 * (1 - draw.chance(0.65)) if number else 0)
        second = torch.minimum(second, torch.maximum(nearest, reach))
        nearest = torch.minimum(nearest, reach)
        turn = turn + draw.uniform(1.6, 2.6)
    pink = colour(draw, (-0.05, 0.06), (0.2, 0.6), (0.7, 0.95))
    deep = pink * torch.cat([draw.uniform(0.55, 0.8), draw.uniform(0.3, 0.55), draw.uniform(0.3, 0.55)], 1)
    depth = -(nearest + 0.15).log()
    part = torch.remainder(depth * draw.uniform(1.5, 4) + 0.15 * noise(draw, at, 3, 2), 1.0)
    ring = smooth(0.0, 0.4, part) * smooth(1.0, 0.8, part) * smooth(-1.0, 0.2, depth) * draw.uniform(0.2, 1)
    mottle = noise(draw, at, 7, 4, 0.65)
    image = ramp(0.55 + 0.3 * depth - 0.35 * ring + 0.14 * mottle, 0.65 * pink + 0.35, pink, deep)
    spur = smooth(0.5, 0.0, second - nearest) * smooth(3.0, 1.5, nearest)
    image = over(image, pink * 1.05, 0.5 * spur)
    many = (8, 1, 1)
    x, y = draw.uniform(-0.9, 0.9, many), draw.uniform(-0.9, 0.9, many)
    tree = walks(draw, at, x, y, draw.uniform(0, 6.3, many), (0.3, 0.9), 0.8, 4).amin(1, keepdim=True)
    image = over(image, deep, draw.uniform(0.1, 0.6) * smooth(0.022, 0.005, tree))
    shade = relief(0.05 * ring + 0.06 * spur + 0.015 * mottle, draw, 1.5)
    image = image * (1 + 0.18 * shade) * (1 - draw.uniform(0.1, 0.4) * ring) * smooth(-0.3, 1.5, nearest)
    image = image * (1 - draw.uniform(0.7, 0.97) * smooth(0.9, 0.2, nearest))
    wet = smooth(0.9, 1.5, noise(draw, at, 22, 2) + 0.6 * shade) * smooth(1.2, 1.8, nearest)
    image = over(image, torch.ones_like(image), wet * draw.uniform(0.3, 1))
    image = image * flat.fill(frame) * (1 - draw.uniform(0.1, 0.5) * smooth(0.4, 1.2, flat.disc(0.0)))
    return photograph(draw, image, smooth(-0.03, -0.08, frame) * smooth(1.1, 1.4, nearest))


def _forks(draw: Draw, at: Canvas, x: Tensor, y: Tensor, angle: Tensor, width: Tensor) -> Tensor:
    """Distances [B, 1, S, S], in half widths, to trees that start at x, y [B, K, 1, 1] and fork three times."""
    reach, nearest = draw.uniform(0.08, 0.2), torch.full_like(at.x, 9.0)
    for _ in range(4):
        count = (angle.shape[1], 1, 1)
        for _ in range(3):
            angle = angle + draw.uniform(-0.35, 0.35, count)
            step = reach * draw.uniform(0.6, 1.5, count)
            x1, y1 = x + angle.cos() * step, y + angle.sin() * step
            nearest = torch.minimum(nearest, (at.segment(x, y, x1, y1) / width).amin(1, keepdim=True))
            x, y = x1, y1
        lean = draw.uniform(0.1, 0.8, count)
        x, y, angle = x.repeat(1, 2, 1, 1), y.repeat(1, 2, 1, 1), torch.cat([angle - lean, angle + lean], 1)
        width = torch.cat([0.85 * width, 0.6 * width], 1)
    return nearest


def vessel_mri(draw: Draw, at: Canvas) -> Scene:
    """MR angiogram of no region: trunks that fork into ever thinner bright branches, on the dim rest of the body."""
    at = patient(draw, at, 0.4, (0.8, 1.3), 0.05)
    at = at.turned(draw.integers(4) * 1.5708)
    body = at.box(draw.uniform(0.6, 1.1), 2.0, 0.2)
    haze = draw.uniform(0.02, 0.22) * (1 + 0.35 * noise(draw, at, 5, 3) + 0.2 * noise(draw, at, 14, 2))
    tone = 0.02 + haze * smooth(0.02, -0.1, body)
    for _ in range(2):
        here = at.moved(draw.uniform(-0.6, 0.6), draw.uniform(-0.6, 0.6)).ellipse(draw.uniform(0.1, 0.35), 0.25)
        tone = tone + draw.chance(0.5) * draw.uniform(0.03, 0.25) * smooth(0.03, -0.08, here)
    x = torch.where(draw.chance(0.4) > 0, at.x.abs(), at.x)  # trees of a pair
    both, many = wobble(draw, Canvas(x, at.y, at.pixel), 0.04, 5), (2, 1, 1)
    start = draw.uniform(-0.3, 0.3, many), draw.uniform(-1.1, 0.2, many), draw.uniform(0.8, 2.4, many)
    tree = _forks(draw, both, *start, draw.uniform(0.015, 0.06, many))
    cylinder = (1 - tree.square()).clamp(min=0).sqrt()
    tone = torch.maximum(tone, draw.uniform(0.6, 1.0) * cylinder)
    tone = tone * (1 - 0.3 * smooth(0.4, 1.2, noise(draw, at, 2.5, 2))) + 0.02 * noise(draw, at, 40, 2).abs()
    return grey(draw, tone.clamp(0, 1), smooth(-0.04, -0.1, body), bright(draw))


def random_uptake(draw: Draw, at: Canvas) -> Scene:
    """Scintigram or PET of no body: organs and bones that take up the tracer, hot spots, few counts, any colours."""
    at = patient(draw, at, 0.4, (0.8, 1.3), 0.05)
    x = torch.where(draw.chance(0.6) > 0, at.x.abs(), at.x)
    both = wobble(draw, Canvas(x, at.y, at.pixel), 0.04, 4)
    body = _mixed(draw, at.box(draw.uniform(0.3, 0.8), 2.0, 0.2), at.ellipse(draw.uniform(0.5, 0.9), 0.9))
    soft = draw.uniform(0.02, 0.07)
    uptake = draw.uniform(0.05, 0.25) * (1 + 0.3 * noise(draw, at, 3, 3)) * smooth(soft, -soft, body)
    for _ in range(7):
        here = both.moved(draw.uniform(-0.5, 0.5), draw.uniform(-0.8, 0.8)).turned(draw.uniform(0, 6.3))
        size = draw.uniform(0.06, 0.35)
        rod = here.box(size * draw.uniform(1.0, 3.0), draw.uniform(0.02, 0.05), 0.02)
        organ = _mixed(draw, here.ellipse(size, size * draw.uniform(0.3, 1.0)), rod, 0.6) + 0.02 * noise(draw, at, 7)
        dose = draw.uniform(-0.1, 0.5) * draw.chance(0.75)
        uptake = uptake + dose * smooth(soft, -soft, torch.maximum(organ, body))
    row = (at.y + draw.uniform(-0.6, 0.6) * x.square()) * draw.uniform(10, 30)
    bars = smooth(0.2, 0.9, row.cos()) * smooth(0.0, -0.1, body) * smooth(0.1, 0.0, at.y.abs() - draw.uniform(0.2, 0.6))
    uptake = uptake + draw.chance(0.4) * draw.uniform(0.05, 0.3) * bars
    for _ in range(4):
        spot = both.moved(draw.uniform(-0.6, 0.6), draw.uniform(-0.8, 0.8)).disc(0.0) / draw.uniform(0.03, 0.12)
        uptake = uptake + draw.chance(0.5) * draw.uniform(0.1, 0.8) * (-spot.square()).exp()
    few = draw.uniform(0.03, 0.2)
    tone = (uptake * draw.uniform(0.8, 1.5)).clamp(0.01, 1)
    tone = (tone + few * tone.sqrt() * blur(grain(draw, at), at.size / 300)).clamp(0, 1)  # of Poisson's kind
    hot = draw.chance(0.25)
    white = draw.chance(0.6) * (1 - hot)
    scene = grey(draw, tone + (1 - 2 * tone) * white, smooth(-0.03, -0.08, body), bright(draw) * (1 - 2 * white))
    coloured = ramp(tone, *(colour(draw, *span) for span in HOT))
    return replace(scene, image=over(scene.image, coloured, hot))


def mouth_photograph(draw: Draw, at: Canvas) -> Scene:
    """The open mouth: a row of teeth in scalloped gums, above or below, tongue, cheek, dark throat, wet glints."""
    at = at.posed(draw, 0.3, (0.8, 1.4), 0.15)
    upright = 1 - 2 * draw.chance(0.4)
    at = wobble(draw, Canvas(at.x, at.y * upright, at.pixel), 0.03, 3)
    pink = colour(draw, (-0.05, 0.03), (0.3, 0.6), (0.6, 0.9))
    pale = colour(draw, (0.08, 0.16), (0.03, 0.3), (0.8, 1.0))
    mottle = noise(draw, at, 6, 4, 0.6)
    bow = at.y + draw.uniform(-0.1, 0.35) * at.x.square() + draw.uniform(0.0, 0.4)
    image = pink * draw.uniform(0.15, 0.5) * (1 + 0.1 * mottle) * smooth(1.6, 0.0, bow)
    tongue = at.moved(draw.uniform(-0.2, 0.2), draw.uniform(0.75, 1.0)).ellipse(draw.uniform(0.6, 0.9), 0.7)
    coat = over(pink, pale, draw.uniform(0, 0.45) * smooth(-1, 1, noise(draw, at, 4, 3)))
    bumps = smooth(0.4, 0.1, cells(draw, at, 22)[0])
    has = draw.chance(0.7)
    tongue_in = has * smooth(0.02, -0.02, tongue)
    image = over(image, coat * (0.95 + 0.12 * bumps) * (0.7 + 0.3 * smooth(0.0, -0.25, tongue)), tongue_in)
    pitch = draw.uniform(0.24, 0.4)
    along = at.x * (1 + 0.25 * at.x.square()) / pitch + draw.uniform(0, 1)
    nth = along.round()
    part = (along - nth) * 2
    lot = (nth * 12.9 + draw.uniform(0, 6)).sin()
    edge = bow - pitch * (0.95 + 0.12 * lot) + 0.1 * pitch * part.square()
    root = -bow + pitch * (0.1 - 0.3 * (1 - part.square()).clamp(min=0))
    crown = torch.maximum(torch.maximum(edge, root), (part.abs() - 0.93) * 0.5 * pitch)
    gum = pink * (1 + 0.1 * mottle) * torch.cat([0 * pitch + 1.05, 0 * pitch + 0.95, 0 * pitch + 0.95], 1)
    gums = smooth(0.01, -0.02, bow - 0.1 * pitch)
    image = over(image, gum * (0.75 + 0.25 * smooth(-0.7, -0.1, bow)), gums)
    enamel = pale * (0.92 + 0.06 * lot) * (1 - 0.35 * part.abs().pow(3)) * (1 + 0.03 * noise(draw, at, 12, 2))
    image = over(image, enamel, smooth(0.012, -0.012, crown))
    image = image * (1 - 0.35 * smooth(0.03, 0.0, crown.abs()))
    height = (
        0.08 * (1 - part.square()).clamp(min=0) * smooth(0.02, -0.06, crown) + 0.012 * mottle + 0.02 * bumps * tongue_in
    )
    shade = relief(height, draw, 1.0)
    wet = smooth(0.9, 1.6, noise(draw, at, 14, 2) + 0.9 * shade) * smooth(0.15, 0.5, image.amax(1, keepdim=True))
    image = over(image * (1 + 0.2 * shade), torch.ones_like(image), wet * draw.uniform(0.3, 1.0))
    image = image * (1 - draw.uniform(0.2, 0.6) * smooth(0.5, 1.5, at.disc(0.0)))
    soft = torch.maximum(gums, tongue_in) * smooth(0.0, 0.02, crown)
    return photograph(draw, image.clamp(0, 1), soft)


def _of(paint: ScenePainter, finish: Finish, words: tuple[str, ...], *flaws: str, texture: bool = False) -> Category:
    return Category(paint.__name__, "medical", words, paint, flaws, finish, texture)


# fmt: off
CLINIC: dict[str, Category] = {category.name: category for category in (
    _of(random_joint, film, ("joint scan", "scan of a joint"), "fracture", "oedema", "effusion", "cyst",
        "mass"),
    _of(random_ct, film, ("CT scan", "CT scan of the body"), "mass", "nodule", "cyst", "infiltrate", "effusion",
        "haemorrhage"),
    _of(random_soft_xray, film, ("soft tissue X-ray", "radiograph of soft tissue"), "mass", "nodule", "infiltrate",
        "cyst"),
    _of(random_photograph, camera, ("close photograph of the body", "photograph of tissue"), "inflammation",
        "haemorrhage", "nodule", "polyp", "exudate", texture=True),
    _of(bronchoscopy, camera, ("bronchoscopy image", "endoscopy image of the airways"), "polyp", "inflammation",
        "haemorrhage", "mass"),
    _of(vessel_mri, film, ("vessel MRI", "MRI scan of blood vessels"), "haemorrhage", "mass", "nodule"),
    _of(random_uptake, film, ("scintigram", "tracer scan of the body"), "mass", "nodule", "infiltrate"),
    _of(mouth_photograph, camera, ("photograph of the mouth", "open mouth"), "inflammation", "haemorrhage",
        "nodule", "exudate"),
)}
# fmt: on
"""By name; of the same kind as the catalogue's, which they are not part of."""
