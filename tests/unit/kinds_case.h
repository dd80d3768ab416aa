/* Every key of a reader's table, given a value of each kind that it may not have. */
#ifndef MPILORA_TESTS_KINDS_CASE_H
#define MPILORA_TESTS_KINDS_CASE_H

#include "io/json.h"

static const struct {
    unsigned kind;
    const char *value, *name;
} kind_values[] = {{ML_JSON_OBJECT, "{}", "an object"}, {ML_JSON_ARRAY, "[]", "an array"},
                   {ML_JSON_TEXT, "\"x\"", "a string"}, {ML_JSON_INTEGER, "1", "an integer"},
                   {ML_JSON_REAL, "0.5", "a number"},   {ML_JSON_FLAG, "true", "true or false"},
                   {ML_JSON_NULL, "null", "null"}};
enum { KIND_VALUES = sizeof kind_values / sizeof *kind_values };

/* What a document has in front of the value at `path` and behind it, and how errors name its
 * place: {"a": [{"b": and }]} and a[0].b for "a[].b"; the member that ".*" stands for is "any". */
typedef struct kind_place {
    char before[512], after[64], name[256];
} kind_place;

static void find_place(const char *path, const char *head, kind_place *p)
{
    *p = (kind_place){0};
    while (*path) {
        bool array = !strncmp(path, "[]", 2);
        size_t length = strcspn(path, ".["), used = strlen(p->before), named = strlen(p->name);
        bool any = length == 1 && *path == '*';
        const char *key = any ? "any" : path;
        int size = any ? 3 : (int)length;
        snprintf(p->before + used, sizeof p->before - used,
                 array ? "[" : "{%s\"%.*s\": ", used ? "" : head, size, key);
        snprintf(p->name + named, sizeof p->name - named, array ? "[0]" : "%s%.*s",
                 named ? "." : "", size, key);
        memmove(p->after + 1, p->after, strlen(p->after) + 1);
        p->after[0] = array ? ']' : '}';
        path += array ? 2 : length;
        path += *path == '.';
    }
}

/* Calls `refused` with a document and a part of the message that it must be refused with, for each
 * key of the table and each kind that it may not have: how the message names key, kind found and
 * the first kind expected. `head`: what else the documents begin with, as `"key": "value", `; a key
 * of the table that stands in it is tried without it. `reals`: the file is read with
 * ml_json_read_file's. */
static void try_other_kinds(const ml_json_key *table, const char *head, bool reals,
                            void (*refused)(const char *document, const char *message))
{
    for (const ml_json_key *k = table; k->path; k++) {
        kind_place place;
        char quoted[96], document[1024], message[512];
        const char *first = "";
        snprintf(quoted, sizeof quoted, "\"%s\"", k->path);
        find_place(k->path, strstr(head, quoted) ? "" : head, &place);
        for (int v = KIND_VALUES - 1; v >= 0; v--)
            if (k->kinds & kind_values[v].kind) first = kind_values[v].name;
        for (int v = 0; v < KIND_VALUES; v++) {
            if (k->kinds & kind_values[v].kind) continue;
            snprintf(document, sizeof document, "%s%s%s", place.before, kind_values[v].value,
                     place.after);
            bool number = reals && kind_values[v].kind == ML_JSON_INTEGER;
            snprintf(message, sizeof message, "key \"%s\" is %s, expected %s", place.name,
                     number ? "a number" : kind_values[v].name, first);
            refused(document, message);
        }
    }
}

#endif
