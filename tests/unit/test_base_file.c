/* base files: what is written is what is read, whole or by shards, in both types; a file that
 * fails to be written leaves the older one; damage of every byte of the description, and
 * truncation, is refused without a crash. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>
#include <inttypes.h>
#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "model/families/families.h"
#include "mpilora/store.h"
#include "store/base/base_private.h"

static const ml_model_spec spec = {.family = &ml_family_llama,
                                   .layers = 2,
                                   .width = 24,
                                   .mlp_width = 40,
                                   .heads = 4,
                                   .kv_heads = 2,
                                   .head_dim = 6,
                                   .vocab = 37,
                                   .context = 16,
                                   .activation = ML_SILU,
                                   .norm_eps = 1e-5,
                                   .rope_theta = 1e4,
                                   .rope_scaling = {.kind = ML_ROPE_LLAMA3,
                                                    .factor = 8.0,
                                                    .low_freq_factor = 1.0,
                                                    .high_freq_factor = 4.0,
                                                    .original_context = 8},
                                   .gated = true,
                                   .qkv_bias = true};
static const char tokenizer[] = "{\"not\": \"looked into here\"}";
static char directory[64], path[96];

static int set_up(void **state)
{
    (void)state;
    snprintf(directory, sizeof directory, "/tmp/mpilora-base-XXXXXX");
    assert_non_null(mkdtemp(directory));
    snprintf(path, sizeof path, "%s/base.h5", directory);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    char command[128];
    snprintf(command, sizeof command, "rm -rf %s", directory);
    assert_int_equal(system(command), 0);
    return 0;
}

static float value_at(int64_t tensor, int64_t i) { return sinf((float)(31 * tensor + 7 * i)); }

static ml_status write_tensor(ml_base_writer *w, int64_t index)
{
    ml_model_tensor t;
    ml_status st = ML_OK;
    ml_model_tensor_at(&spec, index, &t);
    float *rows = calloc((size_t)(t.rows * t.cols), sizeof *rows);
    for (int64_t i = 0; i < t.rows * t.cols; i++) rows[i] = value_at(index, i);
    for (int64_t row = 0; st == ML_OK && row < t.rows; row += 5) /* in pieces */
        st = ml_base_writer_rows(w, t.name, row, ml_min(5, t.rows - row), rows + row * t.cols);
    free(rows);
    return st;
}

/* A file of the source that comes along. */
static const char generation[] = "{\"eos_token_id\": [1, 2]}";

static void write_file(ml_dtype dtype)
{
    ml_base_writer *w;
    char source[ML_SHA256_HEX];
    ml_base_files files = {0};
    assert_int_equal(ml_text_add(&files.content[1], generation, (int64_t)strlen(generation)),
                     ML_OK);
    ml_sha256_of("source", 6, source);
    assert_int_equal(ml_base_writer_create(&w, path, &spec, dtype, tokenizer,
                                           (int64_t)strlen(tokenizer), source, &files),
                     ML_OK);
    for (int64_t i = 0; i < ml_model_tensor_count(&spec); i++)
        assert_int_equal(write_tensor(w, i), ML_OK);
    assert_int_equal(ml_base_writer_finish(w), ML_OK);
    ml_base_files_destroy(&files);
}

/* ---- reading ------------------------------------------------------------------------------- */

static float rounded(float x, bool bf16)
{
    return bf16 ? ml_bf16_to_float(ml_bf16_from_float(x)) : x;
}

static void check_shard(ml_base *base, int64_t index, const ml_shard *shard, ml_dtype dtype)
{
    ml_model_tensor t;
    ml_model_tensor_at(&spec, index, &t);
    int64_t n = t.rows * t.cols,
            count = ml_shard_rows(shard, t.rows) * ml_shard_cols(shard, t.cols);
    float *global = calloc((size_t)n, sizeof *global),
          *expected = calloc((size_t)count, sizeof *expected);
    char *found = calloc((size_t)count, ml_dtype_size(dtype));
    bool stored_bf16 = ml_base_dtype(base) == ML_BF16 && !t.norm_or_bias;
    for (int64_t i = 0; i < n; i++)
        global[i] = rounded(value_at(index, i), stored_bf16 || dtype == ML_BF16);
    ml_shard_take(shard, t.rows, t.cols, global, expected);
    assert_int_equal(ml_base_read(base, t.name, shard, dtype, found), ML_OK);
    for (int64_t i = 0; i < count; i++) {
        float x = dtype == ML_FP32 ? ((float *)(void *)found)[i]
                                   : ml_bf16_to_float(((uint16_t *)(void *)found)[i]);
        if (x != expected[i])
            fail_msg("%s: element %d is %g, expected %g", t.name, (int)i, (double)x,
                     (double)expected[i]);
    }
    free(found);
    free(expected);
    free(global);
}

static void check_tensor(ml_base *base, int64_t index, ml_dtype dtype)
{
    ml_model_tensor t;
    ml_model_tensor_at(&spec, index, &t);
    const ml_shard whole = {.dim = ML_SHARD_WHOLE};
    const ml_shard rows = {.dim = ML_SHARD_ROWS, .nparts = 2, .part = {{1, 2}, {t.rows - 3, 3}}},
                   columns = {
                       .dim = ML_SHARD_COLS, .nparts = 1, .part = {{t.cols / 3, t.cols / 2}}};
    check_shard(base, index, &whole, dtype);
    check_shard(base, index, &rows, dtype);
    if (!t.vector) check_shard(base, index, &columns, dtype);
}

static void what_is_written_is_read(void **state)
{
    (void)state;
    for (int stored = 0; stored < 2; stored++) {
        ml_base *base;
        int64_t length;
        char hash[ML_SHA256_HEX];
        ml_text kept = {0};
        write_file(stored ? ML_BF16 : ML_FP32);
        if (ml_base_open(&base, path) != ML_OK) fail_msg("%s", ml_error_text());
        assert_int_equal(ml_base_dtype(base), stored ? ML_BF16 : ML_FP32);
        assert_int_equal(ml_base_spec(base)->mlp_width, spec.mlp_width);
        assert_true(ml_base_spec(base)->rope_scaling.factor == spec.rope_scaling.factor);
        assert_string_equal(ml_base_tokenizer(base, &length), tokenizer);
        ml_sha256_of(tokenizer, strlen(tokenizer), hash);
        assert_string_equal(ml_base_tokenizer_hash(base), hash);
        ml_sha256_of("source", 6, hash);
        assert_string_equal(ml_base_source_hash(base), hash);
        assert_int_equal(ml_base_read_file(base, "generation_config.json", &kept), ML_OK);
        assert_string_equal(kept.data, generation);
        kept.length = 0;
        assert_int_equal(ml_base_read_file(base, "merges.txt", &kept), ML_OK);
        assert_int_equal(kept.length, 0);
        assert_int_equal(ml_base_read_file(base, "notes.txt", &kept), ML_INTERNAL);
        ml_text_destroy(&kept);
        for (int64_t i = 0; i < ml_model_tensor_count(&spec); i++)
            for (int wanted = 0; wanted < 2; wanted++)
                check_tensor(base, i, wanted ? ML_BF16 : ML_FP32);
        ml_base_close(base);
    }
}

/* Several ranks that fill one block: together they write each number once, and what ml_base_read
 * gives. */
static void divided_loading_reads_each_part_once(void **state)
{
    (void)state;
    enum { MOST = 64, PARTS = 3 };
    int64_t count = ml_model_tensor_count(&spec), all = 0, bytes;
    const ml_shard whole = {.dim = ML_SHARD_WHOLE};
    ml_base_request requests[MOST];
    char names[MOST][64];
    ml_base *base;
    write_file(ML_BF16);
    assert_int_equal(ml_base_open(&base, path), ML_OK);
    assert_true(count <= MOST);
    for (int64_t i = 0; i < count; i++) {
        ml_model_tensor t;
        ml_model_tensor_at(&spec, count - 1 - i, &t); /* not in the file's order */
        snprintf(names[i], sizeof names[i], "%s", t.name);
        requests[i] = (ml_base_request){names[i], &whole, ML_FP32,
                                        calloc((size_t)(t.rows * t.cols), sizeof(float))};
    }
    for (int part = 0; part < PARTS; part++) {
        const ml_base_division division = {part, PARTS};
        assert_int_equal(ml_base_load(base, requests, count, &division, &bytes), ML_OK);
        assert_true(bytes > 0);
        all += bytes;
    }
    assert_int_equal(ml_base_load(base, requests, 1, NULL, &bytes),
                     ML_OK); /* the whole of one again: the same bytes */
    for (int64_t i = 0, expected = 0; i < count; i++) {
        ml_model_tensor t;
        ml_model_tensor_at(&spec, count - 1 - i, &t);
        int64_t n = t.rows * t.cols;
        float *found = calloc((size_t)n, sizeof *found);
        assert_int_equal(ml_base_read(base, t.name, &whole, ML_FP32, found), ML_OK);
        assert_memory_equal(found, requests[i].out, (size_t)n * sizeof *found);
        expected += n * (t.norm_or_bias ? 4 : 2);
        if (i == count - 1) assert_int_equal(all, expected);
        free(found);
        free(requests[i].out);
    }
    assert_int_equal(
        ml_base_load(base, &(ml_base_request){"no.such", &whole, ML_FP32, NULL}, 1, NULL, &bytes),
        ML_INPUT);
    assert_non_null(strstr(ml_error_text(), "no.such"));
    ml_base_close(base);
}

/* A file of an older version says fewer features: the hash is of its own words, not of what this
 * version would write. */
static void the_hash_is_of_the_files_own_words(void **state)
{
    (void)state;
    ml_base *base;
    char hex[ML_SHA256_HEX];
    write_file(ML_FP32);
    assert_int_equal(ml_base_open(&base, path), ML_OK);
    base->spec.rope_theta *= 2;
    assert_int_equal(base_content_hash(base, hex), ML_OK);
    assert_string_equal(hex, ml_base_content_hash(base));
    ml_base_close(base);
}

static void equal_content_has_equal_hashes(void **state)
{
    (void)state;
    char hash[2][ML_SHA256_HEX];
    const ml_dtype dtypes[] = {ML_FP32, ML_FP32, ML_BF16};
    for (int i = 0; i < 3; i++) {
        ml_base *base;
        write_file(dtypes[i]);
        assert_int_equal(ml_base_open(&base, path), ML_OK);
        if (i < 2) snprintf(hash[i], sizeof hash[i], "%s", ml_base_content_hash(base));
        if (i == 2) assert_string_not_equal(hash[0], ml_base_content_hash(base));
        ml_base_close(base);
    }
    assert_string_equal(hash[0], hash[1]);
}

/* ---- failures ------------------------------------------------------------------------------ */

static int64_t files_there(void)
{
    char command[128];
    int64_t n = 0;
    snprintf(command, sizeof command, "ls -A %s | wc -l", directory);
    FILE *list = popen(command, "r");
    assert_int_equal(fscanf(list, "%" SCNd64, &n), 1);
    pclose(list);
    return n;
}

static void an_unfinished_file_leaves_the_older_one(void **state)
{
    (void)state;
    ml_base_writer *w;
    char before[ML_SHA256_HEX], after[ML_SHA256_HEX];
    write_file(ML_FP32);
    assert_int_equal(ml_sha256_of_file(path, before), ML_OK);
    for (int discard = 0; discard < 2; discard++) {
        assert_int_equal(ml_base_writer_create(&w, path, &spec, ML_BF16, "", 0, "", NULL), ML_OK);
        assert_int_equal(write_tensor(w, 0), ML_OK);
        assert_int_equal(write_tensor(w, 2), ML_INTERNAL); /* out of order */
        if (discard)
            ml_base_writer_discard(w);
        else
            assert_int_equal(ml_base_writer_finish(w), ML_INTERNAL);
        assert_int_equal(files_there(), 1);
    }
    assert_int_equal(ml_sha256_of_file(path, after), ML_OK);
    assert_string_equal(before, after);
    assert_int_equal(
        ml_base_writer_create(&w, "/tmp/no/such/place/base.h5", &spec, ML_FP32, "", 0, "", NULL),
        ML_RESOURCE);
}

static char *load(int64_t *bytes)
{
    struct stat about;
    assert_int_equal(stat(path, &about), 0);
    *bytes = about.st_size;
    char *content = malloc((size_t)*bytes);
    FILE *file = fopen(path, "rb");
    assert_int_equal(fread(content, 1, (size_t)*bytes, file), *bytes);
    fclose(file);
    return content;
}

static void save(const char *content, int64_t bytes)
{
    FILE *file = fopen(path, "wb");
    assert_int_equal(fwrite(content, 1, (size_t)bytes, file), bytes);
    assert_int_equal(fclose(file), 0);
}

/* Bytes of the contents may change unseen (they are too large to be hashed at each start); nothing
 * else may. */
static void damage_is_refused(void **state)
{
    (void)state;
    int64_t bytes, refused = 0, accepted = 0;
    write_file(ML_BF16);
    char *content = load(&bytes);
    for (int64_t at = 0; at < bytes; at += 13) {
        ml_base *base = NULL;
        content[at] = (char)(content[at] ^ 0x41);
        save(content, bytes);
        content[at] = (char)(content[at] ^ 0x41);
        ml_status st = ml_base_open(&base, path);
        assert_true(st == ML_OK || st == ML_INPUT);
        refused += st == ML_INPUT;
        accepted += st == ML_OK;
        ml_base_close(base);
    }
    int64_t contents = 0;
    for (int64_t i = 0; i < ml_model_tensor_count(&spec); i++) {
        ml_model_tensor t;
        ml_model_tensor_at(&spec, i, &t);
        contents += t.rows * t.cols * (t.norm_or_bias ? 4 : 2);
    }
    assert_true(accepted <= contents / 13 + 2 * ml_model_tensor_count(&spec));
    assert_true(refused > 0);
    for (int64_t length = 0; length < bytes; length += length < 600 ? 7 : 501) {
        ml_base *base = NULL;
        save(content, length);
        assert_int_equal(ml_base_open(&base, path), ML_INPUT);
    }
    free(content);
}

/* Between the look at its description and the reading of its numbers somebody cuts the file: all
 * threads read their parts, and what the run ends with is one line that names it. */
static void a_file_cut_while_in_use_is_named(void **state)
{
    (void)state;
    int64_t bytes, count = ml_model_tensor_count(&spec);
    const ml_shard whole = {.dim = ML_SHARD_WHOLE};
    ml_base *base;
    char expected[160];
    write_file(ML_BF16);
    assert_int_equal(ml_base_open(&base, path), ML_OK);
    ml_model_tensor t;
    ml_model_tensor_at(&spec, count - 1, &t);
    float *out = calloc((size_t)(t.rows * t.cols), sizeof *out);
    const ml_base_request last = {t.name, &whole, ML_FP32, out};
    assert_int_equal(ml_base_load(base, &last, 1, NULL, &bytes), ML_OK);
    int64_t end = base->offset[count - 1] + 1;
    assert_int_equal(truncate(path, end), 0);
    assert_int_equal(ml_base_load(base, &last, 1, NULL, &bytes), ML_INPUT);
    snprintf(expected, sizeof expected, "%s: the file ends at byte %" PRId64, path, end);
    assert_non_null(strstr(ml_error_text(), expected));
    free(out);
    ml_base_close(base);
}

/* ---- mapped -------------------------------------------------------------------------------- */

enum { TENSORS = 64 };

typedef struct mapped {
    ml_base *base;
    ml_memory_block block;
    int64_t count;
    ml_model_tensor tensor[TENSORS];
    ml_base_request request[TENSORS];
} mapped;

static const ml_shard all_of_it = {.dim = ML_SHARD_WHOLE};

/* Tensors lie in the block as in the file's pages, one behind the other. */
static void open_mapped(mapped *m)
{
    const int64_t page = ml_memory_page();
    write_file(ML_BF16);
    assert_int_equal(ml_base_open(&m->base, path), ML_OK);
    m->count = ml_model_tensor_count(&spec);
    assert_true(m->count <= TENSORS);
    int64_t bytes = m->base->opened.bytes, before = m->base->offset[0] / page * page;
    assert_int_equal(ml_memory_reserve(&m->block, bytes, bytes, ML_MEM_FROZEN, "a test's block"),
                     ML_OK);
    for (int64_t i = 0; i < m->count; i++) {
        ml_model_tensor_at(&spec, i, &m->tensor[i]);
        m->request[i] = (ml_base_request){m->tensor[i].name, &all_of_it,
                                          ml_base_tensor_dtype(m->base, &m->tensor[i]),
                                          (char *)m->block.start + m->base->offset[i] - before};
    }
}

static void load_mapped(mapped *m)
{
    int64_t bytes;
    if (ml_base_map(m->base, m->block.start, m->block.bytes, 0, m->request, m->count) != ML_OK)
        fail_msg("%s", ml_error_text());
    if (ml_base_load(m->base, m->request, m->count, NULL, &bytes) != ML_OK)
        fail_msg("%s", ml_error_text());
}

static void close_mapped(mapped *m)
{
    ml_base_unmap(m->base);
    ml_memory_release(&m->block);
    ml_base_close(m->base);
    assert_int_equal(ml_memory_current(ML_MEM_FROZEN), 0);
}

static int64_t mapped_bytes(const ml_base *base)
{
    int64_t all = 0;
    ml_memory_span span;
    for (int64_t i = 0; i < ml_base_mapped(base, i, &span); i++) all += span.bytes;
    return all;
}

static void check_mapped(const mapped *m)
{
    for (int64_t i = 0; i < m->count; i++) {
        const ml_base_request *r = &m->request[i];
        size_t bytes = (size_t)ml_dtype_bytes(r->dtype, m->tensor[i].rows * m->tensor[i].cols);
        char *found = malloc(bytes);
        assert_int_equal(ml_base_read(m->base, r->name, r->shard, r->dtype, found), ML_OK);
        assert_memory_equal(found, r->out, bytes);
        free(found);
    }
}

static void mapped_is_as_read(void **state)
{
    (void)state;
    mapped m;
    open_mapped(&m);
    const ml_base_request own = m.request[4];
    load_mapped(&m);
    ml_memory_span span;
    assert_int_equal(ml_base_mapped(m.base, 0, &span), 1); /* the contents lie together */
    assert_true(mapped_bytes(m.base) >= (m.base->opened.bytes - m.base->offset[0]) / 2);
    check_mapped(&m);
    /* What the base has not cuts the piece in two, and its place can be written to. */
    m.request[4].name = NULL;
    ml_base_unmap(m.base);
    ml_memory_release(&m.block);
    int64_t bytes = m.base->opened.bytes;
    assert_int_equal(ml_memory_reserve(&m.block, bytes, 0, ML_MEM_FROZEN, "a test's block"), ML_OK);
    for (int64_t i = 0, page = ml_memory_page(); i < m.count; i++)
        m.request[i].out =
            (char *)m.block.start + m.base->offset[i] - m.base->offset[0] / page * page;
    assert_int_equal(ml_base_map(m.base, m.block.start, m.block.bytes, 0, m.request, m.count),
                     ML_OK);
    memset(m.request[4].out, 1, (size_t)(m.tensor[4].rows * m.tensor[4].cols) * 2);
    m.request[4].name = own.name;
    int64_t read;
    assert_int_equal(ml_base_load(m.base, m.request, m.count, NULL, &read), ML_OK);
    check_mapped(&m);
    assert_int_equal(ml_base_check(m.base), ML_OK);
    close_mapped(&m);
}

/* A page that is gone reads as zeros, and the check says why. */
static void a_mapped_file_cut_while_in_use_is_named(void **state)
{
    (void)state;
    mapped m;
    open_mapped(&m);
    load_mapped(&m);
    int64_t end = m.base->offset[0] + 8;
    char expected[160];
    assert_int_equal(truncate(path, end), 0);
    const char *lost = m.request[m.count / 2].out;
    ml_memory_span span;
    (void)ml_base_mapped(m.base, 0, &span);
    assert_true(lost > (const char *)span.data && lost < (const char *)span.data + span.bytes);
    assert_int_equal(*(const volatile char *)lost, 0);
    assert_int_equal(lost[1], 0);
    assert_int_equal(ml_base_check(m.base), ML_INPUT);
    snprintf(expected, sizeof expected, "%s: the file ends at byte %" PRId64, path, end);
    assert_non_null(strstr(ml_error_text(), expected));
    assert_int_equal(truncate(path, m.base->opened.bytes), 0); /* of the same size again */
    assert_int_equal(ml_base_check(m.base), ML_INPUT);
    assert_non_null(strstr(ml_error_text(), "could not be read while in use"));
    close_mapped(&m);
    open_mapped(&m);
    assert_int_equal(truncate(path, end), 0); /* before its pages are taken */
    int64_t bytes;
    assert_int_equal(ml_base_map(m.base, m.block.start, m.block.bytes, 0, m.request, m.count),
                     ML_OK);
    assert_int_equal(ml_base_load(m.base, m.request, m.count, NULL, &bytes), ML_INPUT);
    assert_non_null(strstr(ml_error_text(), expected));
    close_mapped(&m);
}

static void a_mapped_file_that_is_written_to_is_named(void **state)
{
    (void)state;
    mapped m;
    const struct timespec past[2] = {{1000000000, 0}, {1000000000, 0}};
    open_mapped(&m);
    load_mapped(&m);
    assert_int_equal(ml_base_check(m.base), ML_OK);
    assert_int_equal(utimensat(AT_FDCWD, path, past, 0), 0);
    assert_int_equal(ml_base_check(m.base), ML_OK); /* its time alone */
    int fd = open(path, O_WRONLY);
    assert_int_equal(pwrite(fd, "other", 5, m.base->offset[0] + 16), 5);
    assert_int_equal(close(fd), 0);
    assert_int_equal(ml_base_check(m.base), ML_INPUT);
    assert_non_null(strstr(ml_error_text(), "was written to while in use"));
    close_mapped(&m);
}

/* Any number of bases that have nothing to map leave what can be watched to the others. */
static void what_is_not_mapped_is_not_watched(void **state)
{
    (void)state;
    enum { MANY = 40 }; /* more than are watched at a time */
    mapped m;
    for (int i = 0; i < MANY; i++) {
        open_mapped(&m);
        for (int64_t k = 0; k < m.count; k++) m.request[k].name = NULL;
        assert_int_equal(ml_base_map(m.base, m.block.start, m.block.bytes, 0, m.request, m.count),
                         ML_OK);
        assert_int_equal(mapped_bytes(m.base), 0);
        close_mapped(&m);
    }
    open_mapped(&m);
    load_mapped(&m);
    assert_true(mapped_bytes(m.base) > 0);
    close_mapped(&m);
}

/* A process of its own, in which SIGBUS comes from elsewhere while something is watched. */
static int signal_of(void (*fault)(void))
{
    int status;
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        static char watched[2 << 20];
        signal(SIGBUS, SIG_DFL);
        if (ml_memory_watch(watched, sizeof watched) >= 0) fault();
        _exit(0);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    return WIFSIGNALED(status) ? WTERMSIG(status) : 0;
}

static void touch_what_is_gone(void)
{
    int fd = open(path, O_RDWR | O_CREAT, 0600);
    if (fd < 0 || ftruncate(fd, 8192)) return;
    char *other = mmap(NULL, 8192, PROT_READ, MAP_SHARED, fd, 0);
    if (other == MAP_FAILED || ftruncate(fd, 0)) return;
    (void)*(volatile char *)other;
}

static void send_one(void) { (void)raise(SIGBUS); }

static void a_fault_elsewhere_ends_as_before(void **state)
{
    (void)state;
    assert_int_equal(signal_of(touch_what_is_gone), SIGBUS);
    assert_int_equal(signal_of(send_one), SIGBUS);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_fault_elsewhere_ends_as_before, set_up, tear_down),
        cmocka_unit_test_setup_teardown(mapped_is_as_read, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_mapped_file_cut_while_in_use_is_named, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_mapped_file_that_is_written_to_is_named, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(what_is_not_mapped_is_not_watched, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_file_cut_while_in_use_is_named, set_up, tear_down),
        cmocka_unit_test_setup_teardown(what_is_written_is_read, set_up, tear_down),
        cmocka_unit_test_setup_teardown(divided_loading_reads_each_part_once, set_up, tear_down),
        cmocka_unit_test_setup_teardown(equal_content_has_equal_hashes, set_up, tear_down),
        cmocka_unit_test_setup_teardown(the_hash_is_of_the_files_own_words, set_up, tear_down),
        cmocka_unit_test_setup_teardown(an_unfinished_file_leaves_the_older_one, set_up, tear_down),
        cmocka_unit_test_setup_teardown(damage_is_refused, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
