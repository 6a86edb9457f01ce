# COCO 2017 with boxes at one scale (short side 800, long side at most 1333), as mmdet ships it.
_base_ = 'mmdet::_base_/datasets/coco_detection.py'
