#!/usr/bin/env python3
"""Writes the paper's generated-text tasks, as they are distributed, as rows that `mpilora tokenize` reads: {"prompt": …, "completion": …}.

usage: convert_task.py mnli    train.tsv|dev_matched.tsv|dev_mismatched.tsv OUT.jsonl   of GLUE's MNLI.zip
       convert_task.py wikisql train.jsonl|dev.jsonl|test.jsonl OUT.jsonl               of WikiSQL's data.tar.bz2, NAME.tables.jsonl beside it
       convert_task.py samsum  train.json|val.json|test.json OUT.jsonl                  of SAMSum's corpus.7z

mnli: both sentences, then " entailment", " neutral" or " contradiction"; rows that the annotators did not agree on ("-") are left out and counted.
wikisql: the table's columns and the question, then the query, columns in double quotes and values in single ones, a quote inside doubled: what
  `mpilora score --metrics exact,logical_form` reads. samsum: the conversation, then its summary. OUT is put in its place when it is whole.
"""

import argparse
import json
import os
import sys

AGGREGATES = ["", "MAX", "MIN", "COUNT", "SUM", "AVG"]
OPERATORS = ["=", ">", "<"]
LABELS = ("entailment", "neutral", "contradiction")


def stop(path, number, text):
    sys.exit(f"convert_task.py: {path}: line {number}: {text}")


def read_lines(path):
    with open(path, encoding="utf-8", newline="") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield number, line.rstrip("\r\n")


def read_objects(path):
    for number, line in read_lines(path):
        try:
            yield number, json.loads(line)
        except ValueError as error:
            stop(path, number, f"no JSON: {error}")


def convert_mnli(path):
    """Without quoting: a quote in a sentence is one."""
    head, left_out = None, 0
    for number, line in read_lines(path):
        fields = line.split("\t")
        if head is None:
            head = {name: i for i, name in enumerate(fields)}
            missing = [name for name in ("sentence1", "sentence2", "gold_label") if name not in head]
            if missing:
                stop(path, number, f"no column {missing[0]}; expected a table of MNLI with labels, whose first line names the columns")
            continue
        if len(fields) != len(head):
            stop(path, number, f"{len(fields)} columns, the first line has {len(head)}")
        label = fields[head["gold_label"]]
        if label == "-":
            left_out += 1
        elif label not in LABELS:
            stop(path, number, f'gold_label is "{label}", expected {", ".join(LABELS)} or -')
        else:
            yield {"prompt": f"premise: {fields[head['sentence1']]}\nhypothesis: {fields[head['sentence2']]}\nanswer:", "completion": f" {label}"}
    if left_out:
        print(f"{path}: {left_out} rows without an agreed label are left out", file=sys.stderr)


def quote(text, mark):
    return mark + str(text).replace(mark, 2 * mark) + mark


def write_query(sql, columns):
    """As WikiSQL's own Query writes it, but for the quotes, which tell names and values apart."""
    column = quote(columns[sql["sel"]], '"')
    selected = f"{AGGREGATES[sql['agg']]}({column})" if sql["agg"] else column
    conditions = [f"{quote(columns[at], chr(34))} {OPERATORS[operator]} {quote(value, chr(39))}" for at, operator, value in sql["conds"]]
    return f"SELECT {selected} FROM table" + (" WHERE " + " AND ".join(conditions) if conditions else "")


def convert_wikisql(path):
    if not path.endswith(".jsonl"):
        sys.exit(f"convert_task.py: {path}: expected NAME.jsonl, with NAME.tables.jsonl beside it")
    tables = {table["id"]: table["header"] for _, table in read_objects(path[: -len(".jsonl")] + ".tables.jsonl")}
    for number, row in read_objects(path):
        try:
            columns = tables[row["table_id"]]
            query = write_query(row["sql"], columns)
            yield {"prompt": f"columns: {', '.join(columns)}\nquestion: {row['question']}\nquery:", "completion": f" {query}"}
        except (KeyError, IndexError, TypeError, ValueError) as error:
            stop(path, number, f"no row of WikiSQL: {type(error).__name__} {error}")


def convert_samsum(path):
    with open(path, encoding="utf-8") as file:
        try:
            rows = json.load(file)
        except ValueError as error:
            sys.exit(f"convert_task.py: {path}: no JSON: {error}")
    for number, row in enumerate(rows if isinstance(rows, list) else [None], 1):
        if not isinstance(row, dict) or not all(isinstance(row.get(key), str) for key in ("dialogue", "summary")):
            sys.exit(f"convert_task.py: {path}: element {number} has no dialogue and summary; expected SAMSum's list")
        dialogue, summary = row["dialogue"].replace("\r\n", "\n").strip(), " ".join(row["summary"].split())
        if dialogue and summary:
            yield {"prompt": f"{dialogue}\nsummary:", "completion": f" {summary}"}
        else:
            print(f"{path}: element {number} is empty and left out", file=sys.stderr)


CONVERT = {"mnli": convert_mnli, "wikisql": convert_wikisql, "samsum": convert_samsum}


def main():
    parser = argparse.ArgumentParser(usage="convert_task.py mnli|wikisql|samsum IN OUT.jsonl")
    parser.add_argument("task", choices=CONVERT)
    parser.add_argument("source")
    parser.add_argument("out")
    given = parser.parse_args()
    temporary, count = f"{given.out}.tmp-{os.getpid()}", 0
    try:
        with open(temporary, "w", encoding="utf-8") as file:
            for row in CONVERT[given.task](given.source):
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
                count += 1
        if not count:
            sys.exit(f"convert_task.py: {given.source}: no row in it")
        os.replace(temporary, given.out)
    except OSError as error:
        sys.exit(f"convert_task.py: {error.filename or given.out}: {error.strerror}")
    finally:
        if os.path.exists(temporary):
            os.remove(temporary)
    print(f"{given.out}: {count} rows")


if __name__ == "__main__":
    main()
