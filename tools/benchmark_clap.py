"""CLAP's training with every sentence encoded once, against the loop that encodes again at every step.

    python tools/benchmark_clap.py                       # the shipped model: both to the end
    python tools/benchmark_clap.py ViT-B-16/random 20    # text tower of ViT-B/16: 20 steps of the loop, scaled up

Both see the same classes, prompts, edits, noise, head, optimiser and number of steps; they differ in when a sentence
is encoded, and in how often the same edit and noise come back. Prints seconds and the loss at the end.
"""

import sys
import time

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


def main(name: str = "glyph", measured: str = str(STEPS)) -> None:
    backbone, measured = backbones.load(name, "cpu"), int(measured)
    encode(backbone, 0)  # warm
    started = time.perf_counter()
    slow = loop(backbone, measured)
    seconds = (time.perf_counter() - started) * STEPS / measured
    print(f"{name}, encoding at every step: {seconds:.0f} s for {STEPS} steps ({measured} measured)")
    started = time.perf_counter()
    views = clap.embed_views(backbone, world.OBJECTS, PROMPTS)
    encoded = time.perf_counter() - started
    _, fast = clap.train(views, (0,), steps=STEPS)
    once = time.perf_counter() - started
    print(
        f"{name}, encoding once: {once:.0f} s, {encoded:.0f} s of them for {2 * PROMPTS * len(world.OBJECTS)} sentences"
    )
    print(f"faster by a factor of {seconds / once:.1f}")
    if measured == STEPS:
        for label, history in (("at every step", slow), ("once", fast)):
            tail = history[-LAST:, 0]
            print(f"loss, last {LAST} steps, encoding {label}: {tail.mean():.3f} ± {tail.std() / LAST**0.5:.3f} nats")


if __name__ == "__main__":
    main(*sys.argv[1:])
