/* Clients, step by step, for one kind of vector: native.c includes this file behind native_kernels.h. */

/* One layer while a client trains. */
struct NAME(layer) {
    long in, width, units;            /* numbers that come in, padded, and that go out */
    bool relu;
    float *w, *v, *start, *gone;      /* [units, width]: now, its velocity, at the model of the round, how far clients went */
    float *b, *vb, *start_b, *gone_b; /* the same of the bias, [units], or NULL */
    const float **x, **rows;          /* where the rows of the minibatch, and those of w, begin */
    const float **soon;               /* of the first layer: where those of the next minibatch begin; NULL: there is none */
    float *h;                         /* what goes out, [batch, width of the next layer] */
    struct table dz;                  /* the gradient by it */
};

/* Gives how many floats the layers need, and how many pointers. */
TARGET static long NAME(need)(const struct job *job, long *pointers) {
    long floats = 0;
    for (long i = 0; i < job->depth; i++) {
        long units = job->widths[i + 1], out = NAME(padded)(units);
        floats += 4 * units * NAME(padded)(job->widths[i]) + 4 * out + 2 * job->batch * out + units * NAME(padded)(job->batch);
        *pointers += job->batch + units;
    }
    return floats;
}

/* Lays the layers out in room that is all zeros, with the model of the round as their start. */
TARGET static void NAME(lay_out)(const struct job *job, struct NAME(layer) *layers, float **room, const float **pointers) {
    for (long i = 0; i < job->depth; i++) {
        struct NAME(layer) *l = layers + i;
        *l = (struct NAME(layer)){.in = job->widths[i], .units = job->widths[i + 1], .relu = job->relu[i]};
        long width = l->width = NAME(padded)(l->in), out = NAME(padded)(l->units), n = l->units * width;
        l->w = take(room, n), l->v = take(room, n), l->start = take(room, n), l->gone = take(room, n);
        if (job->params[2 * i + 1]) {
            l->b = take(room, out), l->vb = take(room, out), l->start_b = take(room, out), l->gone_b = take(room, out);
            if (!job->own) memcpy(l->start_b, job->params[2 * i + 1], sizeof(float) * l->units);
        }
        if (!job->own) copy(l->start, width, job->params[2 * i], l->in, l->units, l->in);
        bool last = i + 1 == job->depth;
        if (last) { /* units first, so that a vector has the same output of many examples */
            long by_unit = NAME(padded)(job->batch);
            l->dz = (struct table){take(room, l->units * by_unit), by_unit, 1};
        } else {
            l->h = take(room, job->batch * out);
            l->dz = (struct table){take(room, job->batch * out), 1, out};
        }
        l->x = pointers, l->rows = pointers + job->batch, pointers = l->rows + l->units;
        for (long u = 0; u < l->units; u++) l->rows[u] = l->w + u * width;
        for (long s = 0; i && s < job->batch; s++) l->x[s] = l[-1].h + s * width;
    }
}

/* What a layer gives for a minibatch, after its bias and its ReLU: the next layer's inputs. */
TARGET static void NAME(forward)(struct NAME(layer) *l, long rows) {
    long out = l[1].width;
    NAME(dots)(l->x, l->soon, rows, l->w, l->width, l->units, (struct table){l->h, 1, out});
    for (long s = 0; s < rows; s++)
        for (long u = 0; u < l->units; u++) {
            float z = l->h[s * out + u] + (l->b ? l->b[u] : 0.0f);
            l->h[s * out + u] = l->relu && z < 0.0f ? 0.0f : z;
        }
}

TARGET static void NAME(step_bias)(struct NAME(layer) *l, long rows, struct ball ball) {
    for (long u = 0; u < l->units; u++) {
        float gradient = 0.0f;
        for (long s = 0; s < rows; s++) gradient += l->dz.at[u * l->dz.by_unit + s * l->dz.by_row];
        l->vb[u] = ball.momentum * l->vb[u] + gradient;
        l->b[u] -= ball.lr * l->vb[u];
    }
}

/* One step on the examples that the first layer's rows point at; gives the sum of their losses. */
TARGET static double NAME(minibatch)(
    struct NAME(layer) *layers, long depth, const int64_t *labels, long rows, struct ball ball
) {
    struct NAME(layer) *last = layers + depth - 1;
    for (struct NAME(layer) *l = layers; l < last; l++) NAME(forward)(l, rows);
    NAME(dots)(last->x, last->soon, rows, last->w, last->width, last->units, last->dz);
    double loss = NAME(cross_entropy)(last->dz, last->units, last->b, labels, rows);
    for (struct NAME(layer) *l = last; l >= layers; l--) {
        if (l > layers) /* before the weight moves */
            NAME(back)(l->rows, l->units, l->dz, rows, l[-1].h, l[-1].dz.at, l->width, l[-1].relu);
        NAME(step)(l->w, l->v, l->width, l->units, l->dz, l->x, rows, ball);
        if (l->b) NAME(step_bias)(l, rows, ball);
    }
    return loss;
}

/* Puts a layer where client k begins; whatever the client before has left, in what pads the rows too. */
TARGET static void NAME(begin)(const struct job *job, struct NAME(layer) *l, long i, long k) {
    long units = l->units, width = l->width, in = l->in, at = k * units * in;
    memset(l->v, 0, sizeof(float) * units * width);
    if (l->b) memset(l->vb, 0, sizeof(float) * units);
    if (!job->own) {
        memcpy(l->w, l->start, sizeof(float) * units * width);
        if (l->b) memcpy(l->b, l->start_b, sizeof(float) * units);
        return;
    }
    memset(l->w, 0, sizeof(float) * units * width);
    copy(l->w, width, job->params[2 * i] + at, in, units, in);
    if (l->b) memcpy(l->b, job->params[2 * i + 1] + k * units, sizeof(float) * units);
    if (!job->velocities) return;
    copy(l->v, width, job->velocities[2 * i] + at, in, units, in);
    if (l->b) memcpy(l->vb, job->velocities[2 * i + 1] + k * units, sizeof(float) * units);
}

TARGET static void NAME(add)(float *gone, const float *w, const float *start, long n, float share) {
    for (long i = 0; i < n; i++) gone[i] += share * (w[i] - start[i]);
}

/* Keeps what is asked for of where client k has come. */
TARGET static void NAME(end)(const struct job *job, struct NAME(layer) *l, long i, long k) {
    long units = l->units, width = l->width, in = l->in, at = k * units * in;
    if (!job->own) {
        NAME(add)(l->gone, l->w, l->start, units * width, job->shares[k]);
        if (l->b) NAME(add)(l->gone_b, l->b, l->start_b, units, job->shares[k]);
        return;
    }
    copy(job->params[2 * i] + at, in, l->w, width, units, in);
    if (l->b) memcpy(job->params[2 * i + 1] + k * units, l->b, sizeof(float) * units);
    if (!job->velocities) return;
    copy(job->velocities[2 * i] + at, in, l->v, width, units, in);
    if (l->b) memcpy(job->velocities[2 * i + 1] + k * units, l->vb, sizeof(float) * units);
}

/* Room for a minibatch. */
struct NAME(desk) {
    int64_t *labels;
    const float **soon; /* the examples of the next one */
    float *copies;      /* of its examples where their rows are not padded, else NULL */
};

TARGET static void NAME(client)(const struct job *job, struct NAME(layer) *layers, struct NAME(desk) desk, long k) {
    for (long i = 0; i < job->depth; i++) NAME(begin)(job, layers + i, i, k);
    long seen = 0, rows;
    double loss = 0.0;
    for (long t = 0; (rows = point(job, k, t, layers->x, desk.labels)); t++) {
        long width = layers->width, next = point(job, k, t + 1, desk.soon, NULL);
        if (!next) next = point(job, k + 1, 0, desk.soon, NULL);
        for (long i = next; next && i < rows; i++) desk.soon[i] = desk.soon[next - 1];
        layers->soon = next ? desk.soon : NULL;
        for (long i = 0; desk.copies && i < rows; i++)
            layers->x[i] = memcpy(desk.copies + i * width, layers->x[i], sizeof(float) * layers->in);
        loss += NAME(minibatch)(layers, job->depth, desk.labels, rows, job->ball);
        seen += rows;
    }
    job->loss[k] = loss / seen;
    for (long i = 0; i < job->depth; i++) NAME(end)(job, layers + i, i, k);
}

/* Writes the mean of the clients' models; gives the sum of all its numbers. */
TARGET static double NAME(write_mean)(const struct job *job, const struct NAME(layer) *layers) {
    double total = 0.0;
    for (long i = 0; i < job->depth; i++) {
        const struct NAME(layer) *l = layers + i;
        for (long u = 0; u < l->units; u++)
            for (long d = 0; d < l->in; d++)
                total += job->mean[2 * i][u * l->in + d] = l->start[u * l->width + d] + l->gone[u * l->width + d];
        for (long u = 0; l->b && u < l->units; u++) total += job->mean[2 * i + 1][u] = l->start_b[u] + l->gone_b[u];
    }
    return total;
}

TARGET static enum outcome NAME(train)(const struct job *job) {
    long pointers = job->batch, layers_need = NAME(need)(job, &pointers), width = NAME(padded)(job->widths[0]);
    bool copied = width != job->widths[0];
    size_t bytes = sizeof(float) * (layers_need + (copied ? job->batch * width : 0));
    float *room = aligned_alloc(64, (bytes + 63) / 64 * 64), *rest = room;
    const float **rows = malloc(sizeof(float *) * pointers);
    struct NAME(layer) *layers = calloc(job->depth, sizeof(struct NAME(layer)));
    struct NAME(desk) desk = {.labels = malloc(sizeof(int64_t) * job->batch), .soon = rows};
    enum outcome outcome = room && rows && layers && desk.labels ? DONE : NO_MEMORY;
    if (outcome == DONE) {
        memset(room, 0, bytes);
        NAME(lay_out)(job, layers, &rest, rows + job->batch);
        desk.copies = copied ? rest : NULL;
        double total = 0.0;
        for (long k = 0; k < job->clients; k++) {
            NAME(client)(job, layers, desk, k);
            total += job->loss[k];
        }
        if (!job->own && !isfinite(total + NAME(write_mean)(job, layers))) outcome = NOT_FINITE;
    }
    free(room), free(rows), free(layers), free(desk.labels);
    return outcome;
}

#undef vec
#undef loose
#undef ivec
#undef INLINE
#undef AT
#undef ALONG_ROW
#undef LANES
#undef TILE_S
#undef TILE_U
#undef NAME
#undef TARGET
