# A few minutes on two processor cores: 16 epochs, AdamW with warm-up and cosine decay, for batches of 8.
_base_ = './adamw_1x.py'

max_epochs = 16
train_cfg = dict(max_epochs=max_epochs, val_interval=max_epochs)  # a validation takes half a minute
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(
        type='CosineAnnealingLR',
        T_max=max_epochs,
        eta_min_ratio=0.01,
        by_epoch=True,
        begin=0,
        end=max_epochs,
        convert_to_iter_based=True,
    ),
]
optim_wrapper = dict(optimizer=dict(lr=2e-3), clip_grad=dict(max_norm=10.0, norm_type=2))
auto_scale_lr = dict(base_batch_size=8)
