/* The flows that the conformance suite loops over: one or more for each kind of layer, in the JSON of model files. */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "support.h"

#define COUPLING(identity, transformed, hidden, activation, scale)                                                                     \
    "{\"type\":\"coupling\",\"identity\":[" identity "],\"transformed\":[" transformed "],\"hidden\":[" hidden "],\"activation\":\"" activation   \
    "\"," scale "}"
#define EXP_SCALE "\"scale\":\"exp\""
#define SIGMOID_SCALE(floor) "\"scale\":\"sigmoid\",\"floor\":" floor
#define SOFTCLIP_SCALE "\"scale\":\"softclip\",\"clamp\":6.907755278982137"
#define TANH_SCALE "\"scale\":\"tanh\",\"clamp\":1.385"

/* A round trip divides by the scale what was rounded beside the shift: sigmoid scales come near their floor, and lose two to three digits. */
const fixture fixtures[] = {
    {"coupling exp gelu d2", "coupling", 2, 0, "[" COUPLING("0", "1", "5,4", "gelu", EXP_SCALE) "]", 0.5, 1e-13, 1e-3},
    {"coupling tanh-scale silu d3", "coupling", 3, 0, "[" COUPLING("2,0", "1", "6", "silu", TANH_SCALE) "]", 0.7, 1e-13, 1e-3},
    {"coupling odd lists tanh d5", "coupling", 5, 0, "[" COUPLING("4,1", "3,0,2", "7,3,5", "tanh", TANH_SCALE) "]", 0.7, 1e-13, 1e-3},
    {"coupling relu d4", "coupling", 4, 0, "[" COUPLING("3,0", "2,1", "9", "relu", TANH_SCALE) "]", 0.7, 1e-13, 1e-6},
    {"coupling without hidden layer d3", "coupling", 3, 0, "[" COUPLING("1", "2,0", "", "gelu", EXP_SCALE) "]", 0.5, 1e-13, 1e-3},
    {"coupling softplus with context d3", "coupling", 3, 2, "[" COUPLING("1", "0,2", "5", "softplus", TANH_SCALE) "]", 0.6, 1e-13, 1e-3},
    {"coupling of the context alone d1", "coupling", 1, 3, "[" COUPLING("", "0", "4", "gelu", EXP_SCALE) "]", 0.5, 1e-13, 1e-3},
    {"coupling transforming all d2", "coupling", 2, 0, "[" COUPLING("", "1,0", "3", "tanh", EXP_SCALE) "]", 0.5, 1e-13, 1e-3},
    {"coupling wide d33", "coupling", 33, 0,
     "[" COUPLING("0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16", "17,18,19,20,21,22,23,24,25,26,27,28,29,30,31,32", "37", "gelu", TANH_SCALE) "]", 0.2,
     1e-13, 1e-3},
    {"coupling with weights worth packing d3", "coupling", 3, 1, "[" COUPLING("1", "2,0", "67,65", "gelu", TANH_SCALE) "]", 0.2, 1e-13, 1e-3},
    {"coupling of two layers of 32 d2", "coupling", 2, 0, "[" COUPLING("1", "0", "32,32", "gelu", TANH_SCALE) "]", 0.2, 1e-13, 1e-3},
    {"coupling of layers of 12 and 8 with context d4", "coupling", 4, 2, "[" COUPLING("1", "3,0,2", "12,8", "gelu", EXP_SCALE) "]", 0.3, 1e-13, 1e-3},
    {"coupling of a layer of 20, hardly clamped d3", "coupling", 3, 0, "[" COUPLING("2,0", "1", "20", "gelu", "\"scale\":\"tanh\",\"clamp\":150.0") "]", 0.3, 1e-13,
     1e-3},
    {"coupling sigmoid scale relu d4", "coupling", 4, 0, "[" COUPLING("0,2", "3,1", "6", "relu", SIGMOID_SCALE("0.001")) "]", 0.7, 1e-12, 1e-6},
    {"coupling sigmoid scale without floor d3", "coupling", 3, 1, "[" COUPLING("1", "2,0", "5", "gelu", SIGMOID_SCALE("0.0")) "]", 0.7, 1e-12, 1e-3},
    {"coupling softclip scale d3", "coupling", 3, 0, "[" COUPLING("2", "0,1", "5,4", "silu", SOFTCLIP_SCALE) "]", 0.7, 1e-13, 1e-3},
    {"coupling inverse sigmoid scale d2", "coupling", 2, 0, "[" COUPLING("1", "0", "5", "tanh", "\"scale\":\"inverse_sigmoid\"") "]", 0.7, 1e-13, 1e-3},
    {"permutation d5", "permutation", 5, 0, "[{\"type\":\"permutation\",\"permutation\":[3,0,4,1,2]}]", 1, 1e-13, 1e-3},
    {"permutation d1", "permutation", 1, 0, "[{\"type\":\"permutation\",\"permutation\":[0]}]", 1, 1e-13, 1e-3},
    {"affine d4", "actnorm", 4, 0, "[{\"type\":\"actnorm\"}]", 0.6, 1e-13, 1e-3},
    {"affine d1", "actnorm", 1, 0, "[{\"type\":\"actnorm\"}]", 0.6, 1e-13, 1e-3},
    {"planar d1", "planar", 1, 0, "[{\"type\":\"planar\"}]", 0.9, 1e-11, 1e-3},
    {"planar d5, three layers", "planar", 5, 0, "[{\"type\":\"planar\"},{\"type\":\"planar\"},{\"type\":\"planar\"}]", 0.8, 1e-10, 1e-3},
    {"planar with context d3", "planar", 3, 2, "[{\"type\":\"planar\",\"context\":2,\"hidden\":[5],\"activation\":\"tanh\"}]", 0.5, 1e-11, 1e-3},
    {"radial d1", "radial", 1, 0, "[{\"type\":\"radial\"}]", 0.8, 1e-12, 1e-4},
    {"radial d4, two layers", "radial", 4, 0, "[{\"type\":\"radial\"},{\"type\":\"radial\"}]", 0.8, 1e-12, 1e-4},
    {"radial with context d2", "radial", 2, 3, "[{\"type\":\"radial\",\"context\":3,\"hidden\":[4],\"activation\":\"silu\"}]", 0.5, 1e-12, 1e-4},
    {"cnf mlp d2", "cnf", 2, 0,
     "[{\"type\":\"cnf\",\"dynamics\":\"mlp\",\"hidden\":[6],\"activation\":\"tanh\",\"t0\":0.0,\"t1\":1.0,\"rtol\":1e-12,\"atol\":1e-12}]", 0.5, 1e-9, 1e-3},
    {"cnf mlp with context d3", "cnf", 3, 2,
     "[{\"type\":\"cnf\",\"dynamics\":\"mlp\",\"hidden\":[5,4],\"activation\":\"softplus\",\"t0\":0.25,\"t1\":1.0,\"rtol\":1e-12,\"atol\":1e-12}]", 0.5, 1e-9,
     1e-3},
    {"cnf hyper d2", "cnf", 2, 0,
     "[{\"type\":\"cnf\",\"dynamics\":\"hyper\",\"hidden\":4,\"width\":5,\"t0\":0.0,\"t1\":1.0,\"rtol\":1e-12,\"atol\":1e-12}]", 0.5, 1e-9, 1e-3},
    {"stack of everything in a Real NVP d3", "", 3, 2,
     "[{\"type\":\"actnorm\"}," COUPLING("0,2", "1", "5", "gelu", EXP_SCALE) ",{\"type\":\"permutation\",\"permutation\":[2,0,1]}," COUPLING(
         "1", "0,2", "4", "silu", TANH_SCALE) ",{\"type\":\"actnorm\",\"inverted\":true}]",
     0.4, 1e-12, 1e-3},
    {"stack of finite flows d2", "", 2, 0,
     "[{\"type\":\"planar\"}," COUPLING("0", "1", "5", "tanh", TANH_SCALE) ",{\"type\":\"radial\"},{\"type\":\"planar\",\"inverted\":true},"
                                                                               "{\"type\":\"actnorm\"}]",
     0.5, 1e-10, 1e-4},
    {"no layers d3", "", 3, 0, "[]", 1, 1e-13, 1e-3},
};

const size_t fixture_count = sizeof fixtures / sizeof fixtures[0];

/* ---- files with all parameters zero ---- */

typedef struct file_draft {
    char *header; /* the tensors' part of the JSON */
    size_t length, data;
} file_draft;

static void add_tensor(file_draft *draft, size_t layer, const char *name, size_t rank, size_t rows, size_t columns) {
    const size_t room = 256, size = rows * columns * sizeof(double);
    char shape[64];
    snprintf(shape, sizeof shape, rank == 2 ? "%zu,%zu" : "%zu", rows, columns);
    draft->header = realloc(draft->header, draft->length + room);
    ck_assert_ptr_nonnull(draft->header);
    draft->length += (size_t)snprintf(draft->header + draft->length, room, ",\"layers.%zu.%s\":{\"dtype\":\"F64\",\"shape\":[%s],\"data_offsets\":[%zu,%zu]}",
                                      layer, name, shape, draft->data, draft->data + size);
    draft->data += size;
}

static void add_net(file_draft *draft, size_t layer, size_t inputs, const json_t *hidden, size_t outputs) {
    const size_t count = json_is_integer(hidden) ? 2 : json_array_size(hidden);
    for (size_t j = 0; j <= count; j++) {
        const json_t *width = json_is_integer(hidden) ? hidden : json_array_get(hidden, j);
        const size_t rows = j == count ? outputs : (size_t)json_integer_value(width);
        char name[64];
        snprintf(name, sizeof name, "net.%zu.weight", j);
        add_tensor(draft, layer, name, 2, rows, inputs);
        snprintf(name, sizeof name, "net.%zu.bias", j);
        add_tensor(draft, layer, name, 1, rows, 1);
        inputs = rows;
    }
}

static void add_layer(file_draft *draft, size_t i, const json_t *layer, size_t dim, size_t context_dim) {
    const char *type = json_string_value(json_object_get(layer, "type"));
    const json_t *own = json_object_get(layer, "context"), *hidden = json_object_get(layer, "hidden");
    const bool follows = strcmp(type, "coupling") == 0 || strcmp(type, "cnf") == 0;
    const size_t context = own ? (size_t)json_integer_value(own) : follows ? context_dim : 0;
    if (strcmp(type, "coupling") == 0) {
        add_net(draft, i, json_array_size(json_object_get(layer, "identity")) + context, hidden,
                2 * json_array_size(json_object_get(layer, "transformed")));
    } else if (strcmp(type, "actnorm") == 0) {
        add_tensor(draft, i, "log_scale", 1, dim, 1);
        add_tensor(draft, i, "shift", 1, dim, 1);
    } else if (strcmp(type, "planar") == 0 && context) {
        add_net(draft, i, context, hidden, 2 * dim + 1);
    } else if (strcmp(type, "planar") == 0) {
        add_tensor(draft, i, "u", 1, dim, 1);
        add_tensor(draft, i, "w", 1, dim, 1);
        add_tensor(draft, i, "b", 1, 1, 1);
    } else if (strcmp(type, "radial") == 0 && context) {
        add_net(draft, i, context, hidden, dim + 2);
    } else if (strcmp(type, "radial") == 0) {
        add_tensor(draft, i, "center", 1, dim, 1);
        add_tensor(draft, i, "alpha", 1, 1, 1);
        add_tensor(draft, i, "beta", 1, 1, 1);
    } else if (strcmp(type, "cnf") == 0) {
        const size_t width = (size_t)json_integer_value(json_object_get(layer, "width"));
        add_net(draft, i, width ? 1 : dim + 1 + context, hidden, width ? 3 * width * dim + width : dim);
    } else {
        ck_assert_msg(strcmp(type, "permutation") == 0, "the fixtures know no layers of type %s", type);
    }
}

/* The JSON of the flow, as the string that it is in the metadata: quotes escaped. */
static char *metadata_of(const char *layers, size_t dim, size_t context_dim) {
    char *flow = new_bytes(strlen(layers) + 256);
    sprintf(flow, "{\"dim\":%zu,\"context\":%zu,\"base\":{\"type\":\"normal\",\"scale\":1.0},\"layers\":%s}", dim, context_dim, layers);
    json_t *metadata = json_pack("{s:s,s:s,s:s}", "format", "nflow", "version", "1", "flow", flow);
    ck_assert_ptr_nonnull(metadata);
    char *text = json_dumps(metadata, JSON_COMPACT);
    ck_assert_ptr_nonnull(text);
    json_decref(metadata);
    free(flow);
    return text;
}

nf_status load_layers(const char *layers, size_t dim, size_t context_dim, const nf_allocator *allocator, nf_flow **flow) {
    json_t *list = json_loads(layers, 0, NULL);
    ck_assert_msg(list != NULL, "%s is no JSON", layers);
    file_draft draft = {new_bytes(1), 0, 0};
    for (size_t i = 0; i < json_array_size(list); i++)
        add_layer(&draft, i, json_array_get(list, i), dim, context_dim);
    json_decref(list);
    char *metadata = metadata_of(layers, dim, context_dim);
    const size_t text = strlen(metadata) + draft.length + 32;
    unsigned char *bytes = new_bytes(8 + text + draft.data);
    const size_t header = (size_t)sprintf((char *)bytes + 8, "{\"__metadata__\":%s%.*s}", metadata, (int)draft.length, draft.header);
    bytes[8 + header] = 0;
    for (int i = 0; i < 8; i++)
        bytes[i] = (unsigned char)((uint64_t)header >> (8 * i));
    const nf_status status = nf_flow_load_memory_with(bytes, 8 + header + draft.data, flow, allocator);
    free(bytes);
    free(metadata);
    free(draft.header);
    return status;
}

nf_flow *make_fixture(const fixture *f, bool inverted, nf_precision precision, uint64_t stream) {
    nf_flow *flow;
    must(load_layers(f->layers, f->dim, f->context_dim, NULL, &flow));
    random_source random = random_begin(stream);
    randomize(flow, &random, f->sd);
    double *mean = new_normals(&random, f->dim, 0.385), *sd = new_numbers(f->dim);
    for (size_t i = 0; i < f->dim; i++)
        sd[i] = random_uniform(&random, 0.785, 1.385);
    must(nf_flow_set_base_normal(flow, mean, sd));
    free(mean);
    free(sd);
    if (inverted)
        must(nf_flow_invert(flow));
    if (precision == NF_DOUBLE)
        return flow;
    nf_flow *converted;
    must(nf_flow_convert(flow, precision, &converted));
    nf_flow_free(flow);
    return converted;
}

void open_subject(subject *s, int i, nf_precision precision, size_t threads) {
    const fixture *f = &fixtures[i / 2];
    memset(s, 0, sizeof *s);
    s->f = f;
    s->flow = make_fixture(f, i % 2 == 1, precision, (uint64_t)i / 2);
    must(nf_workspace_create(s->flow, threads, &s->ws));
    must(nf_gradient_create(s->flow, &s->gradient));
    s->dim = f->dim;
    s->context_dim = f->context_dim;
    s->count = nf_parameter_count(s->flow);
    s->random = random_begin(1000 + (uint64_t)i);
}

void close_subject(subject *s) {
    nf_gradient_free(s->gradient);
    nf_workspace_free(s->ws);
    nf_flow_free(s->flow);
}

double *new_context(subject *s, size_t rows) { return s->context_dim ? new_normals(&s->random, rows * s->context_dim, 0.785) : NULL; }
