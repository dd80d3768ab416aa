#!/usr/bin/env python3
"""Makes a classification set of WordNet 3.0, as Debian's package wordnet-base has it: from a definition to one of 45 supersenses
(noun.animal, verb.motion, adj.all, …), the lexicographer's file that the meaning stands in.

    {"text": "a small grey animal with long ears", "label": "noun.animal"}

usage: make_supersenses.py DIRECTORY [--wordnet /usr/share/wordnet] [--valid 0.1] [--rows N] [--seed n]
Writes DIRECTORY/train.jsonl, DIRECTORY/valid.jsonl and DIRECTORY/labels.txt, for `mpilora tokenize --labels DIRECTORY/labels.txt`. A word (lemma) is on one
side, by a hash of its letters and the seed; meanings whose words fall on both sides are left out, so that no word of valid.jsonl is one of train.jsonl,
and so are definitions that stand on both. --rows takes so many rows of train, and in proportion of valid, the same ones for the same seed. Examples
behind a definition, which would show the word, are left out.
"""

import argparse
import hashlib
import json
import os
import sys

# The lexicographer's files by number, of the manual page lexnames(5WN).
SUPERSENSES = (
    "adj.all adj.pert adv.all noun.Tops noun.act noun.animal noun.artifact noun.attribute noun.body noun.cognition noun.communication noun.event noun.feeling noun.food noun.group "
    "noun.location noun.motive noun.object noun.person noun.phenomenon noun.plant noun.possession noun.process noun.quantity noun.relation noun.shape noun.state noun.substance "
    "noun.time verb.body verb.change verb.cognition verb.communication verb.competition verb.consumption verb.contact verb.creation verb.emotion verb.motion verb.perception "
    "verb.possession verb.social verb.stative verb.weather adj.ppl"
).split()


def fraction(*words):
    """A number in [0, 1) that follows from the words alone."""
    return int.from_bytes(hashlib.sha256("\0".join(words).encode()).digest()[:8], "big") / 2**64


def read_meanings(folder):
    """(words, supersense, definition) of every line of the data files; the licence's lines begin with blanks."""
    for part in ("noun", "verb", "adj", "adv"):
        with open(os.path.join(folder, f"data.{part}"), encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if line.startswith("  "):
                    continue
                head, bar, gloss = line.partition(" | ")
                fields = head.split()
                try:
                    count = int(fields[3], 16)
                    words = {word.split("(")[0].lower() for word in fields[4 : 4 + 2 * count : 2]}
                    label = SUPERSENSES[int(fields[1])]
                except (IndexError, ValueError):
                    sys.exit(f"{folder}/data.{part}: line {number} is no line of WordNet's data files")
                definition = gloss.split('; "')[0].strip().strip(";").strip()
                if bar and definition and not definition.startswith('"'):
                    yield words, label, definition


def split(meanings, valid, seed):
    """The rows of train and of valid, each a definition once with the supersense of its first meaning."""
    sides = {False: {}, True: {}}
    for words, label, definition in meanings:
        side = {fraction(seed, word) < valid for word in words}
        if len(side) == 1:
            sides[side.pop()].setdefault(definition, label)
    for both in sides[False].keys() & sides[True].keys():
        del sides[True][both]
    return sides[False], sides[True]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory")
    parser.add_argument("--wordnet", default="/usr/share/wordnet")
    parser.add_argument("--valid", type=float, default=0.1)
    parser.add_argument("--rows", type=int)
    parser.add_argument("--seed", default="1")
    given = parser.parse_args()
    if not os.path.exists(os.path.join(given.wordnet, "data.noun")):
        sys.exit(f"{given.wordnet}: has no data.noun; install the package wordnet-base, or name the folder with --wordnet")
    os.makedirs(given.directory, exist_ok=True)
    train, valid = split(read_meanings(given.wordnet), given.valid, given.seed)
    share = min(1.0, given.rows / len(train)) if given.rows else 1.0
    for name, rows in (("train", train), ("valid", valid)):
        # In an order that is no dictionary's, and of which the first ones are kept.
        order = sorted(rows, key=lambda text: fraction(given.seed, "order", text))
        with open(os.path.join(given.directory, f"{name}.jsonl"), "w", encoding="utf-8") as file:
            for text in order[: round(share * len(order))]:
                file.write(json.dumps({"text": text, "label": rows[text]}, ensure_ascii=False) + "\n")
        print(f"{given.directory}/{name}.jsonl: {round(share * len(order))} definitions, {len(set(rows.values()))} supersenses")
    with open(os.path.join(given.directory, "labels.txt"), "w", encoding="utf-8") as file:
        file.writelines(name + "\n" for name in SUPERSENSES)


main()
