# Kinetics-400 in clips of 16 frames, every fourth frame; else as in clips of 8.
_base_ = './kinetics400_8x8x1.py'

sampling = dict(clip_len=16, frame_interval=4)
train_pipeline = [dict(s, **sampling) if s['type'] == 'SampleFrames' else s for s in _base_.train_pipeline]
val_pipeline = [dict(s, **sampling) if s['type'] == 'SampleFrames' else s for s in _base_.val_pipeline]
test_pipeline = [dict(s, **sampling) if s['type'] == 'SampleFrames' else s for s in _base_.test_pipeline]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=val_pipeline))
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))
del sampling
