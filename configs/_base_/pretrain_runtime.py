# What every classification config shares: mmpretrain's runtime, the backbone's import, a seed, and checkpoints.
_base_ = 'mmpretrain::_base_/default_runtime.py'

custom_imports = dict(imports=['lisa_backbone'], allow_failed_imports=False)
randomness = dict(seed=0)
default_hooks = dict(checkpoint=dict(save_best='accuracy/top1', rule='greater', max_keep_ckpts=3))
