"""jobs/parquet_to_jsonl.py on files that pyarrow writes. For developers: `python3 check_parquet.py` with pyarrow installed."""

import datetime
import json
import os
import subprocess
import sys
import tempfile

import pyarrow
import pyarrow.parquet

SCRIPT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "jobs", "parquet_to_jsonl.py")
ROWS = {"label": [1, 2, None], "sentence": ["None", "NA", 'é\u2028"x"\n'], "messages": [[{"role": "user", "content": "a"}], [], None],
        "day": [datetime.date(2026, 1, 2)] * 3, "bytes": [b"ab", b"\xff", b""]}
EXPECTED = [{"label": 1, "sentence": "None", "messages": [{"role": "user", "content": "a"}], "day": "2026-01-02", "bytes": "ab"},
            {"label": 2, "sentence": "NA", "messages": [], "day": "2026-01-02", "bytes": "/w=="},
            {"label": None, "sentence": 'é\u2028"x"\n', "messages": None, "day": "2026-01-02", "bytes": ""}]


def run(*words):
    return subprocess.run([sys.executable, SCRIPT, *words], text=True, capture_output=True)


def main():
    with tempfile.TemporaryDirectory() as folder:
        for shard in range(2):
            pyarrow.parquet.write_table(pyarrow.table(ROWS), f"{folder}/train-{shard}.parquet")
        out = f"{folder}/out.jsonl"
        done = run(folder, out)
        assert done.returncode == 0, done.stderr
        with open(out, encoding="utf-8", newline="\n") as file:
            assert [json.loads(line) for line in file] == EXPECTED * 2
        done = run(f"{folder}/train-0.parquet", "-", "--columns", "sentence,label", "--rename", "sentence=text")
        assert [json.loads(line) for line in done.stdout.split("\n") if line] == [{"text": row["sentence"], "label": row["label"]} for row in EXPECTED], done
        os.mkdir(f"{folder}/bad")
        pyarrow.parquet.write_table(pyarrow.table({"x": [float("nan")]}), f"{folder}/bad/nan.parquet")
        pyarrow.parquet.write_table(pyarrow.table({"y": [1]}), f"{folder}/bad/y.parquet")
        for inputs, options, message in (([f"{folder}/bad/nan.parquet"], [], "row 1 cannot be JSON"), ([folder], ["--columns", "q"], "has no column q"), ([out], [], "out.jsonl"),
                               ([f"{folder}/bad/y.parquet", folder], [], "choose with --columns"), ([f"{folder}/none"], [], "no such file")):
            done = run(*inputs, f"{folder}/new", *options)
            assert done.returncode == 1 and message in done.stderr and done.stderr.count("\n") == 1, (inputs, done)
            assert not os.path.exists(f"{folder}/new"), inputs
    print("as expected")


main()
