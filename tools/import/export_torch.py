#!/usr/bin/env python3
"""Write a flow that was trained with PyTorch to a file that `nflow import` reads.

    from export_torch import export
    export(flow, "flow.safetensors")          # a torch.nn.Module, in eval mode

    python3 export_torch.py checkpoint.pt flow.safetensors         # what torch.save wrote: a state dict, alone or in a checkpoint
    python3 export_torch.py --trust flow.pt flow.safetensors       # or a whole module, whose library must be installed

A file with a whole module is a program that loading runs: --trust is for files of your own.

The file is safetensors: every tensor of the state dict under its name, and in the metadata the structure as JSON: for each module its
class, its plain attributes (numbers, strings, names of functions) and its children. Nothing here knows a library of flows; `nflow import`
knows, and refuses what it does not know by its name.

It needs torch alone, 1.13 or later. MIT licence.
"""
import functools
import inspect
import json
import pickle
import struct
import sys

import torch

DTYPES = {torch.float64: "F64", torch.float32: "F32", torch.int64: "I64", torch.bool: "BOOL"}
PROBES = [-1.5, -0.25, 0.75, 2.0]  # where functions of one tensor are evaluated, so that they are known whatever their name


def is_number(value):
    """One that JSON has, and a reader of it as a double."""
    return isinstance(value, (int, float)) and abs(value) < 2**53


def describe_callable(function):
    """A function or class: its name, its numeric defaults, and for a function of one tensor its values at PROBES."""
    keywords = {}
    while isinstance(function, functools.partial):
        keywords = {**function.keywords, **keywords}
        function = function.func
    found = {"callable": getattr(function, "__name__", type(function).__name__)}
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):
        parameters = {}
    defaults = {**{name: one.default for name, one in parameters.items()}, **keywords}
    found["defaults"] = {name: value for name, value in defaults.items() if is_number(value)}
    if not inspect.isclass(function):
        try:
            values = [float(value) for value in function(torch.tensor(PROBES, dtype=torch.float64), **keywords)]
            if all(is_number(value) for value in values):
                found["values"] = values
        except Exception:  # pylint: disable=broad-except  # a function of something else
            pass
    return found


def describe(module):
    attributes = {}
    for name, value in vars(module).items():
        if name.startswith("_") or name == "training":
            continue
        if isinstance(value, str) or is_number(value):
            attributes[name] = value
        elif callable(value):
            attributes[name] = describe_callable(value)
    # named_children() would leave out a module that stands in a second place.
    children = {name: child for name, child in module._modules.items() if child is not None}  # pylint: disable=protected-access
    return {"class": type(module).__name__, "module": type(module).__module__, "attributes": attributes,
            "children": {name: describe(child) for name, child in children.items()}}


def export(module, path):
    """Write a module (or a dict of tensors) to `path`."""
    if isinstance(module, torch.nn.Module):
        if module.training:
            raise ValueError("the module is in training mode: call eval() first")
        structure, state = describe(module), module.state_dict()
    else:
        structure, state = {"class": "StateDict", "module": "", "attributes": {}, "children": {}}, module
    header, chunks, offset = {"__metadata__": {"format": "nflow-import", "version": "1", "structure": json.dumps(structure)}}, [], 0
    for name, tensor in state.items():
        if not isinstance(tensor, torch.Tensor):
            raise ValueError("%s is no tensor: this is neither a module nor a state dict" % name)
        if tensor.dtype not in DTYPES:
            raise ValueError("%s is %s; float64, float32, int64 and bool can be written: module.double() makes it so" % (name, tensor.dtype))
        array = tensor.detach().cpu().contiguous().numpy()
        chunk = array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
        header[name] = {"dtype": DTYPES[tensor.dtype], "shape": list(array.shape), "data_offsets": [offset, offset + len(chunk)]}
        chunks.append(chunk)
        offset += len(chunk)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + b"".join(chunks))


def main(arguments):
    trust = "--trust" in arguments
    arguments = [one for one in arguments if one != "--trust"]
    if len(arguments) != 2:
        sys.exit(__doc__)
    try:
        loaded = torch.load(arguments[0], map_location="cpu", weights_only=not trust)
    except pickle.UnpicklingError:
        sys.exit("%s holds more than tensors. If it is yours, say --trust: loading it runs what it holds" % arguments[0])
    if isinstance(loaded, dict):
        inner = [value for key, value in loaded.items() if key.endswith("state_dict") and isinstance(value, dict) and "optim" not in key]
        loaded = inner[0] if len(inner) == 1 else loaded
    else:
        loaded.eval()
    export(loaded, arguments[1])


if __name__ == "__main__":
    main(sys.argv[1:])
