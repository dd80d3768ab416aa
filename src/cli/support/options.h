/* Table-driven command lines: positional words and --options, checked before anything is done. The
 * table of a command is also what its help, the man page and bash completion are made of. */
#ifndef MPILORA_CLI_SUPPORT_OPTIONS_H
#define MPILORA_CLI_SUPPORT_OPTIONS_H

#include "mpilora/base.h"

enum { OPTION_REPEATS = 64 };

/* What a command lets an OPTION_INT without a standard begin as, so that every number that a line
 * gives is checked. */
#define OPTION_ABSENT INT64_MIN

typedef enum option_kind {
    OPTION_FLAG,  /* --fresh            → bool */
    OPTION_TEXT,  /* --adapter PATH     → const char * */
    OPTION_LIST,  /* --set k=v, again and again → option_list */
    OPTION_INT,   /* --ranks N          → int64_t */
    OPTION_NUMBER /* --temperature x    → double */
} option_kind;

typedef struct option_list {
    int64_t count;
    const char *items[OPTION_REPEATS];
} option_list;

typedef struct option {
    const char *name; /* "--adapter"; NULL ends a table */
    option_kind kind;
    size_t offset;        /* of the value, of the kind's type, in the command's struct */
    const char *argument; /* "PATH", or all that is possible: "bf16|fp32"; NULL for a flag */
    const char *about;    /* what it does: a sentence without its full stop */
    const char *standard; /* the value where it is not given; NULL: the struct's as it was */
} option;

/* Fills `given`, the command's struct, with the defaults and then with what the line says, and up
 * to `most` positional words (borrowed from argv). ML_USAGE naming an unknown option (and the
 * nearest), a missing or malformed value, or fewer than `least` or more than `most` words; `usage`
 * is what the message ends with. */
ml_status options_read(int argc, char **argv, const option *table, void *given, int least, int most,
                       const char **words, const char *usage) ML_NODISCARD;

/* Whether `text` is the second of two words that an option may have. ML_USAGE naming `option`. */
ml_status options_choose(const char *option, const char *text, const char *first,
                         const char *second, bool *is_second) ML_NODISCARD;

/* "256G" is 256·10^9 bytes, "256GiB" or "256Gi" 256·2^30. ML_USAGE naming `option`. */
ml_status options_read_bytes(const char *option, const char *text, int64_t *out) ML_NODISCARD;

/* "32,16,1": whole numbers of at least 1 with commas between them, at most `most` of them.
 * ML_USAGE naming `option`. */
ml_status options_read_numbers(const char *option, const char *text, int64_t most, int64_t *out,
                               int64_t *count) ML_NODISCARD;

#endif
