"""The optimizer: AdamW in two groups, and the learning rate as a pure function of the step."""

from __future__ import annotations

import torch
from torch import nn

from tinygpt.config import TrainConfig


def make_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW (Loshchilov and Hutter 2019) with weight decay on matrices alone: norms, biases have no direction to lose.

    Embeddings of tokens and of positions are matrices too, but a row that is never looked up should stay where it is:
    no decay there, nor in a head that is tied to one.
    """
    tables = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    decayed: list[nn.Parameter] = []
    free: list[nn.Parameter] = []
    for parameter in model.parameters():
        (decayed if parameter.dim() >= 2 and id(parameter) not in tables else free).append(parameter)
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": free, "weight_decay": 0.0}]
    fused = all(p.device.type in ("cpu", "cuda") for p in model.parameters())
    return torch.optim.AdamW(groups, lr=config.lr, betas=(config.beta1, config.beta2), fused=fused)


def learning_rate(step: int, config: TrainConfig) -> float:
    """Rate of update number `step` (0, 1, ...): linear warm-up, flat, then linear to 0 over the last `decay` share.

    lr * min(1, (step + 1) / warmup_steps, (max_steps - step) / (decay * max_steps))
    """
    warm = (step + 1) / config.warmup_steps if config.warmup_steps > 0 else 1.0
    falling = config.decay * config.max_steps
    cool = (config.max_steps - step) / falling if falling > 0 else 1.0
    return config.lr * max(0.0, min(1.0, warm, cool))
