"""mpilora score: figures computed by hand, figures that well-kept Python libraries gave for real texts (tests/interop/check_score.py), and bad input."""
import json
import math
import os
import random
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "interop"))
import e2e_scores
import harness

ALL = "bleu,nist,meteor,meteor_nltk,rouge_l,cider,rouge,rouge_stem,exact"
checks = harness.Checks()


def figures(folder, items, metrics=ALL):
    with open(f"{folder}/out.jsonl", "w") as file:
        file.writelines(json.dumps({"prompt": "x", "output": output, "references": references}) + "\n" for output, references in items)
    return json.loads(harness.mpilora("score", f"{folder}/out.jsonl", "--metrics", metrics, "--json"))


def check_by_hand(folder):
    same = figures(folder, [("The cat sat on the mat .", ["The cat sat on the mat ."]), ("A dog barks loudly .", ["A dog barks loudly .", "x"])])
    for name in ("bleu", "rouge_l", "rouge1_f1", "rouge2_f1", "rougeL_f1", "exact"):
        checks.close(f"equal texts: {name}", same[name], 1.0, 1e-9)
    # 4 of 4 words, 3 of 3, 2 of 2, 1 of 1; 4 words beside 8: exp(1 - 8/4)
    short = figures(folder, [("a b c d", ["a b c d e f g h"])])
    checks.close("brevity penalty", short["bleu"], math.exp(-1), 1e-9)
    # P = 1, R = 1/2: F1 = 2/3; LCS with beta 1.2: (1 + 1.44) * 0.5 / (0.5 + 1.44)
    checks.close("ROUGE-1", short["rouge1_f1"], 2 / 3, 1e-9)
    checks.close("ROUGE-L", short["rouge_l"], 2.44 * 0.5 / (0.5 + 1.44), 1e-9)
    # one chunk of 4 matches: F = 0.5 / (0.85 + 0.15 * 0.5), penalty 0.6 * (1/4)^0.2
    checks.close("METEOR", short["meteor"], 0.5 / (0.85 + 0.075) * (1 - 0.6 * 0.25**0.2), 1e-9)
    # "cats" and "cat" have one stem: m = 1.6, P = R = 0.8; texts that are matched as a whole are not in pieces
    stem = figures(folder, [("two cats", ["two cat"])], "meteor,meteor_nltk")
    checks.close("METEOR of a stem", stem["meteor"], 0.8, 1e-9)
    # "the" is a function word: P = R = (3/4) / (3/4 + 1/4), one chunk of one match
    with_words = ("score", f"{folder}/out.jsonl", "--metrics", "meteor", "--function-words", f"{folder}/words", "--json")
    figures(folder, [("the cat", ["cat a"])], "meteor")
    for how, text in (("", b"a\nthe\n"), (", a mark, capitals, blanks, CR LF", b"\xef\xbb\xbfThe\r\n\r\n\ta \r\n"), (", no last end of line", b"a\nthe")):
        with open(f"{folder}/words", "wb") as file:
            file.write(text)
        checks.close("METEOR with function words" + how, json.loads(harness.mpilora(*with_words))["meteor"], 0.75 * (1 - 0.6), 1e-9)
    # NLTK's: m = 2, one chunk of 2
    checks.close("NLTK's METEOR of a stem", stem["meteor_nltk"], 1 - 0.5 * 0.5**3, 1e-9)
    # reference of 3 words, output of 2 of them: info(a) = log2(3), penalty 1/2 at 2/3
    nist = figures(folder, [("a b", ["a b c"])], "nist")
    checks.close("NIST", nist["nist"], 0.5 * (2 * math.log2(3) / 2 + 0.0), 1e-9)
    exact = figures(folder, [("SELECT  a", ["select a"]), ("yes", ["no", " yes "])], "exact")
    checks.that(exact["exact"] == 0.5 and exact["exact_any_case"] == 1.0, f"exact match: {exact}")


def check_golden(folder):
    with open(os.path.join(harness.SOURCE, "tests", "golden", "score.json")) as file:
        sets = json.load(file)
    for number, golden in enumerate(sets):
        found = figures(folder, golden["items"])
        for name, expected in golden["figures"].items():
            checks.that(abs(found[name] - expected) < 1e-9, f"set {number}, {name}: {found[name]}, the library says {expected}")


def e2e_text(source):
    words = [source.choice(("The", "Eagle", "is", "a", "child-friendly", "pub", "£20-25", "less than £20", "near", "Café Rouge", "7 p.m.", "1,000", "O'Neil", "(cheap)",
                            "rated 5 out of 5", "it's", "&quot;The Mill&quot;", "riverside,", "and", "serves", "food", "U.K.")) for _ in range(source.randint(1, 14))]
    return " ".join(words) + source.choice((".", " .", "!", ""))


def check_e2e(folder):
    """BLEU and NIST beside the definition of the E2E challenge's scripts, written anew: marks, numbers, capitals, and outputs of a word or two."""
    source = random.Random(11)
    for size in (1, 5, 40):
        items = []
        for _ in range(size):
            references = [e2e_text(source) for _ in range(source.randint(1, 6))]
            output = source.choice(references).split()
            output[source.randrange(len(output))] = source.choice(("pub", "The", "."))
            items.append((" ".join(output[source.randint(0, 3) :] or ["food"]), references))
        items[0] = (" ".join(items[0][1]), items[0][1])
        found = figures(folder, items)
        for name, expected in (("bleu", e2e_scores.bleu(items)), ("nist", e2e_scores.nist(items))):
            checks.that(abs(found[name] - expected) < 1e-6 * max(1.0, expected), f"{name} of {size} items: {found[name]}, by the definition {expected}")


def check_files(folder):
    with open(f"{folder}/out.txt", "w") as file:
        file.write("a b c d\ne f\n")
    with open(f"{folder}/ref.txt", "w") as file:
        file.write("a b c d\na b\n\ne f\n")
    found = json.loads(harness.mpilora("score", "--outputs", f"{folder}/out.txt", "--references", f"{folder}/ref.txt", "--json"))
    checks.that(found["items"] == 2 and found["references"] == 3 and abs(found["bleu"] - 1) < 1e-9, f"files: {found}")
    checks.that("bleu" in harness.mpilora("score", "--outputs", f"{folder}/out.txt", "--references", f"{folder}/ref.txt"), "the table has no bleu")


def refused(folder, what, text, code, expected, *words):
    with open(f"{folder}/bad", "wb") as file:
        file.write(text)
    done = harness.start("score", *(words or (f"{folder}/bad",)))
    lines = done.stderr.strip().splitlines()
    checks.that(done.returncode == code and len(lines) == 1 and expected in lines[0], f"{what}: exit {done.returncode}: {done.stderr}")


def check_bad_input(folder):
    refused(folder, "an empty file", b"", 3, "nothing to score")
    refused(folder, "no JSON", b"x\n", 3, "line 1")
    refused(folder, "no output", b'{"references": ["a"]}\n', 3, "output")
    refused(folder, "no references", b'{"output": "a"}\n', 3, "references")
    refused(folder, "an empty list", b'{"output": "a", "references": []}\n', 3, "references")
    refused(folder, "bytes that are no UTF-8", b'{"output": "\xff", "references": ["a"]}\n', 3, "UTF-8")
    refused(folder, "no such file", b"", 3, "nothing.jsonl", f"{folder}/nothing.jsonl")
    refused(folder, "another metric", b'{"output": "a", "references": ["a"]}\n', 2, "spice", f"{folder}/bad", "--metrics", "bleu,spice")
    refused(folder, "no references at all", b"a\n", 2, "--references", "--outputs", f"{folder}/bad")
    figures(folder, [("the cat", ["cat a"])], "meteor")
    own = (f"{folder}/out.jsonl", "--metrics", "meteor", "--function-words", f"{folder}/bad")
    for what, text, expected in (("empty", b"", "bad: the file is empty"), ("of blank lines", b"\n \r\n", "no word"), ("of sentences", b"a\nthe cat\n", "line 2"),
                                 ("of bytes", b"a\nthe\n\xff\xfe\n", "line 3"), ("with a zero byte", b"a\nth\0e\n", "line 2")):
        refused(folder, f"function words: a file {what}", text, 3, expected, *own)
    refused(folder, "function words: no such file", b"", 3, "nothing", *own[:-1], f"{folder}/nothing")
    refused(folder, "function words: a directory", b"", 3, "directory", *own[:-1], folder)
    refused(folder, "function words without METEOR", b"a\n", 2, "--metrics meteor", own[0], "--metrics", "bleu", *own[-2:])
    refused(folder, "function words with a task", b"a\n", 2, "--function-words", own[0], "--task", "sst2", *own[-2:])
    refused(folder, "other counts", b"a\nb\nc\n", 3, "bad", "--outputs", f"{folder}/bad", "--references", f"{folder}/ref.txt")


def main():
    with tempfile.TemporaryDirectory() as folder:
        check_by_hand(folder)
        check_golden(folder)
        check_e2e(folder)
        check_files(folder)
        check_bad_input(folder)
    checks.end()


main()
