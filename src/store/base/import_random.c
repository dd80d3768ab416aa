/* Random bases: the shape of any model, for planning, tests and training from nothing. */
#include <inttypes.h>
#include <math.h>

#include "mpilora/data.h"
#include "store/base/base_private.h"
#include "store/base/import_private.h"

enum { PIECE = 1 << 20 }; /* values */

static double deviation_of(const ml_model_spec *spec, const ml_model_tensor *t)
{
    static const char *const residual[] = {"attn.o.weight", "mlp.proj.weight", "mlp.down.weight"};
    for (size_t i = 0; i < sizeof residual / sizeof *residual; i++)
        if (strstr(t->name, residual[i])) return 0.02 / sqrt(2.0 * (double)spec->layers);
    return 0.02;
}

static ml_status write_tensor(ml_base_writer *w, const ml_model_spec *spec,
                              const ml_model_tensor *t, uint64_t seed, float *piece, int64_t room)
{
    ml_random_key key = ml_random_key_make(seed, t->name);
    double deviation = deviation_of(spec, t);
    int64_t step = ml_max(1, room / t->cols);
    float constant = strstr(t->name, "bias") ? 0.0F : 1.0F;
    for (int64_t row = 0; row < t->rows; row += step) {
        int64_t n = ml_min(step, t->rows - row), first = row * t->cols, count = n * t->cols;
        for (int64_t i = 0; t->norm_or_bias && i < count; i++) piece[i] = constant;
        if (!t->norm_or_bias) ml_random_normals(key, 0, (uint64_t)first, count, deviation, piece);
        ml_status st = ml_base_writer_rows(w, t->name, row, n, piece);
        if (st != ML_OK) return st;
    }
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
    char hash[ML_SHA256_HEX];
    ml_model_spec kept = *spec;
    ml_dtype *formats = NULL;
    ml_base_writer *w = NULL;
    float *piece = NULL;
    int64_t room = ml_max(PIECE, spec->width);
    if (tokenizer) ML_TRY(import_directory_tokenizer(tokenizer, &json));
    ML_TRY(import_check_tokenizer(&json, spec));
    ML_TRY(source_hash(spec, seed, hash));
    room = ml_max(room, spec->mlp_width);
    ML_NEW(piece, room, ML_MEM_OTHER, "a piece of a tensor");
    if (options->quantise) {
        ML_NEW(formats, ml_model_formats(spec), ML_MEM_OTHER, "formats of tensors");
        ml_import_formats(spec, options, formats);
        kept.formats = formats;
    }
    ML_TRY(
        ml_base_writer_create(&w, out, &kept, options->dtype, json.data, json.length, hash, NULL));
    for (int64_t i = 0; i < ml_model_tensor_count(spec); i++) {
        ml_model_tensor t;
        ml_model_tensor_at(spec, i, &t);
        ML_TRY(write_tensor(w, spec, &t, seed, piece, room));
    }
    import_say_error(w, options);
    st = ml_base_writer_finish(w);
    w = NULL;
done:
    ml_base_writer_discard(w);
    ml_memory_free(piece);
    ml_memory_free(formats);
    ml_text_destroy(&json);
    return st;
}
