"""BLEU and NIST as the E2E challenge's Python scripts define them, written anew from the definition: what `mpilora score` is compared with. Standard library alone."""
import math
import re
from collections import Counter

RULES = (
    ("<skipped>", ""), ("-\n", ""), ("\n", " "), ("&quot;", '"'), ("&amp;", "&"), ("&lt;", "<"), ("&gt;", ">"),
)
SPACED = (
    (r"([!-&(-+/:-@\[-`{-~])", r" \1 "),  # signs but ' , - .
    (r"([^0-9])([.,])", r"\1 \2 "),
    (r"([.,])([^0-9])", r" \1 \2"),
    (r"([0-9])(-)", r"\1 \2 "),
)


def tokens(text):
    """mteval-v13a's for western languages, lower case; an empty text is one empty token."""
    for old, new in RULES:
        text = text.replace(old, new)
    text = f" {text} "
    for pattern, new in SPACED:
        text = re.sub(pattern, new, text)
    return text.lower().split() or [""]


def grams(sentence, n):
    return Counter(tuple(sentence[i : i + n]) for i in range(len(sentence) - n + 1))


def cut(items):
    return [(tokens(output), [tokens(reference) for reference in references]) for output, references in items]


def hits(output, references, n):
    """n-gram of the output -> how often it counts: at most as often as in the reference that has it most."""
    most = Counter()
    for reference in references:
        most |= grams(reference, n)
    return grams(output, n) & most


def bleu(items):
    sets = cut(items)
    logs = 0.0
    for n in range(1, 5):
        found = sum(sum(hits(output, references, n).values()) for output, references in sets)
        there = sum(max(0, len(output) - n + 1) for output, _ in sets)  # the scripts let an output of fewer than n - 1 words take some off: BLEU may exceed 1 then
        logs += math.log(max(found, 1e-15) / max(there, 1e-9)) / 4
    length = sum(len(output) for output, _ in sets)
    nearest = sum(min((abs(len(reference) - len(output)), len(reference)) for reference in references)[1] for output, references in sets)
    return math.exp(logs) * (math.exp(1 - nearest / length) if length <= nearest else 1.0)


def nist(items):
    sets = cut(items)
    counts = {0: Counter()}
    for n in range(1, 6):
        counts[n] = sum((grams(reference, n) for _, references in sets for reference in references), Counter())
    counts[0][()] = sum(counts[1].values())
    total = 0.0
    for n in range(1, 6):
        gain = sum(k * math.log2(counts[n - 1][gram[:-1]] / counts[n][gram]) for output, references in sets for gram, k in hits(output, references, n).items())
        total += gain / sum(len(output) - n + 1 for output, _ in sets)  # as in the scripts
    ratio = sum(len(output) for output, _ in sets) / sum(sum(map(len, references)) / len(references) for _, references in sets)
    beta = math.log(2) / math.log(1.5) ** 2  # half where an output has two thirds of the mean reference's words
    return total * (1.0 if ratio >= 1 else math.exp(-beta * math.log(ratio) ** 2))
