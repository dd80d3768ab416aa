"""mpilora bench machine writes a file that mpilora plan --machine computes from; --search lists grids and reasons; bad input is refused with code 2."""
import json
import os
import subprocess
import tempfile

PROGRAM, SOURCE = os.environ["MPILORA"], os.environ["MPILORA_SOURCE_DIR"]
MACHINES = os.path.join(SOURCE, "configs", "machines")
PHASES = ("forward_s", "backward_s", "comm_s", "optimizer_s", "data_s")


def call(*words):
    return subprocess.run([PROGRAM, *map(str, words)], capture_output=True, text=True, timeout=300)


def plan(*words):
    run = call("plan", *words, "--json")
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


def config(folder, text):
    path = os.path.join(folder, "run.yaml")
    with open(path, "w", encoding="utf-8") as file:
        file.write(f"base: {SOURCE}/configs/models/gpt3-175b.yaml\nbatch: {{sequences: 64, micro: 2}}\n{text}")
    return path


def check_times(result):
    for method in result["methods"]:
        time = method["time"]
        assert all(time[phase] >= 0 for phase in PHASES) and time["forward_s"] > 0, time
        assert abs(sum(time[phase] for phase in PHASES) - time["step_s"]) < 1e-6 * time["step_s"], time
        assert time["tokens_per_s"] > 0


def test_machine_file(folder):
    path = os.path.join(folder, "here.yaml")
    run = call("bench", "machine", "--out", path, "--name", "here", "--seconds", 0, "--json")
    assert run.returncode == 0, run.stderr
    result = json.loads(run.stdout)
    assert result["name"] == "here" and result["file"] == path and result["bf16_forward_gflops"] > 0
    assert result["inside_latency_s"] > 0 and result["inside_bytes_per_s"] > 0 and result["between_measured"] is False
    check_times(plan(config(folder, ""), "--machine", path))
    for threads in (result["threads"], result["threads"] + 1):
        text = call("plan", config(folder, ""), "--machine", path, "--threads", threads).stdout
        assert ("rates were measured with" in text) == (threads != result["threads"]), text
    run = call("bench", "machine", "--out", os.path.join(folder, "none", "here.yaml"), "--seconds", 0)
    assert run.returncode == 4 and "here.yaml" in run.stderr, run


def test_committed_machines(folder):
    for name in sorted(os.listdir(MACHINES)):
        check_times(plan(config(folder, ""), "--machine", os.path.join(MACHINES, name), "--ranks", 8, "--nodes", 4, "--set", "parallel.tp=8"))
    assert "time" not in plan(config(folder, ""))["methods"][0]


def test_search(folder):
    path = config(folder, "")
    result = plan(path, "--search", "--nodes", 10, "--ranks-per-node", 4, "--memory-per-node", "200G", "--machine", f"{MACHINES}/cluster-2x32.yaml")
    steps = [grid["step_s"] for grid in result["grids"]]
    assert steps and steps == sorted(steps) and all(g["node_bytes"] <= 200e9 for g in result["grids"])
    assert all(g["dp"] * g["tp"] * g["cp"] * g["pp"] == 40 for g in result["grids"] + result["rejected"]) and "one_stage" not in result
    assert {g["pp"] for g in result["grids"]} >= {2, 4, 5} and all((g["bubble_s"] > 0) == (g["pp"] > 1) for g in result["grids"])
    reasons = [grid["why"] for grid in result["rejected"]]
    assert any("heads" in why for why in reasons) and any("GB more than there is" in why for why in reasons), reasons
    table = call("plan", path, "--search", "--nodes", 2, "--machine", f"{MACHINES}/cluster-2x32.yaml")
    assert table.returncode == 0 and "these do not fit" in table.stdout, table
    rows = [line.split() for line in table.stdout.splitlines() if line[:6].strip().isdigit() and "more, of" not in line]
    assert len({tuple(row[:4]) for row in rows}) == len(rows) and ["1", "1", "1", "8"] in [row[:4] for row in rows], table.stdout


def test_search_of_stages(folder):
    """Stages are no more than layers, whatever the method and the objective."""
    path, on = config(folder, ""), ("--search", "--nodes", 16, "--machine", f"{MACHINES}/cluster-2x32.yaml")
    tiny = plan(path, *on, "--set", f"base={SOURCE}/configs/models/gpt2-small.yaml", "--set", "data.max_len=512")
    assert max(g["pp"] for g in tiny["grids"]) == 8, "12 layers, 64 ranks"
    for one in ("method.name=compacter", "objective.name=kto", "method.init=pissa"):
        assert max(g["pp"] for g in plan(path, *on, "--set", one)["grids"]) > 1, one


def test_search_of_few_sequences(folder):
    """A step of fewer sequences than ranks leaves the grids of fewer replicas."""
    path = config(folder, "")
    result = plan(path, "--search", "--nodes", 10, "--ranks-per-node", 4, "--memory-per-node", "200G", "--machine", f"{MACHINES}/cluster-2x32.yaml", "--set", "batch.sequences=3", "--set", "batch.micro=1")
    assert {g["dp"] for g in result["grids"]} == {1, 2}, result["grids"]
    assert {g["dp"] for g in result["rejected"] if "batch.sequences: 3 are fewer than the" in g["why"]} >= {4, 5, 10, 40}, result["rejected"]


def test_search_of_shares(folder):
    """Ranks share sequences out in any number that divides them, where fewer do not fit."""
    path, on = config(folder, ""), ("--search", "--nodes", 3, "--ranks-per-node", 1, "--machine", f"{MACHINES}/cluster-2x32.yaml")
    least = min(g["node_bytes"] for g in plan(path, *on, "--memory-per-node", "100T")["grids"] if g["dp"] == 3)
    result = plan(path, *on, "--memory-per-node", least - 10**9)  # less than two thirds of what a rank keeps
    assert all(g["cp"] > 1 for g in result["grids"] if g["tp"] == g["pp"] == 1) and any(g["cp"] == 3 for g in result["grids"]), result
    assert any(g["dp"] == 3 and "more than there is" in g["why"] for g in result["rejected"]), result["rejected"]



def make(folder, name, model, rows):
    """A base of random numbers and a data set for it."""
    base, path, data = (os.path.join(folder, f"{name}.{end}") for end in ("base.h5", "jsonl", "h5"))
    with open(path, "w", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    for words in (["import", "--init", "random", "--config", model, base], ["tokenize", "--base", base, path, data]):
        run = call(*words)
        assert run.returncode == 0, run.stderr
    return base, data


def time_of(folder, base, data, objective, *words):
    path = os.path.join(folder, "objective.yaml")
    with open(path, "w", encoding="utf-8") as file:
        file.write(f"base: {base}\nobjective: {{{objective}}}\ndata: {{train: {data}, max_len: 64}}\nbatch: {{sequences: 8, micro: 8}}\n"
                   "method: {name: lora, rank: 4}\n")
    return plan(path, "--machine", f"{MACHINES}/cluster-2x32.yaml", *words)["methods"][0]["time"]


def near(found, expected, bound):
    assert abs(found - expected) <= bound * expected, (found, expected)


def test_objectives(folder):
    """All texts of a row are computed; a step's vectors are found before its gradients where it has several micro-batches; a reward is read at one place."""
    model = os.path.join(folder, "encoder.yaml")
    with open(model, "w", encoding="utf-8") as file:
        file.write("{family: bert, layers: 4, width: 256, heads: 4, vocab: 30000, context: 64}\n")
    texts = [[5 + (7 * i + 3 * j) % 900 for j in range(60)] for i in range(40)]
    base, two = make(folder, "two", model, [{"anchor_ids": texts[i], "positive_ids": texts[i + 1]} for i in range(16)])
    _, four = make(folder, "four", model, [{"anchor_ids": texts[i], "positive_ids": texts[i + 1], "negative_ids": [texts[i + 2], texts[i + 3]]} for i in range(16)])
    contrast = "name: contrastive, pooling: mean"
    whole, halves = (time_of(folder, base, two, contrast, "--set", f"batch.micro={micro}") for micro in (8, 4))
    near(halves["forward_s"], 2.0 * whole["forward_s"], 0.05)
    near(halves["backward_s"], whole["backward_s"], 0.05)
    near(time_of(folder, base, four, contrast)["forward_s"], 2.0 * whole["forward_s"], 0.02)
    near(whole["tokens_per_s"] * whole["step_s"], 8 * 2 * 60, 1e-6)
    masked = time_of(folder, base, two, "name: contrastive, pooling: cls")
    assert 0.7 * whole["forward_s"] < masked["forward_s"] < 0.99 * whole["forward_s"], (masked, whole)
    with open(model, "w", encoding="utf-8") as file:
        file.write("{family: gpt2, layers: 4, width: 256, heads: 4, vocab: 30000, context: 128}\n")
    base, pairs = make(folder, "pairs", model, [{"prompt_ids": texts[i][:30], "chosen_ids": texts[i][30:], "rejected_ids": texts[i + 1][30:]} for i in range(16)])
    base, labels = make(folder, "labels", model, [{"input_ids": texts[i], "label": i % 3} for i in range(16)])
    reward, classes = time_of(folder, base, pairs, "name: reward"), time_of(folder, base, labels, "name: classify")
    near(reward["forward_s"], 2.0 * classes["forward_s"], 0.02)
    near(reward["step_s"], 2.0 * classes["step_s"], 0.1)
    near(reward["tokens_per_s"] * reward["step_s"], 8 * 2 * 60, 1e-6)


def test_bad_input(folder):
    path, machine = config(folder, ""), os.path.join(folder, "bad.yaml")
    with open(f"{MACHINES}/cluster-2x32.yaml", encoding="utf-8") as file:
        text = file.read()
    for change, expected in ((("cores: 64", "cores: 0"), "cores"), (("cores: 64 ", "#"), "cores: missing"), (("move_ns", "mov_ns"), "move_ns"),
                             (("memory_bytes_per_s: 3.0e+11", "memory_bytes_per_s: -1"), "memory_bytes_per_s"),
                             (("memory: 256GiB", "memory: [1]"), "memory")):
        with open(machine, "w", encoding="utf-8") as file:
            file.write(text.replace(*change))
        run = call("plan", path, "--machine", machine)
        assert run.returncode == 2 and expected in run.stderr and run.stderr.count("\n") == 1, (change, run)
    good = f"{MACHINES}/cluster-2x32.yaml"
    for words, expected in ((["--machine", "/nowhere.yaml"], "/nowhere.yaml"), (["--search"], "--machine"), (["--ranks-per-node", 2], "--search"),
                            (["--search", "--machine", good, "--nodes", 0], "--nodes"),
                            (["--search", "--machine", good, "--memory-per-node", "much"], "much"),
                            (["--search", "--machine", good, "--ranks", 4], "--ranks"),
                            (["--search", "--machine", good, "--ranks-per-node", 0], "--ranks-per-node")):
        run = call("plan", path, *words)
        assert run.returncode == 2 and expected in run.stderr and run.stdout == "", (words, run)
    run = call("bench", "machine", "--seconds", -1)
    assert run.returncode == 2 and "--seconds" in run.stderr, run


with tempfile.TemporaryDirectory() as directory:
    for test in (test_machine_file, test_committed_machines, test_search, test_search_of_stages, test_search_of_few_sequences, test_search_of_shares, test_objectives, test_bad_input):
        test(directory)
