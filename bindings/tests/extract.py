"""The examples of a document: below each second heading with a block of commands, a folder with the blocks as files and the commands as run.sh.

A line that is only a file's name in backquotes and a colon names the block that follows it.

usage: extract.py DOCUMENT FOLDER
"""
import os
import re
import sys

document, folder = sys.argv[1:]
with open(document, encoding="utf-8") as file:
    sections = re.split(r"^## ", file.read(), flags=re.M)[1:]
count = 0
for section in sections:
    commands = re.findall(r"^```sh\n(.*?)^```", section, flags=re.M | re.S)
    if not commands:
        continue
    place = os.path.join(folder, re.sub(r"\W+", "-", section.split("\n")[0].lower().replace("+", "p")))
    os.mkdir(place)
    for name, block in re.findall(r"^`([\w.]+)`:\n\n```\w+\n(.*?)^```", section, flags=re.M | re.S):
        with open(os.path.join(place, name), "w", encoding="utf-8") as out:
            out.write(block)
        count += 1
    with open(os.path.join(place, "run.sh"), "w", encoding="utf-8") as out:
        out.write("".join(commands))
named = len(re.findall(r"^```(?!sh)\w+\n", "".join(sections), flags=re.M))
sys.exit(0 if count == named and count else "%d of the %d blocks of %s have a name and commands" % (count, named, document))
