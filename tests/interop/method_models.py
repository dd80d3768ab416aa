"""The methods beside LoRA and full fine-tuning, written for PyTorch's models of transformers: independent of mpilora's, by the papers' formulas. What they start from is
method_cases.py's."""

import peft
import torch

import method_cases as cases
import reference_models as reference


def parameter(values, *shape):
    return torch.nn.Parameter(torch.tensor(values, dtype=torch.float32).reshape(shape))


def layers_of(model):
    return model.transformer.h if hasattr(model, "transformer") else model.model.layers


def width_of(model):
    return model.get_input_embeddings().weight.shape[1]


class Bottleneck(torch.nn.Module):
    def __init__(self, place, d, r, norm_eps=None):
        super().__init__()
        self.down, self.down_bias = parameter(cases.uniform(f"{place}.down.weight", r, d), r, d), parameter([0.0] * r, r)
        self.up, self.up_bias = parameter([0.0] * d * r, d, r), parameter([0.0] * d, d)
        self.norm = torch.nn.LayerNorm(d, eps=norm_eps) if norm_eps else torch.nn.Identity()

    def matrices(self):
        return self.down, self.up

    def forward(self, y):
        down, up = self.matrices()
        h = torch.nn.functional.gelu(self.norm(y) @ down.T + self.down_bias, approximate="tanh")
        return y + h @ up.T + self.up_bias


class Compact(Bottleneck):
    def __init__(self, place, d, r, n, rule):
        super().__init__(place, d, r)
        del self.down, self.up
        self.n, self.rule = n, rule
        self.down_left = parameter(cases.uniform(f"{place}.down.left", n, r // n), n, r // n)
        self.down_right = parameter(cases.uniform(f"{place}.down.right", n, d // n), n, d // n)
        self.up_left = parameter([0.0] * d, n, d // n)
        self.up_right = parameter(cases.uniform(f"{place}.up.right", n, r // n), n, r // n)

    def matrices(self):
        def made(left, right):
            return sum(torch.kron(self.rule[i], torch.outer(left[i], right[i])) for i in range(self.n))

        return made(self.down_left, self.down_right), made(self.up_left, self.up_right)


def add_bottlenecks(model, case):
    sizes, d, trained = case["sizes"], width_of(model), []
    r, method = sizes["bottleneck"], case["method"]
    rule = None
    if method == "compacter":
        n = sizes["factors"]
        rule = parameter(cases.uniform("compacter.rule", n * n, n), n, n, n)
        trained.append(rule)
    for index, layer in enumerate(layers_of(model)):
        attention = layer.attn.c_proj if hasattr(layer, "attn") else layer.self_attn.o_proj
        mlp = layer.mlp.c_proj if hasattr(layer, "attn") else layer.mlp.down_proj
        for part, module in (("attn", attention), ("mlp", mlp)):
            if index < sizes.get("drop", 0) or (part == "attn" and method not in ("adapter_h", "compacter")):
                continue
            place = f"layers.{index}.{part}.adapter"
            adapter = Compact(place, d, r, n, rule) if rule is not None else Bottleneck(place, d, r, 1e-5 if method == "adapter_l" else None)
            module.register_forward_hook(lambda _module, _inputs, y, adapter=adapter: adapter(y))
            trained += [p for p in adapter.parameters() if p is not rule]
    return trained


class Virtual(torch.nn.Module):
    """The model with virtual tokens: logits of the true tokens' places, that of token t where token t + 1 is predicted."""

    def __init__(self, model, inner, case):
        super().__init__()
        self.model, self.prefix, self.infix = model, case["sizes"]["prefix"], case["sizes"]["infix"]
        d, count, layers = width_of(inner), self.prefix + self.infix, layers_of(inner)
        levels = len(layers) if case["method"].endswith("prefix_layer") else 1
        if case["prefix_init"] == "random":
            values = [cases.normal("embed.prefix" if level == 0 else f"layers.{level}.prefix", count, d, 0.02) for level in range(levels)]
        else:
            words = torch.tensor([cases.start_tokens(case, inner.config.vocab_size)])
            with torch.no_grad():
                states = inner(input_ids=words, output_hidden_states=True).hidden_states  # the embedding's output, with positions, and each layer's
                values = [inner.get_input_embeddings()(words)[0].tolist(), *(x[0].tolist() for x in states[1:levels])]
        self.value = torch.nn.ParameterList(parameter(x, count, d) for x in values)
        self.embed, self.places = inner.get_input_embeddings(), None
        for level in range(1, levels):
            layers[level - 1].register_forward_hook(lambda _module, _inputs, out, level=level: self.replace(out, level))

    def replace(self, out, level):
        x = (out[0] if isinstance(out, tuple) else out).clone()
        x[:, self.places] = self.value[level]
        return (x, *out[1:]) if isinstance(out, tuple) else x

    def forward(self, input_ids, labels):
        """labels: of the sequence, to find where its prompt ends."""
        targets = [i for i in range(1, len(labels)) if labels[i] != -100]
        prompt = targets[0]
        words = self.embed(input_ids[0])
        x = torch.cat([self.value[0][: self.prefix], words[:prompt], self.value[0][self.prefix :], words[prompt:]])
        self.places = list(range(self.prefix)) + list(range(self.prefix + prompt, self.prefix + prompt + self.infix))
        logits = self.model(inputs_embeds=x[None]).logits[0]
        before = [self.prefix + i + (self.infix if i >= prompt else 0) - 1 for i in range(1, len(labels))]
        return logits[before]


def add_keys(model, case):
    """PEFT's prefix tuning, from mpilora's initial keys and values: a row of PEFT's matrix has a token's key and value of every layer, one after the other."""
    count, config = case["sizes"]["prefix"], model.config
    heads = getattr(config, "num_key_value_heads", config.num_attention_heads)
    width = heads * (getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)
    if case["prefix_init"] == "random":
        names = [f"layers.{layer}.prefix_{part}" for layer in range(len(layers_of(model))) for part in ("key", "value")]
        values = [torch.tensor(cases.normal(name, count, width, 0.02)).reshape(count, width) for name in names]
    else:
        cache = model(input_ids=torch.tensor([cases.start_tokens(case, config.vocab_size)]), use_cache=True).past_key_values
        values = [x[0].transpose(0, 1).reshape(count, width).detach() for layer in cache.layers for x in (layer.keys, layer.values)]
    wrapped = peft.get_peft_model(model, peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=count))
    wrapped.prompt_encoder["default"].embedding.weight.data = torch.cat(values, dim=1)
    return wrapped


def add_lora(model, case):
    """PEFT's, from mpilora's initial A."""
    gpt2 = reference.MODELS[case["model"]]["model_type"] == "gpt2"
    config = peft.LoraConfig(r=case["rank"], lora_alpha=case["alpha"], target_modules=reference.adapted_modules(case), fan_in_fan_out=gpt2)
    wrapped = peft.get_peft_model(model, config)
    for name, value in wrapped.named_parameters():
        if "lora_A" in name:
            layer, target = (word for word in name.split(".") if word.isdigit() or word in ("c_attn", "q_proj", "v_proj"))
            site = {"c_attn": "qkv", "q_proj": "q", "v_proj": "v"}[target]
            value.data = parameter(cases.uniform(f"layers.{layer}.attn.{site}.lora_A", *value.shape), *value.shape).data
    return wrapped


def prepare(model, case):
    """(a function of input_ids and labels that gives the logits before each token after the first, the trained parameters)"""
    for value in model.parameters():
        value.requires_grad = False
    method, trained = case["method"], []
    plain = lambda ids, labels: model(input_ids=ids).logits[0, :-1]
    if method == "top":
        trained = [p for layer in list(layers_of(model))[-case["sizes"]["top"] :] for p in layer.parameters()]
    elif method == "bitfit":
        for module in model.modules():
            if case["sizes"].get("new_biases") and isinstance(module, torch.nn.Linear) and module is not model.lm_head and module.bias is None:
                module.bias = parameter([0.0] * module.out_features, module.out_features)
        trained = [p for name, p in model.named_parameters() if name.endswith("bias")]
    elif method == "prefix_kv":
        wrapped = add_keys(model, case)
        trained = list(wrapped.prompt_encoder.parameters())
        plain = lambda ids, labels: wrapped(input_ids=ids).logits[0, :-1]
    elif "prefix" in method:
        wrapped = add_lora(model, case) if method.startswith("lora+") else model
        virtual = Virtual(wrapped, model, case)
        trained = [p for name, p in virtual.named_parameters() if "lora_" in name or name.startswith("value.")]
        plain = virtual
    else:
        trained = add_bottlenecks(model, case)
    for value in trained:
        value.requires_grad = True
    return plain, trained
