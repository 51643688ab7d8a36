"""Sections and projections of the body, in grey: MRI, CT and X-ray; and the noise of such machines."""

from __future__ import annotations

import torch
from torch import Tensor

from headlens.data.procedural.canvas import Canvas, blur, over
from headlens.data.procedural.draw import Draw
from headlens.data.procedural.fields import cells, grain, noise, smooth
from headlens.data.procedural.scene import Scene


def film(draw: Draw, at: Canvas, image: Tensor) -> Tensor:
    """Noise of a detector: fine grain in every picture, stronger in some, and a slightly uneven exposure."""
    fine = blur(grain(draw, at), at.size / 400) * draw.uniform(0.015, 0.06)
    coarse = blur(grain(draw, at), at.size / 130) * draw.uniform(0.02, 0.09)
    uneven = 1 + draw.uniform(0.0, 0.12) * noise(draw, at, 2)
    return (image * uneven + (fine + coarse) * (0.35 + image.mean(1, keepdim=True))).clamp(0, 1)


def speckle(draw: Draw, at: Canvas, image: Tensor) -> Tensor:
    """Interference of coherent waves (ultrasound, OCT): grain in proportion to the echo, longer across the beam."""
    along, across = draw.uniform(0.1, 0.4), draw.uniform(0.08, 0.35)
    small = blur(grain(draw, at), at.size / 300)
    wide = noise(draw, at, 44, 1, stretch=0.4)
    wave = 2.2 * along * small + 0.8 * across * wide
    return (image * (1 + wave).clamp(min=0) + 0.03 * wave.abs()).clamp(0, 1)


def grey(draw: Draw, tone: Tensor, region: Tensor, contrast: Tensor) -> Scene:
    """A grey picture through a window of its own: level, width and gamma as the reader has set them."""
    level, width = draw.uniform(-0.05, 0.05), draw.uniform(0.85, 1.15)
    seen = ((tone - 0.5) * width + 0.5 + level).clamp(0.002, 1) ** draw.uniform(0.8, 1.3)
    return Scene(seen.expand(-1, 3, -1, -1).contiguous(), region.clamp(0, 1), contrast)


def patient(
    draw: Draw, at: Canvas, turn: float = 0.15, scale: tuple[float, float] = (0.85, 1.1), bend: float = 0.04
) -> Canvas:
    """Every body is a little different: posed on the table, its outlines bent."""
    at = at.posed(draw, turn, scale, 0.08)
    return at.bent(bend * noise(draw, at, 3, 2), bend * noise(draw, at, 3, 2))


def walks(
    draw: Draw, at: Canvas, x: Tensor, y: Tensor, angle: Tensor, length: tuple[float, float], bend: float, n: int
) -> Tensor:
    """Distances [B, K, S, S] to ``K`` random walks from x, y [B, K, 1, 1]: vessels and hairs, all in one go."""
    count = angle.shape[1]
    step = draw.uniform(*length, shape=(count, 1, 1)) / n
    turns = draw.uniform(-bend, bend, (n * count, 1, 1)).split(count, 1)
    distance = torch.full_like(at.x, 9.0)
    for turn in turns:
        angle = angle + turn
        x1, y1 = x + angle.cos() * step, y + angle.sin() * step
        distance = torch.minimum(distance, at.segment(x, y, x1, y1))
        x, y = x1, y1
    return distance


def bright(draw: Draw, low: float = 0.2, high: float = 0.35) -> Tensor:
    """The contrast of a mass brighter than its tissue."""
    return draw.uniform(low, high)


def skull(draw: Draw, at: Canvas, mri: bool) -> tuple[Canvas, Tensor, Tensor, Tensor]:
    """Head from above: its canvas, depth below the inner table (negative inside), tone of scalp and skull, cover."""
    at = patient(draw, at, 0.25, (0.95, 1.25), 0.035)
    rx, ry = draw.uniform(0.62, 0.75), draw.uniform(0.8, 0.9)
    head = at.ellipse(rx, ry)
    scalp, bone = draw.uniform(0.03, 0.08), draw.uniform(0.05, 0.1)
    inner = head + scalp + bone
    if mri:  # fat is bright, compact bone black, its marrow grey
        marrow = draw.uniform(0.05, 0.5) * at.line(head + scalp + bone * 0.5, bone * 0.4)
        tone = at.line(head + 0.5 * scalp, 0.8 * scalp) * draw.uniform(0.4, 0.95) + marrow
    else:
        tone = at.fill(head) * 0.25 + 0.75 * at.line(head + scalp + bone * 0.5, bone) * (
            0.9 + 0.1 * noise(draw, at, 12)
        )
    return at, inner, tone, at.fill(inner)


def ventricles(draw: Draw, at: Canvas) -> Tensor:
    """Signed distance to the fluid of the lateral ventricles (two horns each side) and the third one."""
    size = draw.uniform(0.5, 1.4)
    right = Canvas(at.x.abs() * (1 + draw.uniform(-0.15, 0.15) * at.x.sign()), at.y, at.pixel)
    front = (
        right.moved(0.1 * size, draw.uniform(-0.3, -0.15)).turned(draw.uniform(-0.5, -0.2)).ellipse(0.055 * size, 0.18)
    )
    back = right.moved(draw.uniform(0.15, 0.25), draw.uniform(0.2, 0.32)).turned(draw.uniform(0.3, 0.7))
    third = right.moved(0.0, draw.uniform(0.0, 0.08)).ellipse(0.02 * size, 0.1)
    return torch.minimum(torch.minimum(front, back.ellipse(0.06 * size, 0.17 * draw.uniform(0.4, 1.1))), third)


def folds(draw: Draw, at: Canvas, depth: Tensor) -> tuple[Tensor, Tensor]:
    """Sulci (1 in their fluid) and cortex (1 in grey matter) of a brain whose surface is at ``depth`` 0."""
    ridge = noise(draw, at, 11, 2, 0.5).abs()
    reach = draw.uniform(0.2, 0.4)
    outer = smooth(-reach, -0.02, depth)
    wide = draw.uniform(0.12, 0.3)
    sulci = smooth(wide, 0.3 * wide, ridge - 0.15 * (outer - 0.7)) * outer
    cortex = smooth(wide + 0.45, wide + 0.2, ridge) * outer
    return sulci, torch.maximum(cortex, smooth(-0.09, -0.05, depth))


def brain_mri(draw: Draw, at: Canvas) -> Scene:
    """Axial brain MRI, T1- or T2-weighted: scalp, black skull, folded cortex, white matter, ganglia, ventricles."""
    at, inner, tone, brain = skull(draw, at, True)
    heavy = draw.chance(0.5)  # T2: fluid bright
    white = draw.uniform(0.5, 0.75) * (1 - heavy) + draw.uniform(0.28, 0.42) * heavy
    cortex = white + (0.9 * heavy - 0.6 * (1 - heavy)) * draw.uniform(0.15, 0.3)
    fluid = draw.uniform(0.05, 0.18) * (1 - heavy) + draw.uniform(0.75, 1.0) * heavy
    sulci, grey_matter = folds(draw, at, inner + 0.03)
    matter = white + (cortex - white) * grey_matter + 0.03 * noise(draw, at, 9, 3)
    core = Canvas(at.x.abs(), at.y, at.pixel).moved(draw.uniform(0.17, 0.23), draw.uniform(-0.05, 0.08))
    ganglia = core.turned(draw.uniform(-0.4, 0.4)).ellipse(draw.uniform(0.05, 0.1), draw.uniform(0.12, 0.2))
    matter = over(matter, cortex, draw.uniform(0.3, 0.9) * smooth(0.02, -0.02, ganglia))
    sink = ventricles(draw, at)
    falx = at.line(at.x, 0.012) * smooth(0.3, 0.4, at.y.abs()) * draw.uniform(0.2, 0.9)
    wet = torch.maximum(torch.maximum(sulci, smooth(0.012, -0.012, sink)), smooth(-0.03, -0.005, inner))
    matter = over(matter, fluid, torch.maximum(wet, falx))
    tone = over(tone, matter, brain)
    region = smooth(-0.03, -0.09, inner) * smooth(0.01, 0.05, sink)
    return grey(draw, tone, region, bright(draw) * (1 - 2 * draw.chance(0.25)))


def head_ct(draw: Draw, at: Canvas) -> Scene:
    """Axial head CT: white skull, brain of low contrast, dark ventricles and sulci, calcified falx and plexus."""
    at, inner, tone, brain = skull(draw, at, False)
    base = draw.uniform(0.35, 0.5)
    sulci, cortex = folds(draw, at, inner)
    matter = base + draw.uniform(0.03, 0.08) * cortex + 0.025 * noise(draw, at, 6, 3)
    sink = ventricles(draw, at)
    fluid = base * draw.uniform(0.2, 0.6)
    wet = torch.maximum(sulci * draw.uniform(0.2, 0.9), smooth(0.02, -0.02, sink))
    matter = over(matter, fluid, wet)
    falx = at.line(at.x, 0.015) * smooth(0.25, 0.45, at.y.abs()) * draw.uniform(0.1, 0.7)
    specks = Canvas(at.x.abs(), at.y, at.pixel).moved(draw.uniform(0.14, 0.2), draw.uniform(0.18, 0.3)).disc(0.025)
    chalk = torch.maximum(falx, draw.chance(0.4) * smooth(0.01, -0.01, specks))
    matter = over(matter, torch.ones_like(matter), 0.7 * chalk)
    region = smooth(-0.03, -0.08, inner) * smooth(0.01, 0.05, sink)
    return grey(draw, over(tone, matter, brain), region, bright(draw, 0.15, 0.35) * (1 - 2 * draw.chance(0.35)))


def liver_ct(draw: Draw, at: Canvas) -> Scene:
    """Axial abdominal CT: liver with its vessels, stomach with an air level, spleen, kidneys, spine, aorta, fat."""
    at = patient(draw, at, 0.1, (0.95, 1.15), 0.05)
    body = at.ellipse(draw.uniform(0.85, 0.95), draw.uniform(0.62, 0.78))
    fat, wall = draw.uniform(0.03, 0.13), draw.uniform(0.05, 0.08)
    inner = body + fat + wall
    dye = draw.uniform(0.0, 0.25)  # contrast medium in the vessels
    tone = at.fill(body) * draw.uniform(0.15, 0.22)
    tone = over(tone, draw.uniform(0.38, 0.48).expand_as(tone), at.fill(body + fat))
    turn = torch.atan2(at.y, at.x)
    ribs = smooth(0.5, 0.8, (turn * draw.integers(6).add(11) + draw.uniform(0, 6)).cos()) * at.line(
        body + fat + 0.5 * wall, 0.045
    )
    tone = over(tone, torch.ones_like(tone) * 0.9, ribs)
    tone = over(tone, 0.2 + 0.05 * noise(draw, at, 7, 2), at.fill(inner))
    texture = 0.02 * noise(draw, at, 8, 3)

    def organ(tone: Tensor, distance: Tensor, value: Tensor) -> Tensor:
        return over(tone, value + texture, at.fill(torch.maximum(distance, inner + 0.012)))

    loop = noise(draw, at, 6, 2)
    tone = organ(tone, 0.15 - loop + 6 * (at.y + 0.1).clamp(max=0).abs(), draw.uniform(0.35, 0.5))  # bowel
    spleen = at.moved(0.62, 0.12).turned(draw.uniform(0.2, 0.7)).ellipse(0.16, draw.uniform(0.22, 0.36))
    tone = organ(tone, spleen, draw.uniform(0.5, 0.58) + 0.3 * dye)
    gut = at.moved(draw.uniform(0.25, 0.4), draw.uniform(-0.3, -0.2))
    stomach = gut.ellipse(draw.uniform(0.22, 0.32), draw.uniform(0.14, 0.24))
    tone = organ(tone, stomach, draw.uniform(0.36, 0.5))
    inside, level = stomach + draw.uniform(0.03, 0.05), draw.uniform(-0.12, 0.1)
    tone = over(tone, torch.zeros_like(tone), at.fill(torch.maximum(inside, gut.y - level)))
    tone = over(
        tone, draw.uniform(0.3, 0.9).expand_as(tone), at.fill(torch.maximum(inside, level - gut.y)) * draw.uniform(0, 1)
    )
    lobe = at.moved(-0.42, draw.uniform(-0.08, 0.02)).ellipse(draw.uniform(0.4, 0.46), draw.uniform(0.5, 0.6))
    left = (
        at.moved(-0.05, -0.3).turned(draw.uniform(-0.3, 0.1)).ellipse(draw.uniform(0.25, 0.45), draw.uniform(0.12, 0.2))
    )
    liver = torch.maximum(torch.minimum(lobe, left), inner + 0.012)
    value = draw.uniform(0.48, 0.56)
    tone = organ(tone, liver, value + 0.25 * dye)
    bent = at.bent(0.04 * noise(draw, at, 6), 0.04 * noise(draw, at, 6))
    fan = 0.6 * torch.arange(4, device=at.x.device).view(1, 4, 1, 1)
    angle = fan + draw.uniform(2.1, 2.9, (4, 1, 1))
    vessel = walks(draw, bent, draw.uniform(-0.3, -0.1), draw.uniform(-0.2, 0.05), angle, (0.3, 0.6), 0.5, 4)
    taper = smooth(0.55, 0.0, at.moved(-0.2, -0.1).disc(0.0))
    branch = (vessel - draw.uniform(0.02, 0.045, (4, 1, 1)) * taper).amin(1, keepdim=True)
    tone = over(tone, (value + 0.6 * dye - 0.07).expand_as(tone), at.fill(branch) * at.fill(liver) * 0.8)
    gall = (
        at.moved(draw.uniform(-0.25, -0.1), draw.uniform(-0.1, 0.1)).turned(draw.uniform(0.3, 0.8)).ellipse(0.07, 0.12)
    )
    tone = over(tone, draw.uniform(0.28, 0.34).expand_as(tone), draw.chance(0.5) * at.fill(gall))
    for flank in (-1, 1):
        kidney = at.moved(flank * draw.uniform(0.32, 0.42), draw.uniform(0.22, 0.34)).turned(draw.uniform(-0.4, 0.4))
        outline = kidney.ellipse(draw.uniform(0.1, 0.15), draw.uniform(0.12, 0.19))
        tone = organ(
            tone,
            torch.maximum(outline, -kidney.moved(-flank * 0.12, 0.0).disc(0.06)),
            0.5 + draw.uniform(0.5, 1.5) * dye,
        )
        tone = over(tone, draw.uniform(0.2, 0.35).expand_as(tone), smooth(-0.05, -0.09, outline))
        muscle = at.moved(flank * 0.2, 0.42).ellipse(0.09, 0.12)
        tone = organ(tone, muscle, draw.uniform(0.4, 0.48))
    spine = at.moved(draw.uniform(-0.03, 0.03), draw.uniform(0.26, 0.32))
    bone = torch.minimum(spine.ellipse(0.14, 0.11), spine.moved(0.0, 0.16).box(0.2 + 0 * spine.x, 0.025, 0.02))
    bone = torch.minimum(bone, spine.moved(0.0, 0.22).box(0.02, 0.09, 0.02))
    tone = over(tone, 0.72 + 0.08 * noise(draw, at, 24, 2) + 0.25 * smooth(-0.035, 0.0, bone), at.fill(bone))
    tone = over(tone, torch.ones_like(tone) * 0.42, at.fill(spine.moved(0.0, 0.14).disc(0.045)))
    for x in (-0.1, 0.07):
        vessel = spine.moved(x + draw.uniform(-0.03, 0.03), -0.18).disc(draw.uniform(0.045, 0.07))
        tone = organ(tone, vessel, 0.48 + 1.6 * dye)
    region = smooth(-0.01, -0.04, liver)
    return grey(draw, tone, region, -bright(draw, 0.12, 0.3) * (1 - 2 * draw.chance(0.2)))


def chest_xray(draw: Draw, at: Canvas) -> Scene:
    """Frontal chest radiograph: lungs with vessels, heart, spine, ribs, clavicles, domes of the diaphragm."""
    at = patient(draw, at, 0.06, (0.95, 1.2), 0.03)
    tall = draw.uniform(0.9, 1.1)
    chest = Canvas(at.x, at.y / tall, at.pixel)
    tone = 0.62 + 0.1 * noise(draw, at, 2) - 0.4 * smooth(0.85, 1.05, chest.x.abs() + 0.15 * chest.y)
    lungs = torch.full_like(at.x, 9.0)
    for flank in (-1, 1):
        lung = chest.moved(flank * draw.uniform(0.4, 0.46), draw.uniform(-0.1, 0.0)).turned(
            flank * draw.uniform(-0.12, -0.04)
        )
        outline = lung.ellipse(draw.uniform(0.3, 0.36), draw.uniform(0.68, 0.8))
        dome = chest.y - draw.uniform(0.42, 0.55) - 0.5 * (chest.x - flank * 0.36).square() * draw.uniform(0.5, 2)
        lungs = torch.minimum(lungs, torch.maximum(outline, dome))
    air = smooth(0.03, -0.07, lungs)
    tone = tone - air * draw.uniform(0.38, 0.5)
    stomach = chest.moved(draw.uniform(0.3, 0.45), draw.uniform(0.62, 0.75)).ellipse(draw.uniform(0.08, 0.16), 0.06)
    tone = tone - 0.2 * draw.chance(0.6) * smooth(0.02, -0.03, stomach)
    bent = at.bent(0.03 * noise(draw, at, 5), 0.03 * noise(draw, at, 5))
    sides = 2.0 * (torch.arange(10, device=at.x.device).view(1, 10, 1, 1) % 2) - 1
    angle = draw.uniform(-1.3, 1.3, (10, 1, 1)) + 1.5708 * (1 - sides)
    root_x, root_y = sides * draw.uniform(0.1, 0.2, (10, 1, 1)), draw.uniform(-0.1, 0.1, (10, 1, 1))
    vessel = walks(draw, bent, root_x, root_y, angle, (0.3, 0.7), 0.5, 3).amin(1, keepdim=True)
    marks = smooth(0.03, 0.0, vessel) * smooth(0.8, 0.1, at.disc(0.0))
    tone = tone + air * (draw.uniform(0.08, 0.2) * marks + 0.03 * noise(draw, at, 14, 2))
    heart = chest.moved(draw.uniform(0.06, 0.14), draw.uniform(0.2, 0.3)).turned(draw.uniform(-0.9, -0.5))
    tone = over(
        tone,
        draw.uniform(0.66, 0.78).expand_as(tone),
        0.9 * smooth(0.02, -0.04, heart.ellipse(draw.uniform(0.2, 0.28), draw.uniform(0.28, 0.36))),
    )
    aorta = torch.minimum(
        chest.moved(0.1, draw.uniform(-0.3, -0.24)).disc(0.09), chest.box(draw.uniform(0.1, 0.14), 2.0, 0.05)
    )
    tone = tone + 0.17 * smooth(0.03, -0.04, aorta) * (1 - smooth(0.2, 0.5, chest.y))
    tone = tone + 0.06 * (chest.y * 22 + draw.uniform(0, 6)).sin() * smooth(0.1, 0.06, chest.x.abs())  # vertebrae
    count, drop = draw.uniform(3.6, 4.6), draw.uniform(0.25, 0.5)
    side_x = chest.x.abs()
    for slope, weight in ((1.0, 0.12), (-0.55, 0.07)):  # ribs behind run down and out, in front up and out
        row = (chest.y - slope * drop * (side_x - 0.15) + slope * 0.8 * drop * side_x.square()) * count + draw.uniform(
            0, 1
        )
        rib = (row - row.round()).abs()
        edge = smooth(0.03, 0.0, (rib - 0.2).abs())
        cage = smooth(0.84, 0.76, side_x) * smooth(0.05, 0.15, side_x) * smooth(0.75, 0.5, chest.y)
        tone = tone + cage * weight * draw.uniform(0.6, 1.2) * (smooth(0.22, 0.17, rib) + 0.5 * edge)
    for flank in (-1, 1):
        clavicle = chest.moved(flank * 0.42, draw.uniform(-0.72, -0.6)).turned(flank * draw.uniform(-0.35, -0.1))
        bar = clavicle.bent(torch.zeros_like(at.x), 0.04 * (clavicle.x * 6).sin()).box(0.36, 0.03, 0.03)
        tone = tone + 0.14 * smooth(0.012, -0.012, bar) + 0.06 * smooth(0.012, 0.0, bar.abs())
    region = smooth(-0.02, -0.06, lungs)
    return grey(draw, tone, region, bright(draw, 0.2, 0.35))


def bone(at: Canvas, y0: Tensor | float, y1: Tensor | float, shaft: Tensor, flare: Tensor) -> Tensor:
    """Signed distance to a long bone along y, of half width ``shaft``, its ends ``flare`` wider."""
    along = ((at.y - y0) / (y1 - y0)).clamp(0, 1)
    ends = (2 * along - 1).abs() ** 5
    half = (y1 - y0) / 2
    return at.moved(0.0, (y0 + y1) / 2).box(shaft + flare * ends, half, 0.5 * shaft)


def bone_xray(draw: Draw, at: Canvas) -> Scene:
    """Radiograph of a limb: a joint of long bones with dense cortex and marrow, or a hand; soft tissue around."""
    hand = draw.chance(0.4)
    at = patient(draw, at, 3.1416, (0.9, 1.2), 0.02)
    knee = torch.full_like(at.x, 9.0)
    gap, y = draw.uniform(0.02, 0.04), draw.uniform(-0.15, 0.15)
    for x, has in ((0.0, 1.0), (0.2, 0.0)):
        thin = 1.0 if has else 0.6
        has_it = 1.0 if has else draw.chance(0.5)
        upper = at.moved(draw.uniform(-0.04, 0.04), y).turned(draw.uniform(-0.15, 0.15))
        lower = at.moved(x * draw.uniform(0.8, 1.3), y + (0.0 if has else 0.06)).turned(draw.uniform(-0.15, 0.15))
        shaft = draw.uniform(0.09, 0.15) * thin
        lower_bone = bone(lower, gap, draw.uniform(1.0, 2.5), shaft, shaft * draw.uniform(0.5, 1.1) * thin)
        knee = torch.minimum(knee, torch.where(has_it + 0 * at.x > 0, lower_bone, knee))
        if has:
            knee = torch.minimum(
                knee, bone(upper, -draw.uniform(1.0, 2.5), -gap, shaft * 1.1, shaft * draw.uniform(0.5, 1.0))
            )
    fingers, flesh = torch.full_like(at.x, 9.0), at.moved(0.0, 0.45).box(0.42, 0.4, 0.2)
    spread = draw.uniform(0.08, 0.22)
    for i in range(5):
        lean = (i - 2) * spread + (0.45 if i == 4 else 0.0) + draw.uniform(-0.04, 0.04)
        ray = at.moved((i - 2) * 0.13, 0.5).turned(lean)
        length = draw.uniform(0.32, 0.36) * (0.75, 0.95, 1.0, 0.93, 0.7)[i]
        row = -ray.y / length - 0.05
        shape = row.clamp(0, 3.4 if i < 4 else 2.4)
        part = shape - shape.floor()
        half = 0.052 - 0.008 * shape + 0.02 * ((2 * part - 1).square() - 0.6)
        tip = (row - shape).abs() * length
        joint = 0.03 - (part - 0.5).abs().neg().add(0.5) * length
        fingers = torch.minimum(fingers, torch.maximum(torch.maximum(ray.x.abs() - half, joint), tip - 0.005))
        flesh = torch.minimum(flesh, ray.x.abs() + 1.2 * tip - 0.1 + 0.012 * shape)
    wrist = at.moved(0.0, 0.62)
    near, second, _ = cells(draw, wrist, 14, 0.6)
    carpals = torch.maximum(0.1 * (0.12 + near - second), wrist.ellipse(0.24, 0.15))
    fingers = torch.minimum(
        torch.minimum(fingers, carpals), bone(at.moved(-0.12, 0.0), 0.78, 2.0, 0.1 + 0 * y, 0.03 + 0 * y)
    )
    distance = torch.where(hand + 0 * at.x > 0, fingers, knee)
    limb = torch.where(hand + 0 * at.x > 0, flesh, at.x.abs() - draw.uniform(0.35, 0.65) - 0.1 * (2 * at.y).cos())
    tone = draw.uniform(0.02, 0.15) + draw.uniform(0.15, 0.3) * smooth(0.03, -0.2, limb) * (
        1 + 0.2 * noise(draw, at, 4, 2)
    )
    wall = draw.uniform(0.02, 0.05) * (1 - 0.4 * hand)
    weave = 0.04 * noise(draw, at, 32, 2, 0.7, stretch=2.5)
    marrow = draw.uniform(0.28, 0.42) + weave
    shell = smooth(0.0, -0.5, distance / wall) * smooth(-2.2, -1.0, distance / wall)
    inside = smooth(0.006, -0.012, distance)
    tone = tone + inside * (marrow * 0.8 + draw.uniform(0.15, 0.3) * shell)
    return grey(draw, tone, inside, -bright(draw, 0.2, 0.35) * (1 - 2 * draw.chance(0.3)))
