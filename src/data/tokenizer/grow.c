/* A tokenizer with more tokens than before: what a file lists becomes added tokens of its
 * tokenizer.json, with the ids that `tokenizers` gives them: a text that the vocabulary has keeps
 * its id, any other gets the next one behind all that are there. */
#include <inttypes.h>

#include "data/tokenizer/canonical.h"
#include "data/tokenizer/make.h"
#include "io/durable.h"
#include "io/json.h"
#include "mpilora/data.h"

static const int64_t largest_file = 64 << 20;

typedef struct growth {
    const char *path;
    json_t *seen;   /* texts of the file so far, owned */
    json_t *root;   /* the tokenizer.json that grows, owned */
    json_t *added;  /* its added tokens, borrowed */
    json_t *ids;    /* by text, of those that were added before; owned */
    json_t *pieces; /* by text, of a vocabulary that is a list; owned */
    int64_t next;   /* id */
    ml_tokens_added *done;
} growth;

static ml_status no_memory(void) { return ml_fail(ML_RESOURCE, "out of memory: added tokens"); }

/* ---- one token ----------------------------------------------------------------------------- */

static ml_status index_tokens(growth *g)
{
    const json_t *model = json_object_get(g->root, "model"),
                 *pieces = json_object_get(model, "pieces");
    size_t i;
    json_t *one;
    if (!pieces) pieces = json_object_get(model, "vocab");
    json_array_foreach(g->added, i,
                       one) if (json_object_set(g->ids,
                                                json_string_value(json_object_get(one, "content")),
                                                json_object_get(one, "id"))) return no_memory();
    json_array_foreach(pieces, i, one) if (json_object_set_new(
                                               g->pieces, json_string_value(json_array_get(one, 0)),
                                               json_integer((json_int_t)i))) return no_memory();
    return ML_OK;
}

/* −1: not there. */
static int64_t find(const growth *g, const char *text)
{
    const json_t *vocab = json_object_get(json_object_get(g->root, "model"), "vocab");
    const json_t *from[] = {vocab, g->ids, g->pieces};
    for (size_t i = 0; i < sizeof from / sizeof *from; i++) {
        const json_t *id = json_is_object(from[i]) ? json_object_get(from[i], text) : NULL;
        if (json_is_integer(id)) return json_integer_value(id);
    }
    return -1;
}

static bool is_utf8(const char *text)
{
    json_t *trial = json_string(text); /* jansson takes nothing else */
    json_decref(trial);
    return trial;
}

/* In the order of ids, as `tokenizers` writes them. */
static ml_status put(growth *g, json_t *token)
{
    size_t at = json_array_size(g->added);
    json_int_t id = json_integer_value(json_object_get(token, "id"));
    while (at > 0 &&
           json_integer_value(json_object_get(json_array_get(g->added, at - 1), "id")) > id)
        at--;
    return token && !json_array_insert_new(g->added, at, token) ? ML_OK : no_memory();
}

static bool flag(const json_t *from, const char *key, bool standard)
{
    const json_t *value = json_object_get(from, key);
    return json_is_boolean(value) ? json_is_true(value) : standard;
}

/* `from`: its object in a JSON file; NULL: everything as `tokenizers` has it for a bare text. */
static ml_status add(growth *g, const char *text, const json_t *from)
{
    const json_t *wanted = json_object_get(from, "id");
    bool special = flag(from, "special", false);
    if (!*text) return ml_fail(ML_INPUT, "the token is an empty text");
    if (!is_utf8(text)) return ml_fail(ML_INPUT, "it is not UTF-8");
    if (json_object_get(g->seen, text))
        return ml_fail(ML_INPUT, "\"%.80s\" stands there for the second time", text);
    if (json_object_set_new(g->seen, text, json_true())) return no_memory();
    int64_t id = find(g, text);
    bool is_new = id < 0, known = json_object_get(g->ids, text);
    if (is_new) id = g->next;
    if (json_is_integer(wanted) && json_integer_value(wanted) != id)
        return ml_fail(ML_INPUT,
                       "\"%.80s\" has id %" JSON_INTEGER_FORMAT ", but the tokenizer gives it "
                       "%" PRId64 "; leave the id out, or put the tokens into that order",
                       text, json_integer_value(wanted), id);
    g->done->known += known;
    if (known) return ML_OK;
    g->next += is_new;
    return put(g, json_pack("{s:I,s:s,s:b,s:b,s:b,s:b,s:b}", "id", (json_int_t)id, "content", text,
                            "single_word", flag(from, "single_word", false), "lstrip",
                            flag(from, "lstrip", false), "rstrip", flag(from, "rstrip", false),
                            "normalized", flag(from, "normalized", !special), "special", special));
}

/* ---- the file ------------------------------------------------------------------------------ */

static const ml_json_key keys[] = {
    {"added_tokens", ML_JSON_ARRAY},
    {"added_tokens[]", ML_JSON_OBJECT | ML_JSON_TEXT},
    {NULL, 0},
};
static const ml_json_key token_keys[] = {
    {"content", ML_JSON_TEXT}, {"special", ML_JSON_FLAG}, {"single_word", ML_JSON_FLAG},
    {"lstrip", ML_JSON_FLAG},  {"rstrip", ML_JSON_FLAG},  {"normalized", ML_JSON_FLAG},
    {"__type", ML_JSON_TEXT},  {"id", ML_JSON_INTEGER},   {NULL, 0},
};

static ml_status add_text(growth *g, const json_t *text, const json_t *from)
{
    if (strlen(json_string_value(text)) != json_string_length(text))
        return ml_fail(ML_INPUT, "it has a zero byte");
    return add(g, json_string_value(text), from);
}

static ml_status add_object(growth *g, const json_t *one)
{
    const char *key;
    json_t *value;
    if (json_is_string(one)) return add_text(g, one, NULL);
    ml_status st = ml_json_check(one, token_keys);
    if (st != ML_OK) return st;
    json_object_foreach((json_t *)(uintptr_t)one, key, value)
    {
        const ml_json_key *known = token_keys;
        while (known->path && strcmp(known->path, key) != 0) known++;
        if (known->path) continue;
        return ml_fail(ML_INPUT,
                       "unknown key \"%.60s\"; a token has content, special, single_word, lstrip, "
                       "rstrip, normalized, id",
                       key);
    }
    const json_t *content = json_object_get(one, "content");
    if (!content) return ml_fail(ML_INPUT, "\"content\" is missing");
    return add_text(g, content, one);
}

static ml_status add_json(growth *g, const char *text, int64_t length)
{
    ml_status st = ML_OK;
    json_t *list = NULL, *whole = NULL, *one;
    size_t i;
    ML_TRY(ml_json_read(&list, g->path, text, length));
    whole = json_is_array(list) ? json_pack("{s:O}", "added_tokens", list) : json_incref(list);
    if (!whole) {
        st = no_memory();
        goto done;
    }
    st = ml_json_check(whole, keys);
    if (st == ML_OK && !json_object_get(whole, "added_tokens"))
        st = ml_fail(ML_INPUT, "expected a list of tokens, or an object with \"added_tokens\"");
    if (st != ML_OK) {
        st = ml_fail_within(st, "%s", g->path);
        goto done;
    }
    json_array_foreach(json_object_get(whole, "added_tokens"), i, one)
    {
        st = add_object(g, one);
        if (st == ML_OK) continue;
        st = ml_fail_within(st, "%s: token %zu", g->path, i + 1);
        break;
    }
done:
    json_decref(whole);
    json_decref(list);
    return st;
}

/* A line is a token with its blanks; empty lines are none. */
static ml_status add_lines(growth *g, char *text, int64_t length)
{
    int64_t number = 1;
    for (char *line = text, *end = text + length; line < end; number++) {
        char *stop = memchr(line, '\n', (size_t)(end - line)), *next = stop ? stop + 1 : end;
        if (!stop) stop = end;
        if (stop > line && stop[-1] == '\r') stop--;
        *stop = '\0'; /* the file is followed by a zero byte */
        ml_status st = ML_OK;
        if (strlen(line) != (size_t)(stop - line))
            st = ml_fail(ML_INPUT, "it has a zero byte");
        else if (*line)
            st = add(g, line, NULL);
        if (st != ML_OK) return ml_fail_within(st, "%s: line %" PRId64, g->path, number);
        line = next;
    }
    return ML_OK;
}

/* A JSON file is one that is called so or begins as a list of texts or objects does: a token may
 * begin with a bracket, too ("[PAD]"). */
static bool is_json(const char *path, const char *text)
{
    size_t n = strlen(path);
    if (n > 5 && !strcmp(path + n - 5, ".json")) return true;
    text += strspn(text, " \t\r\n");
    if (*text != '[' && *text != '{') return false;
    text += 1 + strspn(text + 1, " \t\r\n");
    return *text == '"' || *text == '{' || *text == ']' || *text == '}';
}

static ml_status read_list(growth *g)
{
    ml_status st = ML_OK;
    char *text = NULL;
    int64_t length;
    ML_TRY(ml_durable_read(g->path, largest_file, &text, &length));
    char *start = text;
    if (!strncmp(start, "\xEF\xBB\xBF", 3)) start += 3;
    length -= start - text;
    ML_TRY(is_json(g->path, start) ? add_json(g, start, length) : add_lines(g, start, length));
    if (json_object_size(g->seen) == 0) st = ml_fail(ML_INPUT, "%s: has no token", g->path);
done:
    ml_memory_free(text);
    return st;
}

/* ---- the tokenizer ------------------------------------------------------------------------- */

ml_status ml_tokenizer_grow(const char *json, int64_t length, const char *path, ml_text *out,
                            ml_tokens_added *added)
{
    ml_status st = ML_OK;
    ml_tokenizer *old = NULL;
    ml_canonical canonical;
    ml_text grown = {0};
    growth g = {.path = path,
                .seen = json_object(),
                .ids = json_object(),
                .pieces = json_object(),
                .done = added};
    *added = (ml_tokens_added){0};
    if (!g.seen || !g.ids || !g.pieces) {
        st = no_memory();
        goto done;
    }
    ML_TRY(ml_tokenizer_create(&old, json, length));
    ML_TRY(ml_canonical_read(&canonical, &g.root, NULL, json, length));
    if (!json_is_array(json_object_get(g.root, "added_tokens")) &&
        json_object_set_new(g.root, "added_tokens", json_array())) {
        st = no_memory();
        goto done;
    }
    g.added = json_object_get(g.root, "added_tokens");
    ML_TRY(index_tokens(&g));
    g.next = added->before = ml_tokenizer_size(old);
    ML_TRY(read_list(&g));
    added->after = g.next;
    ML_TRY(ml_make_dump(json_incref(g.root), &grown));
    canonical.json = grown.data;
    canonical.length = grown.length;
    ML_TRY(ml_canonical_write(&canonical, out));
done:
    ml_tokenizer_destroy(old);
    ml_text_destroy(&grown);
    json_decref(g.root);
    json_decref(g.seen);
    json_decref(g.ids);
    json_decref(g.pieces);
    return st;
}
