"""Soft tissue in grey: mammography, ultrasound, optical coherence tomography, and the knee in MRI."""

from __future__ import annotations

import torch
from torch import Tensor

from headlens.data.procedural.canvas import Canvas, over
from headlens.data.procedural.draw import Draw
from headlens.data.procedural.fields import cells, noise, smooth
from headlens.data.procedural.scans import bone, bright, grey, patient, walks
from headlens.data.procedural.scene import Scene


def wobble(draw: Draw, at: Canvas, bend: float, cells: float) -> Canvas:
    """The same canvas with every outline irregular."""
    return at.bent(bend * noise(draw, at, cells, 2), bend * noise(draw, at, cells, 2))


def mammography(draw: Draw, at: Canvas) -> Scene:
    """Mammogram of either breast: skin line, pectoral muscle, fatty to dense gland with strands towards the nipple."""
    flip = 1 - 2 * draw.chance(0.5)
    at = patient(draw, Canvas(at.x * flip, at.y, at.pixel), 0.08, (1.0, 1.35), 0.03)
    wide, tall = draw.uniform(1.1, 1.7), draw.uniform(0.75, 1.0)
    breast = at.moved(-1.05, draw.uniform(-0.05, 0.15)).ellipse(wide, tall)
    cover = smooth(0.0, -0.03, breast)
    nipple_x = wide - 1.05
    dense = draw.uniform(0.0, 1.0)
    angle = torch.atan2(at.y, nipple_x + 0.15 - at.x)
    ducts = noise(draw, Canvas(angle * 0.9, at.x * 0.5, at.pixel), 15, 2, 0.7)
    cloud = noise(draw, at, 4, 4, 0.65)
    depth = smooth(0.0, -0.45, breast)
    gland = smooth(0.5 - dense, 1.3 - dense, cloud + 0.35 * ducts + 0.4 * depth) * smooth(-0.05, -0.25, breast)
    strands = smooth(0.15, 0.0, noise(draw, at, 6, 2, 0.7).abs()) * smooth(-0.04, -0.15, breast)
    tone = cover * (0.14 + 0.14 * depth + draw.uniform(0.3, 0.5) * gland + 0.1 * strands + 0.05 * ducts * depth)
    bent = wobble(draw, at, 0.04, 3)
    root_x, root_y = draw.uniform(-0.9, -0.5, (2, 1, 1)), draw.uniform(-0.5, 0.5, (2, 1, 1))
    veins = walks(draw, bent, root_x, root_y, draw.uniform(-0.7, 0.7, (2, 1, 1)), (0.6, 1.1), 0.5, 5)
    tone = tone + cover * 0.1 * smooth(0.022, 0.005, veins.amin(1, keepdim=True))
    tone = tone + 0.15 * smooth(0.03, 0.0, (breast + 0.015).abs())  # skin
    tone = tone + 0.2 * smooth(0.03, -0.02, at.moved(nipple_x, 0.0).disc(0.035)) * cover
    muscle = at.x + 1.0 + (at.y + 1) * draw.uniform(0.35, 0.7) - draw.uniform(0.3, 0.75) + 0.06 * (at.y * 2).sin()
    pectoral = smooth(0.02, -0.04, muscle) * cover
    tone = over(tone, draw.uniform(0.55, 0.75) + 0.06 * ducts, 0.85 * pectoral)
    region = smooth(-0.06, -0.12, breast) * (1 - pectoral)
    return grey(draw, tone, region, bright(draw, 0.2, 0.35))


def probe(draw: Draw, at: Canvas) -> tuple[Canvas, Tensor]:
    """What an ultrasound probe sees: depth as y, and its field, a rectangle or a fan, on black."""
    fan = draw.chance(0.5) + 0 * at.x
    apex = draw.uniform(1.6, 2.6)
    below = at.moved(0.0, -0.9 - apex)
    radius = below.disc(0.0)
    angle = torch.atan2(below.x, below.y)
    spread = torch.asin((draw.uniform(0.6, 0.85) / apex).clamp(max=0.9))
    sector = torch.maximum(
        (angle.abs() - spread) * radius, torch.maximum(apex - radius, radius - apex - draw.uniform(1.6, 1.85))
    )
    frame = at.box(draw.uniform(0.8, 1.0), draw.uniform(0.85, 1.0))
    curved = Canvas(angle * apex * 1.25, radius - apex - 0.9, at.pixel)
    seen = Canvas(torch.where(fan > 0, curved.x, at.x), torch.where(fan > 0, curved.y, at.y), at.pixel)
    return seen, at.fill(torch.where(fan > 0, sector, frame))


def echo(draw: Draw, at: Canvas, tone: Tensor) -> Tensor:
    """Gain over depth, soft shadows along the beam, and coarse echo texture."""
    gain = draw.uniform(0.7, 1.15) * (1 - draw.uniform(0.0, 0.4) * smooth(0.0, 1.0, at.y) + 0.1 * noise(draw, at, 2))
    beam = Canvas(at.x, 0.08 * at.y, at.pixel)
    shadow = 1 - draw.uniform(0.1, 0.5) * smooth(0.4, 1.2, noise(draw, beam, 4, 2)) * smooth(-0.6, 0.2, at.y)
    return tone * gain * shadow * (1 + 0.22 * noise(draw, at, 22, 2, 0.8, stretch=0.5))


def breast_ultrasound(draw: Draw, at: Canvas) -> Scene:
    """Breast ultrasound: bright skin, dark fat lobules between septa, streaky gland, muscle, ribs with shadows."""
    at, field = probe(draw, at)
    wave = noise(draw, at, 2, 2)
    y = at.y + 0.06 * wave
    fat_end, gland_end = draw.uniform(-0.55, -0.15), draw.uniform(0.25, 0.6)
    lobules = smooth(0.04, 0.18, noise(draw, at, 3.5, 2, 0.4, stretch=0.5).abs())
    fat = 0.5 - draw.uniform(0.2, 0.3) * lobules
    streak = noise(draw, wobble(draw, at, 0.04, 3), 4, 4, 0.7, stretch=0.3)
    gland = draw.uniform(0.4, 0.6) + 0.17 * streak
    deep = draw.uniform(0.15, 0.3) + 0.12 * noise(draw, at, 3, 3, 0.7, stretch=0.12)
    tone = over(over(fat, gland, smooth(-0.05, 0.05, y - fat_end)), deep, smooth(-0.03, 0.03, y - gland_end))
    duct = (noise(draw, at, 4, 1, stretch=0.4) - 0.95).clamp(min=0)  # ducts and vessels are dark, too
    tone = tone * (1 - (5 * duct).clamp(max=0.6) * smooth(fat_end, fat_end + 0.1, y))
    fascia = smooth(0.03, 0.0, (y - gland_end).abs()) + 0.8 * smooth(0.02, 0.0, (y - gland_end - 0.12).abs())
    skin = smooth(0.05, 0.0, (at.y + 0.82).abs())
    tone = tone + 0.35 * fascia + 0.45 * skin
    turn = at.x * draw.uniform(3, 5) + draw.uniform(0, 6)
    rib = smooth(0.4, 0.8, turn.cos()) * draw.chance(0.5)
    tone = tone * (1 - 0.75 * rib * smooth(gland_end + 0.15, gland_end + 0.3, y))
    region = field * smooth(-0.7, -0.6, at.y) * smooth(gland_end + 0.05, gland_end - 0.1, y)
    return grey(draw, field * echo(draw, at, tone), region, -bright(draw, 0.2, 0.35))


def thyroid_ultrasound(draw: Draw, at: Canvas) -> Scene:
    """Thyroid ultrasound across the neck: two lobes and isthmus, trachea with its echoes, carotids, strap muscles."""
    at, field = probe(draw, at)
    at = wobble(draw, at.moved(draw.uniform(-0.25, 0.25), draw.uniform(-0.2, 0.1)), 0.04, 3)
    tone = 0.24 + 0.1 * noise(draw, at, 4, 3, 0.7, stretch=0.3)
    strap = at.y + draw.uniform(0.42, 0.5) - 0.12 * at.x.square()
    tone = over(tone, 0.2 + 0.1 * noise(draw, at, 5, 2, 0.7, stretch=0.15), smooth(0.02, -0.02, strap))
    tone = (
        tone
        + 0.5 * smooth(0.025, 0.0, strap.abs())
        + 0.4 * smooth(0.025, 0.0, (strap + draw.uniform(0.15, 0.25)).abs())
    )
    tone = tone + 0.45 * smooth(0.05, 0.0, (at.y + 0.8).abs())
    lobes = at.moved(0.0, -0.33).box(0.3, draw.uniform(0.04, 0.09), 0.04)  # isthmus
    for flank in (-1, 1):
        lobe = at.moved(flank * draw.uniform(0.36, 0.44), draw.uniform(-0.14, -0.04)).turned(
            flank * draw.uniform(-0.4, 0.1)
        )
        lobes = torch.minimum(lobes, lobe.ellipse(draw.uniform(0.17, 0.26), draw.uniform(0.2, 0.32)))
    gland = draw.uniform(0.48, 0.65) + 0.07 * noise(draw, at, 8, 3, 0.7)
    inside = smooth(0.015, -0.015, lobes)
    tone = over(tone, gland, inside) + 0.2 * smooth(0.025, 0.0, lobes.abs())
    vessels = smooth(0.85, 1.1, noise(draw, at, 6, 1, stretch=0.6)) * inside
    tone = tone * (1 - 0.5 * vessels)
    wind = at.moved(0.0, 0.02)
    trachea = wind.ellipse(draw.uniform(0.18, 0.24), draw.uniform(0.24, 0.3))
    rings = (0.5 + 0.5 * ((wind.disc(0.0)) * draw.uniform(45, 70)).cos()) * smooth(0.0, -0.25, wind.y)
    dark = torch.maximum(smooth(0.01, -0.02, trachea), smooth(0.22, 0.15, wind.x.abs()) * smooth(0.0, 0.1, wind.y))
    tone = over(tone, 0.05 + 0.22 * rings, dark) + 0.45 * smooth(0.03, 0.0, trachea.abs()) * smooth(0.0, -0.15, wind.y)
    for flank in (-1, 1):
        artery = at.moved(flank * draw.uniform(0.68, 0.78), draw.uniform(0.0, 0.12)).ellipse(
            draw.uniform(0.1, 0.13), draw.uniform(0.1, 0.14)
        )
        tone = over(tone, torch.full_like(tone, 0.04), smooth(0.01, -0.02, artery)) + 0.3 * smooth(
            0.022, 0.0, artery.abs()
        )
        vein = at.moved(flank * draw.uniform(0.74, 0.86), draw.uniform(-0.25, -0.16)).ellipse(
            0.15, draw.uniform(0.03, 0.09)
        )
        tone = over(tone, torch.full_like(tone, 0.05), smooth(0.01, -0.02, vein))
    region = field * smooth(-0.01, -0.05, lobes) * (1 - dark)
    return grey(draw, field * echo(draw, at, tone), region, -bright(draw, 0.2, 0.35) * (1 - 2 * draw.chance(0.2)))


def oct(draw: Draw, at: Canvas) -> Scene:
    """Retinal OCT: dark vitreous, layers of the retina around the foveal pit, bright pigment epithelium, choroid."""
    at = at.moved(draw.uniform(-0.25, 0.25), draw.uniform(-0.2, 0.25))
    tilt, arch = draw.uniform(-0.15, 0.15), draw.uniform(-0.05, 0.2)
    y = at.y - tilt * at.x - arch * at.x.square() + 0.012 * noise(draw, at, 4, 2, stretch=8)
    wide, deep = draw.uniform(0.15, 0.32), draw.uniform(0.12, 0.3)
    pit = deep * (-(at.x / wide).square()).exp() * (0.6 + 0.4 * draw.chance(0.85))
    thick = draw.uniform(0.4, 0.6)
    base = draw.uniform(0.12, 0.22)  # the pigment epithelium
    rise = 0.05 * (-(at.x / (0.8 * wide)).square()).exp()
    top = base - thick - 0.06 * smooth(0.0, 0.5, at.x.abs() - wide) + pit
    t = (y - top) / (base - top).clamp(min=0.05)  # 0 at the vitreous, 1 at the epithelium
    tone = torch.full_like(at.x, 0.05)
    layers = ((0.0, 0.7), (0.13, 0.48), (0.27, 0.26), (0.38, 0.5), (0.48, 0.22), (0.58, 0.46), (0.64, 0.2))
    for start, value in layers:
        edge = start + draw.uniform(-0.03, 0.03) * (start > 0)
        tone = over(tone, (value * draw.uniform(0.8, 1.2)).expand_as(tone), smooth(-0.02, 0.02, t - edge))
    outer = y - base + rise
    for depth, width, value in ((-0.085, 0.014, 0.55), (-0.05, 0.02, 0.75), (0.0, 0.035, 0.95)):
        tone = over(
            tone,
            (value * draw.uniform(0.85, 1.05)).expand_as(tone),
            smooth(width, 0.4 * width, (y - base - depth + rise * (depth < 0)).abs()),
        )
    holes = noise(draw, at, 8, 2, 0.6, stretch=0.6)
    choroid = (0.48 - 0.25 * smooth(-0.2, 0.8, holes)) * (-(outer.clamp(min=0)) / draw.uniform(0.2, 0.5)).exp()
    tone = over(tone, choroid + 0.04, smooth(0.02, 0.05, y - base))
    vessel = smooth(0.55, 1.0, noise(draw, Canvas(at.x, 0 * at.y, at.pixel), 9))  # vessels cast shadows
    tone = tone * (1 - draw.uniform(0.1, 0.5) * vessel * smooth(0.1, 0.3, t))
    region = smooth(0.1, 0.25, t) * smooth(0.1, 0.0, y - base)
    return grey(draw, tone, region, -bright(draw, 0.15, 0.3))


def knee_mri(draw: Draw, at: Canvas) -> Scene:
    """Sagittal knee MRI: femur, tibia, patella and its tendon, dark menisci, cartilage, fat pad, muscle."""
    flip = 1 - 2 * draw.chance(0.5)
    at = patient(draw, Canvas(at.x * flip, at.y, at.pixel), 0.15, (0.95, 1.2), 0.025)
    heavy = draw.chance(0.5)  # fat suppressed: bones dark, fluid bright
    marrow = draw.uniform(0.6, 0.8) * (1 - heavy) + draw.uniform(0.2, 0.32) * heavy
    fatty, wet = marrow * draw.uniform(1.0, 1.25), draw.uniform(0.3, 0.45) + 0.5 * heavy
    flesh = draw.uniform(0.25, 0.4)
    leg = at.x.abs() - draw.uniform(0.72, 0.9) - 0.08 * (at.y * 2.5).cos()
    streak = noise(draw, at.turned(draw.uniform(-0.2, 0.2)), 10, 2, 0.7, stretch=6)
    tone = over(torch.full_like(at.x, 0.03), fatty * (1 + 0.1 * streak), smooth(0.01, -0.01, leg))
    tone = over(
        tone,
        flesh * (1 + 0.25 * streak),
        smooth(0.0, -0.03, leg + draw.uniform(0.08, 0.16)) * smooth(-0.05, 0.0, at.x - 0.25),
    )
    tone = over(
        tone, fatty * (0.9 + 0.15 * noise(draw, at, 8, 3)), smooth(0.05, -0.05, at.moved(-0.42, 0.1).ellipse(0.2, 0.25))
    )
    knob = at.moved(draw.uniform(0.0, 0.06), -0.22)
    shaft = bone(
        at.moved(draw.uniform(-0.12, -0.02), 0.0), -1.8, -0.15, draw.uniform(0.2, 0.26), draw.uniform(0.06, 0.12)
    )
    femur = torch.minimum(knob.ellipse(draw.uniform(0.36, 0.42), draw.uniform(0.26, 0.31)), shaft)
    tibia = bone(
        at.moved(draw.uniform(-0.02, 0.06), 0.0), 0.15, 1.8, draw.uniform(0.22, 0.28), draw.uniform(0.08, 0.14)
    )
    cap = at.moved(draw.uniform(-0.56, -0.5), draw.uniform(-0.42, -0.3)).turned(draw.uniform(-0.15, 0.15))
    patella = cap.box(0.1, draw.uniform(0.16, 0.22), 0.09)
    bones = torch.minimum(torch.minimum(femur, tibia), patella)
    joint = torch.maximum(
        smooth(0.06, 0.03, femur) * smooth(-0.12, 0.0, at.y), smooth(0.05, 0.02, tibia) * smooth(0.3, 0.16, at.y)
    )
    tone = over(tone, wet.expand_as(tone), joint * smooth(0.45, 0.4, at.x.abs()))
    fluid = wobble(draw, at, 0.04, 5).moved(-0.33, -0.4).ellipse(0.04, draw.uniform(0.1, 0.25))
    tone = over(tone, wet.expand_as(tone), draw.chance(0.7) * smooth(0.02, 0.0, fluid))
    weave = 1 + 0.07 * noise(draw, at, 26, 3, 0.8) + 0.06 * noise(draw, at, 4, 2)
    tone = over(tone, marrow * weave, smooth(0.008, -0.008, bones))
    tone = tone * (1 - 0.85 * smooth(0.018, 0.004, (bones + 0.004).abs()))
    growth = smooth(0.012, 0.0, (at.y + 0.42 + 0.05 * (at.x * 6).cos()).abs()) + smooth(0.012, 0.0, (at.y - 0.36).abs())
    tone = tone * (1 - draw.uniform(0.0, 0.6) * growth * smooth(0.0, -0.04, bones))
    menisci = torch.full_like(at.x, 9.0)
    for flank in (-1, 1):
        wedge = at.moved(0.03 + flank * draw.uniform(0.26, 0.32), draw.uniform(0.09, 0.12))
        tip = wedge.y.abs() - draw.uniform(0.05, 0.075) * (0.5 + flank * wedge.x / 0.14)
        menisci = torch.minimum(menisci, torch.maximum(tip, wedge.x.abs() - 0.1))
    tendon = at.segment(cap.x * 0 - 0.53, cap.x * 0 - 0.2, cap.x * 0 - 0.36, cap.x * 0 + 0.42) - 0.025
    quad = at.segment(cap.x * 0 - 0.56, cap.x * 0 - 0.5, cap.x * 0 - 0.5, cap.x * 0 - 1.3) - 0.03
    cross = torch.maximum(
        at.moved(0.05, 0.06).turned(draw.uniform(0.5, 0.9)).box(0.025, 0.16, 0.02), femur
    ) + 9 * draw.chance(0.5)
    dark = torch.minimum(torch.minimum(menisci, cross), torch.minimum(tendon, quad))
    tone = over(tone, draw.uniform(0.03, 0.09).expand_as(tone), smooth(0.01, -0.008, dark))
    region = torch.maximum(
        smooth(0.0, -0.03, torch.minimum(femur, tibia)), torch.maximum(joint, smooth(0.02, -0.0, menisci))
    )
    return grey(draw, tone, region * smooth(0.75, 0.6, at.y.abs()), (1 - 2 * (1 - heavy)) * bright(draw))


def phantom(draw: Draw, at: Canvas) -> Scene:
    """A test object: a body of random outline with random inserts, layers and rods, as any scanner might show it."""
    at = patient(draw, at, 3.1416, (0.7, 1.1), 0.12)
    squared = draw.chance(0.4)
    rounded = at.ellipse(draw.uniform(0.6, 0.95), draw.uniform(0.6, 0.95))
    body = over(rounded, at.box(0.8, draw.uniform(0.5, 0.85), 0.2), squared)
    cover = smooth(0.01, -0.02, body)
    first, second, ident = cells(draw, at, 5, 0.9)
    chambers = draw.chance(0.5) * (ident - 0.5) + draw.chance(0.5) * smooth(0.12, 0.02, second - first)
    layers = draw.chance(0.5) * (at.y * draw.uniform(3, 30) + noise(draw, at, 3, 2)).sin()
    cloud, fine = noise(draw, at, 3, 4, 0.65), noise(draw, at, 22, 2, 0.8)
    tone = draw.uniform(0.25, 0.6) + 0.22 * chambers + 0.12 * layers + draw.uniform(0.02, 0.15) * cloud + 0.05 * fine
    shell = draw.uniform(0.02, 0.12)
    tone = over(tone, draw.uniform(0.3, 1.0), draw.chance(0.7) * smooth(0.012, 0.0, (body + shell).abs() - shell / 2))
    for _ in range(5):  # inserts of known shape, which are as they should be
        near = at.moved(draw.uniform(-0.6, 0.6), draw.uniform(-0.6, 0.6))
        insert = over(near.disc(draw.uniform(0.04, 0.2)), near.box(draw.uniform(0.03, 0.25), 0.05), draw.chance(0.4))
        tone = over(tone, draw.uniform(0.05, 0.95), draw.chance(0.5) * smooth(0.012, -0.012, insert))
    outside = draw.uniform(0.0, 0.12) + draw.chance(0.2) * draw.uniform(0.2, 0.7)
    image = over(outside, tone, cover).clamp(0, 1)
    return grey(draw, image, smooth(-0.1, -0.14, body), draw.uniform(0.2, 0.35) * draw.uniform(-1, 1).sign())
