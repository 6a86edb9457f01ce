# The mini Kinetics that tools/make_mini_data.py makes: a moving digit at 64 x 64, 16 frames, of which every second is
# taken. No flip, since a mirrored digit is another sign. Tested on one view.
_base_ = './kinetics400_8x8x1.py'

data_root = 'data/mini_kinetics/'
metainfo = dict(classes=('eight', 'five', 'four', 'nine', 'one', 'seven', 'six', 'three', 'two', 'zero'))  # as sorted
train_pipeline = [
    dict(type='OpenVideo', keep=256),
    dict(type='SampleFrames', clip_len=8, frame_interval=2, num_clips=1),
    dict(type='FetchFrames'),
    dict(type='Resize', scale=(72, 72), keep_ratio=False),
    dict(type='RandomCrop', size=64),
    dict(type='FormatShape', input_format='NCTHW'),
    dict(type='PackActionInputs'),
]
test_pipeline = [
    dict(type='OpenVideo'),
    dict(type='SampleFrames', clip_len=8, frame_interval=2, num_clips=1, test_mode=True),
    dict(type='FetchFrames'),
    dict(type='Resize', scale=(72, 72), keep_ratio=False),
    dict(type='CenterCrop', crop_size=64),
    dict(type='FormatShape', input_format='NCTHW'),
    dict(type='PackActionInputs', meta_keys=('filename', 'img_shape')),
]
train_set = dict(data_root=data_root, metainfo=metainfo, pipeline=train_pipeline)
val_set = dict(data_root=data_root, metainfo=metainfo, pipeline=test_pipeline)
train_dataloader = dict(batch_size=16, num_workers=1, dataset=train_set)
val_dataloader = dict(num_workers=1, dataset=val_set)
test_dataloader = dict(batch_size=8, num_workers=1, dataset=val_set)
del train_set, val_set
