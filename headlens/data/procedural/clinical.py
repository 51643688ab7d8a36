"""Colour pictures of the clinic and the laboratory: fundus, skin, colon, and slides under the microscope."""

from __future__ import annotations

import torch
from torch import Tensor

from headlens.data.procedural.canvas import Canvas, blur, over
from headlens.data.procedural.draw import Draw
from headlens.data.procedural.fields import cells, colour, grain, noise, ramp, relief, smooth
from headlens.data.procedural.scans import bright, walks
from headlens.data.procedural.scene import Scene


def camera(draw: Draw, at: Canvas, image: Tensor) -> Tensor:
    """Noise of a colour camera: grain of luminance and of colour, a cast, uneven light."""
    luminance = blur(grain(draw, at), at.size / 350) * draw.uniform(0.03, 0.11)
    chroma = blur(grain(draw, at, 3), at.size / 200) * draw.uniform(0.02, 0.08)
    cast = draw.uniform(0.93, 1.05, (3, 1, 1))
    light = 1 + draw.uniform(0.0, 0.1) * noise(draw, at, 2)
    return (image * cast * light + (luminance + chroma) * (0.25 + image.mean(1, keepdim=True))).clamp(0, 1)


def photograph(draw: Draw, image: Tensor, region: Tensor) -> Scene:
    """A colour scene as its camera exposes it: gain, gamma."""
    seen = (image * draw.uniform(0.9, 1.08)).clamp(0.002, 1) ** draw.uniform(0.85, 1.2)
    return Scene(seen, region.clamp(0, 1), -bright(draw, 0.15, 0.35))


def fundus(draw: Draw, at: Canvas) -> Scene:
    """Retina through the pupil: orange ground, pale optic disc with its cup, arcades of vessels, dark macula, frame."""
    frame = at.moved(draw.uniform(-0.04, 0.04), draw.uniform(-0.04, 0.04)).disc(draw.uniform(0.88, 1.15))
    flip = 1 - 2 * draw.chance(0.5)
    at = Canvas(at.x * flip, at.y, at.pixel).turned(draw.uniform(-0.15, 0.15)).moved(0.0, draw.uniform(-0.1, 0.1))
    base = colour(draw, (0.01, 0.075), (0.6, 0.85), (0.55, 0.9))
    dark = base * torch.cat([draw.uniform(0.5, 0.75), draw.uniform(0.3, 0.6), draw.uniform(0.3, 0.6)], 1)
    choroid = noise(draw, at.turned(draw.uniform(-0.7, 0.7)), 7, 3, 0.6, stretch=2.5)
    image = ramp(
        0.2 + 0.25 * at.disc(0.0) + draw.uniform(0.02, 0.2) * choroid + 0.12 * noise(draw, at, 2, 2), base, dark
    )
    disc_x, disc_y = draw.uniform(0.3, 0.65), draw.uniform(-0.08, 0.08)
    macula = at.moved(disc_x - draw.uniform(0.65, 0.8), disc_y + draw.uniform(0.0, 0.1)).disc(0.0)
    image = image * (1 - draw.uniform(0.3, 0.6) * (-(macula / draw.uniform(0.12, 0.2)).square()).exp())
    near = at.moved(disc_x, disc_y).bent(0.012 * noise(draw, at, 7), 0.012 * noise(draw, at, 7))
    head = near.ellipse(size := draw.uniform(0.12, 0.17), size * draw.uniform(1.0, 1.2))
    pale = colour(draw, (0.09, 0.14), (0.15, 0.5), (0.9, 1.0))
    image = over(image, pale, draw.uniform(0.7, 0.95) * smooth(0.015, -0.02, head))
    cup = near.moved(-0.02, 0.0).ellipse(0.1 * (cups := draw.uniform(0.4, 0.9)), 0.11 * cups)
    image = over(image, torch.ones_like(image) * 0.98, 0.7 * smooth(0.02, -0.03, cup))
    image = image * (1 - 0.3 * draw.chance(0.5) * smooth(0.03, 0.0, (head - 0.01).abs()))
    bent = at.bent(0.03 * noise(draw, at, 7, 2), 0.03 * noise(draw, at, 7, 2))
    red = base * torch.cat([draw.uniform(0.6, 0.8), draw.uniform(0.25, 0.45), draw.uniform(0.25, 0.45)], 1)
    for up in (-1, 1):
        for kind, width in ((0, 0.03), (1, 0.02)):
            # An arcade: from the disc up (down), then around the macula.
            reach, high = draw.uniform(0.8, 1.2), draw.uniform(0.42, 0.6)
            u = (disc_x + 0.02 - bent.x).clamp(-0.3, 1.8)
            arc = up * (bent.y - disc_y) - high * (1 - (-(u.abs() / (0.25 * reach))).exp()) + 0.12 * u.square() * kind
            fade = width * draw.uniform(0.8, 1.2) * (1 - 0.4 * (u.abs() / 1.5).clamp(max=1))
            steep = (1 + (high / 0.25 * (-(u.abs() / 0.25)).exp()).square()).sqrt()
            stroke = smooth(fade, 0.5 * fade, arc.abs() / steep) * smooth(-0.28, -0.1, u)
            image = over(image, red * (1.0 + 0.25 * kind), 0.75 * stroke)
        root_x = disc_x - 0.4 + draw.uniform(-0.6, 0.5, (5, 1, 1))
        root_y = disc_y + up * draw.uniform(0.3, 0.55, (5, 1, 1))
        twigs = walks(draw, bent, root_x, root_y, draw.uniform(0.3, 2.9, (5, 1, 1)) * up, (0.4, 0.8), 0.5, 4)
        image = over(image, red, 0.6 * smooth(0.014, 0.004, twigs.amin(1, keepdim=True)))
    inside = smooth(0.01, -0.015, frame)
    image = image * inside * (1 - draw.uniform(0.2, 0.5) * smooth(-0.5, 0.0, frame))
    return photograph(draw, image, smooth(-0.03, -0.1, frame) * smooth(0.0, 0.05, head))


def dermoscopy(draw: Draw, at: Canvas) -> Scene:
    """Skin under the dermatoscope: lines and pores, hairs, bubbles, often an even mole, dark corners, a scale."""
    flat = at
    at = at.posed(draw, 3.1416, (0.8, 1.3), 0.2)
    light = colour(draw, (0.02, 0.075), (0.2, 0.5), (0.7, 0.95))
    light = light * (1 - draw.chance(0.25) * draw.uniform(0.2, 0.5))
    dark = light * torch.cat([draw.uniform(0.8, 0.92), draw.uniform(0.65, 0.85), draw.uniform(0.6, 0.85)], 1)
    mesh, second, _ = cells(draw, at.bent(0.03 * noise(draw, at, 6), 0.03 * noise(draw, at, 6)), 16)
    furrow = smooth(0.16, 0.0, second - mesh)
    image = ramp(0.4 + 0.2 * noise(draw, at, 3, 4, 0.6) + 0.3 * draw.uniform(0, 1) * furrow, light, dark)
    pink = smooth(0.4, 1.2, noise(draw, at, 4, 2))
    image = image * (1 - draw.uniform(0.0, 0.25) * pink * torch.cat([0 * light[:, :1], light[:, :2] * 0 + 1], 1))
    freckle = smooth(0.8, 1.3, noise(draw, at, 9, 2)) * draw.chance(0.4)
    image = over(image, dark * 0.75, 0.6 * freckle)
    x, y = draw.uniform(-0.35, 0.35), draw.uniform(-0.35, 0.35)
    spot = at.bent(0.015 * noise(draw, at, 4), 0.015 * noise(draw, at, 4)).moved(x, y)
    mole = spot.ellipse(radius := draw.uniform(0.12, 0.5), radius * draw.uniform(0.75, 1.0))
    brown = colour(draw, (0.04, 0.075), (0.45, 0.7), (0.35, 0.6))
    has = draw.chance(0.6)
    net = smooth(0.25, 0.05, second - mesh)  # an even pigment network
    cover = smooth(0.02, -draw.uniform(0.05, 0.15), mole) * (0.65 + 0.35 * net * draw.uniform(0.3, 1))
    image = over(image, brown * (1 - 0.25 * smooth(0.0, -radius, mole)), has * cover * draw.uniform(0.5, 0.95))
    many = (7, 1, 1)
    root_x, root_y = draw.uniform(-1.2, 1, many), draw.uniform(-1.2, 1, many)
    hairs = walks(draw, flat, root_x, root_y, draw.uniform(0, 6.2832, many), (0.8, 1.8), 0.18, 5)
    cover = draw.chance(0.45, many) * flat.fill(hairs - draw.uniform(0.007, 0.015, many))
    image = over(image, dark * draw.uniform(0.1, 0.6), 0.85 * cover.amax(1, keepdim=True))
    bubble = flat.moved(draw.uniform(-0.9, 0.9), draw.uniform(-0.9, 0.9)).disc(draw.uniform(0.04, 0.12))
    image = over(
        image,
        torch.ones_like(image),
        draw.chance(0.4) * (0.6 * smooth(0.02, 0.0, bubble.abs()) + 0.12 * flat.fill(bubble)),
    )
    tick = smooth(0.012, 0.006, (torch.remainder(flat.x * 5, 1.0) - 0.5).abs() / 5) * smooth(0.88, 0.89, flat.y)
    image = image * (1 - 0.8 * tick * draw.chance(0.3))
    tube = flat.disc(draw.uniform(1.0, 1.6))
    image = image * (1 - smooth(-0.03, 0.03, tube))
    return photograph(
        draw, image, smooth(-0.05, -0.12, tube) * smooth(0.97, 0.9, torch.maximum(flat.x.abs(), flat.y.abs()))
    )


def colonoscopy(draw: Draw, at: Canvas) -> Scene:
    """Colon through the endoscope: rings of haustral folds around a dark lumen, fine vessels, wet glints, frame."""
    corner = draw.uniform(0.75, 1.0)
    frame = torch.maximum(
        at.box(corner, draw.uniform(0.85, 1.0), 0.06),
        at.turned(0 * corner + 0.7854).box(1.16 * corner, 1.16 * corner, 0.05),
    )
    flat = at
    at = at.bent(0.12 * noise(draw, at, 3, 2), 0.12 * noise(draw, at, 3, 2))
    away = at.moved(draw.uniform(-0.6, 0.6), draw.uniform(-0.6, 0.6))
    radius = away.disc(0.0)
    angle = torch.atan2(away.y, away.x)
    corners = draw.integers(2) + 2.0
    depth = -(radius * (1 + 0.12 * (corners * angle + draw.uniform(0, 6)).cos()) + 0.1).log()  # along the tube
    ring = depth * draw.uniform(1.3, 2.4) + draw.uniform(0, 1) + 0.2 * noise(draw, at, 2, 2)
    part = ring - ring.floor()
    fold = part.square() * smooth(1.0, 0.88, part)
    pink = colour(draw, (0.0, 0.07), (0.35, 0.65), (0.75, 0.95))
    deep = pink * torch.cat([draw.uniform(0.45, 0.65), draw.uniform(0.25, 0.45), draw.uniform(0.25, 0.45)], 1)
    mottle = noise(draw, at, 6, 4, 0.6)
    shade = 0.3 + 0.35 * depth.clamp(-0.5, 2) - 0.45 * fold + 0.1 * mottle
    image = ramp(shade, pink, pink * 0.8, deep)
    bent = at.bent(0.04 * noise(draw, at, 6, 2), 0.04 * noise(draw, at, 6, 2))
    many = (6, 1, 1)  # submucosal vessels
    root_x, root_y = draw.uniform(-0.9, 0.9, many), draw.uniform(-0.9, 0.9, many)
    vessels = walks(draw, bent, root_x, root_y, draw.uniform(0, 6.2832, many), (0.3, 0.8), 0.9, 4)
    stroke = draw.uniform(0.15, 0.6, many) * smooth(0.02, 0.004, vessels)
    image = over(image, deep, stroke.amax(1, keepdim=True))
    image = image * (1 + 0.12 * relief(0.02 * mottle + 0.05 * fold, draw, 1.5))
    lumen = smooth(0.3, 0.02, radius - 0.06 * noise(draw, at, 4))
    image = image * (1 - draw.uniform(0.6, 0.95) * lumen)
    wet = smooth(1.15, 1.4, noise(draw, at, 18, 2) + 0.4 * fold) * smooth(0.1, 0.5, radius)
    image = over(image, torch.ones_like(image), wet * draw.uniform(0.3, 1))
    stool = smooth(1.2, 1.5, noise(draw, at, 4, 3)) * draw.chance(0.25)
    image = over(image, colour(draw, (0.09, 0.13), (0.5, 0.8), (0.4, 0.7)), 0.8 * stool)
    inside = flat.fill(frame)
    image = image * inside * (1 - 0.3 * smooth(0.4, 1.2, flat.disc(0.0)))
    return photograph(draw, image, smooth(-0.03, -0.08, frame) * smooth(0.12, 0.25, radius))


def histology(draw: Draw, at: Canvas) -> Scene:
    """H&E section: pink stroma in wavy fibres, glands ringed with violet nuclei around a pale lumen, nuclei, fat."""
    at = at.posed(draw, 3.1416, (0.8, 1.3), 0.2)
    pink = colour(draw, (0.88, 0.95), (0.15, 0.4), (0.82, 0.95))
    rose = colour(draw, (0.86, 0.95), (0.35, 0.6), (0.7, 0.85))
    violet = colour(draw, (0.7, 0.8), (0.45, 0.7), (0.3, 0.55))
    flow = at.bent(0.1 * noise(draw, at, 3, 2), 0.1 * noise(draw, at, 3, 2))
    fibre = noise(draw, flow, 14, 3, 0.7, stretch=5)
    image = ramp(0.5 + 0.4 * fibre + 0.2 * noise(draw, at, 3), pink, rose)
    clear = torch.ones_like(image) * 0.95
    gaps = smooth(1.0, 1.25, fibre) * draw.uniform(0.3, 1)
    image = over(image, clear, gaps)
    near, _, ident = cells(draw, flow.scaled(1.0, draw.uniform(1.0, 1.8)), 22)
    radius = 0.15 + 0.2 * ident
    lone = smooth(radius, radius - 0.12, near) * (ident < draw.uniform(0.3, 0.8))
    chromatin = 0.85 + 0.25 * noise(draw, at, 45, 2, 0.8)
    image = over(image, violet * chromatin, 0.85 * lone)
    gland, other, kind = cells(draw, flow, 3.2, 0.8)
    rim = (0.24 + 0.16 * kind) * draw.uniform(0.7, 1.2)
    wall = gland - rim  # signed distance in gland cells
    epithelium = smooth(0.02, -0.02, wall) * (kind < draw.uniform(0.2, 1.0)) * smooth(0.0, 0.1, other - gland)
    thick = draw.uniform(0.12, 0.2)
    plasm = rose * torch.cat([0 * thick + 0.95, 0 * thick + 0.85, 0 * thick + 1.0], 1)
    image = over(image, plasm * (1 + 0.06 * noise(draw, at, 20, 2)), epithelium)
    row, _, tint = cells(draw, flow.moved(draw.uniform(0, 0.1), 0.0), 26, 0.6)
    nuclei = smooth(0.44, 0.3, row) * smooth(0.0, -0.03, wall) * smooth(-thick * 0.75, -thick * 0.5, wall)
    image = over(image, violet * chromatin * (0.85 + 0.3 * tint), 0.9 * nuclei * epithelium)
    image = over(image, clear, smooth(-thick, -thick - 0.03, wall + 0.02 * fibre) * epithelium * draw.uniform(0.6, 1))
    fat, edge, has = cells(draw, at, 5)
    drop = smooth(0.06, 0.12, edge - fat) * smooth(0.1, 0.5, noise(draw, at, 2)) * (has < 0.9) * draw.chance(0.3)
    image = over(image, clear, 0.95 * drop)
    return photograph(draw, image, torch.ones_like(at.x))


def blood_smear(draw: Draw, at: Canvas) -> Scene:
    """Stained blood film: red cells with pale centres, some overlapping, platelets, now and then a lobed white cell."""
    at = at.posed(draw, 3.1416, (0.8, 1.6), 0.2)
    ground = colour(draw, (0.0, 0.16), (0.02, 0.15), (0.8, 0.97))
    red = colour(draw, (0.92, 1.06), (0.2, 0.5), (0.7, 0.9))
    image = ground * (1 + 0.03 * noise(draw, at, 3, 3))
    bent = at.bent(0.02 * noise(draw, at, 9), 0.02 * noise(draw, at, 9))
    pale, density = draw.uniform(0.15, 0.7), draw.uniform(0.55, 1.0)
    for layer in range(2):
        near, _, ident = cells(draw, bent, 5.5, 0.75 - 0.2 * layer)
        radius = (0.36 + 0.06 * (ident * 7).sin()) * (1.0 if layer == 0 else 0.95)
        t = near / radius
        body = smooth(1.0, 0.9, t) * (ident < density * (0.75 if layer == 0 else 0.25))
        tone = red * (1 - 0.12 * smooth(0.6, 0.95, t)) * (0.92 + 0.14 * ident)
        tone = over(tone, ground, pale * smooth(0.55, 0.1, t))
        image = over(image, tone, body * draw.uniform(0.8, 0.95))
    platelet, _, which = cells(draw, bent, 6)
    violet = colour(draw, (0.72, 0.82), (0.35, 0.6), (0.4, 0.65))
    image = over(image, violet * 1.3, 0.8 * smooth(0.14, 0.08, platelet) * (which < 0.12))
    for i in range(2):  # granulocytes: pale plasm, a nucleus of three or four lobes
        cell = at.moved(draw.uniform(-0.9, 0.9), draw.uniform(-0.9, 0.9)).bent(0.02 * noise(draw, at, 6), 0.0 * at.y)
        size, exists = draw.uniform(0.2, 0.27), draw.chance(0.6 - 0.25 * i)
        plasm = colour(draw, (0.75, 0.95), (0.1, 0.25), (0.8, 0.92)) * (1 + 0.06 * noise(draw, at, 50))
        image = over(image, plasm, exists * smooth(0.0, -0.02, cell.disc(size)))
        lobes, turn = torch.full_like(at.x, 9.0), draw.uniform(0, 6.2832)
        for _ in range(4):
            turn = turn + draw.uniform(0.8, 1.5)
            lobe = cell.moved(0.5 * size * turn.cos(), 0.5 * size * turn.sin())
            lobes = torch.minimum(lobes, lobe.disc(size * draw.uniform(0.25, 0.42)))
        image = over(image, violet * (1 + 0.15 * noise(draw, at, 40, 2)), exists * 0.92 * smooth(0.005, -0.02, lobes))
    return photograph(draw, image, torch.ones_like(at.x))
