"""What mpilora writes of the tiny encoders of encoder_models.py, other programs read with the same vectors: bases by transformers, adapters by PEFT.
For developers: needs what make_golden.py needs.

    MPILORA=build/mpilora MPILORA_SOURCE_DIR=. venv/bin/python tests/interop/check_encoders.py [NAME]...
"""

import os
import sys
import tempfile

import peft
import torch

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import encoder_models as encoders
import harness
import make_encoder_golden as golden


def compare(checks, label, found, expected):
    found, expected = torch.tensor(found), torch.tensor(expected)
    off = float((found - expected).abs().max() / expected.abs().max())
    checks.that(off < 1e-5, f"{label}: off by {off:.3g}")
    print(f"{label}: {off:.2g}", flush=True)


def check(checks, folder, name, known):
    model, base = f"{folder}/{name}", f"{folder}/{name}.h5"
    encoders.write_model(model, name, known["tensors"])
    encoders.write_adapter(f"{folder}/adapter", name, known["tensors"], "")
    harness.mpilora("import", model, base, "--dtype", "fp32")
    harness.mpilora("export", "--format", "hf", "--base", base, f"{folder}/hf")
    compare(checks, f"{name}: the base that we write, by transformers", golden.vectors(golden.load(f"{folder}/hf"), name)["mean"], known["vectors"]["mean"])
    harness.mpilora("export", "--format", "peft", "--base", base, "--adapter", f"{folder}/adapter", f"{folder}/peft")
    adapted = peft.PeftModel.from_pretrained(golden.load(f"{folder}/hf"), f"{folder}/peft").eval()
    compare(checks, f"{name}: the adapter that we write, by PEFT", golden.vectors(adapted, name)["mean"], known["adapted"])


def main():
    checks = harness.Checks()
    for name in sys.argv[1:] or encoders.MODELS:
        with tempfile.TemporaryDirectory() as folder:
            check(checks, folder, name, encoders.golden()[name])
    checks.end()


main()
