"""mpilora analyze on adapters made by hand: phi is 1 for equal spans and 0 for orthogonal ones, amplification and spectra of factors that are known; one, two and
four ranks find the same; what does not belong together is refused with the right exit code and one line."""
import json
import math
import os
import struct
import sys
import tempfile

sys.path.insert(0, os.path.join(os.environ["MPILORA_SOURCE_DIR"], "tests"))
from harness import Checks, make_base, make_data, make_peft, mpilora, start, write_config  # noqa: E402

WIDTH, OUT, RANK = 32, 32, 4
MODEL = f"family: llama\nlayers: 2\nwidth: {WIDTH}\nmlp_width: 48\nheads: 4\nkv_heads: 4\nvocab: 64\ncontext: 32\ntied_head: true\n"


def stored(rows):
    """As the harness writes it."""
    return (len(rows), len(rows[0])), struct.pack(f"<{len(rows) * len(rows[0])}f", *(x for row in rows for x in row))


def unit(place, length, size=1.0):
    return [size if i == place else 0.0 for i in range(length)]


def transposed(rows):
    return [list(column) for column in zip(*rows)]


def make_adapter(path, a, b, modules=("q_proj", "v_proj"), layers=(0, 1), rank=RANK):
    """The same factors everywhere, with alpha = rank: dW = B·A."""
    names = [f"model.layers.{layer}.self_attn.{module}" for layer in layers for module in modules]
    return make_peft(path, rank, rank, {name: (stored(a), stored(b)) for name in names})


def make_adapters(folder):
    """Directions are coordinate axes, all but `turned`, whose are those of `first` mixed; singular values of dW: 8, 6, 4, 2 times 1/2."""
    sizes = (8.0, 6.0, 4.0, 2.0)
    a = [unit(i, WIDTH, s) for i, s in enumerate(sizes)]
    b = transposed([unit(i + 3, OUT, 0.5) for i in range(RANK)])
    c, s = math.cos(0.7), math.sin(0.7)
    mixed = [[c * x + s * y for x, y in zip(a[0], a[1])], [c * y - s * x for x, y in zip(a[0], a[1])], a[2], a[3]]
    far = [unit(i + 16, WIDTH, s) for i, s in enumerate(sizes)]
    half = [a[0], far[1], a[2], far[3]]
    other_b = transposed([unit(i + 20, OUT, 0.5) for i in range(RANK)])
    return {"first": make_adapter(f"{folder}/first", a, b), "turned": make_adapter(f"{folder}/turned", mixed, b),
            "far": make_adapter(f"{folder}/far", far, other_b), "half": make_adapter(f"{folder}/half", half, b)}


def analyze(*words, ranks=0):
    return json.loads(mpilora("analyze", *words, "--json", ranks=ranks))["sites"]


def last(site, key="phi"):
    return site[key][-1][-1]


def check_subspaces(check, base, adapters):
    for other, of, expected in (("first", "A", 1.0), ("turned", "A", 1.0), ("far", "A", 0.0), ("half", "A", 0.5), ("half", "B", 1.0), ("far", "B", 0.0),
                                ("turned", "left", 1.0), ("far", "left", 0.0), ("half", "right", 0.5)):
        sites = analyze("subspace", adapters["first"], adapters[other], "--base", base, "--of", of)
        check.that(len(sites) == 4, f"{len(sites)} sites")
        for site in sites:
            check.that(abs(last(site) - expected) < 1e-12, f"{other}, {of}, {site['site']}: phi {last(site)}, expected {expected}")
            check.that(0.0 < last(site, "phi_random") < 0.6, f"{other}, {of}: phi of random matrices {last(site, 'phi_random')}")
    site = analyze("subspace", adapters["first"], adapters["half"], "--base", base, "--layers", "1", "--targets", "v")
    check.that([x["site"] for x in site] == ["layers.1.attn.v"], f"sites {site}")
    least = [[min(i, j) for j in range(1, 5)] for i in range(1, 5)]
    expected = [[-(-n // 2) / n for n in row] for row in least]  # every second direction is common
    found = site[0]["phi"]
    check.that(all(abs(found[i][j] - expected[i][j]) < 1e-12 for i in range(4) for j in range(4)), f"phi {found}, expected {expected}")
    check.that(all(abs(x - y) < 1e-6 for x, y in zip(site[0]["sigma_a"], (8, 6, 4, 2))), f"sigma {site[0]['sigma_a']}")


def check_grids(check, base, adapters):
    """The same numbers at 1, 2 and 4 ranks."""
    first, half = adapters["first"], adapters["half"]
    for words in (("subspace", first, half), ("amplification", first), ("spectrum", "--adapter", first)):
        alone = analyze(*words, "--base", base)
        for ranks in (2, 4):
            for mine, theirs in zip(alone, analyze(*words, "--base", base, ranks=ranks)):
                for key, value in mine.items():
                    far = max((abs(x - y) for x, y in zip(flat(value), flat(theirs[key]))), default=0.0) if not isinstance(value, str) else value != theirs[key]
                    check.that(far < 1e-12, f"{words[0]} on {ranks} ranks: {key} of {mine['site']} differs by {far}")


def flat(value):
    return [x for item in value for x in flat(item)] if isinstance(value, list) else [value]


def check_amplification(check, base, adapters):
    for site in analyze("amplification", adapters["first"], "--base", base):
        delta = math.sqrt(sum((s / 2) ** 2 for s in (8, 6, 4, 2)))
        check.that(abs(site["delta_norm"] - delta) < 1e-6, f"||dW|| {site['delta_norm']}, expected {delta}")
        check.that(abs(site["amplification"] * site["projected_on_delta"] - delta) < 1e-6, f"{site}")
        check.that(site["projected_on_delta"] < site["projected_on_weight"] < site["weight_norm"], f"{site}")
    spectra = analyze("spectrum", "--base", base)
    check.that(len(spectra) == 14, f"{len(spectra)} linear layers")
    by_site = {site["site"]: site["weight"] for site in spectra}
    for site in analyze("amplification", adapters["first"], "--base", base, "--rank", "2"):
        sigma = by_site[site["site"]]
        top, norm = math.hypot(*sigma[:2]), math.hypot(*sigma)
        check.that(site["rank"] == 2 and abs(site["projected_on_weight"] - top) < 1e-12, f"{site}, expected {top}")
        check.that(abs(site["weight_norm"] - norm) < 1e-12, f"||W|| {site['weight_norm']}, its singular values say {norm}")


def check_plan(check, folder, base):
    """Planned without a base for 16 ranks, and for the ranks that run."""
    with open(f"{folder}/gpt3.yaml", "w") as file:
        file.write("family: gpt2\nlayers: 96\nwidth: 12288\nheads: 96\nvocab: 50257\ncontext: 2048\n")
    plan = json.loads(mpilora("analyze", "spectrum", "--plan", "--base", f"{folder}/gpt3.yaml", "--ranks", "16", "--targets", "q,fc", "--json"))["matrices"]
    check.that([m["target"] for m in plan] == ["q", "fc"] and plan[0]["process_grid"] == [4, 4], f"plan {plan}")
    check.that(plan[0]["matrix_bytes"] == 8 * 12288**2 // 16 < plan[0]["bytes_per_rank"] < 8 * 12288**2 // 14, f"plan {plan[0]}")
    done = start("analyze", "spectrum", "--plan", "--base", base, "--targets", "q", ranks=2)
    check.that(done.returncode == 0 and "1 x 2" in done.stdout and "a rank needs" in done.stderr, f"{done.stdout}{done.stderr}")
    expect(check, 4, "12288 × 12288: the ranks of a node need 1167.8 MiB", "spectrum", "--plan", "--base", f"{folder}/gpt3.yaml", "--targets", "q", "--memory", "1")
    expect(check, 2, "none.yaml", "spectrum", "--plan", "--base", f"{folder}/none.yaml")


def check_low_rank(check, folder, base):
    """Four pairs of vectors that make a dW of rank two: only two directions are real."""
    twice = make_adapter(f"{folder}/twice", [unit(i % 2, WIDTH, 1.0 + i) for i in range(RANK)], transposed([unit(i % 2 + 5, OUT) for i in range(RANK)]))
    for site in analyze("amplification", twice, "--base", base, ranks=2):
        check.that(site["rank"] == 2 and abs(site["delta_norm"] - math.hypot(4, 6)) < 1e-6, f"dW of rank two: {site}")
    for site in analyze("subspace", twice, twice, "--base", base, "--of", "left"):
        check.that(len(site["phi"]) == 2 and abs(last(site) - 1) < 1e-12, f"dW of rank two: phi {site['phi']}")


def expect(check, code, contains, *words, ranks=0):
    done = start("analyze", *words, ranks=ranks)
    lines = [line for line in done.stderr.splitlines() if line.startswith("mpilora analyze:")]
    check.that(done.returncode == code, f"{words}: exit {done.returncode}, expected {code}: {done.stderr}")
    check.that(len(lines) == 1 and contains in lines[0], f"{words}: {done.stderr!r} lacks {contains!r}")


def damage(base, out):
    """The same file with one weight that is a NaN."""
    with open(base, "rb") as file:
        data = bytearray(file.read())
    at = weights_offset(data)
    data[at:at + 4] = struct.pack("<f", math.nan)
    with open(out, "wb") as file:
        file.write(data)


def weights_offset(data):
    """Where four neighbouring numbers look like weights, past the middle."""
    at = len(data) // 2 // 4 * 4
    while not all(0 < abs(x) < 1 and abs(x) > 1e-6 for x in struct.unpack("<16f", data[at:at + 64])):
        at += 4
    return at


def check_refusals(check, folder, base, adapters):
    first, sub = adapters["first"], ("subspace", adapters["first"], adapters["far"])
    expect(check, 2, "the subject is missing")
    expect(check, 2, 'did you mean "spectrum"', "spectra")
    expect(check, 2, "--base is missing", *sub)
    expect(check, 2, "B is missing", "subspace", first, "--base", base)
    expect(check, 2, "--of", *sub, "--base", base, "--of", "C")
    expect(check, 2, "has no fc", *sub, "--base", base, "--targets", "fc")
    expect(check, 2, "has no k ", *sub, "--base", base, "--targets", "q,k")
    expect(check, 2, "--layers", *sub, "--base", base, "--layers", "1-2")
    expect(check, 2, "--layers", *sub, "--base", base, "--layers", "1,,0")
    expect(check, 2, "--rank: 5", "amplification", first, "--base", base, "--rank", "5")
    expect(check, 2, "--rank: -1", "amplification", first, "--base", base, "--rank", "-1")
    expect(check, 2, "the base itself", *sub, "--base", base, "--out", base)
    expect(check, 3, "none.h5", *sub, "--base", f"{folder}/none.h5")
    expect(check, 3, "none", "subspace", first, f"{folder}/none", "--base", base)
    expect(check, 4, "such.h5: cannot be created", *sub, "--base", base, "--out", f"{folder}/no/such.h5")
    expect(check, 4, "is a directory", *sub, "--base", base, "--out", folder)
    expect(check, 4, "Not a directory", *sub, "--base", base, "--out", f"{base}/such.h5")
    expect(check, 4, "the node has 0.0 MiB", "spectrum", "--base", base, "--memory", "1e-6", ranks=2)
    only_q = make_adapter(f"{folder}/q", [unit(0, WIDTH)] * RANK, transposed([unit(0, OUT)] * RANK), modules=("q_proj",))
    expect(check, 3, "has no pair at layers.0.attn.v", "subspace", first, only_q, "--base", base)
    expect(check, 3, "has no pair at layers.0.attn.v", "subspace", only_q, first, "--base", base)
    wide = make_adapter(f"{folder}/wide", [unit(0, WIDTH)] * 40, transposed([unit(0, OUT)] * 40), rank=40)
    expect(check, 3, "rank 40 exceeds a side", "amplification", wide, "--base", base, ranks=2)
    zero = make_adapter(f"{folder}/zero", [unit(i, WIDTH) for i in range(RANK)], [[0.0] * RANK] * OUT)
    expect(check, 3, "is zero", "amplification", zero, "--base", base, ranks=2)
    expect(check, 3, "is zero", "subspace", first, zero, "--base", base, "--of", "B", ranks=2)
    nan = make_adapter(f"{folder}/nan", [[math.nan] * WIDTH] * RANK, [[1.0] * RANK] * OUT)
    expect(check, 3, "NaN", "subspace", first, nan, "--base", base)
    damage(base, f"{folder}/damaged.h5")
    expect(check, 3, "is nan", "spectrum", "--base", f"{folder}/damaged.h5", ranks=2)
    make_data(folder, [list(range(10))] * 4)
    write_config(f"{folder}/run.yaml", run={"dir": f"{folder}/run"}, base=base, method={"name": "prefix_embed"}, data={"train": f"{folder}/data.h5"},
                 batch={"sequences": 2, "micro": 2}, optim={"lr": 1e-3, "warmup": 0}, train={"steps": 1}, precision="fp32")
    mpilora("train", f"{folder}/run.yaml")
    mpilora("train", f"{folder}/run.yaml", "--set", "method.name=lora", "--set", "method.dora=true", "--set", f"run.dir={folder}/dora")
    for words in (("amplification",), ("spectrum", "--adapter"), ("subspace", first)):
        expect(check, 3, "is a DoRA adapter", *words, f"{folder}/dora/adapter.h5", "--base", base)
    expect(check, 3, "made by method prefix_embed", "amplification", f"{folder}/run/adapter.h5", "--base", base, ranks=2)
    check.that(mpilora("analyze", *sub, "--base", base, "--targets", "all").startswith("phi of the right-singular directions of A"), "no table")
    check.that("zero" not in mpilora("analyze", "subspace", first, only_q, "--base", base, "--targets", "q"), "no table of q alone")


def main():
    check = Checks()
    with tempfile.TemporaryDirectory() as folder:
        make_base(folder, MODEL, "fp32")
        base, adapters = f"{folder}/base.h5", make_adapters(folder)
        check_subspaces(check, base, adapters)
        check_amplification(check, base, adapters)
        check_low_rank(check, folder, base)
        check_grids(check, base, adapters)
        check_plan(check, folder, base)
        check_refusals(check, folder, base, adapters)
    check.end()


main()
