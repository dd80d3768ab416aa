"""Who may include whom: a module includes what stands below it, through public headers or those that modules give to their neighbours, never another's private ones;
so there are no cycles. MPI only in grid/ and analyze/; allocation only in base/; the library never exits. Faults that are planted here must be found."""
import os
import re
import sys

# From the bottom up; modules of one line do not include each other. base/ stands below io/.
LEVELS = [["base"], ["io"], ["score"], ["kernels", "grid"], ["linear"], ["model"], ["optim", "data"], ["config"], ["store"], ["peft"], ["session"], ["train", "serve", "plan", "analyze"], ["bench"], ["cli"]]
LEVEL = {module: level for level, modules in enumerate(LEVELS) for module in modules}
# Public headers that are part of a module of another name.
MODULE = {"blocks": "kernels", "shard": "base", "number": "base", "exact": "base", "cache": "model", "stages": "model", "version": "base", "family": "model", "rope": "model", "checkpoint": "store", "import": "store", "export": "store", "inspect": "store", "merge": "peft", "bank": "peft", "generate": "serve",
          "evaluate": "serve", "embed": "serve", "trial": "bench", "chat": "data", "labels": "data",
          "spec": "model", "method": "config", "objective": "config", "tokenizer": "data"}
EVERYTHING = "mpilora/mpilora.h"
# Headers of src/ that a module gives to those above it; io/ gives all of its own.
GIVEN = {"session/session.h", "session/together.h", "session/predictions.h", "session/pipeline.h", "session/pipeline_order.h", "session/sentence_encoder.h", "peft/exchange.h", "train/step.h", "store/adapter/adapter.h", "config/table.h", "base/thread.h"}

FORBIDDEN = [
    (re.compile(r"\bMPI_[A-Z][a-z]"), {"grid", "analyze"}, "MPI outside grid/"),
    (re.compile(r"\b(malloc|calloc|realloc|aligned_alloc|posix_memalign)\("), {"base"}, "allocation outside base/ escapes the memory account"),
    (re.compile(r"\b(exit|abort|_exit)\("), {"cli"}, "the library never exits"),
]


# A family is told apart by its table alone: nothing compares families or names one.
FAMILY = re.compile(r"family\s*[!=]=|strcmp\([^;)]*family->(?:name|title)|ml_family_(?:%s)\b")
FAMILY_FOLDER = "model/families"


def strip_comments(text):
    return re.sub(r"/\*.*?\*/|\"(\\.|[^\"\\\n])*\"", lambda m: m.group(0) if m.group(0).startswith('"') and "/" in m.group(0) else " ", text, flags=re.S)


def module_of(path):
    """The module of a file below src/, or of a public header: mpilora/NAME.h."""
    first, *rest = path.split("/")
    if first != "mpilora":
        return first
    name = os.path.splitext(rest[0])[0]
    return MODULE.get(name, name)


def find_faults(path, text):
    """path: below src/, or mpilora/NAME.h of a public header."""
    faults, module = [], module_of(path)
    if path == EVERYTHING:
        return []
    if module not in LEVEL:
        return [f"{path}: is of an unknown module: add it to LEVELS or MODULE"]
    for target in re.findall(r'#include "([^"]+)"', text):
        other = module_of(target)
        public = target.startswith("mpilora/")
        if target == EVERYTHING:
            faults.append(f"{path}: includes {target}, which is for users of the library")
        elif other not in LEVEL:
            faults.append(f"{path}: includes {target} of an unknown module")
        elif other != module and LEVEL[other] >= LEVEL[module]:
            faults.append(f"{path}: {module}/ may not include {target} of {other}/, which does not stand below it")
        elif other != module and not public and other != "io" and target not in GIVEN:
            faults.append(f"{path}: {target} is a private header of {other}/")
        elif path.startswith("mpilora/") and not public:
            faults.append(f"{path}: a public header may not include {target}, which is not installed")
    code = strip_comments(text)
    if not path.startswith(FAMILY_FOLDER) and path != "mpilora/family.h" and FAMILY.search(code):
        faults.append(f"{path}: a family by name: {FAMILY.search(code).group(0)}; the table of {FAMILY_FOLDER}/ says what differs")
    for pattern, allowed, why in FORBIDDEN:
        if module not in allowed and pattern.search(code):
            faults.append(f"{path}: {why}: {pattern.search(code).group(0)}")
    return faults


def find_cycles(includes):
    """includes: path → paths. One fault for each header that leads back to itself."""
    faults, state = [], {}

    def visit(path, way):
        state[path] = "open"
        for target in includes.get(path, []):
            if state.get(target) == "open":
                faults.append("a cycle: " + " → ".join(way[way.index(target):] + [target]))
            elif target not in state:
                visit(target, way + [target])
        state[path] = "done"

    for path in includes:
        if path not in state:
            visit(path, [path])
    return faults


def check_the_check(faults):
    """Each of these is to be found."""
    planted = [
        ("optim/a.c", '#include "mpilora/peft.h"', "does not stand below"),
        ("plan/a.c", '#include "mpilora/train.h"', "does not stand below"),
        ("mpilora/model.h", '#include "mpilora/store.h"', "does not stand below"),
        ("train/a.c", '#include "store/checkpoint/run_directory.h"', "private header"),
        ("session/a.c", '#include "peft/peft_private.h"', "private header"),
        ("mpilora/store.h", '#include "io/durable.h"', "not installed"),
        ("nowhere/a.c", "", "unknown module"),
        ("model/a.c", "void f(void) { MPI_Barrier(x); }", "MPI outside"),
        ("model/a.c", "void f(void) { malloc(3); }", "memory account"),
        ("model/a.c", "void f(void) { exit(3); }", "never exits"),
        ("store/a.c", "if (spec->family == other) f();", "a family by name"),
        ("peft/a.c", "f(&ml_family_gpt2);", "a family by name"),
    ]
    for path, text, expected in planted:
        if not any(expected in fault for fault in find_faults(path, text)):
            faults.append(f"a planted fault was not found: {path}: {text}")
    if not find_cycles({"a.h": ["b.h"], "b.h": ["c.h"], "c.h": ["b.h"]}):
        faults.append("a planted cycle was not found")
    if find_faults("train/a.c", '#include "mpilora/store.h"\n#include "io/durable.h"\n#include "session/session.h"'):
        faults.append("what is allowed was refused")


def main():
    global FAMILY
    root = os.environ.get("MPILORA_SOURCE_DIR", ".")
    families = [os.path.splitext(name)[0] for name in os.listdir(os.path.join(root, "src", FAMILY_FOLDER)) if name.endswith(".c")]
    FAMILY = re.compile(FAMILY.pattern % "|".join(families))
    faults, includes = [], {}
    for folder in ("src", "include"):
        top = os.path.join(root, folder)
        for where, _, names in os.walk(top):
            for name in names:
                if not name.endswith((".c", ".h")):
                    continue
                path = os.path.relpath(os.path.join(where, name), top)
                with open(os.path.join(where, name), encoding="utf-8") as file:
                    text = file.read()
                faults += find_faults(path, text)
                includes[path] = re.findall(r'#include "([^"]+)"', text)
    faults += find_cycles(includes)
    check_the_check(faults)
    for fault in faults:
        print(fault)
    print(f"{len(includes)} files, {len(faults)} faults")
    if len(includes) < 50 or faults:
        sys.exit(1)


main()
