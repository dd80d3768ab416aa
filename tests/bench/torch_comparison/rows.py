"""Dense work: a LoRA step on sequences of 512 random tokens, all of them targets, at several shapes, beside every PyTorch variant of use here.

First each variant runs alone, which gives its memory; the two fastest are then kept and run in turn with mpilora. The ratio that counts is the one against
the variant that leaves the smallest. Each side's figure of a pair is the better of two steps.
"""

import dataclasses
import json
import os

from . import memory, report
from .torch_process import TorchFault, TorchSide

LORA_RANK, ALPHA, LR, WEIGHT_DECAY = 8, 16, 1e-4, 0.01
VARIANTS = ["eager", "compile", "ddp", "checkpoint", "bf16", "bf16-compile"]
TINY_TOKENS, HOPELESS, CONTENDERS = 64, 4, 2
STEPS = 2  # whose better one counts


@dataclasses.dataclass(frozen=True)
class Row:
    """A shape: mpilora's name of it and PyTorch's configuration, with what the flops need."""

    title: str
    model: str
    family: str
    config: dict
    sequences: int
    our_targets: list
    their_targets: list
    layer_weights: int   # elements of a layer's matrices
    adapter_widths: int  # sum of in + out of a layer's adapted matrices
    layers: int
    width: int
    vocab: int
    length: int = 512
    attention_width: int = 0  # heads x their size, where that is not the width

    def tokens(self):
        return self.sequences * self.length

    def flops(self):
        """Of a step: 4 a frozen weight and token (forward and the gradient of the input), 6 an adapter's weight and token, and causal attention:
        four products of 2·width flops a pair of tokens that attend in forward and its gradient, of which forward has one third."""
        frozen = self.layers * self.layer_weights + self.vocab * self.width
        adapters = self.layers * LORA_RANK * self.adapter_widths
        pairs = self.sequences * self.length * (self.length + 1) // 2
        return self.tokens() * (4 * frozen + 6 * adapters) + 12 * self.layers * (self.attention_width or self.width) * pairs


def _llama(layers, width, mlp, heads, kv_heads, vocab, context, tied, family="llama", head_dim=0, **more):
    """PyTorch's configuration, elements of a layer's matrices, in + out of q and v."""
    size = head_dim or width // heads
    config = {"num_hidden_layers": layers, "hidden_size": width, "intermediate_size": mlp, "num_attention_heads": heads,
              "num_key_value_heads": kv_heads, "vocab_size": vocab, "max_position_embeddings": context, "tie_word_embeddings": tied}
    q, kv = size * heads, size * kv_heads
    return {"family": family, "config": {**config, **({"head_dim": size} if head_dim else {}), **more}, "our_targets": ["q", "v"],
            "their_targets": ["q_proj", "v_proj"], "layers": layers, "width": width, "vocab": vocab, "attention_width": q,
            "layer_weights": 2 * width * (q + kv) + 3 * width * mlp, "adapter_widths": 2 * width + q + kv}


# OPT drops out in training unless told not to.
_OPT = {"num_hidden_layers": 12, "hidden_size": 768, "ffn_dim": 3072, "num_attention_heads": 12, "word_embed_proj_dim": 768, "dropout": 0.0}
_BLOOM = {"n_layer": 24, "hidden_size": 1024, "n_head": 16, "vocab_size": 250880}


ROWS = {
    1: Row("GPT-2 124M, r = 8 on the fused q|k|v", "gpt2-small", "gpt2", {}, 4, ["qkv"], ["c_attn"], 12 * 768 * 768, 4 * 768, 12, 768, 50257),
    2: Row("SmolLM2-135M, r = 8 on q and v", "smollm2-135m", sequences=4, **_llama(30, 576, 1536, 9, 3, 49152, 8192, True)),
    3: Row("two layers of width 4096, r = 8 on q and v", "llama-7b-2layers", sequences=2, **_llama(2, 4096, 11008, 32, 32, 32000, 4096, False)),
    # Other families, so that what they add to a step is seen beside what it costs in PyTorch.
    4: Row("Qwen3-0.6B, r = 8 on q and v", "qwen3-0.6b", sequences=2,
           **_llama(28, 1024, 3072, 16, 8, 151936, 40960, True, "qwen3", 128)),
    5: Row("Gemma 3 270M, r = 8 on q and v", "gemma-3-270m", sequences=2,
           **_llama(18, 640, 2048, 4, 1, 262144, 32768, True, "gemma3_text", 256, sliding_window=512, query_pre_attn_scalar=256)),
    6: Row("OPT-125m, r = 8 on q and v", "opt-125m", "opt", _OPT, 4, ["q", "v"], ["q_proj", "v_proj"], 12 * 768 * 768, 4 * 768, 12, 768, 50272),
    7: Row("BLOOM-560m, r = 8 on the fused q|k|v", "bloom-560m", "bloom", _BLOOM, 2, ["qkv"], ["query_key_value"], 12 * 1024 * 1024, 4 * 1024, 24,
           1024, 250880),
}


def prepare(program, folder, row):
    """Base and data set of a row; returns the configuration of a run of three steps."""
    base, lines, data = (os.path.join(folder, name) for name in ("base.h5", "ids.jsonl", "ids.h5"))
    program.random_base(base, row.model)
    with open(lines, "w", encoding="ascii") as file:
        for i in range(row.sequences):
            file.write(json.dumps({"input_ids": [(i * 7919 + j * 104729) % row.vocab for j in range(row.length)]}) + "\n")
    program.run("tokenize", "--base", base, lines, data, "--format", "ids")
    return {"run": {"dir": os.path.join(folder, "run")}, "base": base, "method": {"rank": LORA_RANK, "alpha": ALPHA, "targets": row.our_targets},
            "data": {"train": data, "max_len": row.length, "shuffle": False}, "batch": {"sequences": row.sequences, "micro": row.sequences},
            "optim": {"lr": LR, "weight_decay": WEIGHT_DECAY, "schedule": "constant", "warmup": 0}, "train": {"steps": 1 + STEPS}}


def specification(row, variant):
    return {"variant": variant, "family": row.family, "config": row.config, "sequences": row.sequences, "length": row.length, "rank": LORA_RANK,
            "alpha": ALPHA, "lr": LR, "weight_decay": WEIGHT_DECAY, "targets": row.their_targets}


def _best(side):
    return min(side.ask("steps", count=STEPS)["seconds"])


def _try_variant(side, variant, eager_tiny):
    """Seconds and bytes of a variant; one that is hopeless, measured by a tiny step, is not run."""
    tiny = side.ask("tiny", tokens=TINY_TOKENS)["seconds"]
    if eager_tiny and variant.startswith("bf16") and tiny > HOPELESS * eager_tiny:
        raise TorchFault(f"a step of {TINY_TOKENS} tokens takes {tiny / eager_tiny:.0f} times as long as in fp32")
    if side.ranks == 1:
        side.ask("steps", count=1)
        return {"tiny": tiny, "seconds": _best(side), "peak_bytes": side.high_water()}
    with memory.PssWatch(side.pids) as watch:
        side.ask("steps", count=1)
    return {"tiny": tiny, "seconds": _best(side), "peak_bytes": watch.most}


def screen(python, row, variants, threads):
    """Every variant alone: {variant: {seconds, peak_bytes} or {skipped}}."""
    found = {}
    for variant in variants:
        try:
            with TorchSide(python, specification(row, variant), threads) as side:
                found[variant] = _try_variant(side, variant, found.get("eager", {}).get("tiny"))
            print(f"  torch {variant}: {row.tokens() / found[variant]['seconds']:.0f} tokens/s, {report.gigabytes(found[variant]['peak_bytes'])}", flush=True)
        except TorchFault as fault:
            found[variant] = {"skipped": str(fault)}
            print(f"  torch {variant}: left out: {fault}", flush=True)
    return found


def _our_step(program, config, precision):
    """Seconds of the better of the last steps, and the peak of the process."""
    metrics, summary = program.train(config, "--fresh", "--set", f"precision={precision}")
    return min(line["step_s"] for line in metrics[-STEPS:]), summary["memory"]["process_peak_bytes"]


def run_pairs(program, config, sides, precisions, pairs):
    """A list of {peak_gflops, mpilora: {precision: [seconds, bytes]}, torch: {variant: seconds}}."""
    done = []
    for side in sides.values():
        side.ask("steps", count=1)
    for number in range(1, pairs + 1):
        ours = {precision: _our_step(program, config, precision) for precision in precisions}
        peak = program.multiply_add_peak()
        theirs = {variant: _best(side) for variant, side in sides.items()}
        done.append({"peak_gflops": max(peak, program.multiply_add_peak()), "mpilora": ours, "torch": theirs})
        figures = [f"mpilora {p} {seconds:.2f}" for p, (seconds, _) in ours.items()] + [f"torch {v} {seconds:.2f}" for v, seconds in theirs.items()]
        print(f"  pair {number}: seconds: {', '.join(figures)}", flush=True)
    return done


def summarize(row, precision, pairs):
    """Ratio against the variant that leaves the smallest, share of the multiply-add peak, tokens a second, bytes."""
    ours = [pair["mpilora"][precision] for pair in pairs]
    ratios = {v: report.spread([pair["torch"][v] / seconds for pair, (seconds, _) in zip(pairs, ours)]) for v in pairs[0]["torch"]}
    against = min(ratios, key=lambda v: ratios[v]["median"]) if ratios else None
    return {"tokens_per_s": report.spread([row.tokens() / seconds for seconds, _ in ours]), "against": against, "ratio": ratios.get(against),
            "peak_share": report.spread([row.flops() / seconds / 1e9 / pair["peak_gflops"] for pair, (seconds, _) in zip(pairs, ours)]),
            "peak_bytes": max(count for _, count in ours)}


def compare(program, python, folder, options, number):
    """The answer of a row, printed and returned."""
    row = dataclasses.replace(ROWS[number], length=options.length, sequences=options.sequences or ROWS[number].sequences)
    print(f"row {number}: {row.title}, {row.sequences} x {row.length} tokens", flush=True)
    config = prepare(program, folder, row)
    variants = screen(python, row, options.variants, program.threads)
    usable = sorted((v for v in variants if "seconds" in variants[v]), key=lambda v: variants[v]["seconds"])
    sides = {v: TorchSide(python, specification(row, v), program.threads) for v in usable[:CONTENDERS]}
    try:
        pairs = run_pairs(program, config, sides, options.precisions, options.pairs)
    finally:
        for side in sides.values():
            side.__exit__()
    shared = program.train_watched(dict(config, precision="bf16"), 2)[1] if row.sequences > 1 else None
    answer = {"row": number, "model": row.model, "tokens": row.tokens(), "gflop_a_step": row.flops() / 1e9, "torch": variants, "pairs": pairs,
              "mpilora": {precision: summarize(row, precision, pairs) for precision in options.precisions}, "dp2_bf16_peak_bytes": shared}
    show(row, answer)
    return answer


def show(row, answer):
    lines = []
    for precision, found in answer["mpilora"].items():
        against = f"{report.spread_text(found['ratio'])} x torch {found['against']}" if found["ratio"] else "no PyTorch to compare with"
        lines.append([f"mpilora {precision}", f"{found['tokens_per_s']['median']:.0f}", f"{100 * found['peak_share']['median']:.0f} %",
                      report.gigabytes(found["peak_bytes"]), against])
    if answer["dp2_bf16_peak_bytes"]:
        lines.append(["mpilora bf16, dp 2", "-", "-", report.gigabytes(answer["dp2_bf16_peak_bytes"]), ""])
    peak = max(pair["peak_gflops"] for pair in answer["pairs"])
    for variant, found in answer["torch"].items():
        if "seconds" in found:
            of_pairs = [pair["torch"][variant] for pair in answer["pairs"] if variant in pair["torch"]]
            seconds = report.spread(of_pairs)["median"] if of_pairs else found["seconds"]
            share = row.flops() / seconds / 1e9 / peak
            lines.append([f"torch {variant}", f"{row.tokens() / seconds:.0f}", f"{100 * share:.0f} %", report.gigabytes(found["peak_bytes"]),
                          "" if of_pairs else "measured alone"])
    print(f"  multiply-add peak {peak:.0f} GF/s; {row.flops() / 1e9:.0f} GF a step")
    report.table(["", "tokens/s", "of the peak", "memory", "speed"], lines)
