"""Makes tests/golden/family_ends.json: losses and steps of method full of the models of family_models.py whose families have only tied or only untied
ends there, with the other ends, by transformers in fp32. For developers; needs what make_golden.py needs."""

import json
import os
import tempfile

import torch
import transformers

import family_models as families
import make_golden
import reference_models as reference
import torch_side


def load(directory, name):
    kind = getattr(transformers, (families.MODELS | reference.MODELS)[name]["architectures"][0])
    model, report = kind.from_pretrained(directory, dtype=torch.float32, attn_implementation="eager", output_loading_info=True)
    assert not report["unexpected_keys"] and not report["missing_keys"], report
    return model.eval()


def make(name):
    with tempfile.TemporaryDirectory() as folder:
        directory = os.path.join(folder, "model")
        families.write_other_ends(directory, name, families.golden())
        model = load(directory, name)
        tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
        made = {"tied": tied, "base_loss": torch_side.evaluate(model, families.ENDS_CASE["max_len"])}
        made |= make_golden.curve(model, families.ENDS_CASE, families.ENDS_CASE["steps"], make_golden.adamw)
    print(f"{name}: {made}")
    return made


def main():
    made = {name: make(name) for name in families.ENDS}
    with open(families.ENDS_GOLDEN, "w") as file:
        file.write("{\n" + ",\n".join(f'"{name}": {json.dumps(value)}' for name, value in made.items()) + "\n}\n")


if __name__ == "__main__":
    main()
