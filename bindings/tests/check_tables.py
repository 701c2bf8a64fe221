"""The declarations of nflow.f90 and nflow.hpp against nflow.h: every function with its arguments, every member of a config.

usage: check_tables.py HEADER FORTRAN CPP
"""
import re
import sys

from header import Header

failures = []


def expect(holds, *words):
    if not holds:
        failures.append(" ".join(str(word) for word in words))


def read(path):
    with open(path, encoding="utf-8") as file:
        return file.read()


def fortran_kind(header, c_type):
    """How an argument of this C type is declared: what must be in the declaration, and whether it goes by value."""
    plain = c_type.replace("const ", "")
    if plain in header.callbacks:
        return r"type\(c_funptr\)", True
    if plain.endswith("**"):
        return r"type\(c_ptr\), intent\(out\)", False
    if plain.endswith("*"):
        pointed = plain[:-1].strip()
        way = r", intent\(in\)" if "const" in c_type else r", intent\((in)?out\)"
        if pointed in header.opaque or pointed == "void":
            return r"type\(c_ptr\)", True
        if pointed in header.structs:
            return r"type\(%s\)%s" % (pointed, way), False
        return {"double": r"real\(c_double\)", "size_t": r"integer\(c_size_t\)", "char": r"character\(kind=c_char\)"}[pointed] + way, False
    if plain in header.enums:
        plain = "int"
    return {"int": r"integer\(c_int\)", "size_t": r"integer\(c_size_t\)", "uint64_t": r"integer\(c_int64_t\)", "double": r"real\(c_double\)"}[plain], True


def fortran_procedures(text):
    """name -> (result, arguments, {argument: declaration}, whether it is bound by its name)."""
    text = re.sub(r"&\s*\n\s*", "", text)
    found = {}
    for head in re.finditer(r"^ +(?:([^\n]*) )?(?:function|subroutine) (nf_\w+)\(([^)]*)\) bind\(C(?:, name=\"(\w+)\")?\)\n(.*?)^ +end (?:function|subroutine)", text,
                            flags=re.M | re.S):
        result, name, arguments, bound, body = head.groups()
        declared = {}
        for line in body.splitlines():
            if "::" in line:
                kind, names = line.split("::")
                for one in re.split(r",(?![^(]*\))", names.split("!")[0]):
                    declared[re.sub(r"\(.*\)", "", one).strip()] = kind.strip()
        found[name] = ((result or "").strip(), [one.strip() for one in arguments.split(",") if one.strip()], declared, bound)
    return found


def check_fortran(header, path):
    found = fortran_procedures(read(path))
    results = {"nf_status": "integer(c_int)", "nf_precision": "integer(c_int)", "int": "integer(c_int)", "size_t": "integer(c_size_t)",
               "const char *": "type(c_ptr)", "void": ""}
    for name, (result, parameters) in {**header.functions, **header.callbacks}.items():
        if name not in found:
            expect(False, "nflow.f90 lacks", name)
            continue
        have, arguments, declared, bound = found[name]
        expect(bound == (name if name in header.functions else None), name, "is bound to", bound)
        expect(have == results[result], name, "gives", have)
        expect(arguments == [one for one, _ in parameters], name, "has the arguments", arguments)
        for argument, c_type in parameters:
            kind, by_value = fortran_kind(header, c_type)
            declaration = declared.get(argument, "")
            expect(re.match(kind, declaration), name, argument, "is", declaration or "not declared", "for", c_type)
            expect(("value" in declaration) == by_value, name, argument, "is", declaration, "for", c_type)
    bound = {name for name, one in found.items() if one[3]}
    expect(bound <= set(header.functions) | {"nf_text_length"}, "nflow.f90 has", bound - set(header.functions))


def check_cpp(header, path):
    text = read(path)
    # The forms that take an allocator serve for those without; a message is taken after each failure.
    others = {"nf_flow_create": "nf_flow_create_with", "nf_flow_load": "nf_flow_load_with", "nf_flow_load_memory": "nf_flow_load_memory_with",
              "nf_status_name": "status()"}
    for name in header.functions:
        expect(re.search(r"\b%s\b" % name, text) or others.get(name, "?") in text, "nflow.hpp does not use", name)
    for struct, members in header.structs.items():
        if not struct.endswith("_config"):
            continue
        body = re.search(r"class %s :.*?\n};" % struct[3:], text, flags=re.S)
        expect(body, "nflow.hpp has no builder of", struct)
        bases = re.findall(r"public (\w+)<", body[0])
        common = "".join(re.search(r"class %s\b.*?\n};" % base, text, flags=re.S)[0] for base in bases)
        for member, _, _ in members:
            if member in ("struct_size", "reserved", "allocator", "progress_user", "read_user", "target_user", "inputs", "outputs"):
                continue
            setter = {"validation_rows": "validation", "validation_x": "validation", "validation_context": "validation",
                      "validation_weight": "validation", "target": None}.get(member, member)
            expect(setter is None or re.search(r"&%s\(|\b%s\)" % (setter, member), body[0] + common) or
                   (member == "dim" and "it_.dim = dim" in common), "nflow.hpp cannot set", struct, member)


def main():
    header = Header(sys.argv[1])
    check_fortran(header, sys.argv[2])
    check_cpp(header, sys.argv[3])
    print("\n".join(failures) if failures else "bindings: %d functions, %d structs, %d enums, as in the header" % (
        len(header.functions), len(header.structs), len(header.enums)))
    return 1 if failures else 0


sys.exit(main())
