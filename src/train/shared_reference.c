/* The reference's log-probabilities beside the data set, DATA.reference-HASH, for other runs: they
 * depend on the base, the adapter that training starts from, the data and how these are cut, and
 * on nothing that runs over the same of these differ in. The hash is of a line that says all this;
 * the file is that line, the doubles, and the SHA-256 of both.
 *
 * It saves a pass and no more: a file that is not there, is damaged or is of something else counts
 * for nothing, and where the folder cannot be written none is left. What a resumed run reads is in
 * its own folder. */
#include <inttypes.h>

#include "io/durable.h"
#include "train/run.h"

enum { HASH_DIGITS = 16, DIGEST = ML_SHA256_HEX - 1 };

/* Where training starts as the base, or as a given adapter beside it, whatever rank and seed. */
static bool is_sharable(const run *r)
{
    const ml_run_config *c = r->config;
    if (ml_run_config_is_pissa(c) || ml_run_config_is_loftq(c)) return false;
    return c->method.name == ML_METHOD_FULL || ml_method_has_lora(c->method.name);
}

static ml_status describe(const run *r, const data_source *source, ml_text *out)
{
    const session *s = &r->session;
    const ml_run_config *c = r->config;
    bool mismatched = ml_session_refers_mismatched(s);
    return ml_text_printf(
        out,
        "mpilora-shared-reference 2 base %s start %s data %s max_len %" PRId64
        " precision %s%s ld_alpha %.17g answers %s, behind other prompts among %" PRId64 "%s\n",
        ml_base_content_hash(s->base), r->first_hash[0] ? r->first_hash : "base",
        ml_dataset_hash(source->dataset), s->max_len, ml_dtype_name(c->precision),
        ml_run_config_is_exact(c) ? " numerics grid" : "", c->objective.ld_alpha,
        ml_run_config_unit(c) == 2 ? "paired" : "apart", mismatched ? c->batch.sequences : 0,
        !mismatched                                  ? ""
        : c->data.group_prompts                      ? ", grouped"
        : c->objective.pair_order == ML_PAIRS_BLOCKS ? ", in blocks"
                                                     : "");
}

/* The file's name, and how many arrays it has. */
static ml_status name(const ml_text *line, const char *data, char path[ML_DURABLE_PATH])
{
    char hash[ML_SHA256_HEX];
    ml_sha256_of(line->data, (size_t)line->length, hash);
    return ml_durable_path(path, "%s.reference-%.*s", data, (int)HASH_DIGITS, hash);
}

/* One array behind the other; the second only of kto. */
static int list(const run *r, data_source *source, double **out[2])
{
    out[0] = &source->reference;
    out[1] = &source->unpaired.reference;
    return ml_session_refers_mismatched(&r->session) ? 2 : 1;
}

static bool is_whole(const char *bytes, int64_t count, const ml_text *line)
{
    char digest[ML_SHA256_HEX];
    ml_sha256_of(bytes, (size_t)(count - DIGEST), digest);
    return !memcmp(bytes, line->data, (size_t)line->length) &&
           !memcmp(bytes + count - DIGEST, digest, DIGEST);
}

/* On world rank 0. */
static bool read_file(const char *path, const ml_text *line, double *const values[], int arrays,
                      int64_t n)
{
    char *bytes = NULL;
    int64_t size = n * (int64_t)sizeof **values, count = -1,
            expected = line->length + arrays * size + DIGEST;
    bool found = ml_durable_measure(path, &count) == ML_OK && count == expected &&
                 ml_durable_read(path, expected, &bytes, &count) == ML_OK && count == expected &&
                 is_whole(bytes, count, line);
    for (int i = 0; found && i < arrays; i++)
        memcpy(values[i], bytes + line->length + i * size, (size_t)size);
    if (!found) ml_error_clear();
    ml_memory_free(bytes);
    return found;
}

ml_status shared_reference_take(run *r, data_source *source, const char *data, bool *found)
{
    ml_status st = ML_OK;
    const ml_grid *grid = r->session.grid;
    int64_t n = ml_dataset_sequences(source->dataset), there = 0;
    double **places[2], *values[2] = {NULL, NULL};
    char path[ML_DURABLE_PATH];
    ml_text line = {0};
    int arrays = list(r, source, places);
    *found = false;
    if (!is_sharable(r)) return ML_OK;
    for (int i = 0; i < arrays; i++) {
        ML_NEW(*places[i], n, ML_MEM_OTHER, "the reference's log-probabilities");
        values[i] = *places[i];
    }
    ML_TRY(describe(r, source, &line));
    ML_TRY(name(&line, data, path));
done:
    st = ml_grid_agree(grid, st);
    if (st == ML_OK) {
        if (ml_grid_rank(grid) == 0) there = read_file(path, &line, values, arrays, n);
        ml_grid_broadcast(grid, ML_GROUP_WORLD, 0, &there, (int64_t)sizeof there);
        for (int i = 0; there && i < arrays; i++)
            ml_grid_broadcast(grid, ML_GROUP_WORLD, 0, values[i], n * (int64_t)sizeof **values);
        *found = there != 0;
        if (*found) ml_log("the reference of %s: from %s", data, path);
    }
    ml_text_destroy(&line);
    return st;
}

/* On world rank 0. */
static ml_status write_file(const run *r, data_source *source, const char *data)
{
    ml_status st = ML_OK;
    double **places[2];
    char path[ML_DURABLE_PATH], digest[ML_SHA256_HEX];
    ml_text line = {0};
    int64_t size = ml_dataset_sequences(source->dataset) * (int64_t)sizeof **places[0];
    ML_TRY(describe(r, source, &line));
    ML_TRY(name(&line, data, path));
    ML_TRY(ml_durable_may_write(path));
    for (int i = 0; i < list(r, source, places); i++)
        ML_TRY(ml_text_add(&line, (const char *)*places[i], size));
    ml_sha256_of(line.data, (size_t)line.length, digest);
    ML_TRY(ml_text_add(&line, digest, DIGEST));
    ML_TRY(ml_durable_write(path, line.data, line.length, NULL));
done:
    ml_text_destroy(&line);
    return st;
}

void shared_reference_leave(const run *r, data_source *source, const char *data)
{
    if (ml_grid_rank(r->session.grid) == 0 && is_sharable(r) &&
        write_file(r, source, data) != ML_OK)
        ml_error_clear();
}
