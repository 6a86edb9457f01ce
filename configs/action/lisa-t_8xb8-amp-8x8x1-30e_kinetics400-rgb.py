_base_ = [
    '../_base_/models/recognizer3d_lisa.py',
    '../_base_/datasets/kinetics400_8x8x1.py',
    '../_base_/schedules/adamw_amp_30e.py',
    '../_base_/action_runtime.py',
]
