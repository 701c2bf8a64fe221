#!/usr/bin/env python3
"""The continuous flow of the 2022 report in PyTorch, for comparison: what one evaluation of its right-hand side costs in training.

    cnf_torch.py [label]

Hyper dynamics of 64 units from a net of 2 x 32, batches of 32 rows of two dimensions, the trace by automatic differentiation, Dormand-Prince steps of fixed length
with back-propagation through them, and Adam. One thread. Prints JSON lines as bench_cnf does.
"""
import json
import sys
import time
from typing import Tuple

import torch

DIM, UNITS, HIDDEN, BATCH, STEPS, BLOCKS = 2, 64, 32, 32, 4, 9
# Dormand & Prince 1980
A = [[], [1 / 5], [3 / 40, 9 / 40], [44 / 45, -56 / 15, 32 / 9], [19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729],
     [9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656]]
B = [35 / 384, 0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84]
C = [0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1]


class Field(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = torch.nn.Sequential(torch.nn.Linear(1, HIDDEN), torch.nn.Tanh(), torch.nn.Linear(HIDDEN, HIDDEN), torch.nn.Tanh(),
                                       torch.nn.Linear(HIDDEN, 3 * UNITS * DIM + UNITS))

    def forward(self, t: float, z: torch.Tensor) -> torch.Tensor:
        out = self.net(torch.tensor([[t]]))[0]
        size = UNITS * DIM
        w, u, g = out[:size].view(UNITS, DIM, 1), out[size:2 * size].view(UNITS, 1, DIM), out[2 * size:3 * size].view(UNITS, 1, DIM)
        h = torch.tanh(torch.matmul(z.unsqueeze(0), w) + out[3 * size:].view(UNITS, 1, 1))
        return torch.matmul(h, u * torch.sigmoid(g)).mean(0)


def rates(field: Field, t: float, z: torch.Tensor) -> Tuple[torch.Tensor, torch.Tensor]:
    f = field(t, z)
    trace = torch.zeros(z.shape[0])
    for i in range(DIM):
        trace = trace + torch.autograd.grad(f[:, i].sum(), z, create_graph=True)[0][:, i]
    return f, trace


def solve(field: Field, x: torch.Tensor) -> Tuple[torch.Tensor, torch.Tensor]:
    """From t = 1 back to 0."""
    z, log_det, h = x.requires_grad_(), torch.zeros(x.shape[0]), -1.0 / STEPS
    for step in range(STEPS):
        t, k, traces = 1.0 + step * h, [], []
        for j in range(len(C)):
            y = z
            for a, previous in zip(A[j], k):
                y = y + h * a * previous
            f, trace = rates(field, t + C[j] * h, y)
            k.append(f)
            traces.append(trace)
        for b, f, trace in zip(B, k, traces):
            z, log_det = z + h * b * f, log_det + h * b * trace
    return z, log_det


def main() -> None:
    label = sys.argv[1] if len(sys.argv) > 1 else "default"
    torch.set_num_threads(1)
    torch.manual_seed(11)
    field = Field()
    optimizer = torch.optim.Adam(field.parameters(), lr=1e-3)
    x = torch.randn(BATCH, DIM)

    def train() -> None:
        optimizer.zero_grad()
        z, log_det = solve(field, x.clone())
        (0.5 * z.square().sum(1) / 0.1 - log_det).mean().backward()
        optimizer.step()

    train()
    times = []
    for _ in range(BLOCKS):
        start = time.process_time()
        train()
        times.append((time.process_time() - start) / (STEPS * len(C)))
    times.sort()
    for size in ("report-own-step", "report-shared-step"):  # the same work: there are no rows with steps of their own
        print(json.dumps({"by": "torch-eager", "flow": "cnf", "work": "evaluation", "size": size, "real": "f32", "isa": label, "threads": 1,
                          "us": round(1e6 * times[BLOCKS // 2], 3), "us_low": round(1e6 * times[BLOCKS // 4], 3),
                          "us_high": round(1e6 * times[BLOCKS - 1 - BLOCKS // 4], 3)}), flush=True)


if __name__ == "__main__":
    main()
