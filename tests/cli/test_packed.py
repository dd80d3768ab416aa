"""Packed Hugging Face directories: every layout of tests/golden/packed.json to the bit, in fp32, in bf16 and kept in blocks; every family's names; what is
refused, with its row and block."""

import hashlib
import json
import os
import shutil
import sys
import tempfile

try:
    import numpy as np
except ImportError:
    print("numpy is not installed: skipped")
    sys.exit(77)

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "interop"))
import base_numbers
import encoder_models as encoders
import family_models as families
import harness
import packed_models as models

checks = harness.Checks()
def to_bf16(x):
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def weights(path, case):
    """The packed matrix in the base."""
    return base_numbers.contents(path)["layers.0.mlp.proj.weight" if case["family"] == "gpt2" else "layers.0.mlp.down.weight"]


# ---- the golden cases -----------------------------------------------------------------------------------------------------


def as_scales(value, case):
    """The libraries' weights are rounded to the type of the scales."""
    dtype = next((dtype for name, (dtype, _, _) in case["parts"].items() if name.endswith(("scale", "scales"))), "F32")
    if dtype == "F16":
        return value.astype(np.float16).astype(np.float32)
    return base_numbers.from_bf16(to_bf16(value)) if dtype == "BF16" else value


def check_case(folder, name, case):
    source, base = f"{folder}/hf", f"{folder}/base.h5"
    models.write_model(source, case)
    done = harness.start("import", source, base, "--dtype", "fp32")
    checks.that(done.returncode == 0 and "ignored" not in done.stderr, f"{name}: exit {done.returncode}: {done.stderr}")
    if done.returncode:
        return
    value = base_numbers.numbers(weights(base, case))
    checks.that(hashlib.sha256(value.astype("<f4").tobytes()).hexdigest() == case["sha256"], f"{name}: other weights than its library's")
    said = "--dtype keep would hold them" if case["kept"] else "not multiplied as they are"
    checks.that(said in done.stderr, f"{name}: it is not said what becomes of its blocks: {done.stderr}")
    harness.mpilora("import", source, base)
    checks.that(weights(base, case)[2] == to_bf16(value).tobytes(), f"{name}: bf16 is not the rounded fp32")
    done = harness.start("import", source, base, "--dtype", "keep")
    if not case["kept"]:
        checks.that(done.returncode == 2 and "no matrix in blocks that can be kept" in done.stderr, f"{name}, keep: exit {done.returncode}: {done.stderr}")
        return
    checks.that(done.returncode == 0 and f"1 × {case['kept']}" in done.stdout, f"{name}, keep: {done.stdout}{done.stderr}")
    kept = weights(base, case)
    checks.that(kept[0] == case["kept"], f"{name}: kept as {kept[0]}")
    kept = base_numbers.numbers(kept)
    checks.that(np.array_equal(as_scales(kept, case), value), f"{name}: its blocks say other weights")
    harness.mpilora("verify", base)


# ---- by their formulas ----------------------------------------------------------------------------------------------------

ROWS, COLS = models.WIDTH, models.MLP
INT8 = {"quant_method": "compressed-tensors", "format": "int-quantized", "config_groups": {"g": {"weights": {"num_bits": 8, "type": "int", "strategy": "group", "group_size": 32, "actorder": "group"}}}}
TILES = {"quant_method": "compressed-tensors", "format": "float-quantized", "config_groups": {"g": {"weights": {"num_bits": 8, "type": "float", "strategy": "block", "block_structure": [24, 128]}}}}
MODELOPT = {"quant_method": "modelopt", "quant_algo": "NVFP4", "ignore": ["lm_head"], "producer": {"name": "modelopt", "version": "0.47.0"},
            "config_groups": {"group_0": {"weights": {"dynamic": False, "num_bits": 4, "type": "float", "group_size": 16}}}}  # fmt: skip


def e4m3():
    """The value of each byte."""
    i = np.arange(256)
    exponent, fraction = i >> 3 & 15, i & 7
    size = np.where(exponent > 0, (8 + fraction) * 2.0 ** (exponent - 10), fraction * 2.0**-9)
    return np.where(i & 127 == 127, np.nan, np.where(i & 128, -size, size)).astype(np.float32)


def formula_cases():
    """name -> (quantization_config, parts, what the matrix is in fp32)."""
    rng = np.random.default_rng(11)
    q = rng.integers(-127, 128, (ROWS, COLS)).astype(np.int8)
    scale = rng.uniform(0.001, 0.1, (ROWS, 3)).astype(np.float32)
    order = rng.permutation(np.arange(COLS, dtype=np.int32) // 32)
    ints = {"weight": ("I8", [ROWS, COLS], q.tobytes()), "weight_scale": ("F32", [ROWS, 3], scale.tobytes())}
    index = lambda g: {"weight_g_idx": ("I32", [COLS], g.astype("<i4").tobytes())}
    small = (rng.integers(0, 2, (ROWS, COLS)) * 128 + rng.integers(0, 120, (ROWS, COLS))).astype(np.uint8)
    tile = np.array([[0.5], [0.03]], np.float32)
    whole = np.array(0.0123, np.float32)
    codes = rng.integers(0, 16, (ROWS, COLS)).astype(np.uint8)
    fours = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)[codes]
    eights = rng.integers(1, 126, (ROWS, COLS // 16)).astype(np.uint8)
    both = e4m3()[eights] * whole
    nvfp4 = {"weight": ("U8", [ROWS, COLS // 2], (codes[:, ::2] | codes[:, 1::2] << 4).tobytes()), "weight_scale": ("F8_E4M3", [ROWS, COLS // 16], eights.tobytes()),
             "weight_scale_2": ("F32", [], whole.tobytes()), "input_scale": ("F32", [], whole.tobytes())}  # fmt: skip
    fp8 = {"weight": ("F8_E4M3", [ROWS, COLS], small.tobytes()), "weight_scale": ("F32", [], whole.tobytes()), "input_scale": ("F32", [], whole.tobytes())}
    rows = {"weight": fp8["weight"], "weight_scale": ("F32", [ROWS], scale[:, 0].tobytes())}
    algorithm = lambda word: MODELOPT | {"quant_algo": word}
    signed = ((codes ^ 8).astype(np.int8) - 8).astype(np.float32)  # of four bits
    fifths = rng.choice(np.array([0.75, 1.25, 3], np.float32), (ROWS, 3))  # fp16 holds them
    int4 = lambda scales: {"weight": ("U8", [ROWS // 2, COLS], (codes[::2] | codes[1::2] << 4).tobytes()), "weight_scale": ("F32", [ROWS, 3], scales.tobytes())}
    before = rng.uniform(0.3, 2, COLS).astype(np.float32)
    scaled = {"pre_quant_scale": ("F32", [COLS], before.tobytes())}
    large = (rng.integers(0, 2, (160, 288)) * 128 + rng.integers(0, 120, (160, 288))).astype(np.uint8)
    tiles = rng.uniform(0.001, 0.1, (2, 3)).astype(np.float32)
    return {
        "int4 of modelopt": (algorithm("W4A16_AWQ"), int4(scale), signed * np.repeat(scale, 32, 1)),
        "int4 of modelopt, scales of fp16": (algorithm("W4A16_AWQ"), int4(fifths), signed * np.repeat(fifths, 32, 1)),
        "int4 of modelopt, activations scaled": (algorithm("W4A16_AWQ"), int4(scale) | scaled, signed * np.repeat(scale, 32, 1) * before),
        "nvfp4 of modelopt, activations scaled": (algorithm("NVFP4_AWQ"), nvfp4 | scaled, base_numbers.from_bf16(to_bf16(fours * np.repeat(both, 16, 1))) * before),
        "fp8 tiles of modelopt": (algorithm("FP8_PB_WO"), {"weight": ("F8_E4M3", [160, 288], large.tobytes()), "weight_scale": ("F32", [2, 1, 3, 1], tiles.tobytes())},
                                  e4m3()[large] * np.repeat(np.repeat(tiles, 128, 0), 128, 1)[:160, :288]),
        "int8 with an order": (INT8, ints | index(order), q * scale[:, order]),
        "int8 with an order that was never set": (INT8, ints | index(np.full(COLS, -1)), q * np.repeat(scale, 32, 1)),
        "fp8 tiles as wide as the rows": (TILES, {"weight": fp8["weight"], "weight_scale": ("F32", [2, 1], tile.tobytes())}, e4m3()[small] * np.repeat(tile, 24, 0)[:ROWS]),
        "nvfp4 of modelopt": (MODELOPT, nvfp4, base_numbers.from_bf16(to_bf16(fours * np.repeat(both, 16, 1)))),
        "fp8 of modelopt": (algorithm("FP8"), fp8, e4m3()[small] * whole),
        "fp8 of modelopt, rows": (algorithm("FP8_PER_CHANNEL_PER_TOKEN"), rows, e4m3()[small] * scale[:, :1]),
    }


def check_formulas(folder):
    cases = formula_cases()
    for name, (config, parts, value) in cases.items():
        case = {"family": "llama", "module": "model.layers.0.mlp.down_proj", "config": config}
        shutil.rmtree(f"{folder}/formula", ignore_errors=True)
        models.write_model(f"{folder}/formula", case, parts=parts, width=value.shape[0], mlp=value.shape[1])
        done = harness.start("import", f"{folder}/formula", f"{folder}/formula.h5", "--dtype", "fp32")
        checks.that(done.returncode == 0 and "ignored" not in done.stderr, f"{name}: exit {done.returncode}: {done.stderr}")
        if done.returncode == 0:
            found = base_numbers.numbers(weights(f"{folder}/formula.h5", case))
            checks.that(found.tobytes() == value.astype("<f4").tobytes(), f"{name}: {np.sum(found != value)} other weights, or another sign of a zero")
    config, parts, value = cases["int4 of modelopt, scales of fp16"]
    models.write_model(f"{folder}/formula-kept", {"family": "llama", "module": "model.layers.0.mlp.down_proj", "config": config}, parts=parts)
    harness.mpilora("import", f"{folder}/formula-kept", f"{folder}/formula-kept.h5", "--dtype", "keep")
    kept = base_numbers.contents(f"{folder}/formula-kept.h5")["layers.0.mlp.down.weight"]
    checks.that(kept[0] == "q4_0" and np.array_equal(base_numbers.numbers(kept), value), f"int4 of modelopt is kept as {kept[0]}, or with other weights")
    # ModelOpt's own file beside a config.json that says nothing
    config, parts, value = cases["nvfp4 of modelopt"]
    case = {"family": "llama", "module": "model.layers.0.mlp.down_proj", "config": None}
    models.write_model(f"{folder}/own", case, parts=parts)
    harness.write_config(f"{folder}/own/config.json", **models.config_of("llama"))
    for algorithm, code, said in (("NVFP4", 0, ""), ("W4A8_AWQ", 3, 'hf_quant_config.json: quantization: quant_algo: "W4A8_AWQ" is not known'), (None, 3, "has type U8")):
        harness.write_config(f"{folder}/own/hf_quant_config.json", producer={"name": "modelopt"}, quantization={"quant_algo": algorithm, "kv_cache_quant_algo": None, "exclude_modules": ["lm_head"]})
        done = harness.start("import", f"{folder}/own", f"{folder}/own.h5", "--dtype", "fp32")
        checks.that(done.returncode == code and said in done.stderr, f"hf_quant_config.json, {algorithm}: exit {done.returncode}: {done.stderr}")
        if code == 0:
            checks.that(np.array_equal(base_numbers.numbers(weights(f"{folder}/own.h5", case)), value), "hf_quant_config.json: other weights")
    return cases


# ---- every family ---------------------------------------------------------------------------------------------------------


def is_matrix(name, shape):
    return len(shape) == 2 and name.endswith(".weight") and not any(word in name for word in ("embed", "wte", "wpe", "lm_head", "embed_out", "norm", "project_"))


def check_family(folder, of, name, tensors):
    """The same matrices as int8 with a scale a row, and as numbers: the same base. of: the module with the models."""
    plain, packed = f"{folder}/plain", f"{folder}/packed"
    of.write_model(plain, name, tensors)
    shutil.copytree(plain, packed)
    rng, numbers, codes, count = np.random.default_rng(3), {}, {}, 0
    for tensor, (shape, raw) in of.tensors(name, tensors).items():
        numbers[tensor] = codes[tensor] = ("F32", shape, raw)
        if not is_matrix(tensor, shape):
            continue
        turned = of.MODELS[name]["model_type"] == "gpt2"
        q = rng.integers(-127, 128, shape[::-1] if turned else shape).astype(np.int8)
        scale = np.exp2(-rng.integers(7, 13, (q.shape[0], 1))).astype(np.float32)
        value = (q * scale).astype(np.float32)
        numbers[tensor] = ("F32", shape, np.ascontiguousarray(value.T if turned else value).tobytes())
        codes[tensor] = ("I8", q.shape, q.tobytes())
        codes[f"{tensor}_scale"] = ("F32", scale.shape, scale.tobytes())
        count += 1
    models.write_safetensors(f"{plain}/model.safetensors", numbers)
    models.write_safetensors(f"{packed}/model.safetensors", codes)
    with open(f"{packed}/config.json") as file:
        config = json.load(file)
    config["quantization_config"] = {"quant_method": "compressed-tensors", "format": "int-quantized", "config_groups": {}, "ignore": ["lm_head"]}
    harness.write_config(f"{packed}/config.json", **config)
    hashes = []
    for source in (plain, packed):
        done = harness.start("import", source, f"{folder}/base.h5", "--dtype", "fp32")
        checks.that(done.returncode == 0, f"{name}: {source}: {done.stderr}")
        if done.returncode == 0:
            hashes.append(json.loads(harness.mpilora("inspect", f"{folder}/base.h5", "--json"))["content_sha256"])
    checks.that(count >= 4 and len(hashes) == 2 and hashes[0] == hashes[1], f"{name}: {count} packed matrices make another base")


# ---- refusals -------------------------------------------------------------------------------------------------------------


def changed(case, part, change):
    """Its parts with other bytes in one; change(array of them) works in place."""
    parts = models.parts_of(case)
    dtype, shape, raw = parts[part]
    bytes_ = bytearray(raw)
    change(np.frombuffer(bytes_, {"F32": "<f4", "F16": "<f2", "BF16": "<u2", "I32": "<u4", "I64": "<i8"}.get(dtype, "u1")))
    return parts | {part: (dtype, shape, bytes(bytes_))}


def put(index, value):
    def change(array):
        array[index] = value

    return change


def check_refusals(folder, golden):
    def refused(name, said, parts=None, config=None, code=3):
        case = golden[name]
        shutil.rmtree(f"{folder}/bad", ignore_errors=True)
        models.write_model(f"{folder}/bad", case, parts=parts, config=config)
        for dtype in ("fp32", "bf16") + (("keep",) if case["kept"] else ()):
            done = harness.start("import", f"{folder}/bad", f"{folder}/bad.h5", "--dtype", dtype)
            checks.that(done.returncode == code and all(word in done.stderr for word in said), f"{name}, {said}: exit {done.returncode}: {done.stderr}")
            checks.that(not os.path.exists(f"{folder}/bad.h5"), f"{name}, {said}: a base is left behind")

    nan, inf = float("nan"), float("inf")
    scale = lambda name, part, index, value: changed(golden[name], part, put(index, value))
    # scales that are Inf or NaN: row and block
    refused("fp8 ragged", ("down_proj", "row 24, block 1"), scale("fp8 ragged", "weight_scale_inv", 4, nan))
    refused("fp8 powers of two", ("row 0, block 2",), scale("fp8 powers of two", "weight_scale_inv", 2, 255))
    refused("fp8 compressed channels", ("row 7, block 0",), scale("fp8 compressed channels", "weight_scale", 7, 0x7F80))
    refused("fp8 ragged", ("row 2, column 5", "Inf or NaN"), scale("fp8 ragged", "weight", 2 * models.MLP + 5, 0x7F))
    refused("nf4", ("row 6, block 10",), scale("nf4", "weight.absmax", 10, inf))
    refused("nf4 nested", ("row 0, block 0",), scale("nf4 nested", "weight.nested_absmax", 0, nan))
    refused("int8 bitsandbytes", ("row 9, block 0",), scale("int8 bitsandbytes", "SCB", 9, inf))
    refused("int4 groups", ("row 3, block 2",), scale("int4 groups", "weight_scale", 11, 0x7FC0))
    refused("int4 groups, scales in fp16", ("row 3, block 2",), scale("int4 groups, scales in fp16", "weight_scale", 11, inf))
    refused("mxfp4", ("row 5, block 1",), scale("mxfp4", "weight_scale", 16, 255))
    refused("nvfp4", ("row 1, block 0",), scale("nvfp4", "weight_scale", 6, 0x7F))
    refused("nvfp4", ("Inf or NaN",), scale("nvfp4", "weight_global_scale", 0, 0))
    refused("awq", ("row 4, block 1",), scale("awq", "scales", models.WIDTH + 4, nan))
    refused("gptq", ("row 31, block 0",), scale("gptq", "scales", 31, inf))
    # what the layout must have
    for name, part in (("fp8 ragged", "weight_scale_inv"), ("nf4", "weight.absmax"), ("nf4", "weight.quant_map"), ("nf4 nested", "weight.nested_quant_map"), ("int8 bitsandbytes", "SCB"),
                       ("int4 groups", "weight_scale"), ("int4 groups", "weight_shape"), ("mxfp4", "weight_scale"), ("awq", "scales"), ("gptq", "scales")):  # fmt: skip
        parts = models.parts_of(golden[name])
        del parts[part]
        refused(name, (part, "missing"), parts)
    refused("int4 groups", ("weight_shape", "[33, 96]"), scale("int4 groups", "weight_shape", 0, 33))
    refused("gptq with an order", ("column 2", "group 3 of 3"), scale("gptq with an order", "g_idx", 2, 3))
    refused("gptq", ("symmetric",), scale("gptq", "qzeros", 0, 0x77777767))
    ordered = models.parts_of(golden["gptq with an order"])
    del ordered["g_idx"]
    refused("gptq with an order", ("g_idx is missing", "desc_act"), ordered)
    for name, part, shape in (("fp8 ragged", "weight_scale_inv", [3, 2]), ("nf4", "weight.absmax", [2, 24]), ("int4 groups", "weight_scale", [48, 2]), ("nvfp4", "weight_scale", [16, 12]),
                              ("awq", "qzeros", [4, 3]), ("gptq", "g_idx", [2, 48])):  # fmt: skip
        parts = models.parts_of(golden[name])
        parts[part] = (parts[part][0], shape, parts[part][2])
        refused(name, (part, "has shape", "expected"), parts)
    parts = models.parts_of(golden["nf4"])
    state = "weight.quant_state.bitsandbytes__nf4"
    for old, new, said in ((b"[32, 96]", b"[96, 32]", ("shape", "[96, 32]")), (b"nf4", b"fp4", ("quant_type",)), (b"64", b"63", ("blocksize",)), (b"bfloat16", b"bfloat17", ("dtype",)), (b"{", b"[", (state,))):
        assert old in parts[state][2]
        refused("nf4", (state,) + said, parts | {state: (*parts[state][:2], parts[state][2].replace(old, new))})
    refused("int4 groups", ("stands beside",), models.parts_of(golden["int4 groups"]) | {"weight": ("F32", [32, 96], bytes(4 * 32 * 96))})
    # what config.json says
    config = lambda name, **keys: golden[name]["config"] | keys
    refused("nf4", ("quant_method", "hqq", "known are fp8"), config=config("nf4", quant_method="hqq"))
    refused("fp8 ragged", ("fmt", "e5m2"), config=config("fp8 ragged", fmt="e5m2"))
    refused("fp8 ragged", ("weight_scale_inv", "expected [1, 1]"), config=config("fp8 ragged", weight_block_size=[128, 128]))
    refused("fp8 ragged", ("weight_block_size",), config=config("fp8 ragged", weight_block_size=[0, 128]))
    refused("awq", ("version", "gemv"), config=config("awq", version="gemv"))
    refused("awq", ("bits", "3"), config=config("awq", bits=3))
    refused("gptq", ("checkpoint_format", "marlin"), config=config("gptq", checkpoint_format="marlin"))
    refused("gptq", ("group_size", "0"), config=config("gptq", group_size=0))
    refused("int4 groups", ("sparsity_config", "sparse-24-bitmask"), config=config("int4 groups", sparsity_config={"format": "sparse-24-bitmask"}))
    refused("int4 groups", ("transform_config",), config=config("int4 groups", transform_config={"config_groups": {"u": {}}}))
    refused("int4 groups", ("ignore",), config=config("int4 groups", ignore=7))
    refused("int4 groups", ("no num_bits",), config=config("int4 groups", config_groups={"g": {"weights": {"num_bits": 8, "type": "int"}}}))
    # what config.json says of groups, zeros and order, and the files have otherwise
    def groups(name, *changes):
        weights_ = golden[name]["config"]["config_groups"]["group_0"]["weights"]
        return config(name, config_groups={str(i): {"weights": weights_ | change} for i, change in enumerate(changes)})

    otherwise = "config_groups of quantization_config says otherwise"
    for name, change, said in (("int4 groups", {"group_size": 48}, "32 columns"), ("int4 groups", {"strategy": "channel"}, "32 columns"), ("int4 groups", {"symmetric": False}, "no zeros"),
                               ("int4 groups", {"actorder": "group"}, "no order"), ("int4 channel", {"strategy": "group", "group_size": 32}, "96 columns"), ("int8 bytes", {"symmetric": False}, "no zeros"),
                               ("int8 groups with zeros", {"group_size": 32}, "48 columns"),
                               ("int8 bytes", {"type": "float"}, "integers of 8 bits"), ("fp8 compressed channels", {"type": "int"}, "FP8 of 8 bits"), ("fp8 compressed channels", {"strategy": "group", "group_size": 32}, "96 columns")):  # fmt: skip
        refused(name, (otherwise, said, "down_proj"), config=groups(name, change))
    refused("int4 groups", ("group_size",), config=groups("int4 groups", {"group_size": "32"}))
    refused("int4 groups", (otherwise,), config=groups("int4 groups", {"group_size": 48}, {"symmetric": False}))
    for name, changes in (("int4 groups", ({"group_size": 48}, {})), ("int4 groups", ({"actorder": "weight"},)), ("int4 groups", ({"actorder": "group"}, {"symmetric": False}, {"actorder": "static"})),
                          ("int8 groups with zeros", ({"symmetric": True},)), ("int4 channel", ({"strategy": "group", "group_size": 128},))):  # fmt: skip
        models.write_model(f"{folder}/bad", golden[name], config=groups(name, *changes))
        done = harness.start("import", f"{folder}/bad", f"{folder}/good.h5", "--dtype", "fp32")
        checks.that(done.returncode == 0 and hashlib.sha256(weights(f"{folder}/good.h5", golden[name])[2]).hexdigest() == golden[name]["sha256"], f"{name}, {changes}: {done.stderr}")
    # an order of weights that a GPU wants; activations that are scaled
    refused("int8 bitsandbytes", ("weight_format is 2",), scale("int8 bitsandbytes", "weight_format", 0, 2))
    for name, (config_, parts, _) in check_formulas(folder).items():
        if "modelopt" not in name:
            continue
        case = {"family": "llama", "module": "model.layers.0.mlp.down_proj", "config": config_, "kept": None}
        golden[name] = case
        if parts["weight"][1][0] > ROWS:  # of another model
            continue
        refused(name, ("pre_quant_scale", "has shape [3]"), parts | {"pre_quant_scale": ("F32", [3], bytes(12))})
        spoilt = np.where(np.arange(COLS) == 5, np.inf, 1).astype("<f4")
        refused(name, ("row 0, column 5", "Inf or NaN"), parts | {"pre_quant_scale": ("F32", [COLS], spoilt.tobytes())})
        four = parts | {"weight_scale": ("F32", [1, 1, 2, 1], bytes(8))}
        refused(name, ("weight_scale",), four)
        refused(name, ("quant_algo", "W8A8_SQ_PER_CHANNEL"), parts, config_ | {"quant_algo": "W8A8_SQ_PER_CHANNEL"})
        if "weight_scale_2" in parts:
            refused(name, ("weight_scale_2", "expected one number"), parts | {"weight_scale_2": ("F32", [2], bytes(8))})
    # packed tensors without a word of them
    refused("fp8 ragged", ("has type F8_E4M3",), config=False)
    refused("int4 groups", ("is missing",), config=False)


def check_tied(folder):
    """Of a tied pair whose head is packed beside an embedding it is not clear which makes the logits; each of the two ways out is taken."""
    codes = np.random.default_rng(8).integers(0, 120, (models.VOCAB, COLS // 3), np.uint8)
    scales = np.array([[0.5], [0.25]], "<f4")
    fp8 = {"lm_head.weight": ("F8_E4M3", codes.shape, codes.tobytes()), "lm_head.weight_scale_inv": ("F32", scales.shape, scales.tobytes())}
    words = np.random.default_rng(9).integers(0, 2**31, (models.VOCAB, codes.shape[1] // 8)).astype("<i4")
    int4 = {"lm_head.weight_packed": ("I32", words.shape, words.tobytes()), "lm_head.weight_scale": ("F32", [models.VOCAB, 1], np.ones(models.VOCAB, "<f4").tobytes()),
            "lm_head.weight_shape": ("I64", [2], np.array(codes.shape, "<i8").tobytes())}  # fmt: skip
    plain, source, base = models.plain_tensors("llama"), f"{folder}/tied", f"{folder}/tied.h5"
    embedding = np.frombuffer(plain["model.embed_tokens.weight"][2], "<f4")

    def imported(head, config, tied, left_out=()):
        os.makedirs(source, exist_ok=True)
        models.write_safetensors(f"{source}/model.safetensors", {name: tensor for name, tensor in (plain | head).items() if name not in left_out})
        with open(f"{source}/config.json", "w") as file:
            json.dump(models.config_of("llama") | {"tie_word_embeddings": tied, "quantization_config": config}, file)
        return harness.start("import", source, base, "--dtype", "fp32")

    for name, head, config in (("FP8", fp8, {"quant_method": "fp8", "weight_block_size": [32, 32]}), ("int4", int4, {"quant_method": "compressed-tensors", "config_groups": {"g": {"weights": {"num_bits": 4}}}})):
        done = imported(head, config, True)
        said = [line for line in done.stderr.splitlines() if "tie_word_embeddings" in line and "lm_head" in line and "embed_tokens" in line]
        checks.that(done.returncode == 3 and len(said) == 1 and not os.path.exists(base), f"{name} head of a tied pair: exit {done.returncode}: {done.stderr}")
        done = imported(head, config, False)
        checks.that(done.returncode == 0, f"{name} head, not tied: exit {done.returncode}: {done.stderr}")
        if done.returncode == 0:
            found = base_numbers.contents(base)
            checks.that(np.array_equal(base_numbers.numbers(found["embed.weight"]).ravel(), embedding), f"{name}: the embedding is another")
            own = base_numbers.numbers(found["head.weight"])
            checks.that(not np.array_equal(own.ravel(), embedding), f"{name}: the head is the embedding")
            if name == "FP8":
                checks.that(np.array_equal(own, e4m3()[codes] * np.repeat(scales, 32, 0)[: models.VOCAB]), "FP8: another head")
            os.remove(base)
        done = imported(head, config, True, left_out=("model.embed_tokens.weight",))
        checks.that(done.returncode == 0 and "head.weight" not in base_numbers.contents(base), f"{name} head alone: exit {done.returncode}: {done.stderr}")
        os.remove(base)


def check_old_words(folder, golden):
    """Integers of 3 and 6 bits as versions before 0.18 pack them: the same weights. Of 7 bits in rows of 7 both layouts have as many words."""
    for name, bits in (("int3 groups", 3), ("int6 groups with zeros", 6)):
        case, per = golden[name], 32 // bits
        parts = models.parts_of(case)

        def repack(part, count):
            raw = np.unpackbits(np.frombuffer(part[2], np.uint8).reshape(part[1][0], -1), axis=1, bitorder="little")[:, : count * bits]
            codes = raw.reshape(part[1][0], count, bits) @ (1 << np.arange(bits))
            out = np.zeros((part[1][0], -(-count // per)), np.uint32)
            for i in range(count):
                out[:, i // per] |= codes[:, i].astype(np.uint32) << np.uint32(i % per * bits)
            return out

        old = repack(parts["weight_packed"], models.MLP)
        parts["weight_packed"] = ("I32", list(old.shape), old.tobytes())
        if "weight_zero_point" in parts:
            dtype, shape, raw = parts["weight_zero_point"]
            turned = np.ascontiguousarray(np.frombuffer(raw, np.uint32).reshape(shape).T)
            zeros = np.ascontiguousarray(repack((dtype, turned.shape, turned.tobytes()), models.WIDTH).T)
            parts["weight_zero_point"] = ("I32", list(zeros.shape), zeros.tobytes())
        models.write_model(f"{folder}/old", case, parts=parts)
        harness.mpilora("import", f"{folder}/old", f"{folder}/old.h5", "--dtype", "fp32")
        checks.that(hashlib.sha256(weights(f"{folder}/old.h5", case)[2]).hexdigest() == case["sha256"], f"{name}: words of old versions make other weights")
    case = golden["int3 groups"]
    parts = models.parts_of(case)
    groups = {str(bits): {"weights": {"num_bits": bits, "type": "int"}} for bits in (7, 8)}
    parts["weight_packed"] = ("I32", [models.WIDTH, models.MLP // 4], bytes(models.WIDTH * models.MLP))
    models.write_model(f"{folder}/both", case, parts=parts, config=case["config"] | {"config_groups": groups})
    done = harness.start("import", f"{folder}/both", f"{folder}/both.h5")
    checks.that(done.returncode == 3 and "can be read in 2 ways" in done.stderr, f"words that can be read in two ways: exit {done.returncode}: {done.stderr}")


def main():
    with open(f"{harness.SOURCE}/tests/golden/packed.json") as file:
        golden = json.load(file)
    checks.that(len(golden) >= 30, "cases are missing")
    for name, case in golden.items():
        with tempfile.TemporaryDirectory() as folder:
            check_case(folder, name, case)
    seen = set()
    for of, name, known in [(of, *item) for of in (families, encoders) for item in of.golden().items()]:
        kind = name in of.MODELS and of.MODELS[name]["model_type"] + (of.MODELS[name]["architectures"][0] if of is encoders else "")  # an encoder's with its head
        if not kind or kind in seen:
            continue
        seen.add(kind)
        with tempfile.TemporaryDirectory() as folder:
            check_family(folder, of, name, known["tensors"])
    with tempfile.TemporaryDirectory() as folder:
        check_refusals(folder, golden)
        check_tied(folder)
        check_old_words(folder, golden)
    checks.end()
    return 0


sys.exit(main())
