"""Electrical objects: integrated circuits, printed circuit boards, cut cables, connectors."""

from __future__ import annotations

import torch
from torch import Tensor

from headlens.data.procedural.backdrops import either, periodic, placed, stand
from headlens.data.procedural.canvas import Canvas, over
from headlens.data.procedural.draw import Draw
from headlens.data.procedural.fields import colour, noise, smooth
from headlens.data.procedural.parts import bevel, folded, lettering, lit, metal, outline, plastic
from headlens.data.procedural.scene import Scene


def chip(draw: Draw, at: Canvas) -> Scene:
    """An integrated circuit from above: moulded package, gull-wing legs on two or four sides, pin 1 dot, marks."""
    on = placed(draw, at)
    four = draw.chance(0.4)
    high = torch.where(four > 0, draw.uniform(0.68, 0.72), draw.uniform(0.3, 0.6))
    wide = torch.where(four > 0, high, draw.uniform(0.65, 0.9))
    leg = draw.uniform(0.1, 0.22)
    count = 3 + draw.integers(10)
    pitch = 2 * wide * 0.92 / count
    thick = pitch * draw.uniform(0.2, 0.33)

    def legs(along: Tensor, across: Tensor) -> Tensor:
        place = periodic(along / pitch + 0.5 * torch.remainder(count + 1, 2)) * pitch
        row = torch.maximum(place.abs() - thick, along.abs() - 0.92 * wide)
        return torch.maximum(row, torch.maximum(across.abs() - high - leg, high - 0.05 - across.abs()))

    pins = torch.minimum(legs(on.x, on.y), legs(on.y, on.x) + 9 * (1 - four))
    body = on.box(wide, high, draw.uniform(0.0, 0.06))
    grain = noise(draw, on, 40, 2)
    resin = colour(draw, (0, 1), (0.0, 0.2), (0.08, 0.3)) * (1 + draw.uniform(0.03, 0.15) * grain)
    resin = either(draw, resin, resin, resin, colour(draw, (0.05, 0.6), (0.1, 0.5), (0.3, 0.85)) * (1 + 0.04 * grain))
    ink = colour(draw, (0, 1), (0.0, 0.15), (0.55, 1.0))
    fit = torch.minimum(wide, high * 1.9) * draw.uniform(0.5, 0.85)
    words = lettering(draw, on.moved(0.05, draw.uniform(-0.1, 0.1)).scaled(fit), 8, 3)
    words = words * (on.y < high * draw.uniform(0.0, 1.0)).float()  # one to three lines
    image = over(resin, ink, draw.uniform(0.6, 1.0) * words)
    logo = outline(draw, on.moved(-0.7 * wide, -0.55 * high).scaled(0.12))
    image = over(image, ink, draw.chance(0.5) * on.line(logo * 0.12, 0.02))
    dot = on.moved(-wide + 0.13, high - 0.13).disc(draw.uniform(0.03, 0.06))
    image = image * (1 - 0.5 * on.fill(dot))
    notch = on.moved(-wide, 0.0).disc(0.1) + 9 * four
    image = image * (1 - 0.6 * on.fill(notch))
    tin = colour(draw, (0.1, 0.6), (0.0, 0.15), (0.6, 0.9)) * (1 + 0.25 * noise(draw, on, 24, 1))
    outside = torch.maximum(on.y.abs() - high, four * (on.x.abs() - high)) / leg
    tin = tin * (1.15 - 0.6 * smooth(0.35, 0.5, outside) + 0.6 * smooth(0.5, 0.65, outside))  # the bend of the leg
    covered = on.fill(body)
    image = over(tin, image, covered)
    sides = (
        bevel(body, draw.uniform(0.03, 0.1), 1.0) - 0.03 * smooth(0.01, -0.01, dot) - 0.05 * smooth(0.01, -0.01, notch)
    )
    image = lit(draw, on, image, sides + bevel(pins, thick, 0.8) * (1 - covered), draw.uniform(0.1, 0.5))
    return stand(draw, at, image, on.fill(torch.minimum(body, pins)))


def pcb(draw: Draw, at: Canvas) -> Scene:
    """A printed circuit board: solder mask, buses of tracks, vias, chips, resistors, capacitors, silk-screen."""
    on = placed(draw, at)
    wide, high = draw.uniform(0.75, 0.95), draw.uniform(0.5, 0.8)
    board = on.box(wide, high, draw.uniform(0.0, 0.1))
    green = colour(draw, (0.3, 0.42), (0.5, 0.9), (0.25, 0.55))
    mask = either(
        draw, green, green, colour(draw, (0, 1), (0.5, 0.95), (0.2, 0.55)), colour(draw, (0, 1), (0, 0.2), (0.08, 0.2))
    )
    image = mask * (1 + 0.04 * noise(draw, on, 24, 1))
    copper = (mask * draw.uniform(1.25, 1.7) + 0.05).clamp(0, 1)
    bare = either(
        draw, colour(draw, (0.1, 0.13), (0.4, 0.7), (0.75, 0.95)), colour(draw, (0.5, 0.6), (0, 0.08), (0.65, 0.9))
    )
    silk, height = colour(draw, (0, 1), (0, 0.1), (0.75, 1.0)), bevel(board, 0.02, 1.0)

    pitch = draw.uniform(14, 26)
    tracks = torch.zeros_like(on.x)
    for way in range(3):  # buses with two bends of 45 degrees each
        x, y = (on.x, on.y) if way != 1 else (on.y, on.x)
        bend, middle = draw.uniform(-0.5, 0.5), draw.uniform(-0.5, 0.5)
        across = y - middle + (x - bend).clamp(min=0, max=0.3) * (2 * draw.chance(0.5) - 1)
        bus = on.line(periodic(across * pitch) / pitch, 0.4 / pitch) * on.fill(across.abs() - draw.uniform(0.08, 0.35))
        tracks = torch.maximum(tracks, bus)
    image = over(image, copper, tracks)
    place = Canvas(periodic(on.x * pitch * 0.5) / pitch * 2, periodic(on.y * pitch * 0.5) / pitch * 2, on.pixel)
    patch = noise(draw, on, 4, 1) > draw.uniform(0.0, 0.6)
    image = over(image, bare, on.fill(place.disc(0.6 / pitch)) * patch)
    image = over(image, mask * 0.2, on.fill(place.disc(0.3 / pitch)) * patch)

    small = draw.uniform(0.03, 0.05)
    for row in range(5):  # rows of resistors and capacitors: a body between two soldered ends
        spot = on.turned(draw.integers(2) * 1.5708).moved(draw.uniform(-0.6, 0.6), draw.uniform(-0.6, 0.6))
        step, many = small * draw.uniform(2.6, 3.5), draw.integers(5)
        nth = (spot.y / step).round().clamp(min=0 * small).minimum(many.float())
        spot = Canvas(spot.x, spot.y - nth * step, spot.pixel)
        body, ends = spot.box(small * 1.1, small * 0.9), spot.box(small * 2, small * 0.95, 0.01)
        image = over(image, silk, draw.chance(0.5) * spot.line(spot.box(small * 2.5, small * 1.25), 0.014))
        image = over(image, bare, spot.fill(ends))
        black = colour(draw, (0, 1), (0.0, 0.2), (0.06, 0.2))
        image = over(image, either(draw, black, colour(draw, (0.04, 0.12), (0.3, 0.6), (0.4, 0.8))), spot.fill(body))
        height = torch.maximum(height, bevel(ends, small * 0.5, 1.0) + 0.02 * (row < 9))
    for _ in range(3):  # chips with legs on two sides
        spot = on.turned(draw.integers(4) * 1.5708).moved(draw.uniform(-0.65, 0.65), draw.uniform(-0.6, 0.6))
        half, thick = draw.uniform(0.1, 0.26), draw.uniform(0.1, 0.2)
        body, legs = spot.box(half, thick, 0.01), spot.box(half * 0.94, thick + 0.05)
        teeth = spot.fill(legs) * spot.line(periodic(spot.x / 0.05) * 0.05, 0.024)
        image = over(image, silk, spot.line(spot.box(half + 0.03, thick + 0.08), 0.014))
        image = over(over(image, mask, spot.fill(legs)), bare, teeth)
        image = over(image, colour(draw, (0, 1), (0, 0.2), (0.08, 0.22)), spot.fill(body))
        image = over(image, silk, spot.fill(spot.moved(0.05 - half, thick - 0.05).disc(0.02)))
        height = torch.maximum(height, bevel(body, 0.02, 1.0) + 0.03 * spot.fill(body))
    words = lettering(draw, on.moved(draw.uniform(-0.4, 0.4), draw.uniform(-0.4, 0.4)).scaled(0.3), 8)
    image = over(image, silk, words * (height < 0.03))
    corner = Canvas(on.x.abs() - wide + 0.09, on.y.abs() - high + 0.09, on.pixel)
    image = over(image, bare, draw.chance(0.7) * on.fill(corner.disc(0.075)))
    board = torch.maximum(board, -corner.disc(0.045) - 9 * (1 - draw.chance(0.8)))
    image = lit(draw, on, image, height, draw.uniform(0.1, 0.4))
    return stand(draw, at, image, on.fill(board))


def cable(draw: Draw, at: Canvas) -> Scene:
    """A cut cable: jacket, filler, mostly three insulated wires, each with its bundle of copper strands."""
    on = placed(draw, at)
    uneven = noise(draw, on, 2.5, 2)
    radius = on.disc(0.0) + 0.02 * uneven
    count = either(draw, *(0 * on.pixel + n for n in (3.0, 3.0, 3.0, 2.0, 4.0)))
    inner = 0.93 - draw.uniform(0.06, 0.16)
    ratio = (torch.pi / count).sin()
    wire = inner * ratio / (1 + ratio) * draw.uniform(0.9, 0.98)
    turned = on.turned(draw.uniform(0, 6))
    place = folded(turned, count).moved(inner - wire - 0.01, 0.0)
    place = place.bent(0.02 * uneven, 0.02 * noise(draw, on, 3, 1))
    sector = torch.remainder((torch.atan2(turned.y, turned.x) / (2 * torch.pi) * count).round(), count)

    rubber = noise(draw, on, 40, 2)
    grey = colour(draw, (0, 1), (0.0, 0.15), (0.08, 0.9))
    jacket = either(draw, grey, grey, colour(draw, (0, 1), (0.3, 0.9), (0.3, 0.9))) * (1 + 0.05 * rubber)
    filler = colour(draw, (0.05, 0.15), (0.0, 0.3), (0.05, 0.9)) * (1 + 0.12 * noise(draw, on, 16, 3))
    image = over(jacket, filler, on.fill(radius - inner))
    image = image * (1 - 0.4 * on.line(radius - inner, 0.025))
    sheath = colour(draw, (0.02, 0.08), (0.5, 0.8), (0.3, 0.6))  # brown, blue, yellow and green; or any colours
    usual = draw.chance(0.6)
    for i, hue in enumerate((0.6, 0.22, 0.0)):
        own = colour(draw, (hue - 0.04, hue + 0.05), (0.5, 0.95), (0.4, 0.9))
        own = torch.where(usual > 0, own, colour(draw, (0, 1), (0.0, 0.95), (0.1, 0.95)))
        sheath = sheath + (own - sheath) * (sector == i + 1)
    insulation, core = place.disc(wire), place.disc(wire * draw.uniform(0.55, 0.78))
    image = over(image, sheath * (1 + 0.04 * rubber), on.fill(insulation))
    # Strands: a bundle packed like a honeycomb, pushed about a little.
    pitch = draw.uniform(3.5, 8) / wire
    packed = place.turned(draw.uniform(0, 3) + sector * 1.3)
    u, v = packed.x * pitch + 0.15 * rubber, packed.y * pitch / 0.866 + 0.12 * uneven
    row = v.round()
    strand = Canvas(periodic(u + 0.5 * torch.remainder(row, 2)) / pitch, (v - row) * 0.866 / pitch, on.pixel).disc(
        0.46 / pitch
    )
    metallic = either(
        draw, *(colour(draw, (0.03, 0.08), (0.4, 0.7), (0.65, 0.95)),) * 3, colour(draw, (0, 1), (0, 0.05), (0.6, 0.9))
    )
    each = ((u.round() + 0.5 * row) * 12.99 + row * 78.2 + sector).sin()
    image = over(image, metallic * 0.25, on.fill(core))
    image = over(image, metallic * (0.85 + 0.2 * each), on.fill(torch.maximum(strand, core)))
    image = image * (1 - 0.35 * on.line(insulation, 0.02))
    height = bevel(radius - 0.93, 0.06, 0.9) + bevel(torch.maximum(inner - radius, radius - 0.93), 0.04, 0.5)
    height = (
        height
        + bevel(insulation, 0.05, 0.9)
        - bevel(core, 0.03, 0.8)
        + bevel(torch.maximum(strand, core), 0.5 / pitch, 0.8)
    )
    image = lit(draw, on, image, height, draw.uniform(0.1, 0.5))
    return stand(draw, at, image, on.fill(radius - 0.93))


def connector(draw: Draw, at: Canvas) -> Scene:
    """A plug seen from its mating face: moulded housing, rows of pins or sockets, keys, latch, sometimes screw ears."""
    on = placed(draw, at)
    columns, rows = 2 + draw.integers(7), 1 + draw.integers(4)
    pitch = torch.minimum(1.5 / columns, 0.95 / rows.float()).clamp(max=0.42)
    wide, high = columns * pitch / 2, rows * pitch / 2
    wall = draw.uniform(0.07, 0.16)
    ears = draw.chance(0.3)
    cavity = on.box(wide, high, draw.uniform(0.0, 0.08))
    slant = draw.chance(0.25) * 0.15 * on.y  # the trapezoid of a D-sub
    housing = on.box(wide + wall + slant, high + wall, draw.uniform(0.02, 0.12))
    flange = on.box(wide + wall + 0.16, high + wall * 1.3, 0.05) + 9 * (1 - ears)
    latch = on.moved(0.0, -high - wall).box(wide * draw.uniform(0.2, 0.6), draw.uniform(0.05, 0.1), 0.02)
    latch = latch + 9 * draw.chance(0.4)
    shape = torch.minimum(torch.minimum(housing, flange), latch)
    screws = Canvas(on.x.abs() - wide - wall - 0.08, on.y, on.pixel).disc(0.05) + 9 * (1 - ears)
    moulded, steel = plastic(draw, on), metal(draw, on)
    image = either(draw, moulded, moulded, steel)
    key = on.moved(draw.uniform(-0.6, 0.6) * wide, high).box(pitch * 0.25, wall * 0.7)
    cavity = torch.minimum(cavity, key + 9 * draw.chance(0.4))
    floor = either(draw, moulded * 0.4, moulded * 0.55, colour(draw, (0, 1), (0, 0.4), (0.05, 0.8)) + 0 * on.x)
    image = over(image, floor, on.fill(cavity))
    u, v = on.x / pitch + 0.5 * torch.remainder(columns + 1, 2), on.y / pitch + 0.5 * torch.remainder(rows + 1, 2)
    u = u + 0.25 * draw.chance(0.25) * (2 * torch.remainder(v.round(), 2) - 1)  # staggered rows
    pin = Canvas(periodic(u) * pitch, periodic(v) * pitch, on.pixel)
    size = pitch * draw.uniform(0.14, 0.3)
    square = pin.box(size, size * draw.uniform(0.5, 1), 0.2 * size)
    pins = either(draw, pin.disc(size), square, square)
    pins = torch.maximum(pins, cavity + 0.04 * pitch)
    gold = either(
        draw, colour(draw, (0.1, 0.14), (0.4, 0.75), (0.7, 0.95)), colour(draw, (0.5, 0.6), (0, 0.08), (0.6, 0.95))
    )
    sockets = draw.chance(0.3)
    cell = torch.maximum(pin.box(pitch * 0.42, pitch * 0.42, 0.02), cavity)
    image = over(image, floor * 0.6, draw.chance(0.5) * on.fill(cell) * (1 - on.fill(pins)))
    image = over(image, gold * (1 + 0.3 * pin.y / size) * (1 - 0.3 * sockets), on.fill(pins))
    image = over(image, gold * 0.12, sockets * on.fill(pins + 0.45 * size))
    image = over(over(image, steel, on.fill(screws)), steel * 0.3, on.fill(screws) * on.line(on.y + 0.4 * on.x, 0.03))
    height = bevel(shape, 0.05, 1.0) - 0.12 * smooth(0.015, -0.015, cavity)
    height = height + bevel(pins, size, 1.0) * (1 - sockets) + bevel(screws, 0.03, 1.0)
    words = lettering(draw, on.moved(0.0, high + wall * 0.5).scaled(wall * 3), 6) * draw.chance(0.5)
    image = over(image, colour(draw, (0, 1), (0, 0.2), (0.5, 1.0)), words)
    image = lit(draw, on, image, height, draw.uniform(0.1, 0.5))
    return stand(draw, at, image, on.fill(shape))
