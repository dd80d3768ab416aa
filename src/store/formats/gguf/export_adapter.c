/* A LoRA adapter as llama.cpp's file. It has one alpha for all and takes the rank from B, so the
 * scale of a tensor is alpha over the rank that it has in the file; B makes up for the rest. */
#include <inttypes.h>

#include "mpilora/export.h"
#include "store/formats/gguf/export.h"

/* All pairs of one stored tensor, as one. */
typedef struct fused {
    ml_stored_place place;
    int64_t rank, in, filled; /* ranks that have their factors */
    int64_t first, behind;    /* in the writer's table: A, B */
    float *a, *b;             /* [rank, in], [place.total, rank] */
} fused;

typedef struct export
{
    const ml_adapter *adapter;
    const ml_model_spec *spec;
    gguf_writer w;
    double alpha;
    int64_t count;
    fused *list;
}
export;

/* ---- what cannot be said ------------------------------------------------------------------- */

static ml_status refuse(const char *what)
{
    return ml_fail(ML_USAGE,
                   "a GGUF adapter cannot say %s: export the merged model (--merge) in its place",
                   what);
}

static ml_status check_pair(const export *e, const ml_adapter_pair *pair)
{
    int64_t layer;
    const ml_family_tensor *row = ml_module_parse(e->spec, pair->module, &layer);
    bool tied = e->spec->tied_head || e->spec->family->gguf.head == ML_GGUF_HEAD_NEVER;
    if (pair->m) return refuse("DoRA's magnitudes");
    if (row->role == ML_ROLE_EMBED) return refuse("a pair of the embedding");
    if (row->role == ML_ROLE_HEAD && tied)
        return refuse("a pair of a tied head, which is the embedding too");
    return ML_OK;
}

/* What stands outside the model goes into no file of llama.cpp's, merged or not. */
static bool is_mergeable(ml_method method)
{
    return method == ML_METHOD_LORA || method == ML_METHOD_TOP || method == ML_METHOD_BITFIT;
}

static ml_status check(const export *e)
{
    ml_status st = ML_OK;
    char what[160];
    if (!is_mergeable(e->adapter->method))
        return ml_fail(ML_USAGE,
                       "no GGUF file can say what method %s trains; lora, top and bitfit go out, "
                       "lora also as an adapter",
                       ml_method_name(e->adapter->method));
    for (int64_t i = 0; i < e->adapter->ntensors; i++)
        if (!strncmp(e->adapter->tensors[i].name, "score.", strlen("score.")))
            return ml_fail(ML_USAGE, "no GGUF file can say the adapter's head for labels; export "
                                     "it with --format peft");
    if (e->adapter->method != ML_METHOD_LORA) {
        snprintf(what, sizeof what, "what method %s trains", ml_method_name(e->adapter->method));
        return refuse(what);
    }
    if (e->adapter->ntensors > 0) {
        snprintf(what, sizeof what, "tensors that were trained as a whole (%s)",
                 e->adapter->tensors[0].name);
        return refuse(what);
    }
    if (e->adapter->count == 0)
        return ml_fail(ML_INPUT, "the adapter has no pairs: nothing to export");
    for (int64_t i = 0; i < e->adapter->count; i++) ML_TRY(check_pair(e, &e->adapter->pairs[i]));
done:
    return st;
}

/* ---- pairs to tensors ---------------------------------------------------------------------- */

static void place_of(const export *e, const ml_adapter_pair *pair, ml_stored_place *out)
{
    ml_model_tensor tensor = {0};
    tensor.row = ml_module_parse(e->spec, pair->module, &tensor.layer);
    ml_stored_place_of(e->spec, &tensor, ML_FORMAT_GGUF, out);
}

static fused *find(const export *e, const char *name)
{
    for (int64_t i = e->count - 1; i >= 0; i--)
        if (!strcmp(e->list[i].place.name, name)) return &e->list[i];
    return NULL;
}

static ml_status collect(export *e)
{
    ml_status st = ML_OK;
    ML_NEW(e->list, e->adapter->count, ML_MEM_OTHER, "an exported adapter");
    for (int64_t i = 0; i < e->adapter->count; i++) {
        const ml_adapter_pair *pair = &e->adapter->pairs[i];
        ml_stored_place place;
        place_of(e, pair, &place);
        fused *f = find(e, place.name);
        if (!f) {
            f = &e->list[e->count++];
            f->place = place;
            f->in = pair->in;
        }
        f->rank += pair->rank;
    }
    for (int64_t i = 0; i < e->count; i++) {
        fused *f = &e->list[i];
        ML_NEW(f->a, f->rank * f->in, ML_MEM_OTHER, "an exported adapter");
        ML_NEW(f->b, f->place.total * f->rank, ML_MEM_OTHER, "an exported adapter");
    }
done:
    return st;
}

static void fill_factors(const export *e)
{
    for (int64_t i = 0; i < e->adapter->count; i++) {
        const ml_adapter_pair *pair = &e->adapter->pairs[i];
        ml_stored_place place;
        place_of(e, pair, &place);
        fused *f = find(e, place.name);
        double file = e->alpha / (double)f->rank, own = (double)pair->scale;
        float factor = (float)file == pair->scale ? 1.0F : (float)(own / file);
        memcpy(f->a + f->filled * f->in, pair->a, (size_t)(pair->rank * f->in) * sizeof *f->a);
        for (int64_t o = 0; o < pair->out; o++)
            for (int64_t j = 0; j < pair->rank; j++)
                f->b[ml_stored_row(&place, o) * f->rank + f->filled + j] =
                    factor * pair->b[o * pair->rank + j];
        f->filled += pair->rank;
    }
}

static ml_status fuse(export *e)
{
    ml_status st = collect(e);
    if (st != ML_OK) return st;
    const ml_adapter_pair *lead = &e->adapter->pairs[0];
    double scale = e->adapter->rslora ? (double)lead->scale : lead->alpha / (double)lead->rank;
    if (scale == 0.0) scale = 1.0; /* llama.cpp takes an alpha of 0 for none */
    e->alpha = scale * (double)e->list[0].rank;
    fill_factors(e);
    return ML_OK;
}

/* ---- the file ------------------------------------------------------------------------------ */

static ml_status add_factor(export *e, const fused *f, const char *ending, int64_t rows,
                            int64_t cols, int64_t *number)
{
    char name[160];
    *number = e->w.ntensors;
    snprintf(name, sizeof name, "%s.%s", f->place.name, ending);
    return gguf_add_tensor(&e->w, name, ml_block_format_of(ML_FP32), rows, cols, 2);
}

static ml_status fill(export *e)
{
    ml_status st = ML_OK;
    const char *architecture;
    ML_TRY(gguf_architecture(e->spec, &architecture));
    ML_TRY(gguf_put_text(&e->w, "general.type", "adapter"));
    ML_TRY(gguf_put_text(&e->w, "general.architecture", architecture));
    ML_TRY(gguf_put_text(&e->w, "adapter.type", "lora"));
    ML_TRY(gguf_put_real(&e->w, "adapter.lora.alpha", e->alpha));
    for (int64_t i = 0; i < e->count; i++) {
        fused *f = &e->list[i];
        ML_TRY(add_factor(e, f, "lora_a", f->rank, f->in, &f->first));
        ML_TRY(add_factor(e, f, "lora_b", f->place.total, f->rank, &f->behind));
    }
    ML_TRY(gguf_put_head(&e->w));
    for (int64_t i = 0; i < e->count; i++) {
        const fused *f = &e->list[i];
        const gguf_out_tensor *a = &e->w.tensors[f->first], *b = &e->w.tensors[f->behind];
        ML_TRY(gguf_put_contents(&e->w, a, 0, f->a, a->bytes));
        ML_TRY(gguf_put_contents(&e->w, b, 0, f->b, b->bytes));
    }
done:
    return st;
}

ml_status ml_adapter_export_gguf(const ml_adapter *adapter, const ml_model_spec *spec,
                                 const char *path)
{
    export e = {.adapter = adapter, .spec = spec, .w = {.fd = -1}};
    const char *architecture;
    ml_status st = gguf_architecture(spec, &architecture);
    if (st == ML_OK) st = check(&e);
    if (st == ML_OK) st = fuse(&e);
    if (st == ML_OK) st = gguf_create(&e.w, path);
    if (st == ML_OK) st = fill(&e);
    if (st == ML_OK) st = gguf_finish(&e.w);
    gguf_discard(&e.w);
    for (int64_t i = 0; e.list && i < e.count; i++) {
        ml_memory_free(e.list[i].a);
        ml_memory_free(e.list[i].b);
    }
    ml_memory_free(e.list);
    return st;
}
