# LiSA in Semantic FPN on textures and handwritten digits, minutes on two processor cores.
_base_ = [
    '../_base_/models/fpn_lisa_slim.py',
    '../_base_/datasets/mini_ade20k_128x128.py',
    '../_base_/schedules/adamw_mini_iters.py',
    '../_base_/seg_runtime.py',
]
