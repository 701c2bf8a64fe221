/*
 * engine-test: gradients through an integration: of the discrete solution against differences that replay the same accepted steps, and of the adjoint
 * equation against the discrete one as the tolerance falls.
 */
#include "aligned.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/memory.h"
#include "engine/ode/reverse.h"

#define SIZE 2
#define THETA 6
#define LANES PANEL

static const nf_ode_method methods[] = {NF_DOPRI5, NF_TSIT5, NF_DOP853, NF_BOSH3, NF_RK4, NF_MIDPOINT, NF_EULER};
#define METHODS ((int)(sizeof methods / sizeof methods[0]))
#define ADAPTIVE 4

/*
 * y_0' = p0 sin(p1 y_1) + p2 t, y_1' = p3 y_0 y_1 cos(t) - p4 y_1, and beside them q' = p5 y_0^2 y_1. In double whatever the build, so that the replay
 * and the engine differ by rounding alone.
 */
static void field(const double *p, double t, const double *y, double *k, double *q) {
    k[0] = p[0] * sin(p[1] * y[1]) + p[2] * t;
    k[1] = p[3] * y[0] * y[1] * cos(t) - p[4] * y[1];
    *q = p[5] * y[0] * y[0] * y[1];
}

typedef struct system_of {
    double p[THETA], d_p[THETA];
    double d_q[LANES];
    size_t replays; /* calls of `alone` */
} system_of;

static void load(const real *y, size_t l, double *lane) {
    for (size_t c = 0; c < SIZE; c++)
        lane[c] = (double)y[c * PANEL + l];
}

static void rates(const system_of *s, const double *t, const unsigned char *active, const real *y, real *k, real *quadrature) {
    for (size_t l = 0; l < LANES; l++) {
        double lane[SIZE], rate[SIZE], q;
        load(y, l, lane);
        field(s->p, t[l], lane, rate, &q);
        for (size_t c = 0; c < SIZE; c++)
            k[c * PANEL + l] = active[l] ? (real)rate[c] : 0;
        if (quadrature)
            quadrature[l] = active[l] ? (real)q : 0;
    }
}

static void whole(void *user, size_t panel, size_t stage, const double *t, const unsigned char *active, const real *y, real *k) {
    (void)panel;
    (void)stage;
    rates(user, t, active, y, k, k + SIZE * PANEL);
}

static void alone(void *user, size_t panel, size_t stage, const double *t, const unsigned char *active, const real *y, real *k) {
    system_of *s = user;
    (void)panel;
    (void)stage;
    s->replays++;
    rates(s, t, active, y, k, NULL);
}

static void vjp(void *user, size_t panel, size_t stage, const double *t, const unsigned char *active, const real *y, real *dk, const real *weight,
                bool parameters, real *dy) {
    system_of *s = user;
    (void)panel;
    (void)stage;
    for (size_t l = 0; l < LANES; l++) {
        if (!active[l])
            continue;
        const double *p = s->p, a = (double)dk[l], b = (double)dk[PANEL + l], w = (double)weight[l] * s->d_q[l];
        double v[SIZE];
        load(y, l, v);
        const double c = cos(t[l]);
        dy[l] = (real)(b * p[3] * v[1] * c + w * p[5] * 2 * v[0] * v[1]);
        dy[PANEL + l] = (real)(a * p[0] * p[1] * cos(p[1] * v[1]) + b * (p[3] * v[0] * c - p[4]) + w * p[5] * v[0] * v[0]);
        if (!parameters)
            continue;
        s->d_p[0] += a * sin(p[1] * v[1]);
        s->d_p[1] += a * p[0] * v[1] * cos(p[1] * v[1]);
        s->d_p[2] += a * t[l];
        s->d_p[3] += b * v[0] * v[1] * c;
        s->d_p[4] -= b * v[1];
        s->d_p[5] += w * v[0] * v[0] * v[1];
    }
}

typedef struct setting {
    system_of system;
    ode_problem problem;
    ode_trail trail;
    nf_arena arena;
    size_t room; /* for the stages of the trail */
    void *memory, *scratch;
    real *y, *d;
    double start[LANES][SIZE], cotangent[LANES][SIZE];
    unsigned char active[LANES], outcome[LANES];
} setting;

static void put_start(setting *s) {
    for (size_t l = 0; l < LANES; l++) {
        s->active[l] = l != 2; /* one lane without a sample */
        for (size_t c = 0; c < SIZE; c++)
            s->y[c * PANEL + l] = (real)s->start[l][c];
        s->y[SIZE * PANEL + l] = 0;
    }
}

static setting *make(nf_ode_method method, double t0, double t1, double tolerance) {
    const double p[THETA] = {1.135, 0.885, -0.385, 0.7, 0.6, 0.485};
    setting *s = calloc(1, sizeof *s);
    ck_assert_ptr_nonnull(s);
    memcpy(s->system.p, p, sizeof p);
    s->problem = (ode_problem){.tableau = R(ode_tableau_of)(method), .t0 = t0, .t1 = t1, .rtol = tolerance, .atol = tolerance, .max_steps = 100000};
    if (method >= NF_RK4)
        s->problem.steps = 9;
    const size_t room = (size_t)1 << 25;
    s->memory = new_aligned(room, 0);
    nf_arena_init(&s->arena, s->memory, room);
    const size_t reals = R(ode_scratch_size)(1, SIZE + 1) + R(ode_reverse_scratch)(SIZE) + R(ode_adjoint_scratch)(1, SIZE);
    s->scratch = new_aligned(reals * sizeof(real), 0);
    s->y = new_aligned((2 * SIZE + 1) * PANEL * sizeof(real), 0);
    s->d = new_aligned(SIZE * PANEL * sizeof(real), 0);
    for (size_t l = 0; l < LANES; l++) {
        s->system.d_q[l] = l == 2 ? 0 : 0.385 + 0.1 * (double)l;
        for (size_t c = 0; c < SIZE; c++) {
            s->start[l][c] = (double)(real)(0.7 + 0.03 * (double)l - 0.9 * (double)c);
            s->cotangent[l][c] = l == 2 ? 0 : (double)(real)(1.1 - 0.05 * (double)l + 0.4 * (double)c);
        }
    }
    put_start(s);
    return s;
}

static void release(setting *s) {
    free(s->memory);
    free(s->scratch);
    free(s->y);
    free(s->d);
    free(s);
}

static void integrate(setting *s) {
    const ode_field f = {.user = &s->system, .size = SIZE + 1, .controlled = SIZE + 1, .rhs = whole};
    ode_run run = {.panels = 1, .y = s->y, .active = s->active, .outcome = s->outcome, .trails = &s->trail, .scratch = s->scratch};
    R(trail_begin)(&s->trail, &s->arena, SIZE, s->problem.tableau->weighted - 1, s->room);
    put_start(s);
    ck_assert(R(ode_integrate)(&s->problem, &f, &run));
}

/* The loss sum cotangent . y(t1) + d_q q(t1), by the steps that the lanes took, in double. */
static double replay(const setting *s, const double *p, double (*start)[SIZE]) {
    const ode_tableau *tableau = s->problem.tableau;
    double sum = 0;
    for (size_t l = 0; l < LANES; l++) {
        if (l == 2)
            continue;
        double y[SIZE] = {start[l][0], start[l][1]}, total = 0;
        for (size_t i = 0; i < s->trail.count[l]; i++) {
            const trail_step step = R(trail_at)(&s->trail, i);
            double k[ODE_STAGES][SIZE], q[ODE_STAGES];
            for (size_t j = 0; j < tableau->weighted; j++) {
                double at[SIZE] = {y[0], y[1]};
                for (size_t m = 0; m < j; m++)
                    for (size_t c = 0; c < SIZE; c++)
                        at[c] += step.h[l] * tableau->a[j][m] * k[m][c];
                field(p, ode_stage_time(tableau->c[j], step.t[l], step.h[l], step.end[l]), at, k[j], &q[j]);
            }
            for (size_t j = 0; j < tableau->weighted; j++) {
                for (size_t c = 0; c < SIZE; c++)
                    y[c] += step.h[l] * tableau->b[j] * k[j][c];
                total += step.h[l] * tableau->b[j] * q[j];
            }
        }
        sum += s->cotangent[l][0] * y[0] + s->cotangent[l][1] * y[1] + s->system.d_q[l] * total;
    }
    return sum;
}

static void pull(setting *s) {
    const ode_pullback pb = {.user = &s->system, .size = SIZE, .rhs = alone, .vjp = vjp};
    for (size_t l = 0; l < LANES; l++)
        for (size_t c = 0; c < SIZE; c++)
            s->d[c * PANEL + l] = (real)s->cotangent[l][c];
    memset(s->system.d_p, 0, sizeof s->system.d_p);
    R(ode_reverse)(s->problem.tableau, &pb, 0, &s->trail, s->d, s->scratch);
}

static void near(const char *what, double got, double expected, double tolerance) {
    ck_assert_msg(fabs(got - expected) <= tolerance * fmax(1, fabs(expected)), "%s: %.12g, expected %.12g", what, got, expected);
}

START_TEST(discrete_gradients_are_those_of_the_replay) {
    const double tolerance = NF_SINGLE_BUILD ? 2e-4 : 1e-9, h = 1e-4;
    for (int backward = 0; backward < 2; backward++) {
        setting *s = make(methods[_i], backward ? 1.5 : 0.2, backward ? 0.2 : 1.5, 1e-3); /* coarse: the gradient is that of the coarse solution */
        integrate(s);
        pull(s);
        for (size_t i = 0; i < THETA; i++) {
            double p[2][THETA];
            for (int side = 0; side < 2; side++) {
                memcpy(p[side], s->system.p, sizeof p[side]);
                p[side][i] += side ? -h : h;
            }
            near("parameter", s->system.d_p[i], (replay(s, p[0], s->start) - replay(s, p[1], s->start)) / (2 * h), tolerance + h * h * 20);
        }
        for (size_t l = 0; l < LANES; l += 3)
            for (size_t c = 0; c < SIZE; c++) {
                const double keep = s->start[l][c];
                s->start[l][c] = keep + h;
                const double above = replay(s, s->system.p, s->start);
                s->start[l][c] = keep - h;
                const double below = replay(s, s->system.p, s->start);
                s->start[l][c] = keep;
                near("start", (double)s->d[c * PANEL + l], (above - below) / (2 * h), tolerance + h * h * 20);
            }
        release(s);
    }
}
END_TEST

/* With room for none, for some steps and for all. */
START_TEST(stages_that_are_kept_change_no_bit) {
    const ode_tableau *tableau = R(ode_tableau_of)(methods[_i]);
    const size_t steps = 2 * TRAIL_CHUNK + 3, stages = tableau->weighted - 1, chunk = TRAIL_CHUNK * stages * SIZE * PANEL * sizeof(real);
    const size_t rooms[] = {0, chunk, SIZE_MAX};
    const size_t replayed[] = {steps, steps - TRAIL_CHUNK, 0};
    real d[SIZE * PANEL];
    double d_p[THETA];
    for (size_t r = 0; r < 3; r++) {
        setting *s = make(methods[_i], 1.5, 0.2, 1e-3);
        s->problem.steps = steps;
        s->room = rooms[r];
        integrate(s);
        pull(s);
        ck_assert_uint_eq(s->system.replays, replayed[r] * stages);
        if (r == 0) {
            memcpy(d, s->d, sizeof d);
            memcpy(d_p, s->system.d_p, sizeof d_p);
        }
        ck_assert_mem_eq(d, s->d, sizeof d);
        ck_assert_mem_eq(d_p, s->system.d_p, sizeof d_p);
        release(s);
    }
}
END_TEST

static void solve_adjoint(setting *s) {
    const ode_pullback pb = {.user = &s->system, .size = SIZE, .rhs = alone, .vjp = vjp};
    ode_problem back = s->problem;
    back.t0 = s->problem.t1;
    back.t1 = s->problem.t0;
    for (size_t l = 0; l < LANES; l++) {
        s->active[l] = l != 2;
        for (size_t c = 0; c < SIZE; c++)
            s->y[(SIZE + c) * PANEL + l] = (real)s->cotangent[l][c];
    }
    memset(s->system.d_p, 0, sizeof s->system.d_p);
    ode_run run = {.panels = 1, .y = s->y, .active = s->active, .outcome = s->outcome, .scratch = s->scratch};
    R(ode_adjoint)(&back, &pb, &run);
    for (size_t l = 0; l < LANES; l++)
        ck_assert(l == 2 || s->outcome[l] == ODE_ARRIVED);
}

START_TEST(adjoint_gradients_come_near_as_the_tolerance_falls) {
    double last = INFINITY;
    for (double tolerance = NF_SINGLE_BUILD ? 1e-4 : 1e-4; tolerance > (NF_SINGLE_BUILD ? 1e-5 : 1e-11); tolerance /= 100) {
        setting *s = make(methods[_i], 0.2, 1.5, tolerance);
        double d_p[THETA], worst = 0;
        integrate(s);
        pull(s);
        memcpy(d_p, s->system.d_p, sizeof d_p);
        solve_adjoint(s);
        for (size_t i = 0; i < THETA; i++)
            worst = fmax(worst, fabs(d_p[i] - s->system.d_p[i]) / fmax(1, fabs(d_p[i])));
        for (size_t l = 0; l < LANES; l++)
            for (size_t c = 0; c < SIZE; c++) {
                if (l != 2)
                    worst = fmax(worst, fabs((double)s->d[c * PANEL + l] - (double)s->y[(SIZE + c) * PANEL + l]));
                if (l != 2)
                    near("retraced start", (double)s->y[c * PANEL + l], s->start[l][c], 300 * tolerance);
            }
        ck_assert_msg(worst < 500 * tolerance && worst < last, "%s at %g: off by %g", s->problem.tableau->name, tolerance, worst);
        last = worst;
        release(s);
    }
}
END_TEST

int main(void) {
    Suite *suite = suite_create("reverse");
    TCase *c = tcase_create("reverse");
    tcase_set_timeout(c, 60);
    tcase_add_loop_test(c, discrete_gradients_are_those_of_the_replay, 0, METHODS);
    tcase_add_loop_test(c, stages_that_are_kept_change_no_bit, 0, METHODS);
    tcase_add_loop_test(c, adjoint_gradients_come_near_as_the_tolerance_falls, 0, ADAPTIVE);
    suite_add_tcase(suite, c);
    return run_suite(suite);
}
