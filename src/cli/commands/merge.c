/* mpilora merge: an adapter into a base, or out of it again. */
#include "mpilora/merge.h"

#include <inttypes.h>
#include <limits.h>
#include <stdlib.h>

#include "cli/cli.h"
#include "cli/support/options.h"

static const char usage[] =
    "mpilora merge --base BASE.h5 --adapter A OUT.h5 [--subtract [--original ORIGINAL.h5]]";

static const char help[] = "usage: mpilora merge --base BASE.h5 --adapter A OUT.h5 [--subtract "
                           "[--original ORIGINAL.h5]]\n\n"
                           "Writes OUT.h5, a base like any other with W + s*B*A in place of every "
                           "adapted W: nothing else is needed to use it,\n"
                           "and it runs as fast as the base itself. A is an adapter.h5 or a PEFT "
                           "directory. An existing OUT.h5 is replaced once the new\n"
                           "one is whole; it cannot be BASE.h5 or A themselves.\n\n"
                           "  --base BASE.h5   the base that the adapter was trained on (checked "
                           "by the hash of its source)\n"
                           "  --adapter A      what is merged\n"
                           "  --subtract       BASE.h5 is the merge of A with some base: give that "
                           "base back, W - s*B*A. With the same adapter.h5 the\n"
                           "                   result counts as the original again (same source "
                           "hash). Its weights are the original's within the\n"
                           "                   rounding of the two sums: 2^-23 * (|W| + |s*B*A|) "
                           "in fp32, 2^-7 * (|W| + |s*B*A|) in bf16.\n"
                           "  --original ORIGINAL.h5   the base that was merged, where it is still "
                           "there: the result is that base bit for bit, for every\n"
                           "                   method that can be merged, after a check that "
                           "BASE.h5 is its merge with A and nothing else\n\n"
                           "Sums are made in fp32 and rounded once to the dtype of the base.\n";

static bool is_same_file(const char *one, const char *other)
{
    char a[PATH_MAX], b[PATH_MAX];
    return realpath(one, a) && realpath(other, b) && !strcmp(a, b);
}

static ml_status merge(const char *base_path, const char *adapter_path, bool subtract,
                       const char *original_path, const char *out)
{
    ml_status st = ML_OK;
    ml_base *base = NULL, *original = NULL;
    ml_adapter adapter = {0};
    ml_merge_result result;
    ML_TRY(ml_base_open(&base, base_path));
    ML_TRY(ml_adapter_read(&adapter, adapter_path, ml_base_spec(base),
                           subtract ? NULL : ml_base_source_hash(base)));
    if (original_path) ML_TRY(ml_base_open(&original, original_path));
    ML_TRY(ml_merge(base, &adapter, subtract, original, out, &result));
    ml_log("%s: %" PRId64 " matrices %s%s", out, result.matrices,
           subtract ? "freed of the adapter" : "merged",
           original          ? "; it is the original base, bit for bit"
           : result.original ? "; it counts as the original base"
                             : "");
done:
    ml_adapter_destroy(&adapter);
    ml_base_close(base);
    ml_base_close(original);
    return st;
}

static ml_status run(int argc, char **argv)
{
    const char *base = NULL, *adapter = NULL, *original = NULL, *out = NULL;
    bool subtract = false;
    const option table[] = {{"--base", OPTION_TEXT, &base},
                            {"--adapter", OPTION_TEXT, &adapter},
                            {"--subtract", OPTION_FLAG, &subtract},
                            {"--original", OPTION_TEXT, &original},
                            {NULL, OPTION_FLAG, NULL}};
    ml_status st = options_read(argc, argv, table, 1, 1, &out, usage);
    if (st != ML_OK) return st;
    if (!base || !adapter)
        return ml_fail(ML_USAGE, "%s is missing; usage: %s", base ? "--adapter" : "--base", usage);
    if (original && !subtract)
        return ml_fail(ML_USAGE, "--original: is for --subtract; usage: %s", usage);
    if (is_same_file(adapter, out))
        return ml_fail(ML_USAGE, "%s: is the adapter itself; choose another name for the result",
                       out);
    return merge(base, adapter, subtract, original, out);
}

const ml_command ml_command_merge = {
    "merge", "an adapter into a base, or out of it again", help, run, false, NULL};
