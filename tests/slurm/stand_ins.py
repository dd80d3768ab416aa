#!/usr/bin/env python3
"""What answers for `flux`, `qsub` and `qstat` where neither system is: under these names in PATH, it keeps jobs as files in $STAND_INS, and runs their ranks by
mpirun. It knows only the commands and options that flux-batch(1), flux-run(1), flux-job(1), qsub(1B) and qstat(1B) describe and the scripts of jobs/ use; it
ends with an error at every other one. The test starts the jobs itself, so that it decides what happens to them."""

import json
import os
import re
import shlex
import sys

BATCH = {"-N": "nodes", "-n": "slots", "-c": "cores", "-t": "time", "--job-name": "name", "--signal": "signal", "--output": "output"}
FOLD = 78  # characters of a line of qstat -f


def folder():
    return os.environ["STAND_INS"]


def save(job):
    number = len(os.listdir(folder())) + 1
    with open(f"{folder()}/{number}.json", "w") as file:
        json.dump(job, file)
    return number


def load(number):
    with open(f"{folder()}/{number}.json") as file:
        return json.load(file)


def options(words, known, values):
    """Leading options into `values`; the words behind them."""
    words = list(words)
    while words and words[0].startswith("-"):
        name, _, value = words.pop(0).partition("=")
        if name not in known:
            sys.exit(f"{' '.join(sys.argv)}: no option {name} in the stand-in")
        values.setdefault(known[name], []).append(value or words.pop(0))
    return words


def seconds(text):
    """A duration of Flux: a number, or one with s, m, h or d."""
    return float(text.rstrip("smhd")) * {"m": 60, "h": 3600, "d": 86400}.get(text[-1], 1)


# ---- Flux ----------------------------------------------------------------------------------------


def flux_batch(words):
    values = {}
    rest = options(words, BATCH, values)
    with open(rest[0]) as file:
        script = file.read()
    for line in re.findall(r"^#flux: (.*)$", script, re.M):  # given on the command line, an option wins
        directive = {}
        assert not options(shlex.split(line), BATCH, directive)
        values = {**directive, **values}
    first = {name: value[-1] for name, value in values.items()}
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FLUX_")}
    system = {"duration": seconds(first.get("time", "0")), "cwd": os.getcwd(), "environment": environment, "job": {"name": first["name"]},
              "shell": {"options": {"signal": first["signal"]}}}
    print(save({"resources": {key: int(first.get(key, 1)) for key in ("nodes", "slots", "cores")}, "attributes": {"system": system},
                "script": script, "words": rest[1:]}))


def flux(words):
    parent = words[0] == "--parent"
    command, rest = words[parent:][0], words[parent:][1:]
    if command == "batch" and not parent:
        return flux_batch(rest)
    job = os.environ.get("STAND_IN_JOB")  # what the broker knows in an instance
    if not job:
        sys.exit("flux: no broker")
    spec = load(job)
    if parent and command == "job" and rest[:2] == ["info", job] and rest[2:] == ["jobspec"]:
        return print(json.dumps(spec))
    if parent and command == "job" and rest == ["submit"]:
        return print(save(json.load(sys.stdin)))
    if not parent and [command, *rest] == ["getattr", "jobid"]:
        return print(job)
    if not parent and [command, *rest] == ["job", "timeleft"]:
        return print(int(spec["attributes"]["system"]["duration"]) or 2**32 - 1)
    if not parent and command == "resource" and rest[:3] == ["list", "-n", "-o"]:
        resources = spec["resources"]
        return print({"{nnodes}": resources["nodes"], "{ncores}": resources["slots"] * resources["cores"]}[rest[3]])
    if not parent and command == "run":
        values = {}
        rest = options(rest, {"-N": "nodes", "-n": "tasks", "-c": "cores", "-o": "shell"}, values)
        os.execvp("mpirun", ["mpirun", "-n", values["tasks"][0], *rest])
    return sys.exit(f"{' '.join(sys.argv)}: not known to the stand-in")


# ---- PBS -----------------------------------------------------------------------------------------


def qsub(words):
    values = {}
    known = {"-N": "name", "-q": "queue", "-l": "resources", "-A": "account", "-P": "project", "-v": "variables", "-W": "more"}
    rest = options(words, known, values)
    if len(rest) != 1:
        sys.exit(f"qsub: one script, and no words for it: {rest}")
    with open(rest[0]) as file:
        script = file.read()
    named = dict(re.findall(r"^#PBS (-\w) (.*)$", script, re.M))
    variables = {}
    for word in ",".join(values.get("variables", [])).split(","):
        name, equals, value = word.partition("=")
        variables[name] = value if equals else os.environ[name]
    print(save({"name": values.get("name", [named["-N"]])[0], "queue": values.get("queue", ["work"])[0], "account": values.get("account", [None])[0],
                "resources": dict(word.split("=", 1) for word in values["resources"]), "variables": variables, "cwd": os.getcwd(), "script": script}))


def qstat(words):
    if len(words) != 2 or words[0] != "-f":
        sys.exit(f"qstat {' '.join(words)}: not known to the stand-in")
    job = load(words[1])
    attributes = {"Job_Name": job["name"], "job_state": "R", "queue": job["queue"], **({"Account_Name": job["account"]} if job["account"] else {}),
                  **{f"Resource_List.{name}": value for name, value in job["resources"].items()}, "Resource_List.ncpus": "2", "project": "_pbs_project_default",
                  "Variable_List": ",".join(f"{name}={value}" for name, value in job["variables"].items())}
    print(f"Job Id: {words[1]}")
    for name, value in attributes.items():
        line = f"    {name} = {value}"
        print("\n\t".join(line[i:i + FOLD] for i in range(0, len(line), FOLD)))
    print()


if __name__ == "__main__":
    {"flux": flux, "qsub": qsub, "qstat": qstat}[os.path.basename(sys.argv[0])](sys.argv[1:])
