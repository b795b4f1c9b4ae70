/* Clients, step by step, for one kind of vector: native.c includes this file behind native_kernels.h. */

/* One layer while a client trains. */
struct NAME(layer) {
    long in, units;             /* numbers that come in and go out */
    bool relu;
    struct rows weight, bias;   /* [units, in] with padded rows, and one row, whose w is NULL where there is no bias */
    float *gone, *gone_bias;    /* how far clients went, weighed */
    const float **x, **weights; /* where the rows of the minibatch, and those of the weight, begin */
    const float **soon;         /* of the first layer: where those of the next minibatch begin; NULL: there is none */
    float *h;                   /* what goes out, [batch, width of the next layer] */
    struct table dz;            /* the gradient by it */
};

/* Gives how many floats the layers need, and how many pointers. */
TARGET static long NAME(need)(const struct job *job, long *pointers) {
    long floats = 0;
    for (long i = 0; i < job->depth; i++) {
        long units = job->widths[i + 1], out = NAME(padded)(units);
        floats += 5 * (units * NAME(padded)(job->widths[i]) + out) + 2 * job->batch * out + units * NAME(padded)(job->batch);
        *pointers += job->batch + units;
    }
    return floats;
}

/* Gives room for rows, with those of the model of the round as their start. */
TARGET static struct rows NAME(lay_rows)(const float *given, long in, long units, bool shifts, float **room, float **gone) {
    long width = NAME(padded)(in), n = units * width;
    float *w = take(room, n), *v = take(room, n), *start = take(room, n), *shift = shifts ? take(room, n) : NULL;
    copy(start, width, given, in, units, in);
    *gone = take(room, n);
    return (struct rows){w, v, start, shift, width};
}

/* Lays the layers out in room that is all zeros. */
TARGET static void NAME(lay_out)(const struct job *job, struct NAME(layer) *layers, float **room, const float **pointers) {
    for (long i = 0; i < job->depth; i++) {
        struct NAME(layer) *l = layers + i;
        *l = (struct NAME(layer)){.in = job->widths[i], .units = job->widths[i + 1], .relu = job->relu[i]};
        const float *weight = job->params[2 * i], *bias = job->params[2 * i + 1];
        l->weight = NAME(lay_rows)(weight, l->in, l->units, job->shifts, room, &l->gone);
        if (bias) l->bias = NAME(lay_rows)(bias, l->units, 1, job->shifts, room, &l->gone_bias);
        if (i + 1 == job->depth) { /* units first, so that a vector has the same output of many examples */
            long by_unit = NAME(padded)(job->batch);
            l->dz = (struct table){take(room, l->units * by_unit), by_unit, 1};
        } else {
            long out = NAME(padded)(l->units);
            l->h = take(room, job->batch * out);
            l->dz = (struct table){take(room, job->batch * out), 1, out};
        }
        l->x = pointers, l->weights = pointers + job->batch, pointers = l->weights + l->units;
        for (long u = 0; u < l->units; u++) l->weights[u] = l->weight.w + u * l->weight.width;
        for (long s = 0; i && s < job->batch; s++) l->x[s] = l[-1].h + s * l->weight.width;
    }
}

/* What a layer gives for a minibatch, after its bias and its ReLU: the next layer's inputs. */
TARGET static void NAME(forward)(struct NAME(layer) *l, long count) {
    long out = l[1].weight.width;
    NAME(dots)(l->x, l->soon, count, l->weight.w, l->weight.width, l->units, (struct table){l->h, 1, out});
    for (long s = 0; s < count; s++)
        for (long u = 0; u < l->units; u++) {
            float z = l->h[s * out + u] + (l->bias.w ? l->bias.w[u] : 0.0f);
            l->h[s * out + u] = l->relu && z < 0.0f ? 0.0f : z;
        }
}

/* One step on the examples that the first layer's rows point at; gives the sum of their losses. */
TARGET static double NAME(minibatch)(
    struct NAME(layer) *layers, long depth, const int64_t *labels, long count, struct ball ball
) {
    struct NAME(layer) *last = layers + depth - 1;
    for (struct NAME(layer) *l = layers; l < last; l++) NAME(forward)(l, count);
    NAME(dots)(last->x, last->soon, count, last->weight.w, last->weight.width, last->units, last->dz);
    double loss = NAME(cross_entropy)(last->dz, last->units, last->bias.w, labels, count, ball.gradient);
    for (struct NAME(layer) *l = last; l >= layers; l--) {
        if (l > layers) /* before the weight moves */
            NAME(back)(l->weights, l->units, l->dz, count, l[-1].h, l[-1].dz.at, l->weight.width, l[-1].relu);
        NAME(step)(l->weight, l->units, l->dz, l->x, count, ball);
        if (l->bias.w) NAME(step_bias)(l->bias, l->units, l->dz, count, ball);
    }
    return loss;
}

/* Puts rows where client k begins, whatever the client before has left, in what pads them too. */
TARGET static void NAME(begin)(const struct job *job, long tensor, struct rows rows, long count, long in, long k) {
    memcpy(rows.w, rows.start, sizeof(float) * count * rows.width);
    memset(rows.v, 0, sizeof(float) * count * rows.width);
    if (job->velocities) copy(rows.v, rows.width, job->velocities[tensor] + k * count * in, in, count, in);
    if (job->shifts) copy((float *)rows.shift, rows.width, job->shifts[tensor] + k * count * in, in, count, in);
}

/* Keeps what is asked for of where client k has come. */
TARGET static void NAME(end)(const struct job *job, long tensor, struct rows rows, float *gone, long count, long in, long k) {
    if (job->mean) {
        float share = job->shares[k];
        for (long i = 0; i < count * rows.width; i++) gone[i] += share * (rows.w[i] - rows.start[i]);
    }
    if (job->each) copy(job->each[tensor] + k * count * in, in, rows.w, rows.width, count, in);
    if (job->velocities) copy(job->velocities[tensor] + k * count * in, in, rows.v, rows.width, count, in);
}

/* Room for a minibatch. */
struct NAME(desk) {
    int64_t *labels;
    const float **soon; /* the examples of the next one */
    float *copies;      /* of its examples where their rows are not padded, else NULL */
};

TARGET static void NAME(client)(const struct job *job, struct NAME(layer) *layers, struct NAME(desk) desk, long k) {
    for (long i = 0; i < job->depth; i++) {
        NAME(begin)(job, 2 * i, layers[i].weight, layers[i].units, layers[i].in, k);
        if (layers[i].bias.w) NAME(begin)(job, 2 * i + 1, layers[i].bias, 1, layers[i].units, k);
    }
    long seen = 0, count;
    double loss = 0.0;
    for (long t = 0; (count = point(job, k, t, layers->x, desk.labels)); t++) {
        long width = layers->weight.width, next = point(job, k, t + 1, desk.soon, NULL);
        if (!next) next = point(job, k + 1, 0, desk.soon, NULL);
        for (long i = next; next && i < count; i++) desk.soon[i] = desk.soon[next - 1];
        layers->soon = next ? desk.soon : NULL;
        for (long i = 0; desk.copies && i < count; i++)
            layers->x[i] = memcpy(desk.copies + i * width, layers->x[i], sizeof(float) * layers->in);
        loss += NAME(minibatch)(layers, job->depth, desk.labels, count, job->ball);
        seen += count;
    }
    job->loss[k] = loss / seen;
    for (long i = 0; i < job->depth; i++) {
        NAME(end)(job, 2 * i, layers[i].weight, layers[i].gone, layers[i].units, layers[i].in, k);
        if (layers[i].bias.w) NAME(end)(job, 2 * i + 1, layers[i].bias, layers[i].gone_bias, 1, layers[i].units, k);
    }
}

/* Writes the mean of the clients' rows; gives the sum of all its numbers. */
TARGET static double NAME(write_mean)(float *mean, struct rows rows, const float *gone, long count, long in) {
    double total = 0.0;
    for (long o = 0; o < count; o++)
        for (long i = 0; i < in; i++)
            total += mean[o * in + i] = rows.start[o * rows.width + i] + gone[o * rows.width + i];
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
        for (long i = 0; job->mean && i < job->depth; i++) {
            struct NAME(layer) *l = layers + i;
            total += NAME(write_mean)(job->mean[2 * i], l->weight, l->gone, l->units, l->in);
            if (l->bias.w) total += NAME(write_mean)(job->mean[2 * i + 1], l->bias, l->gone_bias, 1, l->units);
        }
        if (job->mean && !isfinite(total)) outcome = NOT_FINITE;
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
