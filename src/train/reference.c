/* The reference of objectives that ask how far an answer has moved: Σ log p of every answer with
 * the model before the first step, found once and kept in RUN/reference.bin, since the weights of
 * a resumed run are others. The file is a line that says what it is of, and doubles. */
#include <inttypes.h>

#include "io/durable.h"
#include "train/run.h"

static const char reference_name[] = "reference.bin";

static bool asked_to_stop(const void *of) { return wants_to_stop(of); }

/* The line: base and data; what else the start depends on, a resumed run has in common anyhow. */
static ml_status describe(const run *r, ml_text *out)
{
    const session *s = &r->session;
    return ml_text_printf(
        out, "mpilora-reference 1 base %s train %s valid %s max_len %" PRId64 "\n",
        ml_base_content_hash(s->base), ml_dataset_hash(s->train.dataset),
        s->valid.dataset ? ml_dataset_hash(s->valid.dataset) : "none", s->max_len);
}

/* The arrays of the file, one after the other, of all sequences of their data set. */
typedef struct stored {
    const data_source *source;
    double **values;
} stored;

enum { MOST_STORED = 4 };

static int list_stored(run *r, stored out[MOST_STORED])
{
    int count = 0;
    data_source *sources[] = {&r->session.train, &r->session.valid};
    for (int i = 0; i < 2; i++) {
        data_source *source = sources[i];
        if (!source->dataset) continue;
        out[count++] = (stored){source, &source->reference};
        if (ml_session_refers_mismatched(&r->session))
            out[count++] = (stored){source, &source->unpaired.reference};
    }
    return count;
}

static int64_t bytes_of(const stored *one)
{
    return ml_dataset_sequences(one->source->dataset) * (int64_t)sizeof **one->values;
}

static ml_status write_file(run *r, const char *path, ml_text *line)
{
    ml_status st = ML_OK;
    stored all[MOST_STORED];
    int count = list_stored(r, all);
    for (int i = 0; i < count; i++)
        ML_TRY(ml_text_add(line, (const char *)*all[i].values, bytes_of(&all[i])));
    ML_TRY(ml_durable_write(path, line->data, line->length, NULL));
done:
    return st;
}

/* On every rank, which all read it. */
static ml_status read_file(run *r, const char *path, const ml_text *line)
{
    ml_status st = ML_OK;
    char *bytes = NULL;
    stored all[MOST_STORED];
    int arrays = list_stored(r, all);
    int64_t count, at = line->length, expected = at;
    for (int i = 0; i < arrays; i++) expected += bytes_of(&all[i]);
    ML_TRY(ml_durable_read(path, expected + 1, &bytes, &count));
    if (count != expected || memcmp(bytes, line->data, (size_t)at) != 0) {
        st = ml_fail(ML_INPUT,
                     "%s: is not of this base, data.train, data.valid and data.max_len; go on with "
                     "those of the start, or begin again with --fresh",
                     path);
        goto done;
    }
    for (int i = 0; i < arrays; i++) {
        int64_t n = bytes_of(&all[i]);
        ML_NEW(*all[i].values, ml_dataset_sequences(all[i].source->dataset), ML_MEM_OTHER,
               "the reference's log-probabilities");
        memcpy(*all[i].values, bytes + at, (size_t)n);
        at += n;
    }
done:
    ml_memory_free(bytes);
    return st;
}

/* From what another run has left, or by a pass of its own. */
static ml_status find_one(run *r, data_source *source, const char *data)
{
    ml_status st = ML_OK;
    const evaluation_stop stop = {asked_to_stop, r};
    bool found;
    if (!source->dataset) return ML_OK;
    ML_TRY(shared_reference_take(r, source, data, &found));
    if (found) return ML_OK;
    ML_TRY(ml_session_refer(&r->session, source, &stop));
    shared_reference_leave(r, source, data);
done:
    return st;
}

ml_status find_reference(run *r, bool resumed)
{
    ml_status st = ML_OK;
    session *s = &r->session;
    ml_text line = {0};
    char path[ML_DURABLE_PATH];
    if (!ml_run_config_has_reference(r->config)) return ML_OK;
    ML_TRY(ml_durable_path(path, "%s/%s", r->config->run_dir, reference_name));
    ML_TRY(ml_grid_agree(s->grid, describe(r, &line)));
    if (resumed) {
        ML_TRY(ml_grid_agree(s->grid, read_file(r, path, &line)));
    } else {
        ML_TRY(find_one(r, &s->train, r->config->data.train.item[0].file));
        ML_TRY(find_one(r, &s->valid, r->config->data.valid));
        ML_TRY(ml_grid_agree(s->grid,
                             ml_grid_rank(s->grid) == 0 ? write_file(r, path, &line) : ML_OK));
    }
done:
    ml_text_destroy(&line);
    return st;
}
