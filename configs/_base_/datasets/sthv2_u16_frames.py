# As sthv2_u16.py, with clips as lists of frames: what Recognizer2D takes.
_base_ = './sthv2_u16.py'

shape = dict(type='FormatShape', input_format='NCHW')
train_pipeline = [shape if s['type'] == 'FormatShape' else s for s in _base_.train_pipeline]
val_pipeline = [shape if s['type'] == 'FormatShape' else s for s in _base_.val_pipeline]
test_pipeline = [shape if s['type'] == 'FormatShape' else s for s in _base_.test_pipeline]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=val_pipeline))
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))
del shape
