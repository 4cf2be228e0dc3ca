"""CLAP's training with every sentence encoded once, against the loop that encodes again at every step.

    python tools/benchmark_clap.py                      # the shipped model: everything to the end
    python tools/benchmark_clap.py ViT-B-16/random 5    # text tower of ViT-B/16: a part of all, scaled up

All see the same classes, kinds of prompts, edits and noise, head, optimiser and number of steps; they differ in when a
sentence is encoded, and in how often the same edit and noise come back. The loop is timed as it is released, with every
sentence padded to the whole context, and with padding left out. All times contain the training of the head.

The number of steps is the least that the released loop takes: it looks at its loss every 480 steps, and gives up after
five looks without a gain. The chapter itself takes fewer, and gains less by encoding once.

Run to the end, it also asserts that the two ways have the same loss curve within noise: averaged over any 96 steps, the
two losses differ by less than one step's loss varies within them.

Measured on one CPU core, in seconds for 2,880 steps (ViT-B-16/random: 3 steps of the loops and a twelfth of the pool,
scaled up; factors are over encoding once):

                      padded loop   loop without padding   once
    glyph                     228                     94     11    factors 21.4 and 8.8
    ViT-B-16/random         19827                   3181    127    factors 155.9 and 25.0

With glyph the loss curves agree: 5.792 and 5.782 nats over the last 96 steps, where a step varies by 0.032.
"""

import sys
import time
from contextlib import nullcontext
from unittest import mock

import torch

from clipbook import backbones, clap, heads, losses, prompts, training, world

STEPS, LAST, PROMPTS = 6 * 480, 96, 96


def draw(steps):
    """For every step one prompt per class and its edit, before the clock runs: (prompts, edits), a list each."""
    every = [prompts.views(name, steps) for name in world.OBJECTS]
    return [tuple(zip(*((plain[step], edited[step]) for plain, edited in every))) for step in range(steps)]


def encode(backbone, drawn, step):
    """The three batches of one step, encoded now: one prompt per class, its edit with noise, the bare names."""
    plain, edited = drawn[step]
    position = clap.POSITIONS[step % len(clap.POSITIONS)]
    generator = torch.Generator().manual_seed(step)
    return (
        backbone.embed_texts(list(plain)),
        backbone.embed_noised_texts(list(edited), position=position, generator=generator),
        backbone.embed_texts(list(world.OBJECTS)),
    )


def loop(backbone, drawn):
    torch.manual_seed(0)
    head = heads.DisentangledNetwork(backbone.dim)

    def loss(apply, step):
        return losses.clap_loss(*(apply(part[None]) for part in encode(backbone, drawn, step)))

    return training.fit([head], loss, len(drawn))


def timed_loop(backbone, measured, label):
    drawn = draw(measured)
    encode(backbone, drawn, 0)  # warm
    started = time.perf_counter()
    history = loop(backbone, drawn)
    seconds = (time.perf_counter() - started) * STEPS / measured
    print(f"encoding at every step, {label}: {seconds:.0f} s for {STEPS} steps ({measured} measured)", flush=True)
    return seconds, history


def assert_same_curve(slow, fast) -> None:
    """Over every LAST steps the means differ by less than a single step varies."""
    for first in range(0, STEPS, LAST):
        a, b = (history[first : first + LAST, 0] for history in (slow, fast))
        gap, noise = float((a.mean() - b.mean()).abs()), float(torch.maximum(a.std(), b.std()))
        line = f"steps {first} to {first + LAST}: loss {a.mean():.3f} and {b.mean():.3f} nats, a step ± {noise:.3f}"
        print(line, flush=True)
        assert gap < noise, line


def main(name: str = "glyph", measured: str = str(STEPS)) -> None:
    backbone, measured = backbones.load(name, "cpu"), int(measured)
    print(f"{name}, {torch.get_num_threads()} threads")
    with mock.patch.object(backbones.Backbone, "_context", return_value=nullcontext()):
        padded, _ = timed_loop(backbone, measured, "whole context")
    short, slow = timed_loop(backbone, measured, "no padding")
    some = PROMPTS if measured == STEPS else PROMPTS // 12
    started = time.perf_counter()
    views = clap.embed_views(backbone, world.OBJECTS, some)
    encoded = (time.perf_counter() - started) * PROMPTS / some
    started = time.perf_counter()
    _, fast = clap.train(views, (0,), steps=STEPS)
    once = encoded + time.perf_counter() - started
    sentences = 2 * PROMPTS * len(world.OBJECTS)
    print(f"encoding once: {once:.0f} s, {encoded:.0f} s of them for {sentences} sentences")
    print(f"faster by a factor of {padded / once:.1f}, and {short / once:.1f} where the loop leaves padding out")
    if measured == STEPS:
        assert_same_curve(slow, fast)


if __name__ == "__main__":
    main(*sys.argv[1:])
