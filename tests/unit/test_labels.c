/* labels of data sets: every kind is read back, also of a joined one; what does not fit is refused;
 * rows of ids with labels, names in an order that no row decides. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <unistd.h>

#include <fcntl.h>

#include <cmocka.h>

#include "io/hdf5_file.h"
#include "mpilora/data.h"

static char in[64], out[64], other[64];

static int start(void **state)
{
    (void)state;
    snprintf(in, sizeof in, "test_labels-%ld.in", (long)getpid());
    snprintf(out, sizeof out, "test_labels-%ld.h5", (long)getpid());
    snprintf(other, sizeof other, "test_labels-%ld.other.h5", (long)getpid());
    return 0;
}

static int end(void **state)
{
    (void)state;
    unlink(in);
    unlink(out);
    unlink(other);
    return 0;
}

/* ---- the writer ---------------------------------------------------------------------------- */

/* Sequence i has the tokens i, i + 1 … */
static ml_dataset_writer *writer_of(const char *path, ml_label_kind kind, int64_t count,
                                    const char *names)
{
    ml_dataset_writer *writer = NULL;
    assert_int_equal(ml_dataset_writer_create(&writer, path, 100, "", 0), ML_OK);
    assert_int_equal(ml_dataset_writer_labels(writer, kind, count, names), ML_OK);
    return writer;
}

static void add(ml_dataset_writer *writer, int32_t first, int64_t count, const uint8_t *mask)
{
    static const uint8_t none[16] = {0};
    int32_t tokens[16];
    for (int64_t t = 0; t < count; t++) tokens[t] = first + (int32_t)t;
    assert_int_equal(ml_dataset_writer_add(writer, tokens, mask ? mask : none, count), ML_OK);
}

static ml_dataset *finished(ml_dataset_writer *writer, const char *path)
{
    ml_dataset *data = NULL;
    ml_status st = ml_dataset_writer_finish(writer);
    if (st != ML_OK) fail_msg("%s", ml_error_text());
    st = ml_dataset_open(&data, path);
    if (st != ML_OK) fail_msg("%s", ml_error_text());
    return data;
}

static ml_dataset *three_classes(const char *path, const char *names, int seed)
{
    static const char *const same = "[\"no\",\"so\",\"yes\"]";
    ml_dataset_writer *writer = writer_of(path, ML_LABEL_CLASS, 3, names ? names : same);
    for (int i = 0; i < 5; i++) {
        float label = (float)((i + seed) % 3);
        uint8_t types[] = {0, 0, 1, 1};
        add(writer, i, 4, NULL);
        if (i == 3) assert_int_equal(ml_dataset_writer_add_types(writer, types), ML_OK);
        assert_int_equal(ml_dataset_writer_add_label(writer, &label), ML_OK);
    }
    return finished(writer, path);
}

static void classes_and_types(void **state)
{
    (void)state;
    ml_dataset *data = three_classes(out, NULL, 0);
    uint8_t types[4] = {9, 9, 9, 9};
    int32_t classes[4];
    float label = -1;
    assert_int_equal(ml_dataset_label_kind(data), ML_LABEL_CLASS);
    assert_int_equal(ml_dataset_label_count(data), 3);
    assert_string_equal(ml_dataset_label_names(data), "[\"no\",\"so\",\"yes\"]");
    assert_int_equal(ml_dataset_type_count(data), 2);
    for (int i = 0; i < 5; i++) {
        assert_int_equal(ml_dataset_read_label(data, i, &label), ML_OK);
        assert_int_equal(label, i % 3);
        assert_int_equal(ml_dataset_targets(data, i, 0), 1);
        assert_int_equal(ml_dataset_read_types(data, i, 4, types), ML_OK);
        for (int t = 0; t < 4; t++) assert_int_equal(types[t], i == 3 && t >= 2);
    }
    assert_int_equal(ml_dataset_read_types(data, 3, 3, types), ML_OK);
    assert_int_equal(ml_dataset_read_token_labels(data, 3, 4, classes), ML_OK);
    assert_int_equal(classes[2], ML_LABEL_IGNORED);
    ml_dataset_destroy(data);
}

static void numbers_and_bits(void **state)
{
    (void)state;
    const float number[] = {0.1f, -2.5f, 1e30f}, bits[][3] = {{1, 0, 1}, {0, 0, 0}, {1, 1, 1}};
    float found[3];
    ml_dataset_writer *writer = writer_of(out, ML_LABEL_NUMBER, 1, "");
    for (int i = 0; i < 3; i++) {
        add(writer, i, i + 1, NULL);
        assert_int_equal(ml_dataset_writer_add_label(writer, &number[i]), ML_OK);
    }
    ml_dataset *data = finished(writer, out);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(ml_dataset_read_label(data, i, found), ML_OK);
        assert_true(found[0] == number[i]);
    }
    assert_string_equal(ml_dataset_label_names(data), "");
    assert_int_equal(ml_dataset_type_count(data), 1);
    ml_dataset_destroy(data);
    writer = writer_of(out, ML_LABEL_BITS, 3, "");
    for (int i = 0; i < 3; i++) {
        add(writer, i, i + 1, NULL);
        assert_int_equal(ml_dataset_writer_add_label(writer, bits[i]), ML_OK);
    }
    data = finished(writer, out);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(ml_dataset_read_label(data, i, found), ML_OK);
        assert_memory_equal(found, bits[i], sizeof found);
    }
    ml_dataset_destroy(data);
}

static void classes_of_tokens(void **state)
{
    (void)state;
    const int32_t classes[] = {-100, 1, -100, 0};
    const uint8_t mask[] = {0, 1, 0, 1};
    const int32_t number[] = {1, 0};
    int32_t found[4];
    ml_dataset_writer *writer = writer_of(out, ML_LABEL_TOKENS, 0, "");
    for (int i = 0; i < 2; i++) {
        add(writer, i, 4, mask);
        assert_int_equal(ml_dataset_writer_add_token_labels(writer, classes), ML_OK);
    }
    assert_int_equal(ml_dataset_writer_name_labels(writer, 2, "[\"B\",\"O\"]", number), ML_OK);
    ml_dataset *data = finished(writer, out);
    assert_int_equal(ml_dataset_label_kind(data), ML_LABEL_TOKENS);
    assert_int_equal(ml_dataset_targets(data, 1, 0), 2);
    assert_int_equal(ml_dataset_targets(data, 1, 2), 1);
    assert_int_equal(ml_dataset_targets(data, 1, 1), 0);
    assert_int_equal(ml_dataset_read_token_labels(data, 1, 4, found), ML_OK);
    assert_int_equal(found[0], -100);
    assert_int_equal(found[1], 0);
    assert_int_equal(found[3], 1);
    ml_dataset_destroy(data);
}

static void a_joined_data_set_has_its_parts_labels(void **state)
{
    (void)state;
    ml_dataset *part[2] = {three_classes(out, NULL, 0), three_classes(other, NULL, 1)}, *data;
    float label;
    uint8_t types[4];
    assert_string_not_equal(ml_dataset_hash(part[0]), ml_dataset_hash(part[1]));
    assert_int_equal(ml_dataset_join(&data, 2, part, (double[]){1, 1}), ML_OK);
    assert_int_equal(ml_dataset_label_kind(data), ML_LABEL_CLASS);
    assert_int_equal(ml_dataset_label_count(data), 3);
    assert_int_equal(ml_dataset_type_count(data), 2);
    for (int i = 0; i < 10; i++) {
        assert_int_equal(ml_dataset_read_label(data, i, &label), ML_OK);
        assert_int_equal(label, (i < 5 ? i : i - 4) % 3);
        assert_int_equal(ml_dataset_targets(data, i, 0), 1);
        assert_int_equal(ml_dataset_read_types(data, i, 4, types), ML_OK);
        assert_int_equal(types[3], i % 5 == 3);
    }
    ml_dataset_destroy(data);
    part[0] = three_classes(out, NULL, 0);
    part[1] = three_classes(other, "[\"no\",\"yes\",\"so\"]", 0);
    assert_string_not_equal(ml_dataset_hash(part[0]), ml_dataset_hash(part[1])); /* names count */
    assert_int_equal(ml_dataset_join(&data, 2, part, (double[]){1, 1}), ML_INPUT);
    assert_non_null(strstr(ml_error_text(), other));
    ml_dataset_destroy(part[0]);
    ml_dataset_destroy(part[1]);
}

static void bad_labels_are_refused_when_written(void **state)
{
    (void)state;
    ml_dataset_writer *writer = writer_of(out, ML_LABEL_CLASS, 3, "");
    add(writer, 0, 2, NULL);
    assert_int_equal(ml_dataset_writer_add_label(writer, (float[]){3}), ML_INPUT);
    assert_int_equal(ml_dataset_writer_add_label(writer, (float[]){-1}), ML_INPUT);
    assert_int_equal(ml_dataset_writer_add_label(writer, (float[]){0.5f}), ML_INPUT);
    assert_int_equal(ml_dataset_writer_finish(writer), ML_INTERNAL); /* a label is lacking */
    writer = writer_of(out, ML_LABEL_NUMBER, 1, "");
    add(writer, 0, 2, NULL);
    float zero = 0;
    assert_int_equal(ml_dataset_writer_add_label(writer, (float[]){1 / zero}), ML_INPUT);
    ml_dataset_writer_discard(writer);
    writer = writer_of(out, ML_LABEL_BITS, 2, "");
    add(writer, 0, 2, NULL);
    assert_int_equal(ml_dataset_writer_add_label(writer, (float[]){1, 2}), ML_INPUT);
    ml_dataset_writer_discard(writer);
}

/* ---- files that others made ----------------------------------------------------------------- */

/* Changes a data set by HDF5's own means, and seals it again. */
static void forge(const char *set, int64_t place, int32_t value, const char *attribute,
                  int64_t number)
{
    hid_t file = H5Fopen(out, H5F_ACC_RDWR, H5P_DEFAULT);
    if (set) {
        int32_t values[64];
        hid_t data = H5Dopen2(file, set, H5P_DEFAULT);
        assert_true(H5Dread(data, H5T_NATIVE_INT32, H5S_ALL, H5S_ALL, H5P_DEFAULT, values) >= 0);
        values[place] = value;
        assert_true(H5Dwrite(data, H5T_NATIVE_INT32, H5S_ALL, H5S_ALL, H5P_DEFAULT, values) >= 0);
        H5Dclose(data);
    }
    if (attribute) {
        hid_t at = H5Aopen(file, attribute, H5P_DEFAULT);
        assert_true(H5Awrite(at, H5T_NATIVE_INT64, &number) >= 0);
        H5Aclose(at);
    }
    H5Fclose(file);
    char hex[ML_SHA256_HEX], block[ML_SEAL_BYTES];
    int fd = open(out, O_RDWR);
    assert_int_equal(ml_file_hash(fd, out, ML_SEAL_BYTES, lseek(fd, 0, SEEK_END), NULL, NULL, hex),
                     ML_OK);
    ml_seal_make(block, "mpilora-dataset", hex);
    assert_int_equal(ml_file_write(fd, out, block, ML_SEAL_BYTES, 0), ML_OK);
    close(fd);
}

static void open_refuses(const char *said)
{
    ml_dataset *data = NULL;
    ml_error_clear();
    assert_int_equal(ml_dataset_open(&data, out), ML_INPUT);
    if (!strstr(ml_error_text(), said)) fail_msg("\"%s\" lacks \"%s\"", ml_error_text(), said);
}

static void forged_files_are_refused(void **state)
{
    (void)state;
    static const struct {
        const char *set;
        int64_t place;
        int32_t value;
        const char *attribute;
        int64_t number;
        const char *said;
    } forgeries[] = {
        {"labels", 2, 3, NULL, 0, "label 2 is 3, expected 0 to 2"},
        {"labels", 0, -1, NULL, 0, "label 0 is -1"},
        {"mask", 5, 1, NULL, 0, "token 5 is a target"},
        {NULL, 0, 0, "label_kind", 5, "label_kind of 5"},
        {NULL, 0, 0, "label_kind", 2, "label_kind of 2 with a label_count of 3"},
        {NULL, 0, 0, "label_kind", 3, "5 labels of 5 sequences do not belong together"},
        {NULL, 0, 0, "label_kind", 4, "token_labels"},
        {NULL, 0, 0, "label_count", 2, "not a list of 2"},
        {NULL, 0, 0, "label_count", 0, "makes no sense"},
    };
    for (size_t i = 0; i < sizeof forgeries / sizeof *forgeries; i++) {
        ml_dataset_destroy(three_classes(out, NULL, 0));
        forge(forgeries[i].set, forgeries[i].place, forgeries[i].value, forgeries[i].attribute,
              forgeries[i].number);
        open_refuses(forgeries[i].said);
    }
    const uint8_t mask[] = {0, 1, 0, 1};
    ml_dataset_writer *writer = writer_of(out, ML_LABEL_TOKENS, 2, "");
    add(writer, 0, 4, mask);
    assert_int_equal(ml_dataset_writer_add_token_labels(writer, (int32_t[]){-100, 1, -100, 0}),
                     ML_OK);
    ml_dataset_destroy(finished(writer, out));
    forge("token_labels", 1, -100, NULL, 0);
    open_refuses("the mask of token 1 does not fit its label -100");
}

/* ---- rows of ids --------------------------------------------------------------------------- */

static ml_status tokenize(const char *text, const char *labels)
{
    ml_label_names known = {0};
    ml_tokenize_report report;
    FILE *file = fopen(in, "wb");
    fputs(text, file);
    fclose(file);
    ml_status st = labels ? ml_label_names_read(&known, labels) : ML_OK;
    const ml_tokenize_options options = {
        .in = in, .out = out, .tokenizer_hash = "", .vocab = 100, .context = 8, .labels = &known};
    if (st == ML_OK) st = ml_tokenize_file(&options, &report);
    ml_label_names_destroy(&known);
    return st;
}

static ml_dataset *dataset_of(const char *text, const char *labels)
{
    ml_dataset *data = NULL;
    if (tokenize(text, labels) != ML_OK) fail_msg("%s", ml_error_text());
    assert_int_equal(ml_dataset_open(&data, out), ML_OK);
    return data;
}

static float label_at(const ml_dataset *data, int64_t i)
{
    float label[8] = {0};
    assert_int_equal(ml_dataset_read_label(data, i, label), ML_OK);
    return label[0];
}

static void rows_with_labels(void **state)
{
    (void)state;
    uint8_t types[3];
    int32_t classes[3];
    ml_dataset *data = dataset_of("{\"input_ids\": [1, 2, 3], \"label\": 2}\n"
                                  "{\"input_ids\": [4, 5, 6], \"label\": 0, "
                                  "\"token_type_ids\": [0, 1, 1]}\n",
                                  NULL);
    assert_int_equal(ml_dataset_label_kind(data), ML_LABEL_CLASS);
    assert_int_equal(ml_dataset_label_count(data), 3);
    assert_int_equal(label_at(data, 0), 2);
    assert_int_equal(ml_dataset_read_types(data, 1, 3, types), ML_OK);
    assert_int_equal(types[2], 1);
    ml_dataset_destroy(data);
    data = dataset_of("{\"input_ids\": [1], \"label\": 2.5}\n{\"input_ids\": [4], \"label\": 1}",
                      NULL);
    assert_int_equal(ml_dataset_label_kind(data), ML_LABEL_NUMBER);
    assert_int_equal(label_at(data, 1), 1);
    ml_dataset_destroy(data);
    data = dataset_of("{\"input_ids\": [1], \"label\": 2}\n{\"input_ids\": [4], \"label\": 1.5}",
                      "number");
    assert_true(label_at(data, 1) == 1.5f);
    ml_dataset_destroy(data);
    data = dataset_of("{\"input_ids\": [1], \"label\": [1, 0, 1]}", NULL);
    assert_int_equal(ml_dataset_label_kind(data), ML_LABEL_BITS);
    assert_int_equal(ml_dataset_label_count(data), 3);
    ml_dataset_destroy(data);
    data = dataset_of("{\"input_ids\": [1, 2, 3], \"token_labels\": [-100, \"O\", \"B\"]}", NULL);
    assert_string_equal(ml_dataset_label_names(data), "[\"B\",\"O\"]");
    assert_int_equal(ml_dataset_read_token_labels(data, 0, 3, classes), ML_OK);
    assert_int_equal(classes[0], -100);
    assert_int_equal(classes[1], 1);
    assert_int_equal(classes[2], 0);
    ml_dataset_destroy(data);
}

/* The order of the names does not depend on which row came first. */
static void names_in_order(void **state)
{
    (void)state;
    const char text[] = "{\"input_ids\": [1], \"label\": \"yes\"}\n"
                        "{\"input_ids\": [2], \"label\": \"no\"}\n"
                        "{\"input_ids\": [3], \"label\": \"yes\"}\n";
    ml_dataset *data = dataset_of(text, NULL);
    assert_string_equal(ml_dataset_label_names(data), "[\"no\",\"yes\"]");
    assert_int_equal(label_at(data, 0), 1);
    assert_int_equal(label_at(data, 1), 0);
    ml_dataset_destroy(data);
    data = dataset_of(text, "yes,perhaps,no");
    assert_string_equal(ml_dataset_label_names(data), "[\"yes\",\"perhaps\",\"no\"]");
    assert_int_equal(label_at(data, 1), 2);
    assert_int_equal(label_at(data, 2), 0);
    ml_dataset_destroy(data);
    assert_int_equal(rename(out, other), 0);
    data = dataset_of(text, other); /* as another data set has it */
    assert_string_equal(ml_dataset_label_names(data), "[\"yes\",\"perhaps\",\"no\"]");
    ml_dataset_destroy(data);
    FILE *file = fopen(in, "wb");
    fputs("no\r\nyes\n\nso\n", file);
    fclose(file);
    ml_label_names names = {0};
    assert_int_equal(ml_label_names_read(&names, in), ML_OK);
    assert_string_equal(names.names, "[\"no\",\"yes\",\"so\"]");
    ml_label_names_destroy(&names);
}

/* The base's numbers, where it knows all the names, in whatever case. */
static void the_base_has_the_order(void **state)
{
    (void)state;
    static const char config[] =
        "{\"id2label\": {\"0\": \"CONTRADICTION\", \"1\": \"NEUTRAL\", \"2\": \"ENTAILMENT\"}}";
    static const char text[] = "{\"input_ids\": [1], \"label\": \"entailment\"}\n"
                               "{\"input_ids\": [2], \"label\": \"contradiction\"}\n";
    ml_label_names known = {0};
    ml_tokenize_report report;
    ml_dataset *data = NULL;
    FILE *file = fopen(in, "wb");
    fputs(text, file);
    fclose(file);
    assert_int_equal(ml_label_names_of_config(&known, config, sizeof config - 1), ML_OK);
    const ml_tokenize_options options = {
        .in = in, .out = out, .tokenizer_hash = "", .vocab = 100, .context = 8, .labels = &known};
    assert_int_equal(ml_tokenize_file(&options, &report), ML_OK);
    assert_int_equal(report.label_count, 3);
    assert_int_equal(ml_dataset_open(&data, out), ML_OK);
    assert_string_equal(ml_dataset_label_names(data),
                        "[\"CONTRADICTION\",\"NEUTRAL\",\"ENTAILMENT\"]");
    assert_int_equal(label_at(data, 0), 2);
    assert_int_equal(label_at(data, 1), 0);
    ml_dataset_destroy(data);
    ml_label_names_destroy(&known);
    static const char unnamed[] = "{\"id2label\": {\"0\": \"LABEL_0\", \"1\": \"LABEL_1\"}}";
    assert_int_equal(ml_label_names_of_config(&known, unnamed, sizeof unnamed - 1), ML_OK);
    assert_null(known.base);
    static const char holes[] = "{\"id2label\": {\"0\": \"a\", \"2\": \"b\"}}";
    assert_int_equal(ml_label_names_of_config(&known, holes, sizeof holes - 1), ML_INPUT);
    ml_label_names_destroy(&known);
}

static void refused_with(ml_status code, const char *text, const char *labels, const char *said)
{
    ml_error_clear();
    assert_int_equal(tokenize(text, labels), code);
    if (!strstr(ml_error_text(), said)) fail_msg("\"%s\" lacks \"%s\"", ml_error_text(), said);
    assert_null(strchr(ml_error_text(), '\n'));
}

static void refused(const char *text, const char *labels, const char *said)
{
    refused_with(ML_INPUT, text, labels, said);
}

static void bad_rows(void **state)
{
    (void)state;
    refused("{\"input_ids\": [1], \"label\": 0}\n{\"input_ids\": [1], \"label\": \"a\"}", NULL,
            "line 2: the label \"a\" is a name, the rows before have numbers");
    refused("{\"input_ids\": [1], \"label\": \"a\"}\n{\"input_ids\": [1], \"label\": 0}", NULL,
            "line 2: the label 0 is a number");
    refused("{\"input_ids\": [1], \"label\": 0}\n{\"input_ids\": [1], \"label\": 0.5}", NULL,
            "line 2: the label 0.5 has a fraction");
    refused("{\"input_ids\": [1], \"label\": 0}\n{\"input_ids\": [1, 2]}", NULL, "others have not");
    refused("{\"input_ids\": [1, 2]}\n{\"input_ids\": [1], \"label\": 1}", NULL,
            "line 2: has a label");
    refused("{\"input_ids\": [1], \"label\": -1}", NULL, "line 1: the label -1 is outside");
    refused("{\"input_ids\": [1], \"label\": 3}", "3", "line 1: the label 3 is outside");
    refused("{\"input_ids\": [1], \"label\": \"c\"}", "a,b", "none of the 2 of --labels");
    refused("{\"input_ids\": [1], \"label\": \"a\"}", NULL, "every label is \"a\"");
    refused("{\"input_ids\": [1], \"label\": [1, 2]}", NULL, "label[1] is neither 0 nor 1");
    refused("{\"input_ids\": [1], \"label\": [1, 0]}\n{\"input_ids\": [1], \"label\": [1]}", NULL,
            "line 2: the label has 1 bits, expected 2");
    refused("{\"input_ids\": [1], \"label\": null}", NULL, "\"label\" is null");
    refused("{\"input_ids\": [], \"label\": 1}", NULL, "has no token");
    refused("{\"input_ids\": [100], \"label\": 1}", NULL, "input_ids[0]");
    refused("{\"input_ids\": [1], \"label\": 1, \"token_type_ids\": [256]}", NULL,
            "token_type_ids[0]");
    refused("{\"input_ids\": [1], \"label\": 1, \"labels\": [1]}", NULL, "\"labels\"");
    refused("{\"input_ids\": [1], \"token_labels\": [-100]}", NULL, "none of its 1 tokens");
    refused("{\"input_ids\": [1, 2]}", "a,b", "no row has a label");
    refused_with(ML_USAGE, "{\"input_ids\": [1], \"label\": 1}", "a", "no such file");
    refused_with(ML_USAGE, "{\"input_ids\": [1], \"label\": 1}", "a,a", "there twice");
    refused_with(ML_USAGE, "{\"input_ids\": [1], \"label\": 1}", "a,,b", "name 2 is empty");
    refused_with(ML_USAGE, "{\"input_ids\": [1], \"label\": 1}", "1", "expected 2 to");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(classes_and_types),
        cmocka_unit_test(numbers_and_bits),
        cmocka_unit_test(classes_of_tokens),
        cmocka_unit_test(a_joined_data_set_has_its_parts_labels),
        cmocka_unit_test(bad_labels_are_refused_when_written),
        cmocka_unit_test(forged_files_are_refused),
        cmocka_unit_test(rows_with_labels),
        cmocka_unit_test(names_in_order),
        cmocka_unit_test(the_base_has_the_order),
        cmocka_unit_test(bad_rows),
    };
    return cmocka_run_group_tests(tests, start, end);
}
