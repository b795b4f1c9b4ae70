/* What a dense layer does, for one kind of vector: native.c includes this file once for each.

   It has set LANES (floats in a vector), TILE_S and TILE_U (how many examples, or vectors, and units have their sums in
   registers), NAME(x) and TARGET (the instructions that may be used). Rows of floats are padded with zeros to full
   vectors. Numbers whose name is written large are known when this is compiled. */

typedef float NAME(vec) __attribute__((vector_size(4 * LANES)));
typedef float NAME(loose) __attribute__((vector_size(4 * LANES), aligned(4)));
typedef int32_t NAME(ivec) __attribute__((vector_size(4 * LANES)));
#define vec NAME(vec)
#define loose NAME(loose)
#define ivec NAME(ivec)
#define INLINE static inline __attribute__((always_inline)) TARGET
#define AT(p) (*(vec *)(p))

INLINE long NAME(padded)(long n) { return (n + LANES - 1) / LANES * LANES; }

INLINE vec NAME(where)(ivec mask, vec a, vec b) { return (vec)((mask & (ivec)a) | (~mask & (ivec)b)); }

/* Gives four numbers whose sum is that of a vector. */
INLINE four NAME(fold)(vec v) {
    union { vec whole; four parts[LANES / 4]; } all = {v};
    UNROLL for (int i = 1; i < LANES / 4; i++) all.parts[0] += all.parts[i];
    return all.parts[0];
}

INLINE float NAME(sum)(four v) { return (v[0] + v[2]) + (v[1] + v[3]); }

/* Gives the sum of each of four vectors: half the work of one after another. */
INLINE four NAME(sums)(four a, four b, four c, four d) {
    four ab = PICK(a, b, 0, 4, 1, 5) + PICK(a, b, 2, 6, 3, 7);
    four cd = PICK(c, d, 0, 4, 1, 5) + PICK(c, d, 2, 6, 3, 7);
    return PICK(ab, cd, 0, 1, 4, 5) + PICK(ab, cd, 2, 3, 6, 7);
}

/* e^x for x <= 0, to 2 units in the last place: x = n ln 2 + r, and a polynomial in r. A NaN stays one. */
INLINE vec NAME(exp)(vec x) {
    const float round = 12582912.0f; /* 1.5 * 2^23: what has it added has no room for a fraction */
    vec lowest = (vec){0} - 87.0f;
    x = NAME(where)(x < lowest, lowest, x);
    vec n = (x * 1.44269504f + round) - round;
    vec r = (x - n * 0.693359375f) + n * 2.12194440e-4f; /* ln 2 in two parts */
    vec p = r * (1.0f / 5040.0f) + 1.0f / 720.0f;
    p = p * r + 1.0f / 120.0f;
    p = p * r + 1.0f / 24.0f;
    p = p * r + 1.0f / 6.0f;
    p = p * r + 0.5f;
    p = p * r * r + r + 1.0f;
    ivec power = __builtin_convertvector(n, ivec) + 127;
    return p * (vec)(power << 23);
}

/* z[u, s] = w_u . x_s */
INLINE void NAME(dots_tile)(const int S, const int U, const float *const *x, const float *w, long width, struct table z) {
    vec sums[TILE_S][TILE_U];
    for (int s = 0; s < S; s++)
        for (int u = 0; u < U; u++) sums[s][u] = (vec){0};
    for (long d = 0; d < width; d += LANES) {
        vec a[TILE_S];
        UNROLL for (int s = 0; s < S; s++) a[s] = *(const loose *)(x[s] + d);
        UNROLL for (int u = 0; u < U; u++) {
            vec b = *(const vec *)(w + u * width + d);
            UNROLL for (int s = 0; s < S; s++) sums[s][u] += a[s] * b;
        }
    }
    for (int u = 0; u < U; u++) {
        float *at = z.at + u * z.by_unit;
        if (S == 4) {
            four each[4];
            UNROLL for (int s = 0; s < S; s++) each[s] = NAME(fold)(sums[s][u]);
            four all = NAME(sums)(each[0], each[1], each[2], each[3]);
            for (int s = 0; s < S; s++) at[s * z.by_row] = all[s];
        } else
            for (int s = 0; s < S; s++) at[s * z.by_row] = NAME(sum)(NAME(fold)(sums[s][u]));
    }
}

INLINE void NAME(dots_rows)(const int S, const float *const *x, const float *w, long width, long units, struct table z) {
    for (; units >= TILE_U; units -= TILE_U, w += TILE_U * width, z.at += TILE_U * z.by_unit)
        NAME(dots_tile)(S, TILE_U, x, w, width, z);
    switch (units) {
        case 1: NAME(dots_tile)(S, 1, x, w, width, z); break;
        case 2: NAME(dots_tile)(S, 2, x, w, width, z); break;
        case 3: NAME(dots_tile)(S, 3, x, w, width, z); break;
        case 4: NAME(dots_tile)(S, 4, x, w, width, z); break;
    }
}

/* z = x W^T: what a layer gives for the rows of a minibatch, before its bias.

   Meanwhile the rows that come after these are fetched from memory, where they are known: they lie in no order that a
   processor would guess. */
TARGET static void NAME(dots)(
    const float *const *x, const float *const *soon, long rows, const float *w, long width, long units, struct table z
) {
    long s = 0;
    for (; s + TILE_S <= rows; s += TILE_S) {
        for (long i = s; soon && i < s + TILE_S; i++) fetch(soon[i], width);
        NAME(dots_rows)(TILE_S, x + s, w, width, units, (struct table){z.at + s * z.by_row, z.by_unit, z.by_row});
    }
    for (; s < rows; s++) {
        if (soon) fetch(soon[s], width);
        NAME(dots_rows)(1, x + s, w, width, units, (struct table){z.at + s * z.by_row, z.by_unit, z.by_row});
    }
}

/* mixed[o, c] += sum_i factors[o, i] rows_i[c], a sum for each of O outputs and C vectors. */
INLINE void NAME(mix)(
    const int O, const int C, vec mixed[TILE_U][TILE_S], const float *factors, long by_out, long by_row,
    const float *const *rows, long count, long d
) {
    for (long i = 0; i < count; i++) {
        vec a[TILE_S];
        UNROLL for (int c = 0; c < C; c++) a[c] = *(const loose *)(rows[i] + d + c * LANES);
        UNROLL for (int o = 0; o < O; o++) {
            vec f = (vec){0} + factors[o * by_out + i * by_row];
            UNROLL for (int c = 0; c < C; c++) mixed[o][c] += f * a[c];
        }
    }
}

/* Calls a tile (O, C, its other arguments) for C vectors of a row at a time, as many as there are registers for. */
#define ALONG_ROW(tile, O, width, ...)                                                          \
    do {                                                                                        \
        long d = 0;                                                                             \
        for (; d + TILE_S * LANES <= (width); d += TILE_S * LANES) tile(O, TILE_S, d, __VA_ARGS__); \
        for (; d < (width); d += LANES) tile(O, 1, d, __VA_ARGS__);                             \
    } while (0)

INLINE void NAME(step_tile)(
    const int O, const int C, long d, const bool PLAIN, struct rows at, struct table dz, const float *const *x, long count,
    struct ball ball
) {
    vec mixed[TILE_U][TILE_S];
    for (int o = 0; o < O; o++)
        for (int c = 0; c < C; c++) {
            long i = o * at.width + d + c * LANES;
            mixed[o][c] = ball.momentum * AT(at.v + i);
            if (PLAIN) continue;
            mixed[o][c] += ball.decay * AT(at.w + i) + ball.pull * (AT(at.w + i) - AT(at.start + i));
            if (at.shift) mixed[o][c] += AT(at.shift + i);
        }
    NAME(mix)(O, C, mixed, dz.at, dz.by_unit, dz.by_row, x, count, d);
    for (int o = 0; o < O; o++)
        for (int c = 0; c < C; c++) {
            long i = o * at.width + d + c * LANES;
            vec way = mixed[o][c];
            if (!PLAIN && ball.nesterov) way += ball.momentum * (way - AT(at.v + i));
            AT(at.v + i) = mixed[o][c];
            AT(at.w + i) -= ball.lr * way;
        }
}

INLINE void NAME(step_units)(
    const bool PLAIN, struct rows at, long units, struct table dz, const float *const *x, long count, struct ball ball
) {
    for (; units >= TILE_U; units -= TILE_U, at = below(at, TILE_U), dz.at += TILE_U * dz.by_unit)
        ALONG_ROW(NAME(step_tile), TILE_U, at.width, PLAIN, at, dz, x, count, ball);
    switch (units) {
        case 1: ALONG_ROW(NAME(step_tile), 1, at.width, PLAIN, at, dz, x, count, ball); break;
        case 2: ALONG_ROW(NAME(step_tile), 2, at.width, PLAIN, at, dz, x, count, ball); break;
        case 3: ALONG_ROW(NAME(step_tile), 3, at.width, PLAIN, at, dz, x, count, ball); break;
        case 4: ALONG_ROW(NAME(step_tile), 4, at.width, PLAIN, at, dz, x, count, ball); break;
    }
}

/* A step of a weight, whose gradient is dz^T x. */
TARGET static void NAME(step)(
    struct rows at, long units, struct table dz, const float *const *x, long count, struct ball ball
) {
    bool plain = ball.decay == 0.0f && ball.pull == 0.0f && !at.shift && !ball.nesterov;
    if (plain)
        NAME(step_units)(true, at, units, dz, x, count, ball);
    else
        NAME(step_units)(false, at, units, dz, x, count, ball);
}

/* A step of a bias, whose gradient is the sum of dz over the examples. */
TARGET static void NAME(step_bias)(struct rows at, long units, struct table dz, long count, struct ball ball) {
    for (long u = 0; u < units; u++) {
        float way = ball.decay * at.w[u] + ball.pull * (at.w[u] - at.start[u]) + (at.shift ? at.shift[u] : 0.0f);
        for (long s = 0; s < count; s++) way += dz.at[u * dz.by_unit + s * dz.by_row];
        at.v[u] = ball.momentum * at.v[u] + way;
        at.w[u] -= ball.lr * (ball.nesterov ? way + ball.momentum * at.v[u] : at.v[u]);
    }
}

INLINE void NAME(back_tile)(
    const int O, const int C, long d, const float *const *w, long units, struct table dz, const float *h, float *below,
    long width, bool relu
) {
    vec mixed[TILE_U][TILE_S];
    for (int o = 0; o < O; o++)
        for (int c = 0; c < C; c++) mixed[o][c] = (vec){0};
    NAME(mix)(O, C, mixed, dz.at, dz.by_row, dz.by_unit, w, units, d);
    for (int o = 0; o < O; o++)
        for (int c = 0; c < C; c++) {
            long at = o * width + d + c * LANES;
            AT(below + at) = relu ? NAME(where)(AT(h + at) > (vec){0}, mixed[o][c], (vec){0}) : mixed[o][c];
        }
}

/* below[s] = sum_u dz[u, s] w_u, where what the layer below gave is h, and 0 where its ReLU gave none. */
TARGET static void NAME(back)(
    const float *const *w, long units, struct table dz, long rows, const float *h, float *below, long width, bool relu
) {
    for (; rows >= TILE_U; rows -= TILE_U, dz.at += TILE_U * dz.by_row, h += TILE_U * width, below += TILE_U * width)
        ALONG_ROW(NAME(back_tile), TILE_U, width, w, units, dz, h, below, width, relu);
    for (; rows; rows--, dz.at += dz.by_row, h += width, below += width)
        ALONG_ROW(NAME(back_tile), 1, width, w, units, dz, h, below, width, relu);
}

/* The mean cross entropy of a minibatch: outputs z become the gradient by them times a factor; gives the sum over the
   examples. */
TARGET static double NAME(cross_entropy)(
    struct table z, long units, const float *bias, const int64_t *labels, long rows, float factor
) {
    float share = factor / rows;
    double total = 0.0;
    for (long s = 0; s < rows; s += LANES) {
        float at_label[LANES], *at = z.at + s;
        vec most = {0}, sum = {0};
        for (long u = 0; u < units; u++) {
            vec out = AT(at + u * z.by_unit) + (bias ? bias[u] : 0.0f);
            AT(at + u * z.by_unit) = out;
            most = u ? NAME(where)(out > most, out, most) : out;
        }
        long here = rows - s < LANES ? rows - s : LANES;
        for (long l = 0; l < here; l++) at_label[l] = at[labels[s + l] * z.by_unit + l];
        for (long u = 0; u < units; u++) {
            vec p = NAME(exp)(AT(at + u * z.by_unit) - most);
            AT(at + u * z.by_unit) = p;
            sum += p;
        }
        vec scale = share / sum;
        for (long u = 0; u < units; u++) AT(at + u * z.by_unit) *= scale;
        for (long l = 0; l < here; l++) {
            at[labels[s + l] * z.by_unit + l] -= share;
            total += logf(sum[l]) + (most[l] - at_label[l]);
        }
    }
    return total;
}
