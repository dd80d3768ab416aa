"""Public headers in one form: above each function (or group of functions without a blank line between them) stands a comment of five parts:
what it does, `Shapes:` (shapes and units), `Ownership:`, `Local.` or `Collective over ...`, and `Errors:`, in this order."""
import glob
import os
import re
import sys

PARTS = [("Shapes:", r"^Shapes: "), ("Ownership:", r"^Ownership: "), ("Local. or Collective over", r"^(Local|Collective over )"), ("Errors:", r"^Errors: ")]
FUNCTION = re.compile(r"^(?!typedef|struct|enum|union|static|#|extern|\s|\}).*?\b(ml_\w+)\(")


def blocks(text):
    """Yields (comment, names of the functions declared below it, line number of the first)."""
    comment, lines, at, depth, names, first = "", text.split("\n"), 0, 0, [], 0
    while at < len(lines):
        line = lines[at]
        if depth == 0 and line.startswith("/*"):
            if names:
                yield comment, names, first
                names = []
            start = at
            while "*/" not in lines[at]:
                at += 1
            comment = "\n".join(re.sub(r"^(/\*| \*)/? ?", "", one).replace("*/", "").rstrip() for one in lines[start:at + 1])
        else:
            found = FUNCTION.match(line) if depth == 0 else None
            if found:
                if not names:
                    first = at + 1
                names.append(found.group(1))
            elif not line.strip() or (depth == 0 and re.match(r"typedef|struct|enum|#", line)):
                if names:
                    yield comment, names, first
                    names = []
                if depth == 0:
                    comment = ""
            depth += line.count("{") - line.count("}")
        at += 1
    if names:
        yield comment, names, first


def prototypes(text):
    """The names of all functions that a header declares, wherever the line breaks are."""
    text = re.sub(r"/\*.*?\*/|^\s*#.*?(?<!\\\\)$", "", text, flags=re.S | re.M)
    while re.search(r"\{[^{}]*\}", text):
        text = re.sub(r"\{[^{}]*\}", "", text)
    return [m.group(1) for m in re.finditer(r"\b(ml_\w+)\s*\(", text) if "typedef" not in text[text.rfind(";", 0, m.start()) + 1:m.start()]
            and "static" not in text[text.rfind(";", 0, m.start()) + 1:m.start()]]


def fault_of(comment):
    lines, at = comment.split("\n"), 0
    if not lines[0].strip():
        lines = lines[1:]
    if not lines or any(re.match(pattern, lines[0]) for _, pattern in PARTS):
        return "the sentence that says what it does is missing"
    for part, pattern in PARTS:
        at = next((i for i in range(at, len(lines)) if re.match(pattern, lines[i])), None)
        if at is None:
            return f"\"{part}\" is missing or stands in another order"
    return None


def main():
    folder = os.path.join(os.environ.get("MPILORA_SOURCE_DIR", "."), "include", "mpilora")
    faults, functions = [], 0
    for path in sorted(glob.glob(os.path.join(folder, "*.h"))):
        with open(path, encoding="utf-8") as file:
            text = file.read()
        seen = []
        for comment, names, line in blocks(text):
            functions += len(names)
            seen += names
            fault = fault_of(comment)
            if fault:
                faults.append(f"{os.path.basename(path)}:{line}: {', '.join(names)}: {fault}")
        faults += [f"{os.path.basename(path)}: {name}: its declaration does not begin its line" for name in prototypes(text) if name not in seen]
    for fault in faults:
        print(fault)
    print(f"{functions} functions, {len(faults)} faults")
    if functions < 200 or faults:
        sys.exit(1)


main()
