"""One loop that trains small modules on frozen features: many at a time, with early stopping and a history."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from numbers import Real

import torch
from torch import Tensor, nn
from tqdm import tqdm

from clipbook.losses import ABOVE_0, check_number


def fit(
    modules: Sequence[nn.Module],
    loss: Callable[[Callable, int], Tensor],
    steps: int,
    *,
    learning_rate: float = 1e-3,
    check_every: int | None = None,
    patience: int = 5,
    min_delta: float = 0.01,
    description: str = "training",
) -> Tensor:
    """Train k modules of one architecture side by side with Adam, as if each were alone.

    Their parameters are stacked, so that k of them (seeds, values of a hyper-parameter) cost about as much
    time as one. The modules are changed in place and end in evaluation mode; parameters that do not require a
    gradient stay as they are.

    Args:
        modules: k modules with parameters of the same shapes, and the same `alpha` where they have one.
        loss: called as loss(apply, step), returns the losses (k,). `apply` takes what the modules take, stacked
            (k, ...), and maps it module by module: (k, ..., d) to (k, ..., out).
        steps: at most this many, >= 1.
        learning_rate: of Adam; > 0.
        check_every: steps between looks at the loss, averaged since the last look. None: no early stopping.
        patience, min_delta: a module stops after `patience` looks without a gain of `min_delta`, and keeps the
            parameters of its best look.
        description: of the progress bar, which shows once the wait is noticeable.

    Returns: history, (steps run, k) float32, NaN once a module has stopped. Raises ValueError for bad
    arguments, modules without a parameter to train, and buffers that change (those of batch norm); and
    FloatingPointError when a loss or a parameter is not finite. The modules then are as they were.
    """
    modules = list(modules)
    if not modules:
        raise ValueError("modules must hold at least one module, got none")
    for name, value in (("steps", steps), ("check_every", check_every), ("patience", patience)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise ValueError(f"{name} must be a positive int, got {value!r}")
    check_number("learning_rate", learning_rate, ABOVE_0)
    check_number("min_delta", min_delta)
    alphas = {module.alpha for module in modules if isinstance(getattr(module, "alpha", None), Real)}
    if len(alphas) > 1:  # a plain attribute is not stacked: all would train with that of the first
        raise ValueError(f"modules must have the same alpha while they train, got {sorted(alphas)}")
    state, buffers = torch.func.stack_module_state(modules)
    trained = [value for value in state.values() if value.requires_grad]
    if not trained:
        raise ValueError("modules must have parameters that require a gradient, got none")
    before, template = copy.deepcopy(buffers), copy.deepcopy(modules[0]).train()

    def one(parameters, buffers, *x):
        return torch.func.functional_call(template, (parameters, buffers), x)

    apply = lambda *x: torch.func.vmap(one)(state, buffers, *x)
    optimiser = torch.optim.Adam(trained, lr=learning_rate)
    running = torch.ones(len(modules), dtype=torch.bool)
    best = {name: value.detach().clone() for name, value in state.items()}
    lowest, waited, since = torch.full((len(modules),), math.inf), torch.zeros(len(modules)), []
    history, hint = [], "a lower learning_rate may help"
    for step in tqdm(range(steps), description, delay=2, leave=False, mininterval=1):
        values = loss(apply, step)
        if values.shape != (len(modules),):
            raise ValueError(f"loss must return one value per module, ({len(modules)},), got {tuple(values.shape)}")
        optimiser.zero_grad()
        if step == 0 and not all(torch.equal(value, before[name]) for name, value in buffers.items()):
            raise ValueError("modules must not have buffers that change while they train, as those of batch norm do")
        values.sum().backward()  # a sum: no module sees another's gradient
        optimiser.step()
        seen = values.detach().float().cpu()
        if not bool(seen[running].isfinite().all()):
            raise FloatingPointError(f"the loss was not finite at step {step}; {hint}")
        history.append(seen.where(running, torch.nan))
        if check_every is None:
            continue
        since.append(seen)
        if len(since) == check_every or step + 1 == steps:
            mean, since = torch.stack(since).mean(0), []
            better = running & (mean < lowest - min_delta)
            lowest, waited = torch.where(better, mean, lowest), torch.where(better, 0, waited + 1)
            for name, value in state.items():
                best[name][better] = value.detach()[better]
            running &= waited < patience
            if not bool(running.any()):
                break
    final = best if check_every is not None else state
    if not all(bool(value.isfinite().all()) for value in final.values()):
        raise FloatingPointError(f"a parameter was not finite after step {step}; {hint}")
    with torch.no_grad():
        for index, module in enumerate(modules):
            for name, parameter in module.eval().named_parameters():
                parameter.copy_(final[name][index])
    return torch.stack(history)
