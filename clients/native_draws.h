/* Permutations as numpy draws them: `Generator(Philox(key)).permutation(n)`, bit for bit; native.c includes this file. */

/* Philox4x64-10, a generator by counting (Salmon et al. 2011, doi:10.1145/2063384.2063405), from the counter 0 on. */
struct philox {
    uint64_t counter, key[2], block[4];
    int used;      /* of the block */
    uint64_t half; /* what is left of a number of which the lower half has been taken, above a bit that says so */
};

static void philox_block(struct philox *p) {
    uint64_t c[4] = {++p->counter, 0, 0, 0}, k0 = p->key[0], k1 = p->key[1];
    for (int round = 0; round < 10; round++, k0 += 0x9E3779B97F4A7C15u, k1 += 0xBB67AE8584CAA73Bu) {
        unsigned __int128 a = (unsigned __int128)0xD2E7470EE14C6C93u * c[0], b = (unsigned __int128)0xCA5A826395121157u * c[2];
        uint64_t next[4] = {(uint64_t)(b >> 64) ^ c[1] ^ k0, (uint64_t)b, (uint64_t)(a >> 64) ^ c[3] ^ k1, (uint64_t)a};
        memcpy(c, next, sizeof(c));
    }
    memcpy(p->block, c, sizeof(c));
    p->used = 0;
}

static uint32_t philox_next(struct philox *p) {
    if (p->half) {
        uint32_t upper = p->half;
        p->half = 0;
        return upper;
    }
    if (p->used == 4) philox_block(p);
    uint64_t number = p->block[p->used++];
    p->half = (uint64_t)1 << 32 | number >> 32;
    return number;
}

/* Gives a number up to the largest, all alike likely: bits of it are drawn until they are one. */
static uint32_t philox_up_to(struct philox *p, uint32_t largest) {
    uint32_t mask = UINT32_MAX >> __builtin_clz(largest), number;
    do number = philox_next(p) & mask;
    while (number > largest);
    return number;
}

/* `_Passes` of batches.py: what clients do that have so many examples, fewer than 2^32. */
struct passes { int64_t examples, epochs, width, clients; };

/* Writes permutations one behind another, each in room of the width of a pass; there is a key for each client. */
void native_permute(const uint64_t *keys, int64_t count, const struct passes *passes, int64_t *out) {
    for (const struct passes *one = passes; one < passes + count; one++)
        for (int64_t k = 0; k < one->clients; k++, keys += 2) {
            struct philox p = {.key = {keys[0], keys[1]}, .used = 4};
            for (int64_t epoch = 0; epoch < one->epochs; epoch++, out += one->width) {
                for (int64_t i = 0; i < one->examples; i++) out[i] = i;
                for (int64_t i = one->examples - 1; i > 0; i--) {
                    int64_t j = philox_up_to(&p, i), kept = out[j];
                    out[j] = out[i];
                    out[i] = kept;
                }
            }
        }
}
