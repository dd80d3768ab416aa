/* mpilora analyze SUBJECT: what LoRA learns. Each subject has a file of its own. */
#include "cli/analyze/analyze.h"

static const ml_command *const subjects[] = {&analyze_subspace, &analyze_amplification,
                                             &analyze_spectrum, NULL};

const ml_command ml_command_analyze = {
    .name = "analyze",
    .summary = "what LoRA learns: subspaces of adapters, what they amplify, singular values of W "
               "and of dW",
    .usage = "mpilora analyze subspace|amplification|spectrum ...",
    .about =
        "The studies of section 7 of the LoRA paper, for every layer and target, on any number "
        "of ranks. A and B are adapters: adapter.h5 or a PEFT directory, two ranks or two "
        "seeds of one base. dW = s*B*A with the adapter's scale s; it is never formed.",
    .notes = "Singular values of W are computed by all ranks together (ScaLAPACK's pdgesvd, double "
             "precision), each of which reads its own part. What a rank needs is said before that "
             "starts, and refused (exit code 4) where a node has less.",
    .parallel = true,
    .subjects = subjects};
