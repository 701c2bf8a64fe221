/*
 * nflow.h - normalizing flows in C
 *
 * A normalizing flow is a density that can be sampled and evaluated exactly: base samples z ~ q0 go through invertible layers,
 * x = f_K(... f_1(z)), and log q(x) = log q0(z) - sum_k log|det df_k/dz| (Rezende & Mohamed 2015; Dinh et al. 2017).
 * This header declares flows of planar, radial, coupling (Real NVP), elementwise affine, permutation and continuous (CNF) layers,
 * stacks of them, their gradients, and their training.
 *
 * CONVENTIONS
 *
 * Direction.  "forward" goes from base to data, and its log_det is log|det dx/dz|. "inverse" goes from data to base, and its
 *     log_det is that of the inverse map, log|det dz/dx|. log_prob(x) = log q0(z) + log_det of the inverse.
 * Arrays.  Row-major double, rows x dim, contiguous; log_det and log_prob have `rows` entries. `context` is rows x context_dim, and
 *     NULL exactly when the flow's context_dim is 0. An output pointer may be NULL when the result is not wanted. An input and an output
 *     of one shape may be the same array; any other overlap is an error of the caller. Log densities are in nats.
 * Precision.  The boundary is double. Inside, a flow computes in NF_DOUBLE or NF_SINGLE; log_det and densities are summed in double in both.
 * Errors.  A function that can fail returns nf_status; nf_last_error() then gives one line that names the function, the argument and the value,
 *     in UTF-8, with the numbers of the "C" locale (a control character, or a byte that is none of it, of a path or of a name in a file is a question mark).
 *     After any failure but NF_ERR_ROWS, NF_ERR_DIVERGED and NF_STOPPED, no handle is made (the pointer is NULL), and parameters, gradients,
 *     optimizers and generators are as before; output arrays are unspecified once the arguments were accepted.
 *     The library never prints, exits or aborts, and does not touch signal handlers, locale, or settings of a BLAS or OpenMP of its host.
 * Bad rows.  A row that is not finite, that a layer cannot map, or of which a result that was asked for is beyond the numbers gets NaN in all of its
 *     own outputs. All other rows are right, with the bits that they would have alone; the call returns NF_ERR_ROWS and says how many and which first.
 *     In a gradient call such rows add nothing, and the loss is the mean over the good rows (NaN when there is none). A row of which only the part of the parameters'
 *     gradient is beyond the numbers is such a row too, wherever that gradient is asked for. A sum of the parts of good rows may still be beyond them, in single
 *     precision above all: the call does not tell, but a step along it is NF_ERR_DIVERGED, and fits end so.
 * Threads.  A const nf_flow may be used by any number of threads at once, each with a workspace of its own. A workspace, gradient or optimizer
 *     belongs to one thread at a time. Functions that take a flow without const need it to themselves. After a fork the child may use what was made before it
 *     and was in no call of another thread; its calls with a workspace from before run on the caller's thread alone, with the same bits.
 * Determinism.  Same inputs, seed, library build and instruction set: the same bits, whatever the number of threads and, per row, whatever
 *     other rows are in the call.
 * Memory.  A call with a workspace allocates nothing, but that the checkpoints of a CNF grow its arena until it has seen its longest solve. With ws
 *     NULL a call makes a workspace of one thread for itself and frees it.
 * Floating-point mode.  Each call computes in the default environment (round to nearest, no traps, denormals kept) on all its threads and restores
 *     the caller's, flags and errno included. User callbacks run in the caller's.
 * Structs.  The first member of config, report, stats and progress structs is struct_size = sizeof of the struct. Config structs are zero-initialised, and
 *     zero means the default; where zero itself is sensible, NF_NONE or any negative double asks for it. A struct_size below the first version's is
 *     NF_ERR_ARGUMENT; bytes beyond what the library knows must be zero, or it is NF_ERR_UNSUPPORTED. Into structs that it fills the library writes no
 *     further than struct_size.
 * Structure.  A workspace, gradient or optimizer belongs to the structure of the flow that it was made from. Parameters may change, and a clone
 *     shares the structure; nf_flow_append and nf_flow_invert change it, and older objects then answer NF_ERR_MISMATCH.
 *
 * The header compiles as C99, C11 and C++17. MIT licence.
 */
#ifndef NFLOW_H
#define NFLOW_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* The version of this header; nf_version gives that of the library. */
#define NFLOW_VERSION_MAJOR 0
#define NFLOW_VERSION_MINOR 1
#define NFLOW_VERSION_PATCH 0

/* Marks what the library exports. */
#if defined(__GNUC__) && !defined(_WIN32)
#define NF_API __attribute__((visibility("default")))
#else
#define NF_API
#endif

/* "None" for sizes whose zero means the default: no hidden layer, no patience. */
#define NF_NONE ((size_t)-1)

#ifndef __cplusplus
/* A pointer to a config struct with struct_size set: nf_realnvp_create(NF_CONFIG(nf_realnvp_config, .dim = 2), &flow). */
#define NF_CONFIG(type, ...) (&(type){.struct_size = sizeof(type), __VA_ARGS__})
#endif

/* ---- Status --------------------------------------------------------------------------------------------------------------- */

/* What a call came to. Failures are negative. */
typedef enum nf_status {
    NF_OK = 0,
    NF_STOPPED = 1,          /* the user's callback asked for it; the flow holds its best parameters */
    NF_ERR_ARGUMENT = -1,    /* an argument is not allowed */
    NF_ERR_MEMORY = -2,      /* an allocation failed */
    NF_ERR_ROWS = -3,        /* some rows are bad; the others are right */
    NF_ERR_MISMATCH = -4,    /* dimension, precision or structure of two objects differ */
    NF_ERR_UNSUPPORTED = -5, /* asked for something that this library does not have */
    NF_ERR_IO = -6,          /* a file operation failed */
    NF_ERR_FORMAT = -7,      /* a file is not what it should be */
    NF_ERR_DIVERGED = -8     /* training met a loss or gradient that is not finite; the last good parameters are kept */
} nf_status;

/* The name of a status, "NF_OK" and so on; "unknown status" for any other number. Never NULL. */
NF_API const char *nf_status_name(nf_status status);

/* One line about the last failure in this thread, or "". Never NULL; valid until this thread's next call of the library. */
NF_API const char *nf_last_error(void);

/* "0.1.0": the version of the library that is running, which may be newer than this header. */
NF_API const char *nf_version(void);

/* ---- Enums: pinned values, 32 bits, appended only --------------------------------------------------------------------------- */

/* What a flow computes with; the boundary is double in both. */
typedef enum nf_precision { NF_DOUBLE = 0, NF_SINGLE = 1 } nf_precision;

/* Activations of nets. GELU is the exact one, x Phi(x) (Hendrycks & Gimpel 2016). */
typedef enum nf_activation {
    NF_ACTIVATION_DEFAULT = 0,
    NF_GELU = 1,
    NF_TANH = 2,
    NF_RELU = 3,
    NF_SILU = 4,
    NF_SOFTPLUS = 5
} nf_activation;

/*
 * Scale exp(S) of an affine coupling, from the output s of its net. The first two are for training; the others are those of other libraries, so that
 * what was trained there can be gone on with: sigmoid of nflows, inverse sigmoid of Glow (Kingma & Dhariwal 2018), softclip of zuko.
 */
typedef enum nf_scale {
    NF_SCALE_TANH = 0,           /* S = clamp tanh(s / clamp) */
    NF_SCALE_EXP = 1,            /* S = s */
    NF_SCALE_SIGMOID = 2,        /* exp(S) = sigmoid(s + 2) + 1e-3 (the floor, which a file may set) */
    NF_SCALE_SOFTCLIP = 3,       /* S = s / (1 + |s| / clamp) */
    NF_SCALE_INVERSE_SIGMOID = 4 /* exp(S) = 1 / sigmoid(s + 2) */
} nf_scale;

/* Which coordinates a coupling leaves alone: the first half, every other one, or a random half; they swap from one coupling to the next. */
typedef enum nf_mask { NF_MASK_HALVES = 0, NF_MASK_CHECKERBOARD = 1, NF_MASK_RANDOM = 2 } nf_mask;

/* The field of a continuous flow: a net on (z, t, context), or a mean of planar fields whose weights a net computes from t. */
typedef enum nf_dynamics { NF_DYNAMICS_MLP = 0, NF_DYNAMICS_HYPER = 1 } nf_dynamics;

/*
 * Explicit Runge-Kutta methods: Dormand & Prince 5(4), Tsitouras 5(4), Dormand-Prince 8(5,3) and Bogacki & Shampine 3(2) with adaptive
 * steps; the classical method of order 4, the midpoint rule and Euler's with fixed steps.
 */
typedef enum nf_ode_method {
    NF_DOPRI5 = 0,
    NF_TSIT5 = 1,
    NF_DOP853 = 2,
    NF_BOSH3 = 3,
    NF_RK4 = 4,
    NF_MIDPOINT = 5,
    NF_EULER = 6
} nf_ode_method;

/*
 * How MLP dynamics find the trace of their Jacobian: exactly, or by Hutchinson's estimate (1990) with `probes` random vectors of signs
 * (Rademacher) or of normals. The probes are a function of the layer's seed, the probe and the coordinate, the same for every row and call, so a
 * density stays a function. Hyper dynamics always take the exact trace, which costs them nothing.
 */
typedef enum nf_trace { NF_TRACE_EXACT = 0, NF_TRACE_HUTCHINSON = 1, NF_TRACE_HUTCHINSON_NORMAL = 2 } nf_trace;

/*
 * The gradient of a solve: exact for the steps that were taken, or from the adjoint equation, which keeps no checkpoints and errs by the tolerance. A row that
 * it cannot trace back is a bad row of the gradient call, though its density may be found: it adds nothing, to the loss neither. So are rows for which max_steps are
 * too few, or that adaptive steps bring back a tenth of the size of their start and 30 tolerances (rtol of the end's size) away from where they set out, as they do where
 * paths contract by orders of magnitude, or fixed steps beyond the numbers. Rows that come back nearer are kept, with the gradient of the path that they came back
 * along: where the field bends within that distance it can be off by factors. Else fixed steps have no tolerance to be judged by: with them the adjoint's gradient of such a path is wrong by any factor,
 * under NF_OK.
 */
typedef enum nf_ode_gradient { NF_ODE_DISCRETE = 0, NF_ODE_ADJOINT = 1 } nf_ode_gradient;

/* The update rule of an optimizer; nf_optimizer_config says more. */
typedef enum nf_optimizer_kind { NF_ADAM = 0, NF_ADAMW = 1, NF_SGD = 2, NF_RMSPROP = 3 } nf_optimizer_kind;

/* How the learning rate goes over a fit: along half a cosine, not at all, or down by a factor at intervals. */
typedef enum nf_schedule { NF_SCHEDULE_COSINE = 0, NF_SCHEDULE_CONSTANT = 1, NF_SCHEDULE_STEP = 2 } nf_schedule;

/* What nf_fit minimises. */
typedef enum nf_objective { NF_OBJECTIVE_LIKELIHOOD = 0, NF_OBJECTIVE_FLOW_MATCHING = 1 } nf_objective;

/* How flow matching pairs base samples with data; nf_grad_flow_matching says more. */
typedef enum nf_pairing { NF_PAIRING_INDEPENDENT = 0, NF_PAIRING_OPTIMAL = 1 } nf_pairing;

/* Why a fit ended. */
typedef enum nf_stop_reason {
    NF_STOP_EPOCHS = 0,   /* all epochs done */
    NF_STOP_PATIENCE = 1, /* the held-out loss did not improve for `patience` epochs */
    NF_STOP_CALLBACK = 2, /* progress, or what gives the rows or the target, asked for it */
    NF_STOP_DIVERGED = 3  /* a loss or gradient was not finite */
} nf_stop_reason;

/* ---- Handles -------------------------------------------------------------------------------------------------------------- */

typedef struct nf_flow nf_flow; /* base density, stack of layers, their parameters */
typedef nf_flow nf_planar;      /* flows of one family: every function of nf_flow takes them */
typedef nf_flow nf_radial;      /* likewise */
typedef nf_flow nf_realnvp;     /* likewise */
typedef nf_flow nf_cnf;         /* likewise */
typedef struct nf_workspace nf_workspace; /* scratch memory and threads of calls */
typedef struct nf_gradient nf_gradient;   /* an accumulator with the flow's parameter layout */
typedef struct nf_optimizer nf_optimizer; /* an update rule and its state */

/*
 * A counter-based generator, a plain value: copy it freely. Calls advance `position` by the rows that they draw, and a number depends only on
 * (seed, stream, position of its row, coordinate). Philox4x32-10 (Salmon et al. 2011): the key is the first 64 bits of Philox(seed; stream), the
 * counter is (position, coordinate / 2), and its output gives two normals by Box & Muller's method.
 */
typedef struct nf_rng {
    uint64_t seed, stream, position;
} nf_rng;

/*
 * Memory for a handle and all that is made from it; NULL, or one that lacks a function, means malloc and free, or the flow's allocator where it says so. The
 * struct is copied; alloc returns memory aligned as malloc's, or NULL; release is never given NULL. Both are called from the thread that calls the
 * library, never from one that it started. What the JSON library, threads and stdio allocate is outside it.
 */
typedef struct nf_allocator {
    void *(*alloc)(void *user, size_t size);
    void (*release)(void *user, void *pointer);
    void *user;
} nf_allocator;

/* Frees what nf_flow_save_memory returned. NULL is allowed. */
NF_API void nf_free(void *pointer);

/* ---- Building flows ---------------------------------------------------------------------------------------------------------- */

/*
 * Planar and radial flows (Rezende & Mohamed 2015, equations 10 and 14, constrained so that they are invertible, their appendix A).
 * With context_dim > 0 the parameters of each layer come, for each row, from a net of hidden_layers x hidden_width on its context.
 */
typedef struct nf_planar_config {
    size_t struct_size;
    size_t dim, context_dim; /* dim >= 1 */
    size_t layers;           /* K; default 1, at most 65536 */
    uint64_t seed;           /* of the initial parameters */
    nf_precision precision;
    nf_activation activation;           /* of the conditioner nets; default tanh */
    size_t hidden_layers, hidden_width; /* of the conditioner nets; defaults 2 and 64 */
    const nf_allocator *allocator;
} nf_planar_config;

/* The members of nf_planar_config, with the same meaning. */
typedef struct nf_radial_config {
    size_t struct_size;
    size_t dim, context_dim;
    size_t layers;
    uint64_t seed;
    nf_precision precision;
    nf_activation activation;
    size_t hidden_layers, hidden_width;
    const nf_allocator *allocator;
} nf_radial_config;

/*
 * Real NVP (Dinh, Sohl-Dickstein & Bengio 2017): alternating affine couplings. Any dim >= 1. The untrained flow is close to the identity.
 * dim 1 has nothing to split: without context the flow is its elementwise affine layer alone; with context every coupling transforms the one
 * coordinate by a scale and shift that come from the context.
 */
typedef struct nf_realnvp_config {
    size_t struct_size;
    size_t dim, context_dim;
    size_t couplings; /* default 8, at most 65536 */
    uint64_t seed;    /* of the initial parameters and of random masks */
    nf_precision precision;
    nf_activation activation;           /* default GELU */
    size_t hidden_layers, hidden_width; /* of each coupling's net; defaults 2 and 64; NF_NONE hidden layers: a linear map */
    nf_scale scale;
    nf_mask mask;
    double scale_clamp; /* default 3; for NF_SCALE_TANH and NF_SCALE_SOFTCLIP */
    int actnorm;        /* 0: one elementwise affine layer at the data end, which nf_fit standardises; 1: one after every
                           coupling as well; negative: none */
    int reserved;       /* 0 */
    const nf_allocator *allocator;
} nf_realnvp_config;

/*
 * Continuous normalizing flow: dz/dt = f(z, t) from t0 to t1, log_det the integral of the trace of df/dz (Chen et al. 2018, theorem 1; Grathwohl
 * et al. 2019). MLP dynamics are a net on (z, t, context); hyper dynamics are a mean of planar fields whose weights a net computes from t alone.
 */
typedef struct nf_cnf_config {
    size_t struct_size;
    size_t dim, context_dim; /* hyper dynamics take no context */
    uint64_t seed;
    nf_precision precision;
    nf_activation activation; /* of MLP dynamics; default tanh; ReLU is refused: the dynamics must be smooth. Hyper dynamics have tanh */
    nf_dynamics dynamics;
    nf_ode_method method;
    size_t hidden_layers, hidden_width; /* of the net: default 4 x 24 in one or two dimensions, else 2 x 64; of the hypernetwork: 2 x 32 */
    size_t units;                       /* hyper: how many planar fields; default 64 */
    double t0, t1;                      /* taken literally; both 0: 0 and 1; equal, not finite or a distance that is not is an error. Adaptive steps are
                                           longer than 3.6e-15 |t|: where t1 - t0 is not, all rows are bad */
    double rtol, atol;                  /* of the adaptive methods, log_det included; defaults 1e-7 and 1e-9; negative: 0; not both 0 */
    size_t steps, max_steps;            /* steps: of the fixed-step methods, default 32; max_steps: attempts after which a row is given up, default 10000;
                                           at most SIZE_MAX / 2 each */
    nf_trace trace;
    nf_ode_gradient gradient; /* default: the exact gradient of the discrete solution */
    size_t probes;            /* of Hutchinson's estimator; default 1; as many as a size_t can count the memory for */
    double kinetic, jacobian; /* weights of the regularisers of Finlay et al. 2020; 0 = off */
    const nf_allocator *allocator;
    int shared_step;          /* 0: each row has steps of its own, and its density does not depend on its batch; 1: the adaptive methods take one
                                 step for all rows of a tile (128), which is faster, and then it does. Where that arrives for none of them, each row has
                                 steps of its own and fails alone */
    int reserved;             /* 0 */
} nf_cnf_config;

/*
 * Create a flow of one family. The caller frees it with nf_flow_free. NF_ERR_ARGUMENT: a member is not allowed; NF_ERR_MEMORY;
 * NF_ERR_UNSUPPORTED: this library does not build that family, or not with that setting. *flow is NULL after a failure.
 */
NF_API nf_status nf_planar_create(const nf_planar_config *config, nf_planar **flow);
NF_API nf_status nf_radial_create(const nf_radial_config *config, nf_radial **flow);
NF_API nf_status nf_realnvp_create(const nf_realnvp_config *config, nf_realnvp **flow);
NF_API nf_status nf_cnf_create(const nf_cnf_config *config, nf_cnf **flow);

/* x[j] = z[source[j]]; source holds 0 .. dim - 1, each once. */
NF_API nf_status nf_permutation_create(size_t dim, const size_t *source, nf_precision precision, nf_flow **flow);

/* x = z exp(log_scale) + shift, elementwise ("actnorm", Kingma & Dhariwal 2018). Starts as the identity. */
NF_API nf_status nf_affine_create(size_t dim, nf_precision precision, nf_flow **flow);

/*
 * Set a flow that is one affine layer so that its forward map takes N(0, I) to the mean and standard deviation of the columns of x (rows x dim). A
 * column that does not vary is only shifted. NF_ERR_ARGUMENT: another kind of flow, no rows, or an x that is not finite.
 */
NF_API nf_status nf_affine_standardize(nf_flow *affine, size_t rows, const double *x);

/* A flow without layers, the identity, to be appended to. Base N(0, I). */
NF_API nf_status nf_flow_create(size_t dim, size_t context_dim, nf_precision precision, nf_flow **flow);
NF_API nf_status nf_flow_create_with(size_t dim, size_t context_dim, nf_precision precision, nf_flow **flow, const nf_allocator *allocator);

/*
 * Move part's layers, with their parameters, to the data end of flow, and free part. Part must have the same dim and precision, the same
 * context_dim or 0, and the base N(0, I): flow keeps its own. After an error both are unchanged. NF_ERR_MISMATCH, NF_ERR_ARGUMENT, NF_ERR_MEMORY.
 */
NF_API nf_status nf_flow_append(nf_flow *flow, nf_flow *part);

/*
 * Swap forward and inverse of the whole stack: the layers are reversed and each one's `inverted` toggled; the base stays. Tensor names and parameter order
 * follow the layers.
 */
NF_API nf_status nf_flow_invert(nf_flow *flow);

/* The base becomes N(mean, diag(sd^2)); `dim` numbers each; NULL: 0 and 1. sd must be positive. Workspaces stay valid. */
NF_API nf_status nf_flow_set_base_normal(nf_flow *flow, const double *mean, const double *sd);

/* A copy with the same structure and allocator: workspaces, gradients and optimizers of one serve the other. */
NF_API nf_status nf_flow_clone(const nf_flow *flow, nf_flow **copy);

/* A copy that computes in another precision: train in single, evaluate in double. NF_ERR_ARGUMENT: a parameter or setting overflows. */
NF_API nf_status nf_flow_convert(const nf_flow *flow, nf_precision precision, nf_flow **copy);

NF_API void nf_flow_free(nf_flow *flow); /* NULL is allowed */

/* 0 (NF_DOUBLE, "") for NULL. */
NF_API size_t nf_flow_dim(const nf_flow *flow);
NF_API size_t nf_flow_context_dim(const nf_flow *flow);
NF_API size_t nf_flow_layer_count(const nf_flow *flow);
NF_API nf_precision nf_flow_precision(const nf_flow *flow);

/*
 * The instruction set that the flow computes with: "base", or "v2", "v3", "v4" (levels of x86-64). It is the best of the processor when the flow is
 * created, or what the environment variable NFLOW_ISA names, if the processor has it; another name changes nothing.
 */
NF_API const char *nf_flow_isa(const nf_flow *flow);

/*
 * Solver settings of every CNF layer of a flow: tolerances for the adaptive methods, steps for the fixed-step ones. Zeros mean the config's defaults. Workspaces stay valid.
 * NF_ERR_ARGUMENT: a flow without a CNF layer, or a setting that is not allowed.
 */
NF_API nf_status nf_cnf_set_solver(nf_flow *flow, nf_ode_method method, double rtol, double atol, size_t steps, size_t max_steps);

/* ---- Parameters ----------------------------------------------------------------------------------------------------------- */

/* Scalars of all layers, in layer order. 0 for NULL. */
NF_API size_t nf_parameter_count(const nf_flow *flow);
/* All of them, nf_parameter_count numbers. */
NF_API nf_status nf_get_parameters(const nf_flow *flow, double *out);
/* All or nothing: NF_ERR_ARGUMENT names the first that is not finite in the flow's precision. */
NF_API nf_status nf_set_parameters(nf_flow *flow, const double *in);

/*
 * Tensors in parameter order, named "layers.<i>.<name>": planar u, w (dim), b (1); radial center (dim), alpha, beta (1); coupling, cnf and conditional
 * layers net.<j>.weight (out x in) and net.<j>.bias (out); affine log_scale, shift (dim). `name` lives as long as the flow's structure.
 */
typedef struct nf_tensor {
    size_t struct_size; /* set by the caller */
    const char *name;
    size_t rank, shape[2]; /* shape[1] is 1 for rank 1 */
    size_t offset;         /* of its first element in the parameter vector; row-major */
} nf_tensor;

NF_API size_t nf_tensor_count(const nf_flow *flow); /* 0 for NULL */
/* The tensor of an index below nf_tensor_count, into a struct with struct_size set. */
NF_API nf_status nf_tensor_info(const nf_flow *flow, size_t index, nf_tensor *info);

/* ---- Evaluating ----------------------------------------------------------------------------------------------------------- */

/* Memory for calls on flows of this structure, and threads - 1 threads beside the caller's (0 means 1). Freed by the caller. */
NF_API nf_status nf_workspace_create(const nf_flow *flow, size_t threads, nf_workspace **workspace);
NF_API void nf_workspace_free(nf_workspace *workspace); /* NULL is allowed */

/* Work of the last call with a workspace. */
typedef struct nf_stats {
    size_t struct_size; /* set by the caller */
    size_t bad_rows, first_bad_row;
    uint64_t rhs_evaluations, steps_accepted, steps_rejected; /* of ODE solves, summed over rows; evaluations of the adjoint equation too */
    uint64_t root_iterations;                                 /* of planar inverses, summed over rows */
} nf_stats;

/* Counts of the last call with this workspace, into a struct with struct_size set. */
NF_API nf_status nf_workspace_stats(const nf_workspace *workspace, nf_stats *stats);

/* x (rows x dim) and log_det of the forward map at z. rows 0 is NF_OK and does nothing. NF_ERR_ROWS, NF_ERR_MISMATCH, ... as above. */
NF_API nf_status nf_forward(const nf_flow *flow, nf_workspace *ws, size_t rows, const double *z, const double *context, double *x,
                            double *log_det);

/* z and log_det of the inverse map at x. */
NF_API nf_status nf_inverse(const nf_flow *flow, nf_workspace *ws, size_t rows, const double *x, const double *context, double *z,
                            double *log_det);

/* log density at x, in nats. */
NF_API nf_status nf_log_prob(const nf_flow *flow, nf_workspace *ws, size_t rows, const double *x, const double *context, double *log_prob);

/* Draw rows; x and log_prob (at x) may each be NULL. rng->position grows by rows, after NF_ERR_ROWS as well. */
NF_API nf_status nf_sample(const nf_flow *flow, nf_workspace *ws, nf_rng *rng, size_t rows, const double *context, double *x,
                           double *log_prob);

/* log density and its gradient with respect to x (rows x dim). */
NF_API nf_status nf_score(const nf_flow *flow, nf_workspace *ws, size_t rows, const double *x, const double *context, double *log_prob,
                          double *score);

/*
 * Where the forward flow of one CNF carries z at `times` instants t, monotone in either direction between t0 and t1: path is times x rows x dim. The instants
 * do not change the steps; between steps the method's dense output is used, and at the end the bits are those of nf_forward. A row that cannot be followed is NaN at all
 * instants, with NF_ERR_ROWS. NF_ERR_ARGUMENT: a flow that is not a single CNF layer, or such instants.
 */
NF_API nf_status nf_cnf_trajectory(const nf_cnf *cnf, nf_workspace *ws, size_t rows, const double *z, const double *context, size_t times,
                                   const double *t, double *path);

/* ---- Gradients ------------------------------------------------------------------------------------------------------------ */

NF_API nf_status nf_gradient_create(const nf_flow *flow, nf_gradient **gradient); /* zero */
NF_API void nf_gradient_free(nf_gradient *gradient);                              /* NULL is allowed */
NF_API nf_status nf_gradient_zero(nf_gradient *gradient); /* for the next sum */
NF_API nf_status nf_gradient_get(const nf_gradient *gradient, double *out); /* nf_parameter_count numbers, parameter order */
NF_API nf_status nf_gradient_set(nf_gradient *gradient, const double *in);  /* the same, the other way */

/*
 * Add the parameter gradient of a loss, a mean over rows (weighted by `weight`, rows numbers, when it is not NULL: finite, not negative, with a positive
 * sum), to `gradient`, and store the loss. The gradient changes only when the call succeeds or returns NF_ERR_ROWS. rows 0 is
 * NF_ERR_ARGUMENT.
 *
 * Negative log-likelihood of data x, through the inverse; regularisers of the layers are part of the loss. A row whose log density is beyond
 * +-3e32 in single precision, +-1e302 in double, is a bad row here: it can be evaluated, but what it adds to a gradient need not be a number.
 */
NF_API nf_status nf_grad_nll(const nf_flow *flow, nf_workspace *ws, size_t rows, const double *x, const double *context,
                             const double *weight, nf_gradient *gradient, double *loss);

/*
 * An unnormalised log density at `rows` points x, and its gradient (rows x dim). It is called in the thread of the caller, perhaps several times a
 * call. A status that is not NF_OK ends the call and is returned as it is. A row whose results are not finite is a bad row.
 */
typedef nf_status (*nf_target_fn)(void *user, size_t rows, const double *x, double *log_density, double *grad_x);

/* Reverse Kullback-Leibler divergence, E_q[log q(x) - log p(x)], from `rows` samples drawn with rng. */
NF_API nf_status nf_grad_reverse_kl(const nf_flow *flow, nf_workspace *ws, nf_rng *rng, size_t rows, const double *context, nf_target_fn target,
                                    void *user, nf_gradient *gradient, double *loss);

/*
 * Flow matching (Lipman et al. 2023), which trains a continuous layer without solving its equation: base samples z0 drawn with rng (row r from rng's
 * position + r, which moves on by `rows`), data x1, z_s = (1 - s) z0 + s x1 with s uniform, and the loss |f(z_s, t_s) - (x1 - z0) / (t_end - t_start)|^2,
 * a mean over rows like the others. NF_PAIRING_OPTIMAL: within each 128 rows the base samples go to the data by optimal transport (Tong et al. 2023), which makes
 * paths straight and solves short; the gradient of a row then depends on its neighbours. With a context that is NF_ERR_UNSUPPORTED: pairs chosen by x alone would make
 * the base samples depend on the context, and another density would be learnt. The flow has one CNF layer: data come to it through the inverse of the
 * layers above, whose parameters get no gradient, and so for those below. A row whose loss is beyond 3e32 in single precision, 1e302 in double, is a bad row.
 * NF_ERR_ARGUMENT: no CNF layer, or more than one.
 */
NF_API nf_status nf_grad_flow_matching(const nf_flow *flow, nf_workspace *ws, nf_rng *rng, size_t rows, const double *x, const double *context,
                                       const double *weight, nf_pairing pairing, nf_gradient *gradient, double *loss);

/*
 * Vector-Jacobian products of the two maps: from cotangents of the output and of the log_det (NULL: zeros) to the cotangents of the input and the
 * context (overwritten; NULL: not wanted), and to the parameters (added to `gradient`; NULL: not wanted). A row of which a cotangent of input or context is beyond
 * the numbers is found to be bad only when its part of the parameters' is there already. rows 0 is NF_ERR_ARGUMENT.
 */
NF_API nf_status nf_forward_vjp(const nf_flow *flow, nf_workspace *ws, size_t rows, const double *z, const double *context,
                                const double *grad_x, const double *grad_log_det, double *grad_z, double *grad_context,
                                nf_gradient *gradient);
NF_API nf_status nf_inverse_vjp(const nf_flow *flow, nf_workspace *ws, size_t rows, const double *x, const double *context,
                                const double *grad_z, const double *grad_log_det, double *grad_x, double *grad_context,
                                nf_gradient *gradient);

/* ---- Training ------------------------------------------------------------------------------------------------------------- */

/*
 * Adam (Kingma & Ba 2015), AdamW (Loshchilov & Hutter 2019: theta shrinks by 1 - learning_rate weight_decay before the step), SGD with momentum,
 * RMSprop. Weight decay of the other kinds is added to the gradient after clipping. All parameters decay, biases too.
 */
typedef struct nf_optimizer_config {
    size_t struct_size;
    nf_optimizer_kind kind;
    int reserved;
    double learning_rate; /* default 1e-3 */
    double beta1, beta2;  /* defaults .9 and .999; negative: 0 */
    double epsilon;       /* default 1e-8; at least the smallest normal number, so that no gradient makes no step */
    double weight_decay;  /* default 0 */
    double momentum;      /* default 0 */
    double clip_norm;     /* the gradient is scaled by min(1, clip_norm / (its 2-norm + 1e-6)); default 0: off */
    const nf_allocator *allocator;
} nf_optimizer_config;

/* An optimizer with zero moments for flows of this structure; config NULL: the defaults. NF_ERR_ARGUMENT: a setting that is no number in the flow's precision. */
NF_API nf_status nf_optimizer_create(const nf_flow *flow, const nf_optimizer_config *config, nf_optimizer **optimizer);
NF_API void nf_optimizer_free(nf_optimizer *optimizer); /* NULL is allowed */
/*
 * One step. NF_ERR_DIVERGED: the gradient is not finite, or so large (1e19 in single precision, 1e154 in double) that the squares which all kinds but SGD
 * average are not, when clip_norm does not scale it down; or parameters, or what the optimizer keeps, would not be finite after the step. Nothing
 * changed.
 */
NF_API nf_status nf_optimizer_step(nf_optimizer *optimizer, nf_flow *flow, const nf_gradient *gradient);
/* From the next step on. Finite and not negative. */
NF_API nf_status nf_optimizer_set_learning_rate(nf_optimizer *optimizer, double learning_rate);

/* How a fit is getting on; given after every epoch, in the thread that called nf_fit. */
typedef struct nf_fit_progress {
    size_t struct_size; /* set by the library */
    size_t epoch, epochs, steps;
    double train_loss, validation_loss, best_loss; /* nats; NaN when there is none */
    double learning_rate, gradient_norm;
    double seconds, seconds_left; /* so far, and about what remains if no patience ends the fit */
    double rhs_evaluations;       /* by the solves of CNF layers, those of the adjoint equation included, a row and step of this epoch's training; when it
                                     grows, so does the time. The exact gradient and flow matching solve nothing */
} nf_fit_progress;

/* Anything but 0 stops the fit, which then returns NF_STOPPED. */
typedef int (*nf_progress_fn)(void *user, const nf_fit_progress *progress);

/*
 * Collective operations that spread a fit over processes (or threads): a table that the caller fills, the same on every rank but for `rank`. All ranks
 * make the same calls of the library, and the library calls the same operations in the same order on all of them, in the thread of the caller. An
 * operation moves bytes as they are, whatever numbers they may be, and returns 0; anything else is a failure of communication: that rank's
 * call ends with NF_ERR_IO and takes part in nothing more.
 */
typedef struct nf_comm {
    size_t struct_size;
    int rank, size; /* 0 <= rank < size */
    void *user;
    int (*allgather)(void *user, const double *send, double *receive, size_t count); /* receive: size x count */
    int (*broadcast)(void *user, void *bytes, size_t size, int root);
    int (*barrier)(void *user); /* may be NULL: the library does not need it */
    /* From every rank to every rank, blocks in the order of the ranks, send_counts[r] numbers to rank r and receive_counts[r] from it. NULL: by allgather, which
       moves more than is asked for. */
    int (*exchange)(void *user, const double *send, const size_t *send_counts, double *receive, const size_t *receive_counts);
    int (*allreduce)(void *user, double *values, size_t count); /* sums over the ranks, in place, the same on all; only for `fast` */
    size_t shards; /* pieces of a step's gradient, at most one for each 128 rows, each computed on one rank; default 8. The bits depend on it, and on
                      nothing else here: more ranks than shards have nothing to do */
    int fast;      /* 1: gradients are summed by allreduce. Messages are fewer, though not always shorter, and the bits depend on the number of ranks */
    int reserved;  /* 0 */
} nf_comm;

/*
 * Data by callback: row[0 .. count - 1] of this process's rows are wanted, in no particular order; x is count x dim, context count x context_dim (NULL
 * when the flow takes none). Called in the thread of the caller. A status other than NF_OK ends the fit and is returned as it is.
 */
typedef nf_status (*nf_rows_fn)(void *user, size_t count, const size_t *row, double *x, double *context);

/* Settings of nf_fit; zeros are the defaults. */
typedef struct nf_fit_config {
    size_t struct_size;
    size_t epochs;     /* default 300; of flow matching as many as make 20,000 steps, and at least 20 */
    size_t batch_size; /* default 64; at most the training rows */
    size_t patience;   /* epochs without a better held-out loss before the fit ends; default half of all and one more; NF_NONE: never */
    size_t threads;    /* default 1 */
    uint64_t seed;     /* of the split, the order of the rows and the noise */
    const nf_optimizer_config *optimizer; /* NULL: AdamW with clip_norm 1; rate 5e-3 and weight_decay .1 with couplings, 1e-2 and .02 with
                                             a CNF layer, 2e-2 and 0 with neither, 5e-3 and 0 of flow matching */
    nf_schedule schedule;                 /* of the learning rate, over all epochs; default cosine (Loshchilov & Hutter 2017) */
    nf_objective objective;               /* flow matching needs one CNF layer (nf_grad_flow_matching); its losses are not nats */
    size_t schedule_step;       /* NF_SCHEDULE_STEP: epochs between drops; default a third of all and one more */
    double schedule_factor;     /* step: factor of a drop, default .1; cosine: final fraction of the rate, default 0 */
    double validation_fraction; /* of the rows, held out by a seeded shuffle; default .1, of flow matching none; negative: none. None as well where those would be
                                   all rows that count, with weight and of numbers */
    size_t validation_rows;     /* or an array of held-out rows; without it the contexts and weights of such rows are NF_ERR_ARGUMENT */
    const double *validation_x, *validation_context, *validation_weight;
    const double *weight;     /* rows numbers: finite, not negative; NULL: all 1. Only their ratios count; what is nothing beside the largest (some
                                 2^-1000 of it, in single precision 2^-100) is 0 */
    double ema_decay;         /* below 1: keep an exponential average of the parameters, and give that; default .998; negative: off */
    double noise;             /* Gaussian noise added to every input in training, in standard deviations of its column; it shrinks
                                 with the learning rate; default .25, with a CNF layer .2, of flow matching 0; negative: off */
    double training_tolerance; /* CNF layers are trained with at least this rtol and atol, and validated with their own; NF_ODE_DISCRETE's gradient is exact
                                  for the solver's own solution either way, NF_ODE_ADJOINT's errs by this tolerance, and loses the rows that it cannot
                                  trace back with it; default 1e-3; negative: their own too */
    int standardize;          /* 0: an affine layer at the data end that is still the identity takes the training rows' mean and
                                 standard deviation, in which rows of weight 0 have no part and all others the same; steps, decay
                                 and clipping see such a layer in units of those, so that a fit does not depend on the units of
                                 its data; negative: neither. Contexts are taken as they are: scale them to numbers of about 1 */
    nf_pairing pairing;       /* of flow matching; optimal pairs: not for flows with a context */
    const char *checkpoint;   /* path of a file to resume from and write to (below); NULL: none */
    size_t checkpoint_every;  /* epochs; default 1; the last one, and one that progress stops, are written anyhow */
    const nf_comm *comm;      /* NULL: this process alone */
    nf_progress_fn progress;  /* NULL: none */
    void *progress_user;
    const nf_allocator *allocator; /* of the fit's own memory; NULL: the flow's */
    nf_rows_fn read;          /* gives the rows in place of x and context, which are NULL then; NULL: none */
    void *read_user;
    double contamination; /* share of the rows whose noise is 8 times as wide (the contaminated normal of Tukey 1960), by which a flow learns to leave
                             some density far out; at most 1; default .02 with couplings, else 0; negative: off */
} nf_fit_config;

/*
 * What a fit came to. The train_loss of an epoch is the mean over its rows as its steps met them: with their noise, and each batch by the parameters before its step. A
 * single row far out may make it of any size in the first epochs; clip_norm keeps the steps sound then.
 */
typedef struct nf_fit_report {
    size_t struct_size; /* set by the caller */
    size_t epochs_run, best_epoch, steps;
    double train_loss, validation_loss; /* of the last epoch, nats; NaN when there is none */
    double best_loss;                   /* held-out, of the parameters that the flow has now; without held-out rows the train_loss of their epoch */
    double seconds;
    nf_stop_reason stop_reason;
    int reserved;
    size_t bad_rows; /* of x, left out */
    double rhs_evaluations; /* as in nf_fit_progress, of the last epoch */
} nf_fit_report;

/*
 * Fit a flow to rows of x by mini-batches. With held-out rows the flow ends with the parameters of the best epoch, without them with the last ones; held-out rows none of
 * which counts, because their weights are 0 or they are not finite, are as none. The parameters that a fit begins with are of no epoch: a flow that was good already may end worse.
 * Same seed, same bits, for any number of threads. Working memory does not depend on rows. A loss, gradient or step that is not finite never reaches the
 * parameters: NF_ERR_DIVERGED, and the flow holds its best ones (without held-out rows, the last with which an epoch began and its first batch was good). NF_STOPPED: progress asked for it. NF_ERR_ROWS: some rows are not
 * finite; they were left out, and the fit is done, in 0 steps when none was left. `config` NULL: all defaults. `report` may be NULL.
 *
 * config->checkpoint: after an epoch, before progress is called, all that the fit depends on is saved there, atomically as by nf_flow_save. A call that finds the file
 * goes on from it, whatever parameters the flow has, and ends with the bits of a fit that was never stopped, on any number of threads (on the same library build and
 * instruction set); when the fit was over, it gives its result. NF_ERR_MISMATCH: the file is of a flow of another structure, of other data or settings, and the line says
 * which (random masks and, for its probes, the seed of a continuous layer are structure); NF_ERR_FORMAT: it is damaged or no checkpoint; NF_ERR_IO: it cannot be read or written, or is a device or pipe. Only a folder for it must exist; the file stays when the fit is done.
 *
 * config->comm: the fit is spread over the ranks, and ends on all of them with the same parameters, report and status. Each rank gives its own part of the rows (`rows` may
 * be 0 there, with x NULL), of the weights and of the held-out rows; the data are the parts in the order of the ranks. All start from rank 0's parameters, and all settings but threads,
 * progress, checkpoint, allocator and what tells the data must be equal (NF_ERR_MISMATCH), as must the instruction sets. The bits are those of one process
 * that holds all the rows, with or without a comm of one rank, unless comm->fast or comm->shards asks for others; so a checkpoint can go on with another number of ranks, if shards (8 without a comm) are as many. Rank 0
 * alone reads and writes it, and rank 0's path counts. Progress is called on every rank that has one, and any of them stops all. When a rank fails, all return its status and line,
 * and the rank. Only a config or comm that cannot be read is a failure of its rank alone.
 */
NF_API nf_status nf_fit(nf_flow *flow, size_t rows, const double *x, const double *context, const nf_fit_config *config,
                        nf_fit_report *report);

/*
 * Fit a flow to an unnormalised target density by reverse Kullback-Leibler: steps of nf_grad_reverse_kl on fresh samples, for variational inference
 * and for samplers (Rezende & Mohamed 2015, equation 20, with their annealing: the target's log density is multiplied by an inverse temperature that
 * grows from beta_start to 1).
 */
typedef struct nf_reverse_kl_progress {
    size_t struct_size; /* set by the library */
    size_t step, steps;
    double loss; /* mean of log q - beta log p over the steps since the last call */
    double beta, learning_rate;
    double seconds, seconds_left;
} nf_reverse_kl_progress;

typedef int (*nf_reverse_kl_progress_fn)(void *user, const nf_reverse_kl_progress *progress); /* not 0: stop */

/* Settings of nf_fit_reverse_kl; zeros are the defaults. */
typedef struct nf_reverse_kl_config {
    size_t struct_size;
    size_t steps;   /* default 10000 */
    size_t samples; /* a step; default 256 */
    size_t threads; /* default 1 */
    uint64_t seed;
    const nf_optimizer_config *optimizer; /* NULL: Adam, rate 2e-2, clip_norm 10 */
    nf_schedule schedule;                 /* of the learning rate; default cosine */
    int reserved;                         /* 0 */
    size_t schedule_step;                 /* as in nf_fit_config, in steps */
    double schedule_factor;
    double beta_start;          /* inverse temperature at the first step, in (0, 1]; default 1: no annealing */
    size_t anneal_steps;        /* until it is 1; default half of the steps */
    double ema_decay;           /* default .998; negative: off */
    size_t evaluation_samples;  /* for the report; default 10000; NF_NONE: no report of densities */
    const double *context;      /* samples x context_dim, the same in every step; NULL exactly when the flow takes none. The report is of
                                   at most `samples` samples then */
    size_t progress_every;      /* steps; default a hundredth of all */
    nf_reverse_kl_progress_fn progress;
    void *progress_user;
    const nf_allocator *allocator; /* of the fit's own memory; NULL: the flow's */
    const nf_comm *comm;           /* NULL: this process alone */
} nf_reverse_kl_config;

/* What a fit by reverse KL came to. */
typedef struct nf_reverse_kl_report {
    size_t struct_size; /* set by the caller */
    size_t steps;
    double loss;                  /* mean of log q - beta log p over the last hundredth of the steps */
    double elbo, elbo_error;      /* E_q[log p - log q] at the end, a lower bound of log Z, and its standard error, NaN of a single sample; NaN: not
                                     evaluated. -inf and NaN when the target is 0 (log p = -inf) at a sample, which counts below with weight 0 */
    double log_evidence;          /* log Z by importance sampling with the flow */
    double effective_sample_size; /* (sum w)^2 / sum w^2 over the number of samples: 1 when q = p / Z (Kong 1992) */
    double seconds;
    size_t bad_rows; /* samples that the flow or the target spoiled, in all steps; also those where the target is 0, which has no gradient */
    nf_stop_reason stop_reason;
    int reserved;
} nf_reverse_kl_report;

/*
 * The flow ends with the averaged parameters. Same seed, same bits, for any number of threads, if the target is a function. NF_ERR_DIVERGED: a loss, a gradient or
 * what a step would lead to is not finite, and the flow has the parameters before it. NF_STOPPED: progress asked for it. A status of the target, whatever it is, ends the fit and is returned, and the
 * target is not called again: after NF_STOPPED the flow has the averaged parameters, after NF_ERR_DIVERGED those of the last step, or the averaged ones
 * when all steps are done, after any other those from before the fit.
 * config->comm: as for nf_fit; the samples are shared out, and each rank's target sees its own. `context` is the same on all ranks.
 */
NF_API nf_status nf_fit_reverse_kl(nf_flow *flow, nf_target_fn target, void *user, const nf_reverse_kl_config *config,
                                   nf_reverse_kl_report *report);

/* ---- Ordinary differential equations ----------------------------------------------------------------------------------------- */

/*
 * The solver of the continuous layers by itself: explicit Runge-Kutta (Hairer, Norsett & Wanner 1993, II) on any number of independent systems y' = f(t, y) of
 * one size. With an adaptive method each row has steps of its own (PI control of the local error in the root mean square over the row's components, in units of
 * atol + rtol |y|), so a row's solution has the same bits in any company.
 *
 * f writes dydt of `count` rows: row[i] says which of the solve's rows it is, t[i] is its time, y and dydt are count x size. It is called in the
 * caller's thread and floating-point mode, at most 16 rows at a time. A status other than NF_OK ends the solve and is returned as it is.
 */
typedef nf_status (*nf_ode_fn)(void *user, size_t count, const size_t *row, const double *t, const double *y, double *dydt);

/* Settings of nf_ode_solve; zeros are the defaults. */
typedef struct nf_ode_config {
    size_t struct_size;
    nf_ode_method method;
    int reserved;            /* 0 */
    double rtol, atol;       /* defaults 1e-7 and 1e-9; negative: 0; not both 0 */
    size_t steps, max_steps; /* steps: so many equal ones and no control of the error; default for the methods without control 32, for the others 0.
                                max_steps: attempts after which a row is given up, default 10000 */
    const nf_allocator *allocator;
} nf_ode_config;

/*
 * From y at t0 (rows x size) to y at t1, in place; t1 may be less than t0. `path` (times x rows x size) receives dense output at `times` instants t, monotone between t0 and
 * t1; both may be NULL with times 0. `config` and `stats` (struct_size set by the caller) may be NULL. NF_ERR_ROWS: rows whose step
 * underflowed, whose budget ended or that are not finite are NaN in y and path, the others are right. NF_ERR_ARGUMENT (also for t0 and t1 that are equal, not finite or
 * at a distance that is not), NF_ERR_MEMORY: y is as it was. rows 0 is NF_OK.
 */
NF_API nf_status nf_ode_solve(const nf_ode_config *config, size_t rows, size_t size, nf_ode_fn f, void *user, double t0, double t1, double *y,
                              size_t times, const double *t, double *path, nf_stats *stats);

/* ---- Diagnostics ---------------------------------------------------------------------------------------------------------- */

/* What a check says. */
typedef enum nf_verdict {
    NF_PASSED = 0,
    NF_FAILED = 1,
    NF_SKIPPED = 2 /* does not apply to this flow or call, or is too uncertain to say */
} nf_verdict;

/*
 * What one check found. Errors pass when value <= threshold, p-values and the effective sample size when value >= threshold. NaN never passes: a
 * p-value is 0 when one of the samples that it is of could not be drawn or taken back.
 */
typedef struct nf_finding {
    double value, threshold; /* NaN when skipped */
    nf_verdict verdict;
    int reserved;
} nf_finding;

/* Settings of nf_diagnose; zeros are the defaults. */
typedef struct nf_diagnose_config {
    size_t struct_size;
    size_t rows;         /* most rows of data that the tests of the distribution look at; default 1000 */
    size_t exact_rows;   /* most rows that the checks of the maps look at; default 32 */
    size_t samples;      /* that are drawn for the sampler, the weights and the normalisation; default 4096 */
    size_t permutations; /* of the two-sample test; default 1999. While none of them is as far apart as data and samples, there are more, until the p-value is
                            below `significance`; the check is skipped when a hundred thousand are too few for that */
    size_t threads;      /* default 1 */
    uint64_t seed;
    double significance; /* a test of the distribution fails below this p-value, as it does for a sound flow with this probability; default 1e-3 */
    double least_effective_sample_size; /* as a fraction; default .05 */
    double most_weight;                 /* of a single sample, as a fraction of all; default .1 */
    nf_target_fn target;                /* an unnormalised log density to weigh samples by; NULL: none. Its gradient is not used */
    void *target_user;
    const nf_allocator *allocator; /* NULL: the flow's */
} nf_diagnose_config;

/* What nf_diagnose found. */
typedef struct nf_diagnose_report {
    size_t struct_size; /* set by the caller */
    size_t failed, skipped;

    nf_finding round_trip; /* |x(z(x)) - x| of the row that is worst for its condition, by the largest coordinate, over max(1, |x|) */
    double round_trip_typical, round_trip_condition; /* the median row; |J| |J^-1| / dim of the worst one (Frobenius norms, estimated): 1 for a rotation */
    size_t round_trip_row;                           /* of x */
    nf_finding log_det_pair;                         /* largest |log_det forward + log_det inverse| at the two ends of a round trip */
    nf_finding log_det; /* largest difference to log|det| of the inverse's Jacobian by differences, in double and with tight solvers; dim <= 64 */
    size_t log_det_row; /* of x */
    nf_finding accuracy; /* largest difference of log_prob to the same flow in double, with exact traces and ODE tolerances of 1e-10 (or four times the steps);
                            skipped for flows in double without CNF layers */
    nf_finding gradient;                 /* relative error of nf_grad_nll's gradient against differences of its loss */
    nf_finding forward_vjp, inverse_vjp; /* relative error in the dot-product test: cotangents of input, context and parameters against differences. They and
                                            the gradient are skipped when differences over steps of all sizes contradict each other as well */

    nf_finding normalization;     /* |integral of the density - 1|: by a grid for dim <= 3, by importance sampling from a mixture beyond it */
    double normalization_error;   /* of the integral: the difference to half the resolution, with few samples also to a wider grid, or its standard error;
                                     .1 and more skips the check. Before it fails, further resolutions; infinite where the density is thin beside
                                     a cell, or where samples (fewer than 10) or those with a weight (fewer than 100) are too few */
    nf_finding sampler;           /* p-value: whether the inverse takes samples to the base (Kolmogorov & Smirnov, smallest over coordinates, Bonferroni) */
    nf_finding effective_sample_size, largest_weight; /* of samples weighed by the target (Kong 1992) */
    nf_finding two_sample;        /* p-value: data and samples, the largest Kolmogorov-Smirnov distance over axes and random directions, against permutations */
    nf_finding calibration;       /* p-value: ranks of data among samples, coordinate by coordinate, are uniform (Talts et al. 2018) */
    size_t calibration_column;    /* the worst */
} nf_diagnose_report;

/*
 * Look whether a flow is what it claims to be, and with data, whether it is what they are. x: rows x dim, NULL: samples of the flow stand in, and the tests against data are
 * skipped. context: rows x context_dim; a flow that takes one needs rows of it. Rows that are not finite are left out; when more than config allows are given, one is drawn of each of so many
 * even pieces. The report says which checks fail; the status is about the call: NF_OK whatever they find, NF_ERR_ARGUMENT, NF_ERR_MEMORY, or what the
 * target returned. `config` NULL: the defaults. Same seed, same report.
 */
NF_API nf_status nf_diagnose(const nf_flow *flow, size_t rows, const double *x, const double *context, const nf_diagnose_config *config,
                             nf_diagnose_report *report);

/*
 * The report as lines of text with the numbers of the "C" locale, one a check, into `size` bytes with a final 0 (NULL: nowhere). Returns the length of the whole text; what does not fit is cut. 0 for
 * a NULL report.
 */
NF_API size_t nf_diagnose_text(const nf_diagnose_report *report, char *text, size_t size);

/* ---- Nets ----------------------------------------------------------------------------------------------------------------- */

/*
 * A multilayer perceptron of the kind that conditions the layers, for what stands beside a flow: an encoder that gives the context, a
 * decoder. Linear layers with the activation between them, not after the last. Workspaces, gradients and optimizers are made from it by the functions below and freed
 * as those of flows; nf_gradient_zero, _get and _set serve it too.
 */
typedef struct nf_mlp nf_mlp;

/* Settings of nf_mlp_create; zeros are the defaults where it says so. */
typedef struct nf_mlp_config {
    size_t struct_size;
    size_t inputs, outputs; /* both >= 1 */
    uint64_t seed;
    nf_precision precision;
    nf_activation activation;           /* default GELU */
    size_t hidden_layers, hidden_width; /* defaults 2 and 64; NF_NONE hidden layers: a linear map */
    double output_scale;                /* the last layer's weights start with this standard deviation times 1/sqrt(its inputs); default 1;
                                           negative: 0 */
    const nf_allocator *allocator;
} nf_mlp_config;

/* A net with the initial weights of its seed; freed by the caller. NF_ERR_ARGUMENT, NF_ERR_MEMORY. */
NF_API nf_status nf_mlp_create(const nf_mlp_config *config, nf_mlp **mlp);
NF_API void nf_mlp_free(nf_mlp *mlp);                       /* NULL is allowed */
NF_API size_t nf_mlp_parameter_count(const nf_mlp *mlp);    /* layer by layer: weight (out x in, row-major), then bias; 0 for NULL */
/* As nf_get_parameters, nf_set_parameters; the functions after them as those of flows, of one thread. */
NF_API nf_status nf_mlp_get_parameters(const nf_mlp *mlp, double *out);
NF_API nf_status nf_mlp_set_parameters(nf_mlp *mlp, const double *in);
NF_API nf_status nf_mlp_workspace_create(const nf_mlp *mlp, nf_workspace **workspace);
NF_API nf_status nf_mlp_gradient_create(const nf_mlp *mlp, nf_gradient **gradient);
NF_API nf_status nf_mlp_optimizer_create(const nf_mlp *mlp, const nf_optimizer_config *config, nf_optimizer **optimizer);

/* y (rows x outputs) of x (rows x inputs). Bad rows as for flows. rows 0 is NF_OK. */
NF_API nf_status nf_mlp_forward(const nf_mlp *mlp, nf_workspace *ws, size_t rows, const double *x, double *y);

/*
 * From the cotangent of y to that of x (overwritten; NULL: not wanted) and of the parameters (added to `gradient`, summed over rows; NULL: not wanted). y may
 * be NULL. rows 0 is NF_ERR_ARGUMENT.
 */
NF_API nf_status nf_mlp_vjp(const nf_mlp *mlp, nf_workspace *ws, size_t rows, const double *x, const double *grad_y, double *y, double *grad_x,
                            nf_gradient *gradient);

/* One step of an optimizer that was made from this net. NF_ERR_DIVERGED as for flows. */
NF_API nf_status nf_mlp_step(nf_optimizer *optimizer, nf_mlp *mlp, const nf_gradient *gradient);

/* ---- Files ---------------------------------------------------------------------------------------------------------------- */

/*
 * Model files are safetensors: one tensor for each of nf_tensor_info (F64 or F32 by precision), and the structure as JSON in the metadata.
 * Loading any bytes is safe: what is not a model file is NF_ERR_FORMAT, with a line that names the tensor or key.
 *
 * Saving is atomic: a temporary file in the same folder, fsync, rename, fsync of the folder. After NF_ERR_IO the old file is as it was, but for a failure
 * after the rename, which says that the new file is in place and perhaps not durable. The mode is the old file's, or 0666 less the umask. A symbolic link
 * at `path` is replaced, not followed; a device or pipe is NF_ERR_IO. The bytes are a function of the flow alone.
 */
NF_API nf_status nf_flow_save(const nf_flow *flow, const char *path);
NF_API nf_status nf_flow_load(const char *path, nf_flow **flow);
NF_API nf_status nf_flow_load_with(const char *path, nf_flow **flow, const nf_allocator *allocator);
NF_API nf_status nf_flow_save_memory(const nf_flow *flow, void **bytes, size_t *size); /* malloc's, whatever the flow's allocator; nf_free releases it */
NF_API nf_status nf_flow_load_memory(const void *bytes, size_t size, nf_flow **flow);
NF_API nf_status nf_flow_load_memory_with(const void *bytes, size_t size, nf_flow **flow, const nf_allocator *allocator);

#ifdef __cplusplus
}
#endif

#endif
