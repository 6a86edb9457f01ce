"""Checks of a video set: its list, and the files that the list names."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from ..errors import UserError
from .checks_common import Findings, remedy, spread
from .video_files import inspect_video

__all__ = ['VideoReport', 'check_video_data']


@dataclass(frozen=True)
class VideoReport:
    """What a video set holds.

    Attributes:
        ann_file: Its list.
        videos: Videos in the list, all of them present.
        decoded: Videos that were decoded: whole by ``decode='all'``, else at their start and their end.
        notes: Sentences on what is odd and yet trains.
    """

    ann_file: Path
    videos: int
    decoded: int
    notes: tuple[str, ...] = ()


def check_video_data(
    ann_file: str | Path,
    folder: str | Path,
    *,
    delimiter: str = ' ',
    multi_class: bool = False,
    need_labels: bool = True,
    classes: int | None = None,
    span: int = 1,
    reads_header: bool = False,
    decode: str = 'sample',
) -> VideoReport:
    """Check a set in the layout of mmaction2's ``VideoDataset``.

    Args:
        ann_file: The list: a line for each video, its path and its label.
        folder: The folder that the paths are relative to.
        delimiter: What stands between path and label.
        multi_class: Whether a line may have several labels.
        need_labels: Whether every line must have a label; False for videos to be predicted alone.
        classes: Number of classes of the model; without it, the range of labels is not looked at.
        span: Frames from the first to the last that the config samples; a shorter video is noted.
        reads_header: Whether the config takes the number of frames from the header, which WebM and Matroska leave out.
        decode: Which videos to decode: ``'sample'`` (512, at their start and their end), ``'all'`` (every frame) or
            ``'none'``.

    Returns:
        What the set holds.

    Raises:
        UserError: On the first problem, with the number of the others.
    """
    ann_file, folder = Path(ann_file), Path(folder)
    root = ann_file.parent
    findings = Findings(lambda mend: remedy(root, mend))
    if not ann_file.is_file():
        raise UserError(f'there is no list of videos {ann_file}; {remedy(root, "write it or correct ann_file")}')
    if not folder.is_dir():
        raise UserError(f'there is no video folder {folder}; {remedy(root, "put it there or correct data_prefix")}')
    names = _read_list(findings, ann_file, delimiter, multi_class, need_labels, classes)
    present = _check_presence(findings, ann_file, folder, names)
    if reads_header:
        _check_header(findings, present)
    chosen = spread(present, decode)
    _check_files(findings, chosen, span, whole=decode == 'all')
    return VideoReport(ann_file, len(present), len(chosen), findings.close())


def _read_list(
    findings: Findings, ann_file: Path, delimiter: str, multi_class: bool, need_labels: bool, classes: int | None
) -> list[str]:
    """The paths in the list."""
    try:
        lines = ann_file.read_text(encoding='utf-8').splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f'cannot read the list of videos {ann_file} ({error}); write it again') from error
    if not any(line.strip() for line in lines):
        raise UserError(f'the list of videos {ann_file} is empty; {remedy(ann_file.parent, "write it again")}')
    names = []
    for number, line in enumerate(lines, 1):
        where = f'line {number} of {ann_file}'
        name, *labels = line.strip().split(delimiter)
        if not name:
            findings.problem('blank', f'{where} is empty', 'take it out')
            continue
        if not labels and need_labels:
            other = "; it is separated by ';', so set dataset.delimiter=';'" if ';' in name else ''
            findings.problem(
                'no label', f'{where} has no label: {line.strip()!r}{other}', f"write it as 'path{delimiter}label'"
            )
        elif len(labels) > 1 and not multi_class:
            findings.problem(
                'fields',
                f'{where} has {len(labels) + 1} fields separated by {delimiter!r}: {line.strip()!r}',
                "have a path and a label, without blanks in the path or with another delimiter (dataset.delimiter=';')",
            )
            continue
        _check_labels(findings, where, labels, classes)
        names.append(name)
    return names


def _check_labels(findings: Findings, where: str, labels: list[str], classes: int | None) -> None:
    for label in labels:
        try:
            number = int(label)
        except ValueError:
            findings.problem(
                'label', f'{where} has the label {label!r}, which is no whole number', 'number the classes'
            )
            continue
        if number < 0 or (classes is not None and number >= classes):
            limit = f'and the model has {classes} classes, 0 to {classes - 1}' if classes is not None else 'below 0'
            findings.problem(
                'range', f'{where} has the label {number}, {limit}', "correct it, or num_classes of the model's head"
            )


def _check_presence(findings: Findings, ann_file: Path, folder: Path, names: list[str]) -> list[Path]:
    """The files that are there; each folder is listed once."""
    listed: dict[str, set[str]] = {}
    present, absent = [], []
    for name in names:
        path = os.path.join(folder, name)
        place, file = os.path.split(path)
        if place not in listed:
            listed[place] = set(os.listdir(place)) if os.path.isdir(place) else set()
        (present if file in listed[place] else absent).append(Path(path))
    if absent:
        findings.problem(
            'missing',
            f'{ann_file} names {absent[0]}, which is not there ({len(absent)} of {len(names)} videos are missing)',
            'put the videos there, correct data_prefix, or write the list again with tools/prepare_data.py',
        )
    return present


def _check_header(findings: Findings, paths: list[Path]) -> None:
    silent = next((path for path in paths if path.suffix.lower() in ('.webm', '.mkv')), None)
    if silent:
        findings.problem(
            'header',
            f'{silent} states no number of frames, so that PyAVInit lets the first frame alone be sampled',
            'take OpenVideo in place of PyAVInit and FetchFrames in place of PyAVDecode in the pipeline',
        )


def _check_files(findings: Findings, paths: list[Path], span: int, whole: bool) -> None:
    from tqdm import tqdm

    check = 'full' if whole else 'decode'
    with ThreadPoolExecutor(8) as pool:
        verdicts = pool.map(lambda path: inspect_video(path, check), paths)
        results = tqdm(verdicts, 'decoding', len(paths), unit='video', disable=not whole)
        for path, (fault, frames) in zip(paths, results, strict=True):
            if fault:
                mend = f'fetch it again, or write the list without it with tools/prepare_data.py SET --check {check}'
                findings.problem('video', f'the video {path} {fault}', mend)
            elif frames < span:
                findings.note(
                    'short',
                    f'the video {path} has {frames} frames and a clip spans {span}, so that frames of it are repeated',
                )
