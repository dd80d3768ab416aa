/* mpilora analyze SUBJECT: what LoRA learns. Each subject has a file of its own. */
#include "cli/analyze/analyze.h"

#include "cli/cli.h"

static const struct {
    const char *name;
    ml_status (*run)(int argc, char **argv);
} subjects[] = {{"subspace", analyze_subspace},
                {"amplification", analyze_amplification},
                {"spectrum", analyze_spectrum}};
enum { SUBJECTS = sizeof subjects / sizeof *subjects };

static ml_status unknown(const char *word)
{
    const char *names[SUBJECTS + 1] = {NULL};
    for (int i = 0; i < SUBJECTS; i++) names[i] = subjects[i].name;
    const char *near = ml_nearest_word(word, names);
    return ml_fail(
        ML_USAGE,
        "there is no analysis \"%s\"%s%s%s; subspace, amplification and spectrum are there", word,
        near ? "; did you mean \"" : "", near ? near : "", near ? "\"?" : "");
}

static ml_status run(int argc, char **argv)
{
    if (argc < 2)
        return ml_fail(
            ML_USAGE,
            "the subject is missing; usage: mpilora analyze subspace|amplification|spectrum …");
    for (int i = 0; i < SUBJECTS; i++)
        if (!strcmp(argv[1], subjects[i].name)) return subjects[i].run(argc - 1, argv + 1);
    return unknown(argv[1]);
}

const ml_command ml_command_analyze = {
    .name = "analyze",
    .summary = "what LoRA learns: subspaces of adapters, what they amplify, singular values of W "
               "and of dW",
    .help =
        "usage: mpilora analyze subspace A B       --base BASE.h5 [--of A|B|right|left] [options]\n"
        "       mpilora analyze amplification A    --base BASE.h5 [--rank R] [options]\n"
        "       mpilora analyze spectrum           --base BASE.h5 [--adapter A] [options]          "
        "              (any mpirun)\n"
        "       mpilora analyze spectrum           --base BASE.h5|MODEL.yaml --plan [--ranks N] "
        "[--targets q,v] [--json]\n\n"
        "The studies of section 7 of the LoRA paper, for every layer and target. A and B are "
        "adapters: adapter.h5 or a PEFT directory,\n"
        "two ranks or two seeds of one base. dW = s*B*A with the adapter's scale s; it is never "
        "formed.\n\n"
        "subspace       phi(i, j) = ||U_i' V_j||_F^2 / min(i, j) of the first i singular "
        "directions of the one adapter and the first j of\n"
        "               the other: 0 orthogonal, 1 the smaller lies in the larger; beside it phi "
        "of two random Gaussian matrices.\n"
        "               --of A (unless told): columns of the right-singular unitary matrix of A, "
        "as in the paper; --of B: left-singular\n"
        "               ones of B; --of right, left: singular directions of dW itself\n"
        "amplification  ||U' W V||_F with U, V the R top singular directions of dW, of W, and of a "
        "random matrix, beside ||W||_F and\n"
        "               ||dW||_F; the amplification factor is ||dW||_F / ||U' W V||_F for dW's "
        "directions. --rank: the adapter's own\n"
        "               unless told\n"
        "spectrum       singular values of W, and with --adapter of dW\n\n"
        "  --targets q,v   only these; without an adapter every linear layer\n"
        "  --layers 0-3,7  only these, counted from 0\n"
        "  --out F.h5      all numbers, in double precision; analysis/subspace.py draws them\n"
        "  --json          one JSON object instead of the table\n"
        "  --seed N        of the random matrices; 1 unless told\n"
        "  --memory GIB    what a node may use, in place of what it has available\n\n"
        "Singular values of W are computed by all ranks together (ScaLAPACK's pdgesvd, double "
        "precision), each of which reads its own "
        "part.\n"
        "What a rank needs is said before that starts, and refused (exit code 4) where a node has "
        "less; --plan only says it, also for N "
        "ranks.\n",
    .run = run,
    .parallel = true,
};
