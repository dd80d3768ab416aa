/* The tokenizer of a model directory: tokenizer.json, or vocab.json + merges.txt, or encoder.json
 * + vocab.bpe; and what the configuration files beside it say about the tokens that begin and end
 * a text. */
#include <errno.h>
#include <inttypes.h>
#include <unistd.h>

#include "data/tokenizer_private.h"

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

/* ---- merges.txt ---------------------------------------------------------------------------- */

static ml_status read_merge_line(ml_vocabulary *vocabulary, char *line, int64_t number)
{
    size_t length = strcspn(line, "\r\n");
    line[length] = '\0';
    if (!length || (number == 1 && !strncmp(line, "#version", 8))) return ML_OK;
    const char *blank = strchr(line, ' ');
    if (!blank)
        return ml_fail(ML_INPUT,
                       "line %" PRId64 ": \"%.80s\" is not two tokens with one blank between them",
                       number, line);
    return ml_vocabulary_merge(vocabulary, line, (size_t)(blank - line), blank + 1);
}

static ml_status read_merges(ml_vocabulary *vocabulary, const char *path)
{
    enum { LONGEST = 4096 };
    char line[LONGEST];
    FILE *file;
    ml_status st = ml_open_regular_stream(path, &file);
    if (st != ML_OK) return st;
    for (int64_t number = 1; st == ML_OK && fgets(line, sizeof line, file); number++) {
        if (strlen(line) == LONGEST - 1)
            st = ml_fail(ML_INPUT, "line %" PRId64 " is longer than %d bytes", number, LONGEST - 2);
        else
            st = read_merge_line(vocabulary, line, number);
    }
    if (st == ML_OK && ferror(file)) st = ml_fail(ML_INPUT, "read error: %s", strerror(errno));
    fclose(file);
    return st == ML_OK ? ML_OK : ml_fail_within(st, "%s", path);
}

static ml_status read_vocab(ml_vocabulary *vocabulary, const char *path)
{
    ml_status st = ML_OK;
    json_t *vocab = NULL, *id;
    const char *text;
    ML_TRY(ml_json_read_file(&vocab, path, false));
    if (!json_is_object(vocab)) {
        st = ml_fail(ML_INPUT, "%s: is not an object of tokens and their ids", path);
        goto done;
    }
    json_object_foreach(vocab, text, id)
    {
        st = json_is_integer(id)
                 ? ml_vocabulary_set(vocabulary, json_integer_value(id), text)
                 : ml_fail(ML_INPUT, "the id of token \"%s\" is not an integer", text);
        if (st != ML_OK) {
            st = ml_fail_within(st, "%s", path);
            goto done;
        }
    }
done:
    json_decref(vocab);
    return st;
}

/* ---- the three kinds ----------------------------------------------------------------------- */

static ml_status read_pair(ml_vocabulary *vocabulary, const char *directory, const char *vocab,
                           const char *merges, bool *found)
{
    ml_status st = ML_OK;
    ml_text vocab_path = {0}, merges_path = {0};
    ML_TRY(join(&vocab_path, directory, vocab));
    ML_TRY(join(&merges_path, directory, merges));
    bool has_vocab = access(vocab_path.data, F_OK) == 0,
         has_merges = access(merges_path.data, F_OK) == 0;
    *found = has_vocab && has_merges;
    if (has_vocab != has_merges) {
        st = ml_fail(ML_INPUT, "%s: there is %s but no %s; a tokenizer needs both", directory,
                     has_vocab ? vocab : merges, has_vocab ? merges : vocab);
        goto done;
    }
    if (!*found) goto done;
    ML_TRY(read_vocab(vocabulary, vocab_path.data));
    ML_TRY(read_merges(vocabulary, merges_path.data));
    ML_TRY(ml_vocabulary_split(vocabulary, ML_PATTERN_GPT2));
done:
    ml_text_destroy(&vocab_path);
    ml_text_destroy(&merges_path);
    return st;
}

static ml_status read_any(ml_vocabulary *vocabulary, const char *directory, bool *found)
{
    json_t *root;
    ml_status st = read_optional(&root, directory, "tokenizer.json", false);
    if (st != ML_OK) return st;
    if (root) {
        *found = true;
        st = ml_tokenizer_json_read(vocabulary, root);
        json_decref(root);
        return st == ML_OK ? ML_OK : ml_fail_within(st, "%s/tokenizer.json", directory);
    }
    st = read_pair(vocabulary, directory, "vocab.json", "merges.txt", found);
    if (st == ML_OK && !*found)
        st = read_pair(vocabulary, directory, "encoder.json", "vocab.bpe", found);
    return st;
}

/* ---- which tokens begin and end a text ----------------------------------------------------- */

static bool is_added(const ml_vocabulary *vocabulary, json_int_t id)
{
    size_t i;
    json_t *one;
    json_array_foreach(vocabulary->added, i,
                       one) if (json_integer_value(json_object_get(one, "id")) == id) return true;
    return false;
}

/* A token as configurations name it: by text, by an object with "content", by id, or by a list of
 * ids whose first counts; −1: not there. Ids come from the model's configuration, whose defaults
 * may mean another tokenizer: they count only for added tokens. */
static int32_t named_token(const ml_vocabulary *vocabulary, const json_t *config, const char *key)
{
    const json_t *value = json_object_get(config, key);
    if (json_is_object(value)) value = json_object_get(value, "content");
    if (json_is_array(value)) value = json_array_get(value, 0);
    if (json_is_string(value)) return ml_vocabulary_find(vocabulary, json_string_value(value));
    json_int_t id = json_is_integer(value) ? json_integer_value(value) : -1;
    return is_added(vocabulary, id) ? (int32_t)id : -1;
}

/* The files that name tokens by their text, and those that name them by numbers. */
const ml_json_key ml_token_text_keys[] = {
    {"eos_token", ML_JSON_TEXT | ML_JSON_OBJECT | ML_JSON_NULL},
    {"bos_token", ML_JSON_TEXT | ML_JSON_OBJECT | ML_JSON_NULL},
    {"eos_token.content", ML_JSON_TEXT},
    {"bos_token.content", ML_JSON_TEXT},
    {"add_bos_token", ML_JSON_FLAG | ML_JSON_NULL},
    {NULL, 0},
};
const ml_json_key ml_token_id_keys[] = {
    {"eos_token_id", ML_JSON_INTEGER | ML_JSON_ARRAY | ML_JSON_NULL},
    {"bos_token_id", ML_JSON_INTEGER | ML_JSON_ARRAY | ML_JSON_NULL},
    {"eos_token_id[]", ML_JSON_INTEGER},
    {"bos_token_id[]", ML_JSON_INTEGER},
    {"add_bos_token", ML_JSON_FLAG | ML_JSON_NULL},
    {NULL, 0},
};

static ml_status read_configs(ml_vocabulary *vocabulary, const char *directory)
{
    static const struct {
        const char *file, *end, *begin;
        bool ids; /* tokens are named by numbers, not by their text */
    } sources[] = {{"tokenizer_config.json", "eos_token", "bos_token", false},
                   {"special_tokens_map.json", "eos_token", "bos_token", false},
                   {"generation_config.json", "eos_token_id", "bos_token_id", true},
                   {"config.json", "eos_token_id", "bos_token_id", true}};
    bool add_begin = false;
    int32_t begin = -1;
    for (size_t i = 0; i < sizeof sources / sizeof *sources; i++) {
        json_t *config;
        ml_status st = read_optional(&config, directory, sources[i].file, !sources[i].ids);
        if (st != ML_OK) return st;
        st = ml_json_check(config, sources[i].ids ? ml_token_id_keys : ml_token_text_keys);
        if (st != ML_OK) {
            json_decref(config);
            return ml_fail_within(st, "%s/%s", directory, sources[i].file);
        }
        if (vocabulary->end < 0) vocabulary->end = named_token(vocabulary, config, sources[i].end);
        if (begin < 0) begin = named_token(vocabulary, config, sources[i].begin);
        if (json_is_true(json_object_get(config, "add_bos_token"))) add_begin = true;
        json_decref(config);
    }
    if (add_begin && vocabulary->begin < 0) vocabulary->begin = begin;
    return ML_OK;
}

ml_status ml_tokenizer_from_directory(const char *directory, ml_text *json, bool *found)
{
    ml_vocabulary vocabulary = {0};
    *found = false;
    ml_status st = ml_vocabulary_create(&vocabulary);
    if (st != ML_OK) return st;
    st = read_any(&vocabulary, directory, found);
    if (st == ML_OK && *found) st = read_configs(&vocabulary, directory);
    if (st == ML_OK && *found) {
        st = ml_vocabulary_write(&vocabulary, json);
        if (st != ML_OK) st = ml_fail_within(st, "%s", directory);
    }
    ml_vocabulary_destroy(&vocabulary);
    return st;
}
