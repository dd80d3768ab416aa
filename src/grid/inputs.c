/* Ranks agree before they communicate.
 *
 * Every rank runs the same program over the same inputs and takes part in the same collectives.
 * That holds only where the inputs are the same, so they are made the same, or compared, before a
 * collective depends on them:
 *
 * - ml_grid_start: the launcher started as many ranks as MPI joins (launcher.c);
 * - ml_grid_agree_on_words, and ml_grid_agree_on for variables of the environment: what the ranks
 *   were asked for, compared by cli/main.c before a command runs;
 * - ml_grid_read_text: configurations, descriptions of models and machines, prompts: world rank 0
 *   reads each once, which is kinder to a parallel file system, and every rank parses its bytes;
 * - ml_grid_agree_on_file: bases, data sets and adapters, which each rank opens for itself, are
 *   compared by their hashes before the first collective of a model.
 *
 * From there on every rank does the same: what fails in parsing fails everywhere with the same
 * text, and what fails on one rank alone (a file that only its node lacks) is turned into
 * everyone's failure by ml_grid_agree and ml_grid_settle (agree.c).
 *
 * World rank 0 is what others are compared with: each compares for itself with what rank 0 has, the
 * lowest-numbered one that differs is found by a minimum, and only it tells what it has instead. So
 * agreement costs a broadcast of 64 bytes and a minimum, however many ranks there are. */
#include <errno.h>
#include <unistd.h>

#include "grid/grid_private.h"
#include "io/durable.h"

enum { VALUE_BYTES = 512, HOST_BYTES = 64, PIECE_BYTES = 64 << 10 };

typedef struct testimony {
    char host[HOST_BYTES], value[VALUE_BYTES];
} testimony;

static testimony testify(const char *value)
{
    testimony t = {"", ""};
    (void)gethostname(t.host, sizeof t.host - 1);
    snprintf(t.value, sizeof t.value, "%s", value);
    return t;
}

/* The lowest-numbered rank whose `hash` is not that of rank 0; −1 where there is none. */
static int find_other(const char hash[ML_SHA256_HEX])
{
    int rank = ml_grid_world_rank(), size = ml_grid_world_size(), lowest;
    char first[ML_SHA256_HEX];
    memcpy(first, hash, sizeof first);
    MPI_Bcast(first, sizeof first, MPI_CHAR, 0, MPI_COMM_WORLD);
    int mine = strcmp(first, hash) != 0 ? rank : size;
    MPI_Allreduce(&mine, &lowest, 1, MPI_INT, MPI_MIN, MPI_COMM_WORLD);
    return lowest < size ? lowest : -1;
}

/* Rank `other` has something else than rank 0. */
static ml_status refuse(const char *name, const char *value, int other, const char *advice)
{
    testimony first = testify(value), second = first;
    MPI_Bcast(&first, (int)sizeof first, MPI_BYTE, 0, MPI_COMM_WORLD);
    MPI_Bcast(&second, (int)sizeof second, MPI_BYTE, other, MPI_COMM_WORLD);
    return ml_fail(ML_USAGE,
                   "the ranks disagree on %s: %s on rank 0 (host %s), but %s on rank %d (host %s); "
                   "%s",
                   name, first.value, first.host, second.value, other, second.host, advice);
}

ml_status ml_grid_agree_on(const char *name, const char *value, const char *advice)
{
    char hash[ML_SHA256_HEX];
    if (ml_grid_world_size() == 1) return ML_OK;
    ml_sha256_of(value, strlen(value), hash);
    int other = find_other(hash);
    return other < 0 ? ML_OK : refuse(name, value, other, advice);
}

ml_status ml_grid_agree_on_file(const char *kind, const char *path, const char *hash)
{
    char name[VALUE_BYTES], value[VALUE_BYTES];
    snprintf(name, sizeof name, "the contents of %s %s", kind, path);
    snprintf(value, sizeof value, "SHA-256 %.16s…", hash);
    return ml_grid_agree_on(name, value,
                            "give all ranks the same file (a relative path begins where each rank "
                            "was started)");
}

/* ---- command lines --------------------------------------------------------------------------- */

/* Words [first, count) with blanks between them. */
static void join(int first, int count, char *const *words, char text[VALUE_BYTES])
{
    size_t used = 0;
    snprintf(text, VALUE_BYTES, "nothing");
    for (int i = first; i < count && used < VALUE_BYTES; i++)
        used +=
            (size_t)snprintf(text + used, VALUE_BYTES - used, "%s%s", used ? " " : "", words[i]);
}

/* One rank's words may end before the others': what is not there has the empty word's hash, and so
 * has an empty word; then it is the next that differs, or the number of words. */
ml_status ml_grid_agree_on_words(int count, char *const *words)
{
    char hash[ML_SHA256_HEX], name[64], rest[VALUE_BYTES], number[16];
    int most = count, other = -1;
    if (ml_grid_world_size() == 1) return ML_OK;
    MPI_Allreduce(MPI_IN_PLACE, &most, 1, MPI_INT, MPI_MAX, MPI_COMM_WORLD);
    for (int i = 0; i < most && other < 0; i++) {
        const char *word = i < count ? words[i] : "";
        ml_sha256_of(word, strlen(word), hash);
        other = find_other(hash);
        snprintf(name, sizeof name, "the command line from word %d on", i + 1);
        join(i, count, words, rest);
    }
    if (other >= 0) return refuse(name, rest, other, "start every rank with the same words");
    snprintf(number, sizeof number, "%d", count);
    return ml_grid_agree_on("the number of words of the command line", number,
                            "start every rank with the same words");
}

/* ---- texts ----------------------------------------------------------------------------------- */

/* As much of a text as is sent at once. */
typedef struct piece {
    int count, last;
    char bytes[PIECE_BYTES];
} piece;

/* On rank 0. An error ends the text, too. */
static ml_status read_piece(FILE *file, const char *path, const ml_text_kind *kind, int64_t before,
                            piece *p)
{
    *p = (piece){.last = 1};
    if (!file)
        return ml_fail(kind->unreadable, "%s: the %s cannot be opened: %s", path, kind->name,
                       strerror(errno));
    size_t got = fread(p->bytes, 1, sizeof p->bytes, file);
    if (ferror(file)) return ml_durable_read_failed(kind->unreadable, path);
    if (before + (int64_t)got > kind->limit)
        return ml_fail(kind->unreadable, "%s: larger than %lld bytes: not a %s", path,
                       (long long)kind->limit, kind->name);
    p->count = (int)got;
    p->last = got < sizeof p->bytes;
    return ML_OK;
}

ml_status ml_grid_read_text(const char *path, const ml_text_kind *kind, ml_text *out)
{
    ml_status st = ML_OK;
    bool reads = ml_grid_world_rank() == 0, alone = ml_grid_world_size() == 1;
    FILE *file = reads ? fopen(path, "rb") : NULL;
    piece p = {0};
    while (!p.last) {
        ml_status got = reads ? read_piece(file, path, kind, out->length, &p) : ML_OK;
        if (!alone) MPI_Bcast(&p, (int)sizeof p, MPI_BYTE, 0, MPI_COMM_WORLD);
        if (got == ML_OK && st == ML_OK) got = ml_text_add(out, p.bytes, p.count);
        if (st == ML_OK) st = got;
    }
    if (file) fclose(file);
    return ml_grid_settle(st);
}

ml_status ml_grid_share_text(ml_text *text)
{
    ml_status st = ML_OK;
    bool has = ml_grid_world_rank() == 0;
    char bytes[PIECE_BYTES];
    int64_t left = text->length, at = 0;
    if (ml_grid_world_size() == 1) return ML_OK;
    MPI_Bcast(&left, 1, MPI_INT64_T, 0, MPI_COMM_WORLD);
    if (!has) text->length = 0;
    for (; left > 0; left -= PIECE_BYTES, at += PIECE_BYTES) {
        int count = (int)ml_min(left, PIECE_BYTES);
        if (has) memcpy(bytes, text->data + at, (size_t)count);
        MPI_Bcast(bytes, count, MPI_BYTE, 0, MPI_COMM_WORLD);
        if (!has && st == ML_OK) st = ml_text_add(text, bytes, count);
    }
    return ml_grid_settle(st);
}
