/* Files that one thread reads from end to end, and others in parts: read from the disk once. An
 * internal module. */
#ifndef MPILORA_IO_WINDOW_H
#define MPILORA_IO_WINDOW_H

#include <stdatomic.h>

#include "mpilora/base.h"

typedef struct ml_window ml_window;

enum { ML_WINDOW_LEAST = 1 << 20 }; /* bytes */

/* A window of about `bytes` bytes, ML_WINDOW_LEAST at least, which sees nothing yet. */
ml_status ml_window_create(ml_window **out, int64_t bytes) ML_NODISCARD;
/* Adds a file, which lies behind those before it; *number: its. `fd` is borrowed and open until
 * the window is destroyed; `path` is copied. Before ml_window_begin. */
ml_status ml_window_add(ml_window *window, const char *path, int fd, int64_t bytes,
                        int64_t *number) ML_NODISCARD;
/* Begins to read the files, from the first one's first byte to the last one's last. Where that
 * cannot be, nothing is ever found in the window. */
void ml_window_begin(ml_window *window);
/* Ends that. */
void ml_window_stop(ml_window *window);
void ml_window_destroy(ml_window *window); /* NULL is fine */

/* A byte of a file as a place in the row of all files. */
int64_t ml_window_place(const ml_window *window, int64_t file, int64_t offset);
/* Nobody will ask for what lies before `place` any more: without it the window stays where it is,
 * but for those who wait for what is behind it. */
void ml_window_release(ml_window *window, int64_t place);
/* Copies bytes that are in the window or about to be; returns how many of the first ones, the
 * caller reads the others himself. Thread-safe. */
int64_t ml_window_read(ml_window *window, int64_t file, void *out, int64_t bytes, int64_t offset);
/* The same without a copy: the bytes that lie in one piece, *got of them, until ml_window_leave of
 * the same place; NULL: none. Thread-safe. */
const void *ml_window_take(ml_window *window, int64_t file, int64_t bytes, int64_t offset,
                           int64_t *got);
void ml_window_leave(ml_window *window, int64_t file, int64_t offset);
/* The SHA-256 of a file as it goes by; files in their order, by one thread. ML_INPUT naming the
 * path, ML_INTERNAL once *stop is set. */
ml_status ml_window_hash(ml_window *window, int64_t file, atomic_bool *stop,
                         char hex[ML_SHA256_HEX]) ML_NODISCARD;

#endif
