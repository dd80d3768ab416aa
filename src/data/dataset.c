/* Reading a tokenised data set: everything is checked when it is opened, later reads are plain
 * pread calls.
 *
 * In memory stay the offsets of the sequences and one bit a token (is it a target), so lengths and
 * targets cost no reading. */
#include <errno.h>
#include <inttypes.h>
#include <sys/stat.h>
#include <unistd.h>

#include "data/dataset_private.h"
#include "data/dataset_scan.h"
#include "io/hdf5_work.h"
#include "mpilora/data.h"

struct ml_dataset {
    char *path;
    int fd;
    int64_t parts;     /* of a joined one, which has nothing else but sums and hashes; else 0 */
    ml_dataset **part; /* [parts] owned */
    double *weight;    /* [parts] */
    int64_t *first;    /* [parts + 1] the sequences before each part */
    int64_t sequences, tokens, vocab, max_len;
    int64_t tokens_at; /* byte in the file */
    int64_t *offsets;  /* [sequences + 1] */
    uint64_t *targets; /* a bit a token */
    bool pairs;        /* chosen and rejected, one after the other */
    char hash[ML_SHA256_HEX], tokenizer_hash[ML_SHA256_HEX];
};

static int64_t target_words(const ml_dataset *data) { return data->tokens / 64 + 1; }

/* ---- attributes ---------------------------------------------------------------------------- */

static ml_status read_integer(hid_t file, const char *path, const char *name, int64_t *out)
{
    hid_t attribute = H5Aexists(file, name) > 0 ? H5Aopen(file, name, H5P_DEFAULT) : -1;
    hid_t space = attribute >= 0 ? H5Aget_space(attribute) : -1;
    hid_t type = attribute >= 0 ? H5Aget_type(attribute) : -1;
    bool good = space >= 0 && type >= 0 && H5Sget_simple_extent_npoints(space) == 1 &&
                H5Tget_class(type) == H5T_INTEGER && H5Aread(attribute, H5T_NATIVE_INT64, out) >= 0;
    if (type >= 0) H5Tclose(type);
    if (space >= 0) H5Sclose(space);
    if (attribute >= 0) H5Aclose(attribute);
    return good ? ML_OK
                : ml_fail(ML_INPUT, "%s: attribute \"%s\" is missing or is not one integer", path,
                          name);
}

/* A hash of 64 digits, or "". */
static ml_status read_hash(hid_t file, const char *path, const char *name, char out[ML_SHA256_HEX])
{
    hid_t attribute = H5Aexists(file, name) > 0 ? H5Aopen(file, name, H5P_DEFAULT) : -1;
    hid_t space = attribute >= 0 ? H5Aget_space(attribute) : -1;
    hid_t type = attribute >= 0 ? H5Aget_type(attribute) : -1;
    hid_t wanted = ml_dataset_hash_type();
    bool good = wanted >= 0 && space >= 0 && type >= 0 &&
                H5Sget_simple_extent_npoints(space) == 1 && H5Tequal(type, wanted) > 0 &&
                H5Aread(attribute, wanted, out) >= 0;
    out[ML_SHA256_HEX - 1] = '\0';
    size_t length = good ? strspn(out, "0123456789abcdef") : 0;
    good = good && out[length] == '\0' && (length == 0 || length == ML_SHA256_HEX - 1);
    if (wanted >= 0) H5Tclose(wanted);
    if (type >= 0) H5Tclose(type);
    if (space >= 0) H5Sclose(space);
    if (attribute >= 0) H5Aclose(attribute);
    return good ? ML_OK
                : ml_fail(ML_INPUT, "%s: attribute \"%s\" is missing or is not a SHA-256", path,
                          name);
}

/* Data sets without the attribute have no pairs. */
static ml_status read_pairs(hid_t file, ml_dataset *data)
{
    int64_t pairs = 0;
    if (H5Aexists(file, "pairs") <= 0) return ML_OK;
    ml_status st = read_integer(file, data->path, "pairs", &pairs);
    data->pairs = pairs == 1;
    if (st == ML_OK && !data->pairs)
        return ml_fail(ML_INPUT, "%s: attribute \"pairs\" is %" PRId64 ", expected 1", data->path,
                       pairs);
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
    ML_TRY(read_integer(file, data->path, "vocab_size", &data->vocab));
    ML_TRY(read_integer(file, data->path, "max_len", &data->max_len));
    ML_TRY(read_pairs(file, data));
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
    ML_NEW(data->offsets, noffsets, ML_MEM_OTHER, "the data set's offsets");
    ML_TRY(ml_file_read(data->fd, data->path, data->offsets,
                        noffsets * (int64_t)sizeof *data->offsets, offsets_at));
    ML_TRY(check_offsets(data));
    ML_TRY(dataset_scan_check_tokens(scan, data->tokens_at, data->tokens, data->vocab));
    ML_NEW(data->targets, target_words(data), ML_MEM_OTHER, "the data set's mask");
    ML_TRY(dataset_scan_take_mask(scan, mask_at, data->tokens, data->targets));
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
    int64_t sequences, tokens, vocab, max_len, tokens_at;
    bool pairs;
    char hash[ML_SHA256_HEX], tokenizer_hash[ML_SHA256_HEX];
} header;

static header describe(const ml_dataset *data)
{
    header h = {data->sequences, data->tokens, data->vocab, data->max_len,
                data->tokens_at, data->pairs,  "",          ""};
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
    data->pairs = h->pairs;
    memcpy(data->hash, h->hash, sizeof data->hash);
    memcpy(data->tokenizer_hash, h->tokenizer_hash, sizeof data->tokenizer_hash);
    ML_NEW(data->offsets, data->sequences + 1, ML_MEM_OTHER, "the data set's offsets");
    ML_NEW(data->targets, target_words(data), ML_MEM_OTHER, "the data set's mask");
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
    ml_grid_broadcast(grid, ML_GROUP_NODE, 0, data->offsets,
                      (data->sequences + 1) * (int64_t)sizeof *data->offsets);
    ml_grid_broadcast(grid, ML_GROUP_NODE, 0, data->targets,
                      target_words(data) * (int64_t)sizeof *data->targets);
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

/* ---- several as one ------------------------------------------------------------------------- */

static ml_status check_alike(const ml_dataset *one, const ml_dataset *other)
{
    if (one->vocab == other->vocab && !strcmp(one->tokenizer_hash, other->tokenizer_hash))
        return ML_OK;
    return ml_fail(ML_INPUT,
                   "%s has a vocabulary of %" PRId64 " and tokenizer %.12s, %s one of %" PRId64
                   " and tokenizer %.12s: data sets that are mixed are made with one base",
                   one->path, one->vocab, one->tokenizer_hash, other->path, other->vocab,
                   other->tokenizer_hash);
}

static ml_status hash_parts(ml_dataset *data)
{
    ml_status st = ML_OK;
    ml_text text = {0};
    double sum = 0.0;
    for (int64_t k = 0; k < data->parts; k++) sum += data->weight[k];
    ML_TRY(ml_text_printf(&text, "mpilora-mixture 1\n"));
    for (int64_t k = 0; k < data->parts; k++)
        ML_TRY(ml_text_printf(&text, "%s %.17g\n", data->part[k]->hash, data->weight[k] / sum));
    ml_sha256_of(text.data, (size_t)text.length, data->hash);
done:
    ml_text_destroy(&text);
    return st;
}

ml_status ml_dataset_join(ml_dataset **out, int64_t parts, ml_dataset **part, const double *weight)
{
    ml_status st = ML_OK;
    ml_dataset *data = NULL;
    for (int64_t k = 0; k < parts; k++)
        if (part[k]->pairs)
            return ml_fail(
                ML_INPUT,
                "%s: has pairs of answers, which are not mixed with other files; put all "
                "pairs into one file before tokenize",
                part[k]->path);
    ML_NEW(data, 1, ML_MEM_OTHER, "a joined data set");
    data->fd = -1;
    ML_NEW(data->part, parts, ML_MEM_OTHER, "a joined data set");
    ML_NEW(data->weight, parts, ML_MEM_OTHER, "a joined data set");
    ML_NEW(data->first, parts + 1, ML_MEM_OTHER, "a joined data set");
    for (int64_t k = 0; k < parts; k++) {
        ML_TRY(check_alike(part[0], part[k]));
        data->part[k] = part[k];
        data->weight[k] = weight[k];
        data->sequences += part[k]->sequences;
        data->tokens += part[k]->tokens;
        data->max_len = ml_max(data->max_len, part[k]->max_len);
        data->first[k + 1] = data->sequences;
    }
    data->vocab = part[0]->vocab;
    memcpy(data->tokenizer_hash, part[0]->tokenizer_hash, sizeof data->tokenizer_hash);
    data->parts = parts;
    st = hash_parts(data);
    if (st != ML_OK) {
        data->parts = 0; /* what failed owns nothing */
        goto done;
    }
    memset(part, 0, (size_t)parts * sizeof *part);
    *out = data;
    data = NULL;
done:
    ml_dataset_destroy(data);
    return st;
}

int64_t ml_dataset_parts(const ml_dataset *data) { return data->parts; }
const char *ml_dataset_path(const ml_dataset *data) { return data->path; }
double ml_dataset_weight(const ml_dataset *data, int64_t part) { return data->weight[part]; }

const ml_dataset *ml_dataset_part(const ml_dataset *data, int64_t part, int64_t *first)
{
    *first = data->first[part];
    return data->part[part];
}

/* The part that sequence *i belongs to; *i becomes its number there. */
static const ml_dataset *find_part(const ml_dataset *data, int64_t *i)
{
    int64_t k = 0;
    while (k + 1 < data->parts && *i >= data->first[k + 1]) k++;
    *i -= data->first[k];
    return data->part[k];
}

void ml_dataset_destroy(ml_dataset *data)
{
    if (!data) return;
    for (int64_t k = 0; k < data->parts; k++) ml_dataset_destroy(data->part[k]);
    ml_memory_free(data->part);
    ml_memory_free(data->weight);
    ml_memory_free(data->first);
    if (data->fd >= 0) close(data->fd);
    ml_memory_free(data->targets);
    ml_memory_free(data->offsets);
    ml_memory_free(data->path);
    ml_memory_free(data);
}

int64_t ml_dataset_sequences(const ml_dataset *data) { return data->sequences; }
int64_t ml_dataset_tokens(const ml_dataset *data) { return data->tokens; }
int64_t ml_dataset_vocab(const ml_dataset *data) { return data->vocab; }
bool ml_dataset_has_pairs(const ml_dataset *data) { return data->pairs; }
const char *ml_dataset_hash(const ml_dataset *data) { return data->hash; }
const char *ml_dataset_tokenizer_hash(const ml_dataset *data) { return data->tokenizer_hash; }

int64_t ml_dataset_length(const ml_dataset *data, int64_t i, int64_t max_len)
{
    if (data->parts > 0) data = find_part(data, &i);
    int64_t length = data->offsets[i + 1] - data->offsets[i];
    return max_len > 0 ? ml_min(length, max_len) : length;
}

/* Bits set in [from, to). */
static int64_t count_bits(const uint64_t *bits, int64_t from, int64_t to)
{
    int64_t count = 0;
    while (from < to) {
        int64_t take = ml_min(64 - from % 64, to - from);
        uint64_t word = bits[from / 64] >> (from % 64);
        if (take < 64) word &= (UINT64_C(1) << take) - 1;
        count += __builtin_popcountll(word);
        from += take;
    }
    return count;
}

int64_t ml_dataset_targets(const ml_dataset *data, int64_t i, int64_t max_len)
{
    if (data->parts > 0) data = find_part(data, &i);
    int64_t first = data->offsets[i];
    return count_bits(data->targets, first + 1, first + ml_dataset_length(data, i, max_len));
}

ml_status ml_dataset_read(const ml_dataset *data, int64_t i, int64_t max_len, int32_t *tokens,
                          uint8_t *mask)
{
    if (data->parts > 0) data = find_part(data, &i);
    int64_t first = data->offsets[i], length = ml_dataset_length(data, i, max_len);
    for (int64_t t = 0; t < length; t++)
        mask[t] = (uint8_t)(data->targets[(first + t) / 64] >> ((first + t) % 64) & 1);
    return ml_file_read(data->fd, data->path, tokens, length * (int64_t)sizeof *tokens,
                        data->tokens_at + first * (int64_t)sizeof *tokens);
}
