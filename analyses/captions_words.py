"""Sentences about scenes, as the web's are: rich in things, colours, places and counts, and rarely about a state."""

from __future__ import annotations

from captions_scenes import (
    CATEGORY,
    COLOUR,
    COUNT,
    FLAW,
    FLAWS,
    KIND,
    KINDS,
    MARK,
    MARK_COLOUR,
    MARK_PLACE,
    NAMES,
    NEAR,
    SECOND,
    SECOND_PLACE,
    SHAPES,
    STATE,
    THINGS,
    TONE,
    TONES,
)
from mini_stream import Captions
from torch import Tensor

from headlens.data.procedural.captions import article, states
from headlens.data.procedural.catalogue import FAMILY_WORDS
from headlens.data.procedural.render import COLOURS, PLACES

PICTURES = ("photo", "image", "picture")
OPENINGS = ("{} of a {{}}", "{} of the {{}}", "{} showing the {{}}")
OTHERS = ("there is a {} in the scene", "this is a {}", "the {}")
TOGETHER = ("{} and {}", "{} with {}", "{} next to {}", "{} beside a piece of {}")
PLACED = ("{} with {} {}", "{} and {} {}")
NUMBERS = ("", "two", "three")


class Scribe(Captions):
    """Sentences for the attributes of scenes, as token ids; and which attributes each one states.

    Args:
        tokenizer: of the backbone.
        seed: of every choice.
        named: share of sentences that name a state or a flaw; those with a flaw are four times as likely to be
            named as those without, as people do.
        general: the thing is called by its kind only, and a second one is not spoken of: sentences about categories
            whose names a backbone has never read.
    """

    def __init__(self, tokenizer, seed: int, named: float, general: bool = False) -> None:
        super().__init__(tokenizer, seed)
        if not 0 <= named <= 0.5:
            raise ValueError(f"named is {named}; it is a share, and at most 0.5")
        self.named, self.general = named, general

    def _often(self, p: float) -> bool:
        return self._chance.random() < p

    def _sentence(self, row: list[int]) -> tuple[str, list[int]]:
        said: list[int] = []
        thing = self._thing(row, said)
        if self._often(self.named * {1: 2.0, 0: 0.5, -1: 0.0}[row[STATE]]):
            thing = self._state(thing, row, said)
        more: list[str] = []
        if row[SECOND] >= 0 and not self.general and self._often(0.6):
            thing = self._second(thing, more, row, said)
        if row[MARK] >= 0 and self._often(0.65):
            thing = self._mark(thing, more, row, said)
        opening = self._opening(row, said)
        self._chance.shuffle(more)
        return article(". ".join([opening.format(thing), *more])), said

    def _thing(self, row: list[int], said: list[int]) -> str:
        chance = self._chance.random()
        if chance < 0.8 and not self.general:
            thing = self._word(THINGS[NAMES[row[CATEGORY]]].words)
            said.append(CATEGORY)
        elif chance < 0.9 or (self.general and chance < 0.6):
            thing = KINDS[row[KIND]]
            said.append(KIND)
        else:
            thing = "object"
        if row[COLOUR] >= 0 and self._often(0.4):
            said.append(COLOUR)
            return f"{COLOURS[row[COLOUR]]} {thing}"
        return thing

    def _state(self, thing: str, row: list[int], said: list[int]) -> str:
        """What is named where a state is named at all."""
        said.append(STATE)
        domain = THINGS[NAMES[row[CATEGORY]]].domain
        family = row[FLAW] >= 0 and self._often(0.55)
        if not family or self._often(0.5):
            patterns = states(domain, row[STATE] == 1)
            if family:  # "damaged wood with a scratch", not "wood with defect with a scratch"
                patterns = tuple(pattern for pattern in patterns if pattern.endswith("{}"))
            thing = self._chance.choice(patterns).format(thing)
        if family:
            said.append(FLAW)
            thing = f"{thing} with {self._word(FAMILY_WORDS[FLAWS[row[FLAW]]])}"
        return thing

    def _second(self, thing: str, more: list[str], row: list[int], said: list[int]) -> str:
        other = self._word(THINGS[NAMES[row[SECOND]]].words)
        said.append(SECOND)
        if row[SECOND_PLACE] < 0 or self._often(0.4):
            return self._chance.choice(TOGETHER).format(thing, other)
        said.append(SECOND_PLACE)
        place = PLACES[row[SECOND_PLACE]]
        if self._often(0.5):
            return self._chance.choice(PLACED).format(thing, other, place)
        more.append(f"{other} {place}")
        return thing

    def _mark(self, thing: str, more: list[str], row: list[int], said: list[int]) -> str:
        said.append(MARK)
        mark = SHAPES[row[MARK]]
        if row[MARK_COLOUR] >= 0 and self._often(0.65):
            said.append(MARK_COLOUR)
            mark = f"{COLOURS[row[MARK_COLOUR]]} {mark}"
        if row[COUNT] > 1 and self._often(0.8):
            said.append(COUNT)
            mark = f"{NUMBERS[row[COUNT] - 1]} {mark}{'es' if mark.endswith('s') else 's'}"
        elif row[COUNT] == 1:
            mark = f"a {mark}"
        else:
            mark = f"some {mark}{'es' if mark.endswith('s') else 's'}"
        if row[MARK_PLACE] >= 0 and self._often(0.5):
            said.append(MARK_PLACE)
            mark = f"{mark} {PLACES[row[MARK_PLACE]]}"
        if self._often(0.5):
            more.append(f"there is {mark}" if mark.startswith("a ") else mark)
            return thing
        return f"{thing} with {mark}"

    def _opening(self, row: list[int], said: list[int]) -> str:
        if self._often(0.25):
            return self._chance.choice((*OTHERS, "{}", "{}."))
        picture = self._chance.choice(PICTURES)
        if row[NEAR] == 1 and self._often(0.5):
            picture = f"{self._chance.choice(('close-up', 'cropped'))} {picture}"
            said.append(NEAR)
        if row[TONE] >= 0 and self._often(0.6):
            picture = f"{TONES[row[TONE]]} {picture}"
            said.append(TONE)
        return self._chance.choice(("a", "the")) + " " + self._chance.choice(OPENINGS).format(picture)

    def things(self) -> list[str]:
        """One sentence for each of ``NAMES``, each of ``SHAPES`` and the background: what a patch may show."""
        named = [self._word(THINGS[name].words) for name in NAMES]
        named += [f"a {shape}" for shape in SHAPES] + ["background"]
        if self._often(0.5):
            named = [f"a photo of a {name}".replace("a a ", "a ") for name in named]
        return [article(name) for name in named]


def vocabulary(names: tuple[str, ...] = NAMES) -> list[str]:
    """Every piece that sentences about ``names`` are made of: what a backbone trained on them can have read."""
    said = [*PICTURES, *OPENINGS, *OTHERS, *TOGETHER, *PLACED, *NUMBERS, *COLOURS, *PLACES, *SHAPES, *TONES, *KINDS]
    said += [f"{shape}{'es' if shape.endswith('s') else 's'}" for shape in SHAPES]
    said += ["a", "an", "the", "some", "there is", "with", "object", "background", "close-up", "cropped"]
    said += [word for name in names for word in THINGS[name].words]
    said += [word for flaw in FLAWS for word in FAMILY_WORDS[flaw]]
    return said + [
        text for domain in ("industrial", "medical") for bad in (False, True) for text in states(domain, bad)
    ]


def share_named(scribe: Scribe, attributes: Tensor) -> float:
    """How many of the sentences about ``attributes`` [n, 13] name a state or a flaw."""
    return float(scribe.sentences(attributes)[1][:, STATE].float().mean())
