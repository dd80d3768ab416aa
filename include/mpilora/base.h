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

#include "mpilora/number.h"

/* Around the declarations of every public header: C names in C++, and the only symbols that the
 * library lets out (everything else is compiled hidden). */
#ifdef __cplusplus
#define ML_BEGIN_DECLS \
    extern "C" {       \
    _Pragma("GCC visibility push(default)")
#define ML_END_DECLS              \
    _Pragma("GCC visibility pop") \
    }
#else
#define ML_BEGIN_DECLS _Pragma("GCC visibility push(default)")
#define ML_END_DECLS _Pragma("GCC visibility pop")
#endif

ML_BEGIN_DECLS

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
 * `status`.
 * Shapes: none.
 * Ownership: borrows the arguments.
 * Local.
 * Errors: none. */
ml_status ml_fail(ml_status status, const char *format, ...) ML_PRINTF(2, 3);

/* Puts "prefix: " before the kept text (to name a file or tensor on the way up) and returns
 * `status`.
 * Shapes: none.
 * Ownership: borrows the arguments.
 * Local.
 * Errors: none. */
ml_status ml_fail_within(ml_status status, const char *format, ...) ML_PRINTF(2, 3);

/* The calling thread's error text, "" where nothing failed; and its end.
 * Shapes: none.
 * Ownership: borrowed, valid until the next ml_fail of the thread.
 * Local.
 * Errors: none. */
const char *ml_error_text(void);
void ml_error_clear(void);

/* In functions with a local `ml_status st` and a label `done`: go there when `call` fails. */
#define ML_TRY(call)                \
    do {                            \
        st = (call);                \
        if (st != ML_OK) goto done; \
    } while (0)

/* ---- log ------------------------------------------------------------------------------------ */

/* Whether this process logs; it does unless told otherwise, and the grid turns it off on every rank
 * but 0.
 * Shapes: none.
 * Ownership: none.
 * Local.
 * Errors: none. */
void ml_log_enable(bool on);

/* A line on standard error, for ml_warn with "warning: " before it.
 * Shapes: none.
 * Ownership: borrows the arguments.
 * Local.
 * Errors: none. */
void ml_log(const char *format, ...) ML_PRINTF(1, 2);
void ml_warn(const char *format, ...) ML_PRINTF(1, 2);

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

/* The word of a category: "frozen", "trainable", "gradient", "optimizer", "activation",
 * "workspace", "communication", "other".
 * Shapes: none.
 * Ownership: static.
 * Local.
 * Errors: none. */
const char *ml_category_name(ml_category category);

/* Zero-filled memory, aligned to 64 bytes (to 2 MiB from 4 MiB up, where huge pages are asked
 * for); count 0 gives a valid pointer. Thread-safe.
 * Shapes: count × size bytes.
 * Ownership: the caller's, who ends it with ml_memory_free.
 * Local.
 * Errors: NULL after ml_fail(ML_RESOURCE) naming `what` and the bytes. */
void *ml_memory_alloc(int64_t count, size_t size, ml_category category,
                      const char *what) ML_NODISCARD;

/* From now on ml_memory_alloc_shareable gives memory that other processes can map: for a rank with
 * others on its node. Before, and with false, it is ml_memory_alloc.
 * Shapes: none.
 * Ownership: none.
 * Local; from one thread alone, as ml_memory_alloc_shareable and the end of its blocks.
 * Errors: none. */
void ml_memory_share(bool yes);

/* As ml_memory_alloc, for vectors that ranks sum: where others can read them without the kernel's
 * help, if they are large and the kernel has memory files, else in plain memory.
 * Shapes: count × size bytes.
 * Ownership: the caller's, who ends it with ml_memory_free.
 * Local.
 * Errors: NULL after ml_fail(ML_RESOURCE) naming `what` and the bytes. */
void *ml_memory_alloc_shareable(int64_t count, size_t size, ml_category category,
                                const char *what) ML_NODISCARD;

/* A block of memory that others can map as /proc/PID/fd/N of this process. */
typedef struct ml_shareable {
    const void *start;
    int64_t bytes; /* whole huge pages */
    int fd;
    uint32_t serial; /* of the blocks of this process, from 1 on */
} ml_shareable;

/* The block that a pointer is in; false: it is in none.
 * Shapes: bytes.
 * Ownership: borrows `pointer`; the block stays its owner's.
 * Local.
 * Errors: none. */
bool ml_memory_find_shareable(const void *pointer, ml_shareable *out);

/* Gives memory back; NULL is fine.
 * Shapes: none.
 * Ownership: takes `pointer`.
 * Local.
 * Errors: none. */
void ml_memory_free(void *pointer);

/* Lets the kernel give its pages to a block that ml_memory_alloc has just made, by all threads:
 * what otherwise makes its first use slow. The block stays zero.
 * Shapes: none.
 * Ownership: borrows `pointer`; NULL is fine.
 * Local.
 * Errors: none. */
void ml_memory_take_pages(void *pointer);

/* Grows (or shrinks) a block of the same category, new bytes zero.
 * Shapes: count × size bytes.
 * Ownership: takes `pointer` where it succeeds; the result is the caller's.
 * Local.
 * Errors: NULL after ml_fail(ML_RESOURCE), and the old block stays. */
void *ml_memory_resize(void *pointer, int64_t count, size_t size, const char *what) ML_NODISCARD;

/* A copy of a text, of category other.
 * Shapes: bytes up to the ending zero.
 * Ownership: the caller's.
 * Local.
 * Errors: NULL after ml_fail(ML_RESOURCE). */
char *ml_memory_string(const char *text) ML_NODISCARD;

/* Counts bytes that come from elsewhere (memory that ranks share) among those of a category;
 * negative when they are given back.
 * Shapes: bytes.
 * Ownership: none.
 * Local.
 * Errors: none. */
void ml_memory_account(ml_category category, int64_t bytes);

/* What is accounted now, and at most so far, of a category; the peak of the sum over all of them;
 * how many allocations there were (a step must not add any).
 * Shapes: bytes; a count.
 * Ownership: none.
 * Local.
 * Errors: none. */
int64_t ml_memory_current(ml_category category);
int64_t ml_memory_peak(ml_category category);
int64_t ml_memory_peak_total(void);
int64_t ml_memory_allocations(void);

/* The kernel's VmHWM and VmRSS of this process; 0 where unknown.
 * Shapes: bytes.
 * Ownership: none.
 * Local.
 * Errors: none. */
int64_t ml_memory_process_peak(void);
int64_t ml_memory_process_now(void);

/* A page's bytes.
 * Shapes: bytes.
 * Ownership: none.
 * Local.
 * Errors: none. */
int64_t ml_memory_page(void);

/* A piece of memory. Borrowed. */
typedef struct ml_memory_span {
    const void *data;
    int64_t bytes;
} ml_memory_span;

/* Whole zero pages that belong to nothing else, so that a file can be laid over them. */
typedef struct ml_memory_block {
    void *start; /* at a multiple of 2 MiB; NULL: there is none */
    int64_t bytes, counted;
    ml_category category;
} ml_memory_block;

/* `counted` of its bytes are accounted for: the rest is room between what is in use.
 * Shapes: bytes.
 * Ownership: *out is the caller's, who ends it with ml_memory_release.
 * Local.
 * Errors: ML_RESOURCE naming `what` and the bytes. */
ml_status ml_memory_reserve(ml_memory_block *out, int64_t bytes, int64_t counted,
                            ml_category category, const char *what) ML_NODISCARD;

/* Gives it back, with what was laid over it; one that is not there is fine.
 * Shapes: none.
 * Ownership: takes `block`.
 * Local.
 * Errors: none. */
void ml_memory_release(ml_memory_block *block);

/* Until ml_memory_forget, pages of a block that shows a file which the file has no more (it was
 * cut, or cannot be read) become zeros, with all behind them, where their next touch would end the
 * process by SIGBUS; ml_memory_has_lost says that there were some.
 * Shapes: bytes; whole pages.
 * Ownership: `block` is borrowed until then.
 * Local; watch and forget from one thread alone.
 * Errors: −1 where too many blocks are watched. */
int ml_memory_watch(void *block, int64_t bytes);
bool ml_memory_has_lost(int watch);
void ml_memory_forget(int watch);

/* In functions with `ml_status st` and `done`: p = zeroed array of n elements of *p. */
#define ML_NEW(p, n, category, what)                                 \
    do {                                                             \
        (p) = ml_memory_alloc((n), sizeof *(p), (category), (what)); \
        if (!(p)) {                                                  \
            st = ML_RESOURCE;                                        \
            goto done;                                               \
        }                                                            \
    } while (0)

/* An array with room for more: twice *capacity elements, at least 8, new bytes zero; NULL
 * `pointer`: a new one.
 * Shapes: *capacity × size bytes.
 * Ownership: takes `pointer` where it succeeds; the result is the caller's.
 * Local.
 * Errors: NULL after ml_fail(ML_RESOURCE), and the old array stays. */
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

/* Bytes of an element of fp32 or bf16, and the word of any: "fp32", "bf16", "q4_k".
 * Shapes: bytes.
 * Ownership: static.
 * Local.
 * Errors: none. */
size_t ml_dtype_size(ml_dtype dtype);
const char *ml_dtype_name(ml_dtype dtype);

/* a·b into *out.
 * Shapes: none.
 * Ownership: `out` is the caller's.
 * Local.
 * Errors: false where it does not fit into int64_t or either is negative. */
bool ml_multiply(int64_t a, int64_t b, int64_t *out) ML_NODISCARD;

/* ---- counter-based random numbers: Philox4x32-10 (Salmon et al. 2011) ---------------------- */

/* A key made of (seed, tensor name); every number is a pure function of (key, stream, index), so
 * nothing depends on the process grid, on threads or on the order of calls. */
typedef struct ml_random_key {
    uint32_t k[2];
} ml_random_key;

/* The key of a seed and a name.
 * Shapes: none.
 * Ownership: borrows `name`.
 * Local.
 * Errors: none. */
ml_random_key ml_random_key_make(uint64_t seed, const char *name);

/* Numbers of a key's stream: a block of Philox itself; 64 bits; uniform in [0, 1) with 53 bits;
 * normal with mean 0 and deviation 1 (Box and Muller 1958).
 * Shapes: out[4].
 * Ownership: none.
 * Local.
 * Errors: none. */
void ml_random_block(ml_random_key key, uint64_t stream, uint64_t index, uint32_t out[4]);
uint64_t ml_random_u64(ml_random_key key, uint64_t stream, uint64_t index);
double ml_random_uniform(ml_random_key key, uint64_t stream, uint64_t index);
double ml_random_normal(ml_random_key key, uint64_t stream, uint64_t index);

/* out[i] = deviation times normal number first + i, of another sequence than ml_random_normal's:
 * four numbers come from one block, so they cost a third. The same wherever a run starts. Uses all
 * threads.
 * Shapes: out[count].
 * Ownership: `out` is the caller's.
 * Local.
 * Errors: none. */
void ml_random_normals(ml_random_key key, uint64_t stream, uint64_t first, int64_t count,
                       double deviation, float *out);

/* ---- SHA-256 ------------------------------------------------------------------------------- */

enum { ML_SHA256_PIECE = 256 << 10 };
#define ML_SHA256_HEX 65 /* 64 digits and the ending zero */

typedef struct ml_sha256 ml_sha256;

/* A hash that bytes are added to.
 * Shapes: none.
 * Ownership: *out is the caller's, until finish or destroy.
 * Local.
 * Errors: ML_RESOURCE. */
ml_status ml_sha256_create(ml_sha256 **out) ML_NODISCARD;

/* Adds bytes.
 * Shapes: data[bytes].
 * Ownership: all borrowed.
 * Local.
 * Errors: none. */
void ml_sha256_add(ml_sha256 *hash, const void *data, size_t bytes);

/* The digits of what was added, or of `data` alone; destroy is for a hash that is not finished,
 * NULL is fine.
 * Shapes: hex[ML_SHA256_HEX].
 * Ownership: finish and destroy take `hash`.
 * Local.
 * Errors: none. */
void ml_sha256_finish(ml_sha256 *hash, char hex[ML_SHA256_HEX]);
void ml_sha256_destroy(ml_sha256 *hash);
void ml_sha256_of(const void *data, size_t bytes, char hex[ML_SHA256_HEX]);

/* Hash of a whole file, read in pieces of ML_SHA256_PIECE bytes.
 * Shapes: hex[ML_SHA256_HEX].
 * Ownership: all borrowed.
 * Local.
 * Errors: ML_INPUT naming the file. */
ml_status ml_sha256_of_file(const char *path, char hex[ML_SHA256_HEX]) ML_NODISCARD;

/* ---- text ---------------------------------------------------------------------------------- */

/* A growing, always zero-ended byte string. Start from {0}; end with ml_text_destroy. */
typedef struct ml_text {
    char *data;
    int64_t length, capacity;
} ml_text;

/* Appends bytes, or a formatted line.
 * Shapes: bytes[count].
 * Ownership: `text` is the caller's, who ends it with ml_text_destroy.
 * Local.
 * Errors: ML_RESOURCE, and the text stays as it was. */
ml_status ml_text_add(ml_text *text, const void *bytes, int64_t count) ML_NODISCARD;
ml_status ml_text_printf(ml_text *text, const char *format, ...) ML_PRINTF(2, 3) ML_NODISCARD;

/* Ends a text, which is {0} then.
 * Shapes: none.
 * Ownership: takes what `text` owns.
 * Local.
 * Errors: none. */
void ml_text_destroy(ml_text *text);

/* The next character of valid or invalid UTF-8 at bytes[at] and its length in bytes, *size.
 * Shapes: bytes[length].
 * Ownership: all borrowed.
 * Local.
 * Errors: −1 and *size 1 where it is not valid (overlong, surrogate, beyond U+10FFFF, cut short).
 */
int32_t ml_utf8_next(const char *bytes, int64_t length, int64_t at, int *size);

/* The UTF-8 form of a character; returns its 1 to 4 bytes.
 * Shapes: bytes[4].
 * Ownership: `bytes` are the caller's.
 * Local.
 * Errors: none. */
size_t ml_utf8_put(int32_t character, char bytes[4]);

/* The index of a word in `words` (NULL-ended), as the enumeration beside them counts; −1: it is not
 * there.
 * Shapes: none.
 * Ownership: borrowed.
 * Local.
 * Errors: none. */
int ml_find_word(const char *word, const char *const *words);

/* The word of `words` (NULL-ended) with the smallest edit distance to `word`, or NULL where none
 * is near (> 1/2 its length).
 * Shapes: none.
 * Ownership: borrowed from `words`.
 * Local.
 * Errors: none. */
const char *ml_nearest_word(const char *word, const char *const *words);

/* ---- files --------------------------------------------------------------------------------- */

/* Opens `path` for reading, where only a regular file makes sense (it is read in parts, or more
 * than once). Never waits: what a pipe or a device would do is not found out.
 * Shapes: *bytes: its size.
 * Ownership: *fd is the caller's, or −1 on failure.
 * Local.
 * Errors: ML_INPUT naming the path, what it is and what was expected; also for a pointer of Git
 * LFS, which stands in the place of a file that was not fetched. */
ml_status ml_open_regular(const char *path, int *fd, int64_t *bytes) ML_NODISCARD;

/* Whether an open file holds this text from the byte `at` on.
 * Shapes: `text` has at most 256 characters.
 * Ownership: borrows both.
 * Local.
 * Errors: none; what cannot be read is not there. */
bool ml_file_holds(int fd, int64_t at, const char *text);

/* The same as a stream.
 * Shapes: none.
 * Ownership: *out is the caller's, who ends it with fclose.
 * Local.
 * Errors: ML_INPUT as ml_open_regular. */
ml_status ml_open_regular_stream(const char *path, FILE **out) ML_NODISCARD;

/* Whether a whole file may take the name `path`: nothing is there, or a regular file. What is
 * renamed to the name of a device or of a pipe would take its place for everybody.
 * Shapes: none.
 * Ownership: none.
 * Local.
 * Errors: ML_RESOURCE naming the path, what it is and what was expected. */
ml_status ml_check_replaceable(const char *path) ML_NODISCARD;

/* A monotonic clock.
 * Shapes: seconds.
 * Ownership: none.
 * Local.
 * Errors: none. */
double ml_seconds(void);

ML_END_DECLS

#endif
