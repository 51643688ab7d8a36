"""The order of files: those that take longest first, so that no process is left alone with one at the end."""

from __future__ import annotations

from pathlib import Path

import pytest

HERE = Path(__file__).parent
LONGEST = ("notebooks", "parallel", "test_cli_detector.py", "data/test_worlds.py", "test_cli_lens.py", "figures")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Python's sort is stable: all others stay in their order, and the same on every process."""
    items.sort(key=place)


def place(item: pytest.Item) -> int:
    return next((at for at, name in enumerate(LONGEST) if item.path.is_relative_to(HERE / name)), len(LONGEST))
