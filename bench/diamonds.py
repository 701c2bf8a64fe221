#!/usr/bin/python3
"""The diamonds table, for nflow train to be compared with a Gaussian and a mixture of 20.

usage: diamonds.py prepare DIAMONDS.csv FOLDER    writes FOLDER/train.csv and FOLDER/test.csv
       diamonds.py gaussians FOLDER [SEED]...     held-out NLL of both, with scikit-learn

DIAMONDS.csv is the table of R's ggplot2 (Debian: r-cran-ggplot2), as R writes it:
    Rscript -e 'write.csv(as.data.frame(ggplot2::diamonds), "diamonds.csv", row.names = FALSE)'

Values are rounded (price to dollars, carat and sizes to 0.01, depth and table to 0.1), and rows repeat: a density could grow without
bound there. Every number gets uniform noise as wide as its rounding, once, before the split, so that all models see the same rows. Rows that
were equal before the noise stay on one side of the split, or the test would hold rows of the training set.
"""
import csv
import sys
import time

import numpy

COLUMNS = {"carat": 0.01, "depth": 0.1, "table": 0.1, "price": 1.0, "x": 0.01, "y": 0.01, "z": 0.01}


def prepare(source, folder, seed=1):
    with open(source, newline="") as file:
        rows = numpy.array([[float(row[name]) for name in COLUMNS] for row in csv.DictReader(file)])
    random = numpy.random.default_rng(seed)
    _, group = numpy.unique(rows, axis=0, return_inverse=True)
    held_out = (random.random(group.max() + 1) < 0.2)[group]
    rows += (random.random(rows.shape) - 0.5) * numpy.array(list(COLUMNS.values()))
    for name, part in (("train", rows[~held_out]), ("test", rows[held_out])):
        numpy.savetxt(f"{folder}/{name}.csv", part, delimiter=",", header=",".join(COLUMNS), comments="", fmt="%.17g")
        print(f"{name}: {len(part)} rows")


def say(name, values, seconds):
    values = -values
    print(f"{name}: {values.mean():.4f} +- {values.std() / len(values) ** 0.5:.4f} nats, median {numpy.median(values):.3f}, worst {values.max():.1f}, "
          f"{seconds:.1f} s", flush=True)


def gaussians(folder, seeds):
    from sklearn.mixture import GaussianMixture
    train, test = (numpy.loadtxt(f"{folder}/{name}.csv", delimiter=",", skiprows=1) for name in ("train", "test"))
    scale = train.std(axis=0)
    log_scale = numpy.log(scale).sum()
    for components, some in ((1, seeds[:1]), (20, seeds)):
        for seed in some:
            begun = time.process_time()
            model = GaussianMixture(components, max_iter=500, random_state=seed).fit(train / scale)
            say(f"{components} component{'s' if components > 1 else ''}, seed {seed}", model.score_samples(test / scale) - log_scale, time.process_time() - begun)


if __name__ == "__main__":
    if len(sys.argv) >= 4 and sys.argv[1] == "prepare":
        prepare(sys.argv[2], sys.argv[3])
    elif len(sys.argv) >= 3 and sys.argv[1] == "gaussians":
        gaussians(sys.argv[2], [int(seed) for seed in sys.argv[3:]] or [1])
    else:
        sys.exit(__doc__)
