"""The PyTorch side of compare_encoders.py, one process: a specification as first word, then a command a line on standard input, each a JSON object.

The specification has `directory` (an encoder with a head for labels), `file` (lines {"input_ids", "label"}), `variant`, `batch`, `targets` and `threads`; with `make`, a
family and a configuration, the directory is written with random weights instead, and nothing else is done. Commands name a method of Side.
"""

import contextlib
import json
import os
import sys
import time

import peft
import torch
import transformers

RANK, ALPHA, LR, WEIGHT_DECAY, CLIP_NORM = 8, 16, 1e-4, 0.01, 1.0


def make(spec):
    torch.manual_seed(1)
    config = transformers.AutoConfig.for_model(spec["make"]["family"], num_labels=2, **spec["make"]["config"])
    transformers.AutoModelForSequenceClassification.from_config(config).save_pretrained(spec["directory"])


def read_rows(path):
    with open(path, encoding="ascii") as file:
        return [json.loads(line) for line in file]


def peak_of_now():
    """From here on VmHWM is of what comes, not of how the weights were read."""
    with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
        file.write("5")


class Side:
    """The model with its adapter and optimizer; every command returns what the answer is to be."""

    def __init__(self, spec):
        torch.set_num_threads(spec["threads"])
        self.spec, self.rows = spec, read_rows(spec["file"])
        words = spec["variant"].split("-")  # bf16: weights; autocast: fp32 weights, products in bf16
        dtype = torch.bfloat16 if "bf16" in words else torch.float32
        self.autocast = "autocast" in words
        base = transformers.AutoModelForSequenceClassification.from_pretrained(spec["directory"], dtype=dtype)
        for module in base.modules():
            if isinstance(module, torch.nn.Dropout) or type(module).__name__ == "StableDropout":
                module.p = module.drop_prob = 0.0
        self.pad_id = base.config.pad_token_id or 0
        lora = peft.LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=spec["targets"], task_type="SEQ_CLS")
        model = peft.get_peft_model(base, lora).train()
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=LR, weight_decay=WEIGHT_DECAY)
        self.model = torch.compile(model, dynamic=True) if "compile" in words else model
        peak_of_now()

    def _batch(self, number):
        """As transformers' DataCollatorWithPadding makes it: padded to its longest sentence."""
        size = self.spec["batch"]
        rows = self.rows[number * size:(number + 1) * size]
        longest = max(len(row["input_ids"]) for row in rows)
        fill = lambda row, value: [value] * (longest - len(row["input_ids"]))
        return {"input_ids": torch.tensor([row["input_ids"] + fill(row, self.pad_id) for row in rows]),
                "attention_mask": torch.tensor([[1] * len(row["input_ids"]) + fill(row, 0) for row in rows]),
                "labels": torch.tensor([row["label"] for row in rows])}

    def _step(self, number):
        batch, start = self._batch(number), time.perf_counter()
        self.optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.autocast):
            loss = self.model(**batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, CLIP_NORM)
        self.optimizer.step()
        return {"seconds": time.perf_counter() - start, "loss": loss.item()}

    def steps(self, count):
        """Seconds and losses of the first `count` batches."""
        return {"steps": [self._step(number) for number in range(count)]}


def main():
    spec = json.loads(sys.argv[1])
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    with contextlib.redirect_stdout(sys.stderr):  # what libraries print is no answer
        side = make(spec) if "make" in spec else Side(spec)
        for line in sys.stdin:
            command = json.loads(line)
            answers.write(json.dumps(getattr(side, command.pop("do"))(**command) if side else {}) + "\n")
            answers.flush()


main()
