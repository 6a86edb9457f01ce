# What every detection config shares: mmdet's runtime, the backbone's import, a seed, and checkpoints one can resume.
_base_ = 'mmdet::_base_/default_runtime.py'

custom_imports = dict(imports=['lisa_backbone'], allow_failed_imports=False)
randomness = dict(seed=0)
default_hooks = dict(
    checkpoint=dict(save_best='coco/bbox_mAP', rule='greater', max_keep_ckpts=3),
    visualization=dict(score_thr=0.5),
)
visualizer = dict(line_width=2, alpha=0.6)
