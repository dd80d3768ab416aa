/* A base as a GGUF file: description, tokenizer, and tensors under the family's names, streamed a
 * block of rows at a time in the stored order (q and k of Llama's kin by pairs), each in the type
 * that was asked for. */
#include "mpilora/export.h"

#include <inttypes.h>
#include <math.h>

#include "io/durable.h"
#include "mpilora/import.h"
#include "store/formats/gguf/export.h"

enum { PARTS = 3, BLOCK = 4 << 20 }; /* values in memory at once */

/* A tensor of the file: one of the base, or several below each other. */
typedef struct stored {
    int64_t number; /* in the writer's table */
    int nparts;
    ml_model_tensor part[PARTS];
} stored;

typedef struct export
{
    ml_base *base;
    const ml_model_spec *spec;
    const ml_gguf_export_options *options;
    gguf_writer w;
    ml_dtype *formats; /* of --dtype q…: [ml_model_formats] */
    int64_t count;
    stored *list;
    float *values;    /* [BLOCK], or a head's rows where these are more */
    uint8_t *encoded; /* of as many values, at most as fp32 */
    uint8_t *ordered;
    ml_block_error error;
}
export;

/* ---- types --------------------------------------------------------------------------------- */

/* What a base keeps something as, or what was asked for. */
static const ml_block_format *type_of(const export *e, const ml_model_tensor *t)
{
    const ml_block_format *asked = e->options->type, *f32 = ml_block_format_of(ML_FP32);
    if (t->norm_or_bias || t->vector || t->row->role == ML_ROLE_POSITION) return f32;
    if (asked && !ml_dtype_is_block(asked->dtype)) return asked;
    ml_dtype kept =
        asked ? e->formats[ml_model_format_place(e->spec, t)] : ml_base_tensor_dtype(e->base, t);
    if (asked && !ml_dtype_is_block(kept)) kept = ml_base_dtype(e->base); /* no block fits */
    return kept == ML_BF16 ? ml_block_format_named("BF16") : ml_block_format_of(kept);
}

/* ---- the table ----------------------------------------------------------------------------- */

static ml_status add_part(export *e, const ml_model_tensor *t)
{
    ml_stored_place place;
    ml_stored_place_of(e->spec, t, ML_FORMAT_GGUF, &place);
    const ml_block_format *type = type_of(e, t);
    if (place.first > 0) {
        stored *s = &e->list[e->count - 1];
        const gguf_out_tensor *out = &e->w.tensors[s->number];
        if (out->type != type)
            return ml_fail(ML_USAGE,
                           "%s is kept in %s and %s in %s, but GGUF has them in one tensor: say "
                           "--dtype",
                           s->part[0].name, out->type->name, t->name, type->name);
        s->part[s->nparts++] = *t;
        return ML_OK;
    }
    stored *s = &e->list[e->count++];
    *s = (stored){.number = e->w.ntensors, .nparts = 1, .part = {*t}};
    if (place.layout == ML_LAYOUT_BY_HEAD)
        return gguf_add_tensor(&e->w, place.name, type, place.total / e->spec->head_dim,
                               e->spec->head_dim, 2);
    if (t->vector) return gguf_add_tensor(&e->w, place.name, type, 1, place.total, 1);
    return gguf_add_tensor(&e->w, place.name, type, place.total, t->cols, 2);
}

/* A tied head, for readers that ask for a head. */
static ml_status add_head(export *e)
{
    const ml_family_tensor *head = ml_family_end(e->spec->family, ML_ROLE_HEAD);
    if (!e->spec->tied_head || e->spec->family->gguf.head != ML_GGUF_HEAD_ALWAYS) return ML_OK;
    stored *s = &e->list[e->count++];
    *s = (stored){.number = e->w.ntensors, .nparts = 1};
    for (int64_t i = 0; i < ml_model_tensor_count(e->spec); i++) {
        ml_model_tensor_at(e->spec, i, &s->part[0]);
        if (s->part[0].row->role == ML_ROLE_EMBED) break;
    }
    return gguf_add_tensor(&e->w, head->gguf.name, type_of(e, &s->part[0]), s->part[0].rows,
                           s->part[0].cols, 2);
}

static ml_status add_tensors(export *e)
{
    ml_status st = ML_OK;
    int64_t count = ml_model_tensor_count(e->spec);
    ML_NEW(e->list, count + 1, ML_MEM_OTHER, "exported tensors");
    for (int64_t i = 0; i < count; i++) {
        ml_model_tensor t;
        ml_model_tensor_at(e->spec, i, &t);
        ML_TRY(add_part(e, &t));
    }
    ML_TRY(add_head(e));
    ML_TRY(gguf_add_rope_factors(&e->w, e->spec));
done:
    return st;
}

/* ---- contents ------------------------------------------------------------------------------ */

static ml_status bad_value(const export *e, const ml_model_tensor *t, const ml_block_format *type,
                           int64_t place)
{
    return ml_fail(ML_INPUT, "%s: %s: row %" PRId64 ": a number is too large for %s, or is none",
                   e->w.path, t->name, place / t->cols, type->name);
}

/* `count` values of the tensor from its value `first` on, in the type. */
static ml_status encode(export *e, const ml_model_tensor *t, const ml_block_format *type,
                        int64_t first, int64_t count)
{
    const float *x = e->values;
    if (type->dtype == ML_FP32) {
        memcpy(e->encoded, x, (size_t)count * sizeof *x);
        return ML_OK;
    }
    if (ml_dtype_is_block(type->dtype)) {
        int64_t bad = ml_block_quantise(type, x, count / type->weights, e->encoded, &e->error);
        return bad < 0 ? ML_OK : bad_value(e, t, type, first + bad * type->weights);
    }
    bool brain = !strcmp(type->name, "BF16");
    uint16_t *to = (uint16_t *)(void *)e->encoded;
    for (int64_t i = 0; i < count; i++) {
        to[i] = brain ? ml_bf16_from_float(x[i]) : ml_half_from_float(x[i]);
        bool infinite = brain ? (to[i] & 0x7f80) == 0x7f80 : (to[i] & 0x7c00) == 0x7c00;
        if (infinite) return bad_value(e, t, type, first + i);
    }
    return ML_OK;
}

/* Rows [first, first + count) as they go into the file, in our order. */
static ml_status read_rows(export *e, const ml_model_tensor *t, const ml_block_format *type,
                           int64_t first, int64_t count)
{
    const ml_shard shard = {.dim = ML_SHARD_ROWS, .nparts = 1, .part = {{first, count}}};
    float one = t->row->gguf.layout == ML_LAYOUT_PLUS_ONE ? 1.0F : 0.0F;
    ml_dtype kept = ml_base_tensor_dtype(e->base, t);
    if (ml_dtype_is_block(kept) && kept == type->dtype)
        return ml_base_read(e->base, t->name, &shard, kept, e->encoded);
    ml_status st = ml_base_read(e->base, t->name, &shard, ML_FP32, e->values);
    if (st != ML_OK) return st;
    for (int64_t i = 0; i < count * t->cols && one != 0.0F; i++) e->values[i] += one;
    return encode(e, t, type, first * t->cols, count * t->cols);
}

/* Rows in runs that are stored together are put where the format has them. */
static ml_status put_part(export *e, const gguf_out_tensor *out, const ml_model_tensor *t,
                          const ml_stored_place *place)
{
    ml_status st = ML_OK;
    int64_t row = t->cols / out->type->weights * out->type->bytes;
    int64_t unit = place->layout == ML_LAYOUT_PAIRED ? place->run : 1;
    int64_t step = ml_max(1, BLOCK / (unit * t->cols)) * unit;
    for (int64_t first = 0; first < t->rows; first += step) {
        int64_t n = ml_min(step, t->rows - first);
        ML_TRY(read_rows(e, t, out->type, first, n));
        for (int64_t i = 0; i < n; i++)
            memcpy(e->ordered + (ml_stored_row(place, first + i) - place->first - first) * row,
                   e->encoded + i * row, (size_t)row);
        ML_TRY(gguf_put_contents(&e->w, out, (place->first + first) * row, e->ordered, n * row));
    }
done:
    return st;
}

static ml_status put_tensors(export *e)
{
    ml_status st = ML_OK;
    for (int64_t i = 0; i < e->count; i++) {
        const stored *s = &e->list[i];
        const gguf_out_tensor *out = &e->w.tensors[s->number];
        for (int p = 0; p < s->nparts; p++) {
            ml_stored_place place;
            ml_stored_place_of(e->spec, &s->part[p], ML_FORMAT_GGUF, &place);
            ML_TRY(put_part(e, out, &s->part[p], &place));
        }
    }
done:
    return st;
}

static ml_status make_room(export *e)
{
    ml_status st = ML_OK;
    int64_t room = BLOCK;
    for (int64_t i = 0; i < e->count; i++)
        for (int p = 0; p < e->list[i].nparts; p++)
            room = ml_max(room, e->spec->head_dim * e->list[i].part[p].cols);
    ML_NEW(e->values, room, ML_MEM_OTHER, "a block of rows");
    ML_NEW(e->encoded, room * (int64_t)sizeof(float), ML_MEM_OTHER, "a block of rows");
    ML_NEW(e->ordered, room * (int64_t)sizeof(float), ML_MEM_OTHER, "a block of rows");
done:
    return st;
}

/* ---- the file ------------------------------------------------------------------------------ */

static ml_status choose_formats(export *e)
{
    ml_status st = ML_OK;
    const ml_import_options rules = {.dtype = ml_base_dtype(e->base), .quantise = e->options->type};
    if (!e->options->type || !ml_dtype_is_block(e->options->type->dtype)) return ML_OK;
    ML_NEW(e->formats, ml_model_formats(e->spec), ML_MEM_OTHER, "formats");
    ml_import_formats(e->spec, &rules, e->formats);
done:
    return st;
}

/* What the file says before its contents, and whether it is the model. */
static ml_status put_description(export *e)
{
    ml_status st = ML_OK;
    ML_TRY(add_tensors(e));
    ML_TRY(gguf_put_head(&e->w));
    ML_TRY(gguf_put_rope_factors(&e->w, e->spec));
    ML_TRY(gguf_check_description(&e->w, e->spec));
done:
    return st;
}

static ml_status fill(export *e)
{
    ml_status st = ML_OK;
    ML_TRY(gguf_describe(&e->w, e->spec));
    ML_TRY(gguf_describe_tokenizer(&e->w, e->base, e->options));
    ML_TRY(choose_formats(e));
    ML_TRY(put_description(e));
    ML_TRY(make_room(e));
    ML_TRY(put_tensors(e));
    if (e->error.whole > 0.0)
        ml_log("rounding to blocks changed the weights by %.3g of their size (root mean square)",
               sqrt(e->error.lost / e->error.whole));
done:
    return st;
}

static ml_status create(export *e, const char *path)
{
    if (ml_durable_is_same(ml_base_path(e->base), path))
        return ml_fail(ML_USAGE, "%s: is the base itself; choose another name", path);
    const char *architecture; /* before anything is written */
    ml_status st = gguf_architecture(e->spec, &architecture);
    return st == ML_OK ? gguf_create(&e->w, path) : st;
}

static void destroy(export *e)
{
    gguf_discard(&e->w);
    ml_memory_free(e->formats);
    ml_memory_free(e->list);
    ml_memory_free(e->values);
    ml_memory_free(e->encoded);
    ml_memory_free(e->ordered);
}

ml_status ml_export_gguf(ml_base *base, const ml_gguf_export_options *options, const char *path)
{
    export e = {.base = base, .spec = ml_base_spec(base), .options = options};
    ml_status st = create(&e, path);
    if (st != ML_OK) return st;
    st = fill(&e);
    if (st == ML_OK) st = gguf_finish(&e.w);
    destroy(&e);
    return st;
}

ml_status ml_export_gguf_check(ml_base *base, const char *path)
{
    const ml_gguf_export_options options = {.type = ml_block_format_named("BF16")};
    export e = {.base = base, .spec = ml_base_spec(base), .options = &options};
    ml_status st = create(&e, path);
    if (st != ML_OK) return st;
    st = gguf_describe(&e.w, e.spec);
    if (st == ML_OK) st = put_description(&e);
    destroy(&e);
    return st;
}
