/*
 * nflow: normalizing flows at a prompt. Each subcommand is a file of its own, written against nflow.h alone.
 *
 *     nflow train data.csv -o model.safetensors && nflow plot model.safetensors data.csv
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tool.h"

typedef struct subcommand {
    const char *name, *about;
    int (*run)(int count, char **words);
} subcommand;

static const subcommand subcommands[] = {
    {"train", "fit a flow to the rows of a table", nflow_train},
    {"sample", "draw new rows", nflow_sample},
    {"logprob", "log density of rows", nflow_logprob},
    {"score", "gradient of the log density", nflow_score},
    {"transform", "rows to the latent space, and back", nflow_transform},
    {"info", "what a model file holds", nflow_info},
    {"diagnose", "check a flow, and check it against data", nflow_diagnose},
    {"plot", "draw a flow and its data, as a file or in the terminal", nflow_plot},
    {"data", "rows of a toy density", nflow_data},
    {"import", "make a model of a flow from PyTorch", nflow_import},
};

enum { SUBCOMMANDS = sizeof subcommands / sizeof subcommands[0] };

static void help(FILE *file) {
    fputs("usage: nflow COMMAND [OPTIONS] FILES\n\nNormalizing flows: densities that can be learned, sampled and evaluated.\n\n", file);
    for (size_t i = 0; i < SUBCOMMANDS; i++)
        fprintf(file, "  %-11s %s\n", subcommands[i].name, subcommands[i].about);
    fputs("\nTables are CSV or NPY files, or '-' for the standard input. To begin:\n\n"
          "  nflow data two_moons -o moons.csv\n"
          "  nflow train moons.csv -o moons.safetensors\n"
          "  nflow plot moons.safetensors moons.csv\n\n"
          "'nflow COMMAND --help' says more about each; so does 'man nflow'.\n",
          file);
}

/* The library takes no notice of a name that it does not know or that the processor lacks; who wants the bits of another machine would. */
static void heed_isa(void) {
    const char *asked = getenv("NFLOW_ISA");
    nf_flow *flow;
    if (!asked || *asked == '\0' || nf_affine_create(1, NF_DOUBLE, &flow) != NF_OK)
        return;
    if (strcmp(asked, nf_flow_isa(flow)) != 0)
        warn("NFLOW_ISA is %s, which is no instruction set of this processor that nflow knows: computing with %s", asked, nf_flow_isa(flow));
    nf_flow_free(flow);
}

int main(int count, char **words) {
    const char *name = count > 1 ? words[1] : "";
    if (count < 2) {
        help(stderr);
        return STATUS_USAGE;
    }
    if (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0 || (strcmp(name, "help") == 0 && count == 2)) {
        help(stdout);
        finish_output();
        return STATUS_DONE;
    }
    if (strcmp(name, "--version") == 0 || strcmp(name, "-V") == 0) {
        printf("nflow %s\n", nf_version());
        finish_output();
        return STATUS_DONE;
    }
    char option[] = "--help", *asked[] = {words[0], count > 2 ? words[2] : NULL, option, NULL};
    if (strcmp(name, "help") == 0) { /* nflow help train */
        words = asked;
        name = words[1];
        count = 3;
    }
    for (size_t i = 0; i < SUBCOMMANDS; i++)
        if (strcmp(name, subcommands[i].name) == 0) {
            tool_command = subcommands[i].name;
            heed_isa();
            return subcommands[i].run(count - 1, words + 1);
        }
    die_usage("%s: there is no such command", name);
}
