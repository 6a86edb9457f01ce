# Something-Something-V2: one frame of each of 16 segments of the video. Never flipped, since left and right are labels
# (mmaction2#590). Tested on 1 clip x 3 crops.
_base_ = './videos.py'

data_root = 'data/sthv2/'
train_pipeline = [
    dict(type='OpenVideo'),
    dict(type='UniformSample', clip_len=16),
    dict(type='FetchFrames'),
    dict(type='Resize', scale=(-1, 256)),
    dict(type='RandomResizedCrop'),
    dict(type='Resize', scale=(224, 224), keep_ratio=False),
    dict(type='FormatShape', input_format='NCTHW'),
    dict(type='PackActionInputs'),
]
val_pipeline = [
    dict(type='OpenVideo'),
    dict(type='UniformSample', clip_len=16, test_mode=True),
    dict(type='FetchFrames'),
    dict(type='Resize', scale=(-1, 256)),
    dict(type='CenterCrop', crop_size=224),
    dict(type='FormatShape', input_format='NCTHW'),
    dict(type='PackActionInputs', meta_keys=('filename', 'img_shape')),
]
test_pipeline = [
    dict(type='OpenVideo'),
    dict(type='UniformSample', clip_len=16, test_mode=True),
    dict(type='FetchFrames'),
    dict(type='Resize', scale=(-1, 224)),
    dict(type='ThreeCrop', crop_size=224),
    dict(type='FormatShape', input_format='NCTHW'),
    dict(type='PackActionInputs', meta_keys=('filename', 'img_shape')),
]
train_set = dict(data_root=data_root, ann_file='sthv2_train_list_videos.txt', data_prefix=dict(video='videos'))
val_set = dict(data_root=data_root, ann_file='sthv2_val_list_videos.txt', data_prefix=dict(video='videos'))
train_dataloader = dict(dataset=dict(pipeline=train_pipeline, **train_set))
val_dataloader = dict(dataset=dict(pipeline=val_pipeline, **val_set))
test_dataloader = dict(dataset=dict(pipeline=test_pipeline, **val_set))
del train_set, val_set
