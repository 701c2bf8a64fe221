/* The flow that is trained, the settings of the fit, and contexts in units that nets like. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "evaluate.h"
#include "output.h"
#include "train.h"

enum {
    MANY_ROWS = 4000,
    VERY_MANY_ROWS = 100000,
    STEPS = 4000,
    MATCHING_STEPS = 20000,
    FEWEST_EPOCHS = 20,
    FEWEST_OF_VERY_MANY = 5,
    MOST_EPOCHS = 300,
    POINT_LAYERS = 32
};

const char *train_flow_name(const train_options *o) {
    static const char *const names[] = {"realnvp", "planar", "radial", "cnf"};
    return names[o->flow];
}

static void read_hidden(train_options *o) {
    if (!o->hidden)
        return;
    uint64_t width, layers = 2;
    char *text = copy_text(o->hidden), *cross = strchr(text, 'x');
    if (cross)
        *cross = '\0';
    if (!read_whole(text, &width) || (cross && !read_whole(cross + 1, &layers)) || width == 0 || layers == 0 || width > 65536 ||
        layers > 64)
        die_usage("--hidden %s: this should be a width, or a width and a number of layers, as 128x3", o->hidden);
    free(text);
    o->hidden_width = (size_t)width;
    o->hidden_layers = (size_t)layers;
}

void train_check_options(train_options *o) {
    read_hidden(o);
    if (!o->output)
        die_usage("where should the model be saved? -o MODEL is missing");
    if (o->flow == FLOW_CNF && o->layers)
        die_usage("--layers: a cnf has one layer; --hidden makes its net larger");
    if (o->matching && o->flow != FLOW_CNF)
        die_usage("--matching: only a cnf can be trained by flow matching: --flow cnf");
    if (o->hidden && (o->flow == FLOW_PLANAR || o->flow == FLOW_RADIAL) && !o->context_columns)
        die_usage("--hidden: %s layers have nets only with --context-columns", train_flow_name(o));
    if (o->validation > 0.9)
        die_usage("--validation %g: this should be a fraction, at most 0.9", o->validation);
    if (o->rate == 0.0)
        die_usage("--rate 0: nothing would be learned");
    o->output_is_standard = output_is_standard(o->output);
    if (o->output_is_standard && isatty(STDOUT_FILENO))
        die_usage("-o %s: a model file is not for a terminal", o->output);
    struct stat place;
    if (o->resume && (o->output_is_standard || (stat(o->output, &place) == 0 && !S_ISREG(place.st_mode) && !S_ISDIR(place.st_mode))))
        die_usage("--resume: the checkpoint lies beside the model, so that has to be a file");
}

/* ---- The flow */

static void append(nf_flow *flow, nf_flow *part) {
    if (nf_flow_append(flow, part) != NF_OK)
        die("%s", nf_last_error());
}

/* Planar and radial layers bend a density that an affine layer at either end scales: nf_fit standardises by the one at the data end. */
static nf_flow *between_affine(const train_data *d, nf_precision precision, nf_flow *middle, bool at_base) {
    nf_flow *flow, *part;
    must(nf_flow_create(d->dim, d->context_dim, precision, &flow));
    if (at_base) {
        must(nf_affine_create(d->dim, precision, &part));
        append(flow, part);
    }
    append(flow, middle);
    must(nf_affine_create(d->dim, precision, &part));
    append(flow, part);
    return flow;
}

nf_flow *train_flow(const train_options *o, const train_data *d) {
    const nf_precision precision = o->precision == PRECISION_DOUBLE ? NF_DOUBLE : NF_SINGLE;
    const size_t layers = o->layers ? o->layers : POINT_LAYERS;
    nf_flow *flow;
    switch (o->flow) {
    case FLOW_PLANAR:
        must(nf_planar_create(NF_CONFIG(nf_planar_config, .dim = d->dim, .context_dim = d->context_dim, .layers = layers, .seed = o->seed,
                                        .precision = precision, .hidden_layers = o->hidden_layers, .hidden_width = o->hidden_width),
                              &flow));
        return between_affine(d, precision, flow, true);
    case FLOW_RADIAL:
        must(nf_radial_create(NF_CONFIG(nf_radial_config, .dim = d->dim, .context_dim = d->context_dim, .layers = layers, .seed = o->seed,
                                        .precision = precision, .hidden_layers = o->hidden_layers, .hidden_width = o->hidden_width),
                              &flow));
        return between_affine(d, precision, flow, true);
    case FLOW_CNF:
        must(nf_cnf_create(NF_CONFIG(nf_cnf_config, .dim = d->dim, .context_dim = d->context_dim, .seed = o->seed, .precision = precision,
                                     .hidden_layers = o->hidden_layers, .hidden_width = o->hidden_width),
                           &flow));
        return between_affine(d, precision, flow, false);
    default:
        must(nf_realnvp_create(NF_CONFIG(nf_realnvp_config, .dim = d->dim, .context_dim = d->context_dim, .couplings = o->layers,
                                         .seed = o->seed, .precision = precision, .hidden_layers = o->hidden_layers,
                                         .hidden_width = o->hidden_width),
                               &flow));
        return flow;
    }
}

/* ---- Settings */

/*
 * The library's defaults suit some hundred rows. Many go in larger batches, so that a fit does not take long, with less noise and none of it wide,
 * because they need less of it, and for as many epochs as make about STEPS steps. A step of flow matching costs little, and says little.
 */
void train_config(const train_options *o, const train_data *d, nf_fit_config *config, nf_optimizer_config *optimizer) {
    const bool many = d->training >= MANY_ROWS, very_many = d->training >= VERY_MANY_ROWS;
    const size_t fewest = very_many ? FEWEST_OF_VERY_MANY : FEWEST_EPOCHS,
                 batch = o->batch    ? o->batch
                         : very_many ? 1024
                         : many      ? 256
                                     : 64,
                 used = batch < d->training ? batch : d->training;
    const size_t wanted = (size_t)((o->matching ? MATCHING_STEPS : STEPS) * (double)used / (double)d->training);
    const size_t epochs = wanted < fewest ? fewest : o->matching ? wanted : !many || wanted > MOST_EPOCHS ? MOST_EPOCHS : wanted;
    *config = (nf_fit_config){.struct_size = sizeof *config,
                              .batch_size = used,
                              .epochs = o->epochs ? o->epochs : epochs,
                              .patience = o->patience,
                              .threads = o->threads ? o->threads : processors(),
                              .seed = o->seed,
                              .objective = o->matching ? NF_OBJECTIVE_FLOW_MATCHING : NF_OBJECTIVE_LIKELIHOOD,
                              .weight = d->weight,
                              .validation_fraction = -1.0,
                              .noise = o->noise > 0.0         ? o->noise
                                       : o->noise == 0.0      ? -1.0
                                       : many && !o->matching ? 0.05
                                                              : 0.0,
                              .contamination = many ? -1.0 : 0.0};
    if (d->held_out > 0) {
        config->validation_rows = d->held_out;
        config->validation_x = d->x + d->training * d->dim;
        config->validation_context = d->context ? d->context + d->training * d->context_dim : NULL;
        config->validation_weight = d->weight ? d->weight + d->training : NULL;
    }
    if (o->rate > 0.0) {
        const bool couplings = o->flow == FLOW_REALNVP, cnf = o->flow == FLOW_CNF;
        *optimizer = (nf_optimizer_config){.struct_size = sizeof *optimizer,
                                           .kind = NF_ADAMW,
                                           .learning_rate = o->rate,
                                           .clip_norm = 1.0,
                                           .weight_decay = couplings             ? 0.1
                                                           : cnf && !o->matching ? 0.02
                                                                                 : 0.0};
        config->optimizer = optimizer;
    }
}

void train_announce(const train_options *o, const train_data *d, const nf_flow *flow, const nf_fit_config *config) {
    if (tool_quiet || o->json)
        return;
    fprintf(stderr, "%s: %zu rows of %zu column%s", d->source, d->rows, d->dim, d->dim == 1 ? "" : "s");
    if (d->context_dim > 0)
        fprintf(stderr, " given %zu", d->context_dim);
    fprintf(stderr, ", %zu held out\n", d->held_out);
    fprintf(stderr, "%s: %zu layers, %zu parameters; batches of %zu, %zu thread%s\n", train_flow_name(o), nf_flow_layer_count(flow),
            nf_parameter_count(flow), config->batch_size, config->threads, config->threads == 1 ? "" : "s");
}

/* ---- The model */

/* The first bias behind a first weight; the context is the last of a net's inputs. */
static bool is_first_weight(const nf_tensor *t) {
    const char *end = ".net.0.weight";
    const size_t length = strlen(t->name);
    return length > strlen(end) && strcmp(t->name + length - strlen(end), end) == 0;
}

/* W (c - mean) / sd + b = (W / sd) c + (b - W mean / sd): the saved flow takes contexts in their own units. */
static void unscale_context(nf_flow *flow, const train_data *d) {
    const size_t c = d->context_dim;
    double *p = allocate(nf_parameter_count(flow), sizeof *p);
    must(nf_get_parameters(flow, p));
    for (size_t i = 0; c > 0 && i + 1 < nf_tensor_count(flow); i++) {
        nf_tensor weight = {.struct_size = sizeof weight}, bias = {.struct_size = sizeof bias};
        must(nf_tensor_info(flow, i, &weight));
        if (!is_first_weight(&weight))
            continue;
        must(nf_tensor_info(flow, i + 1, &bias));
        for (size_t out = 0; out < weight.shape[0]; out++)
            for (size_t k = 0; k < c; k++) {
                double *w = p + weight.offset + out * weight.shape[1] + weight.shape[1] - c + k;
                *w /= d->context_scaling.factor[k];
                p[bias.offset + out] -= *w * d->context_scaling.mean[k];
            }
    }
    must(nf_set_parameters(flow, p));
    free(p);
}

static nf_flow *convert(nf_flow *flow, nf_precision precision) {
    nf_flow *copy;
    if (nf_flow_precision(flow) == precision)
        return flow;
    must(nf_flow_convert(flow, precision, &copy));
    nf_flow_free(flow);
    return copy;
}

nf_flow *train_finish(nf_flow *flow, const train_options *o, const train_data *d) {
    const nf_precision precision = o->precision == PRECISION_SINGLE ? NF_SINGLE : NF_DOUBLE;
    flow = convert(flow, precision);
    unscale_context(flow, d);
    append(flow, convert(whiten_flow(&d->whitening), precision));
    return flow;
}

/* ---- How good it is */

static double *log_prob(const nf_flow *flow, size_t rows, const double *x, const double *context) {
    double *found = allocate(rows, sizeof *found);
    const nf_status status = nf_log_prob(flow, NULL, rows, x, context, found);
    if (status != NF_ERR_ROWS)
        must(status);
    return found;
}

double *train_fitted_log_prob(const nf_flow *flow, const train_data *d) {
    const size_t first = d->held_out > 0 ? d->training : 0;
    double *found = log_prob(flow, d->sample.rows, d->x + first * d->dim, d->context ? d->context + first * d->context_dim : NULL);
    for (size_t r = 0; r < d->sample.rows; r++)
        found[r] -= d->whitening.log_det;
    return found;
}

double *train_saved_log_prob(const nf_flow *flow, const train_data *d) {
    return log_prob(flow, d->sample.rows, d->sample.x, d->sample.context);
}
