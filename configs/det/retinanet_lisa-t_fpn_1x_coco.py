_base_ = [
    '../_base_/models/retinanet_lisa_fpn.py',
    '../_base_/datasets/coco_detection.py',
    '../_base_/schedules/adamw_1x.py',
    '../_base_/det_runtime.py',
]
