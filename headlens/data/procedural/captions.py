"""Sentences that are true of a picture, from what is known about it."""

from __future__ import annotations

import re

from headlens.data.procedural.scene import Category

NORMAL_STATES = (
    *("normal {}", "flawless {}", "perfect {}", "unblemished {}", "good {}", "intact {}", "undamaged {}", "clean {}"),
    *("{} without flaw", "{} without defect", "{} without damage", "{} in good condition"),
)
ABNORMAL_STATES = (
    *("damaged {}", "broken {}", "defective {}", "abnormal {}", "faulty {}", "flawed {}", "anomalous {}"),
    *("{} with flaw", "{} with defect", "{} with damage", "{} with an anomaly"),
)
HEALTHY_STATES = ("healthy {}", "normal {}", "unremarkable {}", "{} without lesion", "{} with normal findings")
DISEASED_STATES = ("diseased {}", "pathological {}", "abnormal {}", "{} with a lesion", "{} with abnormal findings")
TEMPLATES = (
    *(
        "{}",
        "a photo of a {}",
        "a photo of the {}",
        "an image of a {}",
        "a close-up photo of a {}",
        "a picture of a {}",
    ),
    *("a photo of a {}.", "a photo of the {}.", "a cropped photo of the {}.", "a close-up photo of the {}."),
    *("a low resolution photo of a {}", "there is a {} in the scene", "this is a {}", "a picture showing the {}"),
)


def states(domain: str, anomalous: bool) -> tuple[str, ...]:
    """Patterns that say a thing of ``domain`` is as it should be, or is not."""
    if anomalous:
        return ABNORMAL_STATES + (DISEASED_STATES if domain == "medical" else ())
    return NORMAL_STATES + (HEALTHY_STATES if domain == "medical" else ())


def shown(name: str) -> str:
    """What an image shows, and nothing else about it.

    >>> shown("bottle_cap"), shown("airplane")
    ('a photo of a bottle cap', 'a photo of an airplane')
    """
    return article(f"a photo of a {name.replace('_', ' ')}")


def kind(category: Category) -> str:
    """The word for anything of this kind: what a caption says that does not name the category."""
    if category.domain == "medical":
        return "medical image"
    return "surface" if category.texture else "product"


def article(text: str) -> str:
    """``an`` before vowels.

    >>> article("a photo of a undamaged object")
    'a photo of an undamaged object'
    """
    return re.sub(r"\ba (?=[aeiou])", "an ", text)


def qualified(word: str, degree: str) -> str:
    """``a scratch`` that is slight or obvious.

    >>> qualified("a scratch", "obvious"), qualified("corrosion", "slight")
    ('an obvious scratch', 'slight corrosion')
    """
    for start in ("a ", "an "):
        if word.startswith(start):
            return article(f"a {degree} {word.removeprefix(start)}")
    return f"{degree} {word}"


def caption(category: Category, family: str, severity: float, colour: str, place: str | None) -> str:
    """Everything that is known about a sample in one plain sentence.

    >>> from headlens.data.procedural.catalogue import CATEGORIES
    >>> caption(CATEGORIES["wood"], "scratch", 0.9, "brown", "on the left")
    'a photo of a damaged brown wood with an obvious scratch on the left'
    """
    from headlens.data.procedural.catalogue import FAMILY_WORDS  # which needs the categories, which are many

    thing = f"{colour} {category.words[0]}"
    if family == "good":
        return f"a photo of a {'healthy' if category.domain == 'medical' else 'flawless'} {thing}"
    word = FAMILY_WORDS[family][0]
    if severity > 0.6 or severity < 0.3:
        word = qualified(word, "obvious" if severity > 0.6 else "slight")
    state = "abnormal" if category.domain == "medical" else "damaged"
    return article(f"a photo of a {state} {thing} with {word} {place or ''}".rstrip())
