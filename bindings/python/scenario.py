"""The scenario of bindings/tests/scenario.c.

usage: scenario.py MODEL
"""
import sys

import numpy as np

import nflow


def show(name, values):
    for index, bits in enumerate(np.ascontiguousarray(values, dtype=np.float64).reshape(-1).view(np.uint64)):
        print("%s %d %016X" % (name, index, bits))


def main(model):
    with nflow.Flow.planar(dim=2, layers=2, seed=11) as source:
        source.set_base_normal([1, -2], [2, .5])
        x, _ = source.sample(400, nflow.Rng(seed=5, stream=6))
    flow = nflow.Flow.realnvp(dim=2, couplings=4, hidden_width=16, seed=7)
    epochs = []
    report = flow.fit(x, epochs=5, batch_size=50, threads=2, seed=3, optimizer=dict(kind="adam", learning_rate=.01),
                      progress=lambda progress: epochs.append(progress.epoch))
    show("epochs", sum(epochs))
    show("best", report.best_loss)
    flow.save(model)
    flow = nflow.Flow.load(model)
    with nflow.Workspace(flow, threads=2) as workspace:
        draws, log_prob = flow.sample(100, nflow.Rng(seed=1, stream=2), workspace=workspace)
        show("x", draws)
        show("log_prob", log_prob)
        z, log_det = flow.inverse(draws, workspace=workspace)
        show("z", z)
        show("log_det", log_det)
        show("score", flow.score(draws, workspace=workspace)[1])
    q = nflow.Flow.radial(dim=2, seed=2)
    q.fit_reverse_kl(lambda x: (-.5 * (x[:, 0] * x[:, 0] + x[:, 1] * x[:, 1]), -x), steps=20, samples=32, seed=9)
    show("reverse_kl", q.parameters)
    show("mlp", nflow.Mlp(2, 3, hidden_width=8, seed=4).forward(x[:4]))
    rate = np.array([[1.], [2.]])
    show("ode", nflow.ode_solve(lambda t, y, row: -rate[row] * y, [[1.], [1.]], 0, 1))


main(sys.argv[1])
