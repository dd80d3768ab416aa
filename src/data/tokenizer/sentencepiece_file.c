/* SentencePiece's own file, a protobuf message (sentencepiece_model.proto), as a tokenizer.json
 * with the stages "SentencePiece". Fields that are not named here have nothing to do with encoding.
 */
#include <inttypes.h>
#include <unistd.h>

#include "data/tokenizer/charsmap.h"
#include "data/tokenizer/make.h"
#include "data/tokenizer/models/model.h"
#include "data/tokenizer/sentencepiece_json.h"
#include "data/tokenizer/sources.h"
#include "data/tokenizer/stages.h"
#include "io/durable.h"

static const int64_t largest_file = 256 << 20;

/* ---- protobuf ------------------------------------------------------------------------------ */

/* A field: its number, and a number or bytes as its wire type has it. */
typedef struct field {
    uint32_t number;
    int wire; /* 0: varint, 1: 64 bits, 2: bytes, 5: 32 bits */
    uint64_t value;
    const char *bytes;
    int64_t length;
} field;

typedef struct message {
    const char *at, *end;
} message;

static ml_status damaged(void) { return ml_fail(ML_INPUT, "it is no SentencePiece model"); }

static ml_status take_varint(message *m, uint64_t *value)
{
    *value = 0;
    for (int shift = 0; shift < 64; shift += 7) {
        if (m->at == m->end) return damaged();
        uint64_t byte = (unsigned char)*m->at++;
        *value |= (byte & 0x7f) << shift;
        if (byte < 0x80) return ML_OK;
    }
    return damaged();
}

static ml_status take_fixed(message *m, int bytes, uint64_t *value)
{
    *value = 0;
    if (m->end - m->at < bytes) return damaged();
    for (int i = 0; i < bytes; i++) *value |= (uint64_t)(unsigned char)*m->at++ << 8 * i;
    return ML_OK;
}

static ml_status take_field(message *m, field *f)
{
    uint64_t tag;
    ml_status st = take_varint(m, &tag);
    if (st != ML_OK) return st;
    *f = (field){.number = (uint32_t)(tag >> 3), .wire = (int)(tag & 7)};
    if (!f->number) return damaged();
    switch (f->wire) {
    case 0:
        return take_varint(m, &f->value);
    case 1:
        return take_fixed(m, 8, &f->value);
    case 5:
        return take_fixed(m, 4, &f->value);
    case 2:
        break;
    default:
        return damaged();
    }
    st = take_varint(m, &f->value);
    if (st != ML_OK) return st;
    if (f->value > (uint64_t)(m->end - m->at)) return damaged();
    f->bytes = m->at;
    f->length = (int64_t)f->value;
    m->at += f->length;
    return ML_OK;
}

static float float_of(const field *f)
{
    uint32_t bits = (uint32_t)f->value;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* Hands every field of the message in `bytes` to `one`. */
static ml_status for_fields(const char *bytes, int64_t length, void *self,
                            ml_status (*one)(void *self, const field *f))
{
    message m = {bytes, bytes + length};
    while (m.at < m.end) {
        field f;
        ml_status st = take_field(&m, &f);
        if (st == ML_OK) st = one(self, &f);
        if (st != ML_OK) return st;
    }
    return ML_OK;
}

/* ---- the model's messages ------------------------------------------------------------------ */

typedef struct piece {
    const char *text;
    int64_t length;
    float score;
    int64_t kind;
} piece;

typedef struct model {
    ml_sentencepiece to;
    int64_t type; /* 1 unigram, 2 bpe, 3 word, 4 char */
    int64_t bos, eos;
    bool denormalizes;
} model;

static ml_status take_piece_field(void *self, const field *f)
{
    piece *p = self;
    if (f->number == 1 && f->wire == 2) {
        p->text = f->bytes;
        p->length = f->length;
    }
    if (f->number == 2 && f->wire == 5) p->score = float_of(f);
    if (f->number == 3 && f->wire == 0) p->kind = (int64_t)f->value;
    return ML_OK;
}

static ml_status take_trainer_field(void *self, const field *f)
{
    model *m = self;
    if (f->number == 44 && f->wire == 2) {
        m->to.unknown_surface.length = 0;
        return ml_text_add(&m->to.unknown_surface, f->bytes, f->length);
    }
    if (f->wire != 0) return ML_OK;
    if (f->number == 3) m->type = (int64_t)f->value;
    if (f->number == 24) m->to.suffix = f->value != 0;
    if (f->number == 35) m->to.byte_fallback = f->value != 0;
    if (f->number == 41) m->bos = (int64_t)f->value;
    if (f->number == 42) m->eos = (int64_t)f->value;
    return ML_OK;
}

static ml_status take_normalizer_field(void *self, const field *f)
{
    model *m = self;
    if (f->number == 2 && f->wire == 2) {
        m->to.charsmap.length = 0;
        return ml_text_add(&m->to.charsmap, f->bytes, f->length);
    }
    if (f->wire != 0) return ML_OK;
    if (f->number == 3) m->to.dummy_prefix = f->value != 0;
    if (f->number == 4) m->to.remove_extra = f->value != 0;
    if (f->number == 5) m->to.escape = f->value != 0;
    return ML_OK;
}

static ml_status take_denormalizer_field(void *self, const field *f)
{
    model *m = self;
    if (f->number == 2 && f->wire == 2 && f->length) m->denormalizes = true;
    return ML_OK;
}

static ml_status take_model_field(void *self, const field *f)
{
    model *m = self;
    if (f->wire != 2) return ML_OK;
    if (f->number == 1) {
        piece p = {.kind = ML_PIECE_NORMAL};
        ml_status st = for_fields(f->bytes, f->length, &p, take_piece_field);
        if (st != ML_OK) return st;
        return ml_sentencepiece_add(&m->to, p.text ? p.text : "", p.length, p.score, p.kind);
    }
    if (f->number == 2) return for_fields(f->bytes, f->length, m, take_trainer_field);
    if (f->number == 3) return for_fields(f->bytes, f->length, m, take_normalizer_field);
    if (f->number == 5) return for_fields(f->bytes, f->length, m, take_denormalizer_field);
    return ML_OK;
}

/* ---- the file ------------------------------------------------------------------------------ */

static ml_status read_model(ml_source *s, model *m, const char *bytes, int64_t length)
{
    ml_status st = ML_OK;
    static const char *const algorithms[] = {[1] = "unigram", [2] = "bpe", [4] = "char"};
    ML_TRY(ml_sentencepiece_start(&m->to));
    ML_TRY(for_fields(bytes, length, m, take_model_field));
    if (m->type < 1 || m->type > 4 || m->type == 3) {
        st = ml_fail(ML_INPUT,
                     "its model type %" PRId64 " is not supported (1 unigram, 2 bpe, 4 char are)",
                     m->type);
        goto done;
    }
    if (m->denormalizes) {
        st = ml_fail(ML_INPUT, "it has a denormalizer, which is not supported");
        goto done;
    }
    m->to.algorithm = algorithms[m->type];
    ML_TRY(ml_sentencepiece_json(&m->to, -1, -1, &s->root));
    int64_t count = ml_sentencepiece_count(&m->to);
    s->bos = m->bos >= 0 && m->bos < count ? m->bos : -1;
    s->end = -1;
done:
    return st;
}

/* Llama's and Gemma's tokenizers begin a text where no configuration says otherwise. */
static bool usually_begins(const ml_directory *d)
{
    const char *class = ml_stage_text(d->config[ML_CONFIG_TOKENIZER], "tokenizer_class");
    return !strncmp(class, "Llama", 5) || !strncmp(class, "Gemma", 5);
}

ml_status ml_source_read_sentencepiece(ml_source *s, const ml_directory *d, bool *found)
{
    static const char *const names[] = {"tokenizer.model", "spiece.model",
                                        "sentencepiece.bpe.model", "sentencepiece.model"};
    ml_status st = ML_OK;
    ml_text path = {0};
    char *bytes = NULL;
    int64_t length;
    model m = {.type = 1, .bos = 1, .eos = 2};
    *found = false;
    for (size_t i = 0; i < sizeof names / sizeof *names && !*found; i++) {
        path.length = 0;
        ML_TRY(ml_text_printf(&path, "%s/%s", d->path, names[i]));
        *found = access(path.data, F_OK) == 0;
    }
    if (!*found) goto done;
    ML_TRY(ml_durable_read(path.data, largest_file, &bytes, &length));
    st = read_model(s, &m, bytes, length);
    s->begin_is_usual = usually_begins(d);
    if (st != ML_OK)
        st = ml_fail_within(st, "%s", path.data);
    else if (m.eos >= 0 && m.eos < ml_sentencepiece_count(&m.to))
        s->end = m.eos;
done:
    ml_sentencepiece_destroy(&m.to);
    ml_memory_free(bytes);
    ml_text_destroy(&path);
    return st;
}
