/* nflow import: a flow that was trained with PyTorch, as tools/import/export_torch.py wrote it, becomes a model file. */
#include <math.h>
#include <stdlib.h>

#include "import.h"
#include "model.h"
#include "options.h"
#include "output.h"
#include "tool.h"

int nflow_import(int count, char **words) {
    cnf_options cnf = {.t0 = NAN, .t1 = NAN, .variance = NAN}; /* not given */
    const char *path = NULL;
    bool single = false;
    const option_entry entries[] = {
        {"output", 'o', OPTION_TEXT, &path, "MODEL", "the model file to write"},
        {"single", 0, OPTION_FLAG, &single, NULL, "a model that computes in single precision"},
        {"t0", 0, OPTION_NUMBER, &cnf.t0, "T", "of a CNF: the time of the base; default 0"},
        {"t1", 0, OPTION_NUMBER, &cnf.t1, "T", "of a CNF: the time of the data; default 10"},
        {"base-variance", 0, OPTION_NUMBER, &cnf.variance, "V", "of a CNF: of each coordinate of the base; default 0.1"},
        OPTION_QUIET,
    };
    const option_set set = {"import",
                            "FILE -o MODEL",
                            "A model file of a flow from PyTorch: couplings of nflows (SimpleRealNVP), normflows and zuko (NICE,\n"
                            "RealNVP), planar and radial flows of normflows, and the hypernetwork CNF of torchdiffeq's example.\n"
                            "FILE is what export_torch.py writes; nflow-import(1) says how.",
                            entries,
                            sizeof entries / sizeof entries[0],
                            1,
                            1};
    options_read(&set, count, words);
    if (!path)
        die_usage("where to? give -o MODEL");
    if (cnf.variance == 0.0)
        die_usage("--base-variance is 0");
    if (output_replaces(path, words[1]))
        die("-o %s: the model would take the place of the file that it is made of: give it another name", path);
    archive a;
    draft d;
    size_t size;
    archive_open(&a, words[1]);
    draft_flow(&d, &a, &cnf);
    unsigned char *bytes = draft_write(&d, &size);
    model m = {.path = path};
    if (nf_flow_load_memory(bytes, size, &m.flow) != NF_OK)
        die("%s: %s", words[1], nf_last_error());
    free(bytes);
    if (single) {
        nf_flow *wide = m.flow;
        must(nf_flow_convert(wide, NF_SINGLE, &m.flow));
        nf_flow_free(wide);
    }
    char message[600];
    if (!model_save(&m, path, message, sizeof message))
        die("%s", message);
    note("%s: from %s, %zu dimensions, %zu layers, %zu parameters", path, d.what, nf_flow_dim(m.flow), nf_flow_layer_count(m.flow),
         nf_parameter_count(m.flow));
    nf_flow_free(m.flow);
    archive_close(&a);
    return STATUS_DONE;
}
