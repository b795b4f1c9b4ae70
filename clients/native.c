/* Clients of small dense networks, trained one after another in the caches of a core; called by native.py. The batches
   that they see are drawn by native_draws.h, called by batches.py.

   A client takes minibatch steps of a heavy ball on the mean cross entropy, from the model of the round on. All that is
   kept of where clients end is the weighted mean, or each of their models, whatever is asked for. */

#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define UNROLL _Pragma("GCC unroll 8")

typedef float four __attribute__((vector_size(16)));
#if defined(__clang__) || __GNUC__ >= 12
#define PICK(a, b, i, j, k, l) __builtin_shufflevector(a, b, i, j, k, l)
#else
typedef int32_t four_int __attribute__((vector_size(16)));
#define PICK(a, b, i, j, k, l) __builtin_shuffle(a, b, (four_int){i, j, k, l})
#endif

/* A step: d = gradient g + decay w + pull (w - start) + shift, v <- momentum v + d, and w <- w - lr v, or with Nesterov
   w <- w - lr (d + momentum v). */
struct ball {
    float lr, momentum, gradient, decay, pull;
    bool nesterov;
};

/* Rows of a weight, or a bias in one, and what moves them. */
struct rows {
    float *w, *v;
    const float *start, *shift; /* shift may be NULL */
    long width;
};

static inline struct rows below(struct rows at, long rows) {
    long n = rows * at.width;
    return (struct rows){at.w + n, at.v + n, at.start + n, at.shift ? at.shift + n : NULL, at.width};
}

/* Numbers of units and examples. */
struct table { float *at; long by_unit, by_row; };

/* `_Job` of native.py. Client k has its examples from row starts[k] of x and y on; rows[k, t] are those of its step t,
   counted from there, -1 where a batch is short. Of each layer there is a pointer to its weight and one to its bias, which
   is NULL where it has none. */
struct job {
    const float *x;
    const int64_t *y, *starts, *rows;
    int64_t clients, steps, batch, depth;
    const int64_t *widths; /* depth + 1 */
    const uint8_t *relu;
    const float *const *params; /* of the model of the round */
    const float *const *shifts; /* one a client; NULL: none */
    float *const *velocities;   /* one a client, written to; NULL: they begin at 0 and are forgotten */
    float *const *each;         /* where the models of all clients are to be; NULL: nowhere */
    float *const *mean;         /* where their weighted mean is to be; NULL: nowhere */
    const double *shares;       /* of clients in it */
    double *loss;               /* the mean of each client over all that it saw */
    struct ball ball;
};

#include "native_draws.h"

enum outcome { DONE, NO_MEMORY, NO_CLASS, NOT_FINITE };

/* Gives the next of so many floats. */
static float *take(float **room, long floats) { return (*room += floats) - floats; }

/* Copies rows that lie so far apart. */
static void copy(float *to, long to_row, const float *from, long from_row, long rows, long floats) {
    for (long i = 0; i < rows; i++) memcpy(to + i * to_row, from + i * from_row, sizeof(float) * floats);
}

/* Asks for floats that are read soon. */
static inline void fetch(const float *at, long floats) {
    for (long i = 0; i < floats; i += 16) __builtin_prefetch(at + i, 0, 2);
}

/* Points at the examples of step t of client k; gives how many there are. */
static long point(const struct job *job, long k, long t, const float **x, int64_t *labels) {
    if (k >= job->clients || t >= job->steps) return 0;
    const int64_t *chosen = job->rows + (k * job->steps + t) * job->batch;
    long rows = 0;
    for (; rows < job->batch && chosen[rows] >= 0; rows++) {
        x[rows] = job->x + (job->starts[k] + chosen[rows]) * job->widths[0];
        if (labels) labels[rows] = job->y[job->starts[k] + chosen[rows]];
    }
    return rows;
}

/* Says whether all labels that clients see are classes. */
static bool labels_fit(const struct job *job) {
    int64_t classes = job->widths[job->depth];
    for (long k = 0; k < job->clients; k++)
        for (long i = 0; i < job->steps * job->batch; i++) {
            int64_t row = job->rows[k * job->steps * job->batch + i];
            if (row >= 0 && (uint64_t)job->y[job->starts[k] + row] >= (uint64_t)classes) return false;
        }
    return true;
}

#if defined(__x86_64__)
#if defined(__clang__)
#define WIDE "avx512f,avx512dq,avx512vl,avx2,fma"
#else
#define WIDE "avx512f,avx512dq,avx512vl,avx2,fma,prefer-vector-width=512"
#endif
#define LANES 16
#define TILE_S 4
#define TILE_U 5
#define NAME(x) x##_avx512
#define TARGET __attribute__((target(WIDE)))
#include "native_kernels.h"
#include "native_clients.h"

#define LANES 8
#define TILE_S 2
#define TILE_U 5
#define NAME(x) x##_avx2
#define TARGET __attribute__((target("avx2,fma")))
#include "native_kernels.h"
#include "native_clients.h"
#endif

#define LANES 4
#define TILE_S 2
#define TILE_U 5
#define NAME(x) x##_any
#define TARGET
#include "native_kernels.h"
#include "native_clients.h"

/* Gives the floats of the widest vector that this processor computes with. */
int native_lanes(void) {
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return 4;
    bool wide = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    return wide ? 16 : 8;
#endif
    return 4;
}

/* Trains clients with vectors of so many floats, no more than native_lanes(). */
int native_train(const struct job *job, int lanes) {
    if (!labels_fit(job)) return NO_CLASS;
#if defined(__x86_64__)
    if (lanes == 16) return train_avx512(job);
    if (lanes == 8) return train_avx2(job);
#endif
    return lanes == 4 ? (int)train_any(job) : -1;
}

int native_version(void) { return 3; }
