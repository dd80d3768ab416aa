#!/usr/bin/env python3
"""Writes the rows of Parquet files as jsonl, which `mpilora tokenize` reads.

usage: parquet_to_jsonl.py FILE.parquet|DIRECTORY … OUT.jsonl|- [--columns a,b,…] [--rename old=new,…]

A directory stands for its *.parquet files in the order of their names (a data set's shards). Columns keep their names, or get those of --rename, and
nested values (lists of messages) become JSON. A class column keeps its numbers. Rows are read in batches, so that memory does not grow with the files.
Needs pyarrow (`pip install pyarrow`). OUT is put in its place when it is whole.
"""

import argparse
import base64
import datetime
import decimal
import json
import os
import sys


def plain(value):
    """What JSON has no form for: times as ISO 8601, decimals as numbers, bytes as text where they are UTF-8, else in base 64."""
    if isinstance(value, (datetime.datetime, datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, datetime.timedelta):
        return value.total_seconds()
    if isinstance(value, decimal.Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError:
            return base64.b64encode(value).decode()
    raise TypeError(f"a value of type {type(value).__name__}")


def files_of(names):
    out = []
    for name in names:
        if os.path.isdir(name):
            found = sorted(os.path.join(name, one) for one in os.listdir(name) if one.endswith(".parquet"))
            if not found:
                sys.exit(f"{name}: has no *.parquet file")
            out += found
        elif os.path.isfile(name):
            out.append(name)
        else:
            sys.exit(f"{name}: there is no such file or directory")
    return out


def read_renames(text):
    pairs = [word.split("=") for word in text.split(",") if word]
    if any(len(pair) != 2 or not all(pair) for pair in pairs):
        sys.exit(f"--rename {text}: expected old=new,…")
    return dict(pairs)


def write_rows(name, out, columns, renames, seen):
    import pyarrow
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(name)
        there = file.schema_arrow.names
        wanted = columns or there
        for column in [*wanted, *renames]:
            if column not in there:
                sys.exit(f"{name}: has no column {column}; it has {', '.join(there)}")
        names = [renames.get(column, column) for column in wanted]
        if len(set(names)) < len(names):
            sys.exit(f"{name}: two columns would have one name: {', '.join(names)}")
        if seen and seen[0][1] != names:
            sys.exit(f"{name}: has the columns {', '.join(names)}, but {seen[0][0]} has {', '.join(seen[0][1])}; choose with --columns")
        seen.append((name, names))
        count = 0
        for batch in file.iter_batches(batch_size=256, columns=wanted):
            # Arrow gives batches in the file's order of columns.
            values = [batch.column(batch.schema.get_field_index(column)).to_pylist() for column in wanted]
            for row in zip(*values):
                count += 1
                try:
                    out.write(json.dumps(dict(zip(names, row)), ensure_ascii=False, allow_nan=False, default=plain) + "\n")
                except (ValueError, TypeError) as error:
                    sys.exit(f"{name}: row {count} cannot be JSON: {error}")
        return count
    except (pyarrow.ArrowException, OSError) as error:
        sys.exit(f"{name}: {str(error).splitlines()[0]}")


def main():
    parser = argparse.ArgumentParser(usage=__doc__.split("usage: ")[1].split("\n")[0], description=__doc__.split("\n")[0])
    parser.add_argument("inputs", nargs="+")
    parser.add_argument("out")
    parser.add_argument("--columns", default="")
    parser.add_argument("--rename", default="")
    given = parser.parse_args()
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError:
        sys.exit("parquet_to_jsonl.py needs pyarrow: pip install pyarrow")
    columns, renames = [one for one in given.columns.split(",") if one], read_renames(given.rename)
    files, seen, count = files_of(given.inputs), [], 0
    if given.out == "-":
        for name in files:
            count += write_rows(name, sys.stdout, columns, renames, seen)
        return
    temporary = f"{given.out}.tmp-{os.getpid()}"
    try:
        with open(temporary, "w", encoding="utf-8") as out:
            for name in files:
                count += write_rows(name, out, columns, renames, seen)
        os.replace(temporary, given.out)
    finally:
        if os.path.exists(temporary):
            os.unlink(temporary)
    print(f"{given.out}: {count} rows of {len(files)} files")


main()
