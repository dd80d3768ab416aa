"""Makes tests/golden/encoders.json: names and shapes of the tensors, and the vectors of the texts of encoder_models.py, by transformers and PEFT in fp32.
For developers; needs what make_golden.py needs. Names of models as words: only these are made anew.
"""

import json
import os
import sys
import tempfile

import peft
import torch
import transformers

import encoder_models as encoders


def shapes_of(name):
    config = transformers.AutoConfig.for_model(**encoders.MODELS[name])
    with torch.device("meta"):
        model = getattr(transformers, encoders.MODELS[name]["architectures"][0])(config)
    tied = ("cls.predictions.decoder.weight", "cls.predictions.decoder.bias", "decoder.weight")
    return {key: list(value.shape) for key, value in model.state_dict().items() if key not in tied and not key.endswith("position_ids")}


def load(directory):
    model, report = transformers.AutoModel.from_pretrained(directory, dtype=torch.float32, attn_implementation="eager", output_loading_info=True)
    assert all("pooler" in key for key in report["missing_keys"]), report
    return model.eval()


def hidden(model, name, text):
    ids, types = encoders.encoded(name, text)
    words = {"token_type_ids": torch.tensor([types])} if "type_vocab_size" in encoders.MODELS[name] else {}
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids]), **words).last_hidden_state[0]


def vectors(model, name):
    states = [hidden(model, name, text) for text in encoders.TEXTS]
    pooled = {"mean": [h.mean(0) for h in states], "cls": [h[0] for h in states], "last": [h[-1] for h in states]}
    return {pooling: [[float(f"{x:.7g}") for x in vector.tolist()] for vector in of] for pooling, of in pooled.items()}


def make(name):
    shapes = shapes_of(name)
    with tempfile.TemporaryDirectory() as folder:
        encoders.write_model(f"{folder}/model", name, shapes)
        made = {"tensors": shapes, "vectors": vectors(load(f"{folder}/model"), name)}
        encoders.write_adapter(f"{folder}/adapter", name, shapes, "")
        adapted = peft.PeftModel.from_pretrained(load(f"{folder}/model"), f"{folder}/adapter").eval()
        made["adapted"] = vectors(adapted, name)["mean"]
    print(name, len(shapes), made["vectors"]["mean"][0][:3], made["adapted"][0][:3])
    return made


def main():
    names = sys.argv[1:] or list(encoders.MODELS)
    made = encoders.golden() if os.path.exists(encoders.GOLDEN) else {}
    made |= {name: make(name) for name in names}
    with open(encoders.GOLDEN, "w") as file:
        file.write("{\n" + ",\n".join(f'"{name}": {json.dumps(value)}' for name, value in made.items()) + "\n}\n")


if __name__ == "__main__":
    main()
