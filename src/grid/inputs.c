/* Ranks agree before they communicate.
 *
 * Every rank runs the same program over the same inputs and takes part in the same collectives.
 * That holds only where the inputs are the same, so they are made the same, or compared, before a
 * collective depends on them:
 *
 *   started by what?       ml_grid_start       the launcher's number of ranks is MPI's (launcher.c)
 *   asked for what?        ml_grid_agree_on_words, and on variables of the environment, by
 * cli/main.c texts: configuration, model, prompts, …      ml_grid_read_text   world rank 0 reads,
 * every rank parses the same bytes base, data, adapter    ml_grid_agree_on    by the hash of what
 * was opened, by who opens it
 *
 * From there on every rank does the same: what fails in parsing fails everywhere with the same
 * text, and what fails on one rank alone (a file that only its node lacks) is turned into
 * everyone's failure by ml_grid_agree and ml_grid_settle (agree.c).
 *
 * World rank 0 is what others are compared with: each compares for itself with what rank 0 has, the
 * lowest-numbered one that differs is found by a minimum, and only it tells what it has instead. So
 * agreement costs a broadcast of 64 bytes and a minimum, however many ranks there are. */
#include <unistd.h>

#include "grid/grid_private.h"

enum { VALUE_BYTES = 512, HOST_BYTES = 64 };

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

/* ---- command lines ------------------------------------------------------------------------- */

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
