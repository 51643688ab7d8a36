"""Frames of video files, by PyAV, which is an extra: ``pip install "headlens[video]"``."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from headlens.errors import DataError
from headlens.files import MAX_PIXELS

VIDEOS = (".mp4", ".avi", ".mkv", ".mov", ".webm", ".m4v")
"""Suffixes, in lower case, of what counts as a video in a folder."""
_KEPT = 64  # frames behind the last that was decoded: threads ask for neighbours in any order
_OPEN = 4  # files


def frame_count(path: Path) -> int:
    """How many frames a video has, counted without decoding any.

    Raises:
        DataError: no video, or PyAV is not installed.
    """
    with _opened(path) as file:
        video = _stream(file, path)
        return int(video.frames) or sum(1 for packet in file.demux(video) if packet.size)


def read_frame(path: Path, number: int, max_pixels: int = MAX_PIXELS) -> Tensor:
    """Frame ``number``, from 0, of a video as [3, H, W] uint8, in RGB.

    Frames are decoded from the first on, and those just before are kept: to read them in their order is fast.

    Raises:
        DataError: no video, fewer frames, frames of more than ``max_pixels``, or PyAV is not installed.
    """
    return _reader(path, path.stat().st_mtime_ns if path.is_file() else 0).frame(number, max_pixels)


class _Reader:
    """One file, decoded up to some frame."""

    def __init__(self, path: Path) -> None:
        self.path, self._lock = path, threading.Lock()
        self._kept: OrderedDict[int, Tensor] = OrderedDict()
        self._left: Iterator[Tensor] = iter(())
        self._next = -1  # number of the frame that is decoded next; -1: the file is not open

    def frame(self, number: int, max_pixels: int) -> Tensor:
        with self._lock:
            if number in self._kept:
                return self._kept[number]
            if not 0 <= self._next <= number:
                self._left, self._next = self._decoded(max_pixels), 0
                self._kept.clear()
            for image in self._left:
                self._kept[self._next] = image
                self._next += 1
                if len(self._kept) > _KEPT:
                    self._kept.popitem(last=False)
                if self._next > number:
                    return image
            last, self._next = self._next, -1
            raise DataError(f"{self.path}: has {last} frames, and none of number {number}; is the file complete?")

    def _decoded(self, max_pixels: int) -> Iterator[Tensor]:
        with _opened(self.path) as file:
            video = _stream(file, self.path)
            if video.width * video.height > max_pixels:
                size = f"{video.width}x{video.height}"
                raise DataError(f"{self.path}: frames of {size} have more than {max_pixels} pixels (max_pixels=)")
            try:
                for frame in file.decode(video):
                    yield torch.from_numpy(frame.to_ndarray(format="rgb24")).permute(2, 0, 1).contiguous()
            except OSError as error:  # PyAV's errors are of this kind
                raise DataError(f"{self.path}: cannot be decoded ({error}); is the file complete?") from error


@lru_cache(maxsize=_OPEN)
def _reader(path: Path, changed: int) -> _Reader:
    return _Reader(path)


def _opened(path: Path) -> Any:
    try:
        import av
    except ImportError as error:
        raise DataError(
            f'{path}: a video needs PyAV; pip install "headlens[video]", or give folders of frames'
        ) from error
    try:
        return av.open(str(path))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: no video that can be opened ({error})") from error


def _stream(file: Any, path: Path) -> Any:
    if not file.streams.video:
        raise DataError(f"{path}: has no pictures in it")
    return file.streams.video[0]
