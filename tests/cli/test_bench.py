"""mpilora bench: one JSON object with rates, their shares of the peak, flops and bytes as counted here from the architecture; bad input is refused with code 2."""
import json
import os
import subprocess
import tempfile

PROGRAM, MPIEXEC = os.environ["MPILORA"], os.environ["MPILORA_MPIEXEC"]


def bench(*words, **environment):
    return subprocess.run([PROGRAM, "bench", *words], capture_output=True, text=True, env={**os.environ, **environment}, timeout=300)


def processor():
    """As src/kernels/blocking.c names it."""
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        words = dict(line.replace("\t", "").strip().split(":", 1) for line in file.read().split("\n\n")[0].splitlines())
    names = ("vendor_id", "cpu family", "model") if "vendor_id" in words else ("CPU implementer", "CPU part")
    return "/".join(words[name].strip() for name in names)


def check_rates(result):
    assert result["fma_peak_gflops"] > 0 and result["threads"] == 1, result
    for path in result["paths"]:
        for direction in ("forward", "backward"):
            rate, share = path[direction + "_gflops"], path[direction + "_share"]
            assert 0 < path[direction + "_gflops_min"] <= rate <= path[direction + "_gflops_max"], path
            assert abs(share * result["fma_peak_gflops"] - rate) < 1e-3 * rate, path


def test_json():
    for dtype in ("bf16", "fp32"):
        run = bench("gemm", "--json", "--tokens", "65", "--rows", "130", "--cols", "70", "--dtype", dtype, MPILORA_BLOCKING="12,32,4,48")
        assert run.returncode == 0, run.stderr
        result = json.loads(run.stdout)
        assert result["rows"] == 130 and result["dtype"] == dtype
        assert {"native", "blas"} <= {path["path"] for path in result["paths"]}
        assert result["processor"] == processor() and result["blocking"] == [12, 32, 4, 48], result
        check_rates(result)
    run = bench("attention", "--json", "--tokens", "130", "--length", "50", "--heads", "4", "--kv-heads", "2", "--head-dim", "10",
                MPILORA_VECTOR_PATH="generic")
    assert run.returncode == 0, run.stderr
    result = json.loads(run.stdout)
    assert result["vector_path"] == "generic" and result["kv_heads"] == 2
    check_rates(result)


def test_types():
    run = bench("gemm", "--json", "--tokens", "20", "--rows", "64", "--cols", "256", "--dtype", "bf16,q8_0,q4_k")
    assert run.returncode == 0, run.stderr
    types = json.loads(run.stdout)["dtypes"]
    assert [x["dtype"] for x in types] == ["bf16", "q8_0", "q4_k"], types
    for x in types:
        for direction in ("forward", "backward"):
            assert x[direction + "_gflops"] > 0 and 0 < x[direction + "_ratio_min"] <= x[direction + "_ratio"] <= x[direction + "_ratio_max"], x
    assert types[0]["forward_ratio_min"] == types[0]["backward_ratio_max"] == 1, types
    run = bench("gemm", "--tokens", "20", "--rows", "64", "--cols", "256", "--dtype", "mxfp4")
    assert run.returncode == 0 and "mxfp4" in run.stdout, run


def test_table():
    run = bench("gemm", "--tokens", "8", "--rows", "16", "--cols", "16")
    assert run.returncode == 0 and "peak" in run.stdout and "blas" in run.stdout, run


def test_bad_input():
    for words, expected in ((["gem"], "gemm"), (["gemm", "--rows", "0"], "--rows"), (["gemm", "--dtype", "fp16"], "fp16"),
                            (["gemm", "--dtype", "bf16,"], "not one of"), (["gemm", "--dtype", "bf16,q4_k", "--cols", "700"], "256"), (["gemm", "--dtype", ",".join(["bf16"] * 17)], "16"),
                            (["attention", "--kv-heads", "5"], "--kv-heads"), (["attention", "--window", "-1"], "--window"), (["attention", "--head-dim", "257"], "256"),
                            (["gemm", "--rows", "16000000", "--cols", "16000000"], "too large"), (["gemm", "--row", "4"], "--rows"), ([], "usage")):
        run = bench(*words)
        assert run.returncode == 2 and expected in run.stderr and run.stdout == "", (words, run)
    run = bench("gemm", MPILORA_VECTOR_PATH="sse9")
    assert run.returncode == 2 and "sse9" in run.stderr, run


MODEL = {"family": "llama", "layers": 3, "width": 64, "mlp_width": 96, "heads": 4, "kv_heads": 2, "vocab": 300, "context": 128}
LINEAR = {"q": (64, 64), "k": (64, 32), "v": (64, 32), "o": (64, 64), "gate": (64, 96), "up": (64, 96), "down": (96, 64)}  # in, out
PHASES = ("forward", "backward", "comm", "optimizer", "data", "other")


def model_file(folder):
    path = os.path.join(folder, "model.yaml")
    with open(path, "w", encoding="utf-8") as file:
        json.dump(MODEL, file)
    return path


def run_json(*words, ranks=0, **environment):
    launcher = [MPIEXEC, "-n", str(ranks)] if ranks else []
    run = subprocess.run([*launcher, PROGRAM, "bench", *words, "--json"], capture_output=True, text=True, timeout=300,
                         env={**os.environ, **environment})
    assert run.returncode == 0, (words, run)
    return json.loads(run.stdout)


def step_gflop(method, targets, rank, sequences, length):
    """2 flops a weight and token for each product that is needed."""
    tokens, layers = sequences * length, MODEL["layers"]
    pairs = sequences * length * (length + 1) / 2
    attention = 4 * pairs * 64
    weights = sum(i * o for i, o in LINEAR.values())
    head = MODEL["vocab"] * MODEL["width"]
    if method == "full":
        return 1e-9 * (6 * tokens * (layers * weights + head) + 3 * layers * attention)
    qkv = sum(LINEAR[name][0] * LINEAR[name][1] for name in "qkv")  # layer 0's needs no gradient of its input
    flops = tokens * (4 * (layers * weights + head) - 2 * qkv) + 3 * layers * attention
    if method == "lora":
        adapters = layers * sum(6 * rank * sum(LINEAR[name]) for name in targets)
        flops += tokens * (adapters - sum(2 * rank * LINEAR[name][0] for name in targets if name in "qkv"))
    return 1e-9 * flops


def check_method(result, method, targets, rank):
    tokens = result["tokens"]
    assert abs(sum(method["phases"][p + "_s"] for p in PHASES) - method["step_s"]) <= 0.02 * method["step_s"], method
    assert abs(method["tokens_per_s"] * method["step_s"] - tokens) < 1e-3 * tokens, method
    expected = step_gflop(method["method"], targets, rank, result["sequences"], result["length"])
    assert abs(method["model_gflop"] - expected) < 1e-4 * expected, (method, expected)
    assert abs(method["peak_share"] * result["fma_peak_gflops"] - method["gflops"]) < 1e-3 * method["gflops"], method
    assert abs(method["gflops"] * method["step_s"] - expected) < 1e-3 * expected, method
    assert method["tp_bytes"] == method["tp_bytes_expected"], method
    trained = {"lora": MODEL["layers"] * rank * sum(sum(LINEAR[name]) for name in targets), "frozen": 0}.get(method["method"])
    if trained is not None:
        assert method["params_trainable"] == trained and method["allreduce_bytes"] == 4 * trained, method
    if method["method"] == "lora" and result["tp"] == 1:  # value, gradient, two moments
        assert method["state_bytes"] == 16 * trained, method


def test_step():
    with tempfile.TemporaryDirectory() as folder:
        model = model_file(folder)
        common = ("--model", model, "--sequences", "3", "--length", "40", "--rounds", "2", "--seconds", "0", "--rank", "2")
        for targets, precision in ((("q", "v"), "bf16"), (tuple(LINEAR), "fp32")):
            words = ("--targets", ",".join(targets) if len(targets) < 7 else "all", "--precision", precision)
            result = run_json("step", *common, *words, "--methods", "lora,full,frozen")
            assert [m["method"] for m in result["methods"]] == ["lora", "full", "frozen"] and result["rounds"] == 2, result
            for method in result["methods"]:
                check_method(result, method, targets, 2)
            lora, full, frozen = result["methods"]
            assert full["state_bytes"] == full["params_trainable"] * (16 if precision == "fp32" else 18) - (0 if precision == "fp32" else 2 * 7 * 64), full
            assert abs(lora["loss"] - frozen["loss"]) < 0.02 * frozen["loss"], (lora, frozen)
            ratio = {c["method"]: c for c in result["comparisons"]}
            assert len({m["product_path"] for m in result["methods"]}) == 1, result
            assert set(ratio) == {"full", "frozen"} and ratio["full"]["to"] == "lora", ratio
            assert abs(ratio["full"]["state_ratio"] * lora["state_bytes"] - full["state_bytes"]) < 1e-3 * full["state_bytes"], ratio
        for ranks, tp in ((2, 1), (2, 2)):
            result = run_json("step", *common, "--methods", "lora", "--targets", "all", "--tp", str(tp), ranks=ranks)
            assert (result["dp"], result["tp"]) == (2 // tp, tp), result
            check_method(result, result["methods"][0], tuple(LINEAR), 2)
            # sums of T·d: embedding, two a layer forward, two a layer backward but for layer 0's q, k, v, head; and 3 numbers a row of the head
            expected = 4 * 120 * ((1 + 6 + 5 + 1) * 64 + 3) if tp == 2 else 0
            assert result["methods"][0]["tp_bytes"] == expected, (result, expected)
        run = bench("step", *common, "--methods", "lora,full")
        assert run.returncode == 0 and "full / lora: step" in run.stdout and "backward" in run.stdout, run


def test_allreduce():
    with tempfile.TemporaryDirectory() as folder:
        model = model_file(folder)
        result = run_json("allreduce", "--model", model, "--rank", "2", "--largest", "70000", ranks=2)
        lora, full = result["gradients"]["lora"], result["gradients"]["full"]
        assert lora["bytes"] == 4 * 3 * 2 * (64 + 64 + 64 + 32) and not lora["extrapolated"], result
        assert full["bytes"] == 4 * (3 * (sum(i * o for i, o in LINEAR.values()) + 2 * 64) + 64 + 300 * 64 * 2) and full["extrapolated"], result
        sizes = [size["bytes"] for size in result["sizes"]]
        assert sizes == [4 ** i for i in range(1, 9)] and all(size["seconds"] > 0 for size in result["sizes"]), result
        assert result["latency_s"] > 0 and result["bus_bandwidth_bytes_per_s"] > 0, result
        assert result["sums"] == "shared" and all(0 < size["mpi_least_seconds"] <= size["mpi_seconds"] and size["mpi_ratio"] > 0 for size in result["sizes"]), result
        result = run_json("allreduce", "--model", model, "--largest", "70000", ranks=2, MPILORA_SUMS="mpi")
        assert result["sums"] == "mpi" and not any("mpi_seconds" in size for size in result["sizes"]), result
        assert run_json("allreduce", "--model", model, "--largest", "70000")["ranks"] == 1


def test_generate():
    with tempfile.TemporaryDirectory() as folder:
        model = model_file(folder)
        weights = 3 * sum(i * o for i, o in LINEAR.values()) + 300 * 64
        for precision, size in (("bf16", 2), ("fp32", 4)):
            result = run_json("generate", "--model", model, "--targets", "all", "--merged", "--tokens", "20", "--precision", precision,
                              "--rounds", "2", "--seconds", "0")
            assert result["weight_bytes"] == size * weights + 4 * 7 * 64, result
            assert set(result["variants"]) == {"base", "unmerged", "merged"}, result
            assert abs(result["bound_tokens_per_s"] * result["weight_bytes"] - result["memory_bytes_per_s"]) < 1e-3 * result["memory_bytes_per_s"]
            for variant in result["variants"].values():
                assert variant["tokens_per_s"] > 0 and variant["bound_share"] > 0 and variant["time_to_base"] > 0, result
        result = run_json("generate", "--model", model, "--tokens", "20", "--rounds", "1", "--seconds", "0", ranks=2)
        assert set(result["variants"]) == {"base"} and result["ranks"] == 2, result


def test_latency():
    with tempfile.TemporaryDirectory() as folder:
        result = run_json("latency", "--model", model_file(folder), "--batches", "3,1", "--lengths", "8,16", "--bottleneck", "4,6", "--rounds", "2", ranks=2)
        assert [(shape["batch"], shape["length"]) for shape in result["shapes"]] == [(3, 8), (1, 16)] and result["ranks"] == 2, result
        for shape in result["shapes"]:
            variants = shape["variants"]
            assert set(variants) == {"merged LoRA", "unmerged LoRA", "AdapterL", "AdapterH"}, variants
            assert all(variant["ms"] > 0 and variant["beside_merged"] > 0 for variant in variants.values()), variants
            assert variants["merged LoRA"]["beside_merged"] == 1 and variants["merged LoRA"]["parameters"] == 0, variants
            width = 4 if shape["length"] == 8 else 6
            assert variants["AdapterL"]["parameters"] == 3 * (2 * 64 * width + width + 3 * 64), variants
            assert variants["AdapterH"]["parameters"] == 3 * 2 * (64 * width + width // 2 + 64), variants
        result = run_json("latency", "--model", model_file(folder), "--batches", "2,1", "--lengths", "8,16", "--every", "--rounds", "1", "--cpu-time")
        assert [(shape["batch"], shape["length"]) for shape in result["shapes"]] == [(2, 8), (2, 16), (1, 8), (1, 16)], result
        assert result["cpu_time"] and "--cpu-time" in bench("latency", "--cpu-time", OMP_NUM_THREADS="2").stderr, result


def test_bad_steps():
    for words, expected in ((("step", "--methods", "lora,ful"), "ful"), (("step", "--methods", "lora,lora"), "twice"), (("step", "--targets", "q,gate"), "gate"),
                            (("step", "--targets", "q,x"), "\"x\""), (("step", "--length", "1025"), "1024"), (("step", "--tokens", "100"), "multiple"),
                            (("step", "--base", "a.h5", "--model", "b.yaml"), "one of them"), (("step", "--rounds", "65"), "--rounds"),
                            (("step", "--sequences", "0"), "--sequences"), (("step", "--tp", "2"), "tp"), (("step", "--dropout", "1"), "--dropout"),
                            (("allreduce", "--largest", "3"), "--largest"), (("allreduce", "--rank", "0"), "--rank"), (("generate", "--merged"), "--merged"),
                            (("latency", "--batches", "1,2"), "--lengths"), (("latency", "--bottleneck", "4,5"), "--bottleneck"),
                            (("latency", "--rounds", "0"), "--rounds"), (("latency", "--batches", "0", "--lengths", "8"), "--batches"),
                            (("latency", "--batches", "1", "--lengths", "2000"), "1024"), (("generate", "--adapter", "a"), "--base"), (("generate", "--tokens", "1024"), "1024"), (("--json",), "--json")):
        run = bench(*words)
        assert run.returncode == 2 and expected in run.stderr and run.stdout == "", (words, run)
    run = bench("step", "--base", "/nonexistent.h5")
    assert run.returncode == 3 and "nonexistent" in run.stderr, run


test_json()
test_types()
test_table()
test_bad_input()
test_step()
test_allreduce()
test_generate()
test_latency()
test_bad_steps()
