# 80k iterations, AdamW as in the Semantic FPN of PVT (Wang et al., 2021, section 5.3): batches of 16, 1e-4, poly 0.9.
# PVT's own config halves the iterations and doubles batch and rate. Neither norms, biases, layer scales nor RPEs decay.
_base_ = 'mmseg::_base_/schedules/schedule_80k.py'

optimizer = None  # of the base file: SGD
optim_wrapper = dict(
    optimizer=dict(_delete_=True, type='AdamW', lr=1e-4, betas=(0.9, 0.999), weight_decay=1e-4),
    paramwise_cfg=dict(
        norm_decay_mult=0.0, bias_decay_mult=0.0, flat_decay_mult=0.0, custom_keys={'rpe': dict(decay_mult=0.0)}
    ),
)
param_scheduler = [dict(type='PolyLR', eta_min=0.0, power=0.9, by_epoch=False, begin=0, end=80000)]
auto_scale_lr = dict(enable=False, base_batch_size=16)
default_hooks = dict(checkpoint=dict(save_best='mIoU', rule='greater', max_keep_ckpts=3))
