/* base: status codes and error text, log, accounted memory, counter-based random numbers, bf16,
 * hashes.
 *
 * Everything else in mpilora stands on this module; it knows neither MPI nor any file format.
 *
 * Errors. Every fallible function returns an ml_status. The function that finds a fault calls
 * ml_fail(), which keeps one line of text (what, where, what was found, what was expected, what to
 * do) for the calling thread; callers pass the status on, and the program prints the line once.
 * The library never exits.
 */
#ifndef MPILORA_BASE_H
#define MPILORA_BASE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#define ML_NODISCARD __attribute__((warn_unused_result))
#define ML_PRINTF(f, a) __attribute__((format(printf, f, a)))

/* ---- status: the value is the program's exit code ------------------------------------------ */

typedef enum ml_status {
    ML_OK = 0,
    ML_USAGE = 2,     /* command line or configuration */
    ML_INPUT = 3,     /* a bad or missing input file, or a read error */
    ML_RESOURCE = 4,  /* out of memory or disk, or a write error */
    ML_NUMERIC = 5,   /* NaN or Inf */
    ML_INTERNAL = 70, /* a fault of mpilora */
    ML_STOPPED = 75   /* stopped by a signal after saving: requeue */
} ml_status;

/* Keeps the formatted line as the calling thread's error text (cut at 2047 bytes) and returns
 * `status`. */
ml_status ml_fail(ml_status status, const char *format, ...) ML_PRINTF(2, 3);
/* Puts "prefix: " before the kept text (to name a file or tensor on the way up) and returns
 * `status`. */
ml_status ml_fail_within(ml_status status, const char *format, ...) ML_PRINTF(2, 3);
/* The calling thread's error text; "" where nothing failed. Valid until the next ml_fail of the
 * thread. */
const char *ml_error_text(void);
void ml_error_clear(void);

/* In functions with a local `ml_status st` and a label `done`: go there when `call` fails. */
#define ML_TRY(call)                \
    do {                            \
        st = (call);                \
        if (st != ML_OK) goto done; \
    } while (0)

/* ---- log: lines on standard error, only from the process that ml_log_enable was called with true
 * on ---- */

void ml_log_enable(bool on); /* on by default; the grid turns it off on every rank but 0 */
void ml_log(const char *format, ...) ML_PRINTF(1, 2);
void ml_warn(const char *format, ...) ML_PRINTF(1, 2); /* the same with "warning: " before it */

/* ---- accounted memory ---------------------------------------------------------------------- */

typedef enum ml_category {
    ML_MEM_FROZEN,
    ML_MEM_TRAINABLE,
    ML_MEM_GRADIENT,
    ML_MEM_OPTIMIZER,
    ML_MEM_ACTIVATION,
    ML_MEM_WORKSPACE,
    ML_MEM_COMMUNICATION,
    ML_MEM_OTHER,
    ML_MEM_CATEGORIES
} ml_category;

/* "frozen", "trainable", "gradient", "optimizer", "activation", "workspace", "communication",
 * "other". */
const char *ml_category_name(ml_category category);

/* Zero-filled memory for count × size bytes, aligned to 64 bytes (to 2 MiB from 4 MiB up, where
 * huge pages are asked for); count 0 gives a valid pointer. NULL after ml_fail(ML_RESOURCE) naming
 * `what` and the bytes; thread-safe. Owned by the caller, who ends it with ml_memory_free (NULL is
 * fine). */
void *ml_memory_alloc(int64_t count, size_t size, ml_category category,
                      const char *what) ML_NODISCARD;
void ml_memory_free(void *pointer);
/* Grows (or shrinks) a block of the same category, new bytes zero; on failure NULL, and the old
 * block stays. */
void *ml_memory_resize(void *pointer, int64_t count, size_t size, const char *what) ML_NODISCARD;
char *ml_memory_string(const char *text) ML_NODISCARD; /* a copy, category other */

/* Counts bytes that come from elsewhere (memory that ranks share) among those of a category;
 * negative when they are given back. */
void ml_memory_account(ml_category category, int64_t bytes);

int64_t ml_memory_current(ml_category category);
int64_t ml_memory_peak(ml_category category);
int64_t ml_memory_peak_total(void);  /* peak of the sum over all categories */
int64_t ml_memory_allocations(void); /* how many so far: a step must not add any */
int64_t
ml_memory_process_peak(void); /* the kernel's VmHWM of this process, bytes; 0 where unknown */
int64_t ml_memory_process_now(void); /* VmRSS */

/* In functions with `ml_status st` and `done`: p = zeroed array of n elements of *p. */
#define ML_NEW(p, n, category, what)                                 \
    do {                                                             \
        (p) = ml_memory_alloc((n), sizeof *(p), (category), (what)); \
        if (!(p)) {                                                  \
            st = ML_RESOURCE;                                        \
            goto done;                                               \
        }                                                            \
    } while (0)

/* An array of `capacity` elements with room for more (twice as many, at least 8), new bytes zero;
 * NULL `pointer`: a new one. NULL after ml_fail(ML_RESOURCE), and the old array stays. */
void *ml_memory_grow(void *pointer, int64_t *capacity, size_t size, ml_category category,
                     const char *what) ML_NODISCARD;

/* In functions with `ml_status st` and `done`: array p of n elements gets room for one more. */
#define ML_GROW(p, n, capacity, category, what)                                           \
    do {                                                                                  \
        if ((n) < (capacity)) break;                                                      \
        void *grown_ = ml_memory_grow((p), &(capacity), sizeof *(p), (category), (what)); \
        if (!grown_) {                                                                    \
            st = ML_RESOURCE;                                                             \
            goto done;                                                                    \
        }                                                                                 \
        (p) = grown_;                                                                     \
    } while (0)

/* ---- numbers ------------------------------------------------------------------------------- */

typedef enum ml_dtype { ML_FP32, ML_BF16 } ml_dtype;

size_t ml_dtype_size(ml_dtype dtype);
const char *ml_dtype_name(ml_dtype dtype); /* "fp32", "bf16" */

static inline float ml_bf16_to_float(uint16_t b)
{
    uint32_t u = (uint32_t)b << 16;
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}

/* Round to nearest, ties to even; NaN stays NaN. */
static inline uint16_t ml_bf16_from_float(float f)
{
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    uint32_t nan = (u >> 16) | 0x40u, rounded = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
    return (uint16_t)((u & 0x7fffffffu) > 0x7f800000u
                          ? nan
                          : rounded); /* both sides made, so that loops become vector code */
}

static inline int64_t ml_min(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t ml_max(int64_t a, int64_t b) { return a > b ? a : b; }
static inline int64_t ml_round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

/* Part `index` of n items cut into `parts` ranges whose lengths differ by at most one (the longer
 * ones first). */
static inline int64_t ml_part_start(int64_t n, int64_t parts, int64_t index)
{
    return n / parts * index + ml_min(index, n % parts);
}
static inline int64_t ml_part_count(int64_t n, int64_t parts, int64_t index)
{
    return n / parts + (index < n % parts ? 1 : 0);
}

/* a·b into *out; false when it does not fit into int64_t or either is negative. */
bool ml_multiply(int64_t a, int64_t b, int64_t *out) ML_NODISCARD;

/* ---- counter-based random numbers: Philox4x32-10 (Salmon et al. 2011) ---------------------- */

/* A key made of (seed, tensor name); every number is a pure function of (key, stream, index), so
 * nothing depends on the process grid, on threads or on the order of calls. */
typedef struct ml_random_key {
    uint32_t k[2];
} ml_random_key;

ml_random_key ml_random_key_make(uint64_t seed, const char *name);
void ml_random_block(ml_random_key key, uint64_t stream, uint64_t index, uint32_t out[4]);
uint64_t ml_random_u64(ml_random_key key, uint64_t stream, uint64_t index);
double ml_random_uniform(ml_random_key key, uint64_t stream, uint64_t index); /* [0, 1), 53 bits */
double ml_random_normal(ml_random_key key, uint64_t stream,
                        uint64_t index); /* mean 0, deviation 1 (Box–Muller) */
/* out[i] = deviation times normal number first + i, for all i < count, of another sequence than
 * ml_random_normal's: four numbers come from one block, so they cost a third. The same wherever a
 * run starts. Uses all threads. */
void ml_random_normals(ml_random_key key, uint64_t stream, uint64_t first, int64_t count,
                       double deviation, float *out);

/* ---- SHA-256 ------------------------------------------------------------------------------- */

enum { ML_SHA256_PIECE = 256 << 10 };
#define ML_SHA256_HEX 65 /* 64 digits and the ending zero */

typedef struct ml_sha256 ml_sha256;
ml_status ml_sha256_create(ml_sha256 **out) ML_NODISCARD;
void ml_sha256_add(ml_sha256 *hash, const void *data, size_t bytes);
void ml_sha256_finish(ml_sha256 *hash, char hex[ML_SHA256_HEX]); /* and destroys it */
void ml_sha256_destroy(ml_sha256 *hash);                         /* unfinished ones; NULL is fine */
void ml_sha256_of(const void *data, size_t bytes, char hex[ML_SHA256_HEX]);
/* Hash of a whole file, read in pieces of ML_SHA256_PIECE bytes. ML_INPUT naming the file. */
ml_status ml_sha256_of_file(const char *path, char hex[ML_SHA256_HEX]) ML_NODISCARD;

/* ---- text ---------------------------------------------------------------------------------- */

/* A growing, always zero-ended byte string. Start from {0}; end with ml_text_destroy. */
typedef struct ml_text {
    char *data;
    int64_t length, capacity;
} ml_text;

ml_status ml_text_add(ml_text *text, const void *bytes, int64_t count) ML_NODISCARD;
ml_status ml_text_printf(ml_text *text, const char *format, ...) ML_PRINTF(2, 3) ML_NODISCARD;
void ml_text_destroy(ml_text *text);

/* The next character of valid or invalid UTF-8 at bytes[at] and its length in bytes; −1 and 1
 * where it is not valid (overlong, surrogate, beyond U+10FFFF, cut short). */
int32_t ml_utf8_next(const char *bytes, int64_t length, int64_t at, int *size);
/* The UTF-8 form of a character; returns its 1 to 4 bytes. */
size_t ml_utf8_put(int32_t character, char bytes[4]);

/* The word of `words` (NULL-ended) with the smallest edit distance to `word`, or NULL where none
 * is near (> 1/2 its length). */
const char *ml_nearest_word(const char *word, const char *const *words);

/* ---- files --------------------------------------------------------------------------------- */

/* Opens `path` for reading, where only a regular file makes sense (it is read in parts, or more
 * than once): *fd, owned by the caller, and its size in bytes. Never waits: what a pipe or a device
 * would do is not found out. Local. ML_INPUT naming the path, what it is and what was expected;
 * then *fd is −1. */
ml_status ml_open_regular(const char *path, int *fd, int64_t *bytes) ML_NODISCARD;

/* The same as a stream; fclose ends it. */
ml_status ml_open_regular_stream(const char *path, FILE **out) ML_NODISCARD;

double ml_seconds(void); /* a monotonic clock */

#endif
