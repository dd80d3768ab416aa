/* Every kind of file is verified by all the hashes that it carries: bases, data sets, adapters,
 * checkpoints and PEFT directories. Each finding is a line: right and what it is, or wrong and
 * why. */
#include "store/inspect/verify.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>

#include "io/durable.h"
#include "io/json.h"
#include "mpilora/data.h"
#include "mpilora/inspect.h"
#include "store/adapter/adapter.h"
#include "store/base/base_private.h"
#include "store/formats/peft/config.h"
#include "store/formats/safetensors/safetensors.h"
#include "store/inspect/inspect_private.h"

enum { WHAT = 1024 };
static const int64_t largest_config = 1 << 20;

/* ---- lines --------------------------------------------------------------------------------- */

static void add_line(verify_list *list, const char *path, bool ok, const char *format,
                     va_list arguments)
{
    char what[WHAT];
    vsnprintf(what, sizeof what, format, arguments);
    json_t *text = json_string(what);
    json_array_append_new(list->checked, json_pack("{s:s,s:b,s:o}", "path", path, "ok", ok, "what",
                                                   text ? text : json_null()));
    list->whole = list->whole && ok;
}

void verify_right(verify_list *list, const char *path, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    add_line(list, path, true, format, arguments);
    va_end(arguments);
}

void verify_wrong(verify_list *list, const char *path, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    add_line(list, path, false, format, arguments);
    va_end(arguments);
}

bool verify_status(verify_list *list, const char *path, ml_status st)
{
    const char *text = ml_error_text();
    size_t n = strlen(path);
    if (st == ML_OK) return true;
    verify_wrong(list, path, "%s",
                 !strncmp(text, path, n) && !strncmp(text + n, ": ", 2) ? text + n + 2 : text);
    return false;
}

/* ---- kinds --------------------------------------------------------------------------------- */

void verify_base(verify_list *list, const char *path)
{
    ml_base *base = NULL;
    char hex[ML_SHA256_HEX] = "";
    ml_status st = ml_base_open(&base, path);
    if (st == ML_OK) st = base_content_hash(base, hex);
    if (verify_status(list, path, st)) {
        if (strcmp(hex, ml_base_content_hash(base)) != 0)
            verify_wrong(list, path, "the contents' SHA-256 is %.12s…, the file says %.12s…", hex,
                         ml_base_content_hash(base));
        else
            verify_right(list, path, "base, %" PRId64 " tensors, SHA-256 %.12s…", base->ntensors,
                         hex);
    }
    ml_base_close(base);
}

void verify_dataset(verify_list *list, const char *path)
{
    ml_dataset *data = NULL;
    if (verify_status(list, path, ml_dataset_open(&data, path)))
        verify_right(list, path, "data set, %" PRId64 " sequences, SHA-256 %.12s…",
                     ml_dataset_sequences(data), ml_dataset_hash(data));
    ml_dataset_destroy(data);
}

void verify_adapter(verify_list *list, const char *path)
{
    ml_adapter adapter = {0};
    if (verify_status(list, path, ml_adapter_read_file(&adapter, path)))
        verify_right(list, path, "adapter, %" PRId64 " pairs, SHA-256 %.12s…", adapter.count,
                     adapter.hash);
    ml_adapter_destroy(&adapter);
}

static ml_status read_peft_config(const char *path)
{
    ml_status st = ML_OK;
    ml_peft_config config = {0};
    char *text = NULL;
    int64_t length;
    ML_TRY(ml_durable_read(path, largest_config, &text, &length));
    ML_TRY(ml_peft_config_parse(&config, text, length));
done:
    ml_peft_config_destroy(&config);
    ml_memory_free(text);
    return st;
}

void verify_peft(verify_list *list, const char *directory)
{
    char path[ML_DURABLE_PATH];
    ml_safetensors *tensors = NULL;
    if (ml_durable_path(path, "%s/adapter_config.json", directory) != ML_OK) {
        verify_wrong(list, directory, "%s", ml_error_text());
        return;
    }
    if (verify_status(list, path, read_peft_config(path)))
        verify_right(list, path, "PEFT configuration");
    if (ml_durable_path(path, "%s/adapter_model.safetensors", directory) != ML_OK) {
        verify_wrong(list, directory, "%s", ml_error_text());
        return;
    }
    if (verify_status(list, path, ml_safetensors_open(&tensors, path)))
        verify_right(list, path, "safetensors, %" PRId64 " tensors; it carries no hash",
                     ml_safetensors_count(tensors));
    ml_safetensors_close(tensors);
}

void verify_checkpoint(verify_list *list, const char *path)
{
    json_t *about = json_object();
    if (verify_status(list, path, inspect_checkpoint(path, about)))
        verify_right(list, path,
                     "checkpoint of step %" JSON_INTEGER_FORMAT ", %" JSON_INTEGER_FORMAT " bytes",
                     json_integer_value(json_object_get(about, "step")),
                     json_integer_value(json_object_get(about, "checkpoint_bytes")));
    json_decref(about);
}

/* ---- which it is --------------------------------------------------------------------------- */

static const struct {
    const char *kind;
    void (*verify)(verify_list *list, const char *path);
} kinds[] = {{"base", verify_base}, {"dataset", verify_dataset},       {"adapter", verify_adapter},
             {"peft", verify_peft}, {"checkpoint", verify_checkpoint}, {"run", verify_run}};

ml_status ml_verify(const char *path, ml_text *json, bool *whole)
{
    ml_status st = ML_OK;
    verify_list list = {.checked = json_array(), .whole = true};
    const char *kind = "unknown";
    char *text = NULL;
    if (verify_status(&list, path, inspect_find_kind(path, &kind)))
        for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
            if (!strcmp(kinds[i].kind, kind)) kinds[i].verify(&list, path);
    json_t *o = json_pack("{s:s,s:s,s:b,s:O}", "path", path, "kind", kind, "ok", list.whole,
                          "checked", list.checked);
    text = o ? ml_json_dump(o, JSON_COMPACT) : NULL;
    json_decref(o);
    json_decref(list.checked);
    if (!text) return ml_fail(ML_RESOURCE, "%s: out of memory, or its name is not UTF-8", path);
    *whole = list.whole;
    st = ml_text_printf(json, "%s", text);
    free(text);
    return st;
}
