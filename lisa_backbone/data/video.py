"""Writing small clips and reading them back, by PyAV."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

__all__ = ['decode_planes', 'encode_clip']

# One thread each, and no macroblock tree in x264, so that the same frames give the same bytes.
_CODECS = {
    '.mp4': ('libx264', {'crf': '16', 'preset': 'veryfast', 'threads': '1', 'x264-params': 'mbtree=0'}),
    # Every frame is a key frame: what a predicted frame keeps of earlier ones would tell of the motion. The quality is
    # constant, so the size of a frame depends on that frame alone.
    '.webm': (
        'libvpx-vp9',
        {'crf': '20', 'b': '0', 'g': '1', 'lag-in-frames': '0', 'deadline': 'realtime', 'cpu-used': '8',
         'threads': '1'},
    ),
}  # fmt: skip


def encode_clip(path: str | Path, frames: Iterable[np.ndarray], rate: int) -> None:
    """Write a clip: H.264 in .mp4, predicted from frame to frame, or VP9 in .webm, key frames alone.

    Args:
        path: Where to; its suffix decides the format.
        frames: RGB frames, uint8 (H, W, 3) of even height and width.
        rate: Frames a second.
    """
    import av

    codec, options = _CODECS[Path(path).suffix]
    with av.open(str(path), 'w', container_options={'fflags': '+bitexact'}) as container:
        stream = None
        for image in frames:
            if stream is None:
                stream = container.add_stream(codec, rate=rate, options=options)
                stream.height, stream.width = image.shape[:2]
                stream.pix_fmt = 'yuv420p'
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, 'rgb24')))
        container.mux(stream.encode())


def decode_planes(path: str | Path) -> np.ndarray:
    """The frames of a clip as they are coded, before any conversion to RGB: the same with every decoder.

    Args:
        path: A clip in YUV 4:2:0.

    Returns:
        uint8 array (T, 3 H / 2, W): the planes Y, U and V of each frame, one below the other.
    """
    import av

    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format='yuv420p') for frame in container.decode(video=0)])
