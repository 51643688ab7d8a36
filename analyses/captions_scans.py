"""More kinds of scans, for pre-training alone: in no test set, in no auxiliary set, and none of them a test category.

Three of them (``random_scan``, ``random_echo``, ``random_slide``) never show the same anatomy twice.
"""

from __future__ import annotations

import torch
from torch import Tensor

from headlens.data.procedural.canvas import Canvas, over
from headlens.data.procedural.clinical import camera, photograph
from headlens.data.procedural.draw import Draw
from headlens.data.procedural.fields import cells, colour, noise, ramp, smooth
from headlens.data.procedural.scans import bright, film, grey, patient, speckle, walks
from headlens.data.procedural.scene import Category, Finish, Scene, ScenePainter
from headlens.data.procedural.sections import echo, probe, wobble


def lung_ct(draw: Draw, at: Canvas) -> Scene:
    """Axial CT of the chest: wall with ribs, two dark lungs with vessels, heart, aorta, spine."""
    at = patient(draw, at, 0.1, (0.95, 1.15), 0.04)
    body = at.ellipse(draw.uniform(0.85, 0.97), draw.uniform(0.6, 0.75))
    tone = at.fill(body) * draw.uniform(0.4, 0.5)
    turn = torch.atan2(at.y, at.x)
    ribs = smooth(0.5, 0.8, (turn * (12 + draw.integers(6)) + draw.uniform(0, 6)).cos()) * at.line(body + 0.13, 0.05)
    tone = over(tone, torch.full_like(tone, 0.92), ribs)
    lungs = torch.full_like(at.x, 9.0)
    for flank in (-1, 1):
        lung = at.moved(flank * draw.uniform(0.4, 0.46), draw.uniform(-0.05, 0.05)).turned(
            flank * draw.uniform(0.05, 0.25)
        )
        lungs = torch.minimum(lungs, lung.ellipse(draw.uniform(0.28, 0.34), draw.uniform(0.38, 0.46)))
    inside = smooth(0.012, -0.012, lungs)
    tone = over(tone, 0.08 + 0.05 * noise(draw, at, 8, 3), inside)
    many = (8, 1, 1)
    side = draw.uniform(-1, 1, many).sign()
    tree = walks(draw, at, 0.2 * side, draw.uniform(-0.15, 0.15, many), draw.uniform(-1, 1, many), (0.3, 0.5), 0.6, 4)
    tone = tone + 0.45 * inside * smooth(0.03, 0.005, tree.amin(1, keepdim=True))
    heart = at.moved(draw.uniform(0.0, 0.12), draw.uniform(-0.22, -0.1)).ellipse(0.24, draw.uniform(0.2, 0.28))
    tone = over(tone, draw.uniform(0.5, 0.7).expand_as(tone), at.fill(heart))
    spine = torch.minimum(at.moved(0.0, 0.4).disc(0.12), at.moved(0.0, 0.55).box(0.03, 0.12, 0.02))
    tone = over(tone, 0.85 + 0.1 * noise(draw, at, 20, 2), at.fill(spine))
    aorta = at.moved(draw.uniform(0.12, 0.2), 0.28).disc(0.07)
    tone = over(tone, draw.uniform(0.5, 0.8).expand_as(tone), at.fill(aorta))
    return grey(draw, tone, smooth(-0.02, -0.06, lungs), bright(draw))


def spine_mri(draw: Draw, at: Canvas) -> Scene:
    """Sagittal MRI of the spine: a curved column of vertebrae and discs, cord in its fluid, fat behind."""
    at = patient(draw, at, 0.15, (0.9, 1.2), 0.03)
    heavy = draw.chance(0.5)
    bend = draw.uniform(0.08, 0.22) * (at.y * draw.uniform(1.5, 2.5) + draw.uniform(-1, 1)).sin()
    on = Canvas(at.x - bend, at.y, at.pixel)
    tone = 0.25 + 0.1 * noise(draw, at, 5, 3, 0.7, stretch=0.4)
    count = draw.uniform(2.2, 3.4)
    row = on.y * count + draw.uniform(0, 1)
    part = row - row.floor() - 0.5
    wide = draw.uniform(0.16, 0.22)
    column = on.x.abs() - wide * (1 + 0.15 * (2 * part).square())
    disc = smooth(0.34, 0.38, part.abs())
    marrow = draw.uniform(0.4, 0.65) + 0.06 * noise(draw, at, 24, 3, 0.8)
    pulp = draw.uniform(0.15, 0.3) + 0.5 * heavy * draw.uniform(0.3, 1.0)
    tone = over(tone, marrow + (pulp - marrow) * disc, at.fill(column))
    tone = (
        tone
        * (1 - 0.7 * smooth(0.018, 0.004, column.abs()))
        * (1 - 0.6 * smooth(0.03, 0.0, (part.abs() - 0.36).abs()) * at.fill(column))
    )
    fluid = draw.uniform(0.1, 0.2) + 0.7 * heavy
    canal = (on.x - wide - 0.1).abs() - 0.07
    tone = over(tone, fluid.expand_as(tone), smooth(0.012, -0.012, canal))
    cord = (on.x - wide - 0.1).abs() - 0.035
    tone = over(tone, draw.uniform(0.4, 0.55).expand_as(tone), smooth(0.01, -0.01, cord))
    spines = at.fill((on.x - wide - 0.3).abs() - 0.1) * smooth(0.3, 0.2, part.abs())
    tone = over(tone, marrow, 0.8 * spines)
    tone = over(tone, draw.uniform(0.6, 0.95).expand_as(tone), smooth(0.42, 0.5, on.x - 0.1) * draw.uniform(0.5, 1))
    return grey(draw, tone, smooth(0.0, -0.04, column), bright(draw) * (1 - 2 * draw.chance(0.5)))


def dental_xray(draw: Draw, at: Canvas) -> Scene:
    """Radiograph of teeth: a row of crowns and roots in bone, pulp chambers, now and then a bright filling."""
    at = patient(draw, at, 0.25, (0.9, 1.3), 0.03)
    pitch = draw.uniform(0.4, 0.6)
    nth = (at.x / pitch).round()
    tooth = Canvas(at.x - nth * pitch, at.y + 0.04 * (nth * 2.3 + draw.uniform(0, 6)).sin(), at.pixel)
    crown = tooth.moved(0.0, -0.25).box(pitch * 0.44, 0.22, 0.1)
    taper = pitch * (0.36 - 0.22 * ((tooth.y + 0.1) / 0.9).clamp(0, 1))
    root = torch.maximum(tooth.x.abs() - taper, torch.maximum(-tooth.y - 0.1, tooth.y - draw.uniform(0.55, 0.75)))
    shape = torch.minimum(crown, root)
    jaw = smooth(0.0, 0.1, at.y - 0.05 - 0.04 * noise(draw, at, 3))
    tone = 0.1 + jaw * (draw.uniform(0.25, 0.4) + 0.1 * noise(draw, at, 26, 3, 0.8))
    tone = over(tone, 0.6 + 0.05 * noise(draw, at, 10, 2), smooth(0.01, -0.01, shape))
    tone = over(tone, torch.full_like(tone, 0.8), smooth(0.01, -0.01, crown) * smooth(-0.08, -0.02, crown))
    pulp = torch.maximum(tooth.x.abs() - 0.035, (tooth.y - 0.1).abs() - 0.4)
    tone = tone * (1 - 0.4 * smooth(0.01, -0.015, pulp))
    tone = tone * (1 - 0.5 * smooth(0.015, 0.0, (root - 0.012).abs()) * jaw)
    filled = ((nth * 7.7 + draw.uniform(0, 6)).sin() > 0.6).float()
    filling = tooth.moved(draw.uniform(-0.04, 0.04), -0.38).ellipse(pitch * 0.25, 0.07)
    tone = over(tone, torch.ones_like(tone), filled * at.fill(filling))
    return grey(draw, tone, torch.maximum(smooth(0.0, -0.02, shape), 0.9 * jaw), -bright(draw))


def angiogram(draw: Draw, at: Canvas) -> Scene:
    """X-ray of vessels filled with dye: dark trees that branch and taper on bright, cloudy ground."""
    at = patient(draw, at, 3.1416, (0.9, 1.3), 0.05)
    tone = draw.uniform(0.55, 0.8) + 0.12 * noise(draw, at, 2, 3) + 0.04 * noise(draw, at, 30, 2)
    bent = at.bent(0.05 * noise(draw, at, 4, 2), 0.05 * noise(draw, at, 4, 2))
    for many, reach, width in ((2, (1.6, 2.2), 0.075), (6, (0.7, 1.4), 0.04), (14, (0.3, 0.8), 0.022)):
        count = (many, 1, 1)
        x, y = draw.uniform(-0.9, 0.9, count), draw.uniform(-1, 0.6, count)
        tree = walks(draw, bent, x, y, draw.uniform(0.2, 2.9, count), reach, 0.5, 5).amin(1, keepdim=True)
        tone = tone * (1 - draw.uniform(0.35, 0.7) * smooth(width, 0.5 * width, tree))
    tone = tone * (1 - 0.15 * smooth(0.1, 0.0, (torch.remainder(at.y * 3, 1.0) - 0.5).abs()) * draw.chance(0.4))
    return grey(draw, tone, torch.ones_like(at.x), -bright(draw))


def heart_ultrasound(draw: Draw, at: Canvas) -> Scene:
    """Echocardiogram: four dark chambers between bright walls, valves, in a fan."""
    at, field = probe(draw, at)
    at = wobble(
        draw, at.moved(draw.uniform(-0.15, 0.15), draw.uniform(-0.1, 0.15)).turned(draw.uniform(-0.4, 0.4)), 0.04, 3
    )
    tone = 0.25 + 0.1 * noise(draw, at, 5, 3, 0.7, stretch=0.3)
    muscle = at.ellipse(draw.uniform(0.6, 0.75), draw.uniform(0.65, 0.8))
    tone = over(tone, draw.uniform(0.45, 0.65) + 0.08 * noise(draw, at, 9, 3), smooth(0.02, -0.02, muscle))
    chambers = torch.full_like(at.x, 9.0)
    for flank in (-1, 1):
        for up, size in ((-1, 0.3), (1, 0.22)):
            room = at.moved(flank * draw.uniform(0.24, 0.3), up * draw.uniform(0.28, 0.36))
            chambers = torch.minimum(chambers, room.ellipse(draw.uniform(0.16, 0.24), size * draw.uniform(0.85, 1.2)))
    tone = over(tone, draw.uniform(0.02, 0.1).expand_as(tone), smooth(0.015, -0.02, chambers))
    tone = tone + 0.35 * smooth(0.03, 0.0, chambers.abs()) + 0.3 * smooth(0.03, 0.0, muscle.abs())
    valve = smooth(0.02, 0.0, (at.y - 0.06 * (at.x * 9).sin()).abs()) * smooth(0.5, 0.4, at.x.abs())
    tone = tone + 0.4 * valve
    region = field * smooth(0.0, -0.04, muscle)
    return grey(draw, field * echo(draw, at, tone), region, bright(draw) * (1 - 2 * draw.chance(0.3)))


def kidney_ultrasound(draw: Draw, at: Canvas) -> Scene:
    """Ultrasound of a kidney: dark bean with pyramids, bright sinus, liver above it, capsule."""
    at, field = probe(draw, at)
    at = wobble(
        draw, at.moved(draw.uniform(-0.15, 0.15), draw.uniform(-0.05, 0.2)).turned(draw.uniform(-0.5, 0.5)), 0.04, 3
    )
    tone = draw.uniform(0.35, 0.5) + 0.07 * noise(draw, at, 9, 3, 0.7)
    kidney = at.ellipse(draw.uniform(0.55, 0.7), draw.uniform(0.3, 0.38))
    cortex = draw.uniform(0.25, 0.38) + 0.05 * noise(draw, at, 12, 2)
    tone = over(tone, cortex, smooth(0.015, -0.015, kidney))
    turn = torch.atan2(at.y * 1.8, at.x)
    pyramids = smooth(0.2, 0.7, (turn * draw.integers(3).add(7)).cos()) * at.line(kidney + 0.15, 0.14)
    tone = tone * (1 - 0.6 * pyramids)
    sinus = at.ellipse(draw.uniform(0.28, 0.38), draw.uniform(0.09, 0.15)) + 0.04 * noise(draw, at, 8, 2)
    tone = over(tone, 0.8 + 0.1 * noise(draw, at, 12, 2), smooth(0.03, -0.03, sinus))
    tone = tone + 0.35 * smooth(0.03, 0.0, kidney.abs())
    region = field * smooth(0.0, -0.04, kidney)
    return grey(draw, field * echo(draw, at, tone), region, -bright(draw))


def cytology(draw: Draw, at: Canvas) -> Scene:
    """Stained cells on a slide: wide polygonal plasm, small round nuclei, folds, a pale ground."""
    at = at.posed(draw, 3.1416, (0.7, 1.4), 0.2)
    ground = colour(draw, (0.05, 0.9), (0.0, 0.08), (0.85, 0.98))
    image = ground * (1 + 0.03 * noise(draw, at, 4, 3))
    bent = at.bent(0.05 * noise(draw, at, 4, 2), 0.05 * noise(draw, at, 4, 2))
    violet = colour(draw, (0.65, 0.85), (0.4, 0.8), (0.25, 0.5))
    plasms = [
        colour(draw, (0.45, 0.6), (0.15, 0.45), (0.7, 0.9)),
        colour(draw, (0.88, 1.0), (0.15, 0.45), (0.75, 0.95)),
    ]
    count, share = draw.uniform(0.8, 1.3), draw.uniform(0.3, 0.9)
    for layer, plasm in enumerate(plasms):
        near, other, ident = cells(draw, bent.scaled(count), 4.0 + layer)
        here = smooth(0.0, 0.06, other - near - 0.05) * (ident < share) * smooth(0.75, 0.65, near)
        image = over(image, plasm * (1 + 0.08 * noise(draw, at, 12, 2)), 0.75 * here)
        image = over(image, violet * (1 + 0.2 * noise(draw, at, 50, 2)), 0.9 * here * smooth(0.16, 0.12, near))
    return photograph(draw, image, torch.ones_like(at.x))


def _organs(draw: Draw, at: Canvas, tone: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Anatomy of no body, over ``tone``: outline, wall, organs, vessels; and the distance to the body, and its wall."""
    pick = draw.chance(0.5)
    body = over(
        at.ellipse(draw.uniform(0.6, 1.0), draw.uniform(0.5, 1.0)), at.box(1.3, draw.uniform(0.7, 1.3), 0.3), pick
    )
    base = draw.uniform(0.2, 0.6) + draw.uniform(0.02, 0.12) * noise(draw, at, 4, 3, 0.7, stretch=1.5)
    tone = over(tone, base, at.fill(body))
    shell = draw.uniform(0.02, 0.1)
    tone = over(tone, draw.uniform(0, 1).expand_as(tone), draw.chance(0.8) * at.line(body + shell, shell))
    for _ in range(6):
        bend = draw.uniform(0.01, 0.08)
        here = at.bent(bend * noise(draw, at, 5, 2), bend * noise(draw, at, 5, 2))
        here = here.moved(draw.uniform(-0.6, 0.6), draw.uniform(-0.6, 0.6)).turned(draw.uniform(0, 6.3))
        size = draw.uniform(0.08, 0.4)
        organ = torch.maximum(here.ellipse(size, size * draw.uniform(0.3, 1.0)), body + shell)
        grain = draw.uniform(0.0, 0.12) * noise(draw, at, 12, 3, 0.7)
        shown = draw.chance(0.6)
        tone = over(tone, draw.uniform(0.05, 0.95) + grain, shown * smooth(0.015, -0.015, organ))
        tone = over(
            tone, draw.uniform(0, 1).expand_as(tone), shown * draw.chance(0.4) * smooth(0.025, 0.0, organ.abs())
        )
    many = (6, 1, 1)
    x, y = draw.uniform(-0.7, 0.7, many), draw.uniform(-0.7, 0.7, many)
    tree = walks(draw, at, x, y, draw.uniform(0, 6.3, many), (0.4, 1.0), 0.6, 4).amin(1, keepdim=True)
    width = draw.uniform(0.01, 0.04)
    vessels = draw.chance(0.5) * smooth(width, 0.5 * width, tree) * at.fill(body + shell)
    tone = over(tone, draw.uniform(0, 1).expand_as(tone), 0.8 * vessels)
    bones = torch.maximum(
        at.turned(draw.uniform(0, 6.3)).moved(draw.uniform(-0.3, 0.3), 0.0).box(0.08, 2.0), body + shell
    )
    tone = over(tone, 0.9 + 0.08 * noise(draw, at, 30, 2), draw.chance(0.25) * at.fill(bones))
    return tone.clamp(0, 1), body, shell


def random_scan(draw: Draw, at: Canvas) -> Scene:
    """A section through a body that does not exist, as MRI, CT or X-ray show one."""
    at = patient(draw, at, 3.1416, (0.8, 1.2), 0.06)
    tone, body, shell = _organs(draw, at, draw.uniform(0, 0.15) + 0 * at.x)
    negative = draw.chance(0.15)
    tone = tone + (1 - 2 * tone) * negative
    return grey(draw, tone, smooth(-0.02, -0.06, body + shell), bright(draw) * (1 - 2 * draw.chance(0.5)))


def random_echo(draw: Draw, at: Canvas) -> Scene:
    """The same under ultrasound: darkness in fluid, bright interfaces, shadows along the beam."""
    at, field = probe(draw, at)
    at = wobble(draw, at, 0.05, 3)
    tone, body, shell = _organs(draw, at.scaled(1.4), draw.uniform(0.1, 0.4) + 0.1 * noise(draw, at, 4, 3, 0.7))
    tone = tone * draw.uniform(0.5, 0.9)
    region = field * smooth(-0.02, -0.06, body + shell)
    return grey(draw, field * echo(draw, at, tone), region, bright(draw) * (1 - 2 * draw.chance(0.7)))


def random_slide(draw: Draw, at: Canvas) -> Scene:
    """Tissue or mucosa of no organ in colour: fibres, cells, pits and vessels in three stains."""
    at = at.posed(draw, 3.1416, (0.7, 1.3), 0.2)
    bend = draw.uniform(0.02, 0.15)
    flow = at.bent(bend * noise(draw, at, 3, 2), bend * noise(draw, at, 3, 2))
    stops = [colour(draw, (0.85, 1.1), (0.1, 0.7), (0.4, 0.95)) for _ in range(2)]
    stops.append(colour(draw, (0, 1), (0.1, 0.6), (0.3, 0.95)))
    fibre, cloud = noise(draw, flow, 12, 3, 0.7, stretch=4), noise(draw, flow, 3, 3)
    image = ramp(0.5 + 0.3 * draw.uniform(0, 1) * fibre + 0.3 * draw.uniform(0, 1) * cloud, *stops)
    near, other, ident = cells(draw, flow.scaled(draw.uniform(0.4, 1.6)), 14)
    size = draw.uniform(0.1, 0.4)
    dots = smooth(size, 0.7 * size, near) * (ident < draw.uniform(0.2, 1)) * draw.chance(0.7)
    image = over(image, colour(draw, (0.6, 1.0), (0.3, 0.8), (0.2, 0.6)), 0.85 * dots)
    image = image * (1 - draw.chance(0.5) * draw.uniform(0.1, 0.5) * smooth(0.12, 0.0, other - near))
    many = (6, 1, 1)
    x, y = draw.uniform(-0.9, 0.9, many), draw.uniform(-0.9, 0.9, many)
    tree = walks(draw, flow, x, y, draw.uniform(0, 6.3, many), (0.4, 1.0), 0.7, 4).amin(1, keepdim=True)
    image = over(image, stops[0] * 0.5, draw.chance(0.4) * 0.7 * smooth(0.03, 0.01, tree))
    return photograph(draw, image, torch.ones_like(at.x))


def _of(paint: ScenePainter, finish: Finish, words: tuple[str, ...], *flaws: str, texture: bool = False) -> Category:
    return Category(paint.__name__, "medical", words, paint, flaws, finish, texture)


# fmt: off
SCANS: dict[str, Category] = {category.name: category for category in (
    _of(lung_ct, film, ("lung CT", "CT scan of the chest"), "mass", "nodule", "infiltrate", "effusion"),
    _of(spine_mri, film, ("spine MRI", "MRI scan of the spine"), "fracture", "oedema", "mass", "cyst"),
    _of(dental_xray, film, ("dental X-ray", "radiograph of teeth"), "cyst", "fracture", "mass"),
    _of(angiogram, film, ("angiogram", "X-ray image of vessels"), "haemorrhage", "mass", "nodule"),
    _of(heart_ultrasound, speckle, ("heart ultrasound", "echocardiogram"), "mass", "effusion", "nodule"),
    _of(kidney_ultrasound, speckle, ("kidney ultrasound", "ultrasound image of the kidney"), "mass", "cyst", "nodule"),
    _of(cytology, camera, ("cytology slide", "microscope image of cells"), "crowding", "inflammation", "blast"),
    _of(random_scan, film, ("body scan", "section through a body"),
        "mass", "nodule", "cyst", "infiltrate", "oedema", "haemorrhage", "effusion"),
    _of(random_echo, speckle, ("ultrasound image", "sonogram"), "mass", "nodule", "cyst", "effusion"),
    _of(random_slide, camera, ("tissue", "image of tissue"), "haemorrhage", "inflammation", "crowding", "polyp"),
)}
# fmt: on
"""By name; of the same kind as the catalogue's, which they are not part of."""
