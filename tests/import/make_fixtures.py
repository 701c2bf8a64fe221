"""Flows as nflows, normflows and zuko build them, with random parameters, as export_torch.py writes them, and what they compute.

The classes have the names, attributes and tensors that those libraries' modules have, so that the export sees what it would see there. The mathematics is written out here, in
double: from x to z and log|det dz/dx| (`inverse`), or from z to x (`forward`) where the library goes that way.

usage: make_fixtures.py FOLDER SEED      <name>.safetensors for `nflow import`, <name>.values.safetensors with x, z, log_prob and context
"""
import functools
import math
import os
import sys

import torch
from torch import nn
from torch.nn import functional as F

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "tools", "import"))
from export_torch import export, main as export_main  # noqa: E402

ROWS = 20


def randomise(module, size=0.3):
    for parameter in module.parameters():
        parameter.data = size * torch.randn_like(parameter)


class Group(nn.Module):
    """A module with these children and attributes."""

    def __init__(self, children=(), **attributes):
        super().__init__()
        for name, child in dict(children).items():
            self.add_module(name, child)
        for name, value in attributes.items():
            setattr(self, name, value)


# ---- nflows: y = x scale + shift from data to noise

class ResidualBlock(Group):
    def forward(self, h):
        return h + self.linear_layers[1](self.activation(self.linear_layers[0](self.activation(h))))


class ResidualNet(Group):
    def forward(self, x):
        h = self.initial_layer(x)
        for block in self.blocks:
            h = block(h)
        return self.final_layer(h)


def residual_net(inputs, outputs, hidden, blocks, activation):
    def block():
        return ResidualBlock({"linear_layers": nn.ModuleList([nn.Linear(hidden, hidden) for _ in range(2)]), "dropout": nn.Dropout(0.2)},
                             activation=activation, use_batch_norm=False)
    return ResidualNet({"initial_layer": nn.Linear(inputs, hidden), "blocks": nn.ModuleList([block() for _ in range(blocks)]),
                        "final_layer": nn.Linear(hidden, outputs)}, hidden_features=hidden, context_features=None)


class AffineCouplingTransform(nn.Module):
    def __init__(self, kept, moved, net, scale_activation=None):
        super().__init__()
        self.features = len(kept) + len(moved)
        self.register_buffer("identity_features", torch.tensor(kept))
        self.register_buffer("transform_features", torch.tensor(moved))
        self.transform_net = net
        if scale_activation:
            self.scale_activation = scale_activation

    def split(self, out):
        return out[:, :out.shape[1] // 2], torch.sigmoid(out[:, out.shape[1] // 2:] + 2) + 1e-3

    def inverse(self, x):
        shift, scale = self.split(self.transform_net(x[:, self.identity_features]))
        z = x.clone()
        z[:, self.transform_features] = x[:, self.transform_features] * scale + shift
        return z, scale.log().sum(1)


class AdditiveCouplingTransform(AffineCouplingTransform):
    def split(self, out):
        return out, torch.ones_like(out)


class BatchNorm(nn.Module):
    def __init__(self, features):
        super().__init__()
        self.eps = 1e-5
        self.unconstrained_weight = nn.Parameter(torch.zeros(features))
        self.bias = nn.Parameter(torch.zeros(features))
        self.register_buffer("running_mean", torch.randn(features))
        self.register_buffer("running_var", torch.rand(features) + 0.3)

    def inverse(self, x):
        weight = torch.log1p(torch.exp(self.unconstrained_weight)) + self.eps
        sd = torch.sqrt(self.running_var + self.eps)
        return weight * (x - self.running_mean) / sd + self.bias, (weight / sd).log().sum().expand(len(x))


class ActNormOfNflows(nn.Module):
    def __init__(self, features, has_buffer=False):  # as later versions have it
        super().__init__()
        if has_buffer:
            self.register_buffer("initialized", torch.tensor(True))
        else:
            self.initialized = True
        self.log_scale = nn.Parameter(torch.zeros(features))
        self.shift = nn.Parameter(torch.zeros(features))

    def inverse(self, x):
        return x * self.log_scale.exp() + self.shift, self.log_scale.sum().expand(len(x))


ActNormOfNflows.__name__ = "ActNorm"


class RandomPermutation(nn.Module):
    def __init__(self, features):
        super().__init__()
        self._dim = 1
        self.register_buffer("_permutation", torch.randperm(features))

    def inverse(self, x):
        return x[:, self._permutation], torch.zeros(len(x))


class CompositeTransform(Group):
    pass


class StandardNormal(nn.Module):
    def __init__(self, features):
        super().__init__()
        self.register_buffer("_log_z", torch.tensor(0.5 * features * math.log(2 * math.pi)))


class SimpleRealNVP(nn.Module):
    def __init__(self, features, layers):
        super().__init__()
        self._transform = CompositeTransform({"_transforms": nn.ModuleList(layers)})
        self._distribution = StandardNormal(features)
        self._embedding_net = nn.Identity()


class FlowOfNflows(SimpleRealNVP):
    pass


FlowOfNflows.__name__ = "Flow"


def nflows_values(flow, x, _):
    z, total = x, 0
    for layer in flow._transform._transforms:
        z, log_det = layer.inverse(z)
        total = total + log_det
    return x, z, normal(z) + total


def nflows_simple():
    even, odd = [0, 2], [1]
    layers = [AffineCouplingTransform(*((even, odd) if i % 2 == 0 else (odd, even)),
                                      residual_net(2 - i % 2, 2 + 2 * (i % 2), 5, 2, F.relu)) for i in range(3)]
    return SimpleRealNVP(3, layers), nflows_values, 3, 0


def nflows_mixed():
    def scale(x):
        return torch.sigmoid(x + 2) + 1e-3
    layers = [AffineCouplingTransform([0, 2], [3, 1], residual_net(2, 4, 6, 3, F.gelu), scale), BatchNorm(4), RandomPermutation(4),
              AdditiveCouplingTransform([1, 2, 3], [0], residual_net(3, 1, 4, 1, nn.SiLU())), ActNormOfNflows(4),
              AffineCouplingTransform([2], [0, 1, 3], nn.Sequential(nn.Linear(1, 7), nn.Tanh(), nn.Dropout(0.1), nn.Linear(7, 6)))]
    return FlowOfNflows(4, layers), nflows_values, 4, 0


def nflows_actnorm():
    layers = [ActNormOfNflows(3, True), AffineCouplingTransform([1], [0, 2], nn.Sequential(nn.Linear(1, 5), nn.SiLU(), nn.Linear(5, 4)))]
    return FlowOfNflows(3, layers), nflows_values, 3, 0


# ---- normflows: from base to data

class MLP(Group):
    def forward(self, x):
        return self.net(x)


def mlp(*sizes):
    layers = []
    for inputs, outputs in zip(sizes[:-1], sizes[1:]):
        layers += [nn.Linear(inputs, outputs), nn.LeakyReLU(0.0)]
    return MLP({"net": nn.Sequential(*layers[:-1])})


class Split(Group):
    pass


class Merge(Group):
    pass


class AffineCoupling(Group):
    pass


class AffineCouplingBlock(Group):
    def parts(self, dim):
        """What stays and what moves."""
        mode = self.flows[0].mode
        if mode.startswith("channel"):
            first, second = list(range((dim + 1) // 2)), list(range((dim + 1) // 2, dim))
        else:
            first, second = list(range(1, dim, 2)), list(range(0, dim, 2))
        return (second, first) if mode.endswith("_inv") else (first, second)

    def forward(self, z):
        coupling = self.flows[1]
        kept, moved = self.parts(z.shape[1])
        out, x = coupling.param_map(z[:, kept]), z.clone()
        if not coupling.scale:
            x[:, moved] = z[:, moved] + out
            return x, torch.zeros(len(z))
        shift, s = out[:, 0::2], out[:, 1::2]
        log_scale = {"exp": lambda: s, "sigmoid": lambda: torch.log1p(torch.exp(-s - 2)),
                     "sigmoid_inv": lambda: -torch.log1p(torch.exp(-s - 2))}[coupling.scale_map]()
        x[:, moved] = z[:, moved] * log_scale.exp() + shift
        return x, log_scale.sum(1)


def affine_block(mode, scale_map, sizes, scale=True):
    coupling = AffineCoupling({"param_map": mlp(*sizes)}, scale=scale, scale_map=scale_map)
    return AffineCouplingBlock({"flows": nn.ModuleList([Split(mode=mode), coupling, Merge(mode=mode)])})


class Planar(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.u, self.w = nn.Parameter(torch.zeros(1, dim)), nn.Parameter(torch.zeros(1, dim))
        self.b = nn.Parameter(torch.zeros(1))
        self.act, self.h = "tanh", torch.tanh

    def forward(self, z):
        inner, t = (self.w * self.u).sum(), (z * self.w).sum(1, keepdim=True) + self.b
        u = self.u + (torch.log1p(inner.exp()) - 1 - inner) * self.w / (self.w ** 2).sum()
        return z + u * t.tanh(), torch.log(1 + (self.w * u).sum() * (1 - t.tanh() ** 2)).reshape(-1)


class Radial(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.register_buffer("d", torch.tensor(dim))
        self.beta, self.alpha = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
        self.z_0 = nn.Parameter(torch.zeros(1, dim))

    def forward(self, z):
        a = self.alpha.abs()
        b, offset = torch.log1p(self.beta.exp()) - a, z - self.z_0
        r = offset.norm(dim=1, keepdim=True)
        log_det = (z.shape[1] - 1) * torch.log(1 + b / (a + r)) + torch.log(1 + b * a / (a + r) ** 2)
        return z + b / (a + r) * offset, log_det.reshape(-1)


class Permute(nn.Module):
    def __init__(self, dim, mode):
        super().__init__()
        self.mode, self.num_channels = mode, dim
        if mode == "shuffle":
            self.register_buffer("perm", torch.randperm(dim))
            self.register_buffer("inv_perm", torch.argsort(self.perm))

    def forward(self, z):
        half = self.num_channels // 2
        return (z[:, self.perm] if self.mode == "shuffle" else torch.cat([z[:, half:], z[:, :half]], 1)), torch.zeros(len(z))


class ActNorm(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.s, self.t = nn.Parameter(torch.zeros(1, dim)), nn.Parameter(torch.zeros(1, dim))
        self.register_buffer("data_dep_init_done", torch.tensor(1.0))

    def forward(self, z):
        return z * self.s.exp() + self.t, self.s.sum().expand(len(z))


class DiagGaussian(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.loc, self.log_scale = nn.Parameter(torch.zeros(1, dim)), nn.Parameter(torch.zeros(1, dim))
        self.temperature = None


class NormalizingFlow(nn.Module):
    def __init__(self, dim, flows):
        super().__init__()
        self.q0, self.flows = DiagGaussian(dim), nn.ModuleList(flows)
        self.p = DiagGaussian(dim)  # the target: no part of the flow


def normflows_values(flow, z, _):
    x, total = z, 0
    for layer in flow.flows:
        x, log_det = layer(x)
        total = total + log_det
    log_scale = flow.q0.log_scale + math.log(flow.q0.temperature or 1)
    return x, z, normal((z - flow.q0.loc) / log_scale.exp()) - log_scale.sum() - total


def normflows_couplings():
    flows = [affine_block("channel", "exp", (2, 6, 4)), Permute(4, "swap"), affine_block("channel_inv", "sigmoid", (2, 5, 5, 4)), ActNorm(4),
             affine_block("checkerboard", "sigmoid_inv", (2, 6, 4)), Permute(4, "shuffle"), affine_block("checkerboard_inv", "exp", (2, 3, 2), False)]
    return NormalizingFlow(4, flows), normflows_values, 4, 0


def clip(x, most=math.inf):
    return x.clamp(max=most)


def normflows_shared():
    """One module in several places, functions whose values and defaults JSON does not have, and a base with a temperature."""
    swap, activation = Permute(4, "swap"), nn.LeakyReLU(0.0)
    blocks = [affine_block("channel", "exp", (2, 5, 5, 4)) for _ in range(2)]
    for block in blocks:
        block.flows[1].param_map.net[1] = block.flows[1].param_map.net[3] = activation
    flow = NormalizingFlow(4, [blocks[0], swap, blocks[1], blocks[0], swap])
    flow.log, flow.clip = torch.log, clip
    flow.q0.temperature = 0.7
    return flow, normflows_values, 4, 0


def normflows_odd():
    flows = [affine_block("channel", "exp", (3, 4, 4)), Permute(5, "swap"), affine_block("channel_inv", "exp", (2, 4, 6))]
    return NormalizingFlow(5, flows), normflows_values, 5, 0


def normflows_finite():
    return NormalizingFlow(2, [Planar(2), Radial(2), Planar(2), Radial(2), Planar(2)]), normflows_values, 2, 0


# ---- zuko: from data to noise

class MonotonicAffineTransform:  # stands for zuko's class of the name: only its defaults are looked at
    def __init__(self, shift, scale, slope=1e-3):
        self.parameters = shift, scale, slope


class DiagNormal:
    pass


class MLPOfZuko(nn.Sequential):
    pass


MLPOfZuko.__name__ = "MLP"


class GeneralCouplingTransform(nn.Module):
    def __init__(self, mask, context, hidden, activation, univariate=MonotonicAffineTransform):
        super().__init__()
        kept = sum(mask)
        self.univariate, self.total = univariate, 2
        self.register_buffer("mask", torch.tensor(mask, dtype=torch.bool))
        self.hyper = MLPOfZuko(nn.Linear(kept + context, hidden), activation(), nn.Linear(hidden, hidden), activation(),
                               nn.Linear(hidden, 2 * (len(mask) - kept)))

    def inverse(self, x, context):
        slope = self.univariate.keywords["slope"] if isinstance(self.univariate, functools.partial) else 1e-3
        out = self.hyper(torch.cat([x[:, self.mask], context], 1))
        shift, a = out[:, 0::2], out[:, 1::2]
        s = a / (1 + (a / math.log(slope)).abs())
        z = x.clone()
        z[:, ~self.mask] = x[:, ~self.mask] * s.exp() + shift
        return z, s.sum(1)


class LazyComposedTransform(Group):
    pass


class UnconditionalDistribution(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.f = DiagNormal
        self.register_buffer("_0", 0.3 * torch.randn(dim))
        self.register_buffer("_1", 0.5 + torch.rand(dim))


class NICE(nn.Module):
    def __init__(self, dim, layers):
        super().__init__()
        self.transform = LazyComposedTransform({"transforms": nn.ModuleList(layers)})
        self.base = UnconditionalDistribution(dim)


class RealNVP(NICE):
    pass


def zuko_values(flow, x, context):
    z, total = x, 0
    for layer in flow.transform.transforms:
        z, log_det = layer.inverse(z, context)
        total = total + log_det
    return x, z, normal((z - flow.base._0) / flow.base._1) - flow.base._1.log().sum() + total


def zuko_nice():
    masks = [[0, 1, 0], [1, 0, 1], [1, 1, 0]]
    return NICE(3, [GeneralCouplingTransform(mask, 2, 6, nn.ReLU) for mask in masks]), zuko_values, 3, 2


def zuko_realnvp():
    univariate = functools.partial(MonotonicAffineTransform, slope=0.05)
    layers = [GeneralCouplingTransform([i % 2, 1 - i % 2], 0, 5, activation, univariate) for i, activation in enumerate([nn.Tanh, nn.GELU, nn.SiLU])]
    return RealNVP(2, layers), zuko_values, 2, 0


# ---- the hypernetwork CNF of torchdiffeq's example

class HyperNetwork(Group):
    def forward(self, t):
        """W, U, G, B at the times t."""
        out = self.fc3(torch.tanh(self.fc2(torch.tanh(self.fc1(t.reshape(-1, 1))))))
        n = self.width * self.in_out_dim
        return [out[:, i * n:(i + 1) * n].reshape(-1, self.width, self.in_out_dim) for i in range(3)] + [out[:, 3 * n:]]


class CNF(Group):
    T0, T1, VARIANCE = 0.25, 2.0, 0.3

    def solve(self, z, steps):
        """Runge and Kutta's method of order 4, with the trace of the field's Jacobian beside the state."""
        h = (self.T1 - self.T0) / steps
        times = torch.linspace(self.T0, self.T1, 2 * steps + 1)
        with torch.no_grad():
            big_w, big_u, gate, bias = self.hyper_net(times)
        gated = big_u * torch.sigmoid(gate)
        crossed = (big_w * gated).sum(2)

        def field(i, state):
            h_i = torch.tanh(state[:, :-1] @ big_w[i].T + bias[i])
            return torch.cat([h_i @ gated[i], ((1 - h_i ** 2) @ crossed[i])[:, None]], 1) / self.width
        state = torch.cat([z, torch.zeros(len(z), 1)], 1)
        for n in range(steps):
            k1 = field(2 * n, state)
            k2 = field(2 * n + 1, state + h / 2 * k1)
            k3 = field(2 * n + 1, state + h / 2 * k2)
            k4 = field(2 * n + 2, state + h * k3)
            state = state + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        return state


def cnf_values(flow, z, _):
    z = z * math.sqrt(flow.VARIANCE)
    state = (16 * flow.solve(z, 1200) - flow.solve(z, 600)) / 15  # Richardson's extrapolation
    return state[:, :-1], z, normal(z / math.sqrt(flow.VARIANCE)) - math.log(flow.VARIANCE) - state[:, -1]


def cnf():
    sizes = {"in_out_dim": 2, "hidden_dim": 4, "width": 6}
    hyper = HyperNetwork({"fc1": nn.Linear(1, 4), "fc2": nn.Linear(4, 4), "fc3": nn.Linear(4, 3 * 12 + 6)}, **sizes)
    return CNF({"hyper_net": hyper}, **sizes), cnf_values, 2, 0


# ----

def normal(z):
    return -0.5 * (z ** 2).sum(1) - 0.5 * z.shape[1] * math.log(2 * math.pi)


def refuse_modules(folder, module):
    """A file with a whole module is loaded only when that is asked for."""
    path, out = os.path.join(folder, "module.pt"), os.path.join(folder, "module.safetensors")
    torch.save(module, path)
    try:
        export_main([path, out])
    except SystemExit as refusal:
        assert "--trust" in str(refusal)
    assert not os.path.exists(out)
    export_main(["--trust", path, out])
    os.remove(path)
    os.remove(out)


def write(folder, name, make):
    module, values, dim, context_dim = make()
    randomise(module)
    module.eval()
    context = torch.randn(ROWS, context_dim)
    with torch.no_grad():
        x, z, log_prob = values(module, 1.5 * torch.randn(ROWS, dim), context)
    export(module, os.path.join(folder, name + ".safetensors"))
    found = {"x": x, "z": z, "log_prob": log_prob}
    if context_dim:
        found["context"] = context
    export(found, os.path.join(folder, name + ".values.safetensors"))
    if name == "cnf":  # as the example saves it: the state dict alone, in a checkpoint
        path = os.path.join(folder, "cnf_state.pt")
        torch.save({"func_state_dict": module.state_dict(), "optimizer_state_dict": {"state": {}}}, path)
        export_main([path, os.path.join(folder, "cnf_state.safetensors")])
        os.remove(path)
        refuse_modules(folder, module)
        export(found, os.path.join(folder, "cnf_state.values.safetensors"))


def main(folder, seed):
    torch.manual_seed(int(seed))
    torch.set_default_dtype(torch.float64)
    for make in (nflows_simple, nflows_mixed, normflows_couplings, normflows_odd, normflows_finite, zuko_nice, zuko_realnvp, cnf, normflows_shared, nflows_actnorm):
        write(folder, make.__name__, make)


main(*sys.argv[1:])
