# A few minutes on two processor cores, counted in epochs: AdamW with warm-up and cosine decay.
# Under a warm-up of 50, a rate of 2e-3 and clipping at 10 some seeds stayed at chance.
# Neither norms, biases, layer scales nor RPEs decay.
train_cfg = dict(by_epoch=True, max_epochs=15, val_interval=15)
val_cfg = dict()
test_cfg = dict()
optim_wrapper = dict(
    optimizer=dict(type='AdamW', lr=1.5e-3, betas=(0.9, 0.999), weight_decay=0.05, fused=True),
    paramwise_cfg=dict(
        norm_decay_mult=0.0, bias_decay_mult=0.0, flat_decay_mult=0.0, custom_keys={'rpe': dict(decay_mult=0.0)}
    ),
    clip_grad=dict(max_norm=2.0, norm_type=2),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=200),
    dict(type='CosineAnnealingLR', eta_min_ratio=0.01, by_epoch=True, begin=0, convert_to_iter_based=True),
]
auto_scale_lr = dict(enable=False, base_batch_size=8)
