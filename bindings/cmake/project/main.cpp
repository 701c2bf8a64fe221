#include <cmath>
#include <nflow.hpp>

int main() {
    const nflow::flow flow(nflow::realnvp_config(2).seed(7));
    const double x[2] = {.5, -.25};
    return !std::isfinite(flow.log_prob(x)[0]);
}
