"""Sentences that are true of a picture, from what is known about it."""

from __future__ import annotations

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
    *("a photo of a {}.", "a photo of the {}.", "a cropped photo of the {}.", "a close-up photo of a {}."),
    *("a low resolution photo of a {}", "there is a {} in the scene", "this is a {}", "a picture showing the {}"),
)


def states(domain: str, anomalous: bool) -> tuple[str, ...]:
    """Patterns that say a thing of ``domain`` is as it should be, or is not."""
    if anomalous:
        return ABNORMAL_STATES + (DISEASED_STATES if domain == "medical" else ())
    return NORMAL_STATES + (HEALTHY_STATES if domain == "medical" else ())


def kind(category: Category) -> str:
    """The word for anything of this kind: what a caption says that does not name the category."""
    if category.domain == "medical":
        return "medical image"
    return "surface" if category.texture else "product"


def caption(category: Category, family: str, severity: float, colour: str, place: str | None) -> str:
    """Everything that is known about a sample in one plain sentence.

    >>> from headlens.data.procedural.catalogue import CATEGORIES
    >>> caption(CATEGORIES["wood"], "scratch", 0.9, "brown", "on the left")
    'a photo of a damaged brown wood with an obvious scratch on the left'
    """
    from headlens.data.procedural.catalogue import FAMILY_WORDS

    thing = f"{colour} {category.words[0]}"
    if family == "good":
        return f"a photo of a {'healthy' if category.domain == 'medical' else 'flawless'} {thing}"
    word = FAMILY_WORDS[family][0]
    bare = word.removeprefix("a ").removeprefix("an ")
    degree = "obvious" if severity > 0.6 else "slight" if severity < 0.3 else ""
    described = f"{'an' if degree == 'obvious' else 'a'} {degree} {bare}" if degree and bare != word else word
    state = "abnormal" if category.domain == "medical" else "damaged"
    article = "an" if state == "abnormal" else "a"
    return f"a photo of {article} {state} {thing} with {described} {place or ''}".rstrip()
