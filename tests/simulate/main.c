/* simulate CONFIG.yaml MACHINE.yaml [key=value…]: the training run of a configuration whose base is
 * a description, on the ranks that smpirun makes. Its files are those of every run; RUN/sent.json
 * has beside them what each rank sent. */
#include <stdlib.h>

#include "mpilora/grid.h"
#include "mpilora/train.h"
#include "simulate.h"

/* One array a kind and way, of each rank's bytes. */
static void print_sent(FILE *file, int size, const int64_t *all)
{
    static const char *const names[MESSAGE_KINDS * MESSAGE_WAYS] = {
        "sums_inside",   "sums_between",   "piped_inside",
        "piped_between", "gathers_inside", "gathers_between"};
    for (int i = 0; i < MESSAGE_KINDS * MESSAGE_WAYS; i++) {
        fprintf(file, "%s\"%s\": [", i ? ", " : "{", names[i]);
        for (int rank = 0; rank < size; rank++)
            fprintf(file, "%s%lld", rank ? ", " : "", (long long)all[i * size + rank]);
        fputs("]", file);
    }
    fputs("}\n", file);
}

static ml_status write_file(const char *folder, int size, const int64_t *all)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/sent.json", folder);
    FILE *file = fopen(path, "w");
    if (!file) return ml_fail(ML_RESOURCE, "%s: cannot be written", path);
    print_sent(file, size, all);
    fclose(file);
    return ML_OK;
}

/* Collective over the world. */
static ml_status write_sent(const char *folder)
{
    ml_status st = ML_OK;
    ml_grid *grid = NULL;
    int64_t *all = NULL;
    const messages_sent own = messages_count();
    const int64_t *bytes = &own.bytes[0][0];
    enum { ROWS = MESSAGE_KINDS * MESSAGE_WAYS };
    ML_TRY(ml_grid_create(&grid, 1));
    int size = ml_grid_size(grid), rank = ml_grid_rank(grid);
    ML_NEW(all, ROWS * size, ML_MEM_OTHER, "what the ranks sent");
    for (int i = 0; i < ROWS; i++) all[i * size + rank] = bytes[i];
    ml_grid_sum_int64(grid, ML_GROUP_WORLD, all, ROWS * size);
    st = ml_grid_agree(grid, rank == 0 ? write_file(folder, size, all) : ML_OK);
done:
    ml_memory_free(all);
    ml_grid_destroy(grid);
    return st;
}

static ml_status run(int argc, char **argv, ml_machine *machine)
{
    ml_status st = ML_OK;
    ml_run_config config = {0};
    const ml_train_options options = {.fresh = true};
    ML_TRY(ml_machine_read(machine, argv[2]));
    int on_node = messages_ranks_on_node();
    kernels_use(machine, (double)ml_max(1, machine->cores / on_node), (double)on_node);
    ML_TRY(ml_run_config_read(&config, argv[1], (const char *const *)argv + 3, argc - 3));
    ML_TRY(ml_train_run(&config, &options));
    ML_TRY(write_sent(config.run_dir));
done:
    ml_run_config_destroy(&config);
    return st;
}

int main(int argc, char **argv)
{
    ml_machine machine = {0};
    if (argc < 3) {
        fputs("usage: simulate CONFIG.yaml MACHINE.yaml [key=value]...\n", stderr);
        return ML_USAGE;
    }
    memory_start();
    ml_status st = ml_grid_start(&argc, &argv);
    if (st == ML_OK) {
        messages_start();
        st = run(argc, argv, &machine);
    }
    if (st != ML_OK && ml_grid_world_rank() == 0)
        fprintf(stderr, "simulate: %s\n", ml_error_text());
    ml_machine_destroy(&machine);
    ml_grid_stop();
    return st;
}
