"""Reads a safetensors file and prints it: "<name> <dtype> <shape> <values>" a tensor, in the order of the data, values as hexadecimal floats.

With Python's own safetensors where it is installed, otherwise by what its format says, strictly: the tests compare the result with the model's parameters.
usage: read_safetensors.py FILE
"""

import json
import math
import struct
import sys

SIZES = {"F64": (8, "d"), "F32": (4, "f")}


def header_of(data):
    (length,) = struct.unpack_from("<Q", data)
    assert length <= len(data) - 8, "the header is longer than the file"
    header = json.loads(data[8 : 8 + length].decode("utf-8"))
    for key, value in header.pop("__metadata__", {}).items():
        assert isinstance(value, str), "metadata %s is not a string" % key
    return header, data[8 + length :]


def own_reader(path):
    with open(path, "rb") as file:
        header, body = header_of(file.read())
    end = 0
    for name, about in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        size, letter = SIZES[about["dtype"]]
        first, last = about["data_offsets"]
        count = math.prod(about["shape"])
        assert first == end and last == first + size * count, "%s does not follow the tensor before it" % name
        end = last
        yield name, about["dtype"], about["shape"], struct.unpack("<%d%s" % (count, letter), body[first:last])
    assert end == len(body), "bytes are left over"


def library_reader(path):
    from safetensors.numpy import load_file

    with open(path, "rb") as file:
        header, _ = header_of(file.read())
    tensors = load_file(path)
    for name, about in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        yield name, about["dtype"], list(tensors[name].shape), [float(v) for v in tensors[name].reshape(-1)]


def main():
    try:
        import safetensors.numpy  # noqa: F401

        reader = library_reader
    except ImportError:
        reader = own_reader
    for name, dtype, shape, values in reader(sys.argv[1]):
        print(name, dtype, "x".join(map(str, shape)), *(float(v).hex() for v in values))


main()
