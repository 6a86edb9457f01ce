"""Lists for mmaction2 from the official annotations of Kinetics-400 and Something-Something V2, and what is missing.

Nothing is downloaded. Videos that are missing or broken, of which Kinetics always has some, are left out of the lists
and named in lists of their own. What was found out about each file is kept beside the data, so that a run that is
stopped, or comes again, looks only at what is new.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..paths import replacing
from .video_files import CACHE, inspect_video

__all__ = ['CHECKS', 'VideoSplit', 'prepare_kinetics', 'prepare_ssv2']

CHECKS = ('none', 'headers', 'decode', 'full')  # each finds what the one before finds, and more
VIDEO_SUFFIXES = ('.mp4', '.mkv', '.webm', '.avi')
_WORKERS = 8
_SPLITS = ('train', 'val')

_KINETICS_NAMES = {'train': ('train',), 'val': ('validate', 'val', 'validation')}
_KINETICS_FOLDERS = {
    'train': ('videos_train', 'train', 'videos/train'),
    'val': ('videos_val', 'val', 'videos/val', 'validate'),
}
# Rows of the first release of the CSV files, as the official crawler has them (Crawler/Kinetics/data of
# github.com/activitynet/ActivityNet at 199c935); issue 38 there counts their lines, one more each for the header.
_KINETICS_CLASSES, _KINETICS_OFFICIAL = 400, {'train': 246534, 'val': 19906}
_KINETICS_COPY = {'train': 240436, 'val': 19796}  # tools/data/kinetics/README.md of mmaction2
_KINETICS_SOURCE = (
    'the annotations and videos of Kinetics-400 are reached from https://github.com/cvdfoundation/kinetics-dataset'
)
_SSV2_NAMES = {'train': 'train', 'val': 'validation'}
_SSV2_FOLDERS = ('videos', '20bn-something-something-v2')
_SSV2_CLASSES, _SSV2_OFFICIAL = 174, {'train': 168913, 'val': 24777}
_SSV2_SOURCE = (
    'labels and videos of Something-Something V2 are given on request at '
    'https://developer.qualcomm.com/software/ai-datasets/something-something'
)


@dataclass(frozen=True)
class VideoSplit:
    """What became of one split.

    Attributes:
        name: ``'train'`` or ``'val'``.
        list_file: The list for mmaction2, absent if nothing is usable.
        folder: The folder that the paths in it are relative to.
        classes: Classes of the set.
        named: Videos that the official annotations name.
        usable: Videos in the list.
        missing: Videos that are not there.
        broken: Videos that cannot be used.
        notes: What else the user should know, one sentence each.
    """

    name: str
    list_file: Path
    folder: Path
    classes: int
    named: int
    usable: int
    missing: int
    broken: int
    notes: tuple[str, ...] = ()

    @property
    def faulty(self) -> bool:
        """Whether there are videos and none of them can be used; that some are broken is usual."""
        return bool(self.broken) and not self.usable

    def __str__(self) -> str:
        """One line."""
        line = f'{self.name}: {self.usable:,} of {self.named:,} videos of {self.classes} classes are usable'
        for count, word in ((self.missing, 'missing'), (self.broken, 'broken')):
            if count:
                line += f', {count:,} {word} (see {_named(self.list_file, word).name})'
        line += f'; {"wrote" if self.usable else "nothing to write to"} {self.list_file}'
        return '; '.join([line, *self.notes])


def prepare_kinetics(
    root: str | Path, *, check: str = 'decode', workers: int = _WORKERS, show: bool = True
) -> list[VideoSplit]:
    """Write the lists of Kinetics-400, or of a set in its layout, from its CSV files.

    The CSV files (``train.csv``, ``validate.csv`` or ``val.csv``, in ``annotations/`` or beside it) have the columns
    label, youtube_id, time_start and time_end. The videos are ``ID_000001_000011.mp4``, in ``videos_train/`` and
    ``videos_val/`` or ``train/`` and ``val/``, in a folder for each class or without. Labels number the sorted class
    names, as in mmaction2.

    Args:
        root: The root of the set.
        check: How to look at each video: ``'none'``, ``'headers'``, ``'decode'`` or ``'full'``, see
            :func:`lisa_backbone.data.video_files.inspect_video`.
        workers: Videos looked at at a time.
        show: Whether to show progress.

    Returns:
        One report for each split whose CSV file is there.

    Raises:
        UserError: There are no annotations or none can be read, no video is usable, or the root cannot be written.
    """
    root = _require_root(root, _KINETICS_SOURCE)
    tables = {}
    for split in _SPLITS:
        files = [f'{prefix}{name}.csv' for name in _KINETICS_NAMES[split] for prefix in ('', 'kinetics_', 'k400_')]
        if path := _find(root, files):
            tables[split] = _read_csv(path)
    if not tables:
        raise UserError(f'there is neither train.csv nor validate.csv in {root}/annotations; {_KINETICS_SOURCE}')
    names = {name for videos in tables.values() for name in videos.values()}
    labels = {name: i for i, name in enumerate(sorted(names))}
    reports = []
    for split, videos in tables.items():
        folder = _folder(root, _KINETICS_FOLDERS[split])
        wanted = {stem: labels[name] for stem, name in videos.items()}
        notes = _note_classes(len(labels), _KINETICS_CLASSES, f'put the whole CSV files into {root}/annotations')
        if len(labels) == _KINETICS_CLASSES:
            if len(wanted) != _KINETICS_OFFICIAL[split]:
                notes.append(f'the first release of the official CSV file names {_KINETICS_OFFICIAL[split]:,}')
            notes.append(f'the copy that mmaction2 trained on has {_KINETICS_COPY[split]:,}')
        if folder.name != f'videos_{split}':
            loaders = 'train_dataloader' if split == 'train' else 'val_dataloader and test_dataloader'
            prefix = folder.relative_to(root)
            notes.append(f'the videos are in {folder}: set dataset.data_prefix.video={prefix} of {loaders}')
        list_file = root / f'kinetics400_{split}_list_videos.txt'
        reports.append(_write(split, list_file, folder, len(labels), wanted, notes, check, workers, show))
    return _require_usable(reports, root, _KINETICS_SOURCE)


def prepare_ssv2(
    root: str | Path, *, check: str = 'decode', workers: int = _WORKERS, show: bool = True
) -> list[VideoSplit]:
    """Write the lists of Something-Something V2, or of a set in its layout, from its JSON files.

    The JSON files are ``something-something-v2-{labels,train,validation}.json``, or the same without the prefix, in
    ``annotations/``, ``labels/`` or beside the videos, which are ``videos/ID.webm``. The label of a video is the one
    that ``labels.json`` gives its template without the brackets.

    Args:
        root: The root of the set.
        check: As in :func:`prepare_kinetics`.
        workers: Videos looked at at a time.
        show: Whether to show progress.

    Returns:
        One report for each split whose JSON file is there.

    Raises:
        UserError: There are no annotations or none can be read, no video is usable, or the root cannot be written.
    """
    root = _require_root(root, _SSV2_SOURCE)
    files = {name: _find(root, [f'something-something-v2-{name}.json', f'{name}.json']) for name in _ssv2_parts()}
    if files['labels'] is None:
        raise UserError(f'there is no something-something-v2-labels.json in {root}/annotations; {_SSV2_SOURCE}')
    labels = _read_labels(files['labels'])
    folder = _folder(root, _SSV2_FOLDERS)
    reports = []
    for split, name in _SSV2_NAMES.items():
        path = files[name]
        if path is None:
            continue
        wanted = _read_ssv2(path, labels, files['labels'])
        notes = _note_classes(len(labels), _SSV2_CLASSES, f'put the official {files["labels"].name} there')
        if len(labels) == _SSV2_CLASSES and len(wanted) != _SSV2_OFFICIAL[split]:
            notes.append(f'the official {path.name} names {_SSV2_OFFICIAL[split]:,}')
        if folder.name != 'videos':
            notes.append(f'the videos are in {folder}: set dataset.data_prefix.video={folder.name} of the dataloaders')
        list_file = root / f'sthv2_{split}_list_videos.txt'
        reports.append(_write(split, list_file, folder, len(labels), wanted, notes, check, workers, show))
    if not reports:
        raise UserError(f'there is no something-something-v2-train.json in {root}/annotations; {_SSV2_SOURCE}')
    return _require_usable(reports, root, _SSV2_SOURCE)


# ---------------------------------------------------------------------------------------------------------------------
# annotations
# ---------------------------------------------------------------------------------------------------------------------
def _require_root(root: str | Path, source: str) -> Path:
    if not Path(root).is_dir():
        raise UserError(f'there is no folder {root}; name the root of the set with --root ({source})')
    return Path(root)


def _note_classes(classes: int, official: int, mend: str) -> list[str]:
    """What labels mean where they do not number the classes of the official set."""
    if classes == official:
        return []
    return [
        f'labels number these {classes} classes alone and are not those of the {official}: set '
        f'model.cls_head.num_classes={classes}, or {mend}'
    ]


def _find(root: Path, names: Iterable[str]) -> Path | None:
    places = (root / 'annotations', root / 'labels', root)
    return next((place / name for place in places for name in names if (place / name).is_file()), None)


def _folder(root: Path, names: Sequence[str]) -> Path:
    """The first folder that is there; the usual one if none is."""
    return next((root / name for name in names if (root / name).is_dir()), root / names[0])


def _read_csv(path: Path) -> dict[str, str]:
    """File name without suffix to class, in the order of the rows."""
    videos: dict[str, str] = {}
    try:
        with path.open(newline='', encoding='utf-8-sig') as file:
            for number, row in enumerate(csv.DictReader(file), 2):
                try:
                    start, end = (round(float(row[key])) for key in ('time_start', 'time_end'))
                    name, video = row['label'].strip().strip('"'), row['youtube_id'].strip()
                except (AttributeError, KeyError, OverflowError, TypeError, ValueError):  # cells that lack are None
                    raise UserError(
                        f'line {number} of {path} has not the columns label, youtube_id, time_start and time_end of '
                        'the official file; fetch it again'
                    ) from None
                if not (name and video):  # an empty class would move the numbers of all others
                    what = 'youtube_id' if name else 'label'
                    raise UserError(f'line {number} of {path} has an empty {what}; fetch it again or take the line out')
                _add(videos, f'{video}_{start:06d}_{end:06d}', name, f'line {number} of {path}')
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f'cannot read {path} ({error}); fetch it again') from error
    if not videos:
        raise UserError(f'{path} names no video; fetch it again')
    return videos


def _add(videos: dict[str, Any], stem: str, label: Any, where: str) -> None:
    """Note the label of a video; one that is named again with the same label counts once."""
    if videos.setdefault(stem, label) != label:
        raise UserError(
            f'{where} gives the video {stem} the label {label!r}, and it has {videos[stem]!r} before; take one out'
        )


def _ssv2_parts() -> tuple[str, ...]:
    return ('labels', *_SSV2_NAMES.values())


def _read_json(path: Path) -> list | dict:
    try:
        return json.loads(path.read_text(encoding='utf-8'))
    except (OSError, ValueError) as error:
        raise UserError(f'cannot read {path} ({error}); fetch it again') from error


def _read_labels(path: Path) -> dict[str, int]:
    content = _read_json(path)
    try:
        labels = {template: int(number) for template, number in content.items()}
    except (AttributeError, TypeError, ValueError):
        raise UserError(f'{path} does not map each template to a number; fetch it again') from None
    if sorted(labels.values()) != list(range(len(labels))) or not labels:
        raise UserError(f'{path} does not number its templates from 0 on without gaps; fetch it again')
    return labels


def _read_ssv2(path: Path, labels: dict[str, int], labels_file: Path) -> dict[str, int]:
    """File name without suffix to label, in the order of the entries."""
    entries = _read_json(path)
    templates: dict[str, str] = {}
    for number, entry in enumerate(entries if isinstance(entries, list) else [entries], 1):
        try:
            template = entry['template'].replace('[', '').replace(']', '')
            stem = '' if entry['id'] is None else str(entry['id']).strip()
        except (AttributeError, KeyError, TypeError):
            raise UserError(f"entry {number} of {path} has not both 'id' and 'template'; fetch it again") from None
        if not stem:
            raise UserError(f'entry {number} of {path} has an empty id; fetch it again or take the entry out')
        if template not in labels:
            raise UserError(f'the template {template!r} of video {stem} in {path} is not in {labels_file}; mend either')
        _add(templates, stem, template, f'entry {number} of {path}')
    if not templates:
        raise UserError(f'{path} names no video; fetch it again')
    return {stem: labels[template] for stem, template in templates.items()}


# ---------------------------------------------------------------------------------------------------------------------
# files
# ---------------------------------------------------------------------------------------------------------------------
def _index(folder: Path) -> dict[str, str]:
    """File name without suffix to path relative to the folder, for the videos in it and in the folders below.

    A link to nothing is no video.
    """
    found: dict[str, str] = {}
    for path, _, names in os.walk(folder, followlinks=True):
        for name in names:
            stem, suffix = os.path.splitext(name)
            if suffix.lower() in VIDEO_SUFFIXES and os.path.exists(os.path.join(path, name)):
                found[stem] = os.path.relpath(os.path.join(path, name), folder)
    return found


def _write(
    split: str,
    list_file: Path,
    folder: Path,
    classes: int,
    wanted: dict[str, int],
    notes: list[str],
    check: str,
    workers: int,
    show: bool,
) -> VideoSplit:
    """Look for the videos of a split and at them, and write its three lists."""
    index = _index(folder)
    present = [(index[stem], label) for stem, label in wanted.items() if stem in index]
    missing = [stem for stem in wanted if stem not in index]
    faults = _inspect_all(list_file.parent, folder, [path for path, _ in present], check, workers, show, split)
    usable = [(path, label) for path, label in present if not faults.get(path)]
    separator = ' '
    if any(' ' in path for path, _ in usable):
        separator = ';'
        notes = [
            *notes,
            "folders have blanks in their names, so the list separates with ';': rename them with underscores and run "
            "this again, or set dataset.delimiter=';' in the dataloaders",
        ]
    broken = [f'{path}\t{faults[path]}' for path, _ in present if faults.get(path)]
    with _writing(list_file.parent):
        if usable:  # else what is there stays: the disk of the videos may be away
            _write_lines(list_file, [f'{path}{separator}{label}' for path, label in usable])
        _write_lines(_named(list_file, 'missing'), missing)
        _write_lines(_named(list_file, 'broken'), broken)
    return VideoSplit(
        split, list_file, folder, classes, len(wanted), len(usable), len(missing), len(broken), tuple(notes)
    )


def _named(list_file: Path, word: str) -> Path:
    """Name of the list of missing or broken videos beside the list of usable ones."""
    return list_file.with_name(list_file.name.replace('_list_videos', f'_{word}_videos'))


def _write_lines(path: Path, lines: list[str]) -> None:
    """Write a file whole or not at all; without lines there is none."""
    if not lines:
        path.unlink(missing_ok=True)
        return
    with replacing(path) as draft:
        draft.write_text('\n'.join(lines) + '\n', encoding='utf-8')


@contextmanager
def _writing(root: Path) -> Iterator[None]:
    """Tell in a sentence that the root cannot be written."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f'the lists cannot be written to {root} ({error.strerror}: {error.filename2 or error.filename}); make room '
            'there, or a folder of your own with links to what is in it, and name that with --root'
        ) from error


def _inspect_all(
    root: Path, folder: Path, paths: list[str], check: str, workers: int, show: bool, split: str
) -> dict[str, str]:
    """Path to fault, empty where there is none; verdicts of earlier runs on files that are as they were are taken."""
    if check not in CHECKS:
        raise ValueError(f'check must be one of {CHECKS}, not {check!r}')
    if workers < 1:
        raise UserError(f'--workers {workers} look at no video; give 1 or more')
    if check == 'none':
        return {}
    from tqdm import tqdm

    known = _read_cache(root / CACHE, check)
    faults, new = {}, []
    for path in paths:
        key = _state(folder / path, root)
        if key in known:
            faults[path] = known[key]
        else:
            new.append((path, key))
    with (
        _writing(root),
        (root / CACHE).open('a', encoding='utf-8') as cache,
        ThreadPoolExecutor(workers) as pool,  # PyAV frees the GIL
    ):
        if cache.tell():
            cache.write('\n')  # a run that was killed may have left half a line
        verdicts = pool.map(lambda one: inspect_video(folder / one[0], check)[0], new)
        try:
            progress = tqdm(verdicts, f'checking {split}', len(new), unit='video', disable=not show or not new)
            for (path, key), fault in zip(new, progress, strict=True):
                faults[path] = fault
                cache.write(json.dumps([*key, check, fault]) + '\n')
                cache.flush()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return faults


def _state(path: Path, root: Path) -> tuple[str, int, int]:
    stat = path.stat()
    return os.path.relpath(path, root), stat.st_size, stat.st_mtime_ns


def _read_cache(path: Path, check: str) -> dict[tuple[str, int, int], str]:
    """Verdicts of earlier runs whose check was as strict or stricter; a fault counts whatever found it."""
    known = {}
    for name, size, mtime, how, fault in _cached(path):
        if fault or CHECKS.index(how) >= CHECKS.index(check):
            known[name, size, mtime] = fault
    return known


def _cached(path: Path) -> Iterator[tuple[str, int, int, str, str]]:
    for line in path.read_text(encoding='utf-8', errors='replace').splitlines() if path.is_file() else ():
        try:
            name, size, mtime, how, fault = json.loads(line)
        except ValueError:  # the line at which a run was stopped
            continue
        if how in CHECKS:
            yield name, size, mtime, how, fault


def _require_usable(reports: list[VideoSplit], root: Path, source: str) -> list[VideoSplit]:
    if not any(report.usable for report in reports):
        first = reports[0]
        if any(report.broken for report in reports):
            raise UserError(
                f'all videos that are in {first.folder} are broken; see {_named(first.list_file, "broken")}'
            )
        raise UserError(
            f'none of the {first.named:,} videos that the annotations in {root} name is in {first.folder}; put them '
            f'there ({source})'
        )
    return reports
