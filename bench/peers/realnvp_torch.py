#!/usr/bin/env python3
"""Real NVP in PyTorch at the sizes of bench_flows, for comparison: eager with autograd, and with hand-written gradients in a script.

    realnvp_torch.py [threads [blocks [label]]]

Prints the JSON lines of bench_flows: training step (likelihood gradient and Adam), log_prob and the latency of one row, float32.
"""
import json
import math
import sys
import time
from typing import List, Tuple

import torch

SIZES = [("report", 2, 32, 32, 6), ("small", 2, 32, 32, 8), ("d8", 8, 64, 256, 8), ("middle", 16, 128, 1024, 8), ("large", 64, 256, 4096, 8)]
CLAMP = 3.0
RATE, BETA1, BETA2, EPSILON = 1e-6, 0.9, 0.999, 1e-8


def parameters(dim: int, width: int, couplings: int) -> List[torch.Tensor]:
    """Weight and bias of the three layers of each coupling."""
    a, out = dim // 2, []
    for _ in range(couplings):
        for n, m, gain in ((a, width, 1.0), (width, width, 1.0), (width, 2 * (dim - a), 0.01)):
            out.append(torch.randn(m, n) * gain / math.sqrt(n))
            out.append(torch.zeros(m))
    return out


def log_prob(x: torch.Tensor, p: List[torch.Tensor], couplings: int) -> torch.Tensor:
    half = x.shape[1] // 2
    z = [x[:, :half], x[:, half:]]
    log_det = torch.zeros(x.shape[0])
    for c in reversed(range(couplings)):
        keep, move = c % 2, 1 - c % 2
        h = torch.nn.functional.gelu(torch.addmm(p[6 * c + 1], z[keep], p[6 * c].t()))
        h = torch.nn.functional.gelu(torch.addmm(p[6 * c + 3], h, p[6 * c + 2].t()))
        s, t = torch.addmm(p[6 * c + 5], h, p[6 * c + 4].t()).chunk(2, 1)
        s = CLAMP * torch.tanh(s / CLAMP)
        z[move] = (z[move] - t) * torch.exp(-s)
        log_det = log_det - s.sum(1)
    return log_det - 0.5 * (z[0].square().sum(1) + z[1].square().sum(1)) - 0.5 * math.log(2 * math.pi) * x.shape[1]


@torch.jit.script
def gelu_slope(u: torch.Tensor) -> Tuple[torch.Tensor, torch.Tensor]:
    phi = 0.5 * (1 + torch.erf(u * 0.7071067811865476))
    return u * phi, phi + u * 0.3989422804014327 * torch.exp(-0.5 * u * u)


@torch.jit.script
def script_step(x: torch.Tensor, p: List[torch.Tensor], m: List[torch.Tensor], v: List[torch.Tensor], couplings: int, step: int) -> float:
    """One step of Adam on the mean negative log-likelihood, with the gradient written out."""
    half, rows = x.shape[1] // 2, x.shape[0]
    z = [x[:, :half], x[:, half:]]
    saved: List[List[torch.Tensor]] = []
    total = torch.zeros(1)
    for i in range(couplings):
        c = couplings - 1 - i
        keep, move = c % 2, 1 - c % 2
        a = z[keep]
        h1, g1 = gelu_slope(torch.addmm(p[6 * c + 1], a, p[6 * c].t()))
        h2, g2 = gelu_slope(torch.addmm(p[6 * c + 3], h1, p[6 * c + 2].t()))
        out = torch.addmm(p[6 * c + 5], h2, p[6 * c + 4].t())
        s0, t = out.chunk(2, 1)
        th = torch.tanh(s0 / 3.0)
        s = 3.0 * th
        e = torch.exp(-s)
        b = (z[move] - t) * e
        z[move] = b
        total = total + s.sum()
        saved.append([a, h1, g1, h2, g2, th, e, b])
    loss = (total + 0.5 * (z[0].square().sum() + z[1].square().sum())) / rows
    d = [z[0] / rows, z[1] / rows]
    correction1, correction2 = 1 - 0.9 ** step, 1 - 0.999 ** step
    for i in range(couplings):
        c = i
        keep, move = c % 2, 1 - c % 2
        a, h1, g1, h2, g2, th, e, b = saved[couplings - 1 - i]
        db = d[move]
        ds = (1.0 / rows - db * b) * (1 - th * th)
        d[move] = db * e
        dout = torch.cat([ds, -d[move]], 1)
        d2 = dout.mm(p[6 * c + 4]) * g2
        d1 = d2.mm(p[6 * c + 2]) * g1
        grads = [d1.t().mm(a), d1.sum(0), d2.t().mm(h1), d2.sum(0), dout.t().mm(h2), dout.sum(0)]
        d[keep] = d[keep] + d1.mm(p[6 * c])
        for j in range(6):
            k, g = 6 * c + j, grads[j]
            m[k].mul_(0.9).add_(g, alpha=0.1)
            v[k].mul_(0.999).addcmul_(g, g, value=0.001)
            p[k].addcdiv_(m[k], (v[k] / correction2).sqrt_().add_(1e-8), value=-1e-6 / correction1)
    return float(loss)


def seconds(threads: int) -> float:
    return time.process_time() if threads == 1 else time.perf_counter()


def blocks_of(run, threads: int, blocks: int, least: float = 0.02) -> List[float]:
    run()
    calls = 1
    while True:
        start = seconds(threads)
        for _ in range(calls):
            run()
        took = seconds(threads) - start
        if took >= least / 4:
            break
        calls *= 4
    times = []
    for _ in range(blocks):
        start = seconds(threads)
        for _ in range(calls):
            run()
        times.append((seconds(threads) - start) / calls)
    return sorted(times)


def main() -> None:
    threads = int(sys.argv[1]) if len(sys.argv) > 1 else 1
    blocks = int(sys.argv[2]) if len(sys.argv) > 2 else 9
    label = sys.argv[3] if len(sys.argv) > 3 else "default"
    torch.set_num_threads(threads)
    for size, dim, width, batch, couplings in SIZES:
        torch.manual_seed(11)
        p = parameters(dim, width, couplings)
        eager = [t.clone().requires_grad_() for t in p]
        optimizer = torch.optim.Adam(eager, lr=RATE)
        x = torch.randn(batch, dim)
        m, v = [torch.zeros_like(t) for t in p], [torch.zeros_like(t) for t in p]
        mine = [t.clone() for t in p]
        reference = -log_prob(x, eager, couplings).mean()
        got = script_step(x, mine, m, v, couplings, 1) + 0.5 * math.log(2 * math.pi) * dim
        assert abs(float(reference) - got) < 1e-3 * (1 + abs(got)), (float(reference), got)

        def eager_step() -> None:
            optimizer.zero_grad()
            loss = -log_prob(x, eager, couplings).mean()
            loss.backward()
            optimizer.step()

        def density() -> None:
            with torch.no_grad():
                log_prob(x, p, couplings)

        one = x[:1].clone()

        def one_row() -> None:
            with torch.no_grad():
                log_prob(one, p, couplings)

        works = [("torch-eager", "train_step", eager_step), ("torch-script", "train_step", lambda: script_step(x, mine, m, v, couplings, 2)),
                 ("torch-eager", "log_prob", density)]
        if threads == 1:
            works.append(("torch-eager", "one_row", one_row))
        for by, work, run in works:
            t = blocks_of(run, threads, blocks)
            print(json.dumps({"by": by, "flow": "realnvp", "work": work, "size": size, "real": "f32", "isa": label, "threads": threads,
                              "us": round(1e6 * t[len(t) // 2], 3), "us_low": round(1e6 * t[len(t) // 4], 3),
                              "us_high": round(1e6 * t[len(t) - 1 - len(t) // 4], 3)}), flush=True)


main()
