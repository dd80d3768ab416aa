/* Rates of backends, kept from one start to the next in
 * $XDG_CACHE_HOME/mpilora/products-HASH.json (~/.cache where that is not set), so that a start need
 * not measure again and so that a ratio near the border does not give one choice today and another
 * one tomorrow.
 *
 * HASH is of everything that the rates depend on: this program, the processor, the libraries, the
 * vector path, whose instructions "native" multiplies with, the weights' type, the shapes, tokens,
 * threads, and the backends that may be chosen. The file holds these words, too, and counts only
 * where they are the same. What cannot be read is measured again and written again; what cannot be
 * written is said once. Neither makes a start fail. */
#include <inttypes.h>
#include <stdlib.h>

#include "io/durable.h"
#include "io/json.h"
#include "kernels/kernels_private.h"
#include "mpilora/version.h"

static const int64_t largest_file = 1 << 20;

/* ---- what rates depend on ------------------------------------------------------------------ */

/* Of what a processor is: x86's words, then Arm's. */
static ml_status add_processor(void *key, const char *line, size_t name)
{
    static const char *const said[] = {"vendor_id",       "cpu family",       "model",
                                       "model name",      "stepping",         "flags",
                                       "CPU implementer", "CPU variant",      "CPU part",
                                       "CPU revision",    "CPU architecture", "Features"};
    for (size_t i = 0; i < sizeof said / sizeof *said; i++)
        if (strlen(said[i]) == name && !strncmp(line, said[i], name))
            return ml_text_printf(key, "%s", line);
    return ML_OK;
}

static ml_status describe(const ml_kernels_owner *owner, const ml_kernels_options *options,
                          ml_text *key)
{
    ml_status st = ML_OK;
    ml_library libraries[ML_KERNELS_LIBRARIES];
    int nlibraries = ml_kernels_libraries(libraries);
    const ml_kernels_paths all = ml_kernels_available(options->weight_dtype);
    ML_TRY(ml_text_printf(key, "mpilora %s\n", MPILORA_VERSION));
    ML_TRY(ml_processor_lines(add_processor, key));
    for (int i = 0; i < nlibraries; i++)
        ML_TRY(ml_text_printf(key, "%s %s %s\n", libraries[i].name, libraries[i].version,
                              libraries[i].path));
    ML_TRY(ml_text_printf(key, "blas kernel %s\nvectors by %s\n",
                          ml_blas_kernel() ? ml_blas_kernel() : "", owner->table.vector_path));
    ML_TRY(ml_text_printf(
        key, "weights %s%s, tokens %" PRId64 ", threads %d, backends %x\n",
        ml_dtype_name(options->weight_dtype), options->exact ? " as they are" : "", options->tokens,
        owner->threads, all.backends & (options->among ? options->among->backends : all.backends)));
    for (int64_t i = 0; i < options->nshapes; i++)
        ML_TRY(ml_text_printf(key, "%" PRId64 " x %" PRId64 "\n", options->shapes[i].rows,
                              options->shapes[i].cols));
done:
    return st;
}

/* ---- where they are kept ------------------------------------------------------------------- */

/* ML_USAGE where the environment names no place. */
static ml_status folder_path(char path[ML_DURABLE_PATH])
{
    const char *cache = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    if (cache && *cache == '/') return ml_durable_path(path, "%s/mpilora", cache);
    if (home && *home == '/') return ml_durable_path(path, "%s/.cache/mpilora", home);
    return ml_fail(ML_USAGE, "neither XDG_CACHE_HOME nor HOME is an absolute path");
}

static ml_status file_path(const ml_text *key, char path[ML_DURABLE_PATH])
{
    char folder[ML_DURABLE_PATH], hash[ML_SHA256_HEX];
    ml_status st = folder_path(folder);
    if (st != ML_OK) return st;
    ml_sha256_of(key->data, (size_t)key->length, hash);
    return ml_durable_path(path, "%s/products-%.16s.json", folder, hash);
}

/* ---- reading and writing ------------------------------------------------------------------- */

static const ml_json_key keys[] = {{"measured_with", ML_JSON_TEXT},
                                   {"rates", ML_JSON_ARRAY},
                                   {"rates[].path", ML_JSON_TEXT},
                                   {"rates[].forward", ML_JSON_ARRAY},
                                   {"rates[].forward[]", ML_JSON_REAL | ML_JSON_INTEGER},
                                   {"rates[].backward", ML_JSON_ARRAY},
                                   {"rates[].backward[]", ML_JSON_REAL | ML_JSON_INTEGER},
                                   {0}};

static bool read_spread(const json_t *from, ml_kernels_spread *out)
{
    out->median = json_number_value(json_array_get(from, 0));
    out->least = json_number_value(json_array_get(from, 1));
    out->most = json_number_value(json_array_get(from, 2));
    return out->least > 0 && out->least <= out->median && out->median <= out->most;
}

/* Rates of backends that this build has; false: of others, or not as they were written. */
static bool read_rates(const json_t *from, ml_kernels_owner *owner)
{
    int64_t count = (int64_t)json_array_size(from);
    if (count < 1 || count > ML_MAX_PATHS) return false;
    for (int64_t i = 0; i < count; i++) {
        const json_t *rate = json_array_get(from, (size_t)i);
        const ml_backend *path = ml_backend_find(json_string_value(json_object_get(rate, "path")));
        ml_kernels_rate *r = &owner->rates[i];
        if (!path || !read_spread(json_object_get(rate, "forward"), &r->forward) ||
            !read_spread(json_object_get(rate, "backward"), &r->backward))
            return false;
        r->path = path->name;
    }
    owner->nrates = count;
    return true;
}

bool ml_rates_recall(ml_kernels_owner *owner, const ml_kernels_options *options)
{
    ml_text key = {0};
    char path[ML_DURABLE_PATH], *text = NULL;
    int64_t length = -1;
    json_t *root = NULL;
    json_error_t error;
    bool found = describe(owner, options, &key) == ML_OK && file_path(&key, path) == ML_OK &&
                 ml_durable_measure(path, &length) == ML_OK && length >= 0 &&
                 ml_durable_read(path, largest_file, &text, &length) == ML_OK &&
                 ml_json_parse(&root, text, length, 0, &error) == ML_OK &&
                 ml_json_check(root, keys) == ML_OK;
    if (found) {
        const char *with = json_string_value(json_object_get(root, "measured_with"));
        found =
            with && !strcmp(with, key.data) && read_rates(json_object_get(root, "rates"), owner);
    }
    if (!found) owner->nrates = 0;
    json_decref(root);
    ml_memory_free(text);
    ml_text_destroy(&key);
    return found;
}

static ml_status add_spread(ml_text *json, const char *name, const ml_kernels_spread *s)
{
    return ml_text_printf(json, "\"%s\": [%.6g, %.6g, %.6g]", name, s->median, s->least, s->most);
}

static ml_status write_rates(const ml_kernels_owner *owner, const ml_kernels_options *options)
{
    ml_status st = ML_OK;
    ml_text key = {0}, json = {0};
    char path[ML_DURABLE_PATH], folder[ML_DURABLE_PATH];
    ML_TRY(describe(owner, options, &key));
    ML_TRY(folder_path(folder));
    ML_TRY(file_path(&key, path));
    ML_TRY(ml_text_printf(&json, "{\"measured_with\": "));
    ML_TRY(json_text_add(&json, key.data, key.length));
    ML_TRY(ml_text_printf(&json, ",\n \"rates\": ["));
    for (int64_t i = 0; i < owner->nrates; i++) {
        const ml_kernels_rate *r = &owner->rates[i];
        ML_TRY(ml_text_printf(&json, "%s{\"path\": \"%s\", ", i ? ",\n  " : "", r->path));
        ML_TRY(add_spread(&json, "forward", &r->forward));
        ML_TRY(ml_text_printf(&json, ", "));
        ML_TRY(add_spread(&json, "backward", &r->backward));
        ML_TRY(ml_text_printf(&json, "}"));
    }
    ML_TRY(ml_text_printf(&json, "]}\n"));
    ML_TRY(ml_durable_make_directories(folder));
    ML_TRY(ml_durable_write(path, json.data, json.length, NULL));
done:
    ml_text_destroy(&key);
    ml_text_destroy(&json);
    return st;
}

void ml_rates_keep(const ml_kernels_owner *owner, const ml_kernels_options *options)
{
    if (write_rates(owner, options) != ML_OK)
        ml_warn("the measured rates of products are not kept, so the next start measures again: %s",
                ml_error_text());
}
