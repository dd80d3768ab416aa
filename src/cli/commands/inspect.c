/* mpilora inspect: what a file holds, as one JSON object or as lines. */
#include <inttypes.h>
#include <jansson.h>

#include "cli/cli.h"
#include "cli/support/chat_template.h"
#include "cli/support/options.h"
#include "io/json.h"
#include "mpilora/inspect.h"

static const char usage[] = "mpilora inspect FILE.h5 [--json]";

static void print_value(const json_t *value);

static void print_members(const json_t *object)
{
    const char *key;
    json_t *value;
    bool first = true;
    json_object_foreach((json_t *)(uintptr_t)object, key, value)
    {
        printf("%s%s ", first ? "" : ", ", key);
        print_value(value);
        first = false;
    }
}

static void print_elements(const json_t *array)
{
    for (size_t i = 0; i < json_array_size(array); i++) {
        if (i) printf(" x ");
        print_value(json_array_get(array, i));
    }
}

static void print_value(const json_t *value)
{
    if (json_is_string(value)) printf("%s", json_string_value(value));
    if (json_is_integer(value)) printf("%" PRId64, (int64_t)json_integer_value(value));
    if (json_is_real(value)) printf("%.9g", json_real_value(value));
    if (json_is_boolean(value)) printf("%s", json_is_true(value) ? "yes" : "no");
    if (json_is_null(value)) printf("none");
    if (json_is_object(value)) print_members(value);
    if (json_is_array(value)) print_elements(value);
}

/* A line a field; a list has a line an element. */
static void print_lines(const json_t *object)
{
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)object, key, value)
    {
        printf("%-18s ", key);
        if (json_is_array(value)) {
            printf("%zu\n", json_array_size(value));
            for (size_t i = 0; i < json_array_size(value); i++) {
                printf("    ");
                print_value(json_array_get(value, i));
                printf("\n");
            }
            continue;
        }
        print_value(value);
        printf("\n");
    }
}

/* ---- a run: its checkpoints as a table ----------------------------------------------------- */

static void format_age(const json_t *age, char *out, size_t size)
{
    double s = json_number_value(age);
    if (!json_is_number(age))
        snprintf(out, size, "-");
    else if (s < 120.0)
        snprintf(out, size, "%.0f s", s);
    else if (s < 7200.0)
        snprintf(out, size, "%.0f min", s / 60.0);
    else if (s < 172800.0)
        snprintf(out, size, "%.1f h", s / 3600.0);
    else
        snprintf(out, size, "%.1f days", s / 86400.0);
}

static void print_checkpoints(const json_t *list)
{
    char age[32], bytes[32];
    printf("%10s  %10s  %14s  %s\n", "step", "age", "bytes", "verified");
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *item = json_array_get(list, i), *size = json_object_get(item, "bytes"),
                     *fault = json_object_get(item, "fault");
        format_age(json_object_get(item, "age_s"), age, sizeof age);
        snprintf(bytes, sizeof bytes, json_is_integer(size) ? "%" PRId64 : "-",
                 (int64_t)json_integer_value(size));
        printf("%10" PRId64 "  %10s  %14s  %s%s\n",
               (int64_t)json_integer_value(json_object_get(item, "step")), age, bytes,
               fault ? "no: " : "yes", fault ? json_string_value(fault) : "");
    }
}

static void print_run(json_t *object)
{
    json_t *list = json_incref(json_object_get(object, "checkpoints"));
    json_object_del(object, "checkpoints");
    print_lines(object);
    print_checkpoints(list);
    json_decref(list);
}

typedef struct given {
    bool json;
} given;

static const option options[] = {{"--json", OPTION_FLAG, offsetof(given, json), NULL,
                                  "one JSON object on standard output", NULL},
                                 {NULL, OPTION_FLAG, 0, NULL, NULL, NULL}};

static ml_status add_member(ml_text *description, const char *key, const ml_text *value)
{
    ml_status st = ML_OK;
    if (!value->length) return ML_OK;
    description->length--; /* the closing brace */
    ML_TRY(ml_text_printf(description, ",\"%s\":", key));
    ML_TRY(json_text_add(description, value->data, value->length));
    ML_TRY(ml_text_printf(description, "}"));
done:
    return st;
}

/* A base's chat templates as further members of its description. */
static ml_status add_templates(const char *path, ml_text *description)
{
    ml_status st = ML_OK;
    ml_base *base = NULL;
    ml_text plain = {0}, with_tools = {0};
    if (strncmp(description->data, "{\"kind\":\"base\"", 14) != 0) return ML_OK;
    ML_TRY(ml_base_open(&base, path));
    ML_TRY(chat_template_texts(base, &plain, &with_tools));
    ML_TRY(add_member(description, "chat_template", &plain));
    ML_TRY(add_member(description, "chat_template_tool_use", &with_tools));
done:
    ml_base_close(base);
    ml_text_destroy(&plain);
    ml_text_destroy(&with_tools);
    return st;
}

static ml_status run(int argc, char **argv)
{
    ml_status st = ML_OK;
    const char *path = NULL;
    given given = {0};
    ml_text text = {0};
    ML_TRY(options_read(argc, argv, options, &given, 1, 1, &path, usage));
    ML_TRY(ml_inspect(path, &text));
    ML_TRY(add_templates(path, &text));
    if (given.json) {
        printf("%s\n", text.data);
        goto done;
    }
    json_t *object = json_loadb(text.data, (size_t)text.length, 0, NULL);
    if (json_object_get(object, "checkpoints"))
        print_run(object);
    else
        print_lines(object);
    json_decref(object);
done:
    ml_text_destroy(&text);
    return st;
}

const ml_command ml_command_inspect = {
    .name = "inspect",
    .summary = "what a base, data set, adapter, checkpoint or run holds",
    .usage = usage,
    .about = "FILE.h5 is a base, a data set, adapter.h5 or a checkpoint's state; a run's directory "
             "or one of its checkpoints may be given as well. Hashes are checked on the way: exit "
             "code 3 where a file is damaged. Of a run every checkpoint is listed with step, age, "
             "size and whether it is whole, or why not; of a base also the chat template, the last "
             "field.",
    .options = options,
    .run = run,
    .parallel = false,
};
