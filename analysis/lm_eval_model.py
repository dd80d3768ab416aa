#!/usr/bin/env python3
"""lm-evaluation-harness on a base of mpilora, with or without an adapter.

    python3 analysis/lm_eval_model.py --model mpilora --model_args base=base.h5,tokenizer=MODEL_DIR,adapter=runs/mine/adapter.h5 --tasks TASK[,TASK]

The arguments are those of lm_eval itself (the package lm_eval and transformers are needed, for the tokenizer alone). model_args: base; tokenizer, the directory that the
base was imported from; adapter (adapter.h5 or a PEFT directory; none: the base); program (mpilora); launcher ("mpirun -n 4"); precision (bf16, fp32); batch
(prompts at a time); max_length (the model's context); max_gen_toks (256); add_bos_token (true, false; else as the tokenizer does). Tokens go to `mpilora generate --prompts`
as they are, with --logprobs --echo, so scores are what lm_eval's own "hf" model gives; generation is greedy unless a task samples.
"""

import json
import math
import shlex
import subprocess
import sys
import tempfile

try:
    import transformers
    from lm_eval import utils
    from lm_eval.api.model import TemplateLM
    from lm_eval.api.registry import register_model
    from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs, postprocess_generated_text
except ImportError as missing:
    sys.exit(f"lm_eval_model.py: {missing} (PyPI: lm_eval, transformers)")


def truth(value):
    return value if value is None or isinstance(value, bool) else str(value).lower() == "true"


@register_model("mpilora")
class Mpilora(TemplateLM):
    def __init__(self, base, tokenizer, adapter=None, program="mpilora", launcher="", precision="bf16", batch=32, max_length=None, max_gen_toks=256, add_bos_token=None, **_):
        super().__init__()
        self.base, self.adapter, self.precision, self.batch = base, adapter, precision, int(batch)
        self.command = [*shlex.split(launcher), program]
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(tokenizer)
        self.add_bos_token, self.max_gen_toks = truth(add_bos_token), int(max_gen_toks)
        described = subprocess.run([program, "inspect", base, "--json"], check=True, capture_output=True, text=True)
        context = json.loads(described.stdout)["architecture"]["context"]
        self.max_length = min(int(max_length), context) if max_length else context

    # ---- tokens -----------------------------------------------------------------------------------------------------------

    @property
    def eot_token_id(self):
        return self.tokenizer.eos_token_id

    @property
    def prefix_token_id(self):
        return self.tokenizer.eos_token_id if self.tokenizer.bos_token_id is None else self.tokenizer.bos_token_id

    @property
    def tokenizer_name(self):
        return self.tokenizer.name_or_path.replace("/", "__")

    def apply_chat_template(self, chat_history, add_generation_prompt=True):
        return self.tokenizer.apply_chat_template(chat_history, tokenize=False, add_generation_prompt=add_generation_prompt, continue_final_message=not add_generation_prompt)

    def tok_encode(self, string, add_special_tokens=None, **_):
        """A text that begins with the token that begins texts gets no second one."""
        begins = string.startswith(self.tokenizer.decode(self.prefix_token_id))
        wanted = add_special_tokens if add_special_tokens is not None else False if begins else self.add_bos_token
        return self.tokenizer.encode(string, **({} if wanted is None else {"add_special_tokens": wanted}))

    # ---- mpilora ----------------------------------------------------------------------------------------------------------

    def generate(self, prompts, *words):
        """The JSON object of each list of tokens."""
        if not prompts:
            return []
        with tempfile.TemporaryDirectory() as folder:
            with open(f"{folder}/prompts.jsonl", "w", encoding="utf-8") as file:
                for ids in prompts:
                    file.write(json.dumps({"prompt_ids": ids}) + "\n")
            out = f"{folder}/out.jsonl"
            named = ["--adapter", self.adapter] if self.adapter else []
            call = [*self.command, "generate", "--base", self.base, *named, "--prompts", f"{folder}/prompts.jsonl", "--out", out, "--precision", self.precision, "--batch", self.batch, *words]
            done = subprocess.run(list(map(str, call)), capture_output=True, text=True)
            if done.returncode:
                raise RuntimeError(f"{shlex.join(map(str, call))} ended with {done.returncode}: {done.stderr.strip()}")
            with open(out, encoding="utf-8") as file:
                return [json.loads(line) for line in file]

    def _loglikelihood_tokens(self, requests, **_):
        """(sum of log p of the continuation, whether each of its tokens is the most probable one); what is too long loses its left end."""
        sequences = [(context + continuation)[-(self.max_length + 1) :] for _, context, continuation in requests]
        scores = []
        for (_, _, continuation), found in zip(requests, self.generate(sequences, "--max-new", 0, "--echo", "--logprobs", 1)):
            count = min(len(continuation), len(found["logprobs"]["tokens"]) - 1)
            tokens, values, best = (found["logprobs"][key][-count:] if count else [] for key in ("tokens", "logprobs", "top"))
            scores.append((math.fsum(values), all(token == top[0][0] for token, top in zip(tokens, best))))
        return scores

    def loglikelihood_rolling(self, requests, disable_tqdm=False):
        windows, owner = [], []
        for number, request in enumerate(requests):
            pieces = utils.get_rolling_token_windows(self.tok_encode(request.args[0]), self.prefix_token_id, self.max_length, 1)
            for context, continuation in map(utils.make_disjoint_window, pieces):
                windows.append((None, context, continuation))
                owner.append(number)
        totals = [0.0] * len(requests)
        for number, (score, _) in zip(owner, self._loglikelihood_tokens(windows)):
            totals[number] += score
        return totals

    def generate_until(self, requests, disable_tqdm=False):
        """Requests of the same settings together; the text is cut at the first of the stops, the end of text among them."""
        answers, groups = [None] * len(requests), {}
        for number, request in enumerate(requests):
            groups.setdefault(json.dumps(request.args[1], sort_keys=True), []).append(number)
        end = self.tokenizer.decode(self.eot_token_id)
        for settings, numbers in groups.items():
            kwargs = normalize_gen_kwargs(json.loads(settings), self.max_gen_toks)
            stops, new = handle_stop_sequences(kwargs.get("until"), eos=end), kwargs["max_gen_toks"]
            if new >= self.max_length:
                raise ValueError(f"max_gen_toks {new}: the model's context is {self.max_length}")
            words = ["--max-new", new, "--logprobs", 0]
            if kwargs.get("do_sample") and kwargs.get("temperature", 1.0) > 0:
                words += ["--temperature", kwargs.get("temperature", 1.0), "--top-k", kwargs.get("top_k", 50), "--top-p", kwargs.get("top_p", 1.0)]
            prompts = [self.tok_encode(requests[number].args[0])[-(self.max_length - new) :] for number in numbers]
            for number, found in zip(numbers, self.generate(prompts, *words)):
                text = self.tokenizer.decode(found["logprobs"]["tokens"])
                answers[number] = postprocess_generated_text(text, stops, None)
        return answers


if __name__ == "__main__":
    from lm_eval.__main__ import cli_evaluate

    cli_evaluate()
