"""What the lens does with every method, and what it refuses: no refusal appears or disappears unseen."""

from __future__ import annotations

import re

from headlens.errors import HeadlensError
from tests.methods.cases import REFUSALS
from tests.methods.lens import LENS


def test_the_lens_refuses_what_is_written_down_and_nothing_else(case, detector, dataset):
    refused = {}
    for name, ask in LENS.items():
        try:
            ask(detector, dataset)
        except HeadlensError as error:
            refused[name] = str(error)
    assert refused.keys() == REFUSALS[case].keys(), refused
    for name, sentence in REFUSALS[case].items():
        assert re.search(sentence, refused[name]), f"{name}: {refused[name]}"
