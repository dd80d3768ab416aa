/* What a run leaves behind: adapter.h5, or, for full fine-tuning, a base file like any other. */
#include "train/run.h"

/* What the data call the classes of the head; "" where there are none or they have no names. */
static const char *label_names(const session *s)
{
    const bool head = ml_run_config_scores_labels(s->config) && ml_run_config_unit(s->config) == 1;
    return head ? ml_dataset_label_names(s->train.dataset) : "";
}

/* How the vectors of objective contrastive are made, where the base's directory says nothing or
 * something else; NULL: it says so. */
static const char *pooling_of(const session *s, const ml_base_files *files)
{
    static const char *const words[] = {
        [ML_POOLING_MEAN] = "mean", [ML_POOLING_CLS] = "cls", [ML_POOLING_LAST] = "last"};
    if (!ml_run_config_contrasts(s->config)) return NULL;
    bool said = s->config->objective.pooling == ML_POOLING_GIVEN &&
                ml_base_files_find(files, "modules.json");
    return said ? NULL : words[s->pooling];
}

static ml_status describe_vectors(const session *s, ml_adapter *adapter)
{
    ml_base_files files = {0};
    ml_status st = ml_base_read_files(s->base, &files);
    const char *pooling = st == ML_OK ? pooling_of(s, &files) : NULL;
    if (pooling) snprintf(adapter->pooling, sizeof adapter->pooling, "%s", pooling);
    adapter->normalised = pooling && s->config->objective.normalise;
    ml_base_files_destroy(&files);
    return st;
}

static ml_status write_adapter(run *r, const char *path)
{
    session *s = &r->session;
    ml_adapter adapter = {0};
    ml_status st = ml_peft_collect(s->peft, s->grid, ml_base_source_hash(s->base), &adapter);
    if (st != ML_OK) return st;
    snprintf(adapter.kernel, sizeof adapter.kernel, "%s", r->kernel);
    if (ml_run_config_is_loftq(r->config) || r->belongs_to_blocks)
        snprintf(adapter.base_content_hash, sizeof adapter.base_content_hash, "%s",
                 ml_base_content_hash(s->base));
    const char *names = label_names(s);
    if (*names && !(adapter.label_names = ml_memory_string(names))) st = ML_RESOURCE;
    if (st == ML_OK) st = describe_vectors(s, &adapter);
    if (st == ML_OK && ml_grid_rank(s->grid) == 0) st = ml_adapter_write(&adapter, path);
    st = ml_grid_agree(s->grid, st);
    ml_adapter_destroy(&adapter);
    return st;
}

/* ---- method full --------------------------------------------------------------------------- */

/* Elements of a tensor that are gathered and written at a time: whole tensors would add gigabytes
 * to the peak of a run, which the embedding of a large vocabulary alone does. */
enum { PIECE = 1 << 18 };

typedef struct model_writer {
    ml_base_writer *file;
    ml_base_files files;
    float *whole, *part;
} model_writer;

static int64_t piece_rows(int64_t rows, int64_t cols)
{
    return ml_min(rows, ml_max(PIECE / cols, 1));
}

static ml_status open_model(const session *s, const char *path, model_writer *w)
{
    ml_status st = ML_OK;
    int64_t most = 0, length;
    const char *tokenizer = ml_base_tokenizer(s->base, &length);
    char identity[2 * ML_SHA256_HEX + 16], source[ML_SHA256_HEX];
    for (int64_t i = 0; i < s->parameters.count; i++) {
        const ml_parameter *item = &s->parameters.items[i];
        most = ml_max(most, piece_rows(item->rows, item->cols) * item->cols);
    }
    ML_NEW(w->whole, most, ML_MEM_COMMUNICATION, "rows of a gathered tensor");
    ML_NEW(w->part, most, ML_MEM_COMMUNICATION, "rows of a gathered tensor");
    snprintf(identity, sizeof identity, "fine-tuned %s", ml_base_content_hash(s->base));
    ml_sha256_of(identity, strlen(identity), source);
    ML_TRY(ml_base_read_files(s->base, &w->files));
    if (*label_names(s)) ML_TRY(ml_base_files_name_labels(&w->files, label_names(s)));
    const char *pooling = pooling_of(s, &w->files);
    if (pooling)
        ML_TRY(ml_base_files_make_vectors(&w->files, ml_model_get_spec(s->model), pooling,
                                          s->config->objective.normalise));
    ML_TRY(ml_base_writer_create(&w->file, path, ml_model_get_spec(s->model), s->config->precision,
                                 tokenizer, length, source, &w->files));
done:
    return st;
}

static int64_t find_parameter(const ml_parameters *p, const char *name)
{
    for (int64_t i = 0; i < p->count; i++)
        if (!strcmp(p->items[i].name, name)) return i;
    return -1;
}

static ml_status write_tensor(session *s, model_writer *w, int64_t i, ml_status st)
{
    const ml_parameter *item = &s->parameters.items[i];
    int64_t step = piece_rows(item->rows, item->cols);
    for (int64_t done = 0; done < item->rows; done += step) {
        int64_t rows = ml_min(step, item->rows - done);
        ml_parameters_gather_rows(&s->parameters, s->grid, i, s->parameters.value, done, rows,
                                  w->whole, w->part);
        if (ml_grid_rank(s->grid) == 0 && st == ML_OK)
            st = ml_base_writer_rows(w->file, item->name, done, rows, w->whole);
    }
    return st;
}

/* Tensors in the order that the file wants; rank 0 writes, all take part in the gathering even
 * where writing has failed. */
static ml_status write_tensors(session *s, model_writer *w)
{
    ml_status st = ML_OK;
    const ml_model_spec *spec = ml_model_get_spec(s->model);
    for (int64_t t = 0; t < ml_model_tensor_count(spec); t++) {
        ml_model_tensor tensor;
        ml_model_tensor_at(spec, t, &tensor);
        st = write_tensor(s, w, find_parameter(&s->parameters, tensor.name), st);
    }
    return st;
}

static ml_status write_model(run *r, const char *path)
{
    session *s = &r->session;
    model_writer w = {0};
    bool writer = ml_grid_rank(s->grid) == 0;
    ml_status st = ml_grid_agree(s->grid, writer ? open_model(s, path, &w) : ML_OK);
    if (st == ML_OK) {
        st = write_tensors(s, &w);
        if (writer && st == ML_OK) {
            st = ml_base_writer_finish(w.file);
            w.file = NULL;
        }
        st = ml_grid_agree(s->grid, st);
    }
    ml_base_writer_discard(w.file);
    ml_base_files_destroy(&w.files);
    ml_memory_free(w.whole);
    ml_memory_free(w.part);
    return st;
}

static ml_status write_as(run *r, const char *prefix)
{
    ml_text path = {0};
    bool full = r->config->method.name == ML_METHOD_FULL;
    ml_status st = ml_text_printf(&path, "%s/%s%s", r->config->run_dir, prefix,
                                  full ? "model.h5" : "adapter.h5");
    st = ml_grid_agree(r->session.grid, st);
    if (st == ML_OK) st = check_state(r);
    if (st == ML_OK) st = full ? write_model(r, path.data) : write_adapter(r, path.data);
    ml_text_destroy(&path);
    return st;
}

ml_status write_result(run *r) { return write_as(r, ""); }

/* ---- the best step's ----------------------------------------------------------------------- */

/* Reads its values in the place of the last step's, which wait where the gradients were: nothing
 * needs these any more. */
static ml_status write_from_checkpoint(run *r)
{
    ml_parameters *p = &r->session.parameters;
    float *moments[] = {p->moment1, p->moment2};
    size_t bytes = (size_t)p->local * sizeof *p->value;
    memcpy(p->gradient, p->value, bytes);
    p->moment1 = p->moment2 = NULL; /* values alone are read */
    ml_status st = ml_checkpoint_load(r->directory, r->session.grid, p);
    p->moment1 = moments[0];
    p->moment2 = moments[1];
    if (st == ML_OK) st = write_as(r, "best-");
    memcpy(p->value, p->gradient, bytes);
    return st;
}

/* A best checkpoint that is gone (train.keep_best came later than it) or bad is no reason to fail
 * at the end of a run. */
ml_status write_best(run *r)
{
    const ml_checkpoint_progress *progress = &r->progress;
    if (!r->config->train.keep_best || progress->best_step == 0) return ML_OK;
    if (progress->best_step == r->step) return write_as(r, "best-");
    ml_status st = ml_checkpoint_choose(r->directory, r->session.grid, progress->best_step);
    if (st == ML_OK) return write_from_checkpoint(r);
    if (st != ML_INPUT) return st;
    ml_warn("nothing is written for the best step: %s", ml_error_text());
    return ML_OK;
}
