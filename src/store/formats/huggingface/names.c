/* Names and layouts of Hugging Face's tensors. */
#include <inttypes.h>
#include <stdlib.h>

#include "store/formats/huggingface/huggingface.h"

typedef struct row {
    const char *ours, *theirs;
    int fused; /* 0, 1, 2: the part of c_attn; −1: a tensor of its own */
    bool conv1d;
} row;

static const row gpt2_rows[] = {
    {"norm1", "ln_1", -1, false},        {"attn.q", "attn.c_attn", 0, true},
    {"attn.k", "attn.c_attn", 1, true},  {"attn.v", "attn.c_attn", 2, true},
    {"attn.o", "attn.c_proj", -1, true}, {"norm2", "ln_2", -1, false},
    {"mlp.fc", "mlp.c_fc", -1, true},    {"mlp.proj", "mlp.c_proj", -1, true}};
static const row llama_rows[] = {
    {"norm1", "input_layernorm", -1, false},   {"attn.q", "self_attn.q_proj", -1, false},
    {"attn.k", "self_attn.k_proj", -1, false}, {"attn.v", "self_attn.v_proj", -1, false},
    {"attn.o", "self_attn.o_proj", -1, false}, {"norm2", "post_attention_layernorm", -1, false},
    {"mlp.gate", "mlp.gate_proj", -1, false},  {"mlp.up", "mlp.up_proj", -1, false},
    {"mlp.down", "mlp.down_proj", -1, false}};

const char *hf_prefix(const ml_model_spec *spec)
{
    return spec->family == ML_FAMILY_GPT2 ? "transformer." : "model.";
}

static void place_in_layer(const ml_model_spec *spec, const ml_model_tensor *t, hf_place *out)
{
    bool gpt2 = spec->family == ML_FAMILY_GPT2;
    const row *rows = gpt2 ? gpt2_rows : llama_rows;
    size_t n = gpt2 ? sizeof gpt2_rows / sizeof *gpt2_rows : sizeof llama_rows / sizeof *llama_rows;
    char *word;
    long layer = strtol(t->name + strlen("layers."), &word, 10);
    const char *kind = strrchr(t->name, '.');
    word++;
    for (size_t i = 0; i < n; i++) {
        size_t length = strlen(rows[i].ours);
        if (strncmp(word, rows[i].ours, length) != 0 || word + length != kind) continue;
        snprintf(out->name, sizeof out->name, "%s.%ld.%s%s", gpt2 ? "h" : "layers", layer,
                 rows[i].theirs, kind);
        out->transposed = rows[i].conv1d && !t->vector;
        if (rows[i].fused < 0) return;
        out->first = rows[i].fused * t->rows;
        out->total = 3 * t->rows;
    }
}

void hf_place_of(const ml_model_spec *spec, const ml_model_tensor *t, hf_place *out)
{
    static const struct {
        const char *ours, *gpt2, *llama;
        bool outside;
    } others[] = {{"embed.weight", "wte.weight", "embed_tokens.weight", false},
                  {"position.weight", "wpe.weight", "", false},
                  {"norm.weight", "ln_f.weight", "norm.weight", false},
                  {"norm.bias", "ln_f.bias", "", false},
                  {"head.weight", "lm_head.weight", "lm_head.weight", true}};
    *out = (hf_place){.total = t->rows};
    if (!strncmp(t->name, "layers.", strlen("layers."))) {
        place_in_layer(spec, t, out);
        return;
    }
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        if (strcmp(others[i].ours, t->name) != 0) continue;
        snprintf(out->name, sizeof out->name, "%s",
                 spec->family == ML_FAMILY_GPT2 ? others[i].gpt2 : others[i].llama);
        out->outside = others[i].outside;
    }
}
