#!/usr/bin/env python3
"""Near-minimax coefficients of src/engine/kernels/vmath_tables.h, and the tables of gelu_tables.h.

    python3 tools/fit/vmath_fit.py [name ...]
    python3 tools/fit/vmath_fit.py gelu_tables

Each approximant is a polynomial or a rational function whose largest relative error on an interval is made small by
Lawson's reweighted least squares (C. L. Lawson, 1961); a rational function is linearised about the denominator of the
round before (C. K. Sanathanan and J. Koerner, 1963). Work is done in a Chebyshev basis with 60 digits, and printed in
powers of the variable, lowest first, with the relative error that was reached before the coefficients are rounded.

Needs mpmath.
"""
import struct
import sys

import mpmath as mp

mp.mp.dps = 60


def chebyshev_row(u, degree):
    row = [mp.mpf(1), u]
    while len(row) <= degree:
        row.append(2 * u * row[-1] - row[-2])
    return row[:degree + 1]


def powers_from_chebyshev(c):
    """Coefficients in powers of u of sum c_j T_j(u)."""
    total = [mp.mpf(0)] * len(c)
    basis = [[mp.mpf(1)], [mp.mpf(0), mp.mpf(1)]]
    for j, cj in enumerate(c):
        if j >= 2:
            nxt = [mp.mpf(0)] + [2 * v for v in basis[-1]]
            for k, v in enumerate(basis[-2]):
                nxt[k] -= v
            basis.append(nxt)
        for k, v in enumerate(basis[j]):
            total[k] += cj * v
    return total


def times_linear(p, c0, c1):
    """p(u) (c0 + c1 u)"""
    out = [c0 * v for v in p] + [mp.mpf(0)]
    for k, v in enumerate(p):
        out[k + 1] += c1 * v
    return out


def substitute(p, top, bottom, degree):
    """bottom(x)^degree p(top(x) / bottom(x)) for linear top and bottom, given as (constant, slope)."""
    total = [mp.mpf(0)] * (degree + 1)
    for k, v in enumerate(p):
        term = [v]
        for _ in range(k):
            term = times_linear(term, *top)
        for _ in range(degree - k):
            term = times_linear(term, *bottom)
        for i, t in enumerate(term):
            total[i] += t
    return total


def lawson(f, n, m, rounds):
    """Chebyshev coefficients of a degree n over degree m fit to f on [-1, 1], and its largest relative error."""
    unknowns = n + m + 1
    points = 8 * unknowns + 9
    us = [mp.cos(mp.pi * (2 * i + 1) / (2 * points)) for i in range(points)]
    fs = [f(u) for u in us]
    rows = [chebyshev_row(u, max(n, m)) for u in us]
    weights = [mp.mpf(1)] * points
    denominators = [mp.mpf(1)] * points
    best = None
    for _ in range(rounds):
        normal = mp.matrix(unknowns, unknowns)
        rhs = mp.matrix(unknowns, 1)
        for fi, row, w, d in zip(fs, rows, weights, denominators):
            s = w / (fi * d) ** 2
            basis = row[:n + 1] + [-fi * t for t in row[1:m + 1]]
            for i, bi in enumerate(basis):
                sb = s * bi
                rhs[i] += sb * fi
                for j in range(i, unknowns):
                    normal[i, j] += sb * basis[j]
        for i in range(unknowns):
            for j in range(i):
                normal[i, j] = normal[j, i]
        c = mp.lu_solve(normal, rhs)
        top, bottom = list(c[:n + 1]), [mp.mpf(1)] + list(c[n + 1:])
        errors = []
        for i, (fi, row) in enumerate(zip(fs, rows)):
            denominators[i] = mp.fdot(bottom, row[:m + 1])
            errors.append(abs(mp.fdot(top, row[:n + 1]) / denominators[i] / fi - 1))
        worst = max(errors)
        if best is None or worst < best[0]:
            best = (worst, top, bottom)
        mean = sum(w * e for w, e in zip(weights, errors)) / points
        weights = [w * e / mean for w, e in zip(weights, errors)]
    return best


def fit_interval(f, a, b, n, rounds=25):
    """Polynomial of degree n on [a, b]."""
    a, b = mp.mpf(a), mp.mpf(b)
    centre, half = (a + b) / 2, (b - a) / 2
    worst, top, _ = lawson(lambda u: f(centre + half * u), n, 0, rounds)
    linear = (-centre / half, 1 / half)
    return worst, substitute(powers_from_chebyshev(top), linear, (mp.mpf(1), mp.mpf(0)), n), None


def fit_half_line(f, knee, b, n, m, rounds=25):
    """Degree n over degree m on [0, b], spread by y = (x - knee) / (x + knee)."""
    knee, b = mp.mpf(knee), mp.mpf(b)
    last = (b - knee) / (b + knee)
    centre, half = (last - 1) / 2, (last + 1) / 2

    def in_u(u):
        y = centre + half * u
        x = knee * (1 + y) / (1 - y)
        return f(x) * (x + knee) ** (m - n)     # a polynomial of degree k in y brings k factors x + knee to the denominator

    worst, top, bottom = lawson(in_u, n, m, rounds)
    linear = ((-knee - centre * knee) / half, (1 - centre) / half)      # u = (y - centre) / half
    top = substitute(powers_from_chebyshev(top), linear, (knee, mp.mpf(1)), n)
    bottom = substitute(powers_from_chebyshev(bottom), linear, (knee, mp.mpf(1)), m)
    return worst, [v / bottom[0] for v in top], [v / bottom[0] for v in bottom]


def expm1_tail(r):
    """(exp(r) - 1 - r) / r^2"""
    return (mp.expm1(r) - r) / (r * r) if abs(r) > 1e-15 else mp.mpf(1) / 2 + r / 6


def atanh_tail(z):
    """(2 atanh(s) - 2 s) / s^3 with z = s^2"""
    s = mp.sqrt(abs(z))
    return 2 * (mp.atanh(s) - s) / s ** 3 if s > 1e-12 else mp.mpf(2) / 3 + 2 * z / 5


def sin_turns(z):
    """sin(2 pi r) / r with z = r^2"""
    r = mp.sqrt(abs(z))
    return mp.sin(2 * mp.pi * r) / r if r > 1e-20 else 2 * mp.pi


def cos_turns(z):
    """(cos(2 pi r) - 1) / r^2 with z = r^2"""
    r = mp.sqrt(abs(z))
    return -2 * mp.sin(mp.pi * r) ** 2 / z if r > 1e-20 else -2 * mp.pi ** 2


def half_tanh(z):
    """tanh(x / 2) / (x / 2) with z = x^2"""
    half = mp.sqrt(abs(z)) / 2
    return mp.tanh(half) / half if half > 1e-20 else mp.mpf(1)


def mills(a):
    """(1 - Phi(a)) / exp(-a^2 / 2)"""
    return mp.exp(a * a / 2) * mp.erfc(a / mp.sqrt(2)) / 2


HALF_LOG2 = "0.34658"                       # log(2)/2 and a little, for the rounding of the quotient
LOG_Z = "0.029438"                          # ((sqrt 2 - 1) / (sqrt 2 + 1))^2 and a little

# name -> (fit for float, fit for double, or None)
FITS = {
    "expm1_tail": (lambda: fit_interval(expm1_tail, "-" + HALF_LOG2, HALF_LOG2, 4),
                   lambda: fit_interval(expm1_tail, "-" + HALF_LOG2, HALF_LOG2, 10)),
    "atanh_tail": (lambda: fit_interval(atanh_tail, 0, LOG_Z, 2),
                   lambda: fit_interval(atanh_tail, 0, LOG_Z, 6)),
    "atanh_tail_wide": (lambda: fit_interval(atanh_tail, 0, mp.mpf(1) / 9, 4),
                        lambda: fit_interval(atanh_tail, 0, mp.mpf(1) / 9, 9)),
    "sin_turns": (lambda: fit_interval(sin_turns, 0, mp.mpf(1) / 64, 3),
                  lambda: fit_interval(sin_turns, 0, mp.mpf(1) / 64, 6)),
    "cos_turns": (lambda: fit_interval(cos_turns, 0, mp.mpf(1) / 64, 3),
                  lambda: fit_interval(cos_turns, 0, mp.mpf(1) / 64, 6)),
    "half_tanh": (lambda: fit_half_line(half_tanh, 32, mp.mpf("8.7") ** 2, 3, 3), None),
    "mills": (lambda: fit_half_line(mills, 2, "14.9", 4, 5),
              lambda: fit_half_line(mills, "2.5", "38.9", 9, 10)),
}


def float_bits(x):
    return struct.unpack("I", struct.pack("f", float(x)))[0]


def print_table(declaration, values):
    print(f"static const {declaration} __attribute__((aligned(64))) = {{")
    for i in range(0, len(values), 8):
        print("    " + ", ".join(values[i:i + 8]) + ",")
    print("};")


def gelu_tables():
    """What gelu_lookup.h looks up: 2^(j/32), and polynomials of the Mills ratio on eighths of the octaves of 1 + a in [1, 16)."""
    degree, entries, steps = 4, 32, 32
    powers = [(float_bits(mp.mpf(2) ** (mp.mpf(j) / steps)) - (j << 18) - (127 << 23)) % 2 ** 32 for j in range(steps)]
    print_table("uint32_t gelu_powers[32]", [f"0x{v:08x}" for v in powers])
    columns = [[None] * entries for _ in range(degree + 1)]
    worst = 0
    for octave in range(4):
        for eighth in range(8):
            half = mp.mpf(2) ** octave / 16
            centre = 2 ** octave + (2 * eighth + 1) * half - 1
            nodes = [half * mp.cos(mp.pi * (2 * i + 1) / (2 * degree + 2)) for i in range(degree + 1)]
            powers_of = mp.matrix([[u ** k for k in range(degree + 1)] for u in nodes])
            c = mp.lu_solve(powers_of, mp.matrix([mills(centre + u) for u in nodes]))
            entry = ((127 + octave) << 3 | eighth) % entries
            for k in range(degree + 1):
                columns[k][entry] = c[k]
            for i in range(-20, 21):
                u = half * i / 20
                worst = max(worst, abs(mp.polyval(list(c)[::-1], u) / mills(centre + u) - 1))
    print(f"/* relative error {mp.nstr(worst, 3)} */")
    print_table(f"float gelu_mills[{degree + 1} * 32]", [f"L({mp.nstr(v, 9)}f)" for column in columns for v in column])


def main():
    if sys.argv[1:] == ["gelu_tables"]:
        gelu_tables()
        return
    for name in sys.argv[1:] or FITS:
        for digits, suffix, fit in zip((9, 17), ("f", ""), FITS[name]):
            if not fit:
                continue
            worst, *parts = fit()
            print(f"{name} ({'float' if suffix else 'double'}): relative error {mp.nstr(worst, 3)}")
            for part in parts:
                if part:
                    print("   ", ", ".join(mp.nstr(v, digits) + suffix for v in part))


if __name__ == "__main__":
    main()
