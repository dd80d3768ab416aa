/* data sets: what was written is read back; damaged, cut and foreign files are refused; an older
 * file survives a failure. */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <hdf5.h>
#include <signal.h>

#include <cmocka.h>

#include "mpilora/data.h"

enum { LONG = 200000, VOCAB = 300000 };
static char path[64], other[64];

static ml_dataset_writer *writer_of_three(const char *to)
{
    ml_dataset_writer *writer = NULL;
    int32_t short_one[3] = {5, 0, 299999},
            *long_one = ml_memory_alloc(LONG, sizeof *long_one, ML_MEM_OTHER, "test");
    uint8_t short_mask[3] = {1, 0, 1}, *long_mask = ml_memory_alloc(LONG, 1, ML_MEM_OTHER, "test");
    for (int i = 0; i < LONG; i++) {
        long_one[i] = i;
        long_mask[i] = i % 3 == 0;
    }
    assert_int_equal(ml_dataset_writer_create(&writer, to, VOCAB, "", 77), ML_OK);
    assert_int_equal(ml_dataset_writer_add(writer, short_one, short_mask, 3), ML_OK);
    assert_int_equal(ml_dataset_writer_add(writer, long_one, long_mask, LONG), ML_OK);
    assert_int_equal(ml_dataset_writer_add(writer, short_one, short_mask, 2), ML_OK);
    ml_memory_free(long_one);
    ml_memory_free(long_mask);
    return writer;
}

static int make_file(void **state)
{
    (void)state;
    snprintf(path, sizeof path, "test_dataset-%ld.h5", (long)getpid());
    snprintf(other, sizeof other, "test_dataset-%ld.other.h5", (long)getpid());
    return ml_dataset_writer_finish(writer_of_three(path)) != ML_OK;
}

static int remove_files(void **state)
{
    (void)state;
    unlink(path);
    unlink(other);
    return 0;
}

static void what_was_written_is_read(void **state)
{
    (void)state;
    ml_dataset *data = NULL;
    int32_t tokens[1000];
    uint8_t mask[1000];
    assert_int_equal(ml_dataset_open(&data, path), ML_OK);
    assert_int_equal(ml_dataset_sequences(data), 3);
    assert_int_equal(ml_dataset_tokens(data), LONG + 5);
    assert_int_equal(ml_dataset_vocab(data), VOCAB);
    assert_string_equal(ml_dataset_tokenizer_hash(data), "");
    assert_int_equal(strlen(ml_dataset_hash(data)), 64);
    assert_int_equal(ml_dataset_length(data, 1, 0), LONG);
    assert_int_equal(ml_dataset_length(data, 1, 512), 512);
    assert_int_equal(ml_dataset_targets(data, 0, 0), 1); /* the first token never is one */
    assert_int_equal(ml_dataset_targets(data, 2, 0), 0);
    assert_int_equal(ml_dataset_targets(data, 1, 0), (LONG + 2) / 3 - 1);
    for (int64_t cut = 1; cut < 1000; cut++)
        assert_int_equal(ml_dataset_targets(data, 1, cut), (cut + 2) / 3 - 1);
    assert_int_equal(ml_dataset_read(data, 1, 1000, tokens, mask), ML_OK);
    for (int i = 0; i < 1000; i++) {
        assert_int_equal(tokens[i], i);
        assert_int_equal(mask[i], i % 3 == 0);
    }
    assert_int_equal(ml_dataset_read(data, 2, 1000, tokens, mask), ML_OK);
    assert_int_equal(tokens[0], 5);
    assert_int_equal(tokens[1], 0);
    assert_int_equal(mask[1], 0);
    ml_dataset_destroy(data);
}

/* Other programs find plain HDF5 with the documented names. */
static void hdf5_reads_it(void **state)
{
    (void)state;
    hid_t file = H5Fopen(path, H5F_ACC_RDONLY, H5P_DEFAULT),
          set = H5Dopen2(file, "tokens", H5P_DEFAULT);
    int32_t *tokens = ml_memory_alloc(LONG + 5, sizeof *tokens, ML_MEM_OTHER, "test");
    assert_true(H5Dread(set, H5T_NATIVE_INT32, H5S_ALL, H5S_ALL, H5P_DEFAULT, tokens) >= 0);
    assert_int_equal(tokens[2], 299999);
    assert_int_equal(tokens[3 + 4711], 4711);
    ml_memory_free(tokens);
    H5Dclose(set);
    H5Fclose(file);
}

static void the_hash_is_of_the_content(void **state)
{
    (void)state;
    ml_dataset *a = NULL, *b = NULL;
    assert_int_equal(ml_dataset_writer_finish(writer_of_three(other)), ML_OK);
    assert_int_equal(ml_dataset_open(&a, path), ML_OK);
    assert_int_equal(ml_dataset_open(&b, other), ML_OK);
    assert_string_equal(ml_dataset_hash(a), ml_dataset_hash(b));
    ml_dataset_destroy(b);
    int32_t one[2] = {1, 2};
    uint8_t mask[2] = {0, 1};
    ml_dataset_writer *writer = writer_of_three(other);
    assert_int_equal(ml_dataset_writer_add(writer, one, mask, 2), ML_OK);
    assert_int_equal(ml_dataset_writer_finish(writer), ML_OK);
    assert_int_equal(ml_dataset_open(&b, other), ML_OK);
    assert_string_not_equal(ml_dataset_hash(a), ml_dataset_hash(b));
    ml_dataset_destroy(a);
    ml_dataset_destroy(b);
}

static void write_bytes(const char *to, const char *bytes, size_t count)
{
    FILE *file = fopen(to, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(bytes, 1, count, file), count);
    fclose(file);
}

static void refused(const char *bytes, size_t count)
{
    ml_dataset *data = NULL;
    write_bytes(other, bytes, count);
    ml_error_clear();
    assert_int_equal(ml_dataset_open(&data, other), ML_INPUT);
    assert_non_null(strstr(ml_error_text(), other));
    assert_null(strchr(ml_error_text(), '\n'));
}

static void damaged_files_are_refused(void **state)
{
    (void)state;
    struct stat about;
    assert_int_equal(stat(path, &about), 0);
    size_t size = (size_t)about.st_size;
    char *bytes = ml_memory_alloc((int64_t)size + 8, 1, ML_MEM_OTHER, "test");
    FILE *file = fopen(path, "rb");
    assert_int_equal(fread(bytes, 1, size, file), size);
    fclose(file);
    for (size_t cut = 0; cut < size; cut += cut < 4096 ? 97 : 100003) refused(bytes, cut);
    refused(bytes, size - 1);
    refused(bytes, size + 1);
    for (size_t at = 0; at < size; at += at < 4096 ? 61 : 99991) {
        bytes[at] ^= 0x10;
        refused(bytes, size);
        bytes[at] ^= 0x10;
    }
    ml_memory_free(bytes);
    refused("not a data set at all\n", 22);
    ml_dataset *data = NULL;
    assert_int_equal(ml_dataset_open(&data, "/nowhere/at/all.h5"), ML_INPUT);
    assert_int_equal(ml_dataset_open(&data, "."), ML_INPUT);
}

static void bad_ids_are_refused_when_written(void **state)
{
    (void)state;
    ml_dataset_writer *writer = NULL;
    uint8_t mask[2] = {1, 1};
    assert_int_equal(ml_dataset_writer_create(&writer, other, 10, "", 0), ML_OK);
    assert_int_equal(ml_dataset_writer_add(writer, (int32_t[]){1, 10}, mask, 2), ML_INPUT);
    assert_int_equal(ml_dataset_writer_add(writer, (int32_t[]){-1, 3}, mask, 2), ML_INPUT);
    ml_dataset_writer_discard(writer);
    assert_int_equal(ml_dataset_writer_create(&writer, other, 10, "", 0), ML_OK);
    assert_int_equal(ml_dataset_writer_finish(writer), ML_INPUT); /* nothing in it */
    assert_int_equal(ml_dataset_writer_create(&writer, "/nowhere/at/all.h5", 10, "", 0),
                     ML_RESOURCE);
}

/* A disk that ends, played by the limit on file sizes: one clean error, and the file that was
 * there is still whole. */
static void an_older_file_survives_a_full_disk(void **state)
{
    (void)state;
    struct rlimit limit, small;
    assert_int_equal(ml_dataset_writer_finish(writer_of_three(other)), ML_OK);
    ml_dataset_writer *writer = writer_of_three(other);
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &limit), 0);
    small = limit;
    small.rlim_cur = 900000; /* the spool fits, the file of a million bytes does not */
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    ml_status st = ml_dataset_writer_finish(writer);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
    assert_int_equal(st, ML_RESOURCE);
    ml_dataset *data = NULL;
    assert_int_equal(ml_dataset_open(&data, other), ML_OK);
    ml_dataset_destroy(data);
    char temporary[128];
    snprintf(temporary, sizeof temporary, "%s.tmp-%ld", other, (long)getpid());
    assert_int_not_equal(access(temporary, F_OK), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_was_written_is_read),
        cmocka_unit_test(hdf5_reads_it),
        cmocka_unit_test(the_hash_is_of_the_content),
        cmocka_unit_test(damaged_files_are_refused),
        cmocka_unit_test(bad_ids_are_refused_when_written),
        cmocka_unit_test(an_older_file_survives_a_full_disk),
    };
    return cmocka_run_group_tests(tests, make_file, remove_files);
}
