"""The optimizer: Muon for the matrices inside the blocks, AdamW for the rest; the rate as a function of the step.

AdamW moves every number by about the learning rate, one by one. Muon moves a matrix as a whole: its momentum is made
(nearly) orthogonal first, so that all directions of the matrix learn at one speed, also those that the gradient hardly
mentions (Jordan et al. 2024, "Muon: an optimizer for hidden layers").
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tinygpt.config import TrainConfig

# The quintic of `orthogonalise`: five rounds bring singular values between 0.01 and 1 into 0.7 to 1.2 (Jordan et al.).
QUINTIC = (3.4445, -4.7750, 2.0315)
ROUNDS = 5


def make_optimizer(model: nn.Module, config: TrainConfig, bf16: bool = False) -> torch.optim.Optimizer:
    """Muon for the 2-D weights of the blocks (AdamW if muon_lr is 0), AdamW (Loshchilov and Hutter 2019) for the rest.

    Weight decay pulls on every matrix but a table of positions: norms and biases have no direction to lose. On a text
    that is read many times it keeps head and embedding from learning it by heart; the blocks need little (LOG.md).
    Every group has its own peak rate, group["peak"]; `set_rate` moves them all along one schedule.
    """
    hidden: list[nn.Parameter] = []
    decayed: list[nn.Parameter] = []
    free: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        matrix = parameter.dim() >= 2 and not name.startswith("positions.")
        inside = config.muon_lr > 0 and name.startswith("blocks.")
        (free if not matrix else hidden if inside else decayed).append(parameter)
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay, "peak": config.lr},
        {"params": free, "weight_decay": 0.0, "peak": config.lr},
    ]
    device = next(model.parameters()).device
    fused, captured = device.type in ("cpu", "cuda"), device.type == "cuda"
    adamw = torch.optim.AdamW(
        groups, lr=config.lr, betas=(config.beta1, config.beta2), fused=fused, capturable=captured
    )
    muon = Muon(hidden, config.muon_lr, config.muon_momentum, config.muon_decay, adamw, bf16) if hidden else None
    optimizer = muon or adamw
    if captured:  # a recorded update reads its rate where it is
        for group in optimizer.param_groups:
            group["lr"] = torch.tensor(group["peak"], device=device)
    return optimizer


class Muon(torch.optim.Optimizer):
    """One update of a matrix W of shape (rows, columns) with gradient G, momentum M and rate lr:

        M <- m M + (1 - m) G
        W <- (1 - lr decay) W - lr max(1, rows / columns)^0.5 orthogonalise(m M + (1 - m) G)

    Matrices of one shape are worked on in one batch. `adamw` updates the other parameters of the model; both keep their
    tensors in one `state`, so that a checkpoint need not know which parameter belongs to which. With `bf16` the
    orthogonal matrix is computed in that format, whose errors are small beside what five rounds leave.
    """

    def __init__(
        self, matrices: list[nn.Parameter], lr: float, momentum: float, weight_decay: float, adamw: torch.optim.AdamW,
        bf16: bool = False,
    ) -> None:  # fmt: skip
        defaults = {"lr": lr, "peak": lr, "momentum": momentum, "weight_decay": weight_decay}
        super().__init__(matrices, {**adamw.defaults, **defaults})
        self.adamw, self.format = adamw, torch.bfloat16 if bf16 else torch.float32
        self.matrices = self.param_groups[0]
        self.state = adamw.state
        self.param_groups += adamw.param_groups
        shapes = dict.fromkeys(p.shape for p in matrices)
        self.alike: list[list[Tensor]] = [[p for p in matrices if p.shape == shape] for shape in shapes]

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Update every parameter from its gradient; `closure` is torch's convention and not used."""
        lr, momentum, decay = (self.matrices[name] for name in ("lr", "momentum", "weight_decay"))
        for alike in self.alike:
            gradients = [p.grad for p in alike if p.grad is not None]
            for p in alike:
                if "momentum" not in self.state[p]:
                    self.state[p]["momentum"] = torch.zeros_like(p)
            memory = [self.state[p]["momentum"] for p in alike]
            torch._foreach_lerp_(memory, gradients, 1 - momentum)
            mixed = torch.stack(torch._foreach_lerp(gradients, memory, momentum))  # (N, rows, columns)
            rows, columns = mixed.shape[1:]
            updates = orthogonalise(mixed.to(self.format)).float().contiguous() * (lr * max(1, rows / columns) ** 0.5)
            torch._foreach_mul_(alike, 1 - lr * decay)
            torch._foreach_sub_(alike, updates.unbind())
        self.adamw.step()


def orthogonalise(matrices: Tensor) -> Tensor:
    """Nearly the nearest orthogonal matrices: U S V^T becomes about U V^T. (N, rows, columns) in and out.

    Newton-Schulz iteration X <- a X + b (X X^T) X + c (X X^T)^2 X on X / ||X||, in the format of the input.
    """
    a, b, c = QUINTIC
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices  # X X^T is then the smaller of the two squares
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(ROUNDS):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    return x.mT if tall else x


def schedule(step: int, config: TrainConfig) -> float:
    """Share of the peak rate of update number `step` (0, 1, ...): warm-up, flat, then linear to 0 in the last `decay`.

    min(1, (step + 1) / warmup_steps, (max_steps - step) / (decay * max_steps))
    """
    warm = (step + 1) / config.warmup_steps if config.warmup_steps > 0 else 1.0
    falling = config.decay * config.max_steps
    cool = (config.max_steps - step) / falling if falling > 0 else 1.0
    return max(0.0, min(1.0, warm, cool))


def set_rate(optimizer: torch.optim.Optimizer, share: float) -> None:
    """Every group at `share` of its peak rate."""
    for group in optimizer.param_groups:
        rate = group["peak"] * share
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate
