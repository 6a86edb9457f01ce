# One frame of each clip of the mini Something-Something: a random one in training, the middle one in testing.
_base_ = './mini_ssv2_u8.py'

train_pipeline = [
    dict(type='OpenVideo', keep=256),
    dict(type='SampleFrames', clip_len=1, frame_interval=1, num_clips=1),
    dict(type='FetchFrames'),
    dict(type='Resize', scale=(72, 72), keep_ratio=False),
    dict(type='RandomCrop', size=64),
    dict(type='FormatShape', input_format='NCHW'),
    dict(type='PackActionInputs'),
]
test_pipeline = [
    dict(type='OpenVideo'),
    dict(type='SampleFrames', clip_len=1, frame_interval=1, num_clips=1, test_mode=True),
    dict(type='FetchFrames'),
    dict(type='Resize', scale=(72, 72), keep_ratio=False),
    dict(type='CenterCrop', crop_size=64),
    dict(type='FormatShape', input_format='NCHW'),
    dict(type='PackActionInputs', meta_keys=('filename', 'img_shape')),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))
