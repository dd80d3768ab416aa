/* The table of files that are being made, while several threads write theirs: what is not ended is
 * taken away, what is ended stays. ThreadSanitizer sees every access. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "io/unfinished.h"

enum { THREADS = 4, ROUNDS = 20000 };

static char folder[] = "/tmp/mpilora-unfinished-XXXXXX";

static pthread_barrier_t all_are_there;

typedef struct writer {
    int number;
    char ended[128], left[128];
} writer;

static void make(const char *path)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL, 0600);
    assert_true(fd >= 0);
    assert_int_equal(close(fd), 0);
}

/* The names differ in length, so that a row is not written over with itself. */
static void *write_files(void *of)
{
    const writer *w = of;
    char name[192];
    pthread_barrier_wait(&all_are_there);
    for (int i = 0; i < ROUNDS; i++) {
        snprintf(name, sizeof name, "%s-%d-%0*d", w->ended, w->number, 1 + i % 40, i);
        ml_unfinished_begin(name);
        ml_unfinished_end(name);
    }
    ml_unfinished_begin(w->ended);
    ml_unfinished_begin(w->left);
    ml_unfinished_end(w->ended);
    return NULL;
}

static void threads_note_beside_each_other(void **state)
{
    (void)state;
    writer writers[THREADS];
    pthread_t thread[THREADS];
    assert_non_null(mkdtemp(folder));
    for (int i = 0; i < THREADS; i++) {
        writer *w = &writers[i];
        w->number = i;
        snprintf(w->ended, sizeof w->ended, "%s/ended-%d", folder, i);
        snprintf(w->left, sizeof w->left, "%s/left-%d", folder, i);
        make(w->ended);
        make(w->left);
    }
    assert_int_equal(pthread_barrier_init(&all_are_there, NULL, THREADS), 0);
    for (int i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&thread[i], NULL, write_files, &writers[i]), 0);
    for (int i = 0; i < THREADS; i++) assert_int_equal(pthread_join(thread[i], NULL), 0);
    assert_int_equal(pthread_barrier_destroy(&all_are_there), 0);
    ml_unfinished_remove();
    for (int i = 0; i < THREADS; i++) {
        assert_int_equal(access(writers[i].left, F_OK), -1);
        assert_int_equal(unlink(writers[i].ended), 0);
        ml_unfinished_end(writers[i].left);
    }
    assert_int_equal(rmdir(folder), 0);
}

/* Of a table that is full the names beyond are not noted; ended ones make room again. */
static void a_full_table_has_room_again(void **state)
{
    (void)state;
    enum { MANY = 100 };
    char name[64], path[] = "/tmp/mpilora-unfinished-XXXXXX";
    for (int i = 0; i < MANY; i++) {
        snprintf(name, sizeof name, "/nonexistent/%d", i);
        ml_unfinished_begin(name);
    }
    for (int i = 0; i < MANY; i++) {
        snprintf(name, sizeof name, "/nonexistent/%d", i);
        ml_unfinished_end(name);
    }
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(close(fd), 0);
    ml_unfinished_begin(path);
    ml_unfinished_remove();
    assert_int_equal(access(path, F_OK), -1);
    ml_unfinished_end(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(threads_note_beside_each_other),
                                       cmocka_unit_test(a_full_table_has_room_again)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
