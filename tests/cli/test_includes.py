"""Who may include whom: cli -> train, plan, analyze -> optim, data, store, model, peft, config -> linear -> kernels, grid -> base; MPI only in grid/;
allocation only in base/; the library never exits."""
import os
import re
import sys

LEVEL = {"base": 0, "io": 0, "kernels": 1, "grid": 1, "linear": 2, "optim": 3, "data": 3, "store": 3, "model": 3, "peft": 3, "config": 3, "score": 3, "session": 4, "train": 4, "serve": 4, "bench": 4,
         "plan": 4, "analyze": 4, "cli": 5}
# Public headers that are part of a module of another name.
MODULE = {"shard": "base", "checkpoint": "store", "import": "store", "export": "store", "inspect": "store", "merge": "peft", "bank": "peft", "generate": "serve", "trial": "bench"}

FORBIDDEN = [
    (re.compile(r"\bMPI_[A-Z][a-z]"), {"grid", "analyze"}, "MPI outside grid/"),
    (re.compile(r"\b(malloc|calloc|realloc|aligned_alloc|posix_memalign)\("), {"base"}, "allocation outside base/ escapes the memory account"),
    (re.compile(r"\b(exit|abort|_exit)\("), {"cli"}, "the library never exits"),
]


def strip_comments(text):
    return re.sub(r"/\*.*?\*/|\"(\\.|[^\"\\\n])*\"", lambda m: m.group(0) if m.group(0).startswith('"') and "/" in m.group(0) else " ", text, flags=re.S)


def check_file(path, module, text, faults):
    for target in re.findall(r'#include "([^"]+)"', text):
        parts = target.split("/")
        name = os.path.splitext(parts[1])[0] if parts[0] == "mpilora" else parts[0]
        other = MODULE.get(name, name)
        if other not in LEVEL:
            faults.append(f"{path}: includes {target} of an unknown module")
        elif LEVEL[other] > LEVEL[module] or (LEVEL[other] == LEVEL[module] == 1 and other != module):
            faults.append(f"{path}: {module}/ may not include {target} of {other}/")
    code = strip_comments(text)
    for pattern, allowed, why in FORBIDDEN:
        if module not in allowed and pattern.search(code):
            faults.append(f"{path}: {why}: {pattern.search(code).group(0)}")


def main():
    source = os.path.join(os.environ.get("MPILORA_SOURCE_DIR", "."), "src")
    faults, files = [], 0
    for folder, _, names in os.walk(source):
        for name in names:
            if not name.endswith((".c", ".h")):
                continue
            path = os.path.join(folder, name)
            module = os.path.relpath(path, source).split(os.sep)[0]
            with open(path, encoding="utf-8") as file:
                check_file(os.path.relpath(path, source), module, file.read(), faults)
            files += 1
    for fault in faults:
        print(fault)
    print(f"{files} files, {len(faults)} faults")
    if files < 50 or faults:
        sys.exit(1)


main()
