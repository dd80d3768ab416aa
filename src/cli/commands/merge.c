/* mpilora merge: an adapter into a base, or the base of such a sum again. */
#include "mpilora/merge.h"

#include <inttypes.h>
#include <stdlib.h>

#include "cli/cli.h"
#include "cli/support/block_options.h"
#include "io/durable.h"

static const char usage[] =
    "mpilora merge --base BASE.h5 --adapter A OUT.h5 [--dtype bf16|fp32|keep|FORMAT | --subtract "
    "--original ORIGINAL.h5]";

static ml_status merge(const char *base_path, const char *adapter_path, const char *original_path,
                       const ml_merge_options *options, const char *out)
{
    ml_status st = ML_OK;
    ml_base *base = NULL, *original = NULL;
    ml_adapter adapter = {0};
    ml_merge_result result;
    ML_TRY(ml_base_open(&base, base_path));
    if (original_path) ML_TRY(ml_base_open(&original, original_path));
    /* it belongs to the base that it was trained on, of which the other is the sum */
    st = ml_adapter_read_for(&adapter, adapter_path, original ? original : base);
    if (st != ML_OK && original) st = ml_fail_within(st, "--original %s", original_path);
    ML_TRY(st);
    ML_TRY(ml_merge(base, &adapter, original, options, out, &result));
    ml_log("%s: %" PRId64 " matrices %s", out, result.matrices,
           original ? "freed of the adapter; it is the original base, bit for bit" : "merged");
    if (options->keep || options->quantise)
        ml_log("rounding to blocks changed the weights by %.3g of their size (root mean square)",
               result.error);
    else if (!original && !options->plain && ml_base_dtype(base) == ML_FP32)
        ml_log("its matrices are bf16, the base's are fp32: --dtype fp32 does not round the sums");
done:
    ml_adapter_destroy(&adapter);
    ml_base_close(base);
    ml_base_close(original);
    return st;
}

typedef struct given {
    const char *base, *adapter, *original, *dtype;
    bool subtract;
} given;

static const option options[] = {
    {"--base", OPTION_TEXT, offsetof(given, base), "BASE.h5",
     "the base that the adapter was trained on (checked by the hash of its source)", NULL},
    {"--adapter", OPTION_TEXT, offsetof(given, adapter), "A", "adapter.h5 or a PEFT directory",
     NULL},
    {"--dtype", OPTION_TEXT, offsetof(given, dtype), "bf16|fp32|keep|FORMAT",
     "what the matrices of OUT.h5 are kept in; keep: each in the block format that it has in "
     "BASE.h5, and what did not change as it is; FORMAT: one of import --quantise, with its rules. "
     "What rounding to blocks changed is said. bf16 where it is not given",
     NULL},
    {"--subtract", OPTION_FLAG, offsetof(given, subtract), NULL,
     "BASE.h5 is the merge of A with ORIGINAL.h5: give ORIGINAL.h5 back, bit for bit, for every "
     "method that can be merged, after a check that BASE.h5 is that merge and nothing else",
     NULL},
    {"--original", OPTION_TEXT, offsetof(given, original), "ORIGINAL.h5",
     "of --subtract, which needs it: the base that was merged", NULL},
    {NULL, OPTION_FLAG, 0, NULL, NULL, NULL}};

static ml_status read_dtype(const char *word, ml_merge_options *out)
{
    out->plain = !strcmp(word, "bf16") || !strcmp(word, "fp32");
    out->dtype = !strcmp(word, "fp32") ? ML_FP32 : ML_BF16;
    out->keep = !strcmp(word, "keep");
    if (out->plain || out->keep) return ML_OK;
    return block_options_format("--dtype", word, "bf16, fp32, keep, ", &out->quantise);
}

static ml_status run(int argc, char **argv)
{
    const char *out = NULL;
    given g = {0};
    ml_merge_options o = {0};
    ml_status st = options_read(argc, argv, options, &g, 1, 1, &out, usage);
    if (st != ML_OK) return st;
    if (!g.base || !g.adapter)
        return ml_fail(ML_USAGE, "%s is missing; usage: %s", g.base ? "--adapter" : "--base",
                       usage);
    if (g.subtract && !g.original)
        return ml_fail(ML_USAGE,
                       "--subtract: needs --original ORIGINAL.h5, the base that was merged: a sum "
                       "that has been rounded does not give it back");
    if (g.original && !g.subtract)
        return ml_fail(ML_USAGE, "--original: is for --subtract; usage: %s", usage);
    if (ml_durable_is_same(g.adapter, out))
        return ml_fail(ML_USAGE, "%s: is the adapter itself; choose another name for the result",
                       out);
    if (g.dtype && g.subtract)
        return ml_fail(ML_USAGE,
                       "--dtype: --subtract gives back what was merged, in its own dtype; "
                       "give one of them");
    if (g.dtype) st = read_dtype(g.dtype, &o);
    return st == ML_OK ? merge(g.base, g.adapter, g.original, &o, out) : st;
}

const ml_command ml_command_merge = {
    .name = "merge",
    .summary = "an adapter into a base, or out of it again",
    .usage = usage,
    .about =
        "Writes OUT.h5, a base like any other with W + s*B*A in place of every adapted W: nothing "
        "else is needed to use it, and it runs as fast as the base itself. An existing OUT.h5 is "
        "replaced once the new one is whole; it cannot be BASE.h5 or A themselves.",
    .options = options,
    .notes = "Sums are made in fp32 and rounded once to what OUT.h5 is kept in.",
    .run = run,
    .parallel = false,
};
