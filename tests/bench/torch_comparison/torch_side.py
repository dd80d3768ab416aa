"""The PyTorch side, one process a rank: a specification as first word, then a command a line on standard input, each a JSON object.

The specification is what rows.py and lines.py make: either `family` and `config` (random weights and random tokens), or `directory` (a model that
mpilora exported) with `file`, `batch` and `adapter` (where the fresh adapter goes, for the other side to start from). Commands name a method of Side.
"""

import contextlib
import json
import os
import sys
import time

import peft
import torch
import transformers

NO_DROPOUT = {"attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0}
CLIP_NORM = 1.0


def make_model(spec):
    """Weights in fp32, or in bf16 for the variants that compute in it; PEFT keeps the adapter in fp32 either way."""
    dtype = torch.bfloat16 if spec["variant"].startswith("bf16") else torch.float32
    if "directory" in spec:
        return transformers.AutoModelForCausalLM.from_pretrained(spec["directory"], dtype=dtype, use_cache=False, **NO_DROPOUT)
    torch.set_default_dtype(dtype)  # so that there never is an fp32 copy, which would count in the peak
    dropout = NO_DROPOUT if spec["family"] == "gpt2" else {}
    config = transformers.AutoConfig.for_model(spec["family"], use_cache=False, **dropout, **spec["config"])
    model = transformers.AutoModelForCausalLM.from_config(config)
    torch.set_default_dtype(torch.float32)
    return model


def read_lines(spec):
    """Tokens and labels of every line `meaning representation||text`: the two parts apart, then end-of-text; the loss is on what follows the ||."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(spec["directory"])
    lines = []
    with open(spec["file"], encoding="utf-8") as file:
        for line in file:
            prompt, completion = (tokenizer(part, add_special_tokens=False)["input_ids"] for part in line.rstrip("\n").split("||", 1))
            completion.append(tokenizer.eos_token_id)
            lines.append((prompt + completion, [-100] * len(prompt) + completion))
    return lines


def pad(lines):
    """A batch, padded to its longest line."""
    longest = max(len(ids) for ids, _ in lines)
    return {"input_ids": torch.tensor([ids + [0] * (longest - len(ids)) for ids, _ in lines]),
            "labels": torch.tensor([labels + [-100] * (longest - len(labels)) for _, labels in lines]),
            "attention_mask": torch.tensor([[1] * len(ids) + [0] * (longest - len(ids)) for ids, _ in lines])}


class Side:
    """The model with its adapter and optimizer; every command returns what the answer is to be."""

    def __init__(self, spec, rank):
        torch.set_num_threads(spec["threads"])
        torch.manual_seed(rank)
        self.spec, self.variant = spec, spec["variant"]
        lora = peft.LoraConfig(r=spec["rank"], lora_alpha=spec["alpha"], target_modules=spec["targets"], task_type="CAUSAL_LM",
                               fan_in_fan_out="c_attn" in spec["targets"])
        model = peft.get_peft_model(make_model(spec), lora)
        if "adapter" in spec:
            model.save_pretrained(spec["adapter"], save_embedding_layers=False)
        if self.variant == "checkpoint":
            model.enable_input_require_grads()
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        self.vocab = model.config.vocab_size
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=spec["lr"], weight_decay=spec["weight_decay"])
        self.lines = read_lines(spec) if "file" in spec else []
        self.plain = self.model = model.train()
        if self.variant.endswith("compile"):
            self.model = torch.compile(model)
        elif self.variant == "ddp":
            self.model = torch.nn.parallel.DistributedDataParallel(model)

    def _gradients(self, batch):
        self.optimizer.zero_grad()
        loss = self.model(**batch).loss
        loss.backward()
        return loss.item()

    def _step(self, batch):
        start = time.perf_counter()
        loss = self._gradients(batch)
        torch.nn.utils.clip_grad_norm_(self.parameters, CLIP_NORM)
        self.optimizer.step()
        return time.perf_counter() - start, loss

    def _random(self, sequences, length):
        ids = torch.randint(0, self.vocab, (sequences, length))
        return {"input_ids": ids, "labels": ids}

    def tiny(self, tokens):
        """Seconds of a small step without compilation, the better of two: shows a variant that is hopeless."""
        self.model, whole = self.plain, self.model
        seconds = min(self._step(self._random(1, tokens))[0] for _ in range(2))
        self.model = whole
        return {"seconds": seconds}

    def steps(self, count):
        """Seconds of each of `count` steps of the row's size."""
        return {"seconds": [self._step(self._random(self.spec["sequences"], self.spec["length"]))[0] for _ in range(count)]}

    def warm(self):
        """A pass over the first batch that changes nothing."""
        self._gradients(pad(self.lines[:self.spec["batch"]]))
        return {}

    def batches(self, first, count):
        """Seconds and losses of the batches first … first + count − 1 of the file."""
        size = self.spec["batch"]
        done = [self._step(pad(self.lines[i * size:(i + 1) * size])) for i in range(first, first + count)]
        return {"seconds": [seconds for seconds, _ in done], "losses": [loss for _, loss in done]}


def main():
    spec, rank = json.loads(sys.argv[1]), int(sys.argv[2])
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    with contextlib.redirect_stdout(sys.stderr):  # what libraries print is no answer
        if spec["variant"] == "ddp":
            torch.distributed.init_process_group("gloo", init_method="file://" + spec["meeting"], rank=rank, world_size=spec["ranks"])
        side = Side(spec, rank)
        for line in sys.stdin:
            command = json.loads(line)
            answers.write(json.dumps(getattr(side, command.pop("do"))(**command)) + "\n")
            answers.flush()
        if spec["variant"] == "ddp":
            torch.distributed.destroy_process_group()


main()
