"""Reading videos by PyAV, as transforms that fit between mmaction2's own.

mmaction2's ``PyAVInit`` takes the number of frames from the header, and a WebM file states none
(https://github.com/PyAV-Org/PyAV/issues/1131): every sampler is then told of a video of 0 frames and asks for the first
one alone, or for frames before it, without a word. Its ``PyAVDecode`` converts every frame up to the last one that is
asked for to RGB and keeps them all. Both fail on a broken file without naming it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from mmengine.registry import TRANSFORMS

from ..errors import UserError
from .video_files import error_words

__all__ = ['FetchFrames', 'OpenVideo', 'count_frames']


def count_frames(container: Any) -> int:
    """Frames of the first video stream of an open PyAV container: as stated, else counted without decoding.

    Args:
        container: The container; after a count it is back at its start.

    Returns:
        The number of frames.
    """
    stream = container.streams.video[0]
    if stream.frames > 0:
        return stream.frames
    count = sum(packet.size > 0 for packet in container.demux(stream))
    container.seek(0)
    return count


@TRANSFORMS.register_module()
class OpenVideo:
    """Open ``filename`` by PyAV; gives ``video_reader``, ``total_frames`` and ``avg_fps``.

    Raises:
        UserError: The file is missing, cannot be read, or holds no frame.
    """

    def __call__(self, results: dict) -> dict:
        """Open the video of one sample.

        Args:
            results: The sample so far.

        Returns:
            The sample with the container added.
        """
        import av

        path = results['filename']
        try:
            container = av.open(str(path))
            results['total_frames'] = count_frames(container)
        except FileNotFoundError as error:
            raise UserError(f'there is no video {path}; put it there or take its line out of the list') from error
        except (av.error.FFmpegError, IndexError) as error:
            raise UserError(f'the video {path} cannot be read ({error_words(error)}); fetch it again') from error
        if not results['total_frames']:
            raise UserError(f'the video {path} holds no frame; fetch it again or take its line out of the list')
        container.streams.video[
            0
        ].thread_type = 'NONE'  # loaders have a worker for each core; threads wait on each other
        results['video_reader'] = container
        results['avg_fps'] = float(container.streams.video[0].average_rate or 0)
        return results

    def __repr__(self) -> str:
        return 'OpenVideo()'


@TRANSFORMS.register_module()
class FetchFrames:
    """Decode the frames that ``frame_inds`` asks for; gives ``imgs``, ``original_shape`` and ``img_shape``.

    Decoding goes from the start to the last frame that is asked for, so that each is the exact one; those in between
    are not converted to RGB. A number beyond the last frame that can be decoded counts on from the first, as in
    mmaction2.

    Raises:
        UserError: No frame can be decoded.
    """

    def __call__(self, results: dict) -> dict:
        """Decode the frames of one sample.

        Args:
            results: The sample, opened and sampled.

        Returns:
            The sample with its frames, uint8 RGB arrays (H, W, 3).
        """
        import av

        container, path = results.pop('video_reader'), results['filename']
        results['video_reader'] = None
        results['frame_inds'] = np.squeeze(results['frame_inds']).reshape(-1)
        wanted = {int(index) for index in results['frame_inds']}
        try:
            frames, count = self._decode(container, wanted)
            if not count:
                raise UserError(f'no frame of the video {path} can be decoded; fetch it again')
            late = {index % count for index in wanted - frames.keys()} - frames.keys()
            if late:  # the header promised more frames than there are
                container.seek(0)
                frames.update(self._decode(container, late)[0])
        except av.error.FFmpegError as error:
            raise UserError(f'the video {path} cannot be decoded ({error_words(error)}); fetch it again') from error
        finally:
            container.close()
        results['imgs'] = [
            frames[index] if index in frames else frames[index % count] for index in map(int, results['frame_inds'])
        ]
        results['original_shape'] = results['img_shape'] = results['imgs'][0].shape[:2]
        return results

    @staticmethod
    def _decode(container: Any, wanted: set[int]) -> tuple[dict[int, np.ndarray], int]:
        """The wanted frames by number, and how many were decoded on the way."""
        frames: dict[int, np.ndarray] = {}
        count = 0
        last = max(wanted)
        for number, frame in enumerate(container.decode(video=0)):
            if number in wanted:
                frames[number] = frame.to_ndarray(format='rgb24')
            count = number + 1
            if number >= last:
                break
        return frames, count

    def __repr__(self) -> str:
        return 'FetchFrames()'
