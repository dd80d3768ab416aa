/* Writing a tokenised data set of unknown length with bounded memory.
 *
 * Tokens go to a nameless spool file beside the output (a token that is no target as its
 * complement), offsets to another. At the end HDF5 makes a temporary file with the metadata
 * alone; the contents are written into it by plain calls, since HDF5 does not survive a full disk;
 * it is sealed, synced and renamed, so an older file stays until the new one is whole. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "data/dataset_write.h"
#include "io/hdf5_work.h"

/* No signal ends the process while the file has a name. */
int ml_dataset_open_spool(const char *path)
{
    char *name = NULL;
    sigset_t all, before;
    if (asprintf(&name, "%s.spool-XXXXXX", path) < 0) return -1;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, &before);
    int fd = mkostemp(name, O_CLOEXEC);
    if (fd >= 0) unlink(name);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    free(name);
    return fd;
}

ml_status ml_dataset_writer_create(ml_dataset_writer **out, const char *path, int64_t vocab,
                                   const char *tokenizer_hash, int64_t max_len)
{
    ml_status st = ML_OK;
    ml_dataset_writer *w = NULL;
    ML_NEW(w, 1, ML_MEM_OTHER, "a data set writer");
    w->spool = w->offset_spool = w->out = w->labels.fd = w->labels.type_fd = -1;
    w->vocab = vocab;
    w->max_len = max_len;
    snprintf(w->tokenizer_hash, sizeof w->tokenizer_hash, "%s", tokenizer_hash);
    ML_NEW(w->offsets, PIECE, ML_MEM_OTHER, "a write buffer");
    w->filled_offsets = 1; /* the first sequence begins at 0 */
    ML_NEW(w->piece, PIECE, ML_MEM_OTHER, "a write buffer");
    ML_TRY(ml_check_replaceable(path));
    w->path = ml_memory_string(path);
    if (!w->path) {
        st = ML_RESOURCE;
        goto done;
    }
    ML_TRY(ml_durable_temporary(w->temporary, path));
    (void)unlink(w->temporary); /* left by a killed process that had this number */
    w->spool = ml_dataset_open_spool(path);
    w->offset_spool = ml_dataset_open_spool(path);
    if (w->spool < 0 || w->offset_spool < 0) {
        st =
            ml_fail(ML_RESOURCE, "%s: no file can be written beside it: %s", path, strerror(errno));
        goto done;
    }
    *out = w;
    w = NULL;
done:
    ml_dataset_writer_discard(w);
    return st;
}

void ml_dataset_writer_discard(ml_dataset_writer *w)
{
    if (!w) return;
    if (w->out >= 0) close(w->out);
    ml_durable_drop(w->temporary);
    if (w->spool >= 0) close(w->spool);
    if (w->offset_spool >= 0) close(w->offset_spool);
    ml_dataset_end_labels(&w->labels);
    ml_sha256_destroy(w->hash);
    ml_memory_free(w->piece);
    ml_memory_free(w->offsets);
    ml_memory_free(w->path);
    ml_memory_free(w);
}

void ml_dataset_writer_set_date(ml_dataset_writer *w, const char *date)
{
    snprintf(w->date, sizeof w->date, "%s", date);
}

void ml_dataset_writer_mark_pairs(ml_dataset_writer *w) { w->pairs = true; }
void ml_dataset_writer_mark_related(ml_dataset_writer *w, int64_t count) { w->related = count; }

static ml_status spool_piece(ml_dataset_writer *w)
{
    int64_t bytes = w->filled * (int64_t)sizeof *w->piece;
    ml_status st = ml_file_write(w->spool, w->path, w->piece, bytes,
                                 (w->tokens - w->filled) * (int64_t)sizeof *w->piece);
    w->filled = 0;
    return st;
}

static ml_status spool_offsets(ml_dataset_writer *w)
{
    const int64_t size = sizeof *w->offsets;
    int64_t before = w->sequences + 1 - w->filled_offsets;
    ml_status st = ml_file_write(w->offset_spool, w->path, w->offsets, w->filled_offsets * size,
                                 before * size);
    w->filled_offsets = 0;
    return st;
}

ml_status ml_dataset_writer_add(ml_dataset_writer *w, const int32_t *tokens, const uint8_t *mask,
                                int64_t count)
{
    ml_status st = ML_OK;
    if (count < 1) return ml_fail(ML_INTERNAL, "%s: an empty sequence cannot be stored", w->path);
    for (int64_t i = 0; i < count; i++) {
        if (tokens[i] < 0 || tokens[i] >= w->vocab)
            return ml_fail(ML_INPUT,
                           "token id %" PRId32
                           " is outside the vocabulary: ids go from 0 to %" PRId64,
                           tokens[i], w->vocab - 1);
        w->piece[w->filled++] = mask[i] ? tokens[i] : ~tokens[i];
        w->tokens++;
        if (w->filled == PIECE) ML_TRY(spool_piece(w));
    }
    if (w->filled_offsets == PIECE) ML_TRY(spool_offsets(w));
    w->offsets[w->filled_offsets++] = w->tokens;
    w->sequences++;
    w->last = count;
done:
    return st;
}

/* ---- the parts, piece by piece ------------------------------------------------------------- */

/* Passes the tokens, or the mask, from the spool to `sink`. */
static ml_status stream_spool(ml_dataset_writer *w, int part, part_sink sink)
{
    ml_status st = ML_OK;
    uint8_t *mask = NULL;
    ML_NEW(mask, PIECE, ML_MEM_OTHER, "a mask buffer");
    for (int64_t first = 0; first < w->tokens; first += PIECE) {
        int64_t n = ml_min(PIECE, w->tokens - first);
        ML_TRY(ml_file_read(w->spool, w->path, w->piece, n * (int64_t)sizeof *w->piece,
                            first * (int64_t)sizeof *w->piece));
        for (int64_t i = 0; i < n; i++) {
            mask[i] = w->piece[i] >= 0;
            if (w->piece[i] < 0) w->piece[i] = ~w->piece[i];
        }
        if (part == TOKENS) {
            ML_TRY(sink(w, w->piece, n * (int64_t)sizeof *w->piece));
        } else {
            ML_TRY(sink(w, mask, n));
        }
    }
done:
    ml_memory_free(mask);
    return st;
}

static ml_status stream_offsets(ml_dataset_writer *w, part_sink sink)
{
    const int64_t size = sizeof *w->offsets, count = w->sequences + 1;
    for (int64_t first = 0; first < count; first += PIECE) {
        int64_t bytes = ml_min(PIECE, count - first) * size;
        ml_status st = ml_file_read(w->offset_spool, w->path, w->offsets, bytes, first * size);
        if (st == ML_OK) st = sink(w, w->offsets, bytes);
        if (st != ML_OK) return st;
    }
    return ML_OK;
}

static ml_status stream_part(ml_dataset_writer *w, int part, part_sink sink)
{
    if (part == LABELS || part == TYPES) return ml_dataset_stream_labels(w, part, sink);
    return part == OFFSETS ? stream_offsets(w, sink) : stream_spool(w, part, sink);
}

static ml_status hash_sink(ml_dataset_writer *w, const void *data, int64_t bytes)
{
    ml_sha256_add(w->hash, data, (size_t)bytes);
    return ML_OK;
}

static ml_status file_sink(ml_dataset_writer *w, const void *data, int64_t bytes)
{
    ml_status st = ml_file_write(w->out, w->path, data, bytes, w->written);
    w->written += bytes;
    return st;
}

static ml_status hash_content(ml_dataset_writer *w)
{
    ml_status st = ML_OK;
    ml_text head = {0};
    ML_TRY(ml_text_printf(
        &head, ML_DATASET_KIND " 1 vocabulary %" PRId64 " tokenizer %s sequences %" PRId64 "%s",
        w->vocab, w->tokenizer_hash, w->sequences, w->pairs ? " pairs" : ""));
    if (w->related) ML_TRY(ml_text_printf(&head, " related %" PRId64, w->related));
    ML_TRY(ml_dataset_describe_labels(w, &head));
    ML_TRY(ml_text_add(&head, "\n", 1));
    ML_TRY(ml_sha256_create(&w->hash));
    ml_sha256_add(w->hash, head.data, (size_t)head.length);
    for (int p = 0; p < PARTS; p++) ML_TRY(stream_part(w, p, hash_sink));
    ml_sha256_finish(w->hash, w->content_hash);
    w->hash = NULL;
done:
    ml_text_destroy(&head);
    return st;
}

/* ---- the skeleton -------------------------------------------------------------------------- */

static bool put_attribute(hid_t file, const char *name, hid_t type, const void *value)
{
    hid_t space = H5Screate(H5S_SCALAR);
    hid_t attribute = H5Acreate2(file, name, type, space, H5P_DEFAULT, H5P_DEFAULT);
    bool good = attribute >= 0 && H5Awrite(attribute, type, value) >= 0;
    if (attribute >= 0) H5Aclose(attribute);
    if (space >= 0) H5Sclose(space);
    return good;
}

static bool put_label_attributes(hid_t file, const label_spools *l)
{
    const int64_t kind = l->kind;
    const char *names = l->names ? l->names : "";
    if (l->kind == ML_LABEL_NONE) return true;
    hid_t text = H5Tcopy(H5T_C_S1);
    bool good = text >= 0 && H5Tset_size(text, strlen(names) + 1) >= 0 &&
                put_attribute(file, "label_kind", H5T_NATIVE_INT64, &kind) &&
                put_attribute(file, "label_count", H5T_NATIVE_INT64, &l->count) &&
                put_attribute(file, "label_names", text, names);
    if (text >= 0) H5Tclose(text);
    return good;
}

static bool put_attributes(hid_t file, const ml_dataset_writer *w)
{
    const int64_t version = 1, pairs = 1;
    char format[ML_SHA256_HEX] = ML_DATASET_KIND;
    hid_t text = ml_dataset_hash_type();
    bool good = text >= 0 && put_attribute(file, "format", text, format) &&
                put_attribute(file, "version", H5T_NATIVE_INT64, &version) &&
                put_attribute(file, "vocab_size", H5T_NATIVE_INT64, &w->vocab) &&
                put_attribute(file, "max_len", H5T_NATIVE_INT64, &w->max_len) &&
                (!w->pairs || put_attribute(file, "pairs", H5T_NATIVE_INT64, &pairs)) &&
                (!w->related || put_attribute(file, "related", H5T_NATIVE_INT64, &w->related)) &&
                (!*w->date || put_attribute(file, "chat_date", text, w->date)) &&
                put_label_attributes(file, &w->labels) &&
                put_attribute(file, "tokenizer_sha256", text, w->tokenizer_hash) &&
                put_attribute(file, "content_sha256", text, w->content_hash);
    if (text >= 0) H5Tclose(text);
    return good;
}

/* A contiguous dataset whose place is settled now and that HDF5 never fills. */
static bool put_dataset(hid_t file, const char *name, hid_t type, extent *part)
{
    hsize_t count = (hsize_t)part->bytes / H5Tget_size(type);
    hid_t space = H5Screate_simple(1, &count, NULL);
    hid_t plist = H5Pcreate(H5P_DATASET_CREATE);
    hid_t set = -1;
    if (space >= 0 && plist >= 0 && H5Pset_layout(plist, H5D_CONTIGUOUS) >= 0 &&
        H5Pset_alloc_time(plist, H5D_ALLOC_TIME_EARLY) >= 0 &&
        H5Pset_fill_time(plist, H5D_FILL_TIME_NEVER) >= 0 &&
        H5Pset_obj_track_times(plist, false) >= 0)
        set = H5Dcreate2(file, name, type, space, H5P_DEFAULT, plist, H5P_DEFAULT);
    haddr_t place = set >= 0 ? H5Dget_offset(set) : HADDR_UNDEF;
    part->at = place == HADDR_UNDEF ? -1 : (int64_t)place;
    if (set >= 0) H5Dclose(set);
    if (plist >= 0) H5Pclose(plist);
    if (space >= 0) H5Sclose(space);
    return part->at >= 0;
}

/* The parts that every data set has, and those that are not empty. */
static bool put_parts(hid_t file, ml_dataset_writer *w)
{
    const bool tokens = w->labels.kind == ML_LABEL_TOKENS;
    extent *labels = &w->part[LABELS], *types = &w->part[TYPES];
    return put_dataset(file, "tokens", H5T_NATIVE_INT32, &w->part[TOKENS]) &&
           put_dataset(file, "offsets", H5T_NATIVE_INT64, &w->part[OFFSETS]) &&
           put_dataset(file, "mask", H5T_NATIVE_UINT8, &w->part[MASK]) &&
           (!labels->bytes ||
            put_dataset(file, tokens ? "token_labels" : "labels",
                        w->labels.kind == ML_LABEL_NUMBER ? H5T_NATIVE_FLOAT : H5T_NATIVE_INT32,
                        labels)) &&
           (!types->bytes || put_dataset(file, "types", H5T_NATIVE_UINT8, types));
}

static ml_status reserve_room(const ml_dataset_writer *w, int fd, int64_t bytes)
{
    int error = posix_fallocate(fd, 0, bytes);
    if (error == ENOSPC || error == EDQUOT || error == EFBIG || error == EIO)
        return ml_fail(ML_RESOURCE, "%s: no room for its %" PRId64 " bytes: %s", w->path, bytes,
                       strerror(error));
    return ML_OK; /* where a file system cannot reserve, writing will tell */
}

/* HDF5 crashes at exit where it met a full disk: tries the file's size before HDF5 makes it. */
static ml_status try_room(const ml_dataset_writer *w)
{
    int64_t bytes = METADATA_BYTES;
    for (int p = 0; p < PARTS; p++) bytes += w->part[p].bytes;
    int fd = open(w->temporary, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (fd < 0)
        return ml_fail(ML_RESOURCE, "%s: cannot be created: %s", w->temporary, strerror(errno));
    ml_status st = reserve_room(w, fd, bytes);
    close(fd);
    unlink(w->temporary);
    return st;
}

/* Makes the temporary file with all its metadata and the places of the parts, but not their
 * contents. */
static ml_status make_skeleton(ml_dataset_writer *w)
{
    ml_hdf5_begin(w->temporary);
    hid_t create = H5Pcreate(H5P_FILE_CREATE);
    hid_t file = -1;
    if (create >= 0 && H5Pset_userblock(create, ML_SEAL_BYTES) >= 0 &&
        H5Pset_obj_track_times(create, false) >= 0)
        file = H5Fcreate(w->temporary, H5F_ACC_EXCL, create, H5P_DEFAULT);
    bool good = file >= 0 && put_attributes(file, w) && put_parts(file, w);
    if (file >= 0 && H5Fclose(file) < 0) good = false;
    if (create >= 0) H5Pclose(create);
    if (good) w->out = open(w->temporary, O_RDWR | O_CLOEXEC);
    ml_status st = w->out >= 0 ? ML_OK
                               : ml_fail(ML_RESOURCE, "%s: cannot be made by HDF5: %s",
                                         w->temporary, strerror(errno));
    return ml_hdf5_end(st, w->path);
}

/* ---- the file ------------------------------------------------------------------------------ */

static ml_status fill_file(ml_dataset_writer *w)
{
    ml_status st = ML_OK;
    char hex[ML_SHA256_HEX], block[ML_SEAL_BYTES];
    struct stat about;
    if (fstat(w->out, &about) != 0)
        return ml_fail(ML_RESOURCE, "%s: cannot be examined: %s", w->temporary, strerror(errno));
    ML_TRY(reserve_room(w, w->out, about.st_size));
    for (int p = 0; p < PARTS; p++) {
        w->written = w->part[p].at;
        ML_TRY(stream_part(w, p, file_sink));
    }
    ML_TRY(ml_file_hash(w->out, w->temporary, ML_SEAL_BYTES, about.st_size, NULL, NULL, hex));
    ml_seal_make(block, ML_DATASET_KIND, hex);
    ML_TRY(ml_file_write(w->out, w->path, block, ML_SEAL_BYTES, 0));
done:
    return st;
}

static ml_status put_in_place(ml_dataset_writer *w)
{
    if (fsync(w->out) != 0)
        return ml_fail(ML_RESOURCE, "%s: cannot be synced to disk: %s", w->path, strerror(errno));
    ml_status st = ml_durable_rename(w->temporary, w->path);
    if (st == ML_OK) *w->temporary = '\0';
    return st;
}

ml_status ml_dataset_writer_finish(ml_dataset_writer *w)
{
    ml_status st = ML_OK;
    if (!w->sequences) {
        st = ml_fail(ML_INPUT, "%s: is not written: there is not one sequence", w->path);
        goto done;
    }
    ML_TRY(spool_piece(w));
    ML_TRY(spool_offsets(w));
    w->part[TOKENS].bytes = w->tokens * (int64_t)sizeof(int32_t);
    w->part[OFFSETS].bytes = (w->sequences + 1) * (int64_t)sizeof(int64_t);
    w->part[MASK].bytes = w->tokens;
    ML_TRY(ml_dataset_settle_labels(w));
    ML_TRY(hash_content(w));
    ML_TRY(try_room(w));
    ML_TRY(make_skeleton(w));
    ML_TRY(fill_file(w));
    ML_TRY(put_in_place(w));
done:
    ml_dataset_writer_discard(w);
    return st;
}
