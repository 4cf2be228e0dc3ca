"""Exact nearest neighbours by blocks, `negatives.mine`, against faiss's flat index: time, memory, the same answer.

    python -m pip install faiss-cpu
    OMP_NUM_THREADS=2 python tools/benchmark_mining.py

Both search 100,000 unit vectors of 128 dimensions for the 32 nearest of each of 2,000 queries; best of five runs,
taken in turns, in CPU seconds, since times on a shared machine are noisy. Where the processor multiplies half
precision natively, `negatives.mine` screens in it and proves for each query that nothing was missed; there it is
raced once more without. Exits with 1 where ours, as it runs on that processor, is slower than faiss.

Measured with faiss-cpu 1.15.1 and torch 2.15 on one thread of an AMD EPYC with AVX-512 bfloat16, in CPU seconds: faiss
0.58, ours 0.51, ours without bfloat16 0.94. So the gain is that of half precision. In single precision most of our time
is PyTorch's matrix product, and faiss is faster there.
"""

import argparse
import os
import resource
import sys
import time

import faiss
import torch

from clipbook import negatives
from clipbook.losses import unit


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--queries", type=int, default=2_000)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--k", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    threads = int(os.environ.get("OMP_NUM_THREADS", os.cpu_count()))
    torch.set_num_threads(threads)
    faiss.omp_set_num_threads(threads)
    generator = torch.Generator().manual_seed(0)
    items, queries = (unit(torch.randn(n, given.dim, generator=generator)) for n in (given.items, given.queries))
    native = negatives._FAST_HALF

    def flat():
        index = faiss.IndexFlatIP(given.dim)
        index.add(items.numpy())
        return index.search(queries.numpy(), given.k)

    def ours(half):
        negatives._FAST_HALF = half
        return negatives.mine(queries, items, given.k)

    ways = {"faiss flat": flat, "negatives.mine": lambda: ours(native)}
    if native:
        ways["without bfloat16"] = lambda: ours(False)
    seconds, found = {name: [] for name in ways}, {}
    for _ in range(given.rounds):
        for name, way in ways.items():
            started = time.process_time()
            found[name] = way()
            seconds[name].append(time.process_time() - started)
    for name, (values, _) in found.items():
        right = torch.as_tensor(found["faiss flat"][0])
        assert torch.allclose(torch.as_tensor(values), right, atol=1e-5), f"{name}: not the same neighbours"
    print(f"{given.queries:,} queries, {given.items:,} x {given.dim}, k = {given.k}, {threads} threads")
    best = {name: min(times) for name, times in seconds.items()}
    for name, times in seconds.items():
        print(f"{name:17} {best[name]:.2f} CPU s (of {', '.join(f'{t:.2f}' for t in times)})", end="")
        print(f", faiss / ours {best['faiss flat'] / best[name]:.2f}" if name != "faiss flat" else "")
    print(f"peak memory       {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB")
    return int(best["negatives.mine"] > best["faiss flat"])


if __name__ == "__main__":
    sys.exit(main())
