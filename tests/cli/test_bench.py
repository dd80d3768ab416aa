"""mpilora bench: one JSON object with every path's rate and share of the peak; bad input is refused with code 2."""
import json
import os
import subprocess

PROGRAM = os.environ["MPILORA"]


def bench(*words, **environment):
    return subprocess.run([PROGRAM, "bench", *words], capture_output=True, text=True, env={**os.environ, **environment}, timeout=300)


def check_rates(result):
    assert result["fma_peak_gflops"] > 0 and result["threads"] == 1, result
    for path in result["paths"]:
        for direction in ("forward", "backward"):
            rate, share = path[direction + "_gflops"], path[direction + "_share"]
            assert rate > 0 and abs(share * result["fma_peak_gflops"] - rate) < 1e-3 * rate, path


def test_json():
    for dtype in ("bf16", "fp32"):
        run = bench("gemm", "--json", "--tokens", "65", "--rows", "130", "--cols", "70", "--dtype", dtype)
        assert run.returncode == 0, run.stderr
        result = json.loads(run.stdout)
        assert result["rows"] == 130 and result["dtype"] == dtype
        assert {"blas", "onednn"} <= {path["path"] for path in result["paths"]}
        check_rates(result)
    run = bench("attention", "--json", "--tokens", "130", "--length", "50", "--heads", "4", "--kv-heads", "2", "--head-dim", "10",
                MPILORA_VECTOR_PATH="generic")
    assert run.returncode == 0, run.stderr
    result = json.loads(run.stdout)
    assert result["vector_path"] == "generic" and result["kv_heads"] == 2
    check_rates(result)


def test_table():
    run = bench("gemm", "--tokens", "8", "--rows", "16", "--cols", "16")
    assert run.returncode == 0 and "peak" in run.stdout and "blas" in run.stdout, run


def test_bad_input():
    for words, expected in ((["gem"], "gemm"), (["gemm", "--rows", "0"], "--rows"), (["gemm", "--dtype", "fp16"], "fp16"),
                            (["attention", "--kv-heads", "5"], "--kv-heads"), (["attention", "--head-dim", "257"], "256"),
                            (["gemm", "--rows", "16000000", "--cols", "16000000"], "too large"), (["gemm", "--row", "4"], "--rows"), ([], "usage")):
        run = bench(*words)
        assert run.returncode == 2 and expected in run.stderr and run.stdout == "", (words, run)
    run = bench("gemm", MPILORA_VECTOR_PATH="sse9")
    assert run.returncode == 2 and "sse9" in run.stderr, run


test_json()
test_table()
test_bad_input()
