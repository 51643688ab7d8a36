"""Industrial objects on backdrops: ``(draw, canvas) -> Scene``, and the categories they make."""

from __future__ import annotations

import torch

from headlens.data.procedural.backdrops import either, periodic, placed, stand
from headlens.data.procedural.canvas import Canvas, over
from headlens.data.procedural.draw import Draw
from headlens.data.procedural.electrics import cable, chip, connector, pcb
from headlens.data.procedural.fields import cells, colour, noise, smooth
from headlens.data.procedural.parts import (
    around,
    bearing,
    bevel,
    folded,
    gear,
    lettering,
    lit,
    metal,
    nut,
    outline,
    part,
    plastic,
    screw,
)
from headlens.data.procedural.scene import Category, Scene


def pill(draw: Draw, at: Canvas) -> Scene:
    """A two-coloured capsule, or a round or oblong tablet with a score line, a print and speckles."""
    on = placed(draw, at)
    narrow = draw.uniform(0.3, 0.45)
    long = on.box(0.92, narrow, narrow)
    kind = draw.integers(4)  # capsule, capsule, round, oblong
    capsule = (kind < 2).float()
    oval = on.ellipse(0.92, draw.uniform(0.42, 0.65))
    shape = torch.where(kind < 2, long, torch.where(kind == 2, on.disc(0.85), either(draw, oval, long)))
    body = colour(draw, (0, 1), (0.0, 0.85), (0.45, 1.0))
    cap = either(draw, body, colour(draw, (0, 1), (0.0, 0.95), (0.2, 1.0)))
    joint = draw.uniform(-0.15, 0.15)
    image = over(body + 0 * on.x, cap, on.fill(on.x - joint) * torch.maximum(capsule, draw.chance(0.25)))
    chalk, fine = noise(draw, on, 5, 3), noise(draw, on, 45, 2)
    image = image * (1 + 0.03 * chalk + (1 - capsule) * draw.uniform(0, 0.06) * fine)
    specks = smooth(0.75, 0.9, noise(draw, on, 50, 1)) * draw.chance(0.4) * (1 - capsule)
    image = over(image, colour(draw, (0, 1), (0.1, 0.8), (0.1, 0.6)), specks)
    rim = draw.uniform(0.1, 0.4)
    height = torch.where(kind < 2, bevel(shape, narrow, 1.0), bevel(shape, rim, 0.7))
    overlap = smooth(0, 0.015, joint + 0.04 - on.x)  # the cap slides over the body
    height = height + 0.015 * overlap * capsule
    image = image * (1 - 0.25 * capsule * on.line(on.x - joint - 0.04, 0.02))
    score = on.line(on.x, 0.05)
    score = torch.maximum(score, draw.chance(0.3) * on.line(on.y, 0.05)) * draw.chance(0.5) * (1 - capsule)
    words = lettering(draw, on.moved(draw.uniform(-0.35, 0.35) * capsule, 0.0).scaled(draw.uniform(0.22, 0.4)), 4, 1)
    emblem = folded(on, 3).disc(0.25).abs() - 0.03
    mark = either(draw, words, words, on.fill(emblem), 0 * words)
    pressed = (1 - capsule) * draw.chance(0.6)
    height = height - 0.05 * score - 0.03 * pressed * mark
    image = over(image, colour(draw, (0, 1), (0.0, 0.8), (0.05, 0.5)), 0.85 * mark * (1 - pressed) * (1 - score))
    image = lit(draw, on, image * (1 - 0.25 * score), height, 0.1 + 0.5 * capsule)
    gleam = on.moved(0.0, -0.4 * narrow).box(0.6, 0.04 * narrow, 0.04 * narrow)
    image = image + capsule * draw.uniform(0.2, 0.7) * smooth(0.1, 0.0, gleam)
    return stand(draw, at, image, on.fill(shape))


def bottle_cap(draw: Draw, at: Canvas) -> Scene:
    """A crown cap from above: crimped skirt of about 21 flutes, round shoulder, printed ring, emblem and name."""
    on = placed(draw, at)
    radius, angle = on.disc(0.0), torch.atan2(on.y, on.x)
    flutes = ((18 + draw.integers(7)) * angle).cos()
    top = draw.uniform(0.66, 0.76)
    shape = 0.8 * (radius - 0.9 - draw.uniform(0.025, 0.05) * flutes)
    skirt = smooth(top, 0.92, radius)
    height = bevel(radius - 0.95, 0.95 - top, 0.9) + 0.07 * skirt * flutes * draw.uniform(0.6, 1.2)
    tin, ink = metal(draw, on), colour(draw, (0, 1), (0.0, 0.95), (0.08, 0.95))
    paint = colour(draw, (0, 1), (0.2, 0.95), (0.15, 0.95))
    image = either(draw, tin, paint + 0 * tin, paint + 0 * tin)
    field = colour(draw, (0, 1), (0.0, 0.9), (0.1, 1.0))
    inner = top * draw.uniform(0.5, 0.95)
    image = over(image, field, draw.chance(0.6) * on.fill(radius - inner))
    image = over(image, ink, draw.chance(0.6) * on.line(radius - inner, draw.uniform(0.02, 0.06)))
    upright = on.turned(draw.uniform(0, 6))
    image = over(image, ink, draw.chance(0.7) * lettering(draw, around(upright, top * 0.85).scaled(top * 1.4), 10))
    shape_of_emblem = outline(draw, upright.scaled(draw.uniform(0.2, 0.5) * top))
    rays = folded(upright, 5 + draw.integers(4))
    star = torch.maximum(rays.x - 0.5 * top, (rays.y.abs() - 0.3 * (0.5 * top - rays.x)) * 0.9)
    emblem = on.fill(either(draw, shape_of_emblem * 0.3, star, shape_of_emblem.abs() * 0.3 - 0.03))
    image = over(image, colour(draw, (0, 1), (0.1, 0.95), (0.1, 1.0)), emblem)
    image = over(image, ink, draw.chance(0.6) * lettering(draw, upright.scaled(draw.uniform(0.3, 0.5)), 5))
    image = image * (1 - 0.25 * skirt * smooth(0.4, -0.6, flutes))
    image = lit(draw, on, image, height, draw.uniform(0.3, 0.8))
    gleam = on.moved(draw.uniform(-0.3, 0.3), draw.uniform(-0.3, 0.3)).ellipse(0.4, 0.2)
    image = image + draw.uniform(0, 0.3) * smooth(0.1, -0.2, gleam)
    return stand(draw, at, image, on.fill(shape))


def button(draw: Draw, at: Canvas) -> Scene:
    """A sewing button with two or four holes: raised rim, sunk middle, plastic, horn, wood, pearl or metal."""
    on = placed(draw, at)
    radius = on.disc(0.0)
    soft = draw.uniform(0.1, 0.3)
    square = on.polygon(4 + draw.integers(5), 0.82 - soft) - soft
    scallop = 0.8 * (radius - 0.9 - 0.05 * ((6 + draw.integers(8)) * torch.atan2(on.y, on.x)).cos())
    shape = either(draw, radius - 0.95, radius - 0.95, radius - 0.95, square, scallop)
    four = draw.chance(0.6)
    turned = on.turned(draw.uniform(0, 6))
    holes = folded(turned, 2 + 2 * four).moved(draw.uniform(0.16, 0.26), 0.0).disc(draw.uniform(0.06, 0.1))
    grain = noise(draw, on, 24, 1, stretch=10)
    veins = (6 * noise(draw, on, 3, 3)).sin()
    tone, other = colour(draw, (0, 1), (0.0, 0.9), (0.15, 0.95)), colour(draw, (0, 1), (0.0, 0.6), (0.3, 0.95))
    wood = colour(draw, (0.05, 0.1), (0.3, 0.7), (0.4, 0.85)) * (0.85 + 0.2 * grain)
    pearl = over(tone + 0 * on.x, other, 0.5 + 0.5 * veins)
    image = either(draw, plastic(draw, on), wood, pearl, metal(draw, on), tone * (1 + 0.02 * grain))
    rim, lip = draw.uniform(0.1, 0.35), draw.uniform(0.03, 0.12)
    middle = shape + rim
    depth = draw.uniform(0.2, 1)
    height = bevel(shape, lip, 1.0) - 0.09 * depth * smooth(0.03, -0.06, middle)
    groove = on.line(shape + 0.5 * rim, 0.02) * draw.chance(0.3)
    radial = (torch.atan2(on.y, on.x) * (20 + draw.integers(40))).cos() * on.fill(-middle) * draw.chance(0.25)
    height = height - 0.02 * groove + 0.01 * radial + bevel(torch.maximum(shape, -holes), 0.03, 0.8)
    image = over(image, other, draw.chance(0.3) * on.fill(-middle))
    image = image * (1 - 0.2 * on.line(middle, 0.03) - 0.2 * groove)
    word = lettering(draw, around(turned, 0.95 - rim / 2).scaled(rim * 2.5), 6) * draw.chance(0.3)
    height = height - 0.02 * word
    image = lit(draw, on, image, height, draw.uniform(0.1, 0.8))
    return stand(draw, at, image, on.fill(torch.maximum(shape, -holes)))


def cookie(draw: Draw, at: Canvas) -> Scene:
    """A biscuit, round, scalloped or square: crumbs, browned rim, chocolate chips, docking holes or embossing."""
    on = placed(draw, at)
    wavy = noise(draw, on, 3, 2) * draw.uniform(0, 0.06)
    radius, angle = on.disc(0.0), torch.atan2(on.y, on.x)
    scallop = 0.8 * (radius - 0.88 - 0.05 * ((14 + draw.integers(20)) * angle).cos().abs())
    square = on.box(0.75, draw.uniform(0.5, 0.75), 0.08)
    shape = either(draw, radius - 0.92, radius - 0.92, scallop, square) + wavy
    crumbs, coarse = noise(draw, on, 40, 2), noise(draw, on, 9, 3)
    hue, dark = draw.uniform(0.06, 0.1), 1 - draw.chance(0.25) * draw.uniform(0.3, 0.7)
    tint = (
        torch.cat([0 * hue + 0.93, 0.93 - 0.25 * draw.uniform(0.4, 1.2), 0.93 - 2 * draw.uniform(0.15, 0.3)], 1) * dark
    )
    rim = smooth(-draw.uniform(0.12, 0.35), 0.02, shape + 0.05 * coarse)
    image = tint * (0.95 + 0.06 * coarse + 0.06 * crumbs - hue) * (1 - draw.uniform(0.15, 0.45) * rim)
    height = bevel(shape, draw.uniform(0.08, 0.3), 0.6) + 0.006 * coarse + draw.uniform(0.002, 0.006) * crumbs
    near, _, ident = cells(draw, on, 7.0, 0.7)
    lumps = on.fill((near - 0.15 - 0.3 * ident) / 3.5 + 0.02 * crumbs) * (ident < 0.65).float() * on.fill(shape + 0.08)
    lumps = lumps * draw.chance(0.45)
    chocolate = colour(draw, (0.03, 0.07), (0.4, 0.7), (0.12, 0.35))
    chocolate = either(draw, chocolate, chocolate, colour(draw, (0, 1), (0.4, 0.8), (0.4, 0.9)))
    image = over(image, chocolate, lumps)
    height = height + 0.09 * lumps * (0.7 - near)
    pitch = draw.uniform(3, 5)
    lattice = Canvas(periodic(on.x * pitch) / pitch, periodic(on.y * pitch) / pitch, on.pixel)
    holes = lattice.disc(draw.uniform(0.02, 0.045)) + 9 * (shape > -0.15).float()
    rings = folded(on, 6 + draw.integers(10))
    emboss = torch.minimum(on.disc(0.62).abs() - 0.02, rings.moved(0.4, 0.0).box(0.12, 0.03, 0.03))
    word = 0.03 - 0.06 * lettering(draw, on.scaled(0.5), 6)
    stamp = either(draw, holes, holes, torch.minimum(emboss, word), torch.full_like(holes, 9.0))
    stamp = stamp + 9 * (lumps > 0).float()
    image = image * (1 - 0.5 * on.fill(stamp))
    height = height - 0.04 * smooth(0.02, -0.02, stamp)
    sugar = smooth(0.9, 1.1, noise(draw, on, 60, 1)) * draw.chance(0.3)
    image = over(image, torch.full_like(tint, 0.95), 0.7 * sugar)
    image = lit(draw, on, image, height, 0.05)
    return stand(draw, at, image, on.fill(shape))


def zipper(draw: Draw, at: Canvas) -> Scene:
    """A zip fastener: two woven tapes with stitches, interlocking teeth, a slider with its pull, open above it."""
    on = placed(draw, at)
    tape, end = draw.uniform(0.3, 0.5), draw.uniform(0.9, 1.2)
    slide, open_ = draw.uniform(-0.6, 0.5), draw.chance(0.7) * draw.uniform(0.15, 0.45)
    apart = open_ * (slide - on.y).clamp(min=0)
    x = on.x.abs() - apart  # from the middle of one half outwards
    side = on.x.sign()
    half = Canvas(x, on.y, on.pixel)
    cloth = torch.maximum(torch.maximum(x - tape, 0.02 - x - 0.1 * (apart <= 0).float()), on.y.abs() - end)
    pitch = draw.uniform(8, 16)
    phase = 0.25 * side  # the halves stand half a tooth apart
    near = Canvas(x - 0.03, periodic(on.y * pitch + phase) / pitch, on.pixel)
    long, thick = draw.uniform(0.06, 0.11), draw.uniform(0.2, 0.3) / pitch
    blocks = near.box(long, thick, thick * 0.4)
    coil = near.ellipse(long, thick * 1.1)
    teeth = torch.maximum(either(draw, blocks, blocks, coil), on.y.abs() - end + 0.04)

    threads = draw.uniform(40, 80)
    weave = (on.y * threads + 2 * on.x.abs() * threads * draw.integers(2)).sin() * (on.x * threads).sin()
    dye = colour(draw, (0, 1), (0.0, 0.9), (0.08, 0.9))
    image = dye * (1 + 0.15 * weave + 0.05 * noise(draw, on, 30, 1))
    seam = half.moved(draw.uniform(0.55, 0.8) * tape, 0.0)
    stitch = on.line(seam.x, 0.025) * smooth(-0.2, 0.3, (on.y * threads * 0.6).sin())
    image = over(image, colour(draw, (0, 1), (0.0, 0.6), (0.1, 1.0)), stitch)
    cord = on.line(x - 0.13, 0.05)
    image = image * (1 - 0.2 * cord)
    steel, tooth = metal(draw, on), either(draw, metal(draw, on), plastic(draw, on))
    image = over(image, image * 0.35, 0.8 * smooth(0.04, 0.0, teeth))
    image = over(image, tooth, on.fill(teeth))
    spot = on.moved(0.0, slide)
    body = spot.box(0.17 - 0.05 * spot.y, 0.18, 0.06)
    pull = spot.turned(draw.uniform(-0.3, 0.3)).moved(0.0, draw.uniform(0.22, 0.32))
    tab = torch.maximum(pull.box(0.07, 0.24, 0.05), -pull.moved(0.0, 0.13).box(0.03, 0.06, 0.03))
    cap = torch.minimum(body, spot.box(0.045, 0.14, 0.04))
    shown = draw.chance(0.85)
    tab, body, cap = tab + 9 * (1 - shown), body + 9 * (1 - shown), cap + 9 * (1 - shown)
    image = over(image, image * 0.4, 0.7 * smooth(0.05, 0.0, torch.minimum(body, tab)))
    image = over(image, steel, on.fill(torch.minimum(cap, tab)))
    image = image * (1 - 0.5 * on.line(spot.box(0.045, 0.14, 0.04), 0.02) * shown)
    image = image * (1 - 0.4 * on.line(tab, 0.02))
    height = 0.008 * weave + bevel(teeth, thick, 1.0) + 0.01 * stitch + bevel(body, 0.05, 1.2) + bevel(tab, 0.04, 1.2)
    image = lit(draw, on, image, height, draw.uniform(0.05, 0.5))
    shape = torch.minimum(torch.minimum(cloth, teeth), torch.minimum(body, tab))
    return stand(draw, at, image, on.fill(shape))


INDUSTRIAL_OBJECTS: tuple[Category, ...] = (
    Category(
        "nut",
        "industrial",
        ("metal nut", "nut", "hex nut"),
        nut,
        ("scratch", "crack", "dent", "corrosion", "deformed", "contamination", "missing", "discoloured", "worn"),
    ),
    Category(
        "screw",
        "industrial",
        ("screw", "bolt", "metal fastener"),
        screw,
        ("scratch", "cut", "worn", "deformed", "corrosion", "missing", "contamination", "dent"),
    ),
    Category(
        "bearing",
        "industrial",
        ("ball bearing", "bearing"),
        bearing,
        ("scratch", "crack", "corrosion", "missing", "dent", "contamination", "burn", "residue"),
    ),
    Category(
        "gear",
        "industrial",
        ("gear", "cogwheel", "gear wheel"),
        gear,
        ("missing", "crack", "worn", "scratch", "corrosion", "dent", "deformed", "contamination", "residue"),
    ),
    Category(
        "part",
        "industrial",
        ("machined part", "metal part"),
        part,
        ("scratch", "crack", "hole", "dent", "missing", "deformed", "corrosion", "stain", "contamination"),
    ),
    Category(
        "pill",
        "industrial",
        ("pill", "capsule", "tablet"),
        pill,
        ("crack", "scratch", "contamination", "misprint", "discoloured", "missing", "dent", "stain", "hole"),
    ),
    Category(
        "bottle_cap",
        "industrial",
        ("bottle cap", "crown cap"),
        bottle_cap,
        ("scratch", "dent", "deformed", "misprint", "corrosion", "contamination", "stain", "worn"),
    ),
    Category(
        "button",
        "industrial",
        ("button", "sewing button"),
        button,
        ("crack", "scratch", "missing", "hole", "discoloured", "stain", "contamination", "burn"),
    ),
    Category(
        "cookie",
        "industrial",
        ("cookie", "biscuit"),
        cookie,
        ("crack", "missing", "hole", "burn", "contamination", "discoloured", "deformed", "bubble"),
    ),
    Category(
        "zipper",
        "industrial",
        ("zipper", "zip fastener", "zip"),
        zipper,
        ("missing", "deformed", "cut", "thread", "fold", "stain", "worn", "hole", "residue"),
    ),
    Category(
        "chip",
        "industrial",
        ("integrated circuit", "chip", "IC package"),
        chip,
        ("scratch", "crack", "misprint", "missing", "deformed", "burn", "contamination", "residue"),
    ),
    Category(
        "pcb",
        "industrial",
        ("printed circuit board", "circuit board", "pcb"),
        pcb,
        ("scratch", "burn", "missing", "contamination", "residue", "corrosion", "stain", "cut"),
    ),
    Category(
        "cable",
        "industrial",
        ("cable", "cable cross-section", "electric cable"),
        cable,
        ("cut", "missing", "deformed", "discoloured", "contamination", "hole", "bubble", "burn"),
    ),
    Category(
        "connector",
        "industrial",
        ("connector", "plug", "pin connector"),
        connector,
        ("missing", "deformed", "scratch", "crack", "burn", "contamination", "corrosion", "residue"),
    ),
)
