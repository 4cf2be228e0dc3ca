"""CLAP's training with every sentence encoded once, against the loop that encodes again at every step.

    python tools/benchmark_clap.py                      # the shipped model: everything to the end
    python tools/benchmark_clap.py ViT-B-16/random 5    # text tower of ViT-B/16: a part of all, scaled up

All see the same classes, kinds of prompts, edits and noise, head, optimiser and number of steps; they differ in when a
sentence is encoded, and in how often the same edit and noise come back. The loop is timed as it is released, with every
sentence padded to the whole context, and with padding left out. All times contain the training of the head.

Run to the end, it also asserts that the two ways have the same loss curve within noise: averaged over any hundred
steps, the two losses differ by less than one step's loss varies within that hundred.

Measured on one CPU core, in seconds for 700 steps (ViT-B-16/random: 2 steps of the loops and a twelfth of the pool,
scaled up; factors are over encoding once):

                      padded loop   loop without padding   once
    glyph                      45                     24      4    factors 10.1 and 5.4
    ViT-B-16/random          5031                   1209    157    factors 32.0 and 7.7

So ten times and more hold against the released loop, at both sizes; a part of that is the padding. With
glyph the loss curves agree: 5.848 and 5.834 nats over the last hundred steps, where a step varies by 0.033.
"""

import sys
import time
from contextlib import nullcontext
from unittest import mock

import torch

from clipbook import backbones, clap, heads, losses, prompts, training, world

STEPS, LAST, PROMPTS = 700, 100, 96


def encode(backbone, seed):
    """The three batches of one step, encoded now: one prompt per class, its edit with noise, the bare names."""
    drawn = [prompts.views(name, 1, seed=seed) for name in world.OBJECTS]
    position = clap.POSITIONS[seed % len(clap.POSITIONS)]
    generator = torch.Generator().manual_seed(seed)
    return (
        backbone.embed_texts([plain[0] for plain, _ in drawn]),
        backbone.embed_noised_texts([edited[0] for _, edited in drawn], position=position, generator=generator),
        backbone.embed_texts(list(world.OBJECTS)),
    )


def loop(backbone, steps):
    torch.manual_seed(0)
    head = heads.DisentangledNetwork(backbone.dim)

    def loss(apply, step):
        return losses.clap_loss(*(apply(part[None]) for part in encode(backbone, step)))

    return training.fit([head], loss, steps)


def timed_loop(backbone, measured, label):
    encode(backbone, 0)  # warm
    started = time.perf_counter()
    history = loop(backbone, measured)
    seconds = (time.perf_counter() - started) * STEPS / measured
    print(f"encoding at every step, {label}: {seconds:.0f} s for {STEPS} steps ({measured} measured)", flush=True)
    return seconds, history


def assert_same_curve(slow, fast) -> None:
    """Hundred by hundred steps, the means differ by less than a single step varies."""
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
