#include "cnf_scene.h"

nf_flow *make_cnf(const nf_cnf_config *given) {
    nf_cnf_config config = *given;
    nf_cnf *flow;
    config.struct_size = sizeof config;
    config.dim = config.dim ? config.dim : DIM;
    config.hidden_width = config.hidden_width ? config.hidden_width : 12;
    config.units = 9;
    must(nf_cnf_create(&config, &flow));
    random_source random = random_begin(51);
    randomize(flow, &random, 0.5);
    return flow;
}
