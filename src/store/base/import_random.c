/* Random bases: the shape of any model, for planning, tests and training from nothing. */
#include <inttypes.h>
#include <math.h>

#include "mpilora/data.h"
#include "store/base/stream.h"

typedef struct random_weights {
    const ml_model_spec *spec;
    uint64_t seed;
} random_weights;

static double deviation_of(const ml_model_spec *spec, const ml_model_tensor *t)
{
    static const char *const residual[] = {"attn.o.weight", "mlp.proj.weight", "mlp.down.weight"};
    for (size_t i = 0; i < sizeof residual / sizeof *residual; i++)
        if (strstr(t->name, residual[i])) return 0.02 / sqrt(2.0 * (double)spec->layers);
    return 0.02;
}

static ml_status random_rows(void *self, const ml_model_tensor *t, int64_t first, int64_t count,
                             float *out)
{
    const random_weights *r = self;
    ml_random_key key = ml_random_key_make(r->seed, t->name);
    int64_t n = count * t->cols;
    if (!t->norm_or_bias)
        ml_random_normals(key, 0, (uint64_t)(first * t->cols), n, deviation_of(r->spec, t), out);
    for (int64_t i = 0; t->norm_or_bias && i < n; i++) out[i] = strstr(t->name, "bias") ? 0 : 1;
    return ML_OK;
}

static ml_status source_hash(const ml_model_spec *spec, uint64_t seed, char hex[ML_SHA256_HEX])
{
    ml_text text = {0};
    ml_status st = base_spec_to_json(spec, &text);
    if (st == ML_OK) st = ml_text_printf(&text, " random %" PRIu64, seed);
    if (st == ML_OK) ml_sha256_of(text.data, (size_t)text.length, hex);
    ml_text_destroy(&text);
    return st;
}

ml_status ml_import_random(const ml_model_spec *spec, uint64_t seed, const char *tokenizer,
                           const ml_import_options *options, const char *out)
{
    ml_status st = ML_OK;
    ml_text json = {0};
    ml_base_files files = {0};
    char hash[ML_SHA256_HEX];
    ml_model_spec kept = *spec;
    ml_dtype *formats = NULL;
    ml_base_writer *w = NULL;
    random_weights weights = {spec, seed};
    const import_source source = {.self = &weights, .read_rows = random_rows};
    import_room room;
    if (tokenizer) {
        ML_TRY(import_directory_tokenizer(tokenizer, &json));
        ML_TRY(import_keep_settings(tokenizer, &files));
    }
    ML_TRY(import_check_tokenizer(&json, spec));
    ML_TRY(source_hash(spec, seed, hash));
    ML_TRY(import_find_room(spec, 0, &room));
    if (options->quantise) {
        ML_NEW(formats, ml_model_formats(spec), ML_MEM_OTHER, "formats of tensors");
        ml_import_formats(spec, options, formats);
        kept.formats = formats;
    }
    ML_TRY(ml_base_writer_create(&w, out, &kept, options->dtype, json.data, json.length, hash,
                                 tokenizer ? &files : NULL));
    ML_TRY(import_stream(&source, NULL, w, &kept, false, &room));
    import_say_error(w, options);
    st = ml_base_writer_finish(w);
    w = NULL;
done:
    ml_base_writer_discard(w);
    ml_memory_free(formats);
    ml_base_files_destroy(&files);
    ml_text_destroy(&json);
    return st;
}
