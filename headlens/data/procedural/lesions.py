"""What goes wrong in tissue: ``(draw, canvas, scene, severity) -> Flaw``.

A lesion keeps the grain of the tissue it grows in: it stains, brightens or displaces what is there. How it looks
follows the scene: a mass is bright where ``scene.contrast`` is above 0 (MRI) and dark where it is below (ultrasound).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from headlens.data.procedural.canvas import Canvas, over
from headlens.data.procedural.draw import Draw
from headlens.data.procedural.fields import cells, centre, colour, hsv, noise, smooth
from headlens.data.procedural.scene import Flaw, FlawPainter, Scene


@dataclass(frozen=True)
class Site:
    """Where a lesion sits.

    Args:
        near: coordinates around its centre, in its radius.
        out: [B, 1, S, S], 0 in the centre, 1 on its irregular outline.
        radius: [B, 1, 1, 1], in widths of the canvas.
        x, y: [B, 1, 1, 1], its centre on the upright canvas.
        tissue: [B, 3, 1, 1], the mean colour around the centre.
    """

    near: Canvas
    out: Tensor
    radius: Tensor
    x: Tensor
    y: Tensor
    tissue: Tensor


def site(draw: Draw, at: Canvas, scene: Scene, size: tuple[float, float] = (0.09, 0.4), rough: float = 0.15) -> Site:
    """A place in the region, and a blob around it: small ones as often as large ones."""
    x, y = centre(draw, scene.region)
    radius = size[0] * (size[1] / size[0]) ** draw.uniform()
    squash = draw.uniform(0.7, 1)
    near = at.moved(x, y).turned(draw.uniform(0, 6.2832)).scaled(radius, radius * squash)
    out = near.disc(0.0)
    if rough:
        out = out * (1 + rough * noise(draw, near.scaled(1.5), 3, 2))
    step = 0.5 * radius * (torch.arange(3, device=x.device) - 1)
    spots = torch.cat([(x + step).expand(-1, -1, 3, -1), (y + step.mT).expand(-1, -1, -1, 3)], 1).permute(0, 2, 3, 1)
    tissue = F.grid_sample(scene.image, spots, "bilinear", "border", align_corners=False).mean((2, 3), keepdim=True)
    return Site(near, out, radius, x, y, tissue)


def amount(severity: Tensor, low: float = 0.07, high: float = 0.42) -> Tensor:
    """Change of tone in the middle of a lesion, from just visible to obvious."""
    return low + (high - low) * severity


def within(out: Tensor, edge: Tensor | float) -> Tensor:
    """1 deep inside, exactly 0 on the outline and beyond; ``edge`` is the width of the fall, in radii."""
    return smooth(1.0, 1.0 - edge, out)


def side(where: Site, sign: Tensor) -> Tensor:
    """The sign of a change of tone: as asked, or the other one where the tissue has no room for it."""
    tone = where.tissue.mean(1, keepdim=True)
    sign = torch.where(sign < 0, -torch.ones_like(sign), torch.ones_like(sign))
    room = torch.where(sign > 0, 1 - tone, tone)
    return torch.where(room < 0.28, -sign, sign)


def displaced(image: Tensor, at: Canvas, dx: Tensor, dy: Tensor) -> Tensor:
    """``image`` as it is at (x + dx, y + dy) of the upright canvas."""
    grid = torch.cat([at.x + dx, at.y + dy], 1).permute(0, 2, 3, 1)
    return F.grid_sample(image, grid, "bilinear", "border", align_corners=False)


def swollen(image: Tensor, at: Canvas, where: Site, strength: Tensor) -> Tensor:
    """Tissue pushed outwards from the centre (pulled in where ``strength`` < 0); beyond the outline nothing moves."""
    pull = strength * (1 - where.out.clamp(0, 1)).square() * where.out.clamp(0, 1).sqrt()
    return displaced(image, at, -pull * (at.x - where.x), -pull * (at.y - where.y))


def stained(image: Tensor, tissue: Tensor, target: Tensor, strength: Tensor) -> Tensor:
    """Tissue turned towards ``target``: its texture is kept, in proportion."""
    return image * (1 + strength * (target / tissue.clamp(min=0.12) - 1))


def finished(image: Tensor, alpha: Tensor, scene: Scene) -> Flaw:
    """The flaw, kept within the tissue."""
    return Flaw(image.clamp(0, 1), alpha * scene.region)


def shaded(
    draw: Draw, at: Canvas, scene: Scene, where: Site, sign: Tensor, strength: Tensor, detail: float = 0.25
) -> Tensor:
    """The scene brighter or darker by ``strength``, unevenly, as tissue is."""
    uneven = 1 + detail * noise(draw, where.near.scaled(2.0), 5, 3, 0.7)
    return scene.image + side(where, sign) * strength * uneven


def mass(draw: Draw, at: Canvas, scene: Scene, severity: Tensor) -> Flaw:
    """A tumour: irregular, often with spicules, sometimes with a dead core or an enhancing rim."""
    where = site(draw, at, scene, (0.12, 0.5), 0.25)
    angle = torch.atan2(where.near.y, where.near.x)
    wave = draw.integers(9) + 5
    spikes = (0.5 + 0.5 * (angle * wave + 2 * noise(draw, where.near.scaled(2.0), 3)).sin()).square()
    out = where.out * (1 + draw.chance(0.6) * draw.uniform(0.1, 0.5) * (0.5 - spikes) * smooth(0.2, 0.8, where.out))
    alpha = within(out, draw.uniform(0.2, 0.7))
    core = 1 - draw.chance(0.4) * draw.uniform(0.5, 1.3) * smooth(0.6, 0.3, out)
    image = swollen(scene.image, at, where, 0.4 * severity)
    grown = Scene(image, scene.region, scene.contrast)
    return finished(shaded(draw, at, grown, where, scene.contrast, amount(severity) * core), alpha, scene)


def nodule(draw: Draw, at: Canvas, scene: Scene, severity: Tensor) -> Flaw:
    """A round, well bounded lump, now and then with a halo of the other sign."""
    where = site(draw, at, scene, (0.06, 0.2), 0.06)
    halo = draw.chance(0.4) * draw.uniform(0.2, 0.6) * smooth(0.6, 0.75, where.out) * smooth(1.0, 0.9, where.out)
    strength = amount(severity, 0.06, 0.4) * (1 - 2 * halo)
    alpha = within(where.out, draw.uniform(0.15, 0.4))
    return finished(shaded(draw, at, scene, where, scene.contrast, strength, 0.15), alpha, scene)


def cyst(draw: Draw, at: Canvas, scene: Scene, severity: Tensor) -> Flaw:
    """A smooth round cavity with fluid, its wall a little brighter; its texture is washed out."""
    where = site(draw, at, scene, (0.07, 0.3), 0.05)
    alpha = within(where.out, draw.uniform(0.12, 0.25))
    fluid = (where.tissue + side(where, -torch.ones_like(scene.contrast)) * amount(severity, 0.07, 0.4)).clamp(
        0.02, 0.98
    )
    calm = over(scene.image, where.tissue, 0.3 + 0.5 * severity)  # no strands, no vessels
    image = calm + (fluid - where.tissue)
    wall = smooth(0.7, 0.85, where.out) * smooth(1.0, 0.9, where.out)
    return finished(image + 0.3 * amount(severity) * wall, alpha, scene)


def haemorrhage(draw: Draw, at: Canvas, scene: Scene, severity: Tensor) -> Flaw:
    """Blood outside its vessels: dark red in photographs, of the tissue's contrast in scans."""
    where = site(draw, at, scene, (0.06, 0.32), 0.35)
    alpha = within(where.out, draw.uniform(0.25, 0.6))
    strength = amount(severity, 0.15, 1.0) * (1 + 0.2 * noise(draw, where.near.scaled(2.0), 4, 2))
    red = where.tissue * torch.cat([draw.uniform(0.4, 0.55), draw.uniform(0.1, 0.25), draw.uniform(0.15, 0.3)], 1)
    photograph = stained(scene.image, where.tissue, red, strength)
    scan = shaded(draw, at, scene, where, scene.contrast, amount(severity, 0.07, 0.45), 0.15)
    return finished(over(scan, photograph, coloured(where)), alpha, scene)


def coloured(where: Site) -> Tensor:
    """[B, 1, 1, 1], 1 where the tissue has a colour, 0 where the picture is grey."""
    return smooth(0.03, 0.08, where.tissue.amax(1, keepdim=True) - where.tissue.amin(1, keepdim=True))


def infiltrate(draw: Draw, at: Canvas, scene: Scene, severity: Tensor) -> Flaw:
    """A wide, patchy, cloudy change without a border."""
    where = site(draw, at, scene, (0.25, 0.6), 0.3)
    cloud = 0.6 + 0.5 * noise(draw, where.near.scaled(1.6), 4, 3, 0.6)
    alpha = within(where.out, draw.uniform(0.6, 0.95)) * cloud.clamp(0.1, 1)
    strength = amount(severity, 0.09, 0.5)
    return finished(shaded(draw, at, scene, where, scene.contrast, strength, 0.3), alpha, scene)


def oedema(draw: Draw, at: Canvas, scene: Scene, severity: Tensor) -> Flaw:
    """Swelling: tissue pushed apart, paler and with less detail."""
    where = site(draw, at, scene, (0.18, 0.45), 0.2)
    image = swollen(scene.image, at, where, 0.5 + 0.8 * severity)
    image = over(image, where.tissue, 0.15 + 0.35 * severity)
    pale = Scene(image, scene.region, scene.contrast)
    alpha = within(where.out, draw.uniform(0.4, 0.8))
    return finished(shaded(draw, at, pale, where, scene.contrast, amount(severity, 0.05, 0.38), 0.15), alpha, scene)


def atrophy(draw: Draw, at: Canvas, scene: Scene, severity: Tensor) -> Flaw:
    """Loss of tissue: what is left is thinner, darker and draws its surroundings in."""
    where = site(draw, at, scene, (0.14, 0.4), 0.25)
    image = swollen(scene.image, at, where, -0.6 - 0.9 * severity)
    thin = Scene(image, scene.region, scene.contrast)
    alpha = within(where.out, draw.uniform(0.3, 0.7))
    dark = -torch.ones_like(scene.contrast)
    return finished(shaded(draw, at, thin, where, dark, amount(severity, 0.06, 0.4), 0.3), alpha, scene)


def calcification(draw: Draw, at: Canvas, scene: Scene, severity: Tensor) -> Flaw:
    """A cluster of bright grains of different size."""
    where = site(draw, at, scene, (0.16, 0.36), 0.2)
    near, own, ident = cells(draw, where.near.scaled(1.6), 6)
    grains = smooth(0.28 + 0.5 * ident, 0.08, near) * (ident < 0.4 + 0.5 * draw.uniform())
    alpha = (grains * within(where.out, 0.5)).clamp(max=1)
    return finished(
        shaded(draw, at, scene, where, torch.ones_like(own), amount(severity, 0.1, 0.55), 0.1), alpha, scene
    )


def exudate(draw: Draw, at: Canvas, scene: Scene, severity: Tensor) -> Flaw:
    """Yellow-white waxy specks in a group, often in a ring."""
    where = site(draw, at, scene, (0.12, 0.35), 0.25)
    near, _, ident = cells(draw, where.near.scaled(1.5), 5)
    ring = 1 - draw.chance(0.4) * smooth(0.65, 0.4, where.out)
    specks = smooth(0.34 + 0.22 * ident, 0.12, near) * (ident < 0.7)
    alpha = (specks * ring * within(where.out, 0.4)).clamp(max=1)
    wax = colour(draw, (0.11, 0.15), (0.25, 0.55), (0.9, 1.0))
    return finished(over(scene.image, wax, amount(severity, 0.16, 0.95)), alpha, scene)


def drusen(draw: Draw, at: Canvas, scene: Scene, severity: Tensor) -> Flaw:
    """Deposits under a layer: it is lifted in bumps, and greyer stuff lies beneath."""
    x, y = centre(draw, scene.region)
    width, high = draw.uniform(0.2, 0.45), draw.uniform(0.05, 0.1) * (0.15 + 1.3 * severity)
    here = at.moved(x, y)
    across = (here.x / width).abs()
    bumps = (0.5 + 0.5 * (here.x * draw.uniform(14, 30) + draw.uniform(0, 6.28) + noise(draw, at, 3)).cos()).square()
    up, down = draw.uniform(0.12, 0.2), draw.uniform(0.06, 0.12)
    alpha = smooth(1.0, 0.6, across) * smooth(-up, -0.4 * up, here.y) * smooth(down, 0.3 * down, here.y)
    image = displaced(scene.image, at, torch.zeros_like(at.x), high * bumps)
    tone = torch.where(scene.contrast < 0, -0.5, 1.0) * amount(severity, 0.02, 0.35)
    return finished(image + tone * bumps, alpha, scene)


def effusion(draw: Draw, at: Canvas, scene: Scene, severity: Tensor) -> Flaw:
    """Fluid that collects: an even pool, level or wedge-shaped, which hides what lies in it."""
    where = site(draw, at, scene, (0.16, 0.4), 0.12)
    level = (where.near.y + draw.uniform(0.0, 0.7)) * 2.5
    alpha = within(torch.maximum(where.out, 1 - level.clamp(0, 1)), draw.uniform(0.25, 0.5))
    image = over(scene.image, where.tissue, 0.2 + 0.4 * severity)
    calm = Scene(image, scene.region, scene.contrast)
    return finished(shaded(draw, at, calm, where, scene.contrast, amount(severity, 0.07, 0.42), 0.06), alpha, scene)


def fracture(draw: Draw, at: Canvas, scene: Scene, severity: Tensor) -> Flaw:
    """A jagged thin gap, the tissue on one side of it a little out of step."""
    x, y = centre(draw, scene.region)
    angle, length = draw.uniform(0, 3.1416), draw.uniform(0.25, 0.7)
    x0, y0 = x - 0.5 * length * angle.cos(), y - 0.5 * length * angle.sin()
    bent = at.bent(0.02 * noise(draw, at, 16), 0.02 * noise(draw, at, 16))
    gap = bent.walk(draw, x0, y0, angle, length, 0.7, 6)
    width = draw.uniform(0.03, 0.05) * (0.7 + 0.6 * severity)
    alpha = smooth(width, 0.4 * width, gap)
    tone = F.avg_pool2d(scene.image.mean(1, keepdim=True), 5, 1, 2, count_include_pad=False)
    sign = 1 - 2 * smooth(0.18, 0.3, tone)  # bone is bright and its gap dark, a meniscus is dark and its tear bright
    step = 0.03 * severity * draw.uniform(0.3, 1)
    image = displaced(scene.image, at, step * angle.cos(), step * angle.sin())
    return finished(image + sign * amount(severity, 0.09, 0.5), alpha, scene)


def ulcer(draw: Draw, at: Canvas, scene: Scene, severity: Tensor) -> Flaw:
    """A sore: pale yellow slough in a crater, an inflamed rim around it."""
    where = site(draw, at, scene, (0.1, 0.34), 0.25)
    slough = colour(draw, (0.1, 0.15), (0.12, 0.4), (0.75, 0.95))
    rim = where.tissue * torch.cat([draw.uniform(0.75, 0.95), draw.uniform(0.3, 0.5), draw.uniform(0.3, 0.5)], 1)
    strength = amount(severity, 0.25, 1.0)
    image = stained(scene.image, where.tissue, rim, strength)
    crater = smooth(0.75, 0.5, where.out + 0.12 * noise(draw, where.near.scaled(1.6), 7, 2))
    image = over(
        image, slough * (0.7 + 0.6 * scene.image.mean(1, keepdim=True)).clamp(max=1.2), crater * strength * 0.9
    )
    return finished(image, within(where.out, draw.uniform(0.2, 0.4)), scene)


def polyp(draw: Draw, at: Canvas, scene: Scene, severity: Tensor) -> Flaw:
    """A bump of mucosa: lit on one side, shaded on the other, with a glint of the lamp."""
    where = site(draw, at, scene, (0.1, 0.38), 0.1)
    image = swollen(scene.image, at, where, 0.3 + 0.7 * severity)
    lx, ly = draw.uniform(-1, 1), draw.uniform(-1, 1)
    slope = where.near.x * lx + where.near.y * ly + 0.25 * noise(draw, where.near.scaled(2.0), 3, 2)
    light = torch.tanh(1.2 * slope) * smooth(0.1, 0.7, where.out)
    redder = torch.cat([draw.uniform(0.95, 1.15), draw.uniform(0.6, 0.95), draw.uniform(0.6, 0.95)], 1)
    image = image * (1 + (redder - 1) * amount(severity, 0.2, 1.0)) * (1 + light * amount(severity, 0.2, 0.9))
    shadow = smooth(0.7, 0.9, where.out) * smooth(0.0, 0.8, -slope)
    image = image * (1 - 0.7 * shadow * amount(severity, 0.15, 1.0))
    glint = smooth(0.22, 0.1, where.near.moved(0.35 * lx, 0.35 * ly).scaled(1.0, 0.6).disc(0.0))
    image = over(image, torch.ones_like(image), glint * severity * draw.uniform(0.2, 0.8))
    return finished(image, within(where.out, draw.uniform(0.1, 0.2)), scene)


def melanoma(draw: Draw, at: Canvas, scene: Scene, severity: Tensor) -> Flaw:
    """A pigmented lesion: asymmetric, notched border, several browns, black and blue-grey."""
    where = site(draw, at, scene, (0.16, 0.48), 0.4)
    out = where.out * (1 + draw.uniform(0.1, 0.35) * torch.tanh(2 * where.near.x))
    patch = noise(draw, where.near.scaled(1.6), 3, 3)
    brown = colour(draw, (0.04, 0.08), (0.5, 0.75), (0.35, 0.55))
    black = colour(draw, (0.02, 0.1), (0.2, 0.5), (0.1, 0.2))
    blue = colour(draw, (0.55, 0.65), (0.1, 0.3), (0.3, 0.5))
    target = over(brown, black, smooth(0.1, 0.6, patch))
    target = over(target, blue, draw.chance(0.6) * smooth(-0.4, -0.9, patch))
    image = stained(scene.image, where.tissue, target, amount(severity, 0.2, 1.0))
    return finished(image, within(out, draw.uniform(0.1, 0.35)), scene)


def inflammation(draw: Draw, at: Canvas, scene: Scene, severity: Tensor) -> Flaw:
    """Redness in patches, with dots of blood in the worst of it."""
    where = site(draw, at, scene, (0.2, 0.5), 0.3)
    angry = torch.cat([draw.uniform(0.85, 1.1), draw.uniform(0.25, 0.45), draw.uniform(0.3, 0.5)], 1)
    patch = (0.75 + 0.35 * noise(draw, where.near.scaled(1.5), 4, 3)).clamp(0, 1)
    dots = smooth(0.3, 0.15, cells(draw, where.near.scaled(1.5), 9)[0]) * severity
    strength = amount(severity, 0.3, 1.2)
    image = stained(scene.image, where.tissue, where.tissue * angry, strength * patch) * (1 - 0.4 * dots)
    return finished(image, within(where.out, draw.uniform(0.5, 0.9)), scene)


def crowding(draw: Draw, at: Canvas, scene: Scene, severity: Tensor) -> Flaw:
    """Tumour cells: large dark nuclei of uneven size, close together, no order among them."""
    where = site(draw, at, scene, (0.18, 0.48), 0.3)
    near, second, ident = cells(draw, at.bent(0.02 * noise(draw, at, 12), 0.02 * noise(draw, at, 12)), 15)
    size = 0.32 + 0.3 * ident
    nuclei = smooth(size, size - 0.12, near) * smooth(0.02, 0.12, second - near)
    blue = colour(draw, (0.7, 0.77), (0.5, 0.75), (0.3, 0.5)) * (0.8 + 0.4 * ident)
    plasm = colour(draw, (0.78, 0.86), (0.25, 0.4), (0.65, 0.8))
    chromatin = 1 + 0.2 * noise(draw, at, 50, 2, 0.8)
    strength = amount(severity, 0.18, 0.95)
    image = over(over(scene.image, plasm, 0.7 * strength), blue * chromatin, nuclei * strength)
    return finished(image, within(where.out, draw.uniform(0.2, 0.5)), scene)


def parasite(draw: Draw, at: Canvas, scene: Scene, severity: Tensor) -> Flaw:
    """Malaria in red cells: small violet rings, each with a dark dot."""
    where = site(draw, at, scene, (0.14, 0.36), 0.2)
    near, second, ident = cells(draw, where.near.scaled(1.3), 3, 0.8)
    ring = smooth(0.38, 0.28, near) * (0.45 + 0.55 * smooth(0.1, 0.2, near)) * (ident < 0.75)
    violet = hsv(draw.uniform(0.7, 0.8), draw.uniform(0.5, 0.7), draw.uniform(0.3, 0.5))
    dot = smooth(0.16, 0.08, (near - 0.25).abs() + 0.5 * (second - near - 0.4).abs())
    image = over(scene.image, violet * (1 - 0.4 * dot), amount(severity, 0.18, 0.95))
    return finished(image, ring * within(where.out, 0.3), scene)


def blast(draw: Draw, at: Canvas, scene: Scene, severity: Tensor) -> Flaw:
    """A leukaemic cell: large, nearly all nucleus, fine chromatin with pale nucleoli, a rim of blue plasm."""
    where = site(draw, at, scene, (0.14, 0.3), 0.1)
    plasm = colour(draw, (0.62, 0.72), (0.25, 0.45), (0.65, 0.85))
    nucleus = colour(draw, (0.74, 0.82), (0.45, 0.65), (0.4, 0.6))
    inner = where.near.moved(draw.uniform(-0.12, 0.12), draw.uniform(-0.12, 0.12)).disc(draw.uniform(0.68, 0.82))
    inner = inner + 0.06 * noise(draw, where.near.scaled(1.5), 4, 2)
    nucleus = nucleus * (1 + 0.15 * noise(draw, where.near.scaled(1.5), 12, 2, 0.8))
    pale = smooth(0.17, 0.1, where.near.moved(draw.uniform(-0.4, 0.4), draw.uniform(-0.4, 0.4)).disc(0.0))
    cell = over(over(plasm.expand_as(scene.image), nucleus, smooth(0.05, -0.05, inner)), plasm, 0.5 * pale)
    return finished(over(scene.image, cell, amount(severity, 0.15, 0.95)), within(where.out, 0.15), scene)


LESIONS: dict[str, FlawPainter] = {
    "mass": mass,
    "nodule": nodule,
    "cyst": cyst,
    "haemorrhage": haemorrhage,
    "infiltrate": infiltrate,
    "oedema": oedema,
    "atrophy": atrophy,
    "calcification": calcification,
    "exudate": exudate,
    "drusen": drusen,
    "effusion": effusion,
    "fracture": fracture,
    "ulcer": ulcer,
    "polyp": polyp,
    "melanoma": melanoma,
    "inflammation": inflammation,
    "crowding": crowding,
    "parasite": parasite,
    "blast": blast,
}

LESION_WORDS: dict[str, tuple[str, ...]] = {
    "mass": ("a mass", "a tumour", "a spiculated mass"),
    "nodule": ("a nodule", "a round nodule"),
    "cyst": ("a cyst", "a fluid-filled cavity"),
    "haemorrhage": ("a haemorrhage", "bleeding"),
    "infiltrate": ("an infiltrate", "a diffuse opacity"),
    "oedema": ("oedema", "swelling"),
    "atrophy": ("atrophy", "loss of tissue"),
    "calcification": ("calcifications", "a cluster of calcifications"),
    "exudate": ("exudates", "yellow deposits"),
    "drusen": ("drusen", "deposits under a layer"),
    "effusion": ("an effusion", "a collection of fluid"),
    "fracture": ("a fracture", "a crack"),
    "ulcer": ("an ulcer", "a sore"),
    "polyp": ("a polyp", "an adenoma"),
    "melanoma": ("a melanoma", "a suspicious pigmented lesion"),
    "inflammation": ("inflammation", "redness"),
    "crowding": ("tumour cells", "crowded abnormal nuclei"),
    "parasite": ("parasites", "malaria parasites"),
    "blast": ("a blast cell", "a leukaemic cell"),
}
