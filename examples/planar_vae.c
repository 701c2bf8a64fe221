/*
 * planar_vae - a variational autoencoder with a conditional planar flow in the middle (Rezende & Mohamed 2015, algorithm 1)
 *
 *     cc planar_vae.c arguments.c $(pkg-config --cflags --libs libnflow) -lm -o planar_vae
 *     planar_vae [steps]
 *
 * The images are 12 x 12, black and white, and drawn by the program: a disc, a ring, a square or a cross somewhere. The encoder gives each image a
 * Gaussian over the latent plane and the context of a planar flow, which bends that Gaussian towards the true posterior; the decoder
 * gives the probability of each pixel. Prints the ELBO of held-out images in nats without a flow, with 4 layers and with 16.
 */
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "arguments.h"
#include "nflow.h"

enum { SIDE = 12, PIXELS = SIDE * SIDE, LATENT = 2, CONTEXT = 12, CODE = 2 * LATENT + CONTEXT, BATCH = 128, TRAIN = 4096, TEST = 1024 };

static void require(nf_status status) {
    if (status == NF_OK)
        return;
    fprintf(stderr, "planar_vae: %s\n", nf_last_error());
    exit(1);
}

/* splitmix64 (Steele, Lea & Flood 2014): enough for drawing pictures. */
static uint64_t next_bits(uint64_t *state) {
    uint64_t z = (*state += 0x9E3779B97F4A7C15u);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

static double uniform(uint64_t *state) { return (double)(next_bits(state) >> 11) * 0x1p-53; }

static double normal(uint64_t *state) {
    return sqrt(-2.0 * log(1.0 - uniform(state))) * cos(6.283185307179586 * uniform(state));
}

static int inside(int shape, double x, double y, double size) {
    const double r = sqrt(x * x + y * y);
    switch (shape) {
    case 0:
        return r < size;
    case 1:
        return r < size && r > size - 1.4;
    case 2:
        return fabs(x) < 0.8 * size && fabs(y) < 0.8 * size;
    default:
        return (fabs(x) < 0.8 && fabs(y) < size) || (fabs(y) < 0.8 && fabs(x) < size);
    }
}

static void draw_images(uint64_t seed, size_t count, double *images) {
    uint64_t state = seed;
    for (size_t i = 0; i < count; i++) {
        const int shape = (int)(next_bits(&state) % 4);
        const double size = 2.0 + 1.6 * uniform(&state), cx = 3.0 + 6.0 * uniform(&state), cy = 3.0 + 6.0 * uniform(&state);
        for (int p = 0; p < PIXELS; p++)
            images[i * PIXELS + (size_t)p] = inside(shape, p % SIDE + 0.5 - cx, p / SIDE + 0.5 - cy, size);
    }
}

typedef struct vae {
    nf_mlp *encoder, *decoder;
    nf_planar *flow; /* NULL: none */
    nf_workspace *encoder_ws, *decoder_ws, *flow_ws;
    nf_gradient *encoder_gradient, *decoder_gradient, *flow_gradient;
    nf_optimizer *encoder_optimizer, *decoder_optimizer, *flow_optimizer;
} vae;

static vae make_vae(size_t layers) {
    vae v = {0};
    const nf_optimizer_config adam = {.struct_size = sizeof adam, .learning_rate = 1e-3, .clip_norm = 10.0};
    require(nf_mlp_create(NF_CONFIG(nf_mlp_config, .inputs = PIXELS, .outputs = CODE, .seed = 1, .precision = NF_SINGLE, .hidden_width = 96,
                                    .output_scale = 0.1),
                          &v.encoder));
    require(nf_mlp_create(NF_CONFIG(nf_mlp_config, .inputs = LATENT, .outputs = PIXELS, .seed = 2, .precision = NF_SINGLE, .hidden_width = 96),
                          &v.decoder));
    require(nf_mlp_workspace_create(v.encoder, &v.encoder_ws));
    require(nf_mlp_workspace_create(v.decoder, &v.decoder_ws));
    require(nf_mlp_gradient_create(v.encoder, &v.encoder_gradient));
    require(nf_mlp_gradient_create(v.decoder, &v.decoder_gradient));
    require(nf_mlp_optimizer_create(v.encoder, &adam, &v.encoder_optimizer));
    require(nf_mlp_optimizer_create(v.decoder, &adam, &v.decoder_optimizer));
    if (layers == 0)
        return v;
    require(nf_planar_create(NF_CONFIG(nf_planar_config, .dim = LATENT, .context_dim = CONTEXT, .layers = layers, .seed = 3,
                                       .precision = NF_SINGLE, .hidden_layers = NF_NONE),
                             &v.flow));
    require(nf_workspace_create(v.flow, 1, &v.flow_ws));
    require(nf_gradient_create(v.flow, &v.flow_gradient));
    require(nf_optimizer_create(v.flow, &adam, &v.flow_optimizer));
    return v;
}

static void free_vae(vae *v) {
    nf_optimizer_free(v->flow_optimizer);
    nf_optimizer_free(v->decoder_optimizer);
    nf_optimizer_free(v->encoder_optimizer);
    nf_gradient_free(v->flow_gradient);
    nf_gradient_free(v->decoder_gradient);
    nf_gradient_free(v->encoder_gradient);
    nf_workspace_free(v->flow_ws);
    nf_workspace_free(v->decoder_ws);
    nf_workspace_free(v->encoder_ws);
    nf_flow_free(v->flow);
    nf_mlp_free(v->decoder);
    nf_mlp_free(v->encoder);
}

/* One pass over a batch: its ELBO and, for training, what flows back. */
typedef struct pass {
    double code[BATCH * CODE], noise[BATCH * LATENT], z0[BATCH * LATENT], z[BATCH * LATENT], log_det[BATCH], context[BATCH * CONTEXT];
    double logits[BATCH * PIXELS], grad_logits[BATCH * PIXELS], grad_z[BATCH * LATENT], grad_z0[BATCH * LATENT];
    double grad_log_det[BATCH], grad_context[BATCH * CONTEXT], grad_code[BATCH * CODE];
} pass;

/* z0 = mu + sigma noise, and the context that goes to the flow. */
static double draw_latents(pass *p, uint64_t *state) {
    double entropy = 0; /* sum of -log q0(z0) over the batch */
    for (size_t r = 0; r < BATCH; r++) {
        const double *code = p->code + r * CODE;
        for (size_t i = 0; i < LATENT; i++) {
            const double e = normal(state);
            p->noise[r * LATENT + i] = e;
            p->z0[r * LATENT + i] = code[i] + exp(code[LATENT + i]) * e;
            entropy += code[LATENT + i] + 0.5 * e * e + 0.91893853320467274;
        }
        memcpy(p->context + r * CONTEXT, code + 2 * LATENT, CONTEXT * sizeof(double));
    }
    return entropy;
}

/* log p(x | z) + log p(z), and minus its gradients over the batch's size. */
static double joint(pass *p, const double *images) {
    double sum = 0;
    for (size_t i = 0; i < BATCH * PIXELS; i++) {
        const double l = p->logits[i], x = images[i];
        sum += x * l - (l > 0 ? l + log1p(exp(-l)) : log1p(exp(l)));
        p->grad_logits[i] = (1.0 / (1.0 + exp(-l)) - x) / BATCH;
    }
    for (size_t i = 0; i < BATCH * LATENT; i++)
        sum -= 0.5 * p->z[i] * p->z[i] + 0.91893853320467274;
    return sum;
}

static double elbo_of(vae *v, pass *p, const double *images, uint64_t *state) {
    require(nf_mlp_forward(v->encoder, v->encoder_ws, BATCH, images, p->code));
    double sum = draw_latents(p, state);
    memcpy(p->z, p->z0, sizeof p->z);
    if (v->flow) {
        require(nf_forward(v->flow, v->flow_ws, BATCH, p->z0, p->context, p->z, p->log_det));
        for (size_t r = 0; r < BATCH; r++)
            sum += p->log_det[r];
    }
    require(nf_mlp_forward(v->decoder, v->decoder_ws, BATCH, p->z, p->logits));
    return (sum + joint(p, images)) / BATCH;
}

static void train(vae *v, pass *p, const double *images) {
    nf_gradient_zero(v->encoder_gradient);
    nf_gradient_zero(v->decoder_gradient);
    require(nf_mlp_vjp(v->decoder, v->decoder_ws, BATCH, p->z, p->grad_logits, NULL, p->grad_z, v->decoder_gradient));
    for (size_t i = 0; i < BATCH * LATENT; i++)
        p->grad_z[i] += p->z[i] / BATCH;
    memcpy(p->grad_z0, p->grad_z, sizeof p->grad_z0);
    memset(p->grad_context, 0, sizeof p->grad_context);
    if (v->flow) {
        for (size_t r = 0; r < BATCH; r++)
            p->grad_log_det[r] = -1.0 / BATCH;
        nf_gradient_zero(v->flow_gradient);
        require(nf_forward_vjp(v->flow, v->flow_ws, BATCH, p->z0, p->context, p->grad_z, p->grad_log_det, p->grad_z0, p->grad_context,
                               v->flow_gradient));
        require(nf_optimizer_step(v->flow_optimizer, v->flow, v->flow_gradient));
    }
    for (size_t r = 0; r < BATCH; r++) {
        double *g = p->grad_code + r * CODE;
        for (size_t i = 0; i < LATENT; i++) {
            const double back = p->grad_z0[r * LATENT + i], sigma = exp(p->code[r * CODE + LATENT + i]);
            g[i] = back;
            g[LATENT + i] = back * sigma * p->noise[r * LATENT + i] - 1.0 / BATCH;
        }
        memcpy(g + 2 * LATENT, p->grad_context + r * CONTEXT, CONTEXT * sizeof(double));
    }
    require(nf_mlp_vjp(v->encoder, v->encoder_ws, BATCH, images, p->grad_code, NULL, NULL, v->encoder_gradient));
    require(nf_mlp_step(v->encoder_optimizer, v->encoder, v->encoder_gradient));
    require(nf_mlp_step(v->decoder_optimizer, v->decoder, v->decoder_gradient));
}

static double run(size_t layers, long steps, const double *training, const double *test) {
    static pass p;
    vae v = make_vae(layers);
    uint64_t state = 42;
    for (long s = 0; s < steps; s++) {
        const double *batch = training + (size_t)s % (TRAIN / BATCH) * BATCH * PIXELS;
        elbo_of(&v, &p, batch, &state);
        train(&v, &p, batch);
    }
    double sum = 0;
    const int repeats = 4;
    for (int k = 0; k < repeats; k++)
        for (size_t first = 0; first < TEST; first += BATCH)
            sum += elbo_of(&v, &p, test + first * PIXELS, &state);
    free_vae(&v);
    return sum / repeats / (TEST / BATCH);
}

int main(int count, char **arguments) {
    const long steps = count > 1 ? (long)argument_count("steps", arguments[1], 1, ARGUMENT_MOST) : 6000;
    double *training = malloc(sizeof(double) * TRAIN * PIXELS), *test = malloc(sizeof(double) * TEST * PIXELS);
    if (count > 2 || !training || !test) {
        fprintf(stderr, "usage: planar_vae [steps]\n");
        return 1;
    }
    draw_images(7, TRAIN, training);
    draw_images(8, TEST, test);
    printf("held-out ELBO after %ld steps, nats an image of %d pixels\n", steps, PIXELS);
    const size_t layers[] = {0, 4, 16};
    double elbo[3];
    for (int i = 0; i < 3; i++) {
        elbo[i] = run(layers[i], steps, training, test);
        printf("  %2zu planar layers: %.3f\n", layers[i], elbo[i]);
        fflush(stdout);
    }
    free(test);
    free(training);
    return isfinite(elbo[0]) && isfinite(elbo[1]) && isfinite(elbo[2]) ? 0 : 1;
}
