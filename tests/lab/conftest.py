"""The tiny detector and the pictures of the head tests."""

from __future__ import annotations

from tests.heads import conftest as heads

detector, make, state, threads, pictures = heads.detector, heads.make, heads.state, heads.threads, heads.pictures
