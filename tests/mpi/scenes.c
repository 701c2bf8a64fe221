/*
 * Scenes of libnflow_mpi for check-mpi.sh: each process says what came out, and a scene ends with status 0 when it was as it should. A scene whose result
 * must be the same for any number of processes prints it once, as a line that the script compares.
 *
 *     mpirun -n 3 scenes bits
 */
#define _POSIX_C_SOURCE 200809L
#include <math.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <nflow_mpi.h>

enum { ROWS = 5000, DIM = 3, BATCH = 900, STEPS = 200 };

static int rank, size;
static int failures;

static void expect(bool good, const char *what) {
    if (good)
        return;
    failures++;
    fprintf(stderr, "rank %d of %d: %s (nf_last_error: %s; nf_mpi_last_error: %s)\n", rank, size, what, nf_last_error(), nf_mpi_last_error());
}
#define EXPECT(condition) expect((condition), #condition)

static uint64_t digest(const void *bytes, size_t count) {
    const unsigned char *from = bytes;
    uint64_t sum = UINT64_C(14695981039346656037);
    for (size_t i = 0; i < count; i++)
        sum = (sum ^ from[i]) * UINT64_C(1099511628211);
    return sum;
}

/* A word that all processes must have alike. */
static void same_everywhere(const char *what, uint64_t word) {
    uint64_t low, high;
    MPI_Allreduce(&word, &low, 1, MPI_UINT64_T, MPI_MIN, MPI_COMM_WORLD);
    MPI_Allreduce(&word, &high, 1, MPI_UINT64_T, MPI_MAX, MPI_COMM_WORLD);
    expect(low == high, what);
    if (rank == 0)
        printf("%s %016llx\n", what, (unsigned long long)word);
}

static nf_mpi *make(void) {
    nf_mpi *mpi = NULL;
    EXPECT(nf_mpi_create(MPI_COMM_WORLD, &mpi) == NF_OK);
    return mpi;
}

static nf_flow *make_flow(nf_precision precision) {
    nf_flow *flow = NULL;
    EXPECT(nf_realnvp_create(NF_CONFIG(nf_realnvp_config, .dim = DIM, .couplings = 3, .hidden_width = 16, .seed = 5, .precision = precision), &flow) == NF_OK);
    return flow;
}

/* Rows of all processes; this one has a part, of sizes that differ, the first none. */
static double *make_rows(size_t *first, size_t *count) {
    double *x = malloc(ROWS * DIM * sizeof *x);
    nf_flow *base = NULL;
    EXPECT(nf_flow_create(DIM, 0, NF_DOUBLE, &base) == NF_OK && nf_sample(base, NULL, &(nf_rng){.seed = 3}, ROWS, NULL, x, NULL) == NF_OK);
    nf_flow_free(base);
    for (size_t i = 0; i < ROWS; i++)
        x[i * DIM + 1] += x[i * DIM] * x[i * DIM];
    const size_t parts = (size_t)(size * (size - 1) / 2), before = (size_t)(rank * (rank - 1) / 2);
    *first = parts ? ROWS * before / parts : 0;
    *count = parts ? ROWS * (before + (size_t)rank) / parts - *first : ROWS;
    return x;
}

static nf_fit_config fit_config(const nf_comm *comm) {
    return (nf_fit_config){.struct_size = sizeof(nf_fit_config),
                           .epochs = STEPS / ((ROWS - ROWS / 10 + BATCH - 1) / BATCH),
                           .batch_size = BATCH,
                           .seed = 11,
                           .threads = 1 + (size_t)rank % 2,
                           .comm = comm};
}

static uint64_t parameters_of(const nf_flow *flow) {
    const size_t count = nf_parameter_count(flow);
    double *parameters = malloc(count * sizeof *parameters);
    EXPECT(nf_get_parameters(flow, parameters) == NF_OK);
    const uint64_t word = digest(parameters, count * sizeof *parameters);
    free(parameters);
    return word;
}

/* ---- scenes */

static void bits(void) {
    nf_mpi *mpi = make();
    size_t first, count;
    double *x = make_rows(&first, &count);
    for (int precision = 0; precision < 2; precision++) {
        nf_flow *flow = make_flow((nf_precision)precision);
        nf_fit_config config = fit_config(nf_mpi_comm(mpi));
        nf_fit_report report = {.struct_size = sizeof report};
        if (precision == NF_SINGLE)
            config.epochs /= 5;
        EXPECT(nf_fit(flow, count, x + first * DIM, NULL, &config, &report) == NF_OK);
        EXPECT(report.steps == (precision == NF_SINGLE ? STEPS / 5 : STEPS));
        same_everywhere(precision ? "fit in single" : "fit in double", parameters_of(flow));
        same_everywhere("losses", digest(&report.train_loss, 3 * sizeof(double)));
        nf_flow_free(flow);
    }
    free(x);
    nf_mpi_free(mpi);
}

/* 16 shards, which 8 slots do not hold: the tree of nodes over processes. */
static void shards(void) {
    nf_mpi *mpi = make();
    size_t first, count;
    double *x = make_rows(&first, &count);
    nf_flow *flow = make_flow(NF_SINGLE);
    nf_mpi_comm(mpi)->shards = 16;
    nf_fit_config config = fit_config(nf_mpi_comm(mpi));
    config.batch_size = 2000; /* 16 tiles */
    config.epochs = 5;
    EXPECT(nf_fit(flow, count, x + first * DIM, NULL, &config, NULL) == NF_OK);
    same_everywhere("fit in 16 shards", parameters_of(flow));
    nf_flow_free(flow);
    free(x);
    nf_mpi_free(mpi);
}

static nf_status target(void *user, size_t rows, const double *x, double *log_density, double *grad_x) {
    if (user && --*(int *)user == 0)
        return (nf_status)-99;
    for (size_t r = 0; r < rows; r++) {
        log_density[r] = 0;
        for (size_t i = 0; i < DIM; i++) {
            const double e = x[r * DIM + i] - 1;
            log_density[r] -= e * e;
            grad_x[r * DIM + i] = -2 * e;
        }
    }
    return NF_OK;
}

static void reverse_kl(void) {
    nf_mpi *mpi = make();
    nf_flow *flow = make_flow(NF_DOUBLE);
    nf_reverse_kl_report report = {.struct_size = sizeof report};
    EXPECT(nf_fit_reverse_kl(flow, target, NULL, NF_CONFIG(nf_reverse_kl_config, .steps = 20, .samples = 700, .seed = 2, .comm = nf_mpi_comm(mpi)), &report) == NF_OK);
    same_everywhere("reverse KL", parameters_of(flow));
    same_everywhere("elbo", digest(&report.elbo, sizeof report.elbo));
    nf_flow_free(flow);
    nf_mpi_free(mpi);
}

static void matching(void) {
    nf_mpi *mpi = make();
    size_t first, count;
    double *x = make_rows(&first, &count);
    nf_flow *flow = NULL;
    EXPECT(nf_cnf_create(NF_CONFIG(nf_cnf_config, .dim = DIM, .hidden_width = 16, .seed = 5, .precision = NF_SINGLE), &flow) == NF_OK);
    nf_fit_config config = fit_config(nf_mpi_comm(mpi));
    config.objective = NF_OBJECTIVE_FLOW_MATCHING;
    config.pairing = NF_PAIRING_OPTIMAL;
    config.epochs = 3;
    config.validation_fraction = .3;
    EXPECT(nf_fit(flow, count, x + first * DIM, NULL, &config, NULL) == NF_OK);
    same_everywhere("flow matching", parameters_of(flow));
    nf_flow_free(flow);
    free(x);
    nf_mpi_free(mpi);
}

/* Results of all rows in the order of the ranks, at rank 0. */
static void gather_rows(const double *own, size_t count, size_t columns, double *all) {
    int counts[64], begins[64], mine = (int)(count * columns);
    MPI_Gather(&mine, 1, MPI_INT, counts, 1, MPI_INT, 0, MPI_COMM_WORLD);
    for (int q = 0; rank == 0 && q < size; q++)
        begins[q] = q ? begins[q - 1] + counts[q - 1] : 0;
    MPI_Gatherv(own, mine, MPI_DOUBLE, all, counts, begins, MPI_DOUBLE, 0, MPI_COMM_WORLD);
}

static void bulk(void) {
    nf_mpi *mpi = make();
    size_t first, count;
    double *x = make_rows(&first, &count), *log_prob = malloc(ROWS * sizeof *log_prob), *all = malloc(ROWS * DIM * sizeof *all);
    double *samples = malloc(ROWS * DIM * sizeof *samples), *wanted = malloc(ROWS * DIM * sizeof *wanted), *density = malloc(ROWS * sizeof *density);
    nf_flow *flow = make_flow(NF_DOUBLE);
    nf_rng rng = {1, 2, 40}, alone = rng;
    EXPECT(nf_mpi_log_prob(mpi, flow, NULL, count, x + first * DIM, NULL, log_prob) == NF_OK);
    gather_rows(log_prob, count, 1, all);
    EXPECT(nf_log_prob(flow, NULL, ROWS, x, NULL, wanted) == NF_OK);
    EXPECT(rank != 0 || memcmp(all, wanted, ROWS * sizeof *all) == 0);
    EXPECT(nf_mpi_sample(mpi, flow, NULL, &rng, count, NULL, samples, log_prob) == NF_OK);
    EXPECT(nf_sample(flow, NULL, &alone, ROWS, NULL, wanted, density) == NF_OK);
    EXPECT(rng.position == alone.position);
    gather_rows(samples, count, DIM, all);
    EXPECT(rank != 0 || memcmp(all, wanted, ROWS * DIM * sizeof *all) == 0);
    gather_rows(log_prob, count, 1, all);
    EXPECT(rank != 0 || memcmp(all, density, ROWS * sizeof *all) == 0);
    /* bad rows of one process, and a generator that is not that of the others */
    if (count > 0)
        x[first * DIM] = NAN;
    EXPECT(nf_mpi_log_prob(mpi, flow, NULL, count, x + first * DIM, NULL, log_prob) == NF_ERR_ROWS);
    EXPECT(count < 2 || (isnan(log_prob[0]) && isfinite(log_prob[1])));
    rng.seed += (uint64_t)rank;
    EXPECT(size == 1 || nf_mpi_sample(mpi, flow, NULL, &rng, count, NULL, samples, NULL) == NF_ERR_MISMATCH);
    EXPECT(nf_mpi_sample(mpi, flow, NULL, rank == size - 1 ? NULL : &alone, 1, NULL, samples, NULL) == NF_ERR_ARGUMENT);
    char words[64];
    snprintf(words, sizeof words, "rng is NULL (rank %d of %d)", size - 1, size);
    EXPECT(strstr(nf_mpi_last_error(), words));
    nf_flow_free(flow);
    free(density), free(wanted), free(samples), free(all), free(log_prob), free(x);
    nf_mpi_free(mpi);
}

/* More rows than a process works on at once, all of them on the last. */
static void bulk_rounds(void) {
    enum { MANY = 200000 };
    nf_mpi *mpi = make();
    nf_flow *flow = NULL;
    EXPECT(nf_affine_create(1, NF_DOUBLE, &flow) == NF_OK);
    const size_t count = rank == size - 1 ? MANY : 0;
    double *x = malloc(MANY * sizeof *x), *log_prob = malloc(MANY * sizeof *log_prob), *wanted = malloc(MANY * sizeof *wanted);
    nf_rng rng = {1, 2, 0}, alone = rng;
    EXPECT(nf_mpi_sample(mpi, flow, NULL, &rng, count, NULL, x, log_prob) == NF_OK);
    EXPECT(nf_sample(flow, NULL, &alone, MANY, NULL, wanted, NULL) == NF_OK);
    EXPECT(memcmp(x, wanted, count * sizeof *x) == 0);
    EXPECT(nf_log_prob(flow, NULL, MANY, wanted, NULL, x) == NF_OK);
    EXPECT(nf_mpi_log_prob(mpi, flow, NULL, count, wanted, NULL, log_prob) == NF_OK);
    EXPECT(memcmp(log_prob, x, count * sizeof *x) == 0);
    wanted[3] = wanted[70000] = NAN; /* in two rounds of rank 0: it tells of the first */
    EXPECT(nf_mpi_log_prob(mpi, flow, NULL, count, wanted, NULL, log_prob) == NF_ERR_ROWS);
    EXPECT(strstr(nf_mpi_last_error(), "rows from number 0 on"));
    EXPECT(count == 0 || (isnan(log_prob[3]) && isnan(log_prob[70000]) && isfinite(log_prob[4])));
    free(wanted), free(log_prob), free(x);
    nf_flow_free(flow);
    nf_mpi_free(mpi);
}

static int stop_at_third(void *user, const nf_fit_progress *p) {
    (void)user;
    return rank == size - 1 && p->epoch == 3;
}

/* `stop`: up to the third epoch; `resume`: to the end, with the bits of the scene `bits`. */
static void checkpoint(const char *path, bool stop) {
    nf_mpi *mpi = make();
    size_t first, count;
    double *x = make_rows(&first, &count);
    nf_flow *flow = make_flow(NF_DOUBLE);
    nf_fit_config config = fit_config(nf_mpi_comm(mpi));
    config.checkpoint = path;
    config.progress = stop ? stop_at_third : NULL;
    EXPECT(nf_fit(flow, count, x + first * DIM, NULL, &config, NULL) == (stop ? NF_STOPPED : NF_OK));
    if (!stop)
        same_everywhere("fit in double", parameters_of(flow));
    nf_flow_free(flow);
    free(x);
    nf_mpi_free(mpi);
}

/* Failures of the last rank; all get its status and line. */
static void failing(void) {
    nf_mpi *mpi = make();
    size_t first, count;
    double *x = make_rows(&first, &count);
    nf_flow *flow = make_flow(NF_DOUBLE);
    const uint64_t before = parameters_of(flow);
    nf_fit_config config = fit_config(nf_mpi_comm(mpi));
    if (rank == size - 1)
        config.noise = NAN;
    EXPECT(nf_fit(flow, count, x + first * DIM, NULL, &config, NULL) == NF_ERR_ARGUMENT && strstr(nf_last_error(), "noise is nan"));
    config.noise = 0;
    config.seed += rank == size - 1;
    EXPECT(nf_fit(flow, count, x + first * DIM, NULL, &config, NULL) == (size > 1 ? NF_ERR_MISMATCH : NF_OK));
    EXPECT(size == 1 || parameters_of(flow) == before);
    int calls = rank == size - 1 ? 3 : 1000000;
    EXPECT(nf_fit_reverse_kl(flow, target, &calls, NF_CONFIG(nf_reverse_kl_config, .steps = 50, .samples = 2000, .comm = nf_mpi_comm(mpi)), NULL) == (nf_status)-99);
    nf_flow_free(flow);
    free(x);
    nf_mpi_free(mpi);
}

/* The last rank computes with another instruction set. */
static void isa(void) {
    nf_mpi *mpi = make();
    size_t first, count;
    double *x = make_rows(&first, &count);
    if (rank == size - 1)
        setenv("NFLOW_ISA", "base", 1);
    nf_flow *flow = make_flow(NF_DOUBLE);
    int base = strcmp(nf_flow_isa(flow), "base") == 0, all;
    MPI_Allreduce(&base, &all, 1, MPI_INT, MPI_MIN, MPI_COMM_WORLD);
    const nf_fit_config config = fit_config(nf_mpi_comm(mpi));
    const nf_status status = nf_fit(flow, count, x + first * DIM, NULL, &config, NULL);
    EXPECT(status == (all ? NF_OK : NF_ERR_MISMATCH) && (all || strstr(nf_last_error(), "set NFLOW_ISA")));
    nf_flow_free(flow);
    free(x);
    nf_mpi_free(mpi);
}

static void fast(void) {
    nf_mpi *mpi = make();
    size_t first, count;
    double *x = make_rows(&first, &count), *fixed = NULL, *got = NULL;
    for (int mode = 0; mode < 2; mode++) {
        nf_flow *flow = make_flow(NF_DOUBLE);
        nf_mpi_comm(mpi)->fast = mode;
        nf_fit_config config = fit_config(nf_mpi_comm(mpi));
        config.epochs = 2;
        EXPECT(nf_fit(flow, count, x + first * DIM, NULL, &config, NULL) == NF_OK);
        double *to = malloc(nf_parameter_count(flow) * sizeof *to);
        EXPECT(nf_get_parameters(flow, to) == NF_OK);
        *(mode ? &got : &fixed) = to;
        double worst = 0;
        for (size_t i = 0; mode && i < nf_parameter_count(flow); i++)
            worst = fmax(worst, fabs(got[i] - fixed[i]));
        EXPECT(worst < 1e-9);
        nf_flow_free(flow);
    }
    free(got), free(fixed), free(x);
    nf_mpi_free(mpi);
}

/* Communicators: what is refused; a part of the world; Fortran's handle; messages of the caller's own on the communicator that was given. */
static void communicators(void) {
    nf_mpi *mpi = (nf_mpi *)&failures, *half = NULL, *fortran = NULL;
    EXPECT(nf_mpi_create(MPI_COMM_NULL, &mpi) == NF_ERR_ARGUMENT && !mpi && strstr(nf_mpi_last_error(), "MPI_COMM_NULL"));
    EXPECT(nf_mpi_create(MPI_COMM_WORLD, NULL) == NF_ERR_ARGUMENT);
    EXPECT(nf_mpi_comm(NULL) == NULL);
    nf_mpi_free(NULL);
    MPI_Comm part;
    MPI_Comm_split(MPI_COMM_WORLD, rank % 2, rank, &part);
    EXPECT(nf_mpi_create(part, &half) == NF_OK);
    EXPECT(nf_mpi_create_f(MPI_Comm_c2f(MPI_COMM_WORLD), &fortran) == NF_OK);
    MPI_Comm_free(&part); /* the duplicate lives on */
    double mine = rank, theirs = -1;
    MPI_Request request;
    MPI_Irecv(&theirs, 1, MPI_DOUBLE, (rank + 1) % size, MPI_ANY_TAG, MPI_COMM_WORLD, &request);
    size_t first, count;
    double *x = make_rows(&first, &count);
    for (int i = 0; i < 2; i++) {
        nf_flow *flow = make_flow(NF_DOUBLE);
        nf_fit_config config = fit_config(nf_mpi_comm(i ? fortran : half));
        config.epochs = 1;
        EXPECT(nf_fit(flow, ROWS, x, NULL, &config, NULL) == NF_OK);
        nf_flow_free(flow);
    }
    MPI_Send(&mine, 1, MPI_DOUBLE, (rank + size - 1) % size, 7, MPI_COMM_WORLD);
    MPI_Wait(&request, MPI_STATUS_IGNORE);
    EXPECT(theirs == (rank + 1) % size);
    free(x);
    nf_mpi_free(half);
    nf_mpi_free(fortran);
}

static int die(void *user, const nf_fit_progress *p) {
    (void)user;
    if (rank == size - 1 && p->epoch == 2)
        raise(SIGKILL);
    return 0;
}

/* The last process is killed in the midst of a fit: what then happens is MPI's matter. */
static void killed(void) {
    nf_mpi *mpi = make();
    size_t first, count;
    double *x = make_rows(&first, &count);
    nf_flow *flow = make_flow(NF_DOUBLE);
    nf_fit_config config = fit_config(nf_mpi_comm(mpi));
    config.progress = die;
    const nf_status status = nf_fit(flow, count, x + first * DIM, NULL, &config, NULL);
    printf("rank %d goes on after the death of another: %s, %s\n", rank, nf_status_name(status), nf_last_error());
    fflush(stdout);
    _exit(3);
}

int main(int argc, char **argv) {
    const char *name = argc > 1 ? argv[1] : "";
    nf_mpi *early = NULL;
    EXPECT(nf_mpi_create(MPI_COMM_WORLD, &early) == NF_ERR_ARGUMENT); /* before MPI_Init */
    int provided;
    MPI_Init_thread(&argc, &argv, MPI_THREAD_FUNNELED, &provided);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    static const struct {
        const char *name;
        void (*play)(void);
    } scenes[] = {{"bits", bits},     {"shards", shards},           {"reverse_kl", reverse_kl}, {"matching", matching},
                  {"bulk", bulk},     {"bulk_rounds", bulk_rounds}, {"failing", failing},       {"isa", isa},
                  {"fast", fast},     {"communicators", communicators}, {"killed", killed}};
    bool known = false;
    for (int i = 1; i < argc; i++)
        for (size_t s = 0; s < sizeof scenes / sizeof *scenes; s++)
            if (strcmp(argv[i], scenes[s].name) == 0) {
                known = true;
                scenes[s].play();
            }
    if (argc == 3 && (strcmp(name, "stop") == 0 || strcmp(name, "resume") == 0)) {
        checkpoint(argv[2], strcmp(name, "stop") == 0);
        known = true;
    }
    expect(known, "no such scene");
    int all;
    MPI_Allreduce(&failures, &all, 1, MPI_INT, MPI_SUM, MPI_COMM_WORLD);
    MPI_Finalize();
    EXPECT(nf_mpi_create(MPI_COMM_WORLD, &early) == NF_ERR_ARGUMENT); /* after it */
    return all || failures ? EXIT_FAILURE : EXIT_SUCCESS;
}
