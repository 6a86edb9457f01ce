# The README's main job: LiSA in Mask R-CNN on handwritten digits, minutes on two processor cores.
_base_ = [
    '../_base_/models/mask-rcnn_lisa_fpn_slim.py',
    '../_base_/datasets/mini_coco_instance.py',
    '../_base_/schedules/adamw_mini.py',
    '../_base_/det_runtime.py',
]

default_hooks = dict(logger=dict(interval=10), checkpoint=dict(interval=4, max_keep_ckpts=2))
