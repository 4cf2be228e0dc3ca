"""Tip-Adapter's grid scored all at once, against the plain double loop over it.

    python tools/benchmark_few_shot.py            # the loop on 2% of the grid, scaled up
    python tools/benchmark_few_shot.py 1          # the whole loop

The grid is that of the released code: 200 values of beta, 20 of alpha, here for 5 draws of 16 shots of 32 classes. The
loop calls `prototypes.tip_adapter_logits` for every draw, beta and alpha. The other way takes the votes of the shots
once for each beta and scores all alphas with `evaluate.mixing_accuracy`. Both see the same features, random ones of the
shipped model's width around a centre for each class, and must find the same accuracies. Prints seconds and the factor,
and fails if that is below 20.
"""

import sys
import time

import torch

from clipbook import evaluate, prototypes
from clipbook.losses import unit

SEEDS, CLASSES, SHOTS, TESTS, WIDTH, SCALE = 5, 32, 16, 1024, 128, 26.0
BETAS = [0.1 + i * (7 - 0.1) / 200 for i in range(200)]  # search_scale [7, 3], search_step [200, 20]: beta comes first
ALPHAS = [0.1 + i * (3 - 0.1) / 20 for i in range(20)]


def draw(seed: int = 0):
    """Draws of shots (seeds, m, d) with their labels, queries with theirs, a text for each class; unit vectors."""
    g = torch.Generator().manual_seed(seed)
    centre = torch.randn(CLASSES, WIDTH, generator=g)
    noisy = lambda y, size: unit(centre[y] + size * torch.randn(*y.shape, WIDTH, generator=g))
    label, answer = torch.arange(CLASSES).repeat_interleave(SHOTS), torch.arange(TESTS) % CLASSES
    return noisy(label.expand(SEEDS, -1), 3.0), label, noisy(answer, 3.0), answer, noisy(torch.arange(CLASSES), 2.0)


def loop(keys, label, x, answer, text, part: list[tuple[int, int, int]]) -> torch.Tensor:
    """Accuracy at some places of the grid (seed, beta, alpha), one after the other."""
    found = []
    for seed, b, a in part:
        logits = prototypes.tip_adapter_logits(x, keys[seed], label, text, ALPHAS[a], BETAS[b], SCALE)
        found.append((logits.argmax(1) == answer).double().mean())
    return torch.stack(found)


def batched(keys, label, x, answer, text) -> torch.Tensor:
    """Accuracy on the whole grid, (seeds, betas, alphas)."""
    base, far = SCALE * x @ text.T, 1 - x @ keys.mT
    hot = torch.nn.functional.one_hot(label, CLASSES).float()
    found = []
    for beta in BETAS:  # one at a time: a stack of all of them would not stay in the processor's cache
        found.append(evaluate.mixing_accuracy(base, (-beta * far).exp() @ hot, answer, ALPHAS))
    return torch.stack(found, 1)


def main(share: str = "0.02") -> None:
    torch.set_num_threads(2)
    data = draw()
    grid = [(s, b, a) for s in range(SEEDS) for b in range(len(BETAS)) for a in range(len(ALPHAS))]
    part = grid[:: max(1, round(1 / float(share)))]
    print(f"{len(grid)} settings, {TESTS} queries, {torch.get_num_threads()} threads")
    loop(*data, part[:3]), batched(*data)  # warm
    times = []
    for _ in range(3):
        started = time.perf_counter()
        fast = batched(*data)
        times.append(time.perf_counter() - started)
    once = min(times)
    started = time.perf_counter()
    slow = loop(*data, part)
    looped = (time.perf_counter() - started) * len(grid) / len(part)
    off = (fast[tuple(torch.tensor(part).T)] - slow).abs().max()
    assert off <= 2.1 / TESTS, f"the two disagree by {off:g}"  # two queries on the edge in single precision
    print(f"accuracy {fast.min():.1%} to {fast.max():.1%}, largest difference of the two {off:.2%}")
    print(f"double loop: {looped:.1f} s ({len(part)} settings measured)")
    print(f"all at once: {once:.2f} s, faster by a factor of {looped / once:.0f}")
    assert looped / once >= 20, f"all at once is only {looped / once:.1f} times faster"


if __name__ == "__main__":
    main(*sys.argv[1:])
