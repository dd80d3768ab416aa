"""Generation beside llama.cpp on the same GGUF file: one sequence, a prompt of 512 tokens, and eight sequences at once, in turn, with as many threads.

Each file is imported with `--dtype keep`. A turn is llama.cpp, then mpilora with activations as they are, then with `--activations q8` (which is what llama.cpp does), every second
turn the other way round; never two at once. Printed are the medians, and the ratio of tokens a second within a turn: median and range. "cpu" is the same ratio by the processor
seconds of both, which a busy machine disturbs less; it says something with one thread only, since threads that wait may spin.

usage: python3 tests/bench/compare_llama_cpp.py MPILORA FILE.gguf... [--threads 1,2] [--turns 5] [--work one,prompt,eight] [--python PYTHON with xllamacpp] [--folder DIR]
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time

TOKENS, PROMPT, SEQUENCES = 64, 512, 8
WORK = {"one": {"tokens": TOKENS, "prompt": 1, "sequences": 1}, "prompt": {"tokens": 1, "prompt": PROMPT, "sequences": 1},
        "eight": {"tokens": TOKENS, "prompt": 1, "sequences": SEQUENCES}}  # fmt: skip


# ---- llama.cpp, in a process of its own ----------------------------------------------------------


def serve(path, threads):
    """Lines of standard input name a work; each is answered with [tokens a second, processor seconds]."""
    import xllamacpp

    out = os.dup(1)
    os.dup2(2, 1)  # what the library prints is no answer
    params = xllamacpp.CommonParams()
    params.model.path, params.n_gpu_layers = path, 0
    params.n_parallel, params.n_ctx = SEQUENCES, SEQUENCES * (PROMPT + TOKENS + 8)
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    server = xllamacpp.Server(params)

    def complete(first, prompt, tokens, results):
        results.append(server.handle_completions({"prompt": [first + 31 * j for j in range(prompt)], "max_tokens": tokens, "temperature": 0, "ignore_eos": True, "cache_prompt": False}))

    for line in sys.stdin:
        work, results = WORK[line.strip()], []
        start, cpu = time.monotonic(), time.process_time()
        many = [threading.Thread(target=complete, args=(100 + i, work["prompt"], work["tokens"], results)) for i in range(work["sequences"])]
        for one in many:
            one.start()
        for one in many:
            one.join()
        seconds, cpu = time.monotonic() - start, time.process_time() - cpu
        results = [json.loads(r) if isinstance(r, str) else r for r in results]
        count = sum(r["usage"]["completion_tokens"] for r in results)
        if count != work["tokens"] * work["sequences"]:
            sys.exit(f"{path}: {count} tokens came back: {results[0]}")
        rate = count / seconds
        if work["sequences"] == 1:  # the library's own figures, without what its server adds
            timings = results[0]["timings"]
            rate = timings["prompt_per_second"] if work["tokens"] == 1 else timings["predicted_per_second"]
        os.write(out, (json.dumps([rate, cpu]) + "\n").encode())


class LlamaCpp:
    def __init__(self, python, path, threads):
        words = [python, __file__, "--serve", path, str(threads)]
        self.process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env={**os.environ, "OMP_WAIT_POLICY": "passive"})

    def run(self, work):
        self.process.stdin.write(work + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit("llama.cpp ended without an answer: is xllamacpp installed for --python?")
        return json.loads(line)

    def close(self):
        self.process.stdin.close()
        self.process.wait(timeout=60)


# ---- mpilora -------------------------------------------------------------------------------------


def bench(program, base, threads, activations, work):
    """Tokens a second, processor seconds, and the share of what reading the blocks allows."""
    words = [program, "bench", "generate", "--json", "--base", base, "--activations", activations, "--rounds", "1", "--seconds", "0"]
    words += [str(w) for key, value in WORK[work].items() for w in (f"--{key}", value)]
    done = subprocess.run(words, text=True, capture_output=True, timeout=1800, env={**os.environ, "OMP_NUM_THREADS": str(threads)})
    if done.returncode:
        raise SystemExit(f"{words}: {done.returncode}\n{done.stdout}{done.stderr}")
    base = json.loads(done.stdout)["variants"]["base"]
    rate = PROMPT / base["token_s"] if work == "prompt" else base["tokens_per_s"]
    return rate, base["cpu_token_s"] * WORK[work]["tokens"], base["bound_share"]


def spread(values):
    return f"{statistics.median(values):6.2f} ({min(values):.2f} to {max(values):.2f})"


def compare(options, path, threads, folder):
    base = os.path.join(folder, os.path.basename(path) + ".h5")
    if not os.path.exists(base):
        subprocess.run([options.mpilora, "import", path, base, "--dtype", "keep"], check=True, capture_output=True)
    llama = LlamaCpp(options.python, path, threads)
    for work in options.work.split(","):
        llama.run(work)  # warm
        found = {"llama.cpp": [], "exact": [], "q8": []}
        for turn in range(options.turns):
            for who in list(found)[:: -1 if turn % 2 else 1]:
                found[who].append(llama.run(work) if who == "llama.cpp" else bench(options.mpilora, base, threads, who, work))
        theirs = found["llama.cpp"]
        print(f"{os.path.basename(path)}, {threads} thread{'s' * (threads > 1)}, {work}: llama.cpp {statistics.median(rate for rate, _ in theirs):.1f} tokens/s")
        for who in ("exact", "q8"):
            ours = found[who]
            ratios, cpu = [a[0] / b[0] for a, b in zip(ours, theirs)], [b[1] / a[1] for a, b in zip(ours, theirs)]
            share = f", {100 * statistics.median(a[2] for a in ours):.0f} % of the bound" if work == "one" else ""
            print(f"  mpilora, {who:5}  {statistics.median(a[0] for a in ours):8.1f} tokens/s, ratio {spread(ratios)}, cpu {spread(cpu)}{share}", flush=True)
    llama.close()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("mpilora")
    parser.add_argument("files", nargs="+")
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--work", default=",".join(WORK))
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--folder")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        for path in options.files:
            for threads in options.threads.split(","):
                compare(options, path, int(threads), options.folder or temporary)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        serve(sys.argv[2], int(sys.argv[3]))
    else:
        main()
