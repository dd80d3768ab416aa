"""mpilora analyze against NumPy: singular values of W to 1e-10 relative, and phi, norms, projections and factors of matrices that NumPy forms whole, on one rank and on
four. Skipped without NumPy."""
import json
import os
import sys
import tempfile

sys.path.insert(0, os.path.join(os.environ["MPILORA_SOURCE_DIR"], "tests"))
from harness import Checks, make_peft, mpilora, write_config, write_safetensors  # noqa: E402

try:
    import numpy as np
except ImportError:
    print("NumPy is not there: skipped")
    sys.exit(77)

WIDTH, MLP, HEADS, KV, LAYERS = 96, 200, 6, 2, 2
SHAPES = {"self_attn.q_proj": (WIDTH, WIDTH), "self_attn.k_proj": (32, WIDTH), "self_attn.v_proj": (32, WIDTH), "self_attn.o_proj": (WIDTH, WIDTH),
          "mlp.gate_proj": (MLP, WIDTH), "mlp.up_proj": (MLP, WIDTH), "mlp.down_proj": (WIDTH, MLP)}
SITES = {"attn.q": "self_attn.q_proj", "mlp.down": "mlp.down_proj", "mlp.up": "mlp.up_proj", "attn.v": "self_attn.v_proj"}
random = np.random.default_rng(7)


def stored(values):
    """As the harness writes it."""
    return values.shape, values.astype("<f4").tobytes()


def make_model(folder):
    """A Hugging Face directory of random weights, whose singular values fall off; imported as fp32."""
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": WIDTH, "intermediate_size": MLP, "num_hidden_layers": LAYERS,
              "num_attention_heads": HEADS, "num_key_value_heads": KV, "vocab_size": 64, "max_position_embeddings": 64, "rms_norm_eps": 1e-5,
              "hidden_act": "silu", "tie_word_embeddings": True, "rope_theta": 10000.0, "torch_dtype": "float32"}
    tensors = {"model.embed_tokens.weight": random.normal(size=(64, WIDTH)), "model.norm.weight": np.ones(WIDTH)}
    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}"
        for norm in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"{prefix}.{norm}.weight"] = np.ones(WIDTH)
        for module, (out, width) in SHAPES.items():
            u, v = np.linalg.qr(random.normal(size=(out, out)))[0], np.linalg.qr(random.normal(size=(width, width)))[0]
            k = min(out, width)
            tensors[f"{prefix}.{module}.weight"] = (u[:, :k] * np.exp(-np.arange(k) / 20.0)) @ v[:k]
    tensors = {name: np.asarray(values, dtype=np.float32) for name, values in tensors.items()}
    os.makedirs(f"{folder}/hf")
    write_config(f"{folder}/hf/config.json", **config)
    write_safetensors(f"{folder}/hf/model.safetensors", {name: stored(values) for name, values in tensors.items()})
    mpilora("import", f"{folder}/hf", f"{folder}/base.h5", "--dtype", "fp32")
    return tensors


def make_adapter(folder, name, rank, alpha):
    """A PEFT directory; A and B by site."""
    factors, modules = {}, {}
    for layer in range(LAYERS):
        for site, module in SITES.items():
            out, width = SHAPES[module]
            a = random.normal(size=(rank, width)).astype(np.float32)
            b = (random.normal(size=(out, rank)) * np.exp(-np.arange(rank))).astype(np.float32)
            factors[f"layers.{layer}.{site}"] = (a.astype(float), b.astype(float), alpha / rank)
            modules[f"model.layers.{layer}.{module}"] = (stored(a), stored(b))
    make_peft(f"{folder}/{name}", rank, alpha, modules)
    return factors


def similarity(u, v):
    """Columns of u and v."""
    sums = ((u.T @ v) ** 2).cumsum(0).cumsum(1)
    i, j = np.indices(sums.shape) + 1
    return sums / np.minimum(i, j)


def close(check, what, found, expected, scale):
    worst = np.abs(np.asarray(found) - np.asarray(expected)).max() / scale
    check.that(worst <= 1e-10, f"{what}: off by {worst:.3g} relative")


def weight_at(tensors, site):
    layer, kind = site.split(".")[1], ".".join(site.split(".")[2:])
    return tensors[f"model.layers.{layer}.{SITES[kind]}.weight"].astype(float)


def check_study(check, folder, tensors, first, second, ranks):
    base, adapters = ("--base", f"{folder}/base.h5", "--json"), (f"{folder}/first", f"{folder}/second")

    def analyze(*words):
        return json.loads(mpilora("analyze", *words, *base, ranks=ranks))["sites"]

    spectra = {s["site"]: s for s in analyze("spectrum", "--adapter", adapters[0])}
    check.that(set(spectra) == set(first), f"sites {sorted(spectra)}")
    amplified = {s["site"]: s for s in analyze("amplification", adapters[0], "--rank", "2")}
    phi = {of: {s["site"]: s["phi"] for s in analyze("subspace", *adapters, "--of", of)} for of in ("A", "B", "left", "right")}
    for site, (a, b, scale) in first.items():
        w, delta = weight_at(tensors, site), scale * b @ a
        other_a, other_b, _ = second[site]
        sigma, small = np.linalg.svd(w, compute_uv=False), np.linalg.svd(delta, compute_uv=False)
        close(check, f"{site}: singular values of W", spectra[site]["weight"], sigma, sigma[0])
        check.that(np.abs(np.asarray(spectra[site]["weight"])[:40] / sigma[:40] - 1).max() < 1e-10, f"{site}: singular values of W, each by itself")
        close(check, f"{site}: singular values of dW", spectra[site]["delta"], small[: len(a)], small[0])
        u, _, vt = np.linalg.svd(delta)
        wu, _, wv = np.linalg.svd(w)
        expected = {"weight_norm": np.linalg.norm(w), "delta_norm": np.linalg.norm(delta), "projected_on_delta": np.linalg.norm(u[:, :2].T @ w @ vt[:2].T),
                    "projected_on_weight": np.linalg.norm(wu[:, :2].T @ w @ wv[:2].T)}
        expected["amplification"] = expected["delta_norm"] / expected["projected_on_delta"]
        for key, value in expected.items():
            close(check, f"{site}: {key}", amplified[site][key], value, value)
        ou, _, ov = np.linalg.svd(other_b @ other_a)
        r, s = len(a), len(other_a)
        pairs = {"A": (np.linalg.svd(a)[2][:r].T, np.linalg.svd(other_a)[2][:s].T), "B": (np.linalg.svd(b)[0][:, :r], np.linalg.svd(other_b)[0][:, :s]),
                 "left": (u[:, :r], ou[:, :s]), "right": (vt[:r].T, ov[:s].T)}
        for of, (x, y) in pairs.items():
            close(check, f"{site}: phi of {of}", phi[of][site], similarity(x, y), 1.0)


def main():
    check = Checks()
    with tempfile.TemporaryDirectory() as folder:
        tensors = make_model(folder)
        first, second = make_adapter(folder, "first", 4, 8), make_adapter(folder, "second", 9, 9)
        for ranks in (0, 4):
            check_study(check, folder, tensors, first, second, ranks)
    check.end()


main()
