# What every action recognition config shares: mmaction2's runtime, the backbone's import, a seed, and checkpoints.
_base_ = 'mmaction::_base_/default_runtime.py'

custom_imports = dict(imports=['lisa_backbone'], allow_failed_imports=False)
randomness = dict(seed=0)
default_hooks = dict(
    logger=dict(interval=100),
    checkpoint=dict(interval=3, save_best='acc/top1', rule='greater', max_keep_ckpts=3),
)
