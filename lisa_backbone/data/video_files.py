"""Finding broken videos, by PyAV."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

__all__ = ['CACHE', 'error_words', 'inspect_video']

CACHE = 'video_checks.jsonl'  # what was found out about the videos, in the root of a set
_WHOLE = 0.95  # a file that holds this share of what its header states counts as whole
_SLACK = 0.2  # seconds: the last frame's duration may not be stated
_NOTHING = 'has no frame that can be decoded'


def inspect_video(path: str | Path, check: str = 'decode') -> tuple[str, int]:
    """Say what is wrong with a video file, and how many frames it holds.

    Args:
        path: The file.
        check: ``'headers'`` reads the file to its end without decoding; ``'decode'`` also decodes the first frame, and
            from the last key frame to the end; ``'full'`` decodes every frame.

    Returns:
        The fault in words without the file, empty if there is none, and the number of frames (0 if there is a fault).
    """
    import av

    try:
        if not os.path.getsize(path):
            return 'is empty', 0
        with av.open(str(path)) as container:
            if not container.streams.video:
                return 'holds no video', 0
            return _inspect_stream(container, container.streams.video[0], check)
    except FileNotFoundError:
        return 'is not there', 0
    except (av.error.FFmpegError, OSError, ValueError) as error:
        return f'cannot be read ({error_words(error)})', 0


def error_words(error: Exception) -> str:
    """What went wrong, without the number and the file that PyAV adds."""
    return getattr(error, 'strerror', None) or str(error)


def _inspect_stream(container: Any, stream: Any, check: str) -> tuple[str, int]:
    import av

    count, last_key, end = 0, None, 0.0
    decoded, broken = 0, 0
    for packet in container.demux(stream):
        if check == 'full':
            try:
                decoded += len(packet.decode())
            except av.error.FFmpegError:
                broken += 1
        if not packet.size:
            continue
        count += 1
        if packet.pts is not None:
            last_key = packet.pts if packet.is_keyframe or last_key is None else last_key
            end = max(end, float((packet.pts + (packet.duration or 0)) * packet.time_base))
    if not count:
        return 'holds no frame', 0
    if count < _WHOLE * stream.frames:
        return f'is truncated ({count} of {stream.frames} frames)', 0
    length = (container.duration or 0) / 1e6
    if not stream.frames and end + _SLACK < _WHOLE * length:  # WebM states no number of frames
        return f'is truncated ({end:.1f} of {length:.1f} s)', 0
    if check == 'full' and (broken or not decoded):
        return f'has {broken} of {count} frames that cannot be decoded' if decoded else _NOTHING, 0
    if check == 'decode':
        container.seek(0)
        if next(container.decode(stream), None) is None:
            return _NOTHING, 0
        if last_key is not None:
            container.seek(last_key, stream=stream)
        if not sum(1 for _ in container.decode(stream)):
            return 'cannot be decoded at its end', 0
    return '', count
