/* safetensors: values of the three types, and every rule of the header; files cut at every length
 * and with every byte changed are read or refused, never a crash. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <unistd.h>

#include "store/formats/safetensors/safetensors.h"

static char path[64];

static int set_up(void **state)
{
    (void)state;
    snprintf(path, sizeof path, "/tmp/mpilora-safetensors-XXXXXX");
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    close(fd);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    return unlink(path);
}

static void save(const char *bytes, int64_t count)
{
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(bytes, 1, (size_t)count, file), count);
    assert_int_equal(fclose(file), 0);
}

/* A file of this header and `data` bytes; its size. */
static int64_t compose(char *out, const char *header, const void *data, int64_t bytes)
{
    int64_t n = (int64_t)strlen(header);
    for (int i = 0; i < 8; i++) out[i] = (char)(n >> (8 * i));
    memcpy(out + 8, header, (size_t)n);
    memcpy(out + 8 + n, data, (size_t)bytes);
    return 8 + n + bytes;
}

static const char good[] = "{\"__metadata__\":{\"format\":\"pt\"},\"b\":{\"dtype\":\"BF16\","
                           "\"shape\":[2],\"data_offsets\":[8,12]},"
                           "\"a\":{\"dtype\":\"F32\",\"shape\":[1,2],\"data_offsets\":[0,8]},"
                           "\"c\":{\"dtype\":\"F16\",\"shape\":[3],\"data_offsets\":[12,18]}}  ";
static const unsigned char data[18] = {0,    0,    0xc0, 0x3f, 0,    0, 0, 0xc0, 0x80,
                                       0x3f, 0x49, 0xc0, 0,    0x3c, 1, 0, 0xff, 0xfb};

static void values_are_read(void **state)
{
    (void)state;
    char bytes[1024];
    ml_safetensors *file;
    float x[3];
    save(bytes, compose(bytes, good, data, sizeof data));
    assert_int_equal(ml_safetensors_open(&file, path), ML_OK);
    assert_int_equal(ml_safetensors_count(file), 3);
    assert_string_equal(ml_safetensors_at(file, 1)->name, "b");
    assert_null(ml_safetensors_find(file, "d"));
    assert_int_equal(ml_safetensors_read(file, ml_safetensors_find(file, "a"), 0, 2, x), ML_OK);
    assert_true(x[0] == 1.5F && x[1] == -2.0F);
    assert_int_equal(ml_safetensors_read(file, ml_safetensors_find(file, "b"), 0, 2, x), ML_OK);
    assert_true(x[0] == 1.0F && x[1] == -3.140625F);
    assert_int_equal(ml_safetensors_read(file, ml_safetensors_find(file, "c"), 0, 3, x), ML_OK);
    assert_true(x[0] == 1.0F && x[1] == 0x1p-24F && x[2] == -65504.0F);
    assert_int_equal(ml_safetensors_read(file, ml_safetensors_find(file, "c"), 1, 1, x), ML_OK);
    assert_true(x[0] == 0x1p-24F);
    ml_safetensors_close(file);
}

static void types_lie_beside_each_other(void **state)
{
    (void)state;
    static const char header[] = "{\"a\":{\"dtype\":\"F64\",\"shape\":[2],\"data_offsets\":[0,16]},"
                                 "\"b\":{\"dtype\":\"F4\",\"shape\":[3],\"data_offsets\":[16,18]}}";
    unsigned char values[18] = {0};
    const double doubles[2] = {1.0 / 3.0, -1e300};
    char bytes[1024];
    ml_safetensors *file;
    float x[3];
    memcpy(values, doubles, sizeof doubles);
    save(bytes, compose(bytes, header, values, sizeof values));
    assert_int_equal(ml_safetensors_open(&file, path), ML_OK);
    assert_int_equal(ml_safetensors_read(file, ml_safetensors_at(file, 0), 0, 2, x), ML_OK);
    assert_true(x[0] == (float)(1.0 / 3.0) && x[1] == -INFINITY);
    assert_false(ml_safetensors_is_real(ml_safetensors_at(file, 1)));
    assert_int_equal(ml_safetensors_read(file, ml_safetensors_at(file, 1), 0, 3, x), ML_INPUT);
    assert_non_null(strstr(ml_error_text(), "b: has type F4, expected F32"));
    ml_safetensors_close(file);
}

/* This header before eight bytes of data. */
static void refuses(const char *header, const char *why)
{
    char bytes[1024];
    ml_safetensors *file = NULL;
    save(bytes, compose(bytes, header, data, 8));
    if (ml_safetensors_open(&file, path) != ML_INPUT) fail_msg("not refused: %s", header);
    if (!strstr(ml_error_text(), why))
        fail_msg("%s: \"%s\" lacks \"%s\"", header, ml_error_text(), why);
    assert_non_null(strstr(ml_error_text(), path));
}

static void every_rule_is_kept(void **state)
{
    (void)state;
    refuses("[]", "JSON");
    refuses(" {}", "JSON");
    refuses("{\"a\":1} x", "JSON");
    refuses("{\"\xff\":1}", "JSON");
    refuses("{}", "end at byte");
    refuses("{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]},\"a\":{\"dtype\":"
            "\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}",
            "JSON");
    refuses("{\"__metadata__\":{\"x\":1},\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":["
            "0,8]}}",
            "__metadata__: key \"x\" is an integer, expected a string");
    refuses("{\"a\":{\"dtype\":1,\"shape\":[2],\"data_offsets\":[0,8]}}",
            "a: key \"dtype\" is an integer, expected a string");
    refuses("{\"a\":[1]}", "a: is an array, expected an object");
    refuses("{\"a\":{\"dtype\":\"F32\",\"shape\":[-2],\"data_offsets\":[0,8]}}", "below 0");
    refuses("{\"a\":{\"dtype\":\"F32\",\"shape\":[2.0],\"data_offsets\":[0,8]}}",
            "a: key \"shape[0]\" is a number, expected an integer");
    refuses("{\"a\":{\"dtype\":\"F32\",\"shape\":[4611686018427387904,4],\"data_offsets\":[0,8]}}",
            "counted");
    refuses("{\"a\":{\"dtype\":\"F32\",\"shape\":[2305843009213693954],\"data_offsets\":[0,8]}}",
            "counted");
    refuses("{\"a\":{\"dtype\":\"F32\",\"shape\":[3],\"data_offsets\":[0,8]}}", "needs 12 bytes");
    refuses("{\"a\":{\"dtype\":\"F32\",\"shape\":[3],\"data_offsets\":[0,12]}}", "truncated");
    refuses("{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,8]}}", "gap");
    refuses("{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", "end at byte");
    refuses("{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]},\"b\":{\"dtype\":"
            "\"F32\",\"shape\":[1],\"data_offsets\":[4,8]}}",
            "overlap");
    refuses("{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[8,0]}}", "truncated");
    refuses("{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8],\"more\":1}}",
            "not {dtype");
    refuses("{\"a\":{\"dtype\":\"F32\",\"shape\":[2]}}", "not {dtype");
}

static void long_headers_are_refused(void **state)
{
    (void)state;
    static const unsigned char lengths[][8] = {{1, 0, 0, 0, 0, 0, 0, 0},
                                               {200, 0, 0, 0, 0, 0, 0, 0},
                                               {1, 0xe1, 0xf5, 5, 0, 0, 0, 0},
                                               {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}};
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        char bytes[32] = "        {}";
        ml_safetensors *file = NULL;
        memcpy(bytes, lengths[i], 8);
        save(bytes, sizeof bytes);
        assert_int_equal(ml_safetensors_open(&file, path), ML_INPUT);
    }
}

static void try_to_read(void)
{
    ml_safetensors *file = NULL;
    ml_status st = ml_safetensors_open(&file, path);
    assert_true(st == ML_OK || st == ML_INPUT);
    for (int64_t i = 0; file && i < ml_safetensors_count(file); i++) {
        const ml_safetensors_entry *entry = ml_safetensors_at(file, i);
        float *x = malloc((size_t)entry->count * sizeof *x + 1);
        st = ml_safetensors_read(file, entry, 0, entry->count, x);
        assert_true(st == ML_OK || st == ML_INPUT);
        free(x);
    }
    ml_safetensors_close(file);
}

static void damaged_files_do_no_harm(void **state)
{
    (void)state;
    char bytes[1024];
    static const char changes[] = {1, 2, 16, -128, 127};
    int64_t count = compose(bytes, good, data, sizeof data);
    for (int64_t length = 0; length < count; length++) {
        ml_safetensors *file = NULL;
        save(bytes, length);
        assert_int_equal(ml_safetensors_open(&file, path), ML_INPUT);
    }
    for (int64_t at = 0; at < count; at++) {
        for (size_t i = 0; i < sizeof changes; i++) {
            bytes[at] = (char)(bytes[at] ^ changes[i]);
            save(bytes, count);
            bytes[at] = (char)(bytes[at] ^ changes[i]);
            try_to_read();
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(values_are_read, set_up, tear_down),
        cmocka_unit_test_setup_teardown(types_lie_beside_each_other, set_up, tear_down),
        cmocka_unit_test_setup_teardown(every_rule_is_kept, set_up, tear_down),
        cmocka_unit_test_setup_teardown(long_headers_are_refused, set_up, tear_down),
        cmocka_unit_test_setup_teardown(damaged_files_do_no_harm, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
