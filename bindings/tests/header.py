"""What nflow.h declares, for the tests of the bindings: enums, structs with their members, callback types and functions.

It reads the plain C that the header is written in, not C at large: what it does not understand is an error.

usage: header.py c|fortran|functions HEADER   a program that prints the layout of all structs and the value of all enums, or the functions' names
"""
import re
import sys


class Header:
    def __init__(self, path):
        with open(path, encoding="utf-8") as file:
            text = re.sub(r"/\*.*?\*/", " ", file.read(), flags=re.S)
        text = re.sub(r"^[ \t]*#.*(?:\\\n.*)*$", "", text, flags=re.M)
        text = re.sub(r"\s+", " ", text)
        self.enums = {}
        for name, body in re.findall(r"typedef enum (\w+) \{(.*?)\} \w+;", text):
            self.enums[name] = [(key, int(value)) for key, value in re.findall(r"(\w+) = (-?\d+)", body)]
            assert len(self.enums[name]) == body.count("=") == body.rstrip(" ,").count(",") + 1, "values of enum " + name
        self.structs = {}
        for name, body in re.findall(r"typedef struct (\w+) \{(.*?)\} \w+;", text):
            self.structs[name] = [member for line in body.split(";") if line.strip() for member in declarators(line)]
        self.opaque = set(re.findall(r"typedef struct (\w+) \1;", text)) | set(re.findall(r"typedef nf_flow (\w+);", text))
        self.callbacks = {name: (result.strip(), parameters(body))
                          for result, name, body in re.findall(r"typedef (\w+) \(\*(\w+)\)\((.*?)\);", text)}
        self.functions = {name: (result.strip(), parameters(body))
                          for result, name, body in re.findall(r"NF_API ([\w ]+\*?) ?\b(nf_\w+)\((.*?)\);", text)}
        assert len(self.functions) == text.count("NF_API nf_") + text.count("NF_API void") + text.count("NF_API size_t") \
            + text.count("NF_API const"), "functions"


def declarators(line):
    """(name, C type, array length or None) of each member in one declaration."""
    line = line.strip()
    function = re.fullmatch(r"[\w ]+\*? ?\(\*(\w+)\)\(.*\)", line)
    if function:
        return [(function[1], "function", None)]
    base, first, rest = re.fullmatch(r"((?:const )?\w+) (\*?\w+(?:\[\d+\])?)((?:, \*?\w+(?:\[\d+\])?)*)", line).groups()
    members = []
    for one in [first] + [part.strip() for part in rest.split(",") if part.strip()]:
        star, name, length = re.fullmatch(r"(\*?)(\w+)(?:\[(\d+)\])?", one).groups()
        members.append((name, base + (" " + star if star else ""), int(length) if length else None))
    return members


def parameters(body):
    """(name, C type) of each parameter."""
    if body.strip() == "void":
        return []
    return [(name, kind.strip()) for kind, name in (re.fullmatch(r"(.*?[ *])(\w+)", one.strip()).groups() for one in body.split(","))]


def c_program(header):
    yield "#include <nflow.h>\n#include <stdio.h>\nint main(void) {"
    for struct, members in header.structs.items():
        yield f'    printf("{struct} %zu\\n", sizeof({struct}));'
        for name, _, _ in members:
            yield f'    printf("{struct}.{name} %zu %zu\\n", offsetof({struct}, {name}), sizeof((({struct} *)0)->{name}));'
    for values in header.enums.values():
        for key, _ in values:
            yield f'    printf("{key} %d\\n", (int){key});'
    yield "    return 0;\n}"


def fortran_program(header):
    """One subroutine a struct, so that names of structs and of variables do not meet."""
    yield "program layout\nuse nflow\nuse, intrinsic :: iso_c_binding\nimplicit none"
    for struct in header.structs:
        yield f"call of_{struct}()"
    for values in header.enums.values():
        for key, _ in values:
            yield f"print '(a,1x,i0)', '{key}', {key}"
    yield "contains\nfunction at(p) result(a)\ntype(c_ptr), intent(in) :: p\ninteger(c_intptr_t) :: a\na = transfer(p, a)\nend function"
    for struct, members in header.structs.items():
        yield f"subroutine of_{struct}()\ntype({struct}), target :: s\nprint '(a,1x,i0)', '{struct}', c_sizeof(s)"
        for name, _, _ in members:
            yield f"print '(a,1x,i0,1x,i0)', '{struct}.{name}', at(c_loc(s%{name})) - at(c_loc(s)), c_sizeof(s%{name})"
        yield "end subroutine"
    yield "end program"


if __name__ == "__main__":
    what, path = sys.argv[1:]
    header = Header(path)
    if what == "functions":
        print("\n".join(sorted(header.functions)))
    else:
        print("\n".join({"c": c_program, "fortran": fortran_program}[what](header)))
