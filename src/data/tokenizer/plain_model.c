/* Finding the members in the text, and reading JSON's texts and numbers one by one. */
#include "data/tokenizer/plain_model.h"

typedef struct cursor {
    const char *text;
    int64_t length, at;
} cursor;

static ml_status not_plain(void) { return ml_fail(ML_INPUT, "not plainly written"); }

static char here(const cursor *c) { return c->at < c->length ? c->text[c->at] : '\0'; }

static void skip_blanks(cursor *c)
{
    while (here(c) == ' ' || here(c) == '\n' || here(c) == '\r' || here(c) == '\t') c->at++;
}

/* Passes this character and the blanks around it. */
static bool take(cursor *c, char expected)
{
    skip_blanks(c);
    if (here(c) != expected) return false;
    c->at++;
    skip_blanks(c);
    return true;
}

/* ---- finding ------------------------------------------------------------------------------- */

/* Past the text that begins here. */
static void skip_text(cursor *c)
{
    for (c->at++; c->at < c->length && c->text[c->at] != '"'; c->at++)
        if (c->text[c->at] == '\\') c->at++;
    c->at = ml_min(c->length, c->at + 1);
}

/* Past a value of any kind: brackets are counted, whatever they hold. */
static void skip_value(cursor *c)
{
    int64_t depth = 0;
    while (c->at < c->length) {
        char one = here(c);
        if (!depth && (one == ',' || one == '}' || one == ']')) return;
        if (one == '"') {
            skip_text(c);
            continue;
        }
        depth += (one == '{' || one == '[') - (one == '}' || one == ']');
        c->at++;
    }
}

/* From before an object to the value of this member; false where there is none. */
static bool find_member(cursor *c, const char *name)
{
    int64_t length = (int64_t)strlen(name);
    if (!take(c, '{')) return false;
    do {
        int64_t key = c->at + 1;
        if (here(c) != '"') return false;
        skip_text(c);
        bool found = c->at - 1 - key == length && !memcmp(c->text + key, name, (size_t)length);
        if (!take(c, ':')) return false;
        if (found) return true;
        skip_value(c);
    } while (take(c, ','));
    return false;
}

/* Whether this word stands here. */
static bool is_word(const cursor *c, const char *word)
{
    int64_t length = (int64_t)strlen(word);
    return c->length - c->at >= length && !memcmp(c->text + c->at, word, (size_t)length);
}

static ml_plain_span find_large(cursor model, const char *name, char opening)
{
    if (!find_member(&model, name) || here(&model) != opening) return (ml_plain_span){0};
    int64_t start = model.at;
    skip_value(&model);
    return (ml_plain_span){model.text + start, model.at - start};
}

ml_status ml_plain_model_cut(ml_plain_model *m, const char *json, int64_t length)
{
    ml_status st = ML_OK;
    cursor model = {json, length, 0};
    if (!find_member(&model, "model")) return ML_OK;
    ml_plain_span vocab = find_large(model, "vocab", '{'),
                  merges = find_large(model, "merges", '[');
    bool other = find_member(&model, "type") && !is_word(&model, "\"BPE\"");
    if (!vocab.text || !merges.text || other) return ML_OK;
    bool before = vocab.text < merges.text;
    ml_plain_span first = before ? vocab : merges, second = before ? merges : vocab;
    const char *behind = first.text + first.length, *rest = second.text + second.length;
    ML_TRY(ml_text_add(&m->rest, json, first.text - json));
    ML_TRY(ml_text_add(&m->rest, before ? "{}" : "[]", 2));
    ML_TRY(ml_text_add(&m->rest, behind, second.text - behind));
    ML_TRY(ml_text_add(&m->rest, before ? "[]" : "{}", 2));
    ML_TRY(ml_text_add(&m->rest, rest, json + length - rest));
    m->vocab = vocab;
    m->merges = merges;
done:
    return st;
}

void ml_plain_model_destroy(ml_plain_model *m)
{
    ml_text_destroy(&m->rest);
    *m = (ml_plain_model){0};
}

/* ---- texts and numbers --------------------------------------------------------------------- */

/* The four digits of \uXXXX, which begin here; −1: there are none. */
static int32_t read_unit(cursor *c)
{
    int32_t unit = 0;
    for (int i = 0; i < 4; i++, c->at++) {
        char digit = here(c);
        int32_t value = digit >= '0' && digit <= '9'   ? digit - '0'
                        : digit >= 'a' && digit <= 'f' ? digit - 'a' + 10
                        : digit >= 'A' && digit <= 'F' ? digit - 'A' + 10
                                                       : -1;
        if (value < 0) return -1;
        unit = unit * 16 + value;
    }
    return unit;
}

/* The character behind a backslash, of one unit of UTF-16 or of two; −1: none, or NUL. */
static int32_t read_escaped(cursor *c)
{
    static const char letters[] = "\"\\/bfnrt", meant[] = "\"\\/\b\f\n\r\t";
    char letter = here(c);
    const char *known = letter ? strchr(letters, letter) : NULL;
    c->at++;
    if (known) return meant[known - letters];
    if (letter != 'u') return -1;
    int32_t unit = read_unit(c);
    if (unit < 0xd800 || unit >= 0xe000) return unit > 0 ? unit : -1;
    if (unit >= 0xdc00 || here(c) != '\\' || c->at + 1 >= c->length || c->text[c->at + 1] != 'u')
        return -1;
    c->at += 2;
    int32_t low = read_unit(c);
    return low >= 0xdc00 && low < 0xe000 ? 0x10000 + (unit - 0xd800) * 0x400 + (low - 0xdc00) : -1;
}

static bool is_utf8(const char *bytes, int64_t length)
{
    int size;
    for (int64_t at = 0; at < length; at += size)
        if (ml_utf8_next(bytes, length, at, &size) < 0) return false;
    return true;
}

/* Appends the text that begins here. */
static ml_status read_text(cursor *c, ml_text *out)
{
    ml_status st = ML_OK;
    int64_t before = out->length;
    if (here(c) != '"') return not_plain();
    c->at++;
    for (;;) {
        int64_t start = c->at;
        while (c->at < c->length && (unsigned char)c->text[c->at] >= 0x20 &&
               c->text[c->at] != '"' && c->text[c->at] != '\\')
            c->at++;
        ML_TRY(ml_text_add(out, c->text + start, c->at - start));
        char one = here(c);
        c->at++;
        if (one == '"') break;
        int32_t character = one == '\\' ? read_escaped(c) : -1;
        char bytes[4];
        if (character < 0) return not_plain();
        ML_TRY(ml_text_add(out, bytes, (int64_t)ml_utf8_put(character, bytes)));
    }
    if (!is_utf8(out->data + before, out->length - before)) st = not_plain();
done:
    return st;
}

/* A whole number without sign. */
static ml_status read_id(cursor *c, int64_t *id)
{
    int64_t start = c->at;
    for (*id = 0; here(c) >= '0' && here(c) <= '9' && *id < ML_LARGEST_VOCABULARY; c->at++)
        *id = *id * 10 + (here(c) - '0');
    bool zero_first = c->at - start > 1 && c->text[start] == '0';
    return c->at > start && !zero_first ? ML_OK : not_plain();
}

/* ---- the members --------------------------------------------------------------------------- */

ml_status ml_plain_model_vocab(const ml_plain_model *m, ml_vocabulary *vocabulary)
{
    ml_status st = ML_OK;
    cursor c = {m->vocab.text, m->vocab.length, 0};
    ml_text text = {0};
    int64_t id;
    if (!take(&c, '{')) return not_plain();
    if (take(&c, '}')) return c.at == c.length ? ML_OK : not_plain();
    do {
        int64_t filled = vocabulary->filled;
        text.length = 0;
        ML_TRY(read_text(&c, &text));
        if (!take(&c, ':')) goto odd;
        ML_TRY(read_id(&c, &id));
        ML_TRY(ml_vocabulary_set(vocabulary, id, text.data ? text.data : "", text.length));
        if (vocabulary->filled == filled) goto odd;
    } while (take(&c, ','));
    if (take(&c, '}') && c.at == c.length) goto done;
odd:
    st = not_plain();
done:
    ml_text_destroy(&text);
    return st;
}

/* *middle: where the right part begins in `pair`; *left: how long the left one is. */
static ml_status read_merge(cursor *c, ml_text *pair, int64_t *left, int64_t *middle)
{
    ml_status st = ML_OK;
    pair->length = 0;
    if (take(c, '[')) {
        ML_TRY(read_text(c, pair));
        *left = *middle = pair->length;
        if (!take(c, ',')) return not_plain();
        ML_TRY(read_text(c, pair));
        return take(c, ']') ? ML_OK : not_plain();
    }
    ML_TRY(read_text(c, pair));
    const char *blank = pair->length ? memchr(pair->data, ' ', (size_t)pair->length) : NULL;
    if (!blank) return not_plain();
    *left = blank - pair->data;
    *middle = *left + 1;
    if (memchr(blank + 1, ' ', (size_t)(pair->length - *middle))) st = not_plain();
done:
    return st;
}

ml_status ml_plain_model_merges(const ml_plain_model *m, ml_merge_sink sink, void *self)
{
    ml_status st = ML_OK;
    cursor c = {m->merges.text, m->merges.length, 0};
    ml_text pair = {0};
    int64_t left = 0, middle = 0;
    int32_t rank = 0;
    if (!take(&c, '[')) return not_plain();
    if (take(&c, ']')) return c.at == c.length ? ML_OK : not_plain();
    do {
        ML_TRY(read_merge(&c, &pair, &left, &middle));
        ML_TRY(sink(self, pair.data, left, pair.data + middle, pair.length - middle, rank++));
    } while (take(&c, ','));
    if (!take(&c, ']') || c.at != c.length) st = not_plain();
done:
    ml_text_destroy(&pair);
    return st;
}
