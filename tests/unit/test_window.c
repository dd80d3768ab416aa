/* A window over files: everybody gets the bytes that lie there and the hash is that of the file,
 * whatever order others read in, how fast they are, and also where the reading ends early. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>
#include <fcntl.h>
#include <omp.h>
#include <pthread.h>
#include <unistd.h>

#include "io/window.h"

enum { FILES = 3, PART = 100003, WAIT = 20 };
static const int64_t sizes[FILES] = {5 << 20, 3, (7 << 20) + 4097};

typedef struct shelf {
    char path[FILES][64], hex[FILES][ML_SHA256_HEX], found[FILES][ML_SHA256_HEX];
    char *bytes[FILES];
    int fd[FILES];
    int64_t number[FILES];
    ml_window *window;
    atomic_bool stop;
    ml_status hashed;
} shelf;

static void make(shelf *s)
{
    *s = (shelf){0};
    uint32_t x = 1;
    assert_int_equal(ml_window_create(&s->window, 0), ML_OK);
    for (int f = 0; f < FILES; f++) {
        s->bytes[f] = malloc((size_t)sizes[f]);
        assert_non_null(s->bytes[f]);
        for (int64_t i = 0; i < sizes[f]; i++)
            s->bytes[f][i] = (char)((x = x * 1664525U + 1013904223U) >> 24);
        snprintf(s->path[f], sizeof s->path[f], "window-%ld-%d", (long)getpid(), f);
        s->fd[f] = open(s->path[f], O_RDWR | O_CREAT | O_TRUNC, 0666);
        assert_true(s->fd[f] >= 0);
        assert_int_equal(write(s->fd[f], s->bytes[f], (size_t)sizes[f]), sizes[f]);
        (void)fsync(s->fd[f]); /* so that they can leave the page cache */
        (void)posix_fadvise(s->fd[f], 0, 0, POSIX_FADV_DONTNEED);
        ml_sha256_of(s->bytes[f], (size_t)sizes[f], s->hex[f]);
        assert_int_equal(ml_window_add(s->window, s->path[f], s->fd[f], sizes[f], &s->number[f]),
                         ML_OK);
    }
}

static void drop(shelf *s)
{
    ml_window_destroy(s->window);
    for (int f = 0; f < FILES; f++) {
        (void)close(s->fd[f]);
        (void)unlink(s->path[f]);
        free(s->bytes[f]);
    }
}

static void *hash(void *self)
{
    shelf *s = self;
    for (int f = 0; f < FILES && s->hashed == ML_OK; f++)
        s->hashed = ml_window_hash(s->window, s->number[f], &s->stop, s->found[f]);
    return NULL;
}

/* As readers do: what the window does not give is read from the file. */
static bool is_right(const shelf *s, int f, int64_t offset, int64_t bytes)
{
    char *out = malloc((size_t)bytes);
    if (!out) return false;
    int64_t got = ml_window_read(s->window, s->number[f], out, bytes, offset);
    bool right = got <= bytes && (got == bytes || pread(s->fd[f], out + got, (size_t)(bytes - got),
                                                        offset + got) == bytes - got);
    right = right && memcmp(out, s->bytes[f] + offset, (size_t)bytes) == 0;
    free(out);
    return right;
}

/* Parts of all files: first to last, last to first, or all over the place. */
static int read_all(shelf *s, int order, bool releases)
{
    int wrong = 0;
    for (int f = 0; f < FILES; f++) {
        int64_t parts = (sizes[f] + PART - 1) / PART;
#pragma omp parallel for schedule(dynamic) num_threads(4) reduction(+ : wrong)
        for (int64_t i = 0; i < parts; i++) {
            int64_t p = order == 0   ? i
                        : order == 1 ? parts - 1 - i
                                     : i * 37 % parts,
                    at = p * PART, n = ml_min(PART, sizes[f] - at);
            wrong += !is_right(s, f, at, n);
            if (releases && order == 0 && i >= WAIT)
                ml_window_release(s->window,
                                  ml_window_place(s->window, s->number[f], at - WAIT * PART));
        }
    }
    return wrong;
}

static void everybody_reads_what_lies_there(void **state)
{
    (void)state;
    for (int order = 0; order < 3; order++)
        for (int releases = 0; releases < 2; releases++) {
            shelf s;
            pthread_t thread;
            make(&s);
            ml_window_begin(s.window);
            assert_int_equal(pthread_create(&thread, NULL, hash, &s), 0);
            assert_int_equal(read_all(&s, order, releases), 0);
            ml_window_release(s.window, INT64_MAX);
            pthread_join(thread, NULL);
            assert_int_equal(s.hashed, ML_OK);
            for (int f = 0; f < FILES; f++) assert_string_equal(s.found[f], s.hex[f]);
            drop(&s);
        }
}

/* Without reading threads, and where the reading is stopped. */
static void a_window_that_is_closed_gives_nothing(void **state)
{
    (void)state;
    shelf s;
    make(&s);
    assert_int_equal(read_all(&s, 0, false), 0);
    hash(&s);
    assert_int_equal(s.hashed, ML_OK);
    for (int f = 0; f < FILES; f++) assert_string_equal(s.found[f], s.hex[f]);
    drop(&s);
    for (int by_hash = 0; by_hash < 2; by_hash++) {
        make(&s);
        ml_window_begin(s.window);
        assert_true(is_right(&s, 0, 0, PART));
        atomic_store(&s.stop, true);
        if (!by_hash) ml_window_stop(s.window);
        hash(&s);
        assert_int_equal(s.hashed, ML_INTERNAL);
        assert_int_equal(read_all(&s, 0, false), 0); /* and waits for nothing */
        drop(&s);
    }
}

static void *read_on(void *self) { return read_all(self, 0, false) ? self : NULL; }

static void what_is_taken_stays(void **state)
{
    (void)state;
    shelf s;
    pthread_t thread, other;
    void *wrong;
    int64_t got;
    make(&s);
    ml_window_begin(s.window);
    const void *there = ml_window_take(s.window, s.number[0], PART, 0, &got);
    assert_non_null(there);
    assert_true(got > 0 && got <= PART);
    assert_int_equal(pthread_create(&thread, NULL, hash, &s), 0);
    assert_int_equal(pthread_create(&other, NULL, read_on, &s), 0);
    (void)usleep(100000); /* in which the others would come to the end */
    assert_memory_equal(there, s.bytes[0], (size_t)got);
    ml_window_leave(s.window, s.number[0], 0);
    pthread_join(other, &wrong);
    assert_null(wrong);
    ml_window_release(s.window, INT64_MAX);
    pthread_join(thread, NULL);
    assert_int_equal(s.hashed, ML_OK);
    drop(&s);
}

static void a_file_that_became_shorter_is_named(void **state)
{
    (void)state;
    shelf s;
    pthread_t thread;
    make(&s);
    assert_int_equal(ftruncate(s.fd[2], 1 << 20), 0);
    ml_window_begin(s.window);
    assert_int_equal(pthread_create(&thread, NULL, hash, &s), 0);
    char last;
    int64_t got = ml_window_read(s.window, s.number[2], &last, 1, sizes[2] - 1);
    assert_int_equal(got, 0);
    ml_window_release(s.window, INT64_MAX);
    pthread_join(thread, NULL);
    assert_int_equal(s.hashed, ML_INPUT);
    drop(&s);
}

static int open_descriptors(void)
{
    int count = 0;
    for (int fd = 0; fd < 256; fd++) count += fcntl(fd, F_GETFD) >= 0;
    return count;
}

/* Beside those that are lent to it a window has one for each of its two readers, however many
 * files there are, and gives them back. */
static void a_window_opens_few_files(void **state)
{
    (void)state;
    shelf s;
    const int before = open_descriptors();
    make(&s);
    assert_int_equal(open_descriptors(), before + FILES);
    ml_window_begin(s.window);
    ml_window_release(s.window, INT64_MAX);
    hash(&s);
    assert_int_equal(s.hashed, ML_OK);
    assert_in_range(open_descriptors(), before + FILES, before + FILES + 2);
    drop(&s);
    assert_int_equal(open_descriptors(), before);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_window_opens_few_files),
        cmocka_unit_test(everybody_reads_what_lies_there),
        cmocka_unit_test(a_window_that_is_closed_gives_nothing),
        cmocka_unit_test(what_is_taken_stays),
        cmocka_unit_test(a_file_that_became_shorter_is_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
