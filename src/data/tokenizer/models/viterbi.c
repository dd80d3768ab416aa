/* Viterbi's algorithm over the pieces of a trie. */
#include "data/tokenizer/models/viterbi.h"

ml_viterbi ml_viterbi_share(const ml_viterbi *of)
{
    ml_viterbi v = *of;
    v.borrows = true;
    v.nodes = NULL;
    v.spans = NULL;
    v.room = v.nspans = v.span_room = 0;
    return v;
}

void ml_viterbi_destroy(ml_viterbi *v)
{
    if (!v->borrows) {
        ml_trie_destroy(&v->trie);
        ml_memory_free(v->scores);
    }
    ml_memory_free(v->nodes);
    ml_memory_free(v->spans);
    *v = (ml_viterbi){0};
}

static ml_status make_room(ml_viterbi *v, int64_t length)
{
    ml_status st = ML_OK;
    if (length < v->room) return ML_OK;
    int64_t room = ml_max(length + 1, 2 * v->room);
    v->room = 0;
    ml_memory_free(v->nodes);
    ML_NEW(v->nodes, room, ML_MEM_OTHER, "the ends of pieces");
    v->room = room;
done:
    return st;
}

static double add(const ml_viterbi *v, double a, double b)
{
    return v->single ? (double)((float)a + (float)b) : a + b;
}

static void offer(const ml_viterbi *v, int64_t start, int64_t end, int32_t id, double score)
{
    struct viterbi_node *node = &v->nodes[end];
    double sum = add(v, score, v->nodes[start].score);
    if (node->start < 0 || sum > node->score) *node = (struct viterbi_node){sum, start, id};
}

/* Long texts keep the precision of floats by starting again from 0. */
static void reset(const ml_viterbi *v, int64_t at, int64_t frontier)
{
    const double threshold = 100000;
    double offset = v->nodes[at].score;
    if (!v->single || (offset >= -threshold && offset <= threshold)) return;
    for (int64_t i = at; i <= frontier; i++)
        if (i == at || v->nodes[i].start >= 0)
            v->nodes[i].score = add(v, v->nodes[i].score, -offset);
    v->nodes[at].score = 0;
}

/* Offers every piece that begins at `at`; whether one of them is just the first character. */
static bool offer_pieces(const ml_viterbi *v, const char *text, int64_t length, int64_t at,
                         int size, bool specials, int64_t *frontier)
{
    bool single = false;
    uint32_t node = 0;
    for (int64_t end = at; end < length;) {
        node = ml_trie_step(&v->trie, node, (unsigned char)text[end++]);
        if (!node) break;
        int32_t id = v->trie.values[node];
        if (id < 0) continue;
        const struct vocabulary_token *token = &v->vocabulary->tokens[id];
        if (v->single && token->kind == ML_PIECE_UNUSED) continue;
        if (token->special && !specials) continue;
        bool own = v->single && token->kind == ML_PIECE_USER_DEFINED;
        double score = own ? (double)(float)(0.1 * (double)(end - at - 1)) : v->scores[id];
        offer(v, at, end, id, score);
        *frontier = ml_max(*frontier, end);
        single = single || end - at == size;
    }
    return single;
}

static ml_status trace_back(ml_viterbi *v, int64_t length)
{
    ml_status st = ML_OK;
    v->nspans = 0;
    for (int64_t end = length; end > 0; end = v->nodes[end].start) {
        ML_GROW(v->spans, v->nspans, v->span_room, ML_MEM_OTHER, "the pieces of a text");
        v->spans[v->nspans++] = (struct viterbi_span){v->nodes[end].start, end, v->nodes[end].id};
    }
done:
    return st;
}

ml_status ml_viterbi_run(ml_viterbi *v, const char *text, int64_t length, bool specials)
{
    int size;
    int64_t frontier = 0;
    ml_status st = make_room(v, length);
    if (st != ML_OK) return st;
    for (int64_t i = 0; i <= length; i++) v->nodes[i] = (struct viterbi_node){0, -1, -1};
    for (int64_t at = 0; at < length; at += size) {
        (void)ml_utf8_next(text, length, at, &size);
        reset(v, at, frontier);
        if (offer_pieces(v, text, length, at, size, specials, &frontier)) continue;
        offer(v, at, at + size, -1, v->unknown_score);
        frontier = ml_max(frontier, at + size);
    }
    return trace_back(v, length);
}
