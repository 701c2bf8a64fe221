/*
 * What the tests of the bindings do in each language, in C: build, train with progress, sample, save, a target and an equation
 * of one's own, a net beside the flow. Every number is printed by its bits, so that the outputs of all languages are the same
 * text, and the model files the same bytes. usage: scenario MODEL
 */
#include <inttypes.h>
#include <nflow.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ROWS = 400, DRAWS = 100 };

static void must(nf_status status) {
    if (status != NF_OK) {
        fprintf(stderr, "%s: %s\n", nf_status_name(status), nf_last_error());
        exit(1);
    }
}

static void print(const char *name, size_t count, const double *values) {
    for (size_t i = 0; i < count; i++) {
        uint64_t bits;
        memcpy(&bits, &values[i], sizeof bits);
        printf("%s %zu %016" PRIX64 "\n", name, i, bits);
    }
}

static void draw_data(double *x) {
    nf_planar *source;
    nf_rng rng = {5, 6, 0};
    must(nf_planar_create(NF_CONFIG(nf_planar_config, .dim = 2, .layers = 2, .seed = 11), &source));
    must(nf_flow_set_base_normal(source, (double[]){1, -2}, (double[]){2, .5}));
    must(nf_sample(source, NULL, &rng, ROWS, NULL, x, NULL));
    nf_flow_free(source);
}

static int note(void *user, const nf_fit_progress *progress) {
    double *epochs = user;
    *epochs += (double)progress->epoch;
    return 0;
}

static void train(nf_flow *flow, const double *x) {
    double epochs = 0;
    nf_fit_report report = {.struct_size = sizeof report};
    const nf_optimizer_config adam = {.struct_size = sizeof adam, .kind = NF_ADAM, .learning_rate = .01};
    must(nf_fit(flow, ROWS, x, NULL,
                NF_CONFIG(nf_fit_config, .epochs = 5, .batch_size = 50, .threads = 2, .seed = 3, .optimizer = &adam,
                          .progress = note, .progress_user = &epochs),
                &report));
    print("epochs", 1, &epochs);
    print("best", 1, &report.best_loss);
}

static void use(const nf_flow *flow) {
    static double x[DRAWS * 2], z[DRAWS * 2], score[DRAWS * 2], log_prob[DRAWS], log_det[DRAWS];
    nf_rng rng = {1, 2, 0};
    nf_workspace *ws;
    must(nf_workspace_create(flow, 2, &ws));
    must(nf_sample(flow, ws, &rng, DRAWS, NULL, x, log_prob));
    print("x", DRAWS * 2, x);
    print("log_prob", DRAWS, log_prob);
    must(nf_inverse(flow, ws, DRAWS, x, NULL, z, log_det));
    print("z", DRAWS * 2, z);
    print("log_det", DRAWS, log_det);
    must(nf_score(flow, ws, DRAWS, x, NULL, log_prob, score));
    print("score", DRAWS * 2, score);
    nf_workspace_free(ws);
}

/* The standard normal without its constant. */
static nf_status normal(void *user, size_t rows, const double *x, double *log_density, double *grad_x) {
    (void)user;
    for (size_t r = 0; r < rows; r++) {
        log_density[r] = -.5 * (x[2 * r] * x[2 * r] + x[2 * r + 1] * x[2 * r + 1]);
        grad_x[2 * r] = -x[2 * r];
        grad_x[2 * r + 1] = -x[2 * r + 1];
    }
    return NF_OK;
}

static nf_status decay(void *user, size_t count, const size_t *row, const double *t, const double *y, double *dydt) {
    const double *rate = user;
    (void)t;
    for (size_t i = 0; i < count; i++)
        dydt[i] = -rate[row[i]] * y[i];
    return NF_OK;
}

static void approximate(void) {
    nf_radial *flow;
    double parameters[4];
    must(nf_radial_create(NF_CONFIG(nf_radial_config, .dim = 2, .seed = 2), &flow));
    must(nf_fit_reverse_kl(flow, normal, NULL, NF_CONFIG(nf_reverse_kl_config, .steps = 20, .samples = 32, .seed = 9), NULL));
    must(nf_get_parameters(flow, parameters));
    print("reverse_kl", nf_parameter_count(flow), parameters);
    nf_flow_free(flow);
}

static void beside(const double *x) {
    nf_mlp *mlp;
    double y[3 * 4], decays[2] = {1, 1}, rate[2] = {1, 2};
    must(nf_mlp_create(NF_CONFIG(nf_mlp_config, .inputs = 2, .outputs = 3, .hidden_width = 8, .seed = 4), &mlp));
    must(nf_mlp_forward(mlp, NULL, 4, x, y));
    print("mlp", 12, y);
    nf_mlp_free(mlp);
    must(nf_ode_solve(NULL, 2, 1, decay, rate, 0, 1, decays, 0, NULL, NULL, NULL));
    print("ode", 2, decays);
}

int main(int argc, char **argv) {
    static double x[ROWS * 2];
    nf_realnvp *flow, *loaded;
    if (argc != 2)
        return 2;
    draw_data(x);
    must(nf_realnvp_create(NF_CONFIG(nf_realnvp_config, .dim = 2, .couplings = 4, .hidden_width = 16, .seed = 7), &flow));
    train(flow, x);
    must(nf_flow_save(flow, argv[1]));
    must(nf_flow_load(argv[1], &loaded));
    use(loaded);
    approximate();
    beside(x);
    nf_flow_free(flow);
    nf_flow_free(loaded);
    return 0;
}
