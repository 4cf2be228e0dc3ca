"""Exact nearest neighbours by blocks, `negatives.mine`, against faiss's flat index: time, memory, the same answer.

    python -m pip install faiss-cpu
    OMP_NUM_THREADS=2 python tools/benchmark_mining.py

Both search 100,000 unit vectors of 128 dimensions for the 32 nearest of each of 2,000 queries; best of five runs,
taken in turns, since times on a shared machine are noisy. Where the processor multiplies half precision natively,
`negatives.mine` screens in it and proves for each query that nothing was missed.
"""

import argparse
import os
import resource
import time

import faiss
import torch

from clipbook import negatives
from clipbook.losses import unit


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--queries", type=int, default=2_000)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--k", type=int, default=32)
    given = parser.parse_args()
    threads = int(os.environ.get("OMP_NUM_THREADS", os.cpu_count()))
    torch.set_num_threads(threads)
    faiss.omp_set_num_threads(threads)
    generator = torch.Generator().manual_seed(0)
    items, queries = (unit(torch.randn(n, given.dim, generator=generator)) for n in (given.items, given.queries))

    def flat():
        index = faiss.IndexFlatIP(given.dim)
        index.add(items.numpy())
        return index.search(queries.numpy(), given.k)

    ways = {"faiss flat": flat, "negatives.mine": lambda: negatives.mine(queries, items, given.k)}
    seconds, found = {name: [] for name in ways}, {}
    for _ in range(5):
        for name, way in ways.items():
            started = time.perf_counter()
            found[name] = way()
            seconds[name].append(time.perf_counter() - started)
    theirs, ours = (torch.as_tensor(found[name][0]) for name in ways)
    assert torch.allclose(ours, theirs, atol=1e-5), "not the same neighbours"
    print(f"{given.queries:,} queries, {given.items:,} x {given.dim}, k = {given.k}, {threads} threads")
    for name, times in seconds.items():
        print(f"{name:15} {min(times):.2f} s (of {', '.join(f'{t:.2f}' for t in times)})")
    print(f"faiss / ours    {min(seconds['faiss flat']) / min(seconds['negatives.mine']):.2f}")
    print(f"peak memory     {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB")


if __name__ == "__main__":
    main()
