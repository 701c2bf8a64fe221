#!/usr/bin/env python3
"""The continuous flow of the 2022 report in PyTorch as such flows are trained there: adaptive steps and the adjoint equation.

    cnf_adjoint_torch.py [label [steps]]

Hyper dynamics of 64 units from a net of 2 x 32, batches of 32 rows of two moons, the trace by automatic differentiation, Dormand-Prince steps of one length for
the batch (rtol 1e-7, atol 1e-9), the gradient by the adjoint equation solved with the same steps (Chen et al. 2018, algorithm 1), Adam, single precision, one
thread. Prints JSON lines as bench_cnf does: what an evaluation of the right-hand side costs on the way forward, with its share of the gradient and of Adam.
"""
import json
import sys
import time
from typing import Callable, List, Tuple

import torch

from cnf_torch import A, B, BATCH, C, Field, rates

# the difference of the fifth and the fourth order's weights; the last stage is the next step's first
E = [71 / 57600, 0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40]
RTOL, ATOL = 1e-7, 1e-9
State = List[torch.Tensor]
Rate = Callable[[float, State], State]


class Solver:
    """Adaptive steps of one length for all parts of a state; counts evaluations."""

    def __init__(self) -> None:
        self.evaluations = 0

    def rate(self, f: Rate, t: float, y: State) -> State:
        self.evaluations += 1
        return f(t, y)

    def solve(self, f: Rate, y: State, t: float, end: float) -> State:
        direction = 1.0 if end > t else -1.0
        k = [self.rate(f, t, y)]
        h = 0.01
        while (end - t) * direction > 0:
            last = h >= abs(end - t)
            step = direction * (abs(end - t) if last else h)
            for j in range(1, 6):
                k.append(self.rate(f, t + C[j] * step, combine(y, step, A[j], k)))
            new = combine(y, step, B, k)
            k.append(self.rate(f, t + step, new))
            squares, count = 0.0, 0
            for i, part in enumerate(y):
                error = step * sum(e * stage[i] for e, stage in zip(E, k))
                squares += float((error / (ATOL + RTOL * torch.maximum(part.abs(), new[i].abs()))).square().sum())
                count += part.numel()
            error = (squares / count) ** 0.5
            if error <= 1 or h < 1e-4:  # single precision may not reach the tolerance
                t, y, k = (end if last else t + step), new, [k[6]]
            else:
                k = [k[0]]
            h = abs(step) * min(10.0, max(0.2, 0.9 * max(error, 1e-10) ** -0.2))
        return y


def combine(y: State, h: float, a: List[float], k: List[State]) -> State:
    return [part + h * sum(c * stage[i] for c, stage in zip(a, k) if c != 0) for i, part in enumerate(y)]


def two_moons(rows: int) -> torch.Tensor:
    angle = torch.pi * torch.rand(rows)
    upper = torch.arange(rows) % 2 == 0
    x = torch.where(upper, torch.cos(angle), 1 - torch.cos(angle))
    y = torch.where(upper, torch.sin(angle), 0.5 - torch.sin(angle))
    return torch.stack([x, y], 1) + 0.1 * torch.randn(rows, 2)


class Flow:
    def __init__(self) -> None:
        self.field = Field()
        self.parameters = list(self.field.parameters())
        self.optimizer = torch.optim.Adam(self.parameters, lr=1e-3)
        self.forward, self.backward = Solver(), Solver()

    def rate(self, t: float, y: State) -> State:
        with torch.enable_grad():
            f, trace = rates(self.field, t, y[0].detach().requires_grad_())
        return [f.detach(), trace.detach()]

    def adjoint_rate(self, t: float, y: State) -> State:
        """Of z, its cotangent and the parameters' gradient; log_det's cotangent is constant."""
        with torch.enable_grad():
            z = y[0].detach().requires_grad_()
            f, trace = rates(self.field, t, z)
            value = (y[1] * f).sum() + self.trace_cotangent * trace.sum()
            gradients = torch.autograd.grad(value, [z] + self.parameters)
        return [f.detach(), -gradients[0]] + [-g for g in gradients[1:]]

    def gradient(self, x: torch.Tensor) -> torch.Tensor:
        """The loss, and its gradient in the parameters: from the data at 1 to the base N(0, 0.1 I) at 0, and the adjoint equation from 0 back to 1."""
        z, log_det = self.forward.solve(self.rate, [x, torch.zeros(len(x))], 1.0, 0.0)
        self.trace_cotangent = -1.0 / len(x)
        state = self.backward.solve(self.adjoint_rate, [z, z / (0.1 * len(x))] + [torch.zeros_like(p) for p in self.parameters], 0.0, 1.0)
        for parameter, gradient in zip(self.parameters, state[2:]):
            parameter.grad = gradient
        return (0.5 * z.square().sum(1) / 0.1 - log_det).mean()


def main() -> None:
    label = sys.argv[1] if len(sys.argv) > 1 else "default"
    steps = int(sys.argv[2]) if len(sys.argv) > 2 else 39
    torch.set_num_threads(1)
    torch.manual_seed(11)
    flow, data = Flow(), two_moons(400)
    times: List[float] = []
    for step in range(steps + 1):
        evaluations, start = flow.forward.evaluations, time.process_time()
        flow.gradient(data[torch.arange(BATCH * step, BATCH * (step + 1)) % len(data)])
        flow.optimizer.step()
        if step > 0:  # the first one warms up
            times.append((time.process_time() - start) / (flow.forward.evaluations - evaluations))
    times.sort()
    print(json.dumps({"by": "torch-adjoint", "flow": "cnf", "work": "evaluation", "size": "report-shared-step", "real": "f32", "isa": label, "threads": 1,
                      "us": round(1e6 * times[steps // 2], 3), "us_low": round(1e6 * times[steps // 4], 3),
                      "us_high": round(1e6 * times[steps - 1 - steps // 4], 3)}), flush=True)


if __name__ == "__main__":
    main()
