_base_ = [
    '../_base_/models/classifier_lisa.py',
    '../_base_/datasets/imagenet_224.py',
    '../_base_/schedules/adamw_300e.py',
    '../_base_/pretrain_runtime.py',
]
