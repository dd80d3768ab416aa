/* Added tokens by tries: one for each way of searching. */
#include "data/tokenizer/added.h"

#include "data/tokenizer/unicode.h"

typedef struct matcher {
    ml_trie trie; /* to the place in `tokens` */
    bool begins[256];
    int beginnings; /* how many different bytes begin a token */
    char beginning; /* one of them */
} matcher;

struct ml_added {
    ml_added_token *tokens;
    int64_t count, capacity;
    matcher all[2], plain[2]; /* by normalized; plain: those that are not special */
};

ml_status ml_added_create(ml_added **out)
{
    ml_status st = ML_OK;
    ML_NEW(*out, 1, ML_MEM_OTHER, "the added tokens");
done:
    return st;
}

void ml_added_destroy(ml_added *added)
{
    if (!added) return;
    for (int i = 0; i < 2; i++) {
        ml_trie_destroy(&added->all[i].trie);
        ml_trie_destroy(&added->plain[i].trie);
    }
    ml_memory_free(added->tokens);
    ml_memory_free(added);
}

static ml_status teach(matcher *m, const char *spelling, int64_t length, int64_t place)
{
    m->beginnings += !m->begins[(unsigned char)*spelling];
    m->begins[(unsigned char)*spelling] = true;
    m->beginning = *spelling;
    return ml_trie_add(&m->trie, spelling, length, (int32_t)place);
}

ml_status ml_added_add(ml_added *added, const ml_added_token *token, const char *spelling,
                       int64_t length)
{
    ml_status st = ML_OK;
    int how = token->normalized;
    if (!length) return ML_OK; /* nothing is left of it: it cannot be found */
    ML_GROW(added->tokens, added->count, added->capacity, ML_MEM_OTHER, "the added tokens");
    added->tokens[added->count] = *token;
    ML_TRY(teach(&added->all[how], spelling, length, added->count));
    if (!token->special) ML_TRY(teach(&added->plain[how], spelling, length, added->count));
    added->count++;
done:
    return st;
}

/* ---- searching ----------------------------------------------------------------------------- */

/* The first place from `at` where a token may begin, or the text's length. */
static int64_t next_beginning(const matcher *m, const char *text, int64_t length, int64_t at)
{
    if (!m->beginnings || at >= length) return length;
    if (m->beginnings == 1) {
        const char *found = memchr(text + at, m->beginning, (size_t)(length - at));
        return found ? found - text : length;
    }
    while (at < length && !m->begins[(unsigned char)text[at]]) at++;
    return at;
}

static const ml_added_token *token_at(const ml_added *added, const matcher *m, const char *text,
                                      int64_t length, int64_t at, int64_t *matched)
{
    int32_t place = ml_trie_longest(&m->trie, text, length, at, matched);
    return place < 0 ? NULL : &added->tokens[place];
}

/* The beginning of the character before `at`. */
static int64_t before(const char *text, int64_t at)
{
    do at--;
    while (at > 0 && (text[at] & 0xc0) == 0x80);
    return at;
}

static bool touches_word(const char *text, int64_t length, int64_t start, int64_t end)
{
    int size;
    return (start > 0 && ml_char_is_word(ml_utf8_next(text, length, before(text, start), &size))) ||
           (end < length && ml_char_is_word(ml_utf8_next(text, length, end, &size)));
}

static int64_t start_of_blanks(const char *text, int64_t length, int64_t from, int64_t at)
{
    int size;
    while (at > from) {
        int64_t previous = before(text, at);
        if (!ml_char_is_space(ml_utf8_next(text, length, previous, &size))) break;
        at = previous;
    }
    return at;
}

static int64_t end_of_blanks(const char *text, int64_t length, int64_t at)
{
    int size;
    while (at < length && ml_char_is_space(ml_utf8_next(text, length, at, &size))) at += size;
    return at;
}

ml_status ml_added_find(const ml_added *added, const char *text, int64_t length,
                        const ml_added_search *search)
{
    ml_status st = ML_OK;
    const matcher *m =
        search->specials ? &added->all[search->normalized] : &added->plain[search->normalized];
    int64_t done = 0, matched;
    for (int64_t at = 0; (at = next_beginning(m, text, length, at)) < length;) {
        const ml_added_token *token = token_at(added, m, text, length, at, &matched);
        int64_t start = at, end = at + (token ? matched : 1);
        at = end;
        if (!token || (token->single_word && touches_word(text, length, start, end))) continue;
        if (token->lstrip) start = ml_max(done, start_of_blanks(text, length, done, start));
        if (token->rstrip) end = end_of_blanks(text, length, end);
        if (start >= end) continue; /* a blank that the token before has taken */
        if (done < start) ML_TRY(search->found(search->context, -1, text + done, start - done));
        ML_TRY(search->found(search->context, token->id, text + start, end - start));
        done = end;
    }
    if (done < length) ML_TRY(search->found(search->context, -1, text + done, length - done));
done:
    return st;
}

int64_t ml_added_count_specials(const ml_added *added, const char *bytes, int64_t length)
{
    int64_t count = 0, matched = 0, next[2] = {-1, -1}; /* by how */
    for (int64_t at = 0, step;; at += step) {
        for (int how = 0; how < 2; how++)
            if (next[how] < at) next[how] = next_beginning(&added->all[how], bytes, length, at);
        at = ml_min(next[0], next[1]);
        if (at >= length) return count;
        step = 1;
        for (int how = 0; how < 2; how++) {
            if (next[how] != at) continue;
            const ml_added_token *token =
                token_at(added, &added->all[how], bytes, length, at, &matched);
            if (!token) continue;
            count += token->special;
            step = matched;
            break;
        }
    }
}
