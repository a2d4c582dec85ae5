/* Sizes of a host, vectors of 16 signals, and what is computed with them. Sizes are those of host.py and blueprints/. */
#ifndef ESPER_LANES_H
#define ESPER_LANES_H

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { LANES = 16, CH = 8, POS = 20, PATCH = 2, FLAT = CH * POS, CLASSES = 10, SLOTS = 3, HIDDEN = 4, WIDTH = 3 };
enum { PATCH_BIAS = CH * PATCH, BLOCKS = PATCH_BIAS + CH, BLOCK = CH * CH + CH, OUT = BLOCKS + SLOTS * BLOCK };
enum { OUT_BIAS = OUT + CLASSES * FLAT, HOST = OUT_BIAS + CLASSES, MODULE = 2 * HIDDEN * FLAT + HIDDEN };
enum { NORM, GATED, CONV, LINEAR, BOTTLENECK };
enum { DETACHED = 1, FROZEN = 2 };

typedef float vf __attribute__((vector_size(64)));
typedef int32_t vi __attribute__((vector_size(64)));
typedef vf map[CH][POS];

#define UNROLL _Pragma("GCC unroll 8")
#define EACH(i, n) for (int i = 0; i < (n); i++)

static inline vf splat(float f) { return (vf){f, f, f, f, f, f, f, f, f, f, f, f, f, f, f, f}; }
static inline vf positive(vf x, vf where) { return (vf)((vi)x & (vi)(where > splat(0.0f))); }
static inline vf larger(vf a, vf b) {
    vi first = (vi)(a > b);
    return (vf)(((vi)a & first) | ((vi)b & ~first));
}

static inline float total(vf x) {
    float s[LANES], r = 0.0f;
    memcpy(s, &x, sizeof s);
    for (int width = LANES / 2; width > 0; width /= 2) EACH(i, width) s[i] += s[i + width];
    r = s[0];
    return r;
}

/* e to the power of x: Cephes' polynomial, relative error 2e-7. */
static inline vf exponential(vf x) {
    x = larger(x, splat(-87.0f));
    x = -larger(-x, splat(-87.0f));
    vf magic = splat(12582912.0f); /* 1.5 * 2^23: adding it rounds to an integer */
    vf n = x * splat(1.44269504f) + magic;
    n = n - magic;
    x = x - n * splat(0.693359375f) + n * splat(2.12194440e-4f);
    vf p = splat(1.9875691500e-4f);
    p = p * x + splat(1.3981999507e-3f);
    p = p * x + splat(8.3334519073e-3f);
    p = p * x + splat(4.1665795894e-2f);
    p = p * x + splat(1.6666665459e-1f);
    p = p * x + splat(5.0000001201e-1f);
    p = p * x * x + x + splat(1.0f);
    vi exponent = (__builtin_convertvector(n, vi) + 127) << 23;
    return p * (vf)exponent;
}

static inline vf inverse_root(vf x) {
    float s[LANES];
    memcpy(s, &x, sizeof s);
    EACH(i, LANES) s[i] = 1.0f / sqrtf(s[i]);
    memcpy(&x, s, sizeof s);
    return x;
}

#endif
