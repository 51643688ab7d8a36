"""More kinds of scans and of photographs of the clinic, for pre-training alone: none is a category of the catalogue.

Four of them (``random_layers``, ``random_xray``, ``fluorescence``, ``gastroscopy``) are endless: no two images share
an anatomy. They are registered with the products, in captions_kinds.py.
"""

from __future__ import annotations

import torch
from torch import Tensor

from headlens.data.procedural.canvas import Canvas, over
from headlens.data.procedural.clinical import camera, photograph
from headlens.data.procedural.draw import Draw
from headlens.data.procedural.fields import cells, colour, noise, ramp, relief, smooth
from headlens.data.procedural.scans import bone, bright, film, grey, patient, speckle, walks
from headlens.data.procedural.scene import Category, Finish, Scene, ScenePainter
from headlens.data.procedural.sections import echo, probe, wobble


def _shade(draw: Draw, at: Canvas, tone: Tensor, distance: Tensor, value: Tensor, grain: float = 0.05) -> Tensor:
    """An organ of one tone and a little grain, over ``tone``; its border is soft."""
    return over(tone, value + grain * noise(draw, at, 11, 3, 0.7), smooth(0.014, -0.014, distance))


def abdomen_mri(draw: Draw, at: Canvas) -> Scene:
    """Coronal MRI of the abdomen: fat, liver, spleen, stomach, kidneys, loops of gut, muscles along the spine."""
    at = patient(draw, at, 0.12, (0.95, 1.2), 0.05)
    heavy = draw.chance(0.5)
    body = at.box(draw.uniform(0.72, 0.85), 1.3, 0.3) + 0.05 * (at.y * draw.uniform(2, 4)).cos()
    fat, flesh, fluid = draw.uniform(0.55, 0.9), draw.uniform(0.25, 0.4), 0.1 + 0.85 * heavy
    inner = body + draw.uniform(0.06, 0.2)
    tone = over(0.02 + 0 * at.x, fat + 0.04 * noise(draw, at, 8, 2), at.fill(body))
    tone = over(tone, flesh + 0.08 * noise(draw, at, 6, 3), smooth(0.02, -0.02, inner))
    near, other, lot = cells(draw, wobble(draw, at, 0.06, 4), 7, 0.9)
    gut = (flesh + (lot - 0.4) * draw.uniform(0.3, 0.8)).clamp(0.1, 0.95) * smooth(0.0, 0.12, other - near)
    belly = smooth(-0.05, 0.15, at.y) * smooth(0.02, -0.04, inner + 0.04)
    tone = over(tone, gut, belly * smooth(0.1, 0.16, at.x.abs()))
    for flank in (-1, 1):
        psoas = at.moved(flank * 0.12, 0.45).turned(-flank * draw.uniform(0.1, 0.25)).ellipse(0.08, 0.45)
        tone = _shade(draw, at, tone, psoas, draw.uniform(0.2, 0.35))
        kidney = at.moved(flank * draw.uniform(0.3, 0.38), draw.uniform(0.08, 0.2)).turned(
            flank * draw.uniform(0.15, 0.35)
        )
        rim = kidney.ellipse(draw.uniform(0.11, 0.14), draw.uniform(0.2, 0.25))
        tone = _shade(draw, at, tone, rim, draw.uniform(0.5, 0.8))
        tone = _shade(draw, at, tone, rim + 0.07, 0.5 * flesh + 0.5 * fluid)
    spleen = at.moved(0.5, -0.38).turned(draw.uniform(-0.5, 0.1)).ellipse(0.13, draw.uniform(0.22, 0.32))
    tone = _shade(draw, at, tone, spleen, draw.uniform(0.4, 0.7))
    stomach = at.moved(0.22, draw.uniform(-0.4, -0.3)).turned(draw.uniform(-0.8, 0.2)).ellipse(0.16, 0.25)
    tone = _shade(draw, at, tone, stomach, fluid * 0.8)
    right = wobble(draw, at.moved(-0.25, draw.uniform(-0.42, -0.35)).turned(draw.uniform(-0.3, 0.2)), 0.03, 3)
    liver = torch.maximum(right.ellipse(draw.uniform(0.4, 0.5), draw.uniform(0.28, 0.38)), inner + 0.02)
    grey_liver = draw.uniform(0.35, 0.6)
    tone = _shade(draw, at, tone, liver, grey_liver, 0.03)
    many = (5, 1, 1)
    x, y = draw.uniform(-0.5, 0.0, many), draw.uniform(-0.5, -0.3, many)
    tree = walks(draw, at, x, y, draw.uniform(0, 6.3, many), (0.3, 0.5), 0.6, 4).amin(1, keepdim=True)
    vessels = smooth(0.022, 0.006, tree) * smooth(0.0, -0.05, liver)
    tone = over(tone, grey_liver + 0.3 * (2 * heavy - 1), vessels)
    region = smooth(0.0, -0.03, torch.minimum(torch.minimum(liver, spleen), inner + 0.12))
    return grey(draw, tone, region, bright(draw) * (2 * heavy - 1))


def heart_mri(draw: Draw, at: Canvas) -> Scene:
    """Short-axis MRI of the heart: ring of muscle around bright blood, papillary muscles, right ventricle, lungs."""
    at = patient(draw, at, 3.1416, (0.9, 1.3), 0.05)
    chest = 0.25 + 0.12 * noise(draw, at, 3, 3)
    lung = smooth(-0.1, 0.2, noise(draw, at, 1.5, 2) + 0.7 * at.disc(0.0) - draw.uniform(0.4, 0.7))
    tone = over(chest, 0.05 + 0.04 * noise(draw, at, 14, 3), lung)
    many = (7, 1, 1)
    x, y = draw.uniform(-0.9, 0.9, many), draw.uniform(-0.9, 0.9, many)
    tree = walks(draw, at, x, y, draw.uniform(0, 6.3, many), (0.2, 0.5), 0.6, 4).amin(1, keepdim=True)
    tone = tone + 0.4 * lung * smooth(0.025, 0.006, tree)
    blood, flesh = draw.uniform(0.7, 0.95), draw.uniform(0.2, 0.4)
    here = at.moved(draw.uniform(-0.15, 0.15), draw.uniform(-0.15, 0.15))
    outer, thick = draw.uniform(0.34, 0.42), draw.uniform(0.08, 0.16)
    left = wobble(draw, here, 0.02, 4).ellipse(outer, outer * draw.uniform(0.88, 1.05))
    right = here.moved(-outer, draw.uniform(-0.1, 0.1)).ellipse(draw.uniform(0.26, 0.36), draw.uniform(0.3, 0.42))
    sac = torch.minimum(left, right) - 0.05
    tone = _shade(draw, at, tone, sac, draw.uniform(0.4, 0.7))
    tone = _shade(draw, at, tone, right - 0.02, flesh)
    tone = _shade(draw, at, tone, right + 0.02, blood)
    tone = _shade(draw, at, tone, left, flesh, 0.03)
    cavity = left + thick + 0.015 * noise(draw, at, 8, 2)
    tone = _shade(draw, at, tone, cavity, blood)
    for _ in range(2):
        turn = draw.uniform(0, 6.2832)
        inside = outer - thick - 0.07
        papilla = here.moved(inside * turn.cos(), inside * turn.sin()).disc(draw.uniform(0.03, 0.06))
        tone = _shade(draw, at, tone, papilla, flesh)
    region = smooth(0.0, -0.03, sac)
    return grey(draw, tone, region, bright(draw) * (1 - 2 * draw.chance(0.5)))


def hip_xray(draw: Draw, at: Canvas) -> Scene:
    """Radiograph of the hips: wings and ring of the pelvis, sacrum, femoral heads, necks and shafts."""
    at = patient(draw, at, 0.2, (0.95, 1.25), 0.03)
    both = Canvas((at.x + draw.uniform(-0.05, 0.05)).abs(), at.y, at.pixel)
    flesh = at.box(0.95, 2.0, 0.2)
    tone = 0.04 + smooth(0.05, -0.3, flesh) * (draw.uniform(0.15, 0.3) + 0.04 * noise(draw, at, 3, 3))
    tone = tone - 0.08 * smooth(0.3, 1.0, noise(draw, at, 5, 3)) * smooth(0.1, -0.1, at.disc(0.5))
    wing = both.moved(0.42, -0.4).turned(draw.uniform(0.5, 0.8)).ellipse(draw.uniform(0.36, 0.42), 0.25)
    socket = both.moved(0.5, 0.12).disc(draw.uniform(0.19, 0.22))
    ramus = (both.moved(0.26, 0.3).turned(draw.uniform(0.4, 0.7)).ellipse(0.26, 0.2)).abs() - 0.05
    sacrum = torch.maximum(at.moved(0.0, -0.3).ellipse(0.24, 0.42), -0.75 - at.y)
    head = both.moved(0.53, 0.13).disc(draw.uniform(0.13, 0.15))
    neck = both.moved(0.64, 0.24).turned(draw.uniform(0.6, 0.8)).box(0.16, 0.08, 0.04)
    shaft = bone(both.moved(0.74, 0.0), 0.2, draw.uniform(1.3, 2.0), draw.uniform(0.08, 0.1), 0.05 + 0 * at.pixel)
    femur = torch.minimum(torch.minimum(head, neck), shaft)
    trabecula = 0.06 * noise(draw, at, 30, 3, 0.8)
    for distance, dense in ((wing, 0.16), (sacrum, 0.2), (socket, 0.14), (ramus, 0.22), (femur, 0.3)):
        inside = smooth(0.012, -0.012, distance)
        cortex = smooth(0.05, 0.0, (distance + 0.02).abs())
        tone = tone + inside * (dense * draw.uniform(0.8, 1.3) + trabecula + 0.14 * cortex)
    gap = smooth(0.02, 0.0, (head - 0.02).abs())
    tone = tone * (1 - 0.25 * gap)
    bones = torch.minimum(torch.minimum(femur, wing), torch.minimum(socket, torch.minimum(ramus, sacrum)))
    return grey(draw, tone, smooth(0.0, -0.03, bones), -bright(draw))


def liver_ultrasound(draw: Draw, at: Canvas) -> Scene:
    """Ultrasound of the liver: even grain, dark branching veins, portal walls, gall bladder, bright diaphragm."""
    at, field = probe(draw, at)
    at = wobble(draw, at.turned(draw.uniform(-0.3, 0.3)), 0.05, 3)
    base = draw.uniform(0.3, 0.5)
    tone = base + 0.05 * noise(draw, at, 14, 3, 0.8)
    wall = smooth(-0.62, -0.72, at.y - 0.04 * (4 * at.x).sin())
    tone = over(tone, 0.5 + 0.25 * noise(draw, at, 8, 2, stretch=0.25), wall)
    many = (6, 1, 1)
    x, y = draw.uniform(-0.8, 0.8, many), draw.uniform(-0.5, 0.6, many)
    tree = walks(draw, at, x, y, draw.uniform(0, 6.3, many), (0.5, 1.1), 0.4, 4)
    width = draw.uniform(0.015, 0.06, many)
    veins = smooth(width, 0.6 * width, tree).amax(1, keepdim=True)
    portal = (smooth(width + 0.035, width, tree) * draw.chance(0.4, many)).amax(1, keepdim=True)
    tone = over(tone + 0.25 * portal, 0.04 + 0 * at.x, veins)
    near = at.moved(draw.uniform(-0.5, 0.5), draw.uniform(0.1, 0.4)).turned(draw.uniform(-1, 1))
    bladder = near.ellipse(0.28, 0.12) + 9 * (1 - draw.chance(0.4))
    tone = over(tone + 0.3 * smooth(0.03, 0.0, bladder.abs()), 0.03 + 0 * at.x, smooth(0.01, -0.02, bladder))
    dome = at.moved(draw.uniform(-0.4, 0.4), draw.uniform(-0.6, -0.2)).disc(draw.uniform(1.0, 1.3))
    tone = over(tone, 0.12 + 0.1 * noise(draw, at, 6, 2), smooth(0.0, 0.05, dome))
    tone = tone + 0.5 * smooth(0.035, 0.0, dome.abs())
    region = field * smooth(-0.02, -0.08, dome) * (1 - wall) * smooth(0.0, 0.03, bladder)
    return grey(draw, field * echo(draw, at, tone), region, bright(draw) * (1 - 2 * draw.chance(0.6)))


def retinal_angiogram(draw: Draw, at: Canvas) -> Scene:
    """Dye in the vessels of the eye, in grey: bright trees from a bright disc, a dark spot without vessels."""
    frame = at.disc(draw.uniform(0.9, 1.2))
    at = at.turned(draw.uniform(-0.2, 0.2))
    flip = 1 - 2 * draw.chance(0.5)
    disc_x, disc_y = 0.5 * flip * draw.uniform(0.7, 1.3), draw.uniform(-0.1, 0.1)
    tone = draw.uniform(0.2, 0.4) + 0.06 * noise(draw, at, 4, 3) + 0.05 * noise(draw, at, 40, 2)
    spot = at.moved(disc_x - 0.75 * flip, disc_y + 0.05).disc(0.0)
    tone = tone * (1 - 0.6 * (-(spot / draw.uniform(0.12, 0.22)).square()).exp())
    head = at.moved(disc_x, disc_y).disc(draw.uniform(0.1, 0.14))
    bent = at.bent(0.04 * noise(draw, at, 5, 2), 0.04 * noise(draw, at, 5, 2))
    far = smooth(0.05, 0.3, spot)
    for many, reach, width in ((6, (0.9, 1.6), 0.028), (8, (0.5, 1.0), 0.016)):
        count = (many, 1, 1)
        turn = draw.uniform(0, 6.2832, count)
        step = 0.02 if many == 6 else draw.uniform(0.2, 0.8, count)
        x, y = disc_x + step * turn.cos(), disc_y + step * turn.sin()
        tree = walks(draw, bent, x, y, turn, reach, 0.35, 4).amin(1, keepdim=True)
        tone = over(tone, draw.uniform(0.75, 1.0), 0.9 * smooth(width, 0.4 * width, tree) * far)
    tone = over(tone, draw.uniform(0.45, 0.9), 0.8 * smooth(0.02, -0.03, head))
    inside = smooth(0.01, -0.02, frame)
    region = smooth(-0.04, -0.1, frame) * smooth(0.0, 0.05, head)
    return grey(draw, tone * inside, region, bright(draw) * (1 - 2 * draw.chance(0.4)))


def _lashes(draw: Draw, at: Canvas) -> Tensor:
    """Distance to the nearest lash, in their pitch: they stand out from the middle, unevenly."""
    turn = torch.atan2(at.y, at.x) * draw.uniform(12, 22) + 0.5 * noise(draw, at, 6)
    return (turn - turn.round()).abs()


def eye_photograph(draw: Draw, at: Canvas) -> Scene:
    """The front of an eye between its lids: white with fine vessels, a striped iris, pupil, the lamp's glint."""
    at = at.posed(draw, 0.3, (0.9, 1.5), 0.12)
    lid = colour(draw, (0.02, 0.07), (0.2, 0.55), (0.4, 0.95)) * (1 + 0.08 * noise(draw, at, 5, 3))
    white = colour(draw, (0.0, 0.12), (0.02, 0.15), (0.75, 0.97)) * (1 + 0.05 * noise(draw, at, 3, 3))
    opening = torch.maximum(
        at.moved(0.0, draw.uniform(0.5, 0.8)).disc(draw.uniform(1.2, 1.35)),
        at.moved(0.0, -draw.uniform(0.5, 0.8)).disc(draw.uniform(1.2, 1.35)),
    )
    look = at.moved(draw.uniform(-0.25, 0.25), draw.uniform(-0.12, 0.12))
    size = draw.uniform(0.36, 0.46)
    many = (8, 1, 1)
    side = draw.uniform(-1, 1, many).sign()
    start = draw.uniform(-0.4, 0.4, many)
    vessels = walks(
        draw, at, 1.0 * side, start, 1.5708 * (1 + side) + draw.uniform(-0.4, 0.4, many), (0.3, 0.7), 0.5, 4
    )
    red = torch.cat([0.85 + 0 * size, 0.35 + 0 * size, 0.35 + 0 * size], 1)
    stroke = draw.uniform(0.2, 0.7, many) * smooth(0.014, 0.004, vessels)
    image = over(white, red, stroke.amax(1, keepdim=True))
    radius, angle = look.disc(0.0), torch.atan2(look.y, look.x)
    one, two = colour(draw, (0.05, 0.65), (0.2, 0.8), (0.15, 0.7)), colour(draw, (0.05, 0.2), (0.2, 0.8), (0.3, 0.8))
    fibres = noise(draw, Canvas(angle, radius, at.pixel), 26, 2, 0.8, stretch=8)
    iris = ramp(0.5 + 0.35 * fibres + smooth(0.5 * size, 0.9 * size, radius) - 0.5, two, one)
    image = over(image, iris * (1 - 0.5 * smooth(0.85 * size, size, radius)), smooth(0.01, -0.015, radius - size))
    image = over(image, 0.03 + 0 * image, smooth(0.008, -0.008, radius - size * draw.uniform(0.25, 0.6)))
    glint = look.moved(draw.uniform(-0.15, 0.15), -draw.uniform(0.05, 0.2)).box(draw.uniform(0.02, 0.06), 0.05, 0.02)
    image = over(image, torch.ones_like(image), 0.9 * at.fill(glint))
    image = over(lid * (1 - 0.5 * smooth(0.12, 0.0, opening)), image, smooth(0.01, -0.01, opening))
    lashes = smooth(0.25, 0.1, _lashes(draw, at)) * smooth(0.2, 0.02, opening) * smooth(-0.04, 0.0, opening)
    image = image * (1 - 0.8 * lashes)
    return photograph(draw, image, smooth(-0.02, -0.06, opening) * smooth(-0.02, 0.04, radius - 0.6 * size))


def gastroscopy(draw: Draw, at: Canvas) -> Scene:
    """The stomach through the endoscope: thick folds that run side by side, pits, vessels, slime, a round frame."""
    frame = at.disc(draw.uniform(0.85, 1.15))
    flat, at = at, at.bent(0.15 * noise(draw, at, 2, 2), 0.15 * noise(draw, at, 2, 2)).turned(draw.uniform(0, 6.2832))
    pink = colour(draw, (0.96, 1.08), (0.25, 0.65), (0.7, 0.95))
    deep = pink * torch.cat([draw.uniform(0.5, 0.7), draw.uniform(0.25, 0.5), draw.uniform(0.25, 0.5)], 1)
    ridge = (
        at.y * draw.uniform(4, 14) + draw.uniform(0, 2) * noise(draw, at, 2.5, 2) + draw.uniform(0, 3) * at.x
    ).sin()
    folds = (1 - ridge.abs()) * draw.uniform(0.0, 1.0)
    pits = smooth(0.3, 0.1, cells(draw, at, 24)[0]) * draw.chance(0.5)
    mottle = noise(draw, at, 7, 4, 0.6)
    image = ramp(0.25 + 0.45 * folds + 0.12 * mottle + 0.1 * pits, pink, pink * 0.85, deep)
    many = (6, 1, 1)
    x, y = draw.uniform(-0.9, 0.9, many), draw.uniform(-0.9, 0.9, many)
    tree = walks(draw, at, x, y, draw.uniform(0, 6.3, many), (0.4, 1.0), 0.8, 4).amin(1, keepdim=True)
    image = over(image, deep, draw.chance(0.5) * draw.uniform(0.2, 0.6) * smooth(0.025, 0.006, tree))
    shade = relief(0.12 * (1 - folds) + 0.015 * mottle, draw, 1.2)
    image = image * (1 + 0.25 * shade)
    lamp = flat.moved(draw.uniform(-0.5, 0.5), draw.uniform(-0.5, 0.5)).disc(0.0)
    image = image * (1.1 - draw.uniform(0.3, 0.7) * smooth(0.1, 1.5, lamp))
    wet = smooth(0.9, 1.2, noise(draw, at, 16, 2) + 0.5 * shade) * draw.uniform(0.2, 1)
    image = over(image, torch.ones_like(image), wet * smooth(0.9, 0.3, lamp))
    slime = smooth(0.9, 1.3, noise(draw, at, 3, 3)) * draw.chance(0.35)
    image = over(image, colour(draw, (0.12, 0.25), (0.1, 0.5), (0.7, 0.95)), 0.5 * slime)
    return photograph(draw, image * flat.fill(frame), smooth(-0.03, -0.08, frame))


def fluorescence(draw: Draw, at: Canvas) -> Scene:
    """Stained cells that glow on black: nuclei in one colour, bodies and threads in two others, any density."""
    at = at.posed(draw, 3.1416, (0.6, 1.6), 0.2)
    bend = draw.uniform(0.02, 0.1)
    bent = at.bent(bend * noise(draw, at, 4, 2), bend * noise(draw, at, 4, 2))
    stains = [colour(draw, (0, 1), (0.5, 1.0), (0.6, 1.0)) for _ in range(3)]
    image = stains[0] * draw.uniform(0.02, 0.12) * (1 + 0.4 * noise(draw, at, 3, 3))
    near, other, lot = cells(draw, bent.scaled(1.0, draw.uniform(1.0, 2.0)), 6)
    shown = (lot < draw.uniform(0.4, 1.0)).float()
    size = draw.uniform(0.4, 0.8)
    body = smooth(size, 0.2 * size, near) * smooth(0.0, 0.15, other - near) * shown
    strands = smooth(0.25, 0.0, noise(draw, bent, 14, 2, 0.7, stretch=3).abs())
    image = image + stains[1] * body * (0.25 + 0.6 * strands * draw.uniform(0, 1)) * draw.chance(0.8)
    rim = smooth(0.12, 0.0, other - near) * draw.chance(0.35)
    image = image + stains[2] * 0.6 * rim
    radius = draw.uniform(0.14, 0.3) * (0.8 + 0.4 * lot)
    clump = 1 + 0.25 * noise(draw, at, 40, 2, 0.8)
    image = image + stains[0] * smooth(radius, 0.75 * radius, near) * shown * clump
    dots = smooth(0.14, 0.06, cells(draw, at, 26)[0]) * draw.chance(0.4) * smooth(-0.3, 0.5, noise(draw, at, 4, 2))
    image = image + stains[2] * 0.7 * dots
    return photograph(draw, image.clamp(0, 1), torch.ones_like(at.x))


def muscle_slide(draw: Draw, at: Canvas) -> Scene:
    """Stained muscle cut across: polygons of fibres side by side, nuclei at their rims, bundles, a vessel at times."""
    at = at.posed(draw, 3.1416, (0.6, 1.3), 0.2)
    bent = at.bent(0.03 * noise(draw, at, 5, 2), 0.03 * noise(draw, at, 5, 2))
    clear = colour(draw, (0.8, 1.1), (0.0, 0.12), (0.85, 0.97))
    flesh, second = (colour(draw, (0.83, 1.1), (0.2, 0.6), (0.6, 0.95)) for _ in range(2))
    violet = colour(draw, (0.65, 0.8), (0.4, 0.75), (0.25, 0.5))
    near, other, lot = cells(draw, bent, 9, 0.8)
    kind = (torch.remainder(lot * 31, 1.0) < draw.uniform(0, 0.6)).float() * draw.chance(0.6)
    fibre = over(flesh * (0.85 + 0.25 * lot), second, kind) * (1 + 0.07 * noise(draw, at, 40, 3, 0.8))
    edge = other - near
    image = over(clear * (1 + 0.05 * noise(draw, at, 8, 2)), fibre, smooth(0.02, 0.1, edge - draw.uniform(0, 0.12)))
    bundle, far, _ = cells(draw, bent, 2.2)
    gap = smooth(0.14, 0.02, (far - bundle) / draw.uniform(0.6, 2.0))
    image = over(image, over(clear, flesh * 1.1, 0.4 + 0.3 * noise(draw, at, 16, 2, stretch=3)), gap)
    spots, _, dice = cells(draw, bent, 24)
    nuclei = smooth(0.34, 0.22, spots) * smooth(0.2, 0.12, edge) * (dice < draw.uniform(0.2, 0.8))
    image = over(image, violet, 0.9 * nuclei)
    vessel = bent.moved(draw.uniform(-0.7, 0.7), draw.uniform(-0.7, 0.7)).ellipse(0.16, draw.uniform(0.08, 0.16))
    has = draw.chance(0.35)
    image = over(image, second * 0.9, has * smooth(0.07, 0.05, vessel))
    image = over(image, clear, has * smooth(0.0, -0.02, vessel))
    return photograph(draw, image, torch.ones_like(at.x))


def random_layers(draw: Draw, at: Canvas) -> Scene:
    """A section through layers of no tissue, as light or sound shows them: any number, bent, with pits and vessels."""
    at = at.moved(draw.uniform(-0.2, 0.2), draw.uniform(-0.3, 0.3)).turned(draw.uniform(-0.35, 0.35))
    at = wobble(draw, at, 0.03, 3)
    bow = draw.uniform(-0.5, 0.5) * at.x.square() + draw.uniform(-0.2, 0.2) * (at.x * draw.uniform(2, 6)).sin()
    depth = at.y + bow
    top = draw.uniform(-0.7, -0.2)
    above = draw.uniform(0.0, 0.12)
    tone, edge = above + 0.02 * noise(draw, at, 4, 2), top
    for _ in range(6):
        wave = draw.uniform(0, 0.04) * noise(draw, at, 4, 2, stretch=3) + draw.chance(0.3) * 0.04 * (at.x * 14).sin()
        border = smooth(-0.015, 0.015, depth - edge - wave)
        grain = draw.uniform(0.0, 0.25) * noise(draw, at, 10, 3, 0.7, stretch=0.5)
        tone = over(tone, draw.uniform(0.1, 0.9) * (1 + grain), border)
        tone = tone + draw.chance(0.4) * draw.uniform(0.1, 0.5) * smooth(0.02, 0.0, (depth - edge - wave).abs())
        edge = edge + draw.uniform(0.06, 0.35)
    tone = tone * (-(depth - top).clamp(min=0) * draw.uniform(0.0, 1.2)).exp()
    shadow = smooth(0.5, 1.0, noise(draw, Canvas(at.x, 0 * at.y, at.pixel), 7)) * smooth(0.0, 0.2, depth - top)
    tone = tone * (1 - draw.chance(0.5) * draw.uniform(0.1, 0.5) * shadow)
    pores, _, lot = cells(draw, at, 7)
    lumen = smooth(0.2, 0.12, pores / (0.6 + lot)) * (lot < 0.3) * draw.chance(0.4) * smooth(0.1, 0.2, depth - top)
    tone = over(tone, draw.uniform(0.02, 0.9), lumen)
    region = smooth(0.0, 0.05, depth - top) * smooth(1.2, 1.0, depth - top)
    return grey(draw, tone, region, bright(draw) * (1 - 2 * draw.chance(0.6)))


def random_xray(draw: Draw, at: Canvas) -> Scene:
    """A projection of no limb or trunk: bodies of any outline that add up, long and flat bones, gas, a marker."""
    at = patient(draw, at, 3.1416, (0.85, 1.2), 0.05)
    flesh = over(at.box(draw.uniform(0.4, 1.0), 2.0, 0.2), at.ellipse(0.9, draw.uniform(0.5, 1.0)), draw.chance(0.5))
    thick = smooth(0.02, -draw.uniform(0.15, 0.6), flesh)
    tone = draw.uniform(0.0, 0.1) + thick * (draw.uniform(0.15, 0.35) + 0.05 * noise(draw, at, 3, 3))
    bones, grain = torch.full_like(at.x, 9.0), 0.06 * noise(draw, at, 28, 3, 0.8)
    for number in range(6):
        near = at.moved(draw.uniform(-0.5, 0.5), draw.uniform(-0.6, 0.6)).turned(draw.uniform(0, 6.2832))
        half, size = draw.uniform(0.03, 0.13), draw.uniform(0.3, 1.2)
        long = bone(near, -size, size, half, half * draw.uniform(0.2, 1.0))
        arch = (near.moved(size, 0.0).disc(size)).abs() - 0.6 * half
        plate = near.ellipse(draw.uniform(0.15, 0.4), draw.uniform(0.1, 0.3)) + 0.03 * noise(draw, at, 5, 2)
        form = torch.where(draw.chance(0.5) > 0, long, torch.where(draw.chance(0.5) > 0, arch, plate))
        form = torch.maximum(form, flesh + 0.04) + (0.0 if number == 0 else 9 * (1 - draw.chance(0.6)))
        cortex = smooth(0.03, 0.0, (form + 0.02).abs())
        tone = tone + smooth(0.01, -0.01, form) * (draw.uniform(0.12, 0.35) + grain + 0.12 * cortex)
        bones = torch.minimum(bones, form)
    gas = smooth(0.5, 0.9, noise(draw, at, 3, 2)) * draw.chance(0.4) * draw.uniform(0.05, 0.2) * thick
    tone = tone - gas
    mark = at.moved(draw.uniform(-0.8, 0.8), draw.uniform(-0.8, 0.8)).box(0.05, draw.uniform(0.02, 0.1), 0.01)
    tone = over(tone, 0.95 + 0 * tone, draw.chance(0.25) * at.fill(mark))
    aimed = draw.chance(0.5)  # flaws of bones, or anywhere in the flesh
    region = torch.where(aimed > 0, smooth(0.0, -0.02, bones), smooth(-0.02, -0.06, flesh))
    return grey(draw, tone.clamp(0, 1), region, bright(draw) * (1 - 2 * draw.chance(0.6)))


def _of(paint: ScenePainter, finish: Finish, words: tuple[str, ...], *flaws: str, texture: bool = False) -> Category:
    return Category(paint.__name__, "medical", words, paint, flaws, finish, texture)


# fmt: off
ORGANS: dict[str, Category] = {category.name: category for category in (
    _of(abdomen_mri, film, ("abdominal MRI", "MRI scan of the abdomen"), "mass", "nodule", "cyst", "effusion"),
    _of(heart_mri, film, ("heart MRI", "cardiac MRI"), "mass", "effusion", "oedema", "infiltrate"),
    _of(hip_xray, film, ("hip X-ray", "radiograph of the pelvis"), "fracture", "mass", "cyst"),
    _of(liver_ultrasound, speckle, ("liver ultrasound", "ultrasound image of the liver"), "mass", "cyst", "nodule",
        "infiltrate"),
    _of(retinal_angiogram, film, ("retinal angiogram", "fluorescein image of the eye"), "haemorrhage", "nodule",
        "oedema", "infiltrate"),
    _of(eye_photograph, camera, ("photograph of an eye", "eye"), "haemorrhage", "inflammation", "nodule"),
    _of(gastroscopy, camera, ("gastroscopy image", "endoscopy image of the stomach"), "polyp", "inflammation",
        "haemorrhage"),
    _of(fluorescence, camera, ("fluorescence image", "glowing cells under the microscope"), "nodule", "infiltrate",
        "mass", "cyst"),
    _of(muscle_slide, camera, ("muscle biopsy", "microscope image of muscle"), "crowding", "inflammation",
        "haemorrhage"),
    _of(random_layers, speckle, ("scan of layers", "depth scan of tissue"), "cyst", "effusion", "oedema", "mass",
        "nodule", "drusen"),
    _of(random_xray, film, ("radiograph", "X-ray image"), "fracture", "mass", "nodule", "cyst", "infiltrate"),
)}
# fmt: on
"""By name; of the same kind as the catalogue's, which they are not part of."""
