/* A model as GGUF's metadata: the keys of its family's table, the other way round, and rotary
 * scaling. What the format has no word for is found out by reading the description back: it must be
 * the model's own. */
#include <inttypes.h>

#include "store/base/base_private.h"
#include "store/formats/gguf/export.h"
#include "store/formats/gguf/import.h"

static const char frequencies[] = "rope_freqs.weight", long_factors[] = "rope_factors_long.weight",
                  short_factors[] = "rope_factors_short.weight";

ml_status gguf_architecture(const ml_model_spec *spec, const char **out)
{
    *out = spec->family->gguf.architecture;
    if (spec->head != ML_HEAD_LANGUAGE)
        return ml_fail(ML_INPUT,
                       "GGUF is written of models with a head of words alone, not of %s "
                       "models with a head for labels",
                       spec->family->title);
    if (*out && gguf_import_family(*out)) return ML_OK;
    return ml_fail(ML_INPUT, "GGUF has no architecture for %s models", spec->family->title);
}

/* ---- keys ---------------------------------------------------------------------------------- */

typedef struct description {
    gguf_writer *w;
    const ml_model_spec *spec;
    const char *architecture;
} description;

static const char *key_of(const description *d, const char *name, char out[128])
{
    snprintf(out, 128, "%s.%s", d->architecture, name);
    return out;
}

static ml_status put_count(const description *d, const char *name, int64_t value)
{
    char key[128];
    return gguf_put_count(d->w, key_of(d, name, key), value);
}

static ml_status put_real(const description *d, const char *name, double value)
{
    char key[128];
    return gguf_put_real(d->w, key_of(d, name, key), value);
}

/* A real of 0 is the absence of what it says, which no key says. */
static ml_status put_key(const description *d, const ml_family_key *k)
{
    char key[128];
    const char *field = (const char *)d->spec + k->field;
    double real;
    switch (k->kind) {
    case ML_KEY_SIZE:
    case ML_KEY_COUNT:
        return put_count(d, k->key, *(const int64_t *)field);
    case ML_KEY_REAL:
    case ML_KEY_INVERSE:
        real = *(const double *)field;
        if (real == 0.0) return ML_OK;
        return put_real(d, k->key, k->kind == ML_KEY_INVERSE ? 1.0 / real : real);
    case ML_KEY_CHOICE:
        return gguf_put_flag(d->w, key_of(d, k->key, key), *(const int *)field == k->yes);
    default:
        return ML_OK;
    }
}

/* longrope is said by its tensors: llama.cpp would divide positions by a factor of its, too. */
static ml_status put_scaling(const description *d)
{
    ml_status st = ML_OK;
    char key[128];
    const ml_rope_scaling *r = &d->spec->rope_scaling;
    bool by_factor = r->kind == ML_ROPE_LINEAR || r->kind == ML_ROPE_YARN;
    if (by_factor) {
        const char *kind = ml_rope_kind_words[r->kind];
        ML_TRY(gguf_put_text(d->w, key_of(d, "rope.scaling.type", key), kind));
        ML_TRY(put_real(d, "rope.scaling.factor", r->factor));
    }
    if (r->kind == ML_ROPE_YARN || r->kind == ML_ROPE_LONGROPE)
        ML_TRY(put_count(d, "rope.scaling.original_context_length", r->original_context));
    if (r->kind == ML_ROPE_LONGROPE)
        ML_TRY(put_real(d, "rope.scaling.attn_factor", ml_rope_attention_factor(r)));
done:
    return st;
}

static ml_status check_head(const ml_model_spec *spec)
{
    if (spec->tied_head || spec->family->gguf.head != ML_GGUF_HEAD_NEVER) return ML_OK;
    return ml_fail(ML_INPUT,
                   "llama.cpp takes the embedding for the head of %s models; this one's head has "
                   "weights of its own",
                   spec->family->title);
}

ml_status gguf_describe(gguf_writer *w, const ml_model_spec *spec)
{
    ml_status st = ML_OK;
    description d = {w, spec, NULL};
    ML_TRY(gguf_architecture(spec, &d.architecture));
    ML_TRY(check_head(spec));
    ML_TRY(gguf_put_text(w, "general.architecture", d.architecture));
    ML_TRY(gguf_put_text(w, "general.type", "model"));
    ML_TRY(gguf_put_count(w, "general.quantization_version", 2));
    for (const ml_family_key *k = spec->family->gguf.keys; k->key; k++) ML_TRY(put_key(&d, k));
    ML_TRY(put_count(&d, "attention.value_length", spec->head_dim));
    ML_TRY(put_count(&d, "vocab_size", spec->vocab));
    if (spec->positions != ML_POSITIONS_ROTARY) return ML_OK;
    ML_TRY(put_count(&d, "rope.dimension_count", ml_model_rope_width(spec)));
    ML_TRY(put_scaling(&d));
done:
    return st;
}

/* ---- factors of rotary pairs --------------------------------------------------------------- */

ml_status gguf_add_rope_factors(gguf_writer *w, const ml_model_spec *spec)
{
    const ml_block_format *f32 = ml_block_format_of(ML_FP32);
    int64_t pairs = ml_model_rope_width(spec) / 2;
    if (spec->rope_scaling.kind == ML_ROPE_LLAMA3)
        return gguf_add_tensor(w, frequencies, f32, 1, pairs, 1);
    if (spec->rope_scaling.kind != ML_ROPE_LONGROPE) return ML_OK;
    ml_status st = gguf_add_tensor(w, long_factors, f32, 1, pairs, 1);
    return st == ML_OK ? gguf_add_tensor(w, short_factors, f32, 1, pairs, 1) : st;
}

static ml_status put_factors(gguf_writer *w, const char *name, const float *factors)
{
    for (int64_t i = 0; i < w->ntensors; i++)
        if (!strcmp(w->tensors[i].name, name))
            return gguf_put_contents(w, &w->tensors[i], 0, factors, w->tensors[i].bytes);
    return ml_fail(ML_INTERNAL, "%s: not in the table", name);
}

ml_status gguf_put_rope_factors(gguf_writer *w, const ml_model_spec *spec)
{
    const ml_rope_scaling *r = &spec->rope_scaling, none = {0};
    int64_t width = ml_model_rope_width(spec);
    float factor[ML_ROPE_FACTORS];
    if (r->kind == ML_ROPE_LONGROPE) {
        ml_status st = put_factors(w, long_factors, r->long_factor);
        return st == ML_OK ? put_factors(w, short_factors, r->short_factor) : st;
    }
    if (r->kind != ML_ROPE_LLAMA3) return ML_OK;
    for (int64_t i = 0; i < ml_min(width / 2, ML_ROPE_FACTORS); i++)
        factor[i] = (float)(ml_rope_frequency(&none, spec->rope_theta, width, i, false) /
                            ml_rope_frequency(r, spec->rope_theta, width, i, false));
    return put_factors(w, frequencies, factor);
}

/* ---- reading it back ----------------------------------------------------------------------- */

ml_status gguf_check_description(const gguf_writer *w, const ml_model_spec *spec)
{
    ml_status st = ML_OK;
    ml_model_spec read;
    gguf_source g = {.file = {.fd = -1}, .spec = &read};
    ml_text differs = {0};
    ML_TRY(gguf_open(&g.file, w->temporary));
    ml_memory_free(g.file.path); /* errors name what was asked for, not what stands for it now */
    g.file.path = ml_memory_string(w->path);
    if (!g.file.path) {
        st = ML_RESOURCE;
        goto done;
    }
    st = gguf_import_describe(&g, &read);
    if (st != ML_OK) {
        st = ml_fail_within(st, "GGUF cannot say what this %s model is", spec->family->title);
        goto done;
    }
    read.tied_head = spec->tied_head;
    ML_TRY(base_spec_compare(spec, &read, &differs));
    if (differs.length)
        st = ml_fail(ML_INPUT, "GGUF's architecture %s cannot say what this %s model is: %s",
                     g.architecture, spec->family->title, differs.data);
    else
        st = gguf_import_check_tensors(&g);
done:
    gguf_close(&g.file);
    ml_text_destroy(&differs);
    return st;
}
