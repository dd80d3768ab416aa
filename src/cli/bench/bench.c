/* mpilora bench SUBJECT: each subject has a file of its own. Candidates run in turn, so that a
 * disturbance of the machine meets all of them; the median counts, of a peak the largest. */
#include "cli/bench/bench.h"

#include "cli/cli.h"

static const struct {
    const char *name;
    ml_status (*run)(int argc, char **argv);
} subjects[] = {
    {"gemm", bench_gemm},           {"attention", bench_attention}, {"step", bench_step},
    {"allreduce", bench_allreduce}, {"generate", bench_generate},   {"latency", bench_latency},
    {"machine", bench_machine},
};
enum { SUBJECTS = sizeof subjects / sizeof *subjects };

static ml_status unknown(const char *word)
{
    const char *names[SUBJECTS + 1] = {NULL};
    for (int i = 0; i < SUBJECTS; i++) names[i] = subjects[i].name;
    const char *near = ml_nearest_word(word, names);
    return ml_fail(ML_USAGE,
                   "there is no bench \"%s\"%s%s%s; gemm, attention, step, allreduce, generate, "
                   "latency and machine are there",
                   word, near ? "; did you mean \"" : "", near ? near : "", near ? "\"?" : "");
}

static ml_status run(int argc, char **argv)
{
    if (argc < 2)
        return ml_fail(ML_USAGE,
                       "the subject is missing; usage: mpilora bench "
                       "gemm|attention|step|allreduce|generate|latency|machine [options]");
    for (int i = 0; i < SUBJECTS; i++)
        if (!strcmp(argv[1], subjects[i].name)) return subjects[i].run(argc - 1, argv + 1);
    return unknown(argv[1]);
}

const ml_command ml_command_bench = {
    .name = "bench",
    .summary = "measure this machine: products, attention, training steps, sums over ranks, "
               "generation; write its machine file",
    .help = "usage: mpilora bench gemm      [--json] [--tokens T] [--rows R] [--cols C] [--dtype "
            "bf16|fp32]\n"
            "       mpilora bench attention [--json] [--tokens T] [--length N] [--heads H] "
            "[--kv-heads K] [--head-dim D]\n"
            "       mpilora bench step      [--json] [--base BASE.h5 | --model MODEL.yaml] "
            "[--methods lora,full,frozen] [--targets q,v]\n"
            "                               [--rank R] [--dropout P] [--sequences S] [--length N | "
            "--tokens T] [--tp N]\n"
            "                               [--precision bf16|fp32] [--rounds N] [--seconds X]     "
            "                (any mpirun)\n"
            "       mpilora bench allreduce [--json] [--base BASE.h5 | --model MODEL.yaml] "
            "[--targets q,v] [--rank R] [--largest BYTES]\n"
            "       mpilora bench generate  [--json] [--base BASE.h5 | --model MODEL.yaml] "
            "[--adapter A] [--merged] [--tokens N]\n"
            "                               [--precision bf16|fp32]\n"
            "       mpilora bench latency   [--json] [--base BASE.h5 | --model MODEL.yaml] "
            "[--batches 32,16,1] [--lengths 512,256,128]\n"
            "                               [--every] [--rank R] [--bottleneck R,...] [--precision "
            "fp32|bf16] [--rounds N] [--cpu-time]\n"
            "                                                                                      "
            "                 (any mpirun; tp)\n"
            "       mpilora bench machine   [--json] [--out FILE.yaml] [--name NAME] [--seconds X] "
            "                        (any mpirun)\n\n"
            "gemm: T tokens times a weight of R outputs × C inputs, forward (x·Wᵀ) and backward "
            "(dy·W), by every path that this processor\n"
            "can run. attention: T tokens in sequences of N. Each rate stands beside its share of "
            "the fp32 multiply-add peak that the same\n"
            "run measures; the median of some rounds counts, of the peak the largest.\n"
            "step: alternating training steps of several methods in memory, on S sequences of N "
            "random tokens; without a base the weights are\n"
            "random. `frozen` is LoRA's forward and backward without LoRA. Prints times by phase, "
            "tokens/s, model flops and their share of "
            "the\n"
            "peak, the bytes of what trains with its gradients and moments, and every other method "
            "beside the first.\n"
            "allreduce: sums over all ranks, at the sizes of LoRA's and of full fine-tuning's "
            "gradients and from 4 bytes up.\n"
            "generate: tokens a second of one sequence beside what reading the weights once a "
            "token would allow. With --adapter also through "
            "the\n"
            "adapter, and with --merged after it was merged into the weights.\n"
            "latency: a forward pass of a batch, all logits, merged (the base itself), under LoRA "
            "on q and v, AdapterL and AdapterH (at half\n"
            "the bottleneck), in turn. The first batch goes with the first length, and so on; "
            "--every: each with each. R: one, or one a "
            "shape.\n"
            "machine: what `mpilora plan --machine FILE` computes times from: rates of products of "
            "several shapes, of attention and of what "
            "goes over\n"
            "numbers once, latency and bandwidth of sums; alone it starts two processes for these. "
            "Run it as jobs run: all cores at work.\n"
            "OMP_NUM_THREADS sets the threads of a rank, MPILORA_VECTOR_PATH the instructions, "
            "MPILORA_PRODUCT_PATH the products.\n",
    .run = run,
    .parallel = true,
};
