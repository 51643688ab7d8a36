"""Endless procedural pictures with captions, for pre-training the embedded backbone: everything stays on the device."""

from __future__ import annotations

import math
import random
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from headlens.data.procedural.captions import TEMPLATES, article, kind, qualified, states
from headlens.data.procedural.catalogue import CATEGORIES, FAMILIES, FAMILY_WORDS, HELD_OUT, ROLES
from headlens.data.procedural.draw import Draw
from headlens.data.procedural.render import COLOURS, PLACES, as_bytes, colour_of, place_of, render

SEEN = tuple(name for name, role in ROLES.items() if role != "unseen")
KINDS = tuple(dict.fromkeys(kind(category) for category in CATEGORIES.values()))
FLAWS = tuple(dict.fromkeys(family for name in SEEN for family in CATEGORIES[name].flaws if family not in HELD_OUT))
# What a caption may state of a picture, one column of attributes each; -1 is "none".
CATEGORY, KIND, STATE, FLAW, DEGREE, COLOUR, PLACE = range(7)
_OFTEN = {"part": 3, "random_surface": 3, "phantom": 3}  # those that are never the same thing twice


@dataclass(frozen=True)
class Batch:
    """``images`` [B, 3, S, S] in 0..1, ``patches`` [B, S/14, S/14] flawed, ``attributes`` [B, 7], on the CPU."""

    images: Tensor
    patches: Tensor
    attributes: Tensor


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """A CPU tensor on ``device``; the CPU does not wait for the copy."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


class Pool(ABC):
    """Pictures on a device, the oldest of which are replaced; what is known of them is on the CPU.

    Args:
        size: pixels along a side; captions, masks and pictures are the same at any size.
        pool: pictures kept.
        fresh: new pictures a call, all of one category.
        seed: of everything.
        device: where pictures are made and stay.
        columns: attributes of a picture.
        names: categories; one that is there twice is shown twice as often.
    """

    def __init__(
        self, size: int, pool: int, fresh: int, seed: int, device: torch.device, columns: int, names: list[str]
    ) -> None:
        self.fresh, self.seed, self.size, self.device = fresh, seed, size, device
        pool = -(-pool // fresh) * fresh  # what is made together is replaced together
        self.images = torch.empty(pool, 3, size, size, dtype=torch.uint8, device=device)
        self.regions = torch.empty(pool, size, size, dtype=torch.bool, device=device)  # a part of each picture
        # Captions are written on the CPU: what they need is there without waiting for the device.
        self.attributes = torch.empty(pool, columns, dtype=torch.int64)
        self.small = torch.empty(pool, 28, 28, dtype=torch.float16)  # masks
        self.made = 0
        self._chance = random.Random(seed)
        self._names = names
        self._generator = torch.Generator().manual_seed(seed)

    def fill(self, ease: float = 0.0) -> None:
        """A pool full of pictures."""
        while self.made < len(self.images):
            self.refresh(ease)

    @abstractmethod
    def refresh(self, ease: float = 0.0) -> None:
        """Replace the oldest images by others, with flaws of severity ``ease``..1."""


class Stream(Pool):
    """A pool of twins, scenes without and with a flaw, of ``families`` families a call; ``regions`` are masks."""

    families = 2

    def __init__(self, size: int, pool: int, fresh: int, seed: int, device: torch.device) -> None:
        names = [name for name in SEEN for _ in range(_OFTEN.get(name, 1))]
        super().__init__(size, pool, fresh, seed, device, 7, names)

    def refresh(self, ease: float = 0.0) -> None:
        """Replace the oldest pictures by twins of one category, with flaws of severity ``ease``..1."""
        name = self._chance.choice(self._names)
        category = CATEGORIES[name]
        known = [family for family in category.flaws if family not in HELD_OUT]
        flaws = self._chance.sample(known, min(self.families, len(known)))
        index = torch.arange(self.fresh // 2, device=self.device, dtype=torch.int32) + self.made
        for part, family in zip(index.chunk(len(flaws)), flaws, strict=True):
            for twin, own in enumerate((None, family)):
                draw = Draw.of(self.seed, f"pre-training/{name}", part)
                painter = None if own is None else FAMILIES[category.domain][own]
                made = render(category, painter, draw, self.size, ease)
                flawed = made.mask.flatten(1).any(1).long()
                degree = torch.where(made.severity > 0.6, 1, torch.where(made.severity < 0.3, 0, -1))
                columns = (
                    *(torch.full_like(flawed, SEEN.index(name)), torch.full_like(flawed, KINDS.index(kind(category)))),
                    *(flawed, torch.full_like(flawed, -1 if own is None else FLAWS.index(own))),
                    *(torch.where(flawed > 0, degree, -1), colour_of(made.image, made.region), flawed),
                )
                slot = (2 * (part.long() - self.made) + twin + self.made) % len(self.images)
                self.images[slot], self.regions[slot] = as_bytes(made.image), made.mask[:, 0]
                self.attributes[slot.cpu()] = torch.stack(columns, 1).cpu()
                self.small[slot.cpu()] = F.adaptive_max_pool2d(made.mask.half(), 28)[:, 0].cpu()
        self.made += self.fresh

    def batch(self, n: int) -> Batch:
        """``n / 2`` pairs of twins, normal and flawed in turn, turned, cut and coloured in a way never used before."""
        first = 2 * torch.randint(len(self.images) // 2, (n // 2,), generator=self._generator)
        pick = torch.stack([first, first + 1], 1).flatten()
        theta, small = self._moved(pick)
        attributes = self.attributes[pick].clone()
        attributes[:, PLACE] = place_of(small[:, None] > 0.5)
        chance = torch.rand(n // 2, 8, generator=self._generator).repeat_interleave(2, 0)
        swapped = chance[:, 0] < 0.2
        attributes[swapped, COLOUR] = -1  # nobody knows what it is called now
        order = torch.rand(n // 2, 3, generator=self._generator).repeat_interleave(2, 0).argsort(1)
        order = torch.where(swapped[:, None], order, torch.arange(3))

        pick, theta, chance, order = (sent(tensor, self.device) for tensor in (pick, theta, chance, order))
        u = chance[:, :, None, None]
        grid = F.affine_grid(theta, [n, 1, self.size, self.size], align_corners=False)
        images = self.images[pick].gather(1, order[:, :, None, None].expand(-1, -1, self.size, self.size))
        images = F.grid_sample(images.float() / 255, grid, padding_mode="reflection", align_corners=False)
        masks = F.grid_sample(self.regions[pick][:, None].float(), grid, padding_mode="reflection", align_corners=False)
        patches = F.adaptive_avg_pool2d((masks > 0.5).float(), self.size // 14)[:, 0]
        gain = 0.8 + 0.4 * u[:, 1:2] + 0.1 * (u[:, 2:5] - 0.5)  # one for all channels, and one for each
        grain = torch.randn_like(images[::2]).repeat_interleave(2, 0) * 0.03 * u[:, 6:7] * (u[:, 7:8] < 0.4)
        return Batch((images * gain + 0.15 * (u[:, 5:6] - 0.5) + grain).clamp(0, 1), patches, attributes)

    def _moved(self, pick: Tensor) -> tuple[Tensor, Tensor]:
        """A random view [n, 2, 3] of every pair, the same for both twins, and the masks [n, 28, 28] there.

        A third of the pairs stay as they were, as all pictures are that the backbone will be tested on; so do those of
        which most of the flaw would be cut off, twice.
        """
        before = self.small[pick].float()
        theta = views(len(pick) // 2, self._generator)
        for retry in (views(len(pick) // 2, self._generator), torch.eye(2, 3).expand(len(pick) // 2, 2, 3)):
            after = looked_at(before, theta.repeat_interleave(2, 0))
            lost = after.sum((1, 2)) < 0.4 * before.sum((1, 2))
            theta = torch.where(lost[1::2, None, None], retry, theta)
        theta = theta.repeat_interleave(2, 0)
        return theta, looked_at(before, theta)


def views(n: int, generator: torch.Generator) -> Tensor:
    """``n`` random views [n, 2, 3]: turned, mirrored, squashed, shifted, zoomed; a third only mirrored or turned."""
    u = torch.rand(n, 8, generator=generator)
    still = (u[:, 7] < 0.35).float()
    quarter = torch.where(u[:, 0] < 0.3, (u[:, 0] * 10).floor() + 1, 0.0)  # quarter and half turns now and then
    angle = quarter * (math.pi / 2) + (1 - still) * (u[:, 1] - 0.5) * 0.5
    zoom = 1 + (1 - still) * (0.35 * u[:, 2] - 0.15)
    squash = 1 + (1 - still) * 0.2 * (u[:, 3] - 0.5)
    mirror = torch.where(u[:, 4] < 0.5, -1.0, 1.0)
    shift = (1 - still)[:, None] * 0.2 * (u[:, 5:7] - 0.5)
    rows = (
        torch.stack([angle.cos() * zoom * squash * mirror, -angle.sin() * zoom / squash, shift[:, 0]], 1),
        torch.stack([angle.sin() * zoom * squash * mirror, angle.cos() * zoom / squash, shift[:, 1]], 1),
    )
    return torch.stack(rows, 1)


def looked_at(masks: Tensor, theta: Tensor) -> Tensor:
    """Masks [n, h, w] as views [n, 2, 3] show them."""
    grid = F.affine_grid(theta, [len(masks), 1, *masks.shape[1:]], align_corners=False)
    return F.grid_sample(masks[:, None], grid, padding_mode="reflection", align_corners=False)[:, 0]


class Captions:
    """Sentences for attributes, as token ids; and which attributes each one states."""

    def __init__(self, tokenizer, seed: int) -> None:
        self._chance = random.Random(seed)
        self._start, self._end = tokenizer.sot_token_id, tokenizer.eot_token_id
        self.encode = cache(tokenizer.encode)  # word by word: CLIP's BPE never looks across a space

    def sentences(self, attributes: Tensor) -> tuple[list[str], Tensor]:
        """One sentence for each row of ``attributes`` [B, 7], true of it, and what it states [B, 7] bool."""
        said, stated = [], torch.zeros(attributes.shape, dtype=torch.bool)
        for i, row in enumerate(attributes.tolist()):
            sentence, columns = self._sentence(row)
            said.append(sentence)
            stated[i, columns] = True
        return said, stated

    def _sentence(self, row: list[int]) -> tuple[str, list[int]]:
        chance, columns = self._chance, []
        category = CATEGORIES[SEEN[row[CATEGORY]]]
        naming = chance.random()
        if naming < 0.72:
            thing, columns = self._word(category.words), [CATEGORY]
        elif naming < 0.84:
            thing, columns = KINDS[row[KIND]], [KIND]
        else:
            thing = "object"
        if row[COLOUR] >= 0 and chance.random() < 0.25:
            thing = f"{COLOURS[row[COLOUR]]} {thing}"
            columns.append(COLOUR)
        family = row[STATE] and chance.random() < 0.55
        if chance.random() < 0.93:
            patterns = states(category.domain, bool(row[STATE]))
            if family:  # "damaged wood with a scratch", not "wood with defect with a scratch"
                patterns = tuple(p for p in patterns if p.endswith("{}"))
            thing = chance.choice(patterns).format(thing)
            columns.append(STATE)
        if family:
            word = self._word(FAMILY_WORDS[FLAWS[row[FLAW]]])
            columns += [STATE, FLAW]
            if row[DEGREE] >= 0 and chance.random() < 0.3:
                word = qualified(word, ("slight", "obvious")[row[DEGREE]])
                columns.append(DEGREE)
            thing = f"{thing} with {word}"
        if row[STATE] and row[PLACE] >= 0 and chance.random() < 0.2:
            thing = f"{thing} {PLACES[row[PLACE]]}"
            columns += [STATE, PLACE]  # a place says that there is something to see
        return article(chance.choice(TEMPLATES).format(thing)), columns

    def _word(self, words: tuple[str, ...]) -> str:
        """The usual word half of the time."""
        return words[0] if self._chance.random() < 0.5 else self._chance.choice(words)

    def pairs(self, attributes: Tensor) -> list[str]:
        """A normal sentence for every row, then an abnormal one for every row: the same thing in its two states."""
        normal, abnormal = [], []
        for row in attributes.tolist():
            category = CATEGORIES[SEEN[row[CATEGORY]]]
            said = self._both(category.domain, self._word(category.words))
            normal.append(said[0])
            abnormal.append(said[1])
        return normal + abnormal

    def objects(self, n: int) -> list[str]:
        """``n`` normal and ``n`` abnormal sentences about an object that nobody names."""
        both = [self._both(self._chance.choice(tuple(FAMILIES)), "object") for _ in range(n)]
        return [normal for normal, _ in both] + [abnormal for _, abnormal in both]

    def _both(self, domain: str, thing: str) -> tuple[str, str]:
        template = self._chance.choice(TEMPLATES)
        # Some normal sentences name the bare thing, as the usual ensembles do.
        normal = states(domain, False) if self._chance.random() < 0.85 else ("{}",)
        said = self._chance.choice(normal), self._chance.choice(states(domain, True))
        return article(template.format(said[0].format(thing))), article(template.format(said[1].format(thing)))

    def tokens(self, sentences: list[str], device: torch.device) -> Tensor:
        """Token ids [B, longest], equal to what the tokenizer gives, a word looked up once."""
        rows = [
            [self._start, *(i for word in sentence.split() for i in self.encode(word)), self._end]
            for sentence in sentences
        ]
        longest = max(map(len, rows))
        padded = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
        return sent(padded, device)
