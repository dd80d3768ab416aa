"""Makes tests/golden/beams.json: transformers' beam search with length penalties and without repeated n-grams, on the tiny random GPT-2 of the shared data. For developers.

    python3 make_beams_golden.py FOLDER_OF_TINY_RANDOM_GPT2
"""

import json
import os
import sys

import torch
import transformers

GOLDEN = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "golden", "beams.json")
PROMPTS = ([31, 373, 12, 990, 5], [7, 7, 8, 7, 7], [500, 2, 81])
SETTINGS = ({"num_beams": 4, "length_penalty": 0.8}, {"num_beams": 10, "length_penalty": 0.9, "no_repeat_ngram_size": 4}, {"num_beams": 3, "length_penalty": 2.0, "no_repeat_ngram_size": 2},
            {"num_beams": 5, "length_penalty": -1.0}, {"num_beams": 1, "no_repeat_ngram_size": 2}, {"num_beams": 1, "no_repeat_ngram_size": 1})


def main():
    model = transformers.AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32).eval()
    cases = []
    for prompt in PROMPTS:
        plain = model.generate(torch.tensor([prompt]), max_new_tokens=16, do_sample=False, num_beams=4, eos_token_id=None, pad_token_id=0)[0].tolist()
        ends = {plain[len(prompt) + 3], plain[-1]}
        likely = model(torch.tensor([prompt])).logits[0, -1].topk(12).indices[2:].tolist()  # ends that many beams meet at once
        for settings in SETTINGS:
            for end in (None, *sorted(ends), likely):
                out = model.generate(torch.tensor([prompt]), max_new_tokens=16, do_sample=False, eos_token_id=end, pad_token_id=0, **settings)[0].tolist()[len(prompt) :]
                stops = end if isinstance(end, list) else [end]
                out = out[: next((i for i, token in enumerate(out) if token in stops), len(out))]
                cases.append({"prompt": prompt, "end": -1 if end is None else end, **settings, "expected": out})
    with open(GOLDEN, "w") as file:
        json.dump(cases, file)
        file.write("\n")
    print(len(cases), "cases")


main()
