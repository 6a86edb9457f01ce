"""The linter of what is published: every config is built, every table and record is compared with what that gives."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.registry import init_default_scope
from tqdm import tqdm

from ..benchmarking.breakdown import table as pass_table
from ..benchmarking.report import growth_lines
from ..benchmarking.report import table as benchmark_table
from ..checkpoints import quiet
from ..collect import attention_of
from ..complexity import count_macs, count_parameters
from ..config import apply_options, config_digest, load_config, null_empty_pretrained, parse_options
from ..errors import UserError
from ..kernels import table as kernel_table
from ..preflight import build_model
from ..provenance import nominal_input
from ..records import read_records, records_of
from ..rows import append_rows, read_rows
from ..step_profile import table as step_table
from ..tasks import task_of
from .costs import read_benchmarks
from .operators import PAGE as OPERATORS
from .operators import operators_page
from .report import report, report_texts
from .table import table

__all__ = [
    'COSTS',
    'REPORT',
    'TABLES',
    'Cost',
    'Problem',
    'cost_of',
    'fill_tables',
    'is_this_stack',
    'lint',
    'list_configs',
    'table_of',
]

COSTS = 'results/configs.csv'
REPORT = 'results/report'
_BENCHMARK = 'results/benchmark-{}-fp32-cpu2-torch2.13.0-{}.csv'
_ON_H100 = 'results/benchmark-inference-bf16-nvidia-h100-80gb-hbm3-torch2.11.0-{}.csv'
TABLES = {  # page to the sources of the tables between marks on it, in order
    'README.md': ('results/mini.jsonl',),
    'docs/comparison.md': ('results/mini.jsonl results/operators.jsonl lisa-p', 'results/kernels.csv'),
    'docs/performance.md': (
        _BENCHMARK.format('inference', 'sweep-dim64-heads2'),
        _BENCHMARK.format('training', 'sweep-dim64-heads2'),
        _BENCHMARK.format('inference', 'sweep-dim64-heads2').replace('cpu2', 'cpu1'),
        _BENCHMARK.format('inference', '800x1280'),
        _BENCHMARK.format('training', '800x1280'),
        _BENCHMARK.format('inference', '800x1280-compiled'),
        _BENCHMARK.format('inference', 'sweep'),
        _BENCHMARK.format('inference', '800x1088'),
        'results/pass-inference-lisa-t-800x1280.csv',
        'results/pass-training-lisa-t-800x1280.csv',
        'results/steps-mini.csv',
        'results/steps-real.csv',
        _ON_H100.format('sweep-dim64-heads2'),
        _ON_H100.format('800x1280'),
    ),
}
# By how the names of files begin; all others are of tools/benchmark.py.
_OTHER_TABLES = {'steps': step_table, 'pass-': pass_table, 'kernels': kernel_table}
_MARK = re.compile(r'^<!-- table: .*', re.MULTILINE)
# A table without an end must not reach to that of the next.
_TABLE = re.compile(
    r'(^<!-- table: (?P<source>[\w./ -]+?) -->\n)(?:(?!<!-- table: ).)*?(<!-- end of table -->)',
    re.DOTALL | re.MULTILINE,
)


@dataclass(frozen=True)
class Problem:
    """Something published that is not so.

    Attributes:
        where: The file, and the place in it.
        what: What it says, and what is.
    """

    where: str
    what: str

    def __str__(self) -> str:
        return f'{self.where}: {self.what}'


@dataclass(frozen=True)
class Cost:
    """Parameters and MACs of a config.

    Attributes:
        parameters: Of the whole model.
        backbone_parameters: Of its backbone.
        backbone_macs: MACs of the backbone for one input.
        input: That input: ``1x3x800x1280``, or ``1x3x16x224x224`` for a clip.
    """

    parameters: int
    backbone_parameters: int
    backbone_macs: int
    input: str


def list_configs(root: Path) -> list[Path]:
    """The configs of a checkout that can be trained, in order."""
    return sorted(path for path in (root / 'configs').glob('*/*.py') if path.parent.name != '_base_')


def cost_of(path: Path, options: dict[str, Any] | None = None) -> Cost:
    """Build a config's model and count.

    MACs are counted from the operations of a forward pass on torch's meta device, which computes no values.

    Args:
        path: The config.
        options: Overrides.

    Raises:
        UserError: The config cannot be built, or its model has no backbone.
    """
    return _cost(load_config(path, options), path)


def _cost(cfg: Config, path: Path) -> Cost:
    null_empty_pretrained(cfg)
    model = build_model(cfg.model, cfg.get('data_preprocessor'))
    backbone = getattr(model, 'backbone', None)
    if backbone is None:
        raise UserError(f'{path}: its model has no backbone')
    shape = nominal_input(cfg)
    parameters, own = count_parameters(model), count_parameters(backbone)
    macs = count_macs(backbone.to('meta'), shape)
    return Cost(parameters, own, macs, 'x'.join(map(str, shape)))


def lint(root: Path, mend: bool = False, show: bool = True) -> list[Problem]:
    """Compare costs, records and tables of a checkout with what its configs and records give.

    Args:
        root: The checkout.
        mend: Write costs, tables, report and page of operators anew in place of naming what is wrong with them.
        show: Show progress.

    Returns:
        What is wrong: a config that cannot be built, costs in :data:`COSTS` that are not those of the config, a record
        that breaks the schema, whose config, parameters or MACs are others now, or whose status, task, model or
        attention are not those of its config, a table that is not that of its records or has lost its marks, a page of
        operators that is not that of the registry, a report in :data:`REPORT` that is not that of the records.
    """
    with quiet():  # frameworks warn of each other's scopes
        return _lint(root, mend, show)


def _lint(root: Path, mend: bool, show: bool) -> list[Problem]:
    problems: list[Problem] = []
    costs: dict[str, Cost] = {}
    for path in tqdm(list_configs(root), desc='configs', unit='config', disable=not show):
        name = path.relative_to(root).as_posix()
        try:
            costs[name] = cost_of(path)
        except Exception as error:  # whatever it is, the config cannot be used
            problems.append(Problem(name, f'cannot be built: {error}'))
    problems += _lint_costs(root, costs, mend)
    broken = _lint_records(root, show)
    problems += broken
    if any(problem.where == 'results' for problem in broken):
        return problems  # no table can be made of them
    pages = {page.relative_to(root).as_posix() for page in (*root.glob('*.md'), *root.glob('docs/*.md'))}
    for page in sorted(pages | TABLES.keys()):
        problems += _lint_page(page, root, mend)
    return problems + _lint_operators(root / OPERATORS, mend) + _lint_report(root, mend)


def _lint_costs(root: Path, costs: dict[str, Cost], mend: bool) -> list[Problem]:
    path = root / COSTS
    rows = {
        name: {'config': name, **{key: str(value) for key, value in vars(cost).items()}} for name, cost in costs.items()
    }
    if mend and rows:
        append_rows(path, list(rows.values()), replaced=read_rows(path))
        return []
    found = {row['config']: row for row in read_rows(path, ['config'])}
    problems = [Problem(COSTS, f'has no row of {name}') for name in rows.keys() - found.keys()]
    for name, row in found.items():
        if name not in rows:
            problems.append(Problem(COSTS, f'has a row of {name}, which is no config or cannot be built'))
            continue
        for key, value in rows[name].items():
            if row.get(key) != value:
                problems.append(Problem(f'{COSTS}, {name}', f'says {key} {row.get(key)}, and it is {value}'))
    return sorted(problems, key=str)


def _lint_records(root: Path, show: bool) -> list[Problem]:
    try:
        records = read_records(root / 'results')
    except UserError as error:
        return [Problem('results', str(error))]
    known: dict[tuple[str, tuple[str, ...]], tuple[Cost, str | None]] = {}
    configs: dict[Path, Config] = {}  # reading one takes longer than all else
    problems = []
    for record in tqdm(records, desc='records', unit='record', disable=not show):
        if record['config'] is None:
            continue
        where = f'record of {record["task"]}, {record["model"]}, seed {record["seed"]}'
        config, overrides = root / record['config']['file'], tuple(record['config']['overrides'])
        if not config.is_file():
            problems.append(Problem(where, f'its config {record["config"]["file"]} is gone'))
            continue
        try:
            options = parse_options(list(overrides))
            if config not in configs:
                configs[config] = load_config(config)
            if is_this_stack(record['versions']):
                said, digest = record['config']['digest'], config_digest(configs[config], options)
                if said != digest:
                    what = f'its config has changed since: digest {said[:8]}, now {digest[:8]}'
                    problems.append(Problem(where, what))
                    continue
            key = record['config']['file'], overrides
            if key not in known:
                cfg = copy.deepcopy(configs[config])
                init_default_scope(cfg.get('default_scope') or 'mmengine')  # as it is read
                apply_options(cfg, options)
                known[key] = _cost(cfg, config), attention_of(cfg.model.backbone)
            cost, attention = known[key]
            problems += [Problem(where, what) for what in (*_names(record, attention), *_differences(record, cost))]
        except Exception as error:  # whatever it is, the other records are to be looked at
            problems.append(Problem(where, f'its config cannot be built: {error}'))
    return problems


def _names(record: dict[str, Any], attention: str | None) -> list[str]:
    """What a record says of task, model and attention that is not so; its status follows from the task."""
    found = task_of(record['config']['file'])
    if found is None:
        return [f'its config {record["config"]["file"]} is of no task of the leaderboard']
    task, backbone = found
    claims = [
        ('task', record['task'], task.name),
        ('backbone', record['backbone'], backbone),
        ('attention', record['attention'], attention),
    ]
    wrong = [f'says {name} {said}, and that of its config is {real}' for name, said, real in claims if said != real]
    model = f'{backbone}, {attention}' if attention else backbone
    # A name of its own, for another setting of the same, begins alike: 'swin-p (old recipe)'.
    if record['model'] != model and not record['model'].startswith(f'{model} '):
        wrong.append(f'says model {record["model"]}, and that of its config is {model}')
    return wrong


def _differences(record: dict[str, Any], cost: Cost) -> list[str]:
    """What a record says of parameters and MACs that is not so."""
    claims = [
        ('parameters', record['parameters']['model'], cost.parameters),
        ('backbone parameters', record['parameters']['backbone'], cost.backbone_parameters),
    ]
    if record['macs']:
        shape = 'x'.join(map(str, record['macs']['input']))
        claims.append(('input of MACs', shape, cost.input))
        if shape == cost.input:
            claims.append(('MACs', record['macs']['value'], cost.backbone_macs))
    return [f'says {name} {said}, and it is {real}' for name, said, real in claims if said != real]


def is_this_stack(versions: dict[str, str]) -> bool:
    """Whether a record was made with the framework versions that are installed: bases of configs differ otherwise."""
    for name, version in versions.items():
        if 'mm' in name:
            with suppress(metadata.PackageNotFoundError):
                if metadata.version({'onedl-mmdet': 'onedl-mmdetection'}.get(name, name)) == version:
                    continue
            return False
    return True


def fill_tables(text: str, make: Callable[[str], str]) -> str:
    """Write the tables of a page between their marks, ``<!-- table: SOURCE -->`` and ``<!-- end of table -->``.

    Args:
        text: The page, as Markdown.
        make: Gives the table of a source.
    """
    return _TABLE.sub(lambda found: f'{found[1]}{make(found["source"])}\n{found[3]}', text)


def _lint_page(name: str, root: Path, mend: bool) -> list[Problem]:
    page, declared = root / name, TABLES.get(name, ())
    text = page.read_text() if page.is_file() else ''
    marked = tuple(match['source'] for match in _TABLE.finditer(text))
    if marked != declared or len(_MARK.findall(text)) != len(marked):
        said = ' and '.join(f'<!-- table: {source} --> with <!-- end of table -->' for source in declared) or 'none'
        return [Problem(name, f'the marks of its tables are not those in lint.TABLES: {said}; put them back by hand')]
    try:
        filled = fill_tables(text, lambda source: table_of(source, root))
    except UserError as error:
        return [Problem(name, f'a table cannot be made: {error}')]
    if filled == text:
        return []
    if mend:
        page.write_text(filled)
        return []
    return [Problem(name, 'a table is not that of its records')]


def table_of(source: str, root: Path) -> str:
    """The table of a source.

    Args:
        source: One file of a benchmark or profile, or files of records, and names of backbones if it is of these alone:
            ``'results/mini.jsonl lisa-p'``.
        root: The checkout.

    Raises:
        UserError: A file is gone or cannot be used.
    """
    words = source.split()
    paths, backbones = [root / word for word in words if '/' in word], [word for word in words if '/' not in word]
    for path in paths:
        if not path.is_file():
            raise UserError(f'{path.name} is gone; bring it back')
    if paths[0].suffix != '.csv':
        return table(records_of(read_records(paths), backbones or None))
    rows = read_rows(paths[0])
    for kind, table_of_kind in _OTHER_TABLES.items():
        if paths[0].name.startswith(kind):
            return table_of_kind(rows)
    grown = [f'- {line}' for line in growth_lines(rows)] if 'sweep' in paths[0].name else []
    return '\n'.join([benchmark_table(rows), *(['', *grown] if grown else [])])


def _lint_operators(page: Path, mend: bool) -> list[Problem]:
    text = operators_page()
    if mend:
        page.parent.mkdir(exist_ok=True)
        page.write_text(text)
    if page.is_file() and page.read_text() == text:
        return []
    return [Problem(OPERATORS, 'is not what the registry of operators gives')]


def _lint_report(root: Path, mend: bool) -> list[Problem]:
    try:
        records, benchmarks = read_records(root / 'results'), read_benchmarks(None, root / 'results')
        if mend:
            report(records, root / REPORT, benchmarks)
        texts = report_texts(records, benchmarks)
    except UserError as error:
        return [Problem(REPORT, f'cannot be made: {error}')]
    paths = {root / REPORT / name: text for name, text in texts.items()}
    return [
        Problem(path.relative_to(root).as_posix(), 'is not what the records give')
        for path, text in paths.items()
        if not path.is_file() or path.read_text(encoding='utf-8') != text
    ]


def print_problems(problems: Sequence[Problem]) -> int:
    """Print what is wrong.

    Returns:
        Exit status: 1 if there is anything.
    """
    for problem in problems:
        print(problem)
    mend = '; tools/leaderboard.py lint --mend writes costs, tables and report anew' if problems else ''
    print(f'{len(problems)} problems{mend}')
    return 1 if problems else 0
