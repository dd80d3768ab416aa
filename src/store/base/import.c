/* Import: what becomes of a source's matrices, and its way into a base file. */
#include <errno.h>
#include <inttypes.h>
#include <libgen.h>
#include <sys/stat.h>
#include <unistd.h>

#include "io/durable.h"
#include "mpilora/data.h"
#include "store/base/base_private.h"
#include "store/base/stream.h"

ml_status import_read_tokenizer(ml_status st, ml_text *json)
{
    if (st != ML_INPUT) return st;
    ml_warn("%s: the base gets no tokenizer; it takes data as ids (--format ids)", ml_error_text());
    ml_error_clear();
    json->length = 0;
    return ML_OK;
}

ml_status import_directory_tokenizer(const char *directory, ml_text *json)
{
    bool found = false;
    ml_status st = ml_tokenizer_from_directory(directory, json, &found);
    if (st != ML_OK || found) return st;
    return ml_fail(ML_INPUT,
                   "%s: no tokenizer there: expected tokenizer.json, vocab.json and merges.txt, "
                   "vocab.txt or tokenizer.model",
                   directory);
}

ml_status import_check_tokenizer(const ml_text *json, const ml_model_spec *spec)
{
    ml_tokenizer *tokenizer = NULL;
    if (!json->length) return ML_OK;
    ml_status st = ml_tokenizer_create(&tokenizer, json->data, json->length);
    if (st == ML_OK && ml_tokenizer_size(tokenizer) > spec->vocab)
        st = ml_fail(ML_INPUT,
                     "the tokenizer has %" PRId64 " tokens, the model's vocabulary only %" PRId64,
                     ml_tokenizer_size(tokenizer), spec->vocab);
    ml_tokenizer_destroy(tokenizer);
    return st;
}

static ml_status copy_all(const import_source *source, const ml_model_spec *spec,
                          const ml_import_options *options, const char *out)
{
    ml_status st = ML_OK;
    ml_base_writer *w = NULL;
    ml_window *window = NULL;
    import_hashing *hashing = NULL;
    import_room room;
    char hash[ML_SHA256_HEX];
    ML_TRY(import_find_room(spec, options->memory, &room));
    ML_TRY(ml_window_create(&window, room.window));
    ML_TRY(source->share(source->self, window));
    ML_TRY(import_hash_begin(&hashing, source, window));
    ML_TRY(ml_base_writer_create(&w, out, spec, options->dtype, source->tokenizer.data,
                                 source->tokenizer.length, NULL, &source->files));
    ML_TRY(import_stream(source, window, w, spec, options->keep, &room));
    import_say_error(w, options);
    st = import_hash_finish(hashing, hash);
    hashing = NULL;
    if (st != ML_OK) goto done;
    ml_base_writer_source(w, hash);
    st = ml_base_writer_finish(w);
    w = NULL;
done:
    import_hash_discard(hashing);
    ml_window_destroy(window);
    ml_base_writer_discard(w);
    return st;
}

/* ---- blocks that are kept ------------------------------------------------------------------ */

/* Counts of a source's matrices: kept in blocks, in blocks that no kernel multiplies (they become
 * the base's dtype), and the bytes of all of them either way. */
typedef struct kept {
    int64_t matrices, others, blocks_bytes, plain_bytes;
    const char *other; /* the name of one of these formats */
} kept;

/* formats[ml_model_formats]: what each matrix can be kept in. */
static void find_formats(const import_source *source, const ml_import_options *options,
                         ml_dtype *formats, kept *k)
{
    ml_dtype dtype = options->dtype;
    const ml_model_spec *spec = &source->spec;
    for (int64_t i = 0; i < ml_model_tensor_count(spec); i++) {
        ml_model_tensor t;
        ml_model_tensor_at(spec, i, &t);
        if (t.norm_or_bias) continue;
        const ml_block_format *f =
            source->format_of ? source->format_of(source->self, &t) : ml_block_format_of(dtype);
        /* a new token's row is no block of the file */
        bool grows = options->add_tokens && import_is_by_token(&t);
        bool in_blocks = f->weights > 1, keeps = in_blocks && !grows && ml_dtype_is_block(f->dtype);
        if (keeps) formats[ml_model_format_place(spec, &t)] = f->dtype;
        if (in_blocks && !keeps) k->other = f->name;
        k->matrices += keeps;
        k->others += in_blocks && !keeps;
        k->plain_bytes += ml_dtype_bytes(dtype, t.rows * t.cols);
        k->blocks_bytes += ml_dtype_bytes(keeps ? f->dtype : dtype, t.rows * t.cols);
    }
}

static void say_what_is_kept(const kept *k, bool keep, ml_dtype dtype)
{
    if (k->others > 0)
        ml_log("%" PRId64 " matrices in blocks that are not multiplied as they are (%s) become %s",
               k->others, k->other, ml_dtype_name(dtype));
    if (k->matrices > 0 && !keep)
        ml_log("%" PRId64 " matrices are widened from blocks: --dtype keep would hold them as they "
               "are, %.1f MB of weights in the place of %.1f MB",
               k->matrices, 1e-6 * (double)k->blocks_bytes, 1e-6 * (double)k->plain_bytes);
}

static ml_status import_source_to(const import_source *source, const ml_import_options *options,
                                  const char *path, const char *out)
{
    ml_status st = ML_OK;
    ml_model_spec spec = source->spec;
    ml_dtype *formats = NULL;
    kept k = {0};
    ML_NEW(formats, ml_model_formats(&spec), ML_MEM_OTHER, "formats of tensors");
    if (options->quantise)
        ml_import_formats(&spec, options, formats);
    else
        find_formats(source, options, formats, &k);
    if (options->keep && k.matrices == 0) {
        st = ml_fail(ML_USAGE,
                     "--dtype keep: %s has no matrix in blocks that can be kept; choose bf16 or "
                     "fp32",
                     path);
        goto done;
    }
    say_what_is_kept(&k, options->keep, options->dtype);
    if (options->keep || options->quantise) spec.formats = formats;
    ML_TRY(copy_all(source, &spec, options, out));
done:
    ml_memory_free(formats);
    return st;
}

/* In the directory that is read the base may take the place of an older base, and of nothing else:
 * any other file there may be the model's. */
static ml_status check_place(const char *directory, const char *out)
{
    ml_status st = ML_OK;
    char parent[ML_DURABLE_PATH];
    int fd;
    int64_t bytes;
    ML_TRY(ml_durable_path(parent, "%s", out));
    if (!ml_durable_exists(out) || !ml_durable_is_same(dirname(parent), directory)) return ML_OK;
    ML_TRY(ml_open_regular(out, &fd, &bytes));
    bool base = ml_file_holds(fd, 0, BASE_FORMAT);
    (void)close(fd);
    if (!base)
        st =
            ml_fail(ML_USAGE,
                    "%s: is a file of %s, which is read, and no base; what is written needs a name "
                    "of its own",
                    out, directory);
done:
    return st;
}

ml_status ml_import(const char *path, const ml_import_options *options, const char *out)
{
    ml_status st = ML_OK;
    import_source source = {0}, grown = {0};
    struct stat about;
    if (stat(path, &about))
        return ml_fail(ML_INPUT, "%s: cannot be opened: %s", path, strerror(errno));
    if (S_ISDIR(about.st_mode) && options->hf_config)
        return ml_fail(ML_USAGE,
                       "--hf-config is for a GGUF file; %s is a directory, which has its own "
                       "config.json",
                       path);
    if (S_ISDIR(about.st_mode) && options->tokenizer)
        return ml_fail(ML_USAGE,
                       "--tokenizer is for a GGUF file or --init; %s is a directory, which has its "
                       "own tokenizer",
                       path);
    if (S_ISDIR(about.st_mode)) ML_TRY(check_place(path, out));
    ML_TRY(S_ISDIR(about.st_mode) ? import_open_huggingface(&source, path)
                                  : import_open_gguf(&source, path, options));
    st = import_check_tokenizer(&source.tokenizer, &source.spec);
    if (st != ML_OK) st = ml_fail_within(st, "%s", options->tokenizer ? options->tokenizer : path);
    if (!options->tokenizer) st = import_read_tokenizer(st, &source.tokenizer);
    if (st == ML_OK && options->add_tokens)
        st = import_add_tokens(&grown, &source, options->add_tokens);
    if (st == ML_OK)
        st = import_source_to(options->add_tokens ? &grown : &source, options, path, out);
done:
    if (grown.close) grown.close(grown.self);
    ml_text_destroy(&grown.tokenizer);
    ml_base_files_destroy(&grown.files);
    if (source.close) source.close(source.self);
    ml_text_destroy(&source.tokenizer);
    ml_base_files_destroy(&source.files);
    return st;
}
