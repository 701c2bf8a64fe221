/*
 * What is C++'s own in nflow.hpp: ownership, exceptions and their passage through C, sizes of views, builders.
 * usage: test_nflow
 */
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <nflow.hpp>

#define MUST(condition) must((condition), #condition, __LINE__)

static void must(bool holds, const char *condition, int line) {
    if (!holds) {
        std::fprintf(stderr, "test_nflow.cpp:%d: %s\n", line, condition);
        std::exit(1);
    }
}

/* The status of what a call throws, and whether the message has the words. */
template <class Call> static nf_status thrown_by(Call &&call, const char *words) {
    try {
        call();
    } catch (const nflow::error &error) {
        if (std::string(error.what()).find(words) == std::string::npos)
            std::fprintf(stderr, "\"%s\" is not in \"%s\"\n", words, error.what());
        MUST(std::string(error.what()).find(words) != std::string::npos);
        return error.status();
    }
    return NF_OK;
}

static_assert(!std::is_copy_constructible_v<nflow::flow> && std::is_nothrow_move_constructible_v<nflow::flow>);
static_assert(!std::is_copy_constructible_v<nflow::workspace> && std::is_nothrow_move_constructible_v<nflow::workspace>);
static_assert(!std::is_copy_constructible_v<nflow::gradient> && std::is_nothrow_move_constructible_v<nflow::gradient>);
static_assert(!std::is_copy_constructible_v<nflow::optimizer> && std::is_nothrow_move_constructible_v<nflow::optimizer>);
static_assert(!std::is_copy_constructible_v<nflow::mlp> && std::is_nothrow_move_constructible_v<nflow::mlp>);
static_assert(!std::is_constructible_v<nflow::results, const std::vector<double> &>, "a const vector takes no results");
static_assert(!std::is_constructible_v<nflow::numbers, std::nullptr_t, std::size_t>, "{0, 0} is no view");

static void ownership() {
    nflow::flow a(nflow::planar_config(2).seed(1));
    nf_flow *const handle = a.get();
    nflow::flow b(std::move(a));
    MUST(!a.get() && b.get() == handle && a.dim() == 0);
    const std::array<std::size_t, 2> swap{1, 0};
    b.append(nflow::flow::permutation(swap)).invert();
    MUST(b.layer_count() == 2);
    nflow::flow other(nflow::planar_config(3));
    MUST(thrown_by([&] { b.append(std::move(other)); }, "dim") == NF_ERR_MISMATCH);
    MUST(other.get() && other.dim() == 3);
    nf_flow_free(other.release());
    nflow::flow taken(b.clone().release());
    MUST(taken.parameters() == b.parameters());
}

/* A call that may do without a workspace or gradient does not take one that was moved from for none. */
static void moved_from() {
    const nflow::flow flow(nflow::planar_config(2).seed(1));
    const nflow::mlp net(nflow::mlp_config(2, 2).hidden_width(4));
    nflow::workspace ws(flow), net_ws(net);
    nflow::gradient gradient(flow), net_gradient(net);
    const double x[] = {.5, -.25};
    double grad_x[2];
    const auto attempt_all = [&] {
        const char *const no_workspace = "the workspace was moved from", *const no_gradient = "the gradient was moved from";
        nf_status refused[] = {thrown_by([&] { flow.log_prob(x, {}, &ws); }, no_workspace),
                               thrown_by([&] { flow.forward(x, {}, &ws); }, no_workspace),
                               thrown_by([&] { flow.forward_vjp(x, {}, x, {}, grad_x, {}, &gradient); }, no_gradient),
                               thrown_by([&] { net.forward(x, &net_ws); }, no_workspace),
                               thrown_by([&] { net.vjp(x, x, grad_x, nullptr, &net_ws); }, no_workspace),
                               thrown_by([&] { net.vjp(x, x, grad_x, &net_gradient); }, no_gradient)};
        int count = 0;
        for (const nf_status status : refused)
            count += status == NF_ERR_ARGUMENT;
        return count;
    };
    MUST(attempt_all() == 0);
    const nflow::workspace ws_now(std::move(ws)), net_ws_now(std::move(net_ws));
    const nflow::gradient gradient_now(std::move(gradient)), net_gradient_now(std::move(net_gradient));
    MUST(attempt_all() == 6);
}

static void statuses() {
    MUST(thrown_by([] { nflow::flow(nflow::realnvp_config(0)); }, "dim") == NF_ERR_ARGUMENT);
    MUST(thrown_by([] { nflow::flow::load("/nonexistent/model"); }, "/nonexistent/model") == NF_ERR_IO);
    MUST(thrown_by([] { nflow::flow::load("nothing", 7); }, "") == NF_ERR_FORMAT);
    MUST(thrown_by([] { nflow::flow(nflow::cnf_config(2).activation(NF_RELU)); }, "relu") == NF_ERR_ARGUMENT);
}

/* What is 0 is the default, and does: false is no 0. */
static void words() {
    const auto set = nflow::fit_config().noise(false).contamination(false).ema_decay(false).validation_fraction(false).training_tolerance(false);
    MUST(set.get()->noise < 0 && set.get()->contamination < 0 && set.get()->ema_decay < 0 && set.get()->validation_fraction < 0);
    MUST(set.get()->training_tolerance < 0 && nflow::fit_config().noise(true).get()->noise == 0);
    MUST(nflow::fit_config().noise(1).get()->noise == 1 && nflow::fit_config().noise(-1).get()->noise == -1);
    MUST(nflow::fit_config().patience(false).get()->patience == NF_NONE && nflow::fit_config().patience(true).get()->patience == 0);
    MUST(nflow::fit_config().patience(3).get()->patience == 3);
    MUST(nflow::reverse_kl_config().ema_decay(false).evaluation_samples(false).get()->evaluation_samples == NF_NONE);
    MUST(nflow::realnvp_config(2).hidden_layers(false).get()->hidden_layers == NF_NONE);
    MUST(nflow::mlp_config(2, 1).hidden_layers(false).get()->hidden_layers == NF_NONE);
    MUST(nflow::fit_config().standardize(false).get()->standardize == -1 && nflow::fit_config().standardize(true).get()->standardize == 0);
    const auto layers = [](auto actnorm) { return nflow::flow(nflow::realnvp_config(2).couplings(2).actnorm(actnorm)).layer_count(); };
    MUST(layers(false) == 2 && layers(0) == 3 && layers(true) == 4 && layers(1) == 4);
    MUST(nflow::fit_config().standardize(0).get()->standardize == 0 && nflow::fit_config().standardize(-1).get()->standardize == -1);
    MUST(nflow::fit_config().standardize(0L).get()->standardize == 0 && nflow::fit_config().standardize(-1L).get()->standardize == -1);
}

/* A path ends at its first null character in C: another file than the one that was named. An empty one is not the wish for no file. */
static void paths() {
    const std::string path("/nonexistent/a\0b", 16);
    const double x[] = {.5, -.25, 1.5, .75};
    nflow::flow flow(nflow::planar_config(2));
    MUST(thrown_by([&] { flow.save(path); }, "null character") == NF_ERR_ARGUMENT);
    MUST(thrown_by([&] { nflow::flow::load(path); }, "null character") == NF_ERR_ARGUMENT);
    MUST(thrown_by([&] { flow.fit(x, nflow::fit_config().checkpoint(path)); }, "null character") == NF_ERR_ARGUMENT);
    MUST(thrown_by([&] { flow.fit(x, nflow::fit_config().checkpoint("")); }, "an empty path") == NF_ERR_ARGUMENT);
}

static void sizes() {
    const nflow::flow flow(nflow::realnvp_config(2).context_dim(1).couplings(2).hidden_layers(NF_NONE));
    const double x[] = {.5, -.25, 1.5, .75}, context[] = {.25, -1};
    double three[3];
    MUST(flow.log_prob(x, context).size() == 2);
    MUST(thrown_by([&] { flow.log_prob({x, 3}, context); }, "x has 3 numbers, no multiple of 2") == NF_ERR_ARGUMENT);
    MUST(thrown_by([&] { flow.log_prob(x); }, "context has 0 numbers, expected 2") == NF_ERR_ARGUMENT);
    MUST(thrown_by([&] { flow.log_prob(x, context, three); }, "log_prob has 3 numbers, expected 2") == NF_ERR_ARGUMENT);
    MUST(thrown_by([&] { flow.forward(x, context, three); }, "x has 3 numbers, expected 4") == NF_ERR_ARGUMENT);
    nflow::flow plain(nflow::planar_config(2));
    MUST(thrown_by([&] { plain.fit(x, nflow::fit_config().validation({}, {}, context)); }, "weight has 2 numbers, expected 0") == NF_ERR_ARGUMENT);
    double log_det[2];
    flow.inverse(x, context, {}, log_det);
    MUST(flow.inverse(x, context).log_det[1] == log_det[1]);
}

static void no_parameters() {
    nflow::flow flow = nflow::flow::permutation(std::array<std::size_t, 2>{1, 0});
    nflow::gradient gradient(flow);
    MUST(flow.parameters().empty() && gradient.values().empty());
    flow.set_parameters({});
    gradient.set_values({});
    const nflow::flow moved = std::move(flow);
    MUST(thrown_by([&] { flow.parameters(); }, "flow is NULL") == NF_ERR_ARGUMENT);
}

static void bad_rows() {
    const nflow::flow flow(nflow::planar_config(2).layers(3).seed(4));
    const double x[] = {.5, .25, std::nan(""), 1, -1, 2};
    double log_prob[3];
    MUST(thrown_by([&] { flow.log_prob(x, {}, log_prob); }, "x[1][0] is nan") == NF_ERR_ROWS);
    MUST(std::isnan(log_prob[1]) && log_prob[2] == flow.log_prob({x + 4, 2})[0] && log_prob[0] == flow.log_prob({x, 2})[0]);
}

/* The gradient of the good rows is summed, and their loss is there. */
static void losses_beside_bad_rows() {
    const nflow::flow flow(nflow::cnf_config(2).hidden_width(8).seed(4));
    const double x[] = {.5, .25, std::nan(""), 1, -1, 2}, good[] = {.5, .25, -1, 2};
    nflow::gradient gradient(flow), expected(flow);
    double loss = 0;
    MUST(thrown_by([&] { flow.grad_nll(x, gradient, {}, {}, loss); }, "x[1][0] is nan") == NF_ERR_ROWS);
    MUST(loss == flow.grad_nll(good, expected));
    for (std::size_t i = 0; i < flow.parameter_count(); i++)
        MUST(std::fabs(gradient.values()[i] - expected.values()[i]) < 1e-12);
    nf_rng rng{7, 0, 0}, again = rng;
    const auto spoiling = [](nflow::numbers, nflow::results log_density, nflow::results grad_x) {
        std::fill(log_density.begin(), log_density.end(), 0);
        std::fill(grad_x.begin(), grad_x.end(), 0);
        log_density[1] = std::nan("");
    };
    loss = 0;
    MUST(thrown_by([&] { flow.grad_reverse_kl(rng, 3, spoiling, gradient, {}, loss); }, "grad_reverse_kl") == NF_ERR_ROWS);
    MUST(loss != 0 && std::isfinite(loss) && rng.position == 3);
    loss = 0;
    MUST(thrown_by([&] { flow.grad_flow_matching(again, x, gradient, NF_PAIRING_INDEPENDENT, {}, {}, loss); }, "nan") == NF_ERR_ROWS);
    MUST(loss > 0 && std::isfinite(loss));
}

struct refusal {};

/* Memory that the library holds: an exception may not pass through it. */
static int held = 0;
static const nf_allocator counting{[](void *, std::size_t size) { return held++, std::malloc(size); },
                                   [](void *, void *pointer) { held--, std::free(pointer); }, nullptr};

static void callbacks() {
    nflow::flow flow(nflow::planar_config(2).layers(2).seed(1));
    nf_rng rng{3, 0, 0};
    std::vector<double> x = flow.sample(rng, 100).x;
    const auto caught = [](auto &&call) {
        try {
            call();
        } catch (const refusal &) {
            return true;
        }
        return false;
    };
    MUST(flow.fit(x, nflow::fit_config().epochs(9).progress([](const nf_fit_progress &p) { return p.epoch < 3; })).epochs_run ==
         3);
    MUST(caught([&] {
        flow.fit(x, nflow::fit_config().epochs(9).progress([](const nf_fit_progress &) -> bool { throw refusal(); }));
    }));
    const std::vector<double> before = flow.parameters();
    const auto refuse = [](nflow::numbers, nflow::results, nflow::results) { throw refusal(); };
    nflow::gradient gradient(flow);
    MUST(caught([&] { flow.fit_reverse_kl(refuse); }));
    MUST(caught([&] { flow.grad_reverse_kl(rng, 10, refuse, gradient); }));
    MUST(caught([&] { flow.diagnose_with(refuse); }));
    MUST(flow.parameters() == before);
    nflow::flow twin = flow.clone();
    const auto reader = [](void *user, std::size_t count, const std::size_t *row, double *to, double *) {
        const auto &from = *static_cast<const std::vector<double> *>(user);
        for (std::size_t i = 0; i < count; i++)
            for (std::size_t j = 0; j < 2; j++)
                to[2 * i + j] = from[2 * row[i] + j];
        return NF_OK;
    };
    flow.fit(x, nflow::fit_config().epochs(2));
    twin.fit({}, nflow::fit_config().epochs(2).read(100, reader, &x));
    MUST(flow.parameters() == twin.parameters() && flow.parameters() != before);
    const auto throwing = [](void *, std::size_t, const std::size_t *, double *, double *) -> nf_status { throw refusal(); };
    MUST(caught([&] { twin.fit({}, nflow::fit_config().allocator(&counting).read(100, throwing, nullptr)); }));
    MUST(held == 0);
    const auto failing = [](void *, std::size_t, const std::size_t *, double *, double *) { return NF_ERR_IO; };
    MUST(thrown_by([&] { twin.fit({}, nflow::fit_config().read(100, failing, nullptr)); }, "config->read") == NF_ERR_IO);
    MUST(flow.parameters() == twin.parameters());
    int reads = 0; /* the rows of a fit are counted, then learned from; what another flow made of them may be bad */
    const auto late = [](void *user, std::size_t count, const std::size_t *, double *to, double *) {
        std::fill_n(to, 2 * count, .5);
        return ++*static_cast<int *>(user) < 5 ? NF_OK : NF_ERR_ROWS;
    };
    MUST(thrown_by([&] { twin.fit({}, nflow::fit_config().read(200, late, &reads)); }, "config->read returned") == NF_ERR_ROWS);
    MUST(thrown_by([&] { twin.fit({}, x, nflow::fit_config().epochs(1).read(100, reader, &x)); }, "context beside read") == NF_ERR_ARGUMENT);
    MUST(thrown_by([&] { twin.fit(x, nflow::fit_config().epochs(1).read(100, reader, &x)); }, "config->read") == NF_ERR_ARGUMENT);
    x[1] = std::nan("");
    MUST(flow.fit(x, nflow::fit_config().epochs(1)).bad_rows == 1);
    x.assign(x.size(), std::nan(""));
    MUST(thrown_by([&] { flow.fit(x, nflow::fit_config().epochs(1)); }, "100 of 100 rows are not finite") == NF_ERR_ROWS);
}

/* The report of a fit that failed comes with what it throws. */
static void reports_of_failures() {
    nflow::flow flow(nflow::planar_config(2).layers(2).seed(1));
    nf_rng rng{3, 0, 0};
    const std::vector<double> x = flow.sample(rng, 100).x;
    int steps = 0;
    try {
        const auto failing = [&](nflow::numbers, nflow::results log_density, nflow::results grad_x) {
            std::fill(log_density.begin(), log_density.end(), steps++ < 3 ? 0 : std::nan(""));
            std::fill(grad_x.begin(), grad_x.end(), 0);
        };
        flow.fit_reverse_kl(failing, nflow::reverse_kl_config().samples(8)); /* which are one call */
        MUST(false);
    } catch (const nflow::reverse_kl_error &error) {
        MUST(error.status() == NF_ERR_DIVERGED && error.report().steps == 3 && error.report().stop_reason == NF_STOP_DIVERGED);
        MUST(std::string(error.what()).find("step 4") != std::string::npos);
    }
    try {
        flow.fit(x, nflow::fit_config().optimizer(nflow::optimizer_config().kind(NF_SGD).learning_rate(1e300)));
        MUST(false);
    } catch (const nflow::fit_error &error) {
        MUST(error.status() == NF_ERR_DIVERGED && error.report().stop_reason == NF_STOP_DIVERGED && std::isfinite(error.report().seconds));
    }
    MUST(thrown_by([&] { flow.fit(x, nflow::fit_config().noise(INFINITY)); }, "noise is inf") == NF_ERR_ARGUMENT);
}

/* Steps of one's own, for a flow and for a net; the gradients are those of the vjps. */
static void training_by_hand() {
    nflow::flow flow(nflow::realnvp_config(2).couplings(2).hidden_width(8).seed(3));
    nflow::workspace ws(flow);
    nflow::gradient gradient(flow), again(flow);
    nflow::optimizer optimizer(flow, nflow::optimizer_config().learning_rate(1e-2));
    nf_rng rng{7, 0, 0};
    std::vector<double> x = nflow::flow::identity(2).sample(rng, 64).x;
    for (double &number : x)
        number *= 3;
    const double first = flow.grad_nll(x, gradient, {}, {}, &ws);
    std::vector<double> z = flow.inverse(x).values, grad_log_det(64, -1. / 64), grad_x(x.size());
    for (double &number : z)
        number /= 64;
    flow.inverse_vjp(x, {}, z, grad_log_det, grad_x, {}, &again);
    for (std::size_t i = 0; i < flow.parameter_count(); i++)
        MUST(std::fabs(gradient.values()[i] - again.values()[i]) < 1e-10);
    for (int step = 0; step < 30; step++) {
        gradient.zero();
        flow.grad_nll(x, gradient, {}, {}, &ws);
        optimizer.step(flow, gradient);
    }
    MUST(flow.grad_nll(x, gradient) < first);
    nflow::mlp net(nflow::mlp_config(2, 1).hidden_width(4).seed(2));
    nflow::gradient by(net);
    nflow::optimizer descent(net);
    net.vjp(x, grad_log_det, grad_x, &by);
    descent.step(net, by);
    MUST(net.parameters().size() == net.parameter_count() && std::isfinite(net.forward(x)[0]));
}

static void continuous() {
    nflow::flow flow(nflow::cnf_config(2).hidden_width(8).seed(2));
    const double z[] = {.5, -.25}, t[] = {0, .5, 1};
    const std::vector<double> path = flow.trajectory(z, t), end = flow.forward(z).values;
    MUST(path.size() == 6 && path[4] == end[0] && path[5] == end[1]);
    const double with_bad[] = {.5, -.25, std::nan(""), 0};
    double paths[12];
    MUST(thrown_by([&] { flow.trajectory(with_bad, t, {}, paths); }, "z[1][0] is nan") == NF_ERR_ROWS);
    for (std::size_t i = 0; i < 3; i++)
        MUST(paths[4 * i] == path[2 * i] && paths[4 * i + 1] == path[2 * i + 1] && std::isnan(paths[4 * i + 2]));
    MUST(thrown_by([&] { flow.trajectory(z, t, {}, paths); }, "path has 12 numbers, expected 6") == NF_ERR_ARGUMENT);
    std::vector<double> y{1}, along(1);
    const double half[] = {.5};
    const nf_stats stats = nflow::ode_solve(
        [](nflow::view<const std::size_t>, nflow::numbers, nflow::numbers state, nflow::results dydt) { dydt[0] = -state[0]; },
        1, 0, 1, y, nflow::ode_config().rtol(1e-10), half, along);
    MUST(std::fabs(y[0] - std::exp(-1.)) < 1e-8 && std::fabs(along[0] - std::exp(-.5)) < 1e-6 && stats.steps_accepted > 0);
}

static void files_and_tensors() {
    nflow::flow flow(nflow::radial_config(3).layers(2).seed(5));
    const std::vector<unsigned char> bytes = flow.save();
    MUST(nflow::flow::load(bytes.data(), bytes.size()).parameters() == flow.parameters());
    std::size_t count = 0;
    for (const nflow::tensor &tensor : flow.tensors())
        count += tensor.size;
    MUST(count == flow.parameter_count() && flow.tensors()[0].name == "layers.0.center");
    const nf_diagnose_report report = flow.diagnose({}, {}, nflow::diagnose_config().samples(500));
    MUST(report.log_det.verdict == NF_PASSED && nflow::diagnosis_text(report).find("round trip") != std::string::npos);
}

int main() {
    ownership();
    moved_from();
    statuses();
    words();
    paths();
    sizes();
    no_parameters();
    bad_rows();
    losses_beside_bad_rows();
    callbacks();
    reports_of_failures();
    training_by_hand();
    continuous();
    files_and_tensors();
    std::printf("test_nflow.cpp: passed with libnflow %s\n", nflow::version());
}
