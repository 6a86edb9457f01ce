# Kinetics-400 in clips of 8 frames, every eighth frame, with the augmentation of mmaction2's Video Swin configs. Tested
# on 4 clips x 3 crops.
_base_ = './videos.py'

data_root = 'data/kinetics400/'
train_pipeline = [
    dict(type='OpenVideo'),
    dict(type='SampleFrames', clip_len=8, frame_interval=8, num_clips=1),
    dict(type='FetchFrames'),
    dict(type='Resize', scale=(-1, 256)),
    dict(type='RandomResizedCrop'),
    dict(type='Resize', scale=(224, 224), keep_ratio=False),
    dict(type='Flip', flip_ratio=0.5),
    dict(type='FormatShape', input_format='NCTHW'),
    dict(type='PackActionInputs'),
]
val_pipeline = [
    dict(type='OpenVideo'),
    dict(type='SampleFrames', clip_len=8, frame_interval=8, num_clips=1, test_mode=True),
    dict(type='FetchFrames'),
    dict(type='Resize', scale=(-1, 256)),
    dict(type='CenterCrop', crop_size=224),
    dict(type='FormatShape', input_format='NCTHW'),
    dict(type='PackActionInputs', meta_keys=('filename', 'img_shape')),
]
test_pipeline = [
    dict(type='OpenVideo'),
    dict(type='SampleFrames', clip_len=8, frame_interval=8, num_clips=4, test_mode=True),
    dict(type='FetchFrames'),
    dict(type='Resize', scale=(-1, 224)),
    dict(type='ThreeCrop', crop_size=224),
    dict(type='FormatShape', input_format='NCTHW'),
    dict(type='PackActionInputs', meta_keys=('filename', 'img_shape')),
]
train_set = dict(
    data_root=data_root, ann_file='kinetics400_train_list_videos.txt', data_prefix=dict(video='videos_train')
)
val_set = dict(data_root=data_root, ann_file='kinetics400_val_list_videos.txt', data_prefix=dict(video='videos_val'))
train_dataloader = dict(dataset=dict(pipeline=train_pipeline, **train_set))
val_dataloader = dict(dataset=dict(pipeline=val_pipeline, **val_set))
test_dataloader = dict(dataset=dict(pipeline=test_pipeline, **val_set))
del train_set, val_set
