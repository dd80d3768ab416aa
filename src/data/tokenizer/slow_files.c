/* Directories without a tokenizer.json: the vocabulary and the merges of a byte-level BPE, the word
 * list of a BERT, and the added tokens beside them. */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <unistd.h>

#include "data/tokenizer/make.h"
#include "data/tokenizer/scanners.h"
#include "data/tokenizer/sources.h"
#include "data/tokenizer/stages.h"

enum { LONGEST_LINE = 4096 };

static ml_status no_memory(void) { return ml_fail(ML_RESOURCE, "out of memory: a tokenizer"); }

static ml_status find_file(const ml_directory *d, const char *name, ml_text *path, bool *found)
{
    path->length = 0;
    ml_status st = ml_text_printf(path, "%s/%s", d->path, name);
    *found = st == ML_OK && access(path->data, F_OK) == 0;
    return st;
}

/* Hands every line of a file without its end to `one`. */
static ml_status for_lines(const char *path, void *self,
                           ml_status (*one)(void *self, char *line, int64_t number))
{
    char line[LONGEST_LINE];
    FILE *file;
    ml_status st = ml_open_regular_stream(path, &file);
    if (st != ML_OK) return st;
    for (int64_t number = 1; st == ML_OK && fgets(line, sizeof line, file); number++) {
        if (strlen(line) == LONGEST_LINE - 1) {
            st = ml_fail(ML_INPUT, "it is longer than %d bytes", LONGEST_LINE - 2);
        } else {
            line[strcspn(line, "\r\n")] = '\0';
            st = one(self, line, number);
        }
        if (st == ML_INPUT) st = ml_fail_within(st, "line %" PRId64, number);
    }
    if (st == ML_OK && ferror(file)) st = ml_fail(ML_INPUT, "read error: %s", strerror(errno));
    fclose(file);
    return st == ML_OK ? ML_OK : ml_fail_within(st, "%s", path);
}

/* The class that transformers would take, without "Fast". */
static bool is_class(const ml_directory *d, const char *name)
{
    const char *class = ml_stage_text(d->config[ML_CONFIG_TOKENIZER], "tokenizer_class");
    size_t length = strlen(name);
    return !strncmp(class, name, length) && (!class[length] || !strcmp(class + length, "Fast"));
}

/* ---- byte-level BPE ------------------------------------------------------------------------ */

static ml_status take_merge(void *self, char *line, int64_t number)
{
    if (!*line || (number == 1 && !strncmp(line, "#version", 8))) return ML_OK;
    return ml_maker_merge(self, line);
}

static ml_status read_vocab(ml_maker *m, const char *path)
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
                 ? ml_maker_token(m, json_integer_value(id), text)
                 : ml_fail(ML_INPUT, "the id of token \"%s\" is not an integer", text);
        if (st == ML_OK) continue;
        st = ml_fail_within(st, "%s", path);
        goto done;
    }
done:
    json_decref(vocab);
    return st;
}

static ml_status find_pair(const ml_directory *d, const char *vocab, const char *merges,
                           ml_text *vocab_path, ml_text *merges_path, bool *found)
{
    bool has_vocab, has_merges;
    ml_status st = find_file(d, vocab, vocab_path, &has_vocab);
    if (st == ML_OK) st = find_file(d, merges, merges_path, &has_merges);
    if (st != ML_OK) return st;
    *found = has_vocab && has_merges;
    if (has_vocab == has_merges) return ML_OK;
    return ml_fail(ML_INPUT, "%s: there is %s but no %s; a tokenizer needs both", d->path,
                   has_vocab ? vocab : merges, has_vocab ? merges : vocab);
}

/* What the class of a slow tokenizer does besides GPT-2's: Qwen2's normal form and pattern,
 * RoBERTa's special tokens. */
static ml_status apply_class(ml_source *s, const ml_directory *d)
{
    bool roberta = is_class(d, "RobertaTokenizer") || is_class(d, "BartTokenizer");
    const json_t *config = d->config[ML_CONFIG_TOKENIZER];
    if (is_class(d, "Qwen2Tokenizer") &&
        json_object_set_new(s->root, "normalizer", json_pack("{s:s}", "type", "NFC")) != 0)
        return no_memory();
    if (ml_stage_flag(config, "add_prefix_space", false)) {
        json_t *stages =
            json_object_get(json_object_get(s->root, "pre_tokenizer"), "pretokenizers");
        /* the stage that cuts comes after the blank */
        json_array_clear(stages);
        json_array_append_new(stages,
                              json_pack("{s:s, s:b, s:b, s:b}", "type", "ByteLevel",
                                        "add_prefix_space", 1, "trim_offsets", 1, "use_regex", 1));
    }
    if (!roberta) return ML_OK;
    const char *cls = ml_config_token(config, "cls_token"),
               *sep = ml_config_token(config, "sep_token");
    if (!cls) cls = "<s>";
    if (!sep) sep = "</s>";
    int64_t begin = ml_source_find(s, cls), end = ml_source_find(s, sep);
    if (begin < 0 || end < 0) return ML_OK;
    s->begin = begin;
    json_t *post = json_pack("{s:s, s:[s, I], s:[s, I], s:b, s:b}", "type", "RobertaProcessing",
                             "sep", sep, (json_int_t)end, "cls", cls, (json_int_t)begin,
                             "trim_offsets", 1, "add_prefix_space", 0);
    return json_object_set_new(s->root, "post_processor", post) == 0 ? ML_OK : no_memory();
}

ml_status ml_source_read_bpe(ml_source *s, const ml_directory *d, bool *found)
{
    ml_status st = ML_OK;
    ml_text vocab = {0}, merges = {0};
    ml_maker m = {0};
    ML_TRY(find_pair(d, "vocab.json", "merges.txt", &vocab, &merges, found));
    if (!*found) ML_TRY(find_pair(d, "encoder.json", "vocab.bpe", &vocab, &merges, found));
    if (!*found) goto done;
    if (is_class(d, "CLIPTokenizer") || is_class(d, "OpenAIGPTTokenizer")) {
        st = ml_fail(ML_INPUT,
                     "%s: its tokenizer has words that end in </w>; save it with its "
                     "tokenizer.json",
                     d->path);
        goto done;
    }
    ML_TRY(ml_maker_start(&m, false));
    ML_TRY(read_vocab(&m, vocab.data));
    ML_TRY(for_lines(merges.data, &m, take_merge));
    ML_TRY(ml_maker_split(&m, is_class(d, "Qwen2Tokenizer") ? ML_PATTERN_QWEN2 : ML_PATTERN_GPT2));
    ML_TRY(ml_maker_byte_level(&m, -1, -1, &s->root));
    ML_TRY(apply_class(s, d));
done:
    ml_maker_destroy(&m);
    ml_text_destroy(&vocab);
    ml_text_destroy(&merges);
    return st;
}

/* ---- BERT's word list ---------------------------------------------------------------------- */

static ml_status take_word(void *self, char *line, int64_t number)
{
    json_t *vocab = self, *id = json_integer(number - 1);
    if (!id) return no_memory();
    if (json_object_set_new(vocab, line, id) == 0) return ML_OK;
    return ml_fail(ML_INPUT, "the word is not valid UTF-8");
}

/* A flag of a configuration, or null where it says nothing. */
static json_t *flag_or_null(const json_t *config, const char *key)
{
    json_t *value = json_object_get(config, key);
    return json_is_boolean(value) ? json_incref(value) : json_null();
}

static ml_status make_bert(ml_source *s, const ml_directory *d, json_t *vocab)
{
    static const char *const names[][2] = {{"pad_token", "[PAD]"},
                                           {"unk_token", "[UNK]"},
                                           {"cls_token", "[CLS]"},
                                           {"sep_token", "[SEP]"},
                                           {"mask_token", "[MASK]"}};
    const json_t *config = d->config[ML_CONFIG_TOKENIZER];
    const char *token[5] = {NULL};
    ml_maker m = {0};
    ml_status st = ml_maker_start(&m, false);
    for (int i = 0; i < 5 && st == ML_OK; i++) {
        token[i] = ml_config_token(config, names[i][0]);
        if (!token[i]) token[i] = names[i][1];
        const json_t *id = json_object_get(vocab, token[i]);
        if (id) st = ml_maker_added(&m, json_integer_value(id), token[i], true);
    }
    const json_t *cls = json_object_get(vocab, token[2]), *sep = json_object_get(vocab, token[3]);
    s->root = st != ML_OK
                  ? NULL
                  : json_pack("{s:s, s:O, s:{s:s, s:b, s:b, s:o, s:b}, s:{s:s}, s:{s:s, s:s, s:b}, "
                              "s:{s:s, s:s, s:s, s:i, s:O}}",
                              "version", "1.0", "added_tokens", m.added, "normalizer", "type",
                              "BertNormalizer", "clean_text", 1, "handle_chinese_chars",
                              ml_stage_flag(config, "tokenize_chinese_chars", true),
                              "strip_accents", flag_or_null(config, "strip_accents"), "lowercase",
                              ml_stage_flag(config, "do_lower_case", true), "pre_tokenizer", "type",
                              "BertPreTokenizer", "decoder", "type", "WordPiece", "prefix", "##",
                              "cleanup", 1, "model", "type", "WordPiece", "unk_token", token[1],
                              "continuing_subword_prefix", "##", "max_input_chars_per_word", 100,
                              "vocab", vocab);
    if (st == ML_OK && !s->root) st = no_memory();
    if (st == ML_OK && cls && sep) {
        s->begin = json_integer_value(cls);
        json_t *post =
            json_pack("{s:s, s:[s, I], s:[s, I]}", "type", "BertProcessing", "sep", token[3],
                      json_integer_value(sep), "cls", token[2], json_integer_value(cls));
        if (json_object_set_new(s->root, "post_processor", post) != 0) st = no_memory();
    }
    ml_maker_destroy(&m);
    return st;
}

ml_status ml_source_read_words(ml_source *s, const ml_directory *d, bool *found)
{
    ml_status st = ML_OK;
    ml_text path = {0};
    json_t *vocab = NULL;
    ML_TRY(find_file(d, "vocab.txt", &path, found));
    if (!*found) goto done;
    vocab = json_object();
    if (!vocab) {
        st = no_memory();
        goto done;
    }
    ML_TRY(for_lines(path.data, vocab, take_word));
    ML_TRY(make_bert(s, d, vocab));
done:
    json_decref(vocab);
    ml_text_destroy(&path);
    return st;
}

/* ---- added tokens -------------------------------------------------------------------------- */

/* Whether one of the configurations names this text as a special token. */
static bool is_named(const ml_directory *d, const char *text)
{
    static const char *const keys[] = {"bos_token", "eos_token", "unk_token", "pad_token",
                                       "sep_token", "cls_token", "mask_token"};
    size_t i, j;
    json_t *one;
    for (int file = ML_CONFIG_TOKENIZER; file <= ML_CONFIG_SPECIALS; file++) {
        for (i = 0; i < sizeof keys / sizeof *keys; i++) {
            const char *named = ml_config_token(d->config[file], keys[i]);
            if (named && !strcmp(named, text)) return true;
        }
        json_array_foreach(json_object_get(d->config[file], "additional_special_tokens"), j, one)
        {
            const json_t *content = json_is_object(one) ? json_object_get(one, "content") : one;
            if (json_is_string(content) && !strcmp(json_string_value(content), text)) return true;
        }
    }
    return false;
}

/* Appends one unless its text is there already. `flags` may have the members of an added token. */
static ml_status add_token(json_t *added, json_t *seen, const char *text, json_int_t id,
                           const json_t *flags, bool special)
{
    if (json_object_get(seen, text)) return ML_OK;
    json_t *one = json_pack("{s:I, s:s, s:b, s:b, s:b, s:b, s:b}", "id", id, "content", text,
                            "single_word", ml_stage_flag(flags, "single_word", false), "lstrip",
                            ml_stage_flag(flags, "lstrip", false), "rstrip",
                            ml_stage_flag(flags, "rstrip", false), "normalized",
                            ml_stage_flag(flags, "normalized", false), "special",
                            special || ml_stage_flag(flags, "special", false));
    if (!one) return ml_fail(ML_INPUT, "an added token is not valid UTF-8");
    return json_array_append_new(added, one) == 0 &&
                   json_object_set_new(seen, text, json_true()) == 0
               ? ML_OK
               : no_memory();
}

static ml_status add_from_files(const ml_directory *d, json_t *added, json_t *seen)
{
    ml_status st = ML_OK;
    ml_text path = {0};
    json_t *file = NULL, *value;
    const char *key;
    bool found;
    json_object_foreach(json_object_get(d->config[ML_CONFIG_TOKENIZER], "added_tokens_decoder"),
                        key, value)
    {
        char *end;
        long long id = strtoll(key, &end, 10);
        const char *text = json_string_value(json_object_get(value, "content"));
        if (*end || !text) continue;
        ML_TRY(add_token(added, seen, text, id, value, is_named(d, text)));
    }
    ML_TRY(find_file(d, "added_tokens.json", &path, &found));
    if (found) ML_TRY(ml_json_read_file(&file, path.data, false));
    json_object_foreach(file, key, value) if (json_is_integer(value))
        ML_TRY(add_token(added, seen, key, json_integer_value(value), NULL, is_named(d, key)));
done:
    json_decref(file);
    ml_text_destroy(&path);
    return st;
}

ml_status ml_source_add_tokens(ml_source *s, const ml_directory *d)
{
    static const char *const keys[] = {"bos_token", "eos_token", "unk_token", "pad_token"};
    ml_status st = ML_OK;
    json_t *added = json_object_get(s->root, "added_tokens"), *seen = json_object(), *one;
    size_t i;
    if (!seen || !added) {
        st = no_memory();
        goto done;
    }
    json_array_foreach(added, i, one)
        json_object_set_new(seen, json_string_value(json_object_get(one, "content")), json_true());
    ML_TRY(add_from_files(d, added, seen));
    for (int file = ML_CONFIG_TOKENIZER; file <= ML_CONFIG_SPECIALS; file++)
        for (i = 0; i < sizeof keys / sizeof *keys; i++) {
            const char *text = ml_config_token(d->config[file], keys[i]);
            int64_t id = text && *text ? ml_source_find(s, text) : -1;
            if (id >= 0) ML_TRY(add_token(added, seen, text, id, NULL, true));
        }
done:
    json_decref(seen);
    return st;
}
