"""Reading videos by PyAV, as transforms that fit between mmaction2's own.

mmaction2's ``PyAVInit`` takes the number of frames from the header, and a WebM file states none
(https://github.com/PyAV-Org/PyAV/issues/1131): every sampler is then told of a video of 0 frames and asks for the first
one alone, or for frames before it, without a word. Its ``PyAVDecode`` converts every frame up to the last one that is
asked for to RGB and keeps them all. Both fail on a broken file without naming it.
"""

from __future__ import annotations

import warnings
from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence
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

    Args:
        keep: MiB of decoded videos that each process keeps in memory, for sets so small that decoding them again in
            every epoch takes longer than a step on them. Such a video is decoded whole at first, and ``video_reader``
            are its frames from then on. One that is damaged is not kept, nor any once the room is taken.

    Raises:
        UserError: The file is missing, cannot be read, or holds no frame.
    """

    def __init__(self, keep: float = 0) -> None:
        self.keep = keep
        self._room = keep * 2**20
        self._kept: dict[str, tuple[np.ndarray, float]] = {}

    def __call__(self, results: dict) -> dict:
        """Open the video of one sample.

        Args:
            results: The sample so far.

        Returns:
            The sample with the container, or the frames that are kept, uint8 RGB (T, H, W, 3), added.
        """
        path = results['filename']
        if path not in self._kept:
            self._open(results)
            if not self._room or not self._take(results):
                return results
        results['video_reader'], results['avg_fps'] = self._kept[path]
        results['total_frames'] = len(results['video_reader'])
        return results

    @staticmethod
    def _open(results: dict) -> None:
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

    def _take(self, results: dict) -> bool:
        """Decode an open video and keep it, if it is whole and there is room; else it is opened anew."""
        container, faults = results['video_reader'], []
        stream = container.streams.video[0]
        size = 3 * results['total_frames'] * stream.height * stream.width
        if size > self._room:
            return False
        with container:
            frames = FetchFrames.fetch(container, range(results['total_frames']), faults)
        if faults or len({frame.shape for frame in frames.values()}) != 1:
            self._open(results)
            return False
        kept = np.stack([frames[index] for index in range(results['total_frames'])])
        kept.flags.writeable = False  # a later transform must not change what comes again
        self._room = max(self._room - kept.nbytes, 0)
        self._kept[results['filename']] = (kept, results['avg_fps'])
        return True

    def __repr__(self) -> str:
        return f'OpenVideo(keep={self.keep})'


@TRANSFORMS.register_module()
class FetchFrames:
    """Decode the frames that ``frame_inds`` asks for; gives ``imgs``, ``original_shape`` and ``img_shape``.

    Decoding goes from the start to the last frame that is asked for, so that each is the exact one; those in between
    are not converted to RGB. In place of a frame that cannot be decoded, or that the header promised and the file does
    not hold, stands the one before it, or the first where there is none before: frames stay in the order of time.
    What cannot be decoded is passed over with one warning that names the file, so that a few damaged videos among many
    thousand do not end a run; frames predicted from it are as the decoder makes them.

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
        video, path = results.pop('video_reader'), results['filename']
        results['video_reader'] = None
        results['frame_inds'] = np.squeeze(results['frame_inds']).reshape(-1)
        wanted = sorted({int(index) for index in results['frame_inds']})
        faults: list[str] = []
        if isinstance(video, np.ndarray):
            frames = {index: video[min(max(index, 0), len(video) - 1)] for index in wanted}
        else:
            with video:
                frames = self.fetch(video, wanted, faults)
        if not frames:
            why = f' ({faults[0]})' if faults else ''
            mend = 'fetch it again or take its line out of the list'
            raise UserError(f'no frame of the video {path} can be decoded{why}; {mend}')
        if faults:
            warnings.warn(
                f'{len(faults)} frames of the video {path} cannot be decoded ({faults[0]}); those before them stand in '
                'their places',
                stacklevel=2,
            )
        results['imgs'] = [frames[index] for index in map(int, results['frame_inds'])]
        results['original_shape'] = results['img_shape'] = results['imgs'][0].shape[:2]
        return results

    @classmethod
    def fetch(cls, container: Any, numbers: Sequence[int], faults: list[str]) -> dict[int, np.ndarray]:
        """Decode frames of an open container from its start.

        Args:
            container: The container.
            numbers: Which frames, in order.
            faults: What is wrong with frames that cannot be decoded is added to it.

        Returns:
            The frames by number, or those that stand for them; none if no frame can be decoded.
        """
        from av.video.reformatter import VideoReformatter

        # One for all frames: each to_ndarray of its own sets up the conversion anew, longer than decoding a small one.
        converter = VideoReformatter()

        def picture(frame: Any) -> np.ndarray:
            return converter.reformat(frame, format='rgb24').to_ndarray()

        pictures: dict[int, np.ndarray] = {}
        wanted, before = list(numbers), None
        for number, frame in cls._decode(container, faults):
            while wanted and wanted[0] <= number:
                index = wanted.pop(0)
                shown = frame if before is None or index == number else before
                pictures[index] = picture(shown)
            before = frame
            if not wanted:
                break
        return {**pictures, **{index: picture(before) for index in wanted if before is not None}}

    @staticmethod
    def _decode(container: Any, faults: list[str]) -> Iterator[tuple[int, Any]]:
        """Frames with their numbers, in which those that cannot be decoded count; what is wrong with these is noted."""
        import av

        times: list[int] = []  # of the packets so far: once some are lost, a frame's number is its place among them
        count = 0
        packets = container.demux(video=0)
        while True:
            packet, frames = None, []
            try:
                packet = next(packets, None)
                if packet is None:
                    return
                if packet.pts is not None and not packet.is_discard:
                    insort(times, packet.pts)
                frames = packet.decode()
            except av.error.FFmpegError as error:
                faults.append(error_words(error))
                if packet is None:  # the file cannot be read on
                    return
            for frame in frames:
                placed = faults and frame.pts is not None
                yield max(count, bisect_left(times, frame.pts)) if placed else count, frame
                count += 1

    def __repr__(self) -> str:
        return 'FetchFrames()'
