#!/usr/bin/env python3
"""Makes small stand-ins for MNLI, WikiSQL and SAMSum in the files and formats that these are distributed in, so that the way from a raw file to a score can
be gone without them (jobs/convert_task.py). What they say is made up, and follows from the seed alone.

usage: make_task_standin.py mnli|wikisql|samsum DIRECTORY [--rows N] [--seed n]
Writes train and a tenth as many rows for validation: mnli train.tsv, dev_matched.tsv; wikisql train.jsonl, train.tables.jsonl, dev.jsonl, dev.tables.jsonl;
samsum train.json, val.json.
"""

import argparse
import json
import os
import random

NAMES = "Anna Ben Clara David Emma Felix Greta Hugo Ida Jan".split()
PLACES = "the park|the station|the harbour|the library|the market|the old mill".split("|")
DEEDS = [("is running", "is moving", "is asleep"), ("is reading", "is holding a book", "cannot read"), ("is singing", "makes a sound", "says nothing"), ("is cooking", "is in a kitchen", "is swimming")]
COLUMNS = {"Player": NAMES, "Team": ["Red Stars", "Blue Lanterns", "O'Hara's", "Old Mill FC"], "Points": range(10, 40), "Year": range(1990, 2010), 'Position "A"': ["guard", "forward", "centre"]}


def mnli_row(source, index):
    name, place = source.choice(NAMES), source.choice(PLACES)
    does, follows, contradicts = source.choice(DEEDS)
    label = ("entailment", "neutral", "contradiction")[index % 3]
    hypothesis = {"entailment": f"{name} {follows}.", "neutral": f"{name} has a sister.", "contradiction": f"{name} {contradicts}."}[label]
    gold = "-" if index % 50 == 49 else label
    return [str(index), f"{index}n", f"{index}n", "fiction", "", "", "", "", f'{name} {does} at {place}, "again".', hypothesis, label, gold]


def write_mnli(folder, part, count, source):
    head = "index promptID pairID genre sentence1_binary_parse sentence2_binary_parse sentence1_parse sentence2_parse sentence1 sentence2 label1 gold_label".split()
    with open(f"{folder}/{'train' if part == 'train' else 'dev_matched'}.tsv", "w", encoding="utf-8") as file:
        file.writelines("\t".join(row) + "\n" for row in [head] + [mnli_row(source, i) for i in range(count)])


def wikisql_row(source, table):
    """The question says of the query what it asks for: its column, and what another has to be."""
    columns = table["header"]
    selected, asked = source.sample(range(len(columns)), 2)
    value = source.choice(list(COLUMNS[columns[asked]]))
    number = isinstance(value, int)
    operator = source.randrange(3) if number else 0
    aggregate = source.choice([0, 1, 2, 3, 4, 5]) if isinstance(COLUMNS[columns[selected]], range) else source.choice([0, 3])
    words = (("", "highest ", "lowest ", "number of ", "sum of ", "mean ")[aggregate], columns[selected], columns[asked], ("", "more than ", "less than ")[operator], value)
    return {"phase": 1, "table_id": table["id"], "question": "What is the {}{} where {} is {}{}?".format(*words), "sql": {"sel": selected, "conds": [[asked, operator, value]], "agg": aggregate}}


def write_wikisql(folder, part, count, source):
    tables = []
    for i in range(max(1, count // 8)):
        header = source.sample(list(COLUMNS), source.randint(3, len(COLUMNS)))
        types = ["real" if isinstance(COLUMNS[name], range) else "text" for name in header]
        tables.append({"id": f"1-{part}-{i}", "header": header, "types": types, "rows": [[source.choice(list(COLUMNS[name])) for name in header] for _ in range(4)], "name": f"table_{i}"})
    for name, rows in ((f"{folder}/{part}.tables.jsonl", tables), (f"{folder}/{part}.jsonl", [wikisql_row(source, source.choice(tables)) for _ in range(count)])):
        with open(name, "w", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)


def samsum_row(source, index):
    a, b = source.sample(NAMES, 2)
    place, hour = source.choice(PLACES), source.randint(1, 11)
    turns = [f"{a}: Are you free today?", f"{b}: After {hour}. Why?", f"{a}: Let us meet at {place}.", f"{b}: Fine, see you there!"]
    return {"id": f"{13000000 + index}", "summary": f"{a} and {b} meet at {place} after {hour}.", "dialogue": "\r\n".join(turns)}


def write_samsum(folder, part, count, source):
    with open(f"{folder}/{'train' if part == 'train' else 'val'}.json", "w", encoding="utf-8") as file:
        json.dump([samsum_row(source, i) for i in range(count)], file, indent=1)


WRITE = {"mnli": write_mnli, "wikisql": write_wikisql, "samsum": write_samsum}


def main():
    parser = argparse.ArgumentParser(usage="make_task_standin.py mnli|wikisql|samsum DIRECTORY [--rows N] [--seed n]")
    parser.add_argument("task", choices=WRITE)
    parser.add_argument("directory")
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--seed", default="1")
    given = parser.parse_args()
    os.makedirs(given.directory, exist_ok=True)
    for part, count in (("train", given.rows), ("dev", max(1, given.rows // 10))):
        WRITE[given.task](given.directory, part, count, random.Random(f"{given.task}:{part}:{given.seed}"))
    print(f"{given.directory}: {given.rows} rows and a tenth as many")


if __name__ == "__main__":
    main()
