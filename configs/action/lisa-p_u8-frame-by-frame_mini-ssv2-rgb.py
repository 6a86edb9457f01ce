# Frames enter one by one, so that nothing but the attention operator relates them: without one, what is left is chance.
_base_ = './lisa-p_u8_mini-ssv2-rgb.py'

model = dict(backbone=dict(temporal_stride=1))
