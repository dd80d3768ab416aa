/* The tokenizer of a model directory: tokenizer.json, or the files of the slow tokenizers; and what
 * the configuration files beside them say about the tokens that begin and end a text. */
#include <inttypes.h>
#include <unistd.h>

#include "data/tokenizer/canonical.h"
#include "data/tokenizer/make.h"
#include "data/tokenizer/sources.h"
#include "io/durable.h"

static const int64_t largest_file = 256 << 20;

/* ---- a source ------------------------------------------------------------------------------ */

void ml_source_destroy(ml_source *s)
{
    json_decref(s->root);
    ml_text_destroy(&s->text);
    *s = (ml_source){0};
}

ml_status ml_source_write(ml_source *s, ml_text *out)
{
    ml_status st = ML_OK;
    ml_text made = {0};
    if (!s->text.length) ML_TRY(ml_make_dump(json_incref(s->root), &made));
    const ml_text *json = s->text.length ? &s->text : &made;
    ML_TRY(ml_canonical_write(&(ml_canonical){s->begin, s->end, json->data, json->length}, out));
done:
    ml_text_destroy(&made);
    return st;
}

int64_t ml_source_find(const ml_source *s, const char *text)
{
    const json_t *model = json_object_get(s->root, "model"),
                 *vocab = json_object_get(model, "vocab");
    const json_t *pieces = json_object_get(model, "pieces"), *id = json_object_get(vocab, text);
    size_t i;
    json_t *one;
    if (json_is_integer(id)) return json_integer_value(id);
    json_array_foreach(json_object_get(s->root, "added_tokens"), i, one)
    {
        const char *content = json_string_value(json_object_get(one, "content"));
        if (content && !strcmp(content, text))
            return json_integer_value(json_object_get(one, "id"));
    }
    if (!pieces) pieces = vocab;
    json_array_foreach(pieces, i, one)
    {
        const char *piece = json_string_value(json_array_get(one, 0));
        if (piece && !strcmp(piece, text)) return (int64_t)i;
    }
    return -1;
}

/* ---- files --------------------------------------------------------------------------------- */

static ml_status join(ml_text *path, const char *directory, const char *name)
{
    path->length = 0;
    return ml_text_printf(path, "%s/%s", directory, name);
}

/* The JSON file `name` of the directory, or NULL in *out where there is none. */
static ml_status read_optional(json_t **out, const char *directory, const char *name, bool reals)
{
    ml_text path = {0};
    *out = NULL;
    ml_status st = join(&path, directory, name);
    if (st == ML_OK && access(path.data, F_OK) == 0) st = ml_json_read_file(out, path.data, reals);
    ml_text_destroy(&path);
    return st;
}

/* What a tokenizer.json puts before a text, where it is the first part of its template. */
static int64_t begin_of(const ml_source *s, const json_t *post)
{
    size_t i;
    json_t *one;
    json_array_foreach(json_object_get(post, "processors"), i, one)
    {
        int64_t begin = begin_of(s, one);
        if (begin >= 0) return begin;
    }
    const json_t *first = json_array_get(json_object_get(post, "single"), 0),
                 *cls = json_array_get(json_object_get(post, "cls"), 1);
    const char *name =
        json_string_value(json_object_get(json_object_get(first, "SpecialToken"), "id"));
    if (json_is_integer(cls)) return json_integer_value(cls);
    return name ? ml_source_find(s, name) : -1;
}

static bool has_piece(const json_t *pieces, const char *text)
{
    size_t i;
    json_t *piece;
    json_array_foreach(pieces, i, piece)
    {
        const char *one = json_string_value(json_array_get(piece, 0));
        if (one && !strcmp(one, text)) return true;
    }
    return false;
}

/* `tokenizers` gives an added token that the model has not the next id behind the vocabulary and
 * the added ones before it, whatever the file says. Ids here are the file's. */
static void warn_of_other_ids(const json_t *root, const char *path)
{
    const json_t *vocab = json_object_get(json_object_get(root, "model"), "vocab");
    json_int_t next =
        (json_int_t)(json_is_array(vocab) ? json_array_size(vocab) : json_object_size(vocab));
    size_t i;
    json_t *one;
    json_array_foreach(json_object_get(root, "added_tokens"), i, one)
    {
        const char *text = json_string_value(json_object_get(one, "content"));
        const json_t *id = json_object_get(one, "id");
        if (!text || !json_is_integer(id) || json_object_get(vocab, text)) continue;
        if (json_integer_value(id) == next) {
            next++;
        } else if (!has_piece(vocab, text)) {
            ml_warn("%s: added token \"%.60s\" has the id %" JSON_INTEGER_FORMAT
                    ", which is taken; `tokenizers` counts on behind the vocabulary and gives it "
                    "%" JSON_INTEGER_FORMAT ", another row of the embedding",
                    path, text, json_integer_value(id), next);
            return;
        }
    }
}

static ml_status read_json(ml_source *s, const char *directory, bool *found)
{
    ml_status st = ML_OK;
    ml_text path = {0};
    char *text = NULL;
    int64_t length;
    ML_TRY(join(&path, directory, "tokenizer.json"));
    *found = access(path.data, F_OK) == 0;
    if (!*found) goto done;
    ML_TRY(ml_durable_read(path.data, largest_file, &text, &length));
    ML_TRY(ml_json_read(&s->root, path.data, text, length));
    ML_TRY(ml_text_add(&s->text, text, length));
    warn_of_other_ids(s->root, path.data);
    s->begin = begin_of(s, json_object_get(s->root, "post_processor"));
done:
    ml_memory_free(text);
    ml_text_destroy(&path);
    return st;
}

/* ---- which tokens begin and end a text ----------------------------------------------------- */

const char *ml_config_token(const json_t *config, const char *key)
{
    const json_t *value = json_object_get(config, key);
    if (json_is_object(value)) value = json_object_get(value, "content");
    return json_string_value(value);
}

static bool is_added(const ml_source *s, json_int_t id)
{
    size_t i;
    json_t *one;
    json_array_foreach(json_object_get(s->root, "added_tokens"), i,
                       one) if (json_integer_value(json_object_get(one, "id")) == id) return true;
    return false;
}

/* A token as configurations name it: by text, by an object with "content", by id, or by a list of
 * ids whose first counts; −1: not there. Ids come from the model's configuration, whose defaults
 * may mean another tokenizer: they count only for added tokens. */
static int64_t named_token(const ml_source *s, const json_t *config, const char *key)
{
    const char *text = ml_config_token(config, key);
    if (text) return ml_source_find(s, text);
    const json_t *value = json_object_get(config, key);
    if (json_is_array(value)) value = json_array_get(value, 0);
    json_int_t id = json_is_integer(value) ? json_integer_value(value) : -1;
    return is_added(s, id) ? (int64_t)id : -1;
}

const ml_json_key ml_token_text_keys[] = {
    {"eos_token", ML_JSON_TEXT | ML_JSON_OBJECT | ML_JSON_NULL},
    {"bos_token", ML_JSON_TEXT | ML_JSON_OBJECT | ML_JSON_NULL},
    {"eos_token.content", ML_JSON_TEXT},
    {"bos_token.content", ML_JSON_TEXT},
    {"add_bos_token", ML_JSON_FLAG | ML_JSON_NULL},
    {"added_tokens_decoder", ML_JSON_OBJECT | ML_JSON_NULL},
    {"added_tokens_decoder.*", ML_JSON_OBJECT},
    {"added_tokens_decoder.*.content", ML_JSON_TEXT},
    {NULL, 0},
};
const ml_json_key ml_token_id_keys[] = {
    {"eos_token_id", ML_JSON_INTEGER | ML_JSON_ARRAY | ML_JSON_NULL},
    {"bos_token_id", ML_JSON_INTEGER | ML_JSON_ARRAY | ML_JSON_NULL},
    {"eos_token_id[]", ML_JSON_INTEGER},
    {"bos_token_id[]", ML_JSON_INTEGER},
    {NULL, 0},
};

static const struct {
    const char *file, *end, *begin;
    bool ids; /* tokens are named by numbers, not by their text */
} configs[] = {
    [ML_CONFIG_TOKENIZER] = {"tokenizer_config.json", "eos_token", "bos_token", false},
    [ML_CONFIG_SPECIALS] = {"special_tokens_map.json", "eos_token", "bos_token", false},
    [ML_CONFIG_GENERATION] = {"generation_config.json", "eos_token_id", "bos_token_id", true},
    [ML_CONFIG_MODEL] = {"config.json", "eos_token_id", "bos_token_id", true}};

static ml_status read_configs(ml_directory *d)
{
    for (int i = 0; i < ML_CONFIG_FILES; i++) {
        ml_status st = read_optional(&d->config[i], d->path, configs[i].file, !configs[i].ids);
        if (st != ML_OK) return st;
        st = ml_json_check(d->config[i], configs[i].ids ? ml_token_id_keys : ml_token_text_keys);
        if (st != ML_OK) return ml_fail_within(st, "%s/%s", d->path, configs[i].file);
    }
    return ML_OK;
}

/* Whether texts begin with the token that is named for it. Of a tokenizer.json its post-processor
 * says that alone: transformers 5 takes no heed of add_bos_token beside one. */
static bool begins_texts(const ml_source *s, const ml_directory *d)
{
    const json_t *add = json_object_get(d->config[ML_CONFIG_TOKENIZER], "add_bos_token");
    if (s->text.length) return false;
    return json_is_boolean(add) ? json_is_true(add) : s->begin_is_usual;
}

static void settle_ends(ml_source *s, const ml_directory *d)
{
    /* where nothing says what ends a text, the usual names do */
    static const char *const usual[] = {"<|endoftext|>", "<|end_of_text|>"};
    bool begins = begins_texts(s, d);
    int64_t begin = -1;
    for (int i = 0; i < ML_CONFIG_FILES; i++) {
        const json_t *config = d->config[i];
        int64_t end = named_token(s, config, configs[i].end);
        if (end >= 0 && s->end < 0) s->end = end;
        if (begin < 0) begin = named_token(s, config, configs[i].begin);
    }
    if (begin < 0) begin = s->bos;
    if (begins && s->begin < 0) s->begin = begin;
    for (size_t i = 0; i < 2 && s->end < 0; i++) s->end = ml_source_find(s, usual[i]);
}

/* ---- the directory ------------------------------------------------------------------------- */

static ml_status read_slow(ml_source *s, const ml_directory *d, bool *found)
{
    ml_status st = ml_source_read_bpe(s, d, found);
    if (st == ML_OK && !*found) st = ml_source_read_words(s, d, found);
    if (st == ML_OK && !*found) st = ml_source_read_sentencepiece(s, d, found);
    return st == ML_OK && *found ? ml_source_add_tokens(s, d) : st;
}

ml_status ml_tokenizer_from_directory(const char *directory, ml_text *json, bool *found)
{
    ml_status st = ML_OK;
    ml_source s = {.begin = -1, .end = -1, .bos = -1};
    ml_directory d = {.path = directory};
    *found = false;
    ML_TRY(read_json(&s, directory, found));
    ML_TRY(read_configs(&d));
    if (!*found) ML_TRY(read_slow(&s, &d, found));
    if (!*found) goto done;
    settle_ends(&s, &d);
    st = ml_source_write(&s, json);
    if (st != ML_OK)
        st = ml_fail_within(st, "%s%s", directory, s.text.length ? "/tokenizer.json" : "");
done:
    for (int i = 0; i < ML_CONFIG_FILES; i++) json_decref(d.config[i]);
    ml_source_destroy(&s);
    return st;
}
