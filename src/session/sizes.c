/* How much memory a rank is going to need, asked from the functions that allocate it, and which
 * activations it can afford to save. Training predicts its own bytes with them before the first
 * step; plan asks them without a grid and allocates nothing. */
#include <omp.h>

#include "mpilora/checkpoint.h"
#include "session/pipeline.h"

/* Of the parts that a model is divided into. */
static int part_of(const ml_session_shape *shape)
{
    return shape->stage * shape->tp + shape->tp_rank;
}

/* What saves hold: images of a checkpoint's files; on world rank 0 the adapter at a run's end. */
static int64_t saving_bytes(const ml_model *model, const ml_peft *peft,
                            const ml_parameters *parameters, const ml_session_shape *shape)
{
    bool full = ml_model_weight_bytes(model) == 0, first = part_of(shape) == 0;
    return ml_max(ml_checkpoint_memory(parameters, full, shape->tp * shape->pp, part_of(shape)),
                  first && !full ? ml_adapter_write_bytes(parameters, ml_peft_written_times(peft))
                                 : 0);
}

/* What is held for a moment while everything else is there: reading weights or a checkpoint,
 * decomposing weights, or saving, on world rank 0 beside the run's directory. */
static int64_t transient_bytes(const ml_model *model, const ml_peft *peft,
                               const ml_parameters *parameters, const ml_session_shape *shape,
                               bool writer)
{
    bool first = writer && part_of(shape) == 0;
    int64_t reading = ml_max(ml_base_load_bytes(ml_model_slots(model), shape->threads),
                             ml_checkpoint_load_memory(parameters, first)),
            directory = first ? ml_run_directory_bytes() : 0;
    reading = ml_max(reading, ml_peft_start_bytes(peft));
    return writer ? directory + ml_max(reading, saving_bytes(model, peft, parameters, shape))
                  : reading;
}

int64_t ml_session_writer_bytes(const ml_model *model, const ml_peft *peft,
                                const ml_parameters *parameters, const ml_session_shape *shape)
{
    return transient_bytes(model, peft, parameters, shape, true) -
           transient_bytes(model, peft, parameters, shape, false);
}

void ml_session_bytes(const ml_model *model, const ml_peft *peft, const ml_parameters *parameters,
                      const ml_session_shape *shape, int64_t bytes[ML_MEM_CATEGORIES])
{
    ml_weight shapes[ML_MODEL_SHAPES];
    ml_kernels_options kernels = {.backend = shape->backend, .vector_path = shape->vector_path};
    int64_t own = ml_shares_tokens(shape->cp, shape->together, shape->tokens, shape->sequences);
    ml_model_kernel_options(model, own, &kernels, shapes);
    bytes[ML_MEM_FROZEN] += ml_model_weight_bytes(model);
    ml_peft_bytes(peft, true, bytes);
    ml_parameters_bytes(parameters, true, bytes);
    ml_model_reserve_bytes(model, own, true, bytes);
    bytes[ML_MEM_WORKSPACE] += ml_kernels_workspace_bytes(&kernels, shape->threads);
    bytes[ML_MEM_COMMUNICATION] +=
        (int64_t)sizeof(float) *
        ml_stages_buffers(own, shape->spec->width, shape->pp, shape->stage);
    bytes[ML_MEM_COMMUNICATION] += ml_grid_sums_bytes(shape->node_ranks);
    bytes[ML_MEM_OTHER] +=
        ml_packer_bytes(shape->tokens, shape->sequences, shape->max_len, shape->spec) +
        ml_shares_bytes(shape->cp, shape->sequences) + ml_base_map_bytes(ml_model_slots(model)) +
        transient_bytes(model, peft, parameters, shape, true);
    if (shape->contrasted == 0) return;
    bytes[ML_MEM_OTHER] +=
        ml_packer_vector_bytes(shape->sequences, ml_model_hidden_width(shape->spec));
    bytes[ML_MEM_COMMUNICATION] +=
        ml_contrast_bytes(shape->contrasted, shape->unit, ml_model_hidden_width(shape->spec));
}

ml_session_shape ml_session_shape_of(const session *s)
{
    const ml_run_config *c = s->config;
    return (ml_session_shape){
        s->tokens,
        c->batch.micro * ml_session_unit(s),
        s->max_len + s->prefix + s->infix,
        ml_model_get_spec(s->model),
        c->backend,
        c->vector_path,
        omp_get_max_threads(),
        ml_grid_tp(s->grid),
        ml_grid_tp_rank(s->grid),
        ml_grid_pp(s->grid),
        ml_grid_stage(s->grid),
        ml_grid_shares_sums(s->grid, ML_GROUP_NODE) ? ml_grid_ranks_on_node(s->grid) : 0,
        ml_run_config_contrasts(c) ? c->batch.sequences : 0,
        ml_session_unit(s),
        ml_grid_cp(s->grid),
        ml_shares_unit(c),
        ml_grid_dp(s->grid) * ml_grid_cp(s->grid)};
}

/* What a process has resident of the vectors of the node's other ranks: of gradients, and of a tp
 * group's those that layers sum, forward and backward, whose places in the work space overlap by
 * about a half. Nobody accounts it. */
static int64_t mapped_bytes(const ml_parameters *parameters, const ml_session_shape *shape)
{
    int64_t own = ml_shares_tokens(shape->cp, shape->together, shape->tokens, shape->sequences);
    int together = (int)ml_min(shape->tp, shape->node_ranks),
        replicas = (int)ml_min(shape->replicas, ml_max(1, shape->node_ranks / shape->tp));
    return ml_grid_mapped_bytes(replicas, parameters->local) +
           3 * ml_grid_mapped_bytes(together, own * shape->spec->width) / 2;
}

/* What a run touches of the libraries and of the program itself beyond what is there before its
 * first step: measured with HDF5 1.10.8 and native products. */
static const int64_t touched_bytes = 1600000;

void ml_session_needs(ml_model *model, const ml_peft *peft, const ml_parameters *parameters,
                      const ml_session_shape *shape, int64_t need[ML_ACTIVATION_MODES])
{
    int64_t accounted = 0, beside = ml_memory_process_now();
    for (int c = 0; c < ML_MEM_CATEGORIES; c++) accounted += ml_memory_current((ml_category)c);
    for (int mode = 0; mode < ML_ACTIVATION_MODES; mode++) {
        int64_t bytes[ML_MEM_CATEGORIES] = {0};
        ml_model_set_activations(model, (ml_activation_mode)mode, 0);
        ml_session_bytes(model, peft, parameters, shape, bytes);
        need[mode] = ml_memory_current(ML_MEM_OTHER) + ml_max(0, beside - accounted) +
                     touched_bytes + mapped_bytes(parameters, shape);
        for (int c = 0; c < ML_MEM_CATEGORIES; c++) need[mode] += bytes[c];
    }
}

bool ml_session_choose_activations(const ml_run_config *config,
                                   const int64_t need[ML_ACTIVATION_MODES],
                                   ml_activation_mode *mode)
{
    int64_t limit = config->memory.limit;
    if (config->memory.activations != ML_KEEP_AUTO) {
        *mode = (ml_activation_mode)(config->memory.activations - ML_KEEP_FULL);
        return limit == 0 || need[*mode] <= limit;
    }
    *mode = ML_ACTIVATIONS_FULL;
    while (limit > 0 && need[*mode] > limit && *mode < ML_ACTIVATIONS_CHECKPOINT) (*mode)++;
    return limit == 0 || need[*mode] <= limit;
}

void ml_session_predict(const session *s, const char *backend, const char *vector_path,
                        int64_t bytes[ML_MEM_CATEGORIES])
{
    ml_session_shape shape = ml_session_shape_of(s);
    shape.backend = backend;
    shape.vector_path = vector_path;
    bool full = s->config->method.name == ML_METHOD_FULL;
    ml_session_bytes(s->model, s->peft, &s->parameters, &shape, bytes);
    int writers = ml_checkpoint_writers(&s->parameters, full, shape.tp * shape.pp);
    if (ml_grid_replica(s->grid) != 0 || part_of(&shape) >= writers)
        bytes[ML_MEM_OTHER] -= ml_session_writer_bytes(s->model, s->peft, &s->parameters, &shape);
    bytes[ML_MEM_OTHER] += ml_memory_current(ML_MEM_OTHER); /* data sets, structures */
}
