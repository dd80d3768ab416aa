/* The lock of a run's directory where flock says nothing: other nodes, other boots, pids that were
 * given out again, and two who start at once. The C library's flock is replaced by one that this
 * file decides on; times are short. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "store/checkpoint/run_lock.h"

static char folder[64];
static int flock_error; /* what flock fails with; 0: it succeeds */

int flock(int fd, int operation)
{
    (void)fd;
    (void)operation;
    errno = flock_error;
    return flock_error ? -1 : 0;
}

static int set_up(void **state)
{
    (void)state;
    snprintf(folder, sizeof folder, "/tmp/mpilora-lock-XXXXXX");
    assert_non_null(mkdtemp(folder));
    flock_error = ENOLCK;
    ml_lock_clock = (ml_lock_times){.heartbeat_s = 0.05, .stale_s = 1.0, .wait_s = 0.2};
    return 0;
}

static int tear_down(void **state)
{
    char command[128];
    (void)state;
    snprintf(command, sizeof command, "rm -rf %s", folder);
    return system(command);
}

static ml_run_directory *directory(void)
{
    ml_run_directory *run = calloc(1, sizeof *run);
    run->lock = -1;
    snprintf(run->path, sizeof run->path, "%s", folder);
    return run;
}

static const char *lock_path(void)
{
    static char path[128];
    snprintf(path, sizeof path, "%s/lock", folder);
    return path;
}

static void leave_record(const ml_lock_owner *owner)
{
    int fd = open(lock_path(), O_WRONLY | O_CREAT | O_TRUNC, 0666);
    assert_int_equal(ml_lock_write(fd, lock_path(), owner), ML_OK);
    close(fd);
}

static ml_status take(double *seconds)
{
    ml_run_directory *run = directory();
    double since = ml_seconds();
    ml_status st = ml_lock_take(run);
    if (seconds) *seconds = ml_seconds() - since;
    ml_lock_release(run);
    free(run);
    return st;
}

static void a_record_comes_back(void **state)
{
    ml_lock_owner me = ml_lock_myself(), found;
    bool named;
    (void)state;
    me.beat = 41;
    leave_record(&me);
    assert_int_equal(ml_lock_read(lock_path(), &found, &named), ML_OK);
    assert_true(named && ml_lock_is_same(&me, &found));
    assert_int_equal(found.beat, 41);
    assert_true(found.start > 0);
    assert_string_equal(found.job, me.job);
}

static void a_free_lock_is_taken_and_given_back(void **state)
{
    ml_lock_owner found;
    bool named;
    (void)state;
    assert_int_equal(take(NULL), ML_OK);
    assert_int_equal(ml_lock_read(lock_path(), &found, &named), ML_OK);
    assert_false(named);
    flock_error = 0;
    assert_int_equal(take(NULL), ML_OK);
}

/* The kernel holds it: refused at once, also before the holder's name is there. */
static void a_held_lock_is_refused(void **state)
{
    ml_lock_owner by = ml_lock_myself();
    (void)state;
    snprintf(by.host, sizeof by.host, "nodeX");
    by.pid = 4242;
    leave_record(&by);
    flock_error = EWOULDBLOCK;
    assert_int_equal(take(NULL), ML_USAGE);
    assert_non_null(strstr(ml_error_text(), "host nodeX, pid 4242"));
}

static void a_living_process_is_refused_without_flock(void **state)
{
    ml_lock_owner me = ml_lock_myself();
    (void)state;
    leave_record(&me); /* this process itself */
    assert_int_equal(take(NULL), ML_USAGE);
}

static void a_pid_given_out_again_is_a_dead_owner(void **state)
{
    ml_lock_owner by = ml_lock_myself();
    double seconds;
    (void)state;
    by.start -= 1; /* the same pid, another process */
    leave_record(&by);
    assert_int_equal(take(&seconds), ML_OK);
    assert_true(seconds < ml_lock_clock.stale_s); /* nobody had to be watched */
}

static void a_silent_owner_elsewhere_is_dead(void **state)
{
    ml_lock_owner by = ml_lock_myself();
    double seconds;
    (void)state;
    snprintf(by.host, sizeof by.host, "nodeX");
    snprintf(by.boot, sizeof by.boot, "another-boot");
    leave_record(&by);
    assert_int_equal(take(&seconds), ML_OK);
    assert_true(seconds >= ml_lock_clock.stale_s);
}

static void an_old_record_needs_no_watching(void **state)
{
    ml_lock_owner by = ml_lock_myself();
    double seconds;
    (void)state;
    snprintf(by.boot, sizeof by.boot, "another-boot");
    leave_record(&by);
    const struct timespec old[2] = {{time(NULL) - 3600, 0}, {time(NULL) - 3600, 0}};
    assert_int_equal(utimensat(AT_FDCWD, lock_path(), old, 0), 0);
    assert_int_equal(take(&seconds), ML_OK);
    assert_true(seconds < ml_lock_clock.stale_s);
}

/* A child takes the lock and beats; its record says another boot, so that only the beat speaks for
 * it. */
static void a_beating_owner_elsewhere_is_refused(void **state)
{
    (void)state;
    pid_t pid = fork();
    if (pid == 0) {
        ml_lock_heartbeat *heartbeat;
        ml_lock_owner me = ml_lock_myself();
        int fd = open(lock_path(), O_RDWR | O_CREAT, 0666);
        snprintf(me.boot, sizeof me.boot, "another-boot");
        if (ml_lock_write(fd, lock_path(), &me) != ML_OK ||
            ml_lock_heartbeat_start(&heartbeat, fd, lock_path(), &me) != ML_OK)
            _exit(1);
        sleep(3);
        _exit(0);
    }
    struct timespec wait = {0, 300000000};
    nanosleep(&wait, NULL);
    assert_int_equal(take(NULL), ML_USAGE);
    waitpid(pid, NULL, 0);
    assert_int_equal(take(NULL), ML_OK); /* it is dead now */
}

/* Without flock, and with flock that knows nothing of other nodes: exactly one of several wins,
 * whatever the moment. */
static void of_several_who_start_at_once_one_wins(void **state)
{
    enum { RIVALS = 5, ROUNDS = 3 };
    (void)state;
    ml_lock_clock.wait_s = 1.0; /* also on a busy machine */
    for (int round = 0; round < ROUNDS; round++) {
        int winners = 0, codes = 0;
        pid_t pids[RIVALS];
        for (int i = 0; i < RIVALS; i++) {
            pids[i] = fork();
            if (pids[i]) continue;
            ml_run_directory *run = directory();
            ml_log_enable(false);
            ml_status st = ml_lock_take(run);
            if (st == ML_OK) sleep(2); /* holds it while the others try */
            _exit((int)st);            /* and dies with it */
        }
        for (int i = 0; i < RIVALS; i++) {
            int status;
            waitpid(pids[i], &status, 0);
            assert_true(WIFEXITED(status));
            winners += WEXITSTATUS(status) == ML_OK;
            codes += WEXITSTATUS(status) == ML_USAGE;
        }
        assert_int_equal(winners, 1);
        assert_int_equal(codes, RIVALS - 1);
    }
}

static void who_lost_the_lock_knows_it(void **state)
{
    ml_run_directory *run = directory();
    ml_lock_owner other = ml_lock_myself(), found;
    bool named;
    (void)state;
    assert_int_equal(ml_lock_take(run), ML_OK);
    assert_int_equal(ml_lock_check(run), ML_OK);
    snprintf(other.host, sizeof other.host, "nodeX");
    int fd = open(lock_path(), O_WRONLY);
    assert_int_equal(ml_lock_write(fd, lock_path(), &other), ML_OK);
    close(fd);
    assert_int_equal(ml_lock_check(run), ML_USAGE);
    assert_non_null(strstr(ml_error_text(), "nodeX"));
    ml_lock_release(run);
    assert_int_equal(ml_lock_read(lock_path(), &found, &named), ML_OK);
    assert_true(named && ml_lock_is_same(&found, &other)); /* it stays the other's */
    free(run);
}

static void what_is_no_file_is_refused(void **state)
{
    (void)state;
    assert_int_equal(symlink("/etc/hostname", lock_path()), 0);
    assert_int_equal(take(NULL), ML_USAGE);
    assert_int_equal(unlink(lock_path()), 0);
    assert_int_equal(mkdir(lock_path(), 0777), 0);
    assert_int_equal(take(NULL), ML_RESOURCE);
}

int main(void)
{
#define CASE(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        CASE(a_record_comes_back),
        CASE(a_free_lock_is_taken_and_given_back),
        CASE(a_held_lock_is_refused),
        CASE(a_living_process_is_refused_without_flock),
        CASE(a_pid_given_out_again_is_a_dead_owner),
        CASE(a_silent_owner_elsewhere_is_dead),
        CASE(an_old_record_needs_no_watching),
        CASE(a_beating_owner_elsewhere_is_refused),
        CASE(of_several_who_start_at_once_one_wins),
        CASE(who_lost_the_lock_knows_it),
        CASE(what_is_no_file_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
