/* checkpoints on one rank: what is saved comes back; what is damaged is set aside; nothing is
 * lost. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "../checkpoint_case.h"
#include "mpilora/train.h"

typedef struct fixture {
    char dir[64], run[96];
    ml_grid *grid;
    ml_parameters p;
    ml_run_directory *open;
} fixture;

static void shell(const char *format, const char *argument)
{
    char command[512];
    snprintf(command, sizeof command, format, argument);
    assert_int_equal(system(command), 0);
}

static int set_up(void **state)
{
    fixture *f = calloc(1, sizeof *f);
    snprintf(f->dir, sizeof f->dir, "/tmp/mpilora-checkpoint-XXXXXX");
    assert_non_null(mkdtemp(f->dir));
    snprintf(f->run, sizeof f->run, "%s/runs/one", f->dir);
    assert_int_equal(ml_grid_create(&f->grid, 1), ML_OK);
    f->p = case_parameters(f->grid);
    case_fill(&f->p, false);
    assert_int_equal(ml_run_directory_open(&f->open, f->run, false, f->grid), ML_OK);
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    fixture *f = *state;
    ml_run_directory_close(f->open);
    ml_parameters_destroy(&f->p);
    ml_grid_destroy(f->grid);
    shell("rm -rf %s", f->dir);
    free(f);
    return 0;
}

static void reopen(fixture *f, bool fresh)
{
    ml_run_directory_close(f->open);
    f->open = NULL;
    assert_int_equal(ml_run_directory_open(&f->open, f->run, fresh, f->grid), ML_OK);
}

static void save(fixture *f, int64_t step)
{
    ml_checkpoint_state state = case_state(step);
    assert_int_equal(ml_checkpoint_save(f->open, f->grid, &f->p, &state, 2, NULL), ML_OK);
}

/* The step found, −1 for none, −status for a failure. */
static int64_t find(fixture *f)
{
    ml_checkpoint_state state = case_state(0);
    bool found = false;
    ml_status st = ml_checkpoint_find(f->open, f->grid, &state, &found);
    return st != ML_OK ? -(int64_t)st : found ? state.progress.step : -1;
}

static bool exists(const fixture *f, const char *name)
{
    char path[256];
    struct stat info;
    snprintf(path, sizeof path, "%s/%s", f->run, name);
    return stat(path, &info) == 0;
}

static void change_byte(const fixture *f, const char *name, long at)
{
    char path[256];
    snprintf(path, sizeof path, "%s/%s", f->run, name);
    FILE *file = fopen(path, "r+b");
    assert_non_null(file);
    fseek(file, at, at < 0 ? SEEK_END : SEEK_SET);
    int byte = fgetc(file);
    fseek(file, -1, SEEK_CUR);
    fputc(byte ^ 1, file);
    fclose(file);
}

static void what_is_saved_comes_back(void **state)
{
    fixture *f = *state;
    ml_checkpoint_state saved = case_state(7), read = case_state(0);
    ml_checkpoint_report report;
    bool found = true;
    assert_int_equal(ml_checkpoint_find(f->open, f->grid, &read, &found), ML_OK);
    assert_false(found);
    assert_int_equal(ml_checkpoint_save(f->open, f->grid, &f->p, &saved, 2, &report), ML_OK);
    assert_true(report.bytes > 12 * f->p.global);
    case_fill(&f->p, true);
    assert_true(case_differences(&f->p) > 0);
    assert_int_equal(ml_checkpoint_find(f->open, f->grid, &read, &found), ML_OK);
    assert_true(found);
    assert_int_equal(read.progress.cursor, 7 * 32);
    assert_true(read.progress.loss_last == 1.0 / 3.0);
    assert_true(isnan(read.progress.best_loss));
    assert_string_equal(read.progress.backend, "panels");
    assert_int_equal(ml_checkpoint_load(f->open, f->grid, &f->p), ML_OK);
    assert_int_equal(case_differences(&f->p), 0);
}

static void full_state_has_numbered_files(void **state)
{
    fixture *f = *state;
    ml_checkpoint_state saved = case_state(1);
    saved.full = true;
    assert_int_equal(ml_checkpoint_save(f->open, f->grid, &f->p, &saved, 2, NULL), ML_OK);
    assert_true(exists(f, "checkpoints/step-00000001/state-0000.h5"));
    case_fill(&f->p, true);
    assert_int_equal(find(f), 1);
    assert_int_equal(ml_checkpoint_load(f->open, f->grid, &f->p), ML_OK);
    assert_int_equal(case_differences(&f->p), 0);
}

/* Files so small that tensors are cut: the pieces come back together, and a missing one is
 * noticed. */
static void tensors_may_be_cut_over_files(void **state)
{
    fixture *f = *state;
    for (int64_t bytes = 40; bytes <= 1000; bytes = bytes * 3 / 2) {
        ml_checkpoint_state saved = case_state(bytes);
        saved.full = true;
        saved.file_bytes = bytes;
        case_fill(&f->p, false);
        assert_int_equal(ml_checkpoint_save(f->open, f->grid, &f->p, &saved, 2, NULL), ML_OK);
        case_fill(&f->p, true);
        assert_int_equal(find(f), bytes);
        assert_int_equal(ml_checkpoint_load(f->open, f->grid, &f->p), ML_OK);
        assert_int_equal(case_differences(&f->p), 0);
    }
    assert_true(exists(f, "checkpoints/step-00000681/state-0001.h5"));
    shell("rm %s/runs/one/checkpoints/step-00000681/state-0001.h5", f->dir);
    assert_int_equal(find(f), 454);
}

static void equal_state_is_equal_bytes(void **state)
{
    fixture *f = *state;
    save(f, 5);
    shell("cp %s/runs/one/checkpoints/step-00000005/state.h5 /tmp/mpilora-state-copy.h5", f->dir);
    shell("rm -rf %s/runs/one/checkpoints", f->dir);
    reopen(f, false);
    save(f, 5);
    shell("cmp %s/runs/one/checkpoints/step-00000005/state.h5 /tmp/mpilora-state-copy.h5 && rm "
          "/tmp/mpilora-state-copy.h5",
          f->dir);
}

static void the_oldest_go(void **state)
{
    fixture *f = *state;
    for (int64_t step = 1; step <= 4; step++) save(f, step);
    assert_false(exists(f, "checkpoints/step-00000002"));
    assert_true(exists(f, "checkpoints/step-00000003/MANIFEST.json"));
    assert_true(exists(f, "checkpoints/latest"));
    assert_int_equal(find(f), 4);
}

static void one_that_is_to_stay_stays(void **state)
{
    fixture *f = *state;
    for (int64_t step = 1; step <= 5; step++) {
        ml_checkpoint_state saved = case_state(step);
        saved.keep_step = step < 5 ? 1 : 4;
        assert_int_equal(ml_checkpoint_save(f->open, f->grid, &f->p, &saved, 2, NULL), ML_OK);
        assert_int_equal(exists(f, "checkpoints/step-00000001/MANIFEST.json"), step < 5);
    }
    assert_false(exists(f, "checkpoints/step-00000003"));
    assert_int_equal(ml_checkpoint_choose(f->open, f->grid, 4), ML_OK);
    case_fill(&f->p, true);
    assert_int_equal(ml_checkpoint_load(f->open, f->grid, &f->p), ML_OK);
    assert_int_equal(case_differences(&f->p), 0);
    assert_int_equal(ml_checkpoint_choose(f->open, f->grid, 3), ML_INPUT);
}

static void a_bad_one_does_not_count_as_kept(void **state)
{
    fixture *f = *state;
    save(f, 1);
    save(f, 2);
    change_byte(f, "checkpoints/step-00000002/state.h5", -5);
    reopen(f, false); /* a new process has verified nothing */
    save(f, 3);
    assert_true(exists(f, "checkpoints/step-00000001/MANIFEST.json"));
}

static void any_changed_byte_is_found(void **state)
{
    fixture *f = *state;
    char path[256];
    struct stat info;
    save(f, 1);
    static const char *const names[] = {"checkpoints/step-00000002/state.h5",
                                        "checkpoints/step-00000002/MANIFEST.json"};
    for (int n = 0; n < 2; n++) {
        save(f, 2);
        snprintf(path, sizeof path, "%s/%s", f->run, names[n]);
        assert_int_equal(stat(path, &info), 0);
        for (long at = n; at < info.st_size; at += info.st_size / 23) {
            change_byte(f, names[n], at);
            assert_int_equal(find(f), 1);
            assert_false(exists(f, "checkpoints/step-00000002"));
            save(f, 2);
        }
    }
    assert_int_equal(find(f), 2);
}

static void damage_falls_back_to_the_older(void **state)
{
    fixture *f = *state;
    static const char *const damages[] = {
        "truncate -s 100 %s/runs/one/checkpoints/step-00000002/state.h5",
        "truncate -s 0 %s/runs/one/checkpoints/step-00000002/MANIFEST.json",
        "rm %s/runs/one/checkpoints/step-00000002/state.h5",
        "echo >> %s/runs/one/checkpoints/step-00000002/MANIFEST.json",
        "rm %s/runs/one/checkpoints/latest; exit 1",
        "cd %s/runs/one/checkpoints; cp step-00000001/* step-00000002/",
        "cd %s/runs/one/checkpoints; cp step-00000001/M* step-00000002/",
    };
    save(f, 1);
    for (size_t i = 0; i < sizeof damages / sizeof *damages; i++) {
        char command[512];
        save(f, 2);
        snprintf(command, sizeof command, damages[i], f->dir);
        int64_t expected = system(command) == 0 ? 1 : 2; /* without `latest` nothing is lost */
        assert_int_equal(find(f), expected);
    }
    shell("test $(ls %s/runs/one/checkpoints/set-aside | wc -l) = 2", f->dir);
}

static void all_bad_is_never_a_fresh_start(void **state)
{
    fixture *f = *state;
    save(f, 1);
    save(f, 2);
    shell("truncate -s 9 %s/runs/one/checkpoints/step*/state.h5", f->dir);
    assert_int_equal(find(f), -ML_INPUT);
    assert_int_equal(find(f), -ML_INPUT); /* also when asked again */
    shell("rm %s/runs/one/checkpoints/latest", f->dir);
    assert_int_equal(find(f), -ML_INPUT);
    reopen(f, true);
    assert_int_equal(find(f), -1);
}

static void latest_alone_is_a_loss(void **state)
{
    fixture *f = *state;
    save(f, 1);
    shell("rm -r %s/runs/one/checkpoints/step*", f->dir);
    assert_int_equal(find(f), -ML_INPUT);
}

static void fresh_sets_the_old_aside(void **state)
{
    fixture *f = *state;
    save(f, 1);
    save(f, 2);
    reopen(f, true);
    assert_int_equal(find(f), -1);
    assert_true(exists(f, "checkpoints/set-aside/step-00000002.old-000002/MANIFEST.json"));
    reopen(f, false);
    assert_int_equal(find(f), -1);
}

static void leftovers_of_a_killed_save_are_removed(void **state)
{
    fixture *f = *state;
    save(f, 1);
    shell("cd %s/runs/one/checkpoints && mkdir step-00000002 && echo x > step-00000002/state.h5 && "
          "echo x > "
          "step-00000001/MANIFEST.json.tmp-77 && "
          "echo x > latest.tmp-5 && echo x > ../adapter.h5.tmp-123",
          f->dir);
    reopen(f, false);
    assert_int_equal(find(f), 1);
    assert_false(exists(f, "checkpoints/step-00000002"));
    shell("test -z \"$(find %s -name '*.tmp-*')\"", f->dir);
}

/* A state whose identity, in `other`, has one value of its own. */
static ml_checkpoint_state state_of_another(ml_checkpoint_identity other[3], int64_t step,
                                            int which, const char *value)
{
    ml_checkpoint_state s = case_state(step);
    memcpy(other, case_identity, 3 * sizeof *other);
    other[which].value = value;
    s.identity = other;
    return s;
}

static void another_identity_is_refused(void **state)
{
    fixture *f = *state;
    ml_checkpoint_identity other[3];
    ml_checkpoint_state asked = state_of_another(other, 0, 1, "4");
    bool found;
    save(f, 1);
    assert_int_equal(ml_checkpoint_find(f->open, f->grid, &asked, &found), ML_USAGE);
    assert_non_null(strstr(ml_error_text(), "method.rank: 4 here"));
    assert_non_null(strstr(ml_error_text(), "with 8"));
    assert_int_equal(find(f), 1); /* nothing was moved */
}

/* A value that an earlier version wrote otherwise is the same; another one is named by its word. */
static void what_an_earlier_version_wrote_is_the_same(void **state)
{
    fixture *f = *state;
    ml_checkpoint_identity other[3];
    ml_checkpoint_state asked = state_of_another(other, 0, 1, "eight");
    bool found;
    save(f, 1);
    other[1].before = "8";
    assert_int_equal(ml_checkpoint_find(f->open, f->grid, &asked, &found), ML_OK);
    assert_true(found);
    other[1].before = "7";
    assert_int_equal(ml_checkpoint_find(f->open, f->grid, &asked, &found), ML_USAGE);
    assert_non_null(strstr(ml_error_text(), "method.rank: eight here"));
}

static void a_foreign_checkpoint_steps_aside(void **state)
{
    fixture *f = *state;
    ml_checkpoint_identity other[3];
    ml_checkpoint_state foreign = state_of_another(other, 9, 0, "ffff");
    save(f, 1);
    assert_int_equal(ml_checkpoint_save(f->open, f->grid, &f->p, &foreign, 2, NULL), ML_OK);
    assert_int_equal(find(f), 1);
    assert_false(exists(f, "checkpoints/step-00000009"));
}

static void other_tensors_are_refused_by_name(void **state)
{
    fixture *f = *state;
    save(f, 1);
    assert_int_equal(find(f), 1);
    snprintf(f->p.items[3].name, sizeof f->p.items[3].name, "layers.0.attn.k.A");
    assert_int_equal(ml_checkpoint_load(f->open, f->grid, &f->p), ML_INPUT);
    assert_non_null(strstr(ml_error_text(), "layers.0.attn.o.A"));
    snprintf(f->p.items[3].name, sizeof f->p.items[3].name, "layers.0.attn.o.A");
    f->p.items[3].rows = 1;
    assert_int_equal(ml_checkpoint_load(f->open, f->grid, &f->p), ML_INPUT);
    assert_non_null(strstr(ml_error_text(), "2 × 13"));
    f->p.items[3].rows = 2;
}

static void the_same_step_again_keeps_the_state(void **state)
{
    fixture *f = *state;
    ml_checkpoint_state asked = case_state(3);
    bool found;
    save(f, 3);
    asked.progress.finished = true;
    assert_int_equal(ml_checkpoint_save(f->open, f->grid, &f->p, &asked, 2, NULL), ML_OK);
    asked = case_state(0);
    assert_int_equal(ml_checkpoint_find(f->open, f->grid, &asked, &found), ML_OK);
    assert_true(asked.progress.finished);
    assert_int_equal(asked.progress.step, 3);
}

static void begin_beside(fixture *f, int64_t step)
{
    ml_checkpoint_state state = case_state(step);
    assert_int_equal(ml_checkpoint_begin(f->open, f->grid, &f->p, &state, 2, true), ML_OK);
}

static void what_changes_beside_a_save_is_not_saved(void **state)
{
    fixture *f = *state;
    ml_checkpoint_report report;
    assert_int_equal(ml_checkpoint_wait(f->open, f->grid, &report), ML_OK);
    assert_int_equal(report.bytes, 0);
    for (int64_t step = 1; step <= 3; step++) {
        case_fill(&f->p, false);
        begin_beside(f, step);
        case_fill(&f->p, true);
        assert_int_equal(ml_checkpoint_wait(f->open, f->grid, &report), ML_OK);
        assert_int_equal(report.step, step);
        assert_false(report.again);
        assert_true(report.bytes > 12 * f->p.global && report.waited <= report.seconds + 0.5);
    }
    assert_false(exists(f, "checkpoints/step-00000001"));
    assert_int_equal(find(f), 3);
    assert_int_equal(ml_checkpoint_load(f->open, f->grid, &f->p), ML_OK);
    assert_int_equal(case_differences(&f->p), 0);
}

static void a_save_under_way_ends_before_the_run(void **state)
{
    fixture *f = *state;
    begin_beside(f, 8);
    reopen(f, false);
    assert_int_equal(find(f), 8);
    ml_checkpoint_state asked = case_state(8);
    ml_checkpoint_report report;
    asked.progress.finished = true;
    assert_int_equal(ml_checkpoint_save(f->open, f->grid, &f->p, &asked, 2, &report), ML_OK);
    assert_true(report.again);
}

static ml_status refuse(void *of)
{
    (*(int *)of)++;
    return ml_fail(ML_RESOURCE, "the metrics cannot be synced");
}

static void a_failure_beside_training_is_told_by_the_wait(void **state)
{
    fixture *f = *state;
    ml_checkpoint_state failing = case_state(2);
    int calls = 0;
    failing.before_commit = refuse;
    failing.before_commit_of = &calls;
    save(f, 1);
    assert_int_equal(ml_checkpoint_begin(f->open, f->grid, &f->p, &failing, 2, true), ML_OK);
    ml_error_clear();
    assert_int_equal(ml_checkpoint_wait(f->open, f->grid, NULL), ML_RESOURCE);
    assert_string_equal(ml_error_text(), "the metrics cannot be synced");
    assert_int_equal(calls, 1);
    assert_false(exists(f, "checkpoints/step-00000002"));
    assert_int_equal(find(f), 1);
    save(f, 2);
    assert_int_equal(find(f), 2);
}

static void a_second_run_is_refused(void **state)
{
    fixture *f = *state;
    ml_run_directory *second;
    assert_int_equal(ml_run_directory_open(&second, f->run, false, f->grid), ML_USAGE);
    assert_non_null(strstr(ml_error_text(), "run.dir of another run of this job"));
}

static void a_dead_run_leaves_no_lock(void **state)
{
    fixture *f = *state;
    ml_run_directory_close(f->open);
    shell("echo 'host elsewhere pid 99 job 12' > %s/runs/one/lock", f->dir);
    assert_int_equal(ml_run_directory_open(&f->open, f->run, false, f->grid), ML_OK);
}

static void metrics_are_cut_at_a_step(void **state)
{
    fixture *f = *state;
    char path[128], read[256] = "";
    static const char kept[] = "{\"step\": 1, \"loss\": 2.5}\n{\"step\":2,\"x\":[1 ]}\n";
    snprintf(path, sizeof path, "%s/metrics.jsonl", f->dir);
    const ml_metrics_lines lines = {.once = true, .every = 1};
    assert_int_equal(ml_metrics_cut(path, &lines, 3), ML_OK);
    FILE *file = fopen(path, "w");
    fprintf(file, "%s{\"step\": 3}\n{\"step\": 4", kept);
    fclose(file);
    assert_int_equal(ml_metrics_cut(path, &lines, 2), ML_OK);
    file = fopen(path, "r");
    size_t n = fread(read, 1, sizeof read - 1, file);
    fclose(file);
    assert_int_equal(n, strlen(kept));
    assert_string_equal(read, kept);
    assert_int_equal(ml_metrics_cut(path, &lines, 0), ML_OK);
    assert_int_equal(truncate(path, 0), 0);
}

/* Four million parameters in one tensor. */
static ml_parameters large_parameters(void)
{
    ml_parameters p = {0};
    assert_int_equal(ml_parameters_add(&p, "large", 2000, 2000, false,
                                       (ml_shard){.dim = ML_SHARD_WHOLE}, ML_GRADIENT_PARTIAL,
                                       NULL),
                     ML_OK);
    ml_parameters_lay_out(&p);
    assert_int_equal(ml_parameters_allocate(&p, true), ML_OK);
    return p;
}

/* The peak is what was predicted: written as they lie, which takes a file of a part of them, and
 * gathered, which takes all of them (which is more: second). */
static void memory_needed_is_as_predicted(void **state)
{
    fixture *f = *state;
    static const int64_t least_image = 8 << 20;
    ml_parameters p = large_parameters();
    for (int gathered = 0; gathered < 2; gathered++) {
        ml_checkpoint_state saved = case_state(1 + gathered);
        saved.full = !gathered;
        double before = (double)ml_memory_current(ML_MEM_OTHER),
               predicted = (double)ml_checkpoint_memory(&p, saved.full, 1, 0),
               held = (double)(gathered ? ml_checkpoint_bytes(p.global) : least_image);
        assert_int_equal(ml_checkpoint_save(f->open, f->grid, &p, &saved, 2, NULL), ML_OK);
        double measured = (double)ml_memory_peak(ML_MEM_OTHER) - before;
        assert_true(predicted > held && predicted < 1.2 * held);
        assert_true(fabs(measured - predicted) < 0.01 * predicted);
    }
    ml_parameters_destroy(&p);
}

/* A load holds a block, of one file or of several: neither a file nor a tensor beside its place. */
static void a_load_holds_a_block(void **state)
{
    fixture *f = *state;
    ml_parameters p = large_parameters();
    for (int full = 0; full < 2; full++) {
        ml_checkpoint_state saved = case_state(1 + full);
        saved.full = full;
        for (int64_t i = 0; i < p.local; i++) p.value[i] = p.moment1[i] = (float)i;
        assert_int_equal(ml_checkpoint_save(f->open, f->grid, &p, &saved, 2, NULL), ML_OK);
        memset(p.value, 0, (size_t)p.local * sizeof *p.value);
        memset(p.moment1, 0, (size_t)p.local * sizeof *p.moment1);
        assert_int_equal(find(f), 1 + full);
        /* Up to the peak, so that it moves with what the load takes. */
        int64_t peak = ml_memory_peak(ML_MEM_OTHER);
        void *ballast =
            ml_memory_alloc(peak - ml_memory_current(ML_MEM_OTHER), 1, ML_MEM_OTHER, "ballast");
        assert_int_equal(ml_checkpoint_load(f->open, f->grid, &p), ML_OK);
        double measured = (double)(ml_memory_peak(ML_MEM_OTHER) - peak),
               predicted = (double)ml_checkpoint_load_memory(&p, true);
        assert_true(fabs(measured - predicted) < 0.01 * predicted);
        assert_true(predicted < 5e6);
        for (int64_t i = 0; i < p.local; i++)
            assert_true(p.value[i] == (float)i && p.moment1[i] == (float)i);
        ml_memory_free(ballast);
    }
    ml_parameters_destroy(&p);
}

/* What is in a file when it is read is what counts: a byte that another one has meanwhile taken the
 * place of ends the load, among the numbers and behind them. */
static void a_byte_that_changes_before_the_load_is_found(void **state)
{
    fixture *f = *state;
    for (int64_t at = 4096; at >= -1; at -= 4097) {
        save(f, 1);
        assert_int_equal(find(f), 1);
        change_byte(f, "checkpoints/step-00000001/state.h5", at);
        assert_int_equal(ml_checkpoint_load(f->open, f->grid, &f->p), ML_INPUT);
        assert_non_null(strstr(ml_error_text(), "has changed since its SHA-256 was checked"));
        change_byte(f, "checkpoints/step-00000001/state.h5", at);
        assert_int_equal(ml_checkpoint_load(f->open, f->grid, &f->p), ML_OK);
    }
}

/* Ten layers as wide as GPT-3 175B's, and its embedding: all writers of a node together. */
static void writers_of_a_node_stay_below_their_bound(void **state)
{
    (void)state;
    static const int64_t width = 12288;
    for (int tp = 1; tp <= 64; tp *= 2) {
        int64_t together = 0;
        for (int rank = 0; rank < tp; rank++) {
            ml_parameters p = {0};
            const int64_t rows[] = {50257, 3 * width, width, 4 * width};
            for (int i = 0; i < 40; i++) {
                int64_t r = i ? rows[1 + i % 3] : rows[0];
                ml_shard half = {.dim = i % 2 ? ML_SHARD_COLS : ML_SHARD_ROWS, .nparts = 1};
                int64_t cut = half.dim == ML_SHARD_COLS ? width : r;
                half.part[0].start = ml_part_start(cut, tp, rank);
                half.part[0].count = ml_part_count(cut, tp, rank);
                assert_int_equal(
                    ml_parameters_add(&p, "a", r, width, false, half, ML_GRADIENT_PARTIAL, NULL),
                    ML_OK);
                assert_int_equal(ml_parameters_add(&p, "b", width, 1, true,
                                                   (ml_shard){.dim = ML_SHARD_WHOLE},
                                                   ML_GRADIENT_IDENTICAL, NULL),
                                 ML_OK);
            }
            ml_parameters_lay_out(&p);
            together += ml_checkpoint_memory(&p, true, tp, rank);
            assert_int_equal(ml_checkpoint_writers(&p, true, tp), tp);
            ml_parameters_destroy(&p);
        }
        assert_true((double)together < 1.1 * 0x1p30);
        assert_true((double)together > 0.4 * 0x1p30);
    }
}

int main(int argc, char **argv)
{
    if (ml_grid_start(&argc, &argv) != ML_OK) return 1;
#define CASE(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        CASE(what_is_saved_comes_back),
        CASE(full_state_has_numbered_files),
        CASE(tensors_may_be_cut_over_files),
        CASE(equal_state_is_equal_bytes),
        CASE(the_oldest_go),
        CASE(one_that_is_to_stay_stays),
        CASE(a_bad_one_does_not_count_as_kept),
        CASE(any_changed_byte_is_found),
        CASE(damage_falls_back_to_the_older),
        CASE(all_bad_is_never_a_fresh_start),
        CASE(latest_alone_is_a_loss),
        CASE(fresh_sets_the_old_aside),
        CASE(leftovers_of_a_killed_save_are_removed),
        CASE(another_identity_is_refused),
        CASE(what_an_earlier_version_wrote_is_the_same),
        CASE(a_foreign_checkpoint_steps_aside),
        CASE(other_tensors_are_refused_by_name),
        CASE(the_same_step_again_keeps_the_state),
        CASE(what_changes_beside_a_save_is_not_saved),
        CASE(a_save_under_way_ends_before_the_run),
        CASE(a_failure_beside_training_is_told_by_the_wait),
        CASE(a_second_run_is_refused),
        CASE(a_dead_run_leaves_no_lock),
        CASE(metrics_are_cut_at_a_step),
        CASE(memory_needed_is_as_predicted),
        CASE(a_load_holds_a_block),
        CASE(a_byte_that_changes_before_the_load_is_found),
        CASE(writers_of_a_node_stay_below_their_bound),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    ml_grid_stop();
    return failed;
}
