"""Whether this process is one of several; a question that must not cost an import of torch."""

from __future__ import annotations

import os

_LEFT = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")  # by torchrun and accelerate, in the environment


def launched() -> bool:
    """Whether ``torchrun`` or ``accelerate launch`` has started this process as one of several."""
    return all(name in os.environ for name in _LEFT) and int(os.environ["WORLD_SIZE"]) > 1
