/* BERT's words as GGUF's metadata ("bert"): there a word has the mark of a blank before it, and
 * what continues one has nothing. llama.cpp cleans and cuts texts as BERT does, and always puts one
 * token before a text and one behind it. */
#include "data/tokenizer/gguf_export.h"
#include "data/tokenizer/stages.h"

static ml_status take_normalizer(gguf_words *w)
{
    ml_gguf_vocabulary *v = &w->out->vocabulary;
    const json_t *normalizer = json_object_get(w->root, "normalizer");
    bool lower = ml_stage_flag(normalizer, "lowercase", true);
    if (strcmp(ml_stage_text(normalizer, "type"), "BertNormalizer") != 0)
        return gguf_unsaid("its normalizer is not BERT's");
    if (!ml_stage_flag(normalizer, "clean_text", true) ||
        !ml_stage_flag(normalizer, "handle_chinese_chars", true))
        return gguf_unsaid(
            "its normalizer does not clean texts, or Chinese characters are no words");
    v->lowercase = lower;
    v->strip_accents = ml_stage_flag(normalizer, "strip_accents", lower);
    return ML_OK;
}

/* What continues a word with the mark of a blank would be that mark before a word: it keeps its own
 * text, which no word has in it, since words end at #. */
static ml_status put_word(gguf_words *w, const char *text, json_int_t id)
{
    ml_text word = {0};
    bool goes_on = !strncmp(text, "##", 2) && text[2];
    if (!*text || (goes_on && !strncmp(text + 2, BLANK, 3)))
        return gguf_put_token(w, id, text, ML_PIECE_UNUSED);
    ml_status st = ml_text_printf(&word, "%s%s", goes_on ? "" : BLANK, text + (goes_on ? 2 : 0));
    if (st == ML_OK) st = gguf_put_token(w, id, word.data, ML_PIECE_NORMAL);
    ml_text_destroy(&word);
    return st;
}

ml_status gguf_write_wordpiece(gguf_words *w)
{
    ml_status st = ML_OK;
    ml_gguf_vocabulary *v = &w->out->vocabulary;
    const char *unknown = ml_stage_text(w->model, "unk_token"), *text;
    json_t *id = json_object_get(w->vocab, unknown);
    const json_t *cut = json_object_get(w->root, "pre_tokenizer");
    if (strcmp(ml_stage_text(w->model, "continuing_subword_prefix"), "##") != 0)
        return gguf_unsaid("what continues a word has another prefix than ##");
    if (strcmp(ml_stage_text(cut, "type"), "BertPreTokenizer") != 0)
        return gguf_unsaid("its pre_tokenizer is not BERT's");
    if (w->before != 1 || w->behind != 1)
        return gguf_unsaid("it does not put one token before a text and one behind it");
    if (!id) return gguf_unsaid("it has no unknown token");
    ML_TRY(take_normalizer(w));
    w->out->caveat = "that a very long word is unknown as a whole, and how Hangul is taken apart";
    v->model = "bert";
    v->pre = "default";
    v->unk = (int64_t)json_integer_value(id);
    v->bos = w->first;
    v->sep = w->last;
    v->add_bos = true;
    v->add_eos = false;
    json_object_foreach((json_t *)(uintptr_t)w->vocab, text, id)
        ML_TRY(put_word(w, text, json_integer_value(id)));
    ML_TRY(gguf_put_added(w));
done:
    return st;
}
