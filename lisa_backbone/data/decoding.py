"""Speed, exactness and memory of video decoders on clips whose frames state their number.

The task is that of a training loader: open a file, and get the 8 or 16 frames that a sampler asks for as RGB arrays.
"""

from __future__ import annotations

import datetime
import importlib.util
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib import metadata
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..errors import UserError
from ..rows import append_rows, read_rows
from .video_files import inspect_video

__all__ = ['CLIPS', 'DECODERS', 'Row', 'frame_number', 'make_clips', 'measure', 'numbered_frame', 'table', 'write']

_BITS = 10
_BLOCK = 24  # pixels; wide enough to outlive the compression
FIELDS = (
    'clip',
    'sampling',
    'frames',
    'decoder',
    'version',
    'clips_per_cpu_second',
    'relative',
    'exact',
    'memory_mib',
    'date',
    'machine',
    'torch',
)


class _Clip(NamedTuple):
    """How a clip is encoded."""

    suffix: str
    codec: str
    options: dict[str, str]
    seconds: float
    rate: int
    size: tuple[int, int]


class _Decoder(NamedTuple):
    """A way to get frames.

    Attributes:
        package: The distribution that it comes with.
        module: What is imported.
        count: Number of frames of a file, as a loader learns it.
        fetch: The frames of given numbers, uint8 RGB.
    """

    package: str
    module: str
    count: Callable[[str], int]
    fetch: Callable[[str, list[int]], list[np.ndarray]]


class Row(NamedTuple):
    """One line of the results.

    Attributes:
        clip: Kind of clip.
        sampling: ``'dense'`` (every eighth frame, or fourth for 16, from a random start) or ``'uniform'``.
        frames: Frames asked for.
        decoder: Name of the decoder.
        clips_per_cpu_second: Median over the rounds, by the processor time of all threads: that is what a loader with a
            worker for each core pays, and other work on the machine disturbs it little.
        relative: Speed relative to PyAV: the median of the ratios within each round.
        exact: Share of the frames that are those asked for.
        memory_mib: What a fetch of 16 frames adds to the memory of a process at its peak.
    """

    clip: str
    sampling: str
    frames: int
    decoder: str
    clips_per_cpu_second: float
    relative: float
    exact: float
    memory_mib: float


CLIPS = {
    'Kinetics-like: H.264 340x256, 10 s at 30/s, key frame every 250': _Clip(
        '.mp4', 'libx264', {'g': '250', 'crf': '23', 'preset': 'medium'}, 10, 30, (340, 256)
    ),
    'SSv2-like: VP9 WebM 428x240, 4 s at 12/s': _Clip(
        '.webm', 'libvpx-vp9', {'crf': '32', 'b': '0', 'cpu-used': '8', 'deadline': 'realtime'}, 4, 12, (428, 240)
    ),
}


def _pyav_count(path: str) -> int:
    import av

    from .transforms import count_frames

    with av.open(path) as container:
        return count_frames(container)


def _pyav(path: str, indices: list[int]) -> list[np.ndarray]:
    from .transforms import FetchFrames, OpenVideo

    sample = OpenVideo()({'filename': path})
    return FetchFrames()({**sample, 'frame_inds': np.array(indices)})['imgs']


def _pyav_all(path: str, indices: list[int]) -> list[np.ndarray]:
    """As mmaction2's PyAVDecode: every frame up to the last is converted and kept."""
    import av

    frames = []
    with av.open(path) as container:
        for frame in container.decode(video=0):
            frames.append(frame.to_rgb().to_ndarray())
            if len(frames) > max(indices) + 1:
                break
    return [frames[index] for index in indices]


def _decord_count(path: str) -> int:
    import decord

    return len(decord.VideoReader(path, num_threads=1))


def _decord(path: str, indices: list[int]) -> list[np.ndarray]:
    import decord

    return list(decord.VideoReader(path, num_threads=1).get_batch(indices).asnumpy())


def _torchcodec_count(path: str) -> int:
    from torchcodec.decoders import VideoDecoder

    return VideoDecoder(path, num_ffmpeg_threads=1).metadata.num_frames


def _torchcodec(path: str, indices: list[int]) -> list[np.ndarray]:
    from torchcodec.decoders import VideoDecoder

    decoder = VideoDecoder(path, dimension_order='NHWC', num_ffmpeg_threads=1, seek_mode='exact')
    return list(decoder.get_frames_at(indices).data.numpy())


def _opencv_count(path: str) -> int:
    import cv2

    return int(cv2.VideoCapture(path).get(cv2.CAP_PROP_FRAME_COUNT))


def _opencv(path: str, indices: list[int]) -> list[np.ndarray]:
    """Forward through the file, since seeking by number is not exact in OpenCV."""
    import cv2

    capture = cv2.VideoCapture(path, cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
    wanted, found = set(indices), {}
    for number in range(max(indices) + 1):
        if not capture.grab():
            break
        if number in wanted:
            found[number] = cv2.cvtColor(capture.retrieve()[1], cv2.COLOR_BGR2RGB)
    capture.release()
    return [found[index] for index in indices]


DECODERS = {
    'PyAV (OpenVideo, FetchFrames)': _Decoder('av', 'av', _pyav_count, _pyav),
    'PyAV as in mmaction2': _Decoder('av', 'av', _pyav_count, _pyav_all),
    'decord': _Decoder('decord', 'decord', _decord_count, _decord),
    'torchcodec': _Decoder('torchcodec', 'torchcodec.decoders', _torchcodec_count, _torchcodec),
    'OpenCV': _Decoder('opencv-python-headless', 'cv2', _opencv_count, _opencv),
}
_REFERENCE = 'PyAV (OpenVideo, FetchFrames)'


def numbered_frame(number: int, size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """A textured frame that states its number.

    Args:
        number: The number, below 1024.
        size: Width and height, at least 240 x 48 pixels.
        rng: Source of the texture.

    Returns:
        uint8 RGB array (H, W, 3): ten blocks along the top, black or white by the bits of the number.
    """
    import cv2

    width, height = size
    coarse = rng.integers(60, 196, (height // 16, width // 16, 3), dtype=np.uint8)
    image = cv2.resize(coarse, size, interpolation=cv2.INTER_CUBIC)
    for bit in range(_BITS):
        image[:_BLOCK, bit * _BLOCK : (bit + 1) * _BLOCK] = 255 * (number >> bit & 1)
    return image


def frame_number(image: np.ndarray) -> int:
    """The number that a frame of :func:`numbered_frame` states."""
    inner = slice(_BLOCK // 4, -_BLOCK // 4)
    blocks = [image[:_BLOCK, bit * _BLOCK : (bit + 1) * _BLOCK][inner, inner] for bit in range(_BITS)]
    return sum(int(block.mean() > 127) << bit for bit, block in enumerate(blocks))


def make_clips(folder: Path, count: int, seed: int = 0) -> dict[str, list[Path]]:
    """Make the clips that are missing or broken.

    Args:
        folder: Where to.
        count: Clips of each kind.
        seed: Seed of their texture.

    Returns:
        Kind of clip to files.
    """
    import av
    from tqdm import tqdm

    folder.mkdir(parents=True, exist_ok=True)
    made: dict[str, list[Path]] = {}
    for kind, clip in CLIPS.items():
        made[kind] = [folder / f'{clip.codec}_{number}{clip.suffix}' for number in range(count)]
        for number, path in enumerate(tqdm(made[kind], f'encoding {clip.codec}', unit='clip')):
            if not inspect_video(path)[0]:
                continue
            rng = np.random.default_rng([seed, number])
            ground = numbered_frame(0, clip.size, rng)
            draft = path.with_name(f'draft_{path.name}')
            with av.open(str(draft), 'w') as container:
                stream = container.add_stream(clip.codec, rate=clip.rate, options=clip.options)
                stream.width, stream.height = clip.size
                stream.pix_fmt = 'yuv420p'
                for index in range(int(clip.seconds * clip.rate)):
                    frame = numbered_frame(index, clip.size, np.random.default_rng([seed, number]))
                    frame[_BLOCK:] = np.roll(ground[_BLOCK:], 2 * index, axis=1)  # motion
                    container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, 'rgb24')))
                container.mux(stream.encode())
            os.replace(draft, path)
    return made


def _samplings(total: int, rng: np.random.Generator) -> Iterator[tuple[str, int, list[int]]]:
    """Name, number of frames, and frame numbers, by the rules of mmaction2's SampleFrames and UniformSample."""
    for frames, interval in ((8, 8), (16, 4)):
        start = int(rng.integers(max(total - frames * interval, 0) + 1))
        yield 'dense', frames, [(start + interval * i) % total for i in range(frames)]
        edges = np.round((total - 1) / frames * np.arange(frames + 1)).astype(int)
        yield 'uniform', frames, [int(rng.integers(a, b + 1)) for a, b in pairwise(edges)]


def measure(folder: Path, count: int = 8, rounds: int = 3, show: bool = True) -> tuple[list[Row], dict[str, str]]:
    """Measure every decoder that can be imported, in turns on the same clips.

    Args:
        folder: Where the clips are, or are made.
        count: Clips of each kind.
        rounds: How often each clip is read by each decoder.
        show: Whether to show progress.

    Returns:
        The results, and for the decoders that were passed over, why.

    Raises:
        UserError: PyAV, which makes the clips, is not installed.
    """
    from tqdm import tqdm

    absent = {name: reason for name, decoder in DECODERS.items() if (reason := _why_absent(decoder.module))}
    if _REFERENCE in absent:
        raise UserError('PyAV is not installed; install it with `pip install av`')
    names = [name for name in DECODERS if name not in absent]
    clips = make_clips(folder, count)
    rows = []
    for kind, paths in clips.items():
        seconds: dict[tuple, dict[str, list[float]]] = {}
        right: dict[tuple, dict[str, list[bool]]] = {}
        rng = np.random.default_rng(0)
        for turn in tqdm(range(rounds), kind.split(':')[0], disable=not show):
            spent: dict[tuple, dict[str, float]] = {}
            for path in paths:
                total = DECODERS[_REFERENCE].count(str(path))
                for sampling, frames, indices in _samplings(total, rng):
                    case = (sampling, frames)
                    for name in names[turn % len(names) :] + names[: turn % len(names)]:
                        start = time.process_time()
                        images = DECODERS[name].fetch(str(path), indices)
                        elapsed = time.process_time() - start
                        ran = spent.setdefault(case, {})
                        ran[name] = ran.get(name, 0) + elapsed
                        numbers = [frame_number(image) for image in images]
                        right.setdefault(case, {}).setdefault(name, []).extend(
                            a == b for a, b in zip(numbers, indices, strict=True)
                        )
            for case, ran in spent.items():
                for name in names:
                    seconds.setdefault(case, {}).setdefault(name, []).append(ran[name])
        memory = {name: _memory(name, paths[0]) for name in names}
        for case, ran in seconds.items():
            for name in names:
                ratios = [a / b for a, b in zip(ran[_REFERENCE], ran[name], strict=True)]
                speed = len(paths) / statistics.median(ran[name])
                exact = statistics.mean(right[case][name])
                rows.append(Row(kind, *case, name, speed, statistics.median(ratios), exact, memory[name]))
    return rows, absent


def _why_absent(module: str) -> str:
    if importlib.util.find_spec(module.partition('.')[0]) is None:
        return 'not installed'
    try:
        importlib.import_module(module)
    except (ImportError, OSError, RuntimeError) as error:
        return str(error).strip().splitlines()[0]
    return ''


def _memory(name: str, path: Path) -> float:
    """MiB that fetching 16 frames over the whole clip adds to a process at its peak; Linux alone tells."""
    lines = (
        'import pathlib, re',
        'from lisa_backbone.data.decoding import DECODERS',
        "read = lambda key: int(re.search(key + r':\\s+(\\d+)', pathlib.Path('/proc/self/status').read_text())[1])",
        f'decoder, path = DECODERS[{name!r}], {str(path)!r}',
        'total = decoder.count(path)',
        "pathlib.Path('/proc/self/clear_refs').write_text('5')  # the peak starts anew",
        "before = read('VmRSS')",
        'images = decoder.fetch(path, [i * (total - 1) // 15 for i in range(16)])',
        "print((read('VmHWM') - before) / 1024)",
    )
    done = subprocess.run([sys.executable, '-c', '\n'.join(lines)], capture_output=True, text=True)
    return float(done.stdout) if done.returncode == 0 else float('nan')


def write(rows: list[Row], path: Path) -> None:
    """Write results as CSV, with versions, machine and date in every line.

    Args:
        rows: The results.
        path: The file.
    """
    import torch

    machine = f'{os.cpu_count()}-core {platform.machine()} machine'
    found = []
    for row in rows:
        values = {
            **row._asdict(),
            'clips_per_cpu_second': f'{row.clips_per_cpu_second:.2f}',
            'relative': f'{row.relative:.3f}',
            'exact': f'{row.exact:.4f}',
            'memory_mib': f'{row.memory_mib:.0f}',
            'version': _version(DECODERS[row.decoder].package),
            'date': datetime.date.today().isoformat(),
            'machine': machine,
            'torch': torch.__version__,
        }
        found.append({name: values[name] for name in FIELDS})
    append_rows(path, found, replaced=read_rows(path, FIELDS))


def _version(package: str) -> str:
    if package.startswith('opencv'):  # which comes as any of four distributions
        import cv2

        return cv2.__version__
    return metadata.version(package)


def table(rows: list[Row]) -> str:
    """The results as a Markdown table.

    Args:
        rows: The results.

    Returns:
        Markdown: speeds relative to PyAV for each sampling, the worst share of exact frames, and memory.
    """
    lines = []
    for kind in dict.fromkeys(row.clip for row in rows):
        mine = [row for row in rows if row.clip == kind]
        cases = list(dict.fromkeys((row.sampling, row.frames) for row in mine))
        lines += ['', kind, '']
        lines.append('| decoder | ' + ' | '.join(f'{s} {n}' for s, n in cases) + ' | exact frames | memory |')
        lines.append('|---|' + '---:|' * (len(cases) + 2))
        for name in dict.fromkeys(row.decoder for row in mine):
            of = {(row.sampling, row.frames): row for row in mine if row.decoder == name}
            speeds = ' | '.join(f'{of[case].relative:.2f}' for case in cases)
            exact = min(row.exact for row in of.values())
            lines.append(f'| {name} | {speeds} | {exact:.1%} | {next(iter(of.values())).memory_mib:.0f} MiB |')
    return '\n'.join(lines).strip()
