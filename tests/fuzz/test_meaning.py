"""What is read of a damaged table or labelled file is what stands there: texts, classes, numbers and their order are compared with a second reader, written here, and what one
of the two refuses the other refuses, too.

    python3 test_meaning.py [COUNT [FORMAT …]]     mutations a format (50) and which formats (all); FUZZ_FIRST: the first one's number
"""

import concurrent.futures
import json
import math
import os
import random
import re
import struct
import subprocess
import sys
import tempfile

try:
    import h5py
except ImportError:
    print("h5py is not installed: skipped")
    sys.exit(77)

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import harness

checks = harness.Checks()
MODEL = "{family: llama, layers: 1, width: 8, heads: 2, mlp_width: 12, vocab: 257, context: 4096}"
CONTEXT = 4096
GOOD = {
    "qqp": ["id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate", '1\t2\t3\twhere "is\tNA\t1', "4\t5\t6\tshort", "4\t5\t6\ta\tb\t0", "7\t8\t9\tnull\t\t0", '7\t8\t9\tc"\tNone\t1'],
    "mnli": ["index\tsentence1\tsentence2\tlabel1\tgold_label", '0\tthe "sea\tNA\tneutral\tentailment', "1\ta\tb\tneutral\t-", "2\tnull\tc\tneutral\tneutral", "3\td\te\tneutral\tcontradiction"],
    "stsb": ["index\tgenre\tsentence1\tsentence2\tscore", "0\tmain\ta plane\ta bird\t2.5", "1\tmain\tNone\tthe sea\t0.000", "2\tmain\tx\ty\t5"],
    "cola": ["gj04\t1\t\tThe sailors rode.", "gj04\t0\t*\tThe sailors rode the", "gj04\t1\t\tsentence label"],
    "conll": ["-DOCSTART- -X- O", "", "the DT O", "river NN B-LOC", "", "sea NN B-LOC", "runs VB O"],
    "jsonl": ['{"text_a": "A line", "text_b": "of text \\u20ac", "label": "yes"}', '{"text_a": "NA", "text_b": "C", "label": "no"}', '{"text_a": "null", "text_b": "x", "label": "yes"}'],
}
COLUMNS = {"qqp": ("question1", "question2", "is_duplicate"), "mnli": ("sentence1", "sentence2", "gold_label"), "stsb": ("sentence1", "sentence2", "score"), "cola": ("sentence", None, "label")}
NAMES = {"qqp": ["not_duplicate", "duplicate"], "cola": ["unacceptable", "acceptable"]}
PIECES = ["\t", "\t\t", '"', '""', "\n", "\n\n", "\r\n", "\r", "\0", " ", "-", "0", "1", "2", "-1", "0x10", "1e3", "1e400", "nan", "inf", "NA", "null", "", "é", "\ufeff", "neutral", "Neutral", "O",
          "\\u0000", "\\", ",", "}", '{"text_a": 1}', "null", "true", '"label": 3,', '"text_a": "again", ', "\u2028", "\u00a0", "\x0b"]  # fmt: skip


def mutate(draw, text):
    """One to three changes of a text, some of them by bytes."""
    data = text.encode()
    for _ in range(draw.randint(1, 3)):
        at, how = draw.randrange(len(data) + 1), draw.randrange(7)
        lines = data.split(b"\n")
        if how <= 2:
            end = at + draw.choice([0, 0, 1, 3])
            data = data[:at] + draw.choice(PIECES).encode() + data[end:]
        elif how == 3:
            data = data[:at] + bytes([draw.choice([0xFF, 0xC0, 0x80, 0xED, 9, 10, 13, 34, 92, draw.randrange(256)])]) + data[at + 1 :]
        elif how == 4:
            del lines[draw.randrange(len(lines))]
            data = b"\n".join(lines)
        elif how == 5:
            lines.insert(draw.randrange(len(lines) + 1), draw.choice(lines))
            data = b"\n".join(lines)
        else:
            i = draw.randrange(len(lines))
            fields = lines[i].split(b"\t")
            j, k = draw.randrange(len(fields)), draw.randrange(len(fields))
            fields[j], fields[k] = fields[k], fields[j]
            lines[i] = b"\t".join(fields)
            data = b"\n".join(lines)
    return data


# ---- the second reader: rows (texts joined, label), or why not ----------------------------------------------------------------------------------------


class Refused(Exception):
    pass


def need(true, why):
    if not true:
        raise Refused(why)


def lines_of(data):
    need(data[:2] not in (b"\xff\xfe", b"\xfe\xff"), "UTF-16")
    data = data.removeprefix(b"\xef\xbb\xbf")
    lines = data.split(b"\n")
    ended = [line.removesuffix(b"\r") for line in lines[:-1]]
    return ended + ([lines[-1]] if lines[-1] else [])


def is_text(data):
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def read_table(task, data):
    lines, (a, b, label) = lines_of(data), COLUMNS[task]
    need(lines, "nothing")
    header = lines[0].decode(errors="replace").split("\t")
    bare = task == "cola" and a not in header and len(header) == 4
    places = [3, None, 1] if bare else [header.index(name) if name in header else (None if name is None else -1) for name in (a, b, label)]
    need(-1 not in places, "no such column")
    rows, width = [], len(header)
    for line in lines if bare else lines[1:]:
        fields = line.split(b"\t")
        if not line:
            continue
        if task == "qqp" and (len(fields) < width or not fields[places[0]] or not fields[places[1]]):
            continue
        if task == "mnli" and len(fields) == width and fields[places[2]] == b"-":
            continue
        need(len(fields) == width, "fields")
        texts, found = [fields[place] for place in places[:2] if place is not None], fields[places[2]]
        need(all(texts), "an empty text")
        if task == "stsb":
            need(re.fullmatch(rb"[ \v\f\r\n]*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", found) and math.isfinite(float(found)), "no number")
            rows.append((texts, float(found)))
        elif task == "mnli":
            need(found and is_text(found) and b"\0" not in found, "no name")
            rows.append((texts, found.decode()))
        else:
            need(found in (b"0", b"1"), "neither 0 nor 1")
            rows.append((texts, NAMES[task][int(found)]))
    return rows


def read_conll(data):
    sentences, words, width = [], [], 0
    for line in [*lines_of(data), b""]:
        columns = [part for part in re.split(rb"[ \t]+", line) if part]
        if not columns or columns[0] == b"-DOCSTART-":
            if words:
                sentences.append(words)
            words = []
            continue
        need(len(columns) > 1, "one column")
        width = width or len(columns)
        need(len(columns) == width, "columns")
        need(is_text(columns[-1]) and b"\0" not in columns[-1], "no name")
        words.append((b" " + columns[0], columns[-1].decode()))
    return sentences


def once(pairs):
    need(len({key for key, _ in pairs}) == len(pairs), "a key twice")
    return dict(pairs)


def read_jsonl(data):
    need(data[:2] not in (b"\xff\xfe", b"\xfe\xff") and is_text(data), "no UTF-8")
    text, rows, at = data.decode().removeprefix("\ufeff"), [], 0
    decoder = json.JSONDecoder(object_pairs_hook=once, parse_constant=lambda word: need(False, word))
    while text[at:].strip(" \t\r\n"):
        at += len(text[at:]) - len(text[at:].lstrip(" \t\r\n"))
        try:
            row, at = decoder.raw_decode(text, at)
        except (json.JSONDecodeError, RecursionError) as error:
            raise Refused("no JSON") from error
        need(isinstance(row, dict), "no object")
        need(isinstance(row.get("text_a"), str) and isinstance(row.get("text_b"), str) and isinstance(row.get("label"), str), "keys")
        texts = [row[key].encode("utf-8", "surrogatepass") for key in ("text_a", "text_b")]
        need(all(is_text(text) for text in texts) and all(texts) and row["label"] and "\0" not in row["label"], "values")
        rows.append((texts, row["label"]))
    return rows


def expected_of(name, data):
    rows = read_conll(data) if name == "conll" else read_jsonl(data) if name == "jsonl" else read_table(name, data)
    need(rows, "no row")
    if name == "conll":
        found = {label for words in rows for _, label in words}
    else:
        found = {label for _, label in rows}
    need(name in ("stsb", "qqp", "cola") or len(found) > 1, "one label")
    order = NAMES.get(name) or (None if name == "stsb" else sorted(found, key=lambda label: label.encode()))
    if name == "conll":
        result = [(b"".join(word for word, _ in words), [order.index(label) if i == 0 else -100 for word, label in words for i in range(len(word))]) for words in rows]
    else:
        result = [(b"".join(texts), float(order.index(label) if order else label)) for texts, label in rows]
    need(all(len(text) <= CONTEXT for text, _ in result), "long")
    return result, order


# ---- what mpilora read --------------------------------------------------------------------------------------------------------------------------------


def found_in(path):
    with h5py.File(path) as file:
        tokens, offsets = file["tokens"][:].tolist(), file["offsets"][:].tolist()
        names = file.attrs.get("label_names", "")
        names = json.loads(names if isinstance(names, str) else bytes(names).decode().rstrip("\0")) if len(names) else None
        each = file["token_labels"][:].tolist() if "token_labels" in file else None
        one = file["labels"][:].tolist() if "labels" in file else None
    parts = list(zip(offsets, offsets[1:]))
    return [(bytes(tokens[a:b]), each[a:b] if each else one[i]) for i, (a, b) in enumerate(parts)], names


def check(folder, name, number):
    draw = random.Random(f"{name} {number}")
    data = mutate(draw, "\n".join(GOOD[name]) + "\n")
    path, out = f"{folder}/{name}-{number}.in", f"{folder}/{name}-{number}.h5"
    with open(path, "wb") as file:
        file.write(data)
    words = ["--format", name] if name in ("conll", "jsonl") else ["--format", "glue", "--task", name]
    done = subprocess.run(harness.command("tokenize", "--base", f"{folder}/base.h5", path, out, *words), capture_output=True, text=True, errors="replace", timeout=60)
    what = f"{name}, mutation {number}: {data!r}"
    try:
        expected, why = expected_of(name, data), ""
    except Refused as error:
        expected, why = None, str(error)
    checks.that(done.returncode in (0, 3), f"{what}: exit {done.returncode}: {done.stderr}")
    if done.returncode:
        checks.that(expected is None, f"{what}: is refused, but is whole: {done.stderr}")
        return 0
    checks.that(expected is not None, f"{what}: is read, but should be refused: {why}")
    if expected is None:
        return 0
    found, names = found_in(out)
    wanted = [(text, label if name == "conll" else struct.unpack("f", struct.pack("f", label))[0]) for text, label in expected[0]]
    checks.that(found == wanted and names == expected[1], f"{what}: read {found} {names}, expected {wanted} {expected[1]}")
    return 1


def main():
    count, first = int(sys.argv[1]) if len(sys.argv) > 1 else 50, int(os.environ.get("FUZZ_FIRST", "1"))
    with tempfile.TemporaryDirectory() as folder, concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        subprocess.run([sys.executable, f"{harness.SOURCE}/jobs/make_byte_tokenizer.py", f"{folder}/tokenizer"], check=True)
        with open(f"{folder}/model.yaml", "w") as file:
            file.write(MODEL)
        harness.mpilora("import", "--init", "random", "--config", f"{folder}/model.yaml", "--tokenizer", f"{folder}/tokenizer", f"{folder}/base.h5")
        for name in sys.argv[2:] or GOOD:
            read = sum(pool.map(lambda number: check(folder, name, number), range(first, first + count)))
            checks.that(count < 20 or read > count // 10, f"{name}: only {read} of {count} were read")
            print(f"{name}: {count} mutations, {read} read", flush=True)
    checks.end()


main()
