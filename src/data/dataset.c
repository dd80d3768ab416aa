/* Opening a tokenised data set: everything is checked here, later reads (dataset_read.c) are plain
 * pread calls.
 *
 * In memory stay the offsets of the sequences and one bit a token (is it a target), so lengths and
 * targets cost no reading. */
#include <errno.h>
#include <inttypes.h>
#include <sys/stat.h>
#include <unistd.h>

#include "data/dataset_private.h"
#include "data/dataset_read.h"
#include "data/dataset_scan.h"
#include "io/hdf5_work.h"

/* ---- attributes ---------------------------------------------------------------------------- */

/* A text of at most 64 characters. */
static bool read_short_text(hid_t file, const char *name, char out[ML_SHA256_HEX])
{
    hid_t attribute = H5Aexists(file, name) > 0 ? H5Aopen(file, name, H5P_DEFAULT) : -1;
    hid_t space = attribute >= 0 ? H5Aget_space(attribute) : -1;
    hid_t type = attribute >= 0 ? H5Aget_type(attribute) : -1;
    hid_t wanted = ml_dataset_hash_type();
    bool good = wanted >= 0 && space >= 0 && type >= 0 &&
                H5Sget_simple_extent_npoints(space) == 1 && H5Tequal(type, wanted) > 0 &&
                H5Aread(attribute, wanted, out) >= 0;
    out[ML_SHA256_HEX - 1] = '\0';
    if (wanted >= 0) H5Tclose(wanted);
    if (type >= 0) H5Tclose(type);
    if (space >= 0) H5Sclose(space);
    if (attribute >= 0) H5Aclose(attribute);
    return good;
}

/* A hash of 64 digits, or "". */
static ml_status read_hash(hid_t file, const char *path, const char *name, char out[ML_SHA256_HEX])
{
    bool good = read_short_text(file, name, out);
    size_t length = good ? strspn(out, "0123456789abcdef") : 0;
    good = good && out[length] == '\0' && (length == 0 || length == ML_SHA256_HEX - 1);
    return good ? ML_OK
                : ml_fail(ML_INPUT, "%s: attribute \"%s\" is missing or is not a SHA-256", path,
                          name);
}

/* Data sets of other sources than conversations with a date have none. */
static ml_status read_date(hid_t file, ml_dataset *data)
{
    if (H5Aexists(file, "chat_date") <= 0 || read_short_text(file, "chat_date", data->date))
        return ML_OK;
    return ml_fail(ML_INPUT, "%s: attribute \"chat_date\" is not a date", data->path);
}

/* Data sets without the attribute have no pairs. */
static ml_status read_pairs(hid_t file, ml_dataset *data)
{
    int64_t pairs = 0;
    if (H5Aexists(file, "pairs") <= 0) return ML_OK;
    ml_status st = dataset_read_integer(file, data->path, "pairs", &pairs);
    data->pairs = pairs == 1;
    if (st == ML_OK && !data->pairs)
        return ml_fail(ML_INPUT, "%s: attribute \"pairs\" is %" PRId64 ", expected 1", data->path,
                       pairs);
    return st;
}

/* Data sets without the attribute have rows of one text. */
static ml_status read_related(hid_t file, ml_dataset *data)
{
    if (H5Aexists(file, "related") <= 0) return ML_OK;
    ml_status st = dataset_read_integer(file, data->path, "related", &data->related);
    if (st == ML_OK && (data->related < 2 || data->related > ML_MOST_RELATED || data->pairs))
        return ml_fail(ML_INPUT,
                       "%s: attribute \"related\" is %" PRId64 ", expected 2 to %d, and no pairs",
                       data->path, data->related, ML_MOST_RELATED);
    return st;
}

/* ---- contents ------------------------------------------------------------------------------ */

static ml_status check_offsets(ml_dataset *data)
{
    if (data->offsets[0] != 0 || data->offsets[data->sequences] != data->tokens)
        return ml_fail(ML_INPUT,
                       "%s: offsets go from %" PRId64 " to %" PRId64 ", expected 0 to the %" PRId64
                       " tokens",
                       data->path, data->offsets[0], data->offsets[data->sequences], data->tokens);
    for (int64_t i = 0; i < data->sequences; i++)
        if (data->offsets[i + 1] <= data->offsets[i])
            return ml_fail(ML_INPUT,
                           "%s: sequence %" PRId64 " goes from token %" PRId64 " to %" PRId64,
                           data->path, i, data->offsets[i], data->offsets[i + 1]);
    return ML_OK;
}

static ml_status load(ml_dataset *data, hid_t file, int64_t bytes, const dataset_scan *scan)
{
    ml_status st = ML_OK;
    int64_t noffsets, offsets_at, nmask, mask_at;
    ML_TRY(dataset_read_integer(file, data->path, "vocab_size", &data->vocab));
    ML_TRY(dataset_read_integer(file, data->path, "max_len", &data->max_len));
    ML_TRY(read_pairs(file, data));
    ML_TRY(read_related(file, data));
    ML_TRY(read_date(file, data));
    ML_TRY(read_hash(file, data->path, "content_sha256", data->hash));
    ML_TRY(read_hash(file, data->path, "tokenizer_sha256", data->tokenizer_hash));
    if (data->vocab < 1 || data->vocab > INT32_MAX || !data->hash[0]) {
        st = ml_fail(ML_INPUT,
                     "%s: a vocabulary of %" PRId64 " or an empty content hash makes no sense",
                     data->path, data->vocab);
        goto done;
    }
    ML_TRY(ml_hdf5_locate(file, data->path, "tokens", H5T_NATIVE_INT32, bytes, &data->tokens,
                          &data->tokens_at));
    ML_TRY(ml_hdf5_locate(file, data->path, "offsets", H5T_NATIVE_INT64, bytes, &noffsets,
                          &offsets_at));
    ML_TRY(ml_hdf5_locate(file, data->path, "mask", H5T_NATIVE_UINT8, bytes, &nmask, &mask_at));
    if (noffsets < 2 || nmask != data->tokens) {
        st = ml_fail(ML_INPUT,
                     "%s: %" PRId64 " tokens, %" PRId64 " mask bytes and %" PRId64
                     " offsets do not belong together",
                     data->path, data->tokens, nmask, noffsets);
        goto done;
    }
    data->sequences = noffsets - 1;
    if (data->pairs && data->sequences % 2 != 0) {
        st = ml_fail(ML_INPUT, "%s: pairs of sequences, but their number is %" PRId64, data->path,
                     data->sequences);
        goto done;
    }
    if (data->related && data->sequences % data->related != 0) {
        st = ml_fail(ML_INPUT,
                     "%s: rows of %" PRId64 " texts, but the number of sequences is %" PRId64,
                     data->path, data->related, data->sequences);
        goto done;
    }
    ML_NEW(data->offsets, noffsets, ML_MEM_OTHER, "the data set's offsets");
    ML_TRY(ml_file_read(data->fd, data->path, data->offsets,
                        noffsets * (int64_t)sizeof *data->offsets, offsets_at));
    ML_TRY(check_offsets(data));
    ML_TRY(dataset_scan_check_tokens(scan, data->tokens_at, data->tokens, data->vocab));
    ML_NEW(data->targets, ml_dataset_target_words(data), ML_MEM_OTHER, "the data set's mask");
    ML_TRY(dataset_scan_take_mask(scan, mask_at, data->tokens, data->targets));
    ML_TRY(dataset_labels_load(
        &data->labels,
        &(dataset_labels_file){file, data->fd, data->path, bytes, data->sequences, data->tokens,
                               data->pairs || data->related > 0, data->targets}));
done:
    return st;
}

/* With its path, and the file open: *bytes. */
static ml_status open_empty(ml_dataset **out, const char *path, int64_t *bytes)
{
    ml_status st = ML_OK;
    ml_dataset *data = NULL;
    ML_NEW(data, 1, ML_MEM_OTHER, "a data set");
    data->fd = -1;
    data->path = ml_memory_string(path);
    if (!data->path) {
        st = ML_RESOURCE;
        goto done;
    }
    ML_TRY(ml_open_regular(path, &data->fd, bytes));
    *out = data;
    data = NULL;
done:
    ml_dataset_destroy(data);
    return st;
}

/* Everything of an open file of `bytes` bytes. */
static ml_status read_file(ml_dataset *data, const char *path, int64_t bytes)
{
    ml_status st = ML_OK;
    dataset_scan scan = {0};
    hid_t file = -1;
    bool at_work = false;
    ML_TRY(dataset_scan_create(&scan, data->fd, path, bytes));
    ml_hdf5_begin(NULL);
    at_work = true;
    file = H5Fopen(path, H5F_ACC_RDONLY, H5P_DEFAULT);
    if (file < 0) {
        st = ml_fail(ML_INPUT,
                     "%s: HDF5 cannot open it (where file locks are refused, set "
                     "HDF5_USE_FILE_LOCKING=FALSE)",
                     path);
        goto done;
    }
    ML_TRY(load(data, file, bytes, &scan));
done:
    if (file >= 0) H5Fclose(file);
    if (at_work) st = ml_hdf5_end(st, path);
    dataset_scan_destroy(&scan);
    return st;
}

ml_status ml_dataset_open(ml_dataset **out, const char *path)
{
    ml_status st = ML_OK;
    ml_dataset *data = NULL;
    int64_t bytes;
    ML_TRY(open_empty(&data, path, &bytes));
    ML_TRY(read_file(data, path, bytes));
    *out = data;
    data = NULL;
done:
    ml_dataset_destroy(data);
    return st;
}

/* ---- one rank a node reads it -------------------------------------------------------------- */

/* Whether the ranks of a node have the same file open: a path may mean another one in another
 * directory, and then each rank reads its own. Collective over NODE. */
static bool is_one_file(const ml_dataset *data, const ml_grid *grid)
{
    struct stat about = {0};
    int failed = fstat(data->fd, &about);
    const int64_t own[] = {(int64_t)about.st_dev, (int64_t)about.st_ino, (int64_t)about.st_size};
    int64_t first[] = {own[0], own[1], own[2]};
    ml_grid_broadcast(grid, ML_GROUP_NODE, 0, first, (int64_t)sizeof first);
    int64_t differs = failed || memcmp(own, first, sizeof own) != 0;
    ml_grid_max_int64(grid, ML_GROUP_NODE, &differs, 1);
    return !differs;
}

/* What describes a data set, beside its arrays. */
typedef struct header {
    int64_t sequences, tokens, vocab, max_len, tokens_at, names; /* bytes of the labels' names */
    int64_t related;
    bool pairs;
    dataset_labels labels; /* but for its pointer */
    char hash[ML_SHA256_HEX], tokenizer_hash[ML_SHA256_HEX];
} header;

static header describe(const ml_dataset *data)
{
    header h = {.sequences = data->sequences,
                .tokens = data->tokens,
                .vocab = data->vocab,
                .max_len = data->max_len,
                .tokens_at = data->tokens_at,
                .names = data->labels.names ? (int64_t)strlen(data->labels.names) + 1 : 0,
                .related = data->related,
                .pairs = data->pairs,
                .labels = data->labels};
    memcpy(h.hash, data->hash, sizeof h.hash);
    memcpy(h.tokenizer_hash, data->tokenizer_hash, sizeof h.tokenizer_hash);
    return h;
}

/* Room for the arrays of a data set that another rank has read. */
static ml_status take_header(ml_dataset *data, const header *h)
{
    ml_status st = ML_OK;
    data->sequences = h->sequences;
    data->tokens = h->tokens;
    data->vocab = h->vocab;
    data->max_len = h->max_len;
    data->tokens_at = h->tokens_at;
    data->related = h->related;
    data->pairs = h->pairs;
    data->labels = h->labels;
    data->labels.names = NULL; /* the other rank's pointer */
    if (h->names > 0) ML_NEW(data->labels.names, h->names, ML_MEM_OTHER, "the names of labels");
    memcpy(data->hash, h->hash, sizeof data->hash);
    memcpy(data->tokenizer_hash, h->tokenizer_hash, sizeof data->tokenizer_hash);
    ML_NEW(data->offsets, data->sequences + 1, ML_MEM_OTHER, "the data set's offsets");
    ML_NEW(data->targets, ml_dataset_target_words(data), ML_MEM_OTHER, "the data set's mask");
done:
    return st;
}

/* The first rank of the node has `data` read; the others have it open. Collective over NODE. */
static ml_status spread(ml_dataset *data, const ml_grid *grid)
{
    bool first = ml_grid_group_rank(grid, ML_GROUP_NODE) == 0;
    header h = describe(data);
    ml_grid_broadcast(grid, ML_GROUP_NODE, 0, &h, (int64_t)sizeof h);
    ml_status st = ml_grid_agree_in(grid, ML_GROUP_NODE, first ? ML_OK : take_header(data, &h));
    if (st != ML_OK) return st;
    if (h.names > 0) ml_grid_broadcast(grid, ML_GROUP_NODE, 0, data->labels.names, h.names);
    ml_grid_broadcast(grid, ML_GROUP_NODE, 0, data->offsets,
                      (data->sequences + 1) * (int64_t)sizeof *data->offsets);
    ml_grid_broadcast(grid, ML_GROUP_NODE, 0, data->targets,
                      ml_dataset_target_words(data) * (int64_t)sizeof *data->targets);
    return ML_OK;
}

ml_status ml_dataset_open_together(ml_dataset **out, const char *path, const ml_grid *grid)
{
    ml_status st = ML_OK;
    ml_dataset *data = NULL;
    int64_t bytes;
    ML_TRY(ml_grid_agree_in(grid, ML_GROUP_NODE, open_empty(&data, path, &bytes)));
    bool together = is_one_file(data, grid);
    if (!together || ml_grid_group_rank(grid, ML_GROUP_NODE) == 0)
        st = read_file(data, path, bytes);
    ML_TRY(ml_grid_agree_in(grid, ML_GROUP_NODE, st));
    if (together) ML_TRY(spread(data, grid));
    *out = data;
    data = NULL;
done:
    ml_dataset_destroy(data);
    return st;
}

/* ---- the end --------------------------------------------------------------------------------- */

ml_dataset *ml_dataset_share(ml_dataset *data)
{
    data->sharers++;
    return data;
}

void ml_dataset_destroy(ml_dataset *data)
{
    if (!data || data->sharers-- > 0) return;
    for (int64_t k = 0; k < data->parts; k++) ml_dataset_destroy(data->part[k]);
    ml_memory_free(data->part);
    ml_memory_free(data->weight);
    ml_memory_free(data->first);
    if (data->fd >= 0) close(data->fd);
    ml_memory_free(data->targets);
    ml_memory_free(data->offsets);
    ml_memory_free(data->path);
    dataset_labels_destroy(&data->labels);
    ml_memory_free(data);
}
