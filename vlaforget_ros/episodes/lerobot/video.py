"""Frames out of mp4 files and into them, through PyAV, which brings the decoders of AV1, H.264 and H.265 along."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from types import TracebackType

import av
import av.error
import numpy as np
from av.container import InputContainer
from av.video.frame import PictureType

from vlaforget_ros.errors import ErrorCode, UnlearningError

TOLERANCE_S = 1e-3
"""How far a frame of the video may be from the time that the rows give."""

# H.264 and not LeRobot's AV1: everything reads it, and its encoder is quick and silent. A key frame at every second
# picture, as LeRobot writes: training reads single frames at random.
_ENCODER = "libx264"
_OPTIONS = {"g": "2", "crf": "18", "preset": "fast", "tune": "zerolatency"}


class BrokenVideo(ValueError):
    """A video file cannot be opened; other files may be fine."""


def frames_at(path: Path, times_s: Sequence[float]) -> Iterator[tuple[int, np.ndarray]]:
    """The pictures of some moments, decoded one after the other.

    A picture that the decoder calls damaged, or that rests on a damaged one, is left out.

    Args:
        path: mp4 file.
        times_s: strictly increasing [s].

    Yields:
        position in ``times_s``, and (H, W, 3) uint8 RGB.

    Raises:
        BrokenVideo: the file is missing, cut before its index, or no video.
    """
    wanted = np.asarray(times_s, dtype=np.float64)
    if not len(wanted):
        return
    try:
        container = av.open(str(path))
    except (OSError, av.error.FFmpegError) as error:
        raise BrokenVideo(f"{path.name}: {error}") from error
    with container:
        if not container.streams.video:
            raise BrokenVideo(f"{path.name}: no video in it")
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        tick_s = float(stream.time_base or 0)
        if tick_s <= 0:
            raise BrokenVideo(f"{path.name}: video without a clock")
        start = max(0, int((wanted[0] - TOLERANCE_S) / tick_s))
        for frame in _decoded(container, stream, start):
            seconds = float(frame.pts or 0) * tick_s
            nearest = int(np.argmin(np.abs(wanted - seconds)))
            if abs(wanted[nearest] - seconds) <= TOLERANCE_S:
                yield nearest, frame.to_ndarray(format="rgb24")
            if seconds >= wanted[-1] - TOLERANCE_S:
                return


def _decoded(container: InputContainer, stream: av.VideoStream, start: int) -> Iterator[av.VideoFrame]:
    """Whole frames from the key frame at or before a moment, in ticks of the stream, on."""
    whole = True
    try:
        container.seek(start, stream=stream)
        for packet in container.demux(stream):
            try:
                frames = packet.decode()
            except av.error.FFmpegError:
                # What follows is predicted from what was lost, up to the next key frame.
                whole = False
                continue
            for frame in frames:
                whole = (whole or frame.key_frame) and not frame.is_corrupt
                if whole and frame.pts is not None:
                    yield frame
    except (OSError, av.error.FFmpegError):
        return


class VideoWriter:
    """One mp4 file (H.264) that grows frame by frame at a fixed rate; every picture loses a little.

    Args:
        path: file to make; its folder is made as well.
        fps: frames a second.
        size: height and width [px], both even: colour is stored for two by two pixels.

    Raises:
        UnlearningError: 300 for an odd size.
    """

    def __init__(self, path: Path, fps: int, size: tuple[int, int]) -> None:
        height, width = size
        if height % 2 or width % 2:
            raise UnlearningError(
                ErrorCode.UNLEARNING_BAD_REQUEST,
                "pictures of this size cannot become a video",
                value=f"{height}x{width}",
                limit="even height and width",
                remedy="store images instead of video, which loses nothing either",
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        # The index in front: what is left of a cut file can then be read.
        self._container = av.open(str(path), "w", options={"movflags": "faststart"})
        stream = self._container.add_stream(_ENCODER, rate=fps, options=_OPTIONS)
        if not isinstance(stream, av.VideoStream):
            raise BrokenVideo(f"{_ENCODER} is no encoder of video")
        self._stream, self._tick = stream, Fraction(1, fps)
        self._stream.width, self._stream.height, self._stream.pix_fmt = width, height, "yuv420p"
        self._stream.thread_count = 2
        self._closed = False
        self.frames = 0
        self.bytes = 0

    def add(self, images: np.ndarray) -> None:
        """Append (T, H, W, 3) uint8 RGB; the first of them becomes a key frame."""
        for number, image in enumerate(images):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            frame.pts = self.frames
            frame.time_base = self._tick
            if number == 0:
                frame.pict_type = PictureType.I
            self._mux(frame)
            self.frames += 1

    def close(self) -> None:
        """Finish the file; a second call does nothing."""
        if not self._closed:
            self._closed = True
            self._mux(None)
            self._container.close()

    def _mux(self, frame: av.VideoFrame | None) -> None:
        for packet in self._stream.encode(frame):
            self.bytes += packet.size
            self._container.mux(packet)

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def describe(path: Path) -> dict[str, object]:
    """What LeRobot notes of a video in ``info.json``."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        return {
            "video.height": stream.height,
            "video.width": stream.width,
            "video.codec": stream.codec_context.codec.canonical_name,
            "video.pix_fmt": stream.codec_context.pix_fmt,
            "video.is_depth_map": False,
            "video.fps": int(stream.base_rate or 0),
            "video.channels": 3,
            "has_audio": False,
        }
