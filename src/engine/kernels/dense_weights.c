/* The gradients of weights and biases: sums over samples. */
#include "engine/kernels/block.h"

/* The weights' gradient is summed in registers over so many samples before it is added to memory. */
#define SAMPLE_CHUNK ((size_t)128)
#define PANEL_CHUNK (SAMPLE_CHUNK / PANEL)
/* Layers so small that transposing X costs more than it saves: their gradient is summed lane by lane. By measurement. */
#define SMALL_IN (PANEL / 8 + 1)
#define SMALL_OUT ((size_t)2)

/* to[0..count) += the first lanes of s; or =, where nothing stands there yet. */
static void add_lanes(real *to, vec s, size_t count, bool fresh) {
    if (count == VEC_LANES) {
        vec_storeu(to, fresh ? s : vec_loadu(to) + s);
        return;
    }
    real lanes[VEC_LANES];
    vec_storeu(lanes, s);
    for (size_t i = 0; i < count; i++)
        to[i] = fresh ? lanes[i] : to[i] + lanes[i];
}

/* Lane by lane over the panels, then one fold: as a vector whose lanes are still to be summed. */
static vec row_sum(size_t panels, const real *a, size_t a_stride) {
    vec v[PANEL_VECS];
    VEC_UNROLL for (int i = 0; i < PANEL_VECS; i++) v[i] = vec_load(a + i * VEC_LANES);
    for (size_t p = 1; p < panels; p++) {
        a += a_stride;
        VEC_UNROLL for (int i = 0; i < PANEL_VECS; i++) v[i] = v[i] + vec_load(a + i * VEC_LANES);
    }
    return vec_fold_panel(v);
}

static vec row_dot(size_t panels, const real *a, size_t a_stride, const real *b, size_t b_stride) {
    vec v[PANEL_VECS];
    VEC_UNROLL for (int i = 0; i < PANEL_VECS; i++) v[i] = vec_load(a + i * VEC_LANES) * vec_load(b + i * VEC_LANES);
    for (size_t p = 1; p < panels; p++) {
        a += a_stride;
        b += b_stride;
        VEC_UNROLL for (int i = 0; i < PANEL_VECS; i++) {
            v[i] = vec_madd(vec_load(a + i * VEC_LANES), vec_load(b + i * VEC_LANES), v[i]);
        }
    }
    return vec_fold_panel(v);
}

static void bias_gradient(size_t out, size_t panels, const real *dY, size_t y_stride, real *dbias, bool fresh) {
    for (size_t j = 0; j < out; j += VEC_LANES) {
        const size_t count = smaller(out - j, VEC_LANES);
        vec s[VEC_LANES];
        VEC_UNROLL for (size_t i = 0; i < VEC_LANES; i++) s[i] =
            i < count ? row_sum(panels, dY + (j + i) * PANEL, y_stride) : vec_zero();
        add_lanes(dbias + j, vec_sum_rows(s), count, fresh);
    }
}

/* The gradient of a small W: its elements in the order of memory, as many at a time as a vector has lanes. */
static void small_gradient(size_t out, size_t in, size_t panels, const real *dY, size_t y_stride, const real *X,
                           size_t x_stride, real *dW, bool fresh) {
    const size_t size = out * in;
    size_t j = 0, k = 0;
    for (size_t e = 0; e < size; e += VEC_LANES) {
        const size_t count = smaller(size - e, VEC_LANES);
        vec s[VEC_LANES];
        VEC_UNROLL for (size_t i = 0; i < VEC_LANES; i++) {
            if (i >= count) {
                s[i] = vec_zero();
                continue;
            }
            s[i] = row_dot(panels, dY + j * PANEL, y_stride, X + k * PANEL, x_stride);
            if (++k == in) {
                k = 0;
                j++;
            }
        }
        add_lanes(dW + e, vec_sum_rows(s), count, fresh);
    }
}

/*
 * The same where one row of dY, or of X, meets all rows of the other in a single panel: it stays in registers. The product of a row that is not there is
 * one that is, and not added.
 */
static void row_gradient(size_t count, const real *row, const real *others, real *dW, bool fresh) {
    vec fixed[PANEL_VECS];
    VEC_UNROLL for (int v = 0; v < PANEL_VECS; v++) fixed[v] = vec_load(row + v * VEC_LANES);
    for (size_t e = 0, some; e < count; e += some, others += some * PANEL) {
        some = smaller(count - e, VEC_LANES);
        vec s[VEC_LANES];
        VEC_UNROLL for (size_t i = 0; i < VEC_LANES; i++) {
            const real *other = others + (i < some ? i : 0) * PANEL;
            vec v[PANEL_VECS];
            VEC_UNROLL for (int u = 0; u < PANEL_VECS; u++) v[u] = fixed[u] * vec_load(other + u * VEC_LANES);
            s[i] = vec_fold_panel(v);
        }
        add_lanes(dW + e, vec_sum_rows(s), some, fresh);
    }
}

/*
 * Columns [0, width) of one panel of X, width <= PANEL, as rows: to[lane][k]. Whole vectors of k: the last is padded with 0. A panel's
 * columns are a page or less, over before the processor foresees them; those of `next`, which come after (or NULL), are fetched meanwhile.
 */
static void transpose_panel(size_t width, const real *X, const real *next, real *to) {
    for (size_t k = 0; k < width; k += VEC_LANES) {
        for (size_t lane = 0; lane < PANEL; lane += VEC_LANES) {
            if (next)
                fetch_rows(TO_FIRST_CACHE, 1, 0, VEC_LANES * VEC_LANES, next + k * PANEL + lane * VEC_LANES);
            if (width - k >= VEC_LANES) {
                vec_transpose_block(X + k * PANEL + lane, PANEL, to + lane * PANEL + k, PANEL);
                continue;
            }
            vec r[VEC_LANES];
            VEC_UNROLL for (size_t i = 0; i < VEC_LANES; i++) r[i] = k + i < width ? vec_load(X + (k + i) * PANEL + lane) : vec_zero();
            vec_transpose(r);
            VEC_UNROLL for (size_t i = 0; i < VEC_LANES; i++) vec_store(to + (lane + i) * PANEL + k, r[i]);
        }
    }
}

/* What is fetched of a gradient before it is needed: nothing, what the next strip adds to, or what the same strip adds to with the next panel's width of inputs. */
enum fetch_ahead { NOTHING_AHEAD, STRIP_AHEAD, PANEL_AHEAD };

/*
 * dW[0..rows)[0..width) += dY' X (or =) for one panel's width of inputs and one chunk of samples; W has `in` columns. When dbias is
 * not NULL, also the bias: just before the product reads the same rows of dY, which then costs next to nothing.
 */
static void gradient_columns(size_t rows, size_t in, size_t width, size_t panels, const real *dY, size_t y_stride, const real *transposed, real *dW, real *dbias,
                             bool fresh, enum fetch_ahead ahead) {
    const lane_map map = {(width + VEC_LANES - 1) / VEC_LANES, 0, 0};
    const bool whole = width % VEC_LANES == 0;
    const size_t fetched = width + NF_ALIGN / sizeof(real); /* a line more, because dW is not aligned */
    real aside[MAX_ROWS * PANEL] __attribute__((aligned(NF_ALIGN))); /* for a dW that ends within a vector */
    const product p = {.start = whole && !fresh ? START_ADD : START_ZERO,
                       .chains = 1,
                       .depth = PANEL,
                       .segments = panels,
                       .a_row = PANEL,
                       .a_depth = 1,
                       .a_segment = y_stride,
                       .b_row = PANEL,
                       .c_row = whole ? in : PANEL};
    size_t summed = 0;
    for (size_t j = 0, strip; j < rows; j += strip) {
        strip = strip_rows(rows - j);
        for (size_t count; dbias != NULL && summed < j + strip; summed += count) {
            count = smaller(rows - summed, VEC_LANES);
            bias_gradient(count, panels, dY + summed * PANEL, y_stride, dbias + summed, fresh);
        }
        if (ahead == STRIP_AHEAD)
            fetch_rows(TO_L2, smaller(rows - j - strip, MAX_ROWS), in, fetched, dW + (j + strip) * in);
        else if (ahead == PANEL_AHEAD)
            fetch_rows(TO_L2, strip, in, fetched, dW + j * in + width);
        if (ahead != NOTHING_AHEAD && whole && strip == MAX_ROWS && map.vectors == BLOCK_VECS) {
            R(run_late_block)(&p, dY + j * PANEL, transposed, dW + j * in);
            continue;
        }
        run_strip(&p, strip, &map, dY + j * PANEL, transposed, whole ? dW + j * in : aside);
        if (whole)
            continue;
        for (size_t i = 0; i < strip; i++) {
            for (size_t k = 0; k < width; k += VEC_LANES)
                add_lanes(dW + (j + i) * in + k, vec_load(aside + i * PANEL + k), smaller(width - k, VEC_LANES), fresh);
        }
    }
}

/*
 * One panel's width of inputs at a time sweeps all of dW in short pieces. Where L2 does not hold that, the inputs are transposed some panels together, and all of them
 * meet some rows, whole strips and whole vectors, of dY: dW is then walked in pieces of whole pages, which stay a while. By measurement.
 */
#define WIDE_BYTES ((size_t)1 << 20)
#define WIDE_PANELS ((size_t)32)
#define WIDE_ROWS ((size_t)48)
_Static_assert(WIDE_ROWS % MAX_ROWS == 0 && WIDE_ROWS % VEC_LANES == 0, "bands are whole strips and vectors");

static bool is_wide(size_t out, size_t in) { return out * in * sizeof(real) >= WIDE_BYTES; }

size_t R(dense_weights_scratch)(size_t out, size_t in, size_t panels) {
    if (in <= SMALL_IN || out <= SMALL_OUT)
        return 0;
    const size_t together = is_wide(out, in) ? smaller((in + PANEL - 1) / PANEL, WIDE_PANELS) : 1;
    return smaller(panels, PANEL_CHUNK) * PANEL * PANEL * together;
}

void R(dense_backward_weights)(size_t out, size_t in, size_t panels, const real *dY, size_t y_stride, const real *X,
                               size_t x_stride, real *scratch, real *dW, real *dbias, bool fresh) {
    if (panels == 0)
        return;
    if (in <= SMALL_IN || out <= SMALL_OUT) {
        if (dbias != NULL)
            bias_gradient(out, panels, dY, y_stride, dbias, fresh);
        if (panels == 1 && in == 1)
            row_gradient(out, X, dY, dW, fresh);
        else if (panels > 1 || out > SMALL_OUT)
            small_gradient(out, in, panels, dY, y_stride, X, x_stride, dW, fresh);
        else
            for (size_t j = 0; j < out; j++)
                row_gradient(in, dY + j * PANEL, X, dW + j * in, fresh);
        return;
    }
    const bool wide = is_wide(out, in);
    const size_t together = wide ? WIDE_PANELS * PANEL : PANEL, band = wide ? WIDE_ROWS : out;
    const enum fetch_ahead ahead = wide                                                              ? PANEL_AHEAD
                                   : fetches(out, in, fresh ? FETCH_FRESH_BYTES : FETCH_GRADIENT_BYTES) ? STRIP_AHEAD
                                                                                                     : NOTHING_AHEAD;
    for (size_t first = 0, count; first < panels; first += count, dY += count * y_stride, X += count * x_stride, fresh = false) {
        count = smaller(panels - first, PANEL_CHUNK);
        const size_t block = count * PANEL; /* of transposed numbers for each input */
        for (size_t group = 0, end; group < in; group = end) {
            end = smaller(in, group + together);
            for (size_t k = group; k < end; k += PANEL) {
                const size_t width = smaller(in - k, PANEL);
                const real *x = X + k * PANEL, *const after = k + width < in ? x + width * PANEL : NULL;
                for (size_t i = 0; i < count; i++, x += x_stride)
                    transpose_panel(width, x, i + 1 < count ? x + x_stride : after, scratch + (k - group) * block + i * PANEL * PANEL);
            }
            for (size_t j = 0; j < out; j += band)
                for (size_t k = group; k < end; k += PANEL)
                    gradient_columns(smaller(out - j, band), in, smaller(in - k, PANEL), count, dY + j * PANEL, y_stride, scratch + (k - group) * block,
                                     dW + j * in + k, k == 0 && dbias != NULL ? dbias + j : NULL, fresh, ahead);
        }
    }
}
