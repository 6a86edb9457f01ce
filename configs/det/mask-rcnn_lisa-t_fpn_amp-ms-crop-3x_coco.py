_base_ = [
    '../_base_/models/mask-rcnn_lisa_fpn.py',
    '../_base_/datasets/coco_instance_ms-crop.py',
    '../_base_/schedules/adamw_amp_3x.py',
    '../_base_/det_runtime.py',
]
