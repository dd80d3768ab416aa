/* Manifests: the text that makes a checkpoint one. The field "sha256" is the hash of the text
 * without it, and the text must be exactly what this file would write, so any changed byte is
 * found. */
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "io/json.h"
#include "store/checkpoint/run_directory.h"

static const int64_t largest_manifest = 16 << 20;
static const char format_name[] = "mpilora checkpoint";
enum { SCHEMA = 1 };
static const size_t text_flags = JSON_SORT_KEYS | JSON_INDENT(1) | JSON_REAL_PRECISION(17);

static json_t *number_or_null(double x) { return isfinite(x) ? json_real(x) : json_null(); }

static double number_from(const json_t *x)
{
    return json_is_number(x) ? json_number_value(x) : NAN;
}

/* ---- the list of files --------------------------------------------------------------------- */

ml_status ml_file_list_add(ml_file_list *list, const ml_manifest_file *file)
{
    ml_status st = ML_OK;
    ML_GROW(list->file, list->count, list->capacity, ML_MEM_OTHER, "the files of a checkpoint");
    list->file[list->count++] = *file;
done:
    return st;
}

void ml_file_list_destroy(ml_file_list *list)
{
    ml_memory_free(list->file);
    *list = (ml_file_list){0};
}

/* ---- parts --------------------------------------------------------------------------------- */

static json_t *progress_to_json(const ml_checkpoint_progress *p)
{
    return json_pack(
        "{s:I,s:I,s:I,s:o,s:o,s:o,s:I,s:I,s:o,s:I,s:b,s:s,s:s}", "step", (json_int_t)p->step,
        "cursor", (json_int_t)p->cursor, "tokens", (json_int_t)p->tokens, "loss_first",
        number_or_null(p->loss_first), "loss_last", number_or_null(p->loss_last), "best_loss",
        number_or_null(p->best_loss), "best_step", (json_int_t)p->best_step, "evaluated_step",
        (json_int_t)p->evaluated_step, "stop_loss", number_or_null(p->stop_loss), "stop_count",
        (json_int_t)p->stop_count, "finished", p->finished, "product_path", p->backend,
        "vector_path", p->vector_path);
}

static json_t *identity_to_json(const ml_checkpoint_state *state)
{
    json_t *identity = json_object();
    for (int64_t i = 0; identity && i < state->identities; i++) {
        if (json_object_set_new(identity, state->identity[i].key,
                                json_string(state->identity[i].value))) {
            json_decref(identity);
            return NULL;
        }
    }
    return identity;
}

static json_t *files_to_json(const ml_file_list *files)
{
    json_t *list = json_array();
    for (int64_t i = 0; list && i < files->count; i++) {
        const ml_manifest_file *f = &files->file[i];
        json_t *file = json_pack("{s:s,s:I,s:s}", "name", f->name, "bytes", (json_int_t)f->bytes,
                                 "sha256", f->sha256);
        if (json_array_append_new(list, file)) {
            json_decref(list);
            return NULL;
        }
    }
    return list;
}

static json_t *changes_to_json(const ml_checkpoint_changes *changes)
{
    json_t *list = json_array();
    for (int64_t i = 0; list && i < changes->count; i++) {
        const ml_checkpoint_change *c = &changes->items[i];
        json_t *change = json_pack("{s:s,s:s,s:s,s:I}", "key", c->key, "from", c->from, "to", c->to,
                                   "step", (json_int_t)c->step);
        if (json_array_append_new(list, change)) {
            json_decref(list);
            return NULL;
        }
    }
    return list;
}

static ml_status no_memory(void)
{
    return ml_fail(ML_RESOURCE, "out of memory: a checkpoint's manifest");
}

/* The text of an object without its own hash, hashed. */
static ml_status hash_object(const json_t *object, char hash[ML_SHA256_HEX])
{
    char *text = ml_json_dump(object, text_flags);
    if (!text) return no_memory();
    ml_sha256_of(text, strlen(text), hash);
    free(text);
    return ML_OK;
}

static const char *base_of(const ml_checkpoint_state *state)
{
    for (int64_t i = 0; i < state->identities; i++)
        if (!strcmp(state->identity[i].key, "base")) return state->identity[i].value;
    return "";
}

/* ---- checking ------------------------------------------------------------------------------ */

static ml_status not_as_made(const char *why)
{
    return ml_fail(ML_INPUT, "%s: %s", ml_manifest_name, why);
}

static ml_status check_hash(json_t *m, const char *bytes, int64_t count)
{
    ml_status st = ML_OK;
    char found[ML_SHA256_HEX] = "", expected[ML_SHA256_HEX];
    char *text = NULL;
    const char *own = json_string_value(json_object_get(m, "sha256"));
    if (own) snprintf(found, sizeof found, "%s", own);
    text = ml_json_dump(m, text_flags);
    if (!text) return no_memory();
    bool exact = strlen(text) + 1 == (size_t)count && !memcmp(text, bytes, (size_t)count - 1) &&
                 bytes[count - 1] == '\n';
    free(text);
    json_object_del(m, "sha256");
    ML_TRY(hash_object(m, expected));
    if (!exact || strcmp(found, expected) != 0)
        return not_as_made("its own hash does not agree with its content");
done:
    return st;
}

static bool good_name(const char *name)
{
    int number;
    char again[32];
    if (!name) return false;
    if (!strcmp(name, "state.h5")) return true;
    if (sscanf(name, "state-%d.h5", &number) != 1) return false;
    snprintf(again, sizeof again, "state-%04d.h5", number);
    return number >= 0 && !strcmp(name, again);
}

static bool good_files(const json_t *files)
{
    for (size_t i = 0; i < json_array_size(files); i++) {
        const json_t *file = json_array_get(files, i);
        const char *hash = json_string_value(json_object_get(file, "sha256"));
        if (!good_name(json_string_value(json_object_get(file, "name"))) ||
            !json_is_integer(json_object_get(file, "bytes")) || !hash ||
            strlen(hash) != ML_SHA256_HEX - 1)
            return false;
    }
    return json_array_size(files) > 0;
}

static ml_status check_content(const json_t *m, int64_t step)
{
    const char *format = json_string_value(json_object_get(m, "format"));
    if (!format || strcmp(format, format_name) != 0 ||
        json_integer_value(json_object_get(m, "schema")) != SCHEMA)
        return not_as_made("is not of this program's kind and version");
    if (json_integer_value(json_object_get(m, "step")) != step)
        return not_as_made("names another step than its directory");
    if (!good_files(json_object_get(m, "files")) ||
        !json_is_object(json_object_get(m, "identity")) ||
        !json_is_object(json_object_get(m, "progress")))
        return not_as_made("lacks files, identity or progress");
    return ML_OK;
}

/* ---- making -------------------------------------------------------------------------------- */

/* Where memory runs out, jansson may leave something out of a text without a word: it is read
 * again before anything is committed with it. */
static ml_status check_made(const json_t *m, const ml_text *text)
{
    json_t *again = json_loadb(text->data, (size_t)text->length, JSON_REJECT_DUPLICATES, NULL);
    ml_status st = json_equal(again, (json_t *)(uintptr_t)m)
                       ? check_hash(again, text->data, text->length)
                       : no_memory();
    json_decref(again);
    return st == ML_OK ? ML_OK : no_memory();
}

ml_status ml_manifest_make(const ml_checkpoint_state *state, int64_t previous,
                           const ml_file_list *files, ml_text *out)
{
    ml_status st = ML_OK;
    char hash[ML_SHA256_HEX], before[32] = "";
    char *text = NULL;
    if (previous >= 0) snprintf(before, sizeof before, "step-%08" PRId64, previous);
    ml_sha256_of(state->configuration, strlen(state->configuration), hash);
    json_t *m = json_pack("{s:s,s:i,s:I,s:s,s:s,s:s,s:o,s:o,s:o}", "format", format_name, "schema",
                          SCHEMA, "step", (json_int_t)state->progress.step, "previous", before,
                          "configuration_sha256", hash, "base_sha256", base_of(state), "identity",
                          identity_to_json(state), "progress", progress_to_json(&state->progress),
                          "files", files_to_json(files));
    if (!m) return no_memory();
    if (state->changes && state->changes->count > 0 &&
        json_object_set_new(m, ml_manifest_changes_key, changes_to_json(state->changes))) {
        st = no_memory();
        goto done;
    }
    ML_TRY(hash_object(m, hash));
    if (json_object_set_new(m, "sha256", json_string(hash)) ||
        !(text = ml_json_dump(m, text_flags))) {
        st = no_memory();
        goto done;
    }
    ML_TRY(ml_text_printf(out, "%s\n", text));
    ML_TRY(check_made(m, out));
done:
    free(text);
    json_decref(m);
    return st;
}

/* ---- reading ------------------------------------------------------------------------------- */

/* A link or a file in a checkpoint's place is none. */
static ml_status check_place(const ml_run_directory *run, int64_t step, bool *bad)
{
    ml_status st = ML_OK;
    char path[ML_DURABLE_PATH];
    struct stat info;
    ML_TRY(ml_step_path(run, step, "", path));
    if (lstat(path, &info))
        return ml_fail(ML_INPUT, "%s: cannot be looked at: %s", path, strerror(errno));
    *bad = !S_ISDIR(info.st_mode);
    if (*bad) return ml_fail(ML_INPUT, "is no directory");
done:
    return st;
}

static ml_status read_text(const ml_run_directory *run, int64_t step, char **bytes, int64_t *count,
                           bool *bad)
{
    ml_status st = ML_OK;
    char path[ML_DURABLE_PATH];
    ML_TRY(check_place(run, step, bad));
    ML_TRY(ml_step_path(run, step, ml_manifest_name, path));
    ML_TRY(ml_durable_measure(path, count));
    *bad = *count < 0 || *count > largest_manifest;
    if (*count < 0) return not_as_made("is missing or no regular file");
    if (*count > largest_manifest) return not_as_made("is too large to be one");
    ML_TRY(ml_durable_read(path, largest_manifest, bytes, count));
done:
    return st;
}

/* Without memory jansson gives nothing, too, and no reason. */
static ml_status parse(const char *bytes, int64_t count, json_t **out, bool *bad)
{
    json_error_t error = {.text = ""};
    if (count > 0) *out = json_loadb(bytes, (size_t)count, JSON_REJECT_DUPLICATES, &error);
    if (json_is_object(*out)) return ML_OK;
    if (count > 0 && !*out && !error.text[0]) return no_memory();
    *bad = true;
    return not_as_made(count > 0 ? "is not JSON" : "is empty");
}

ml_status ml_manifest_read(const ml_run_directory *run, int64_t step, json_t **out, bool *bad)
{
    ml_status st = ML_OK;
    char *bytes = NULL;
    int64_t count;
    json_t *m = NULL;
    bool unused;
    if (!bad) bad = &unused;
    *bad = false;
    ML_TRY(read_text(run, step, &bytes, &count, bad));
    ML_TRY(parse(bytes, count, &m, bad));
    st = check_hash(m, bytes, count);
    if (st == ML_OK) st = check_content(m, step);
    *bad = st == ML_INPUT;
    if (st != ML_OK) goto done;
    *out = m;
    m = NULL;
done:
    json_decref(m);
    ml_memory_free(bytes);
    return st;
}

int64_t ml_manifest_files(const json_t *manifest)
{
    return (int64_t)json_array_size(json_object_get(manifest, "files"));
}

ml_manifest_file ml_manifest_file_at(const json_t *manifest, int64_t index)
{
    const json_t *file = json_array_get(json_object_get(manifest, "files"), (size_t)index);
    ml_manifest_file out = {.bytes = json_integer_value(json_object_get(file, "bytes"))};
    snprintf(out.name, sizeof out.name, "%s", json_string_value(json_object_get(file, "name")));
    snprintf(out.sha256, sizeof out.sha256, "%s",
             json_string_value(json_object_get(file, "sha256")));
    return out;
}

static ml_status verify_file(const ml_run_directory *run, int64_t step,
                             const ml_manifest_file *file, bool *bad)
{
    ml_status st = ML_OK;
    char path[ML_DURABLE_PATH], found[ML_SHA256_HEX];
    int64_t bytes;
    ML_TRY(ml_step_path(run, step, file->name, path));
    ML_TRY(ml_durable_measure(path, &bytes));
    *bad = bytes != file->bytes;
    if (bytes < 0) return ml_fail(ML_INPUT, "%s: is missing or no regular file", file->name);
    if (*bad)
        return ml_fail(ML_INPUT, "%s: has %" PRId64 " bytes, the manifest says %" PRId64,
                       file->name, bytes, file->bytes);
    ML_TRY(ml_sha256_of_file(path, found));
    *bad = strcmp(found, file->sha256) != 0;
    if (*bad)
        return ml_fail(ML_INPUT, "%s: its SHA-256 is %.12s…, the manifest says %.12s…", file->name,
                       found, file->sha256);
done:
    return st;
}

ml_status ml_manifest_verify(ml_run_directory *run, int64_t step, const json_t *manifest, bool *bad)
{
    ml_status st = ML_OK;
    bool unused;
    if (!bad) bad = &unused;
    *bad = false;
    for (int64_t i = 0; i < ml_manifest_files(manifest); i++) {
        ml_manifest_file file = ml_manifest_file_at(manifest, i);
        ML_TRY(verify_file(run, step, &file, bad));
    }
    ML_TRY(ml_step_remember(run, step));
done:
    return st;
}

ml_status ml_step_check(ml_run_directory *run, int64_t step, json_t **manifest, bool *bad)
{
    enum { LOOKS = 2 };
    ml_status st = ML_OK;
    json_t *m = NULL;
    for (int look = 0; look == 0 || (look < LOOKS && *bad); look++) {
        json_decref(m);
        m = NULL;
        st = ml_manifest_read(run, step, &m, bad);
        if (st == ML_OK) st = ml_manifest_verify(run, step, m, bad);
    }
    if (st == ML_OK && manifest)
        *manifest = m;
    else
        json_decref(m);
    return st;
}

static void copy_name(char out[ML_PATH_NAME], const json_t *name)
{
    snprintf(out, ML_PATH_NAME, "%s", json_is_string(name) ? json_string_value(name) : "");
}

void ml_manifest_progress(const json_t *manifest, ml_checkpoint_progress *p)
{
    const json_t *from = json_object_get(manifest, "progress");
    *p = (ml_checkpoint_progress){
        .step = json_integer_value(json_object_get(from, "step")),
        .cursor = json_integer_value(json_object_get(from, "cursor")),
        .tokens = json_integer_value(json_object_get(from, "tokens")),
        .loss_first = number_from(json_object_get(from, "loss_first")),
        .loss_last = number_from(json_object_get(from, "loss_last")),
        .best_loss = number_from(json_object_get(from, "best_loss")),
        .best_step = json_integer_value(json_object_get(from, "best_step")),
        .stop_loss = number_from(json_object_get(from, "stop_loss")),
        .stop_count = json_integer_value(json_object_get(from, "stop_count")),
        .finished = json_is_true(json_object_get(from, "finished"))};
    const json_t *evaluated =
        json_object_get(from, "evaluated_step"); /* manifests of earlier versions lack it */
    p->evaluated_step = evaluated ? json_integer_value(evaluated) : p->step;
    copy_name(p->backend, json_object_get(from, "product_path"));
    copy_name(p->vector_path, json_object_get(from, "vector_path"));
}
