/* Labels and token types of a data set that is being written: each goes to a spool, at the place
 * that its sequence or token has; what was never written of a spool reads as zero. */
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <unistd.h>

#include "data/dataset_write.h"

void ml_dataset_end_labels(label_spools *labels)
{
    if (labels->fd >= 0) close(labels->fd);
    if (labels->type_fd >= 0) close(labels->type_fd);
    ml_memory_free(labels->names);
    ml_memory_free(labels->number);
}

static ml_status need_spool(const ml_dataset_writer *w, int *fd)
{
    if (*fd < 0) *fd = ml_dataset_open_spool(w->path);
    return *fd >= 0 ? ML_OK
                    : ml_fail(ML_RESOURCE, "%s: no file can be written beside it: %s", w->path,
                              strerror(errno));
}

static bool is_per_token(const label_spools *l) { return l->kind == ML_LABEL_TOKENS; }
static int64_t width(const label_spools *l) { return l->kind == ML_LABEL_BITS ? l->count : 1; }

/* ---- what they are ------------------------------------------------------------------------- */

static ml_status set_names(ml_dataset_writer *w, int64_t count, const char *names)
{
    label_spools *l = &w->labels;
    if (count > ML_MOST_LABELS)
        return ml_fail(ML_INPUT, "%s: %" PRId64 " classes are more than %d", w->path, count,
                       (int)ML_MOST_LABELS);
    if (strlen(names) >= ML_LABEL_NAMES_BYTES)
        return ml_fail(ML_INPUT,
                       "%s: the names of its %" PRId64
                       " classes have %zu bytes together, a data set has room for %d; use numbers",
                       w->path, count, strlen(names), (int)ML_LABEL_NAMES_BYTES);
    ml_memory_free(l->names);
    l->count = count;
    l->names = ml_memory_string(names);
    return l->names ? ML_OK : ML_RESOURCE;
}

ml_status ml_dataset_writer_labels(ml_dataset_writer *w, ml_label_kind kind, int64_t count,
                                   const char *names)
{
    w->labels.kind = kind;
    w->labels.largest = -1;
    return set_names(w, count, names);
}

ml_status ml_dataset_writer_name_labels(ml_dataset_writer *w, int64_t count, const char *names,
                                        const int32_t *number)
{
    ml_status st = ML_OK;
    label_spools *l = &w->labels;
    ML_TRY(set_names(w, count, names));
    ml_memory_free(l->number);
    l->number = NULL;
    if (!number) return ML_OK;
    ML_NEW(l->number, count, ML_MEM_OTHER, "the numbers of classes");
    memcpy(l->number, number, (size_t)count * sizeof *number);
done:
    return st;
}

int64_t ml_dataset_writer_label_count(const ml_dataset_writer *w) { return w->labels.count; }

/* ---- values -------------------------------------------------------------------------------- */

static ml_status check_class(label_spools *l, double value)
{
    int64_t most = l->kind == ML_LABEL_BITS ? 1 : (l->count ? l->count : ML_MOST_LABELS) - 1;
    if (!(value >= 0 && value <= (double)most) || value != floor(value))
        return ml_fail(ML_INPUT, "label %g is outside: %s go from 0 to %" PRId64, value,
                       l->kind == ML_LABEL_BITS ? "bits" : "classes", most);
    l->largest = ml_max(l->largest, (int64_t)value);
    return ML_OK;
}

static ml_status check_number(double value)
{
    return isfinite(value) ? ML_OK : ml_fail(ML_INPUT, "label %g is no finite number", value);
}

ml_status ml_dataset_writer_add_label(ml_dataset_writer *w, const float *values)
{
    ml_status st = ML_OK;
    label_spools *l = &w->labels;
    const int64_t n = width(l);
    int32_t *word = NULL;
    ML_NEW(word, n, ML_MEM_OTHER, "a label");
    for (int64_t k = 0; k < n; k++) {
        if (l->kind == ML_LABEL_NUMBER) {
            ML_TRY(check_number(values[k]));
            memcpy(word, values, sizeof *word);
        } else {
            ML_TRY(check_class(l, values[k]));
            word[k] = (int32_t)values[k];
        }
    }
    ML_TRY(need_spool(w, &l->fd));
    ML_TRY(ml_file_write(l->fd, w->path, word, n * (int64_t)sizeof *word,
                         (w->sequences - 1) * n * (int64_t)sizeof *word));
    l->labels++;
done:
    ml_memory_free(word);
    return st;
}

ml_status ml_dataset_writer_add_token_labels(ml_dataset_writer *w, const int32_t *classes)
{
    ml_status st = ML_OK;
    label_spools *l = &w->labels;
    const int64_t size = sizeof *classes;
    for (int64_t t = 0; t < w->last; t++)
        if (classes[t] != ML_LABEL_IGNORED) ML_TRY(check_class(l, classes[t]));
    ML_TRY(need_spool(w, &l->fd));
    ML_TRY(ml_file_write(l->fd, w->path, classes, w->last * size, (w->tokens - w->last) * size));
    l->labels += w->last;
done:
    return st;
}

ml_status ml_dataset_writer_add_types(ml_dataset_writer *w, const uint8_t *types)
{
    ml_status st = ML_OK;
    bool any = false;
    for (int64_t t = 0; t < w->last; t++) any = any || types[t] != 0;
    if (!any) return ML_OK;
    ML_TRY(need_spool(w, &w->labels.type_fd));
    ML_TRY(ml_file_write(w->labels.type_fd, w->path, types, w->last, w->tokens - w->last));
done:
    return st;
}

/* ---- the file ------------------------------------------------------------------------------ */

/* A spool of its whole length: what was not written is zero. */
static ml_status lengthen(const ml_dataset_writer *w, int fd, int64_t bytes)
{
    return ftruncate(fd, bytes) == 0
               ? ML_OK
               : ml_fail(ML_RESOURCE, "%s: no room for %" PRId64 " bytes beside it: %s", w->path,
                         bytes, strerror(errno));
}

ml_status ml_dataset_settle_labels(ml_dataset_writer *w)
{
    ml_status st = ML_OK;
    label_spools *l = &w->labels;
    const int64_t wanted = is_per_token(l) ? w->tokens : w->sequences;
    if (l->type_fd >= 0) {
        w->part[TYPES].bytes = w->tokens;
        ML_TRY(lengthen(w, l->type_fd, w->tokens));
    }
    if (l->kind == ML_LABEL_NONE) return ML_OK;
    if (l->labels != wanted || w->pairs)
        return ml_fail(ML_INTERNAL, "%s: %" PRId64 " labels for %" PRId64 "%s", w->path, l->labels,
                       wanted, w->pairs ? " halves of pairs" : "");
    if (l->count == 0) l->count = ml_max(1, l->largest + 1);
    if (l->largest >= l->count && l->kind != ML_LABEL_BITS)
        return ml_fail(ML_INTERNAL, "%s: class %" PRId64 " of %" PRId64, w->path, l->largest,
                       l->count);
    w->part[LABELS].bytes = wanted * width(l) * (int64_t)sizeof(int32_t);
done:
    return st;
}

ml_status ml_dataset_describe_labels(const ml_dataset_writer *w, ml_text *out)
{
    const label_spools *l = &w->labels;
    ml_status st = w->part[TYPES].bytes ? ml_text_printf(out, " types") : ML_OK;
    if (st != ML_OK || l->kind == ML_LABEL_NONE) return st;
    return ml_text_printf(out, " labels %s %" PRId64 " %s", ml_label_kind_name(l->kind), l->count,
                          l->names ? l->names : "");
}

static void renumber(const label_spools *l, int32_t *class, int64_t n)
{
    if (!l->number || l->kind == ML_LABEL_BITS) return;
    for (int64_t i = 0; i < n; i++)
        if (class[i] >= 0) class[i] = l->number[class[i]];
}

ml_status ml_dataset_stream_labels(ml_dataset_writer *w, int part, part_sink sink)
{
    ml_status st = ML_OK;
    const label_spools *l = &w->labels;
    const int64_t size = part == LABELS ? sizeof *w->piece : 1, whole = w->part[part].bytes;
    for (int64_t at = 0; at < whole; at += PIECE * size) {
        int64_t bytes = ml_min(PIECE * size, whole - at);
        ML_TRY(ml_file_read(part == LABELS ? l->fd : l->type_fd, w->path, w->piece, bytes, at));
        if (part == LABELS) renumber(l, w->piece, bytes / size);
        ML_TRY(sink(w, w->piece, bytes));
    }
done:
    return st;
}
