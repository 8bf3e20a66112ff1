"""The optimizer: Muon for the matrices inside the blocks, AdamW for the rest; the rate as a function of the step.

AdamW moves every number by about the learning rate, one by one. Muon moves a matrix as a whole: its momentum is made
(nearly) orthogonal first, so that all directions of the matrix learn at one speed, also those that the gradient hardly
mentions (Jordan et al. 2024, "Muon: an optimizer for hidden layers").

Both are written here and not taken from torch.optim, which loads PyTorch's compiler before its first step: two seconds
in which a small model is half trained. tests/unit/test_optim.py holds them against torch's.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tinygpt.config import TrainConfig

# The quintic of `orthogonalise`: five rounds bring singular values between 0.01 and 1 into 0.7 to 1.2 (Jordan et al.).
QUINTIC = (3.4445, -4.7750, 2.0315)
ROUNDS = 5
EPSILON = 1e-8  # AdamW: added to the root, so that nothing is divided by 0
MEAN = "mean"  # in `State`: of a parameter and its mean, the one that is not in the model
State = dict[Tensor, dict[str, Tensor]]  # what is remembered of each parameter, by name


@dataclass
class AdamW:
    """Parameters and how they move; theta with gradient g, at step t and rate lr:

        m <- beta1 m + (1 - beta1) g          v <- beta2 v + (1 - beta2) g^2
        theta <- (1 - lr decay) theta - lr (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + EPSILON)

    Source: Loshchilov and Hutter 2019, "Decoupled weight decay regularization".
    """

    parameters: list[Tensor]
    peak: float  # of the rate
    decay: float
    betas: tuple[float, float]
    lr: Any = 0.0  # on a GPU a tensor, see `put`

    def update(self, state: State) -> None:
        """Move every parameter by its gradient."""
        for p in self.parameters:
            if "exp_avg" not in state[p]:
                state[p]["step"] = torch.zeros((), device=p.device)
                state[p]["exp_avg"], state[p]["exp_avg_sq"] = torch.zeros_like(p), torch.zeros_like(p)
        steps, m, v = ([state[p][name] for p in self.parameters] for name in ("step", "exp_avg", "exp_avg_sq"))
        torch._foreach_add_(steps, 1)
        torch._fused_adamw_(
            self.parameters, gradients_of(self.parameters), m, v, [], steps, lr=self.lr, beta1=self.betas[0],
            beta2=self.betas[1], weight_decay=self.decay, eps=EPSILON, amsgrad=False, maximize=False,
        )  # fmt: skip


@dataclass
class Muon:
    """Matrices and how they move; W of shape (rows, columns) with gradient G, momentum M and rate lr:

        M <- m M + (1 - m) G
        W <- (1 - lr decay) W - lr max(1, rows / columns)^0.5 orthogonalise(m M + (1 - m) G)

    Those of one shape are worked on in one batch. With `bf16` the orthogonal matrix is computed in that format, whose
    errors are small beside what five rounds leave.
    """

    parameters: list[Tensor]
    peak: float
    decay: float
    momentum: float
    bf16: bool = False
    lr: Any = 0.0

    def update(self, state: State) -> None:
        """Move every matrix by its gradient."""
        for shape in dict.fromkeys(p.shape for p in self.parameters):
            alike = [p for p in self.parameters if p.shape == shape]
            for p in alike:
                if "momentum" not in state[p]:
                    state[p]["momentum"] = torch.zeros_like(p)
            gradients, memory = gradients_of(alike), [state[p]["momentum"] for p in alike]
            torch._foreach_lerp_(memory, gradients, 1 - self.momentum)
            mixed = torch.stack(torch._foreach_lerp(gradients, memory, self.momentum))  # (N, rows, columns)
            rows, columns = shape
            directions = orthogonalise(mixed.to(torch.bfloat16 if self.bf16 else torch.float32)).float().contiguous()
            torch._foreach_mul_(alike, 1 - self.lr * self.decay)
            torch._foreach_sub_(alike, (directions * (self.lr * max(1, rows / columns) ** 0.5)).unbind())


def gradients_of(parameters: Iterable[Tensor]) -> list[Tensor]:
    """Their gradients; after a backward pass every parameter of a model has one."""
    return [p.grad for p in parameters if p.grad is not None]


class Optimizer:
    """All parameters of a model, each in a group that knows how to move it, and what is remembered of them.

    With `averages`, also a moving mean of every parameter, after a step with the share `newest` of its new value:

        mean <- mean + newest (theta - mean)

    A step overshoots one way, the next the other; their mean is nearer to where they go (Polyak and Juditsky 1992).
    """

    def __init__(self, groups: list[AdamW | Muon], averages: bool = False) -> None:
        self.groups, self.averages = groups, averages
        self.parameters = [p for group in groups for p in group.parameters]
        self.state: State = defaultdict(dict)
        device = self.parameters[0].device if self.parameters else torch.device("cpu")
        self.newest: Any = torch.ones((), device=device) if device.type == "cuda" else 1.0
        if device.type == "cuda":
            for group in groups:
                group.lr = torch.zeros((), device=device)

    @torch.no_grad()
    def step(self) -> None:
        """Update every parameter from its gradient, and its mean."""
        for group in self.groups:
            group.update(self.state)
        if self.averages:
            for p in self.parameters:
                if MEAN not in self.state[p]:
                    self.state[p][MEAN] = p.detach().clone()
            means = [self.state[p][MEAN] for p in self.parameters]
            changes = torch._foreach_sub(self.parameters, means)
            torch._foreach_mul_(changes, self.newest)
            torch._foreach_add_(means, changes)

    def has_means(self) -> bool:
        """Whether there are means other than the weights: not before the first step."""
        return any(MEAN in self.state[p] for p in self.parameters)

    @torch.no_grad()
    def restart_means(self) -> None:
        """Set the means to the weights as they are, and move on from there; they stay where they are in memory."""
        for p in self.parameters:
            self.state[p][MEAN].copy_(p)

    def forget_means(self) -> None:
        """The weights alone count from here on."""
        for p in self.parameters:
            self.state[p].pop(MEAN, None)

    def swap(self) -> None:
        """The means into the model and the weights into `state`, or back; nothing happens where there are no means."""
        for p in self.parameters:
            if MEAN in self.state[p]:
                p.data, self.state[p][MEAN] = self.state[p][MEAN], p.data

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """The model with the means in it: what is validated, drawn from and saved."""
        self.swap()
        try:
            yield
        finally:
            self.swap()

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for p in self.parameters:
            p.grad = None

    def set_rate(self, share: float, newest: float = 1.0) -> None:
        """Every group at `share` of its peak rate: one schedule moves them all."""
        for group in self.groups:
            group.lr = put(group.lr, group.peak * share)
        self.newest = put(self.newest, newest)


def put(place: Any, value: float) -> Any:
    """The value, or the tensor `place` with the value in it: a recorded update reads it where it is."""
    return place.fill_(value) if isinstance(place, Tensor) else value


def make_optimizer(model: nn.Module, config: TrainConfig, bf16: bool = False) -> Optimizer:
    """Muon for the 2-D weights of the blocks (AdamW if muon_lr is 0), AdamW for the rest, at their peak rates.

    Weight decay pulls on every matrix but a table of positions: norms and biases have no direction to lose. On a text
    that is read many times it keeps head and embedding from learning it by heart; the blocks need little (LOG.md).
    """
    hidden: list[Tensor] = []
    decayed: list[Tensor] = []
    free: list[Tensor] = []
    for name, parameter in model.named_parameters():
        matrix = parameter.dim() >= 2 and not name.startswith("positions.")
        inside = config.muon_lr > 0 and name.startswith("blocks.")
        (free if not matrix else hidden if inside else decayed).append(parameter)
    betas = (config.beta1, config.beta2)
    muon = Muon(hidden, config.muon_lr, config.muon_decay, config.muon_momentum, bf16)
    groups: list[AdamW | Muon] = [
        muon,
        AdamW(decayed, config.lr, config.weight_decay, betas),
        AdamW(free, config.lr, 0.0, betas),
    ]
    optimizer = Optimizer([group for group in groups if group.parameters], averages=config.average > 0)
    optimizer.set_rate(1.0)
    return optimizer


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
        mixed = torch.baddbmm(square, square, square, beta=b, alpha=c)  # b X X^T + c (X X^T)^2
        x = torch.baddbmm(x, mixed, x, beta=a)
    return x.mT if tall else x


def schedule(step: int, config: TrainConfig) -> float:
    """Share of the peak rate of update number `step` (0, 1, ...): warm-up, flat, then linear to 0 in the last `decay`.

    min(1, (step + 1) / warmup_steps, (max_steps - step) / (decay * max_steps))
    """
    warm = (step + 1) / config.warmup_steps if config.warmup_steps > 0 else 1.0
    falling = config.decay * config.max_steps
    cool = (config.max_steps - step) / falling if falling > 0 else 1.0
    return max(0.0, min(1.0, warm, cool))


def newest_share(step: int, config: TrainConfig) -> float:
    """Share of the new weights in their mean after update number `step`: first a mean of all, then a moving one.

    max(1 / (step + 1), 1 / (average * max_steps))
    """
    return max(1 / (step + 1), 1 / max(1.0, config.average * config.max_steps))
