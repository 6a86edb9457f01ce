"""Overrides and keys that nothing reads are refused; the others do what they say."""

from pathlib import Path

import pytest

from lisa_backbone import compat

compat.apply()
pytest.importorskip('mmdet')

from lisa_backbone.config import config_digest, leaf_datasets, load_config, null_empty_pretrained, parse_options  # noqa: E402
from lisa_backbone.errors import UserError  # noqa: E402

CONFIGS = Path(__file__).parents[1] / 'configs' / 'det'
MINI = CONFIGS / 'mask-rcnn_lisa-p_fpn_mini-coco.py'


def test_overrides_reach_the_config():
    cfg = load_config(
        MINI,
        {
            'train_cfg.max_epochs': 3,
            'model.backbone.with_cp': True,  # no key of the config, but a parameter of the class
            'optim_wrapper.accumulative_counts': 2,
            'train_dataloader.prefetch_factor': 4,
            'train_dataloader.dataset.pipeline.0.to_float32': True,
            'model.train_cfg.rpn.extra': 1,  # a dict without type takes new keys
            'resume': True,
            'model.backbone.init_cfg.checkpoint': 'weights.pth',
        },
    )
    assert cfg.train_cfg.max_epochs == 3
    assert cfg.model.backbone.with_cp is True
    assert cfg.optim_wrapper.accumulative_counts == 2
    assert cfg.train_dataloader.dataset.pipeline[0].to_float32 is True
    assert cfg.model.train_cfg.rpn.extra == 1
    assert cfg.model.backbone.init_cfg.checkpoint == 'weights.pth'


def test_operator_is_overridden_with_its_options(tmp_path):
    """Whether the config names none, names one, or has a dict of it."""
    given = {'model.backbone.attention.type': 'SelfAttention', 'model.backbone.attention.local_conv': True}
    wanted = {'type': 'SelfAttention', 'local_conv': True}
    assert load_config(MINI, given).model.backbone.attention == wanted
    for text in ("'LiSAttention'", "dict(type='LiSAttention')"):
        config = tmp_path / 'mine.py'
        config.write_text(f"model = dict(backbone=dict(type='LiSA', attention={text}))\n")
        assert load_config(config, given).model.backbone.attention == wanted
    config.write_text("model = dict(backbone=dict(type='LiSA', attention='LiSAttention'))\n")
    with pytest.raises(UserError, match="holds no 'local_conv'"):
        load_config(config, {'model.backbone.attention.local_conv': True})
    with pytest.raises(UserError, match="default_scope is 'mmdet' in the config and holds no 'type'"):
        load_config(MINI, {'default_scope.type': 'SelfAttention'})


def test_digest_is_of_the_content(tmp_path):
    names = ('a.py', 'sub/b.py', 'c.py')
    for name, text in zip(names, ("_base_ = 'base.py'\nx = 1", 'x = 1\ny = dict(z=(2, 3))', 'x = 2'), strict=True):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / 'base.py').write_text('y = dict(z=(2, 3))  # a comment\n')
    first, same, other = (load_config(tmp_path / name) for name in names)
    assert config_digest(first) == config_digest(same) != config_digest(other)
    assert config_digest(first, {'x': 2}) not in (config_digest(first), config_digest(other))


@pytest.mark.parametrize(
    ('key', 'said'),
    [
        ('optim_wraper.optimizer.lr', "did you mean 'optim_wrapper'"),
        ('model.backbon.arch', "did you mean 'backbone'"),
        ('model.backbone.archh', r"model\.backbone \(LiSA\) takes no 'archh'; did you mean 'arch'"),
        ('optim_wrapper.optimizer.wieght_decay', "did you mean 'weight_decay'"),
        ('train_dataloader.batchsize', "did you mean 'batch_size'"),
        ('model.test_cfg.rcnn.scor_thr', "did you mean 'score_thr'"),
        ('train_dataloader.dataset.pipeline.9.type', 'a list of 5'),
        ('load_from.x', 'load_from is None in the config'),
        ('max_epochs', "nothing reads 'max_epochs'"),
        ('data_preprocessor.mean', r'the model of the config has its own; set model\.data_preprocessor\.mean instead'),
        ('train_pipeline', 'changes nothing; set train_dataloader.dataset.pipeline'),
    ],
)
def test_override_without_effect_is_refused(key, said):
    with pytest.raises(UserError, match=said) as error:
        load_config(MINI, {key: 1})
    assert key in str(error.value)


def test_paths_with_spaces_and_commas_stay_whole(tmp_path):
    odd = tmp_path / 'my data, of June'
    odd.mkdir()
    given = {'data_root': str(odd), 'work_dir': '/a b/c', 'x': 'a=b c'}
    assert parse_options([f'{key}={value}' for key, value in given.items()]) == given
    values = ('8, 11', '[a b, 1]', '(1, 2)', '"a"', ' 5', 'a,b', '1e-3')
    read = parse_options([f'{key}={value}' for key, value in zip('abcdefg', values, strict=True)])
    assert list(read.values()) == [[8, 11], ['ab', 1], (1, 2), 'a', 5, ['a', 'b'], 1e-3]


def test_option_without_a_value():
    assert parse_options(['a.b=[1,2]', 'c=x']) == {'a.b': [1, 2], 'c': 'x'}
    for text in ('a=(1,2', 'a=[1,(2,3]'):
        with pytest.raises(UserError, match='a bracket is not closed, or not opened'):
            parse_options([text])
    with pytest.raises(UserError, match="'resume' is not KEY=VALUE"):
        parse_options(['resume'])


def test_override_of_a_variable_names_what_it_went_into():
    config = CONFIGS.parent / 'action' / 'lisa-t_8xb8-amp-8x8x1-30e_kinetics400-rgb.py'
    with pytest.raises(UserError, match=r'changes nothing; set train_cfg\.max_epochs instead'):
        load_config(config, {'max_epochs': 1})
    config = CONFIGS.parent / 'pretrain' / 'resnet-p_mini-imagenet.py'
    with pytest.raises(UserError, match=r'peer\.depth: .* changes nothing; set model\.backbone\.depth instead'):
        load_config(config, {'peer.depth': 34})
    with pytest.raises(
        UserError, match=r'train_pipeline\.1\.with_mask: .* changes .* set train_dataloader\.dataset\.pipeline\.1'
    ):
        load_config(MINI, {'train_pipeline.1.with_mask': False})


def test_data_root_is_replaced_wherever_it_is_used():
    cfg = load_config(MINI, {'data_root': 'elsewhere'})
    assert cfg.train_dataloader.dataset.data_root == 'elsewhere/'
    assert cfg.test_dataloader.dataset.data_root == 'elsewhere/'
    assert cfg.val_evaluator.ann_file == cfg.test_evaluator.ann_file == 'elsewhere/annotations/instances_val2017.json'
    assert 'data/mini_coco' not in cfg.pretty_text


@pytest.mark.parametrize(
    ('text', 'said'),
    [
        ('param_schedulers = []', "'param_schedulers', which nothing reads; did you mean 'param_scheduler'"),
        ("load_form = 'a.pth'", "'load_form', which nothing reads; did you mean 'load_from'"),
        ('resume = False\nresumed = True', "'resumed', which nothing reads; did you mean 'resume'"),
        (
            'param_scheduler = [dict(type=1)]\nparam_schedulers = [dict(type=2)]',
            "'param_schedulers', which nothing reads; did you mean 'param_scheduler'",
        ),
        ('a = [', 'not valid Python'),
        ("_base_ = './absent.py'", 'names a base that does not exist'),
        ("_base_ = 'mmseg::absent/absent.py'", 'base that does not exist'),
        ("custom_imports = dict(imports=['no_such_package'], allow_failed_imports=False)", 'no_such_package'),
        ('a = absent', 'NameError'),
        ("a = int('b')", 'cannot be read: ValueError: invalid literal'),
        ("_base_ = 'mmfoo::a.py'", 'cannot be read'),
    ],
)
def test_unusable_config_file(tmp_path, text, said):
    path = tmp_path / 'config.py'
    path.write_text(text + '\n')
    with pytest.raises(UserError, match=said):
        load_config(path)


@pytest.mark.parametrize(
    ('name', 'content'), [('a.txt', b''), ('a.json', b'{'), ('a.py', 'a = "\xe9"'.encode('latin-1'))]
)
def test_a_file_that_is_no_config_is_named(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=rf'config .*{name} (cannot be read|is not valid Python)'):
        load_config(tmp_path / name)


def test_a_key_with_a_dot_is_not_missed(tmp_path):
    config = tmp_path / 'config.py'
    config.write_text("optim_wrapper = dict(paramwise_cfg=dict(custom_keys={'a': dict(x=1), 'a.norm': dict(x=0)}))\n")
    with pytest.raises(
        UserError, match=r"custom_keys has a key 'a\.norm', with a dot in it, which no override reaches"
    ):
        load_config(config, {'optim_wrapper.paramwise_cfg.custom_keys.a.norm.x': 2})
    cfg = load_config(config, {'optim_wrapper.paramwise_cfg.custom_keys.a.x': 2})
    assert cfg.optim_wrapper.paramwise_cfg.custom_keys['a'].x == 2


def test_only_what_lies_in_the_data_root_moves_with_it(tmp_path):
    config = tmp_path / 'config.py'
    text = "data_root = {!r}\nval_evaluator = dict(type='data', a='data/x', b='data_old/x', c='data')\n"
    config.write_text(text.format('data'))
    found = load_config(config, {'data_root': '/d'}).val_evaluator
    assert (found.a, found.b, found.c) == ('/d/x', 'data_old/x', '/d')
    config.write_text(text.format(''))
    with pytest.raises(UserError, match='data_root: that of the config is empty'):
        load_config(config, {'data_root': '/d'})


def test_named_weights_are_loaded_where_a_backbone_had_no_init_cfg(tmp_path):
    config = tmp_path / 'config.py'
    config.write_text("model = dict(backbone=dict(type='mmpretrain.ResNet', depth=18))\n")
    given = {'model.backbone.init_cfg.checkpoint': 'a.pth', 'model.backbone.init_cfg.prefix': 'backbone.'}
    expected = {'checkpoint': 'a.pth', 'prefix': 'backbone.', 'type': 'Pretrained'}
    assert load_config(config, given).model.backbone.init_cfg == expected
    with pytest.raises(UserError, match=r'init_cfg\.checkpoint= names no file; give one, or None'):
        load_config(config, {'model.backbone.init_cfg.checkpoint': ''})
    assert load_config(config, {'model.backbone.init_cfg.checkpoint': None}).model.backbone.init_cfg.checkpoint is None


def test_unknown_config_proposes_a_neighbour():
    with pytest.raises(UserError, match=r'does not exist; did you mean .*mask-rcnn_lisa-t_fpn_1x_coco\.py'):
        load_config(CONFIGS / 'mask-rcnn_lisa-t_fpn_1x_coc.py')


def test_leaf_datasets_of_wrappers():
    leaf = {'type': 'CocoDataset'}
    nested = {
        'type': 'RepeatDataset',
        'dataset': {'type': 'ConcatDataset', 'datasets': [leaf, {'type': 'MultiImageMixDataset', 'dataset': leaf}]},
    }
    assert [path for path, _ in leaf_datasets(nested, 'd')] == ['d.dataset.datasets.0', 'd.dataset.datasets.1.dataset']


def test_pretrained_without_checkpoint_is_reported():
    cfg = load_config(MINI)
    assert null_empty_pretrained(cfg) == ['model.backbone']
    assert 'init_cfg' not in cfg.model.backbone
