/*
 * The scenario of bindings/tests/scenario.c.
 * usage: scenario MODEL
 */
#include <cinttypes>
#include <cstdio>
#include <cstring>
#include <nflow.hpp>

static void print(const char *name, nflow::numbers values) {
    for (std::size_t i = 0; i < values.size(); i++) {
        std::uint64_t bits;
        std::memcpy(&bits, &values[i], sizeof bits);
        std::printf("%s %zu %016" PRIX64 "\n", name, i, bits);
    }
}

static std::vector<double> draw_data() {
    nflow::flow source(nflow::planar_config(2).layers(2).seed(11));
    source.set_base_normal(std::vector<double>{1, -2}, std::vector<double>{2, .5});
    nf_rng rng{5, 6, 0};
    return source.sample(rng, 400).x;
}

static nflow::flow train(const std::vector<double> &x) {
    nflow::flow flow(nflow::realnvp_config(2).couplings(4).hidden_width(16).seed(7));
    double epochs = 0;
    const nf_fit_report report = flow.fit(x, nflow::fit_config()
                                                 .epochs(5)
                                                 .batch_size(50)
                                                 .threads(2)
                                                 .seed(3)
                                                 .optimizer(nflow::optimizer_config().kind(NF_ADAM).learning_rate(.01))
                                                 .progress([&](const nf_fit_progress &p) {
                                                     epochs += static_cast<double>(p.epoch);
                                                     return true;
                                                 }));
    print("epochs", {&epochs, 1});
    print("best", {&report.best_loss, 1});
    return flow;
}

static void use(const nflow::flow &flow) {
    nflow::workspace ws(flow, 2);
    nf_rng rng{1, 2, 0};
    const nflow::draws draws = flow.sample(rng, 100, {}, &ws);
    print("x", draws.x);
    print("log_prob", draws.log_prob);
    const nflow::mapped inverse = flow.inverse(draws.x, {}, &ws);
    print("z", inverse.values);
    print("log_det", inverse.log_det);
    print("score", flow.score(draws.x, {}, &ws).score);
}

static void normal(nflow::numbers x, nflow::results log_density, nflow::results grad_x) {
    for (std::size_t r = 0; r < log_density.size(); r++)
        log_density[r] = -.5 * (x[2 * r] * x[2 * r] + x[2 * r + 1] * x[2 * r + 1]);
    for (std::size_t i = 0; i < x.size(); i++)
        grad_x[i] = -x[i];
}

static void approximate() {
    nflow::flow q(nflow::radial_config(2).seed(2));
    q.fit_reverse_kl(normal, nflow::reverse_kl_config().steps(20).samples(32).seed(9));
    print("reverse_kl", q.parameters());
}

static void beside(const std::vector<double> &x) {
    print("mlp", nflow::mlp(nflow::mlp_config(2, 3).hidden_width(8).seed(4)).forward({x.data(), 8}));
    const double rate[] = {1, 2};
    std::vector<double> y{1, 1};
    nflow::ode_solve(
        [&](nflow::view<const std::size_t> row, nflow::numbers, nflow::numbers state, nflow::results dydt) {
            for (std::size_t i = 0; i < row.size(); i++)
                dydt[i] = -rate[row[i]] * state[i];
        },
        1, 0, 1, y);
    print("ode", y);
}

int main(int argc, char **argv) {
    if (argc != 2)
        return 2;
    const std::vector<double> x = draw_data();
    train(x).save(argv[1]);
    use(nflow::flow::load(argv[1]));
    approximate();
    beside(x);
}
